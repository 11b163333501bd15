//! Which blocks changed from one kept state to another (DIFF-01 to 05).

use volmcast::bitmap::BlockSet;
use volmcast::units::{BlockCount, BlockIndex};

use super::names::Names;
use super::replica::StateView;
use crate::api::Changes;
use crate::nbd::{Export, OpenError, OpenErrorKind};

/// Most runs of one answer; whoever wants the rest asks for it.
pub const MAX_RUNS: usize = 1 << 16;

impl Names {
    /// The blocks, from block `from` on, whose content in kept state `state` may be other than in
    /// kept state `since`; without `since` all. Their content is that of `state`. Both are named as
    /// [`open_state`](Self::open_state) takes them.
    ///
    /// # Errors
    /// [`OpenError`]: a state is not kept here, or the order is wrong.
    pub fn changes(
        &self,
        label: &str,
        since: Option<&str>,
        state: &str,
        from: u64,
    ) -> Result<Changes, OpenError> {
        let younger = self.open_state(label, Some(state))?;
        let older = since.map(|s| self.open_state(label, Some(s))).transpose()?;
        let block_size = younger.volume().block_size().bytes();
        let size = younger.info().size;
        let changed = match &older {
            None => {
                let blocks = BlockCount(size.div_ceil(block_size.max(1)));
                let mut all = BlockSet::new();
                all.insert_range(BlockIndex(0), blocks);
                all
            }
            Some(older) => difference(label, older, &younger)?,
        };
        let (runs, next) = some_runs(&changed, from);
        let id = |v: &StateView| v.id().map(|id| id.to_string()).unwrap_or_default();
        let since = older.as_ref().map(id);
        Ok(Changes { since, state: id(&younger), block_size, size, runs, next })
    }
}

fn difference(label: &str, older: &StateView, younger: &StateView) -> Result<BlockSet, OpenError> {
    let refuse = |kind, text: String| OpenError { kind, text };
    let states = [older, younger].map(|v| v.pin().filter(|p| !p.is_branch()));
    let [Some(a), Some(b)] = states else {
        let text = "changes are told from one kept state of a volume's line to another".to_owned();
        return Err(refuse(OpenErrorKind::Policy, text));
    };
    if a.state() == b.state() {
        return Ok(BlockSet::new());
    }
    if a.state() > b.state() {
        let text = format!(
            "state {} of volume {label} is not older than state {}: say the older one first",
            a.state(),
            b.state()
        );
        return Err(refuse(OpenErrorKind::Policy, text));
    }
    let (Some(first), Some(last)) = (a.entry(), b.entry()) else {
        let text = format!(
            "what is shown of volume {label} is not all in its content yet: ask again, or keep the \
             state (`rcpctl delta keep {label} {}`)",
            b.state()
        );
        return Err(refuse(OpenErrorKind::NotReady, text));
    };
    let not_ready = |text: String| refuse(OpenErrorKind::NotReady, text);
    let store = younger.volume().board().store();
    let changed = store
        .difference(first, last)
        .map_err(|e| not_ready(format!("changes of volume {label} cannot be told: {e}")))?;
    if a.is_lost() || b.is_lost() {
        return Err(not_ready(format!("the states of volume {label} were given up meanwhile")));
    }
    Ok(changed)
}

/// Runs from a block on, and where the next answer begins.
fn some_runs(changed: &BlockSet, from: u64) -> (Vec<(u64, u64)>, Option<u64>) {
    let mut runs = changed
        .runs()
        .map(|(first, n)| (first.0, first.0 + n.0))
        .filter(|(_, end)| *end > from)
        .map(|(first, end)| (first.max(from), end - first.max(from)));
    let some: Vec<_> = runs.by_ref().take(MAX_RUNS).collect();
    (some, runs.next().map(|(first, _)| first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_asked_for() {
        let blocks = 3 * MAX_RUNS as u64;
        let changed: BlockSet = (0..blocks).step_by(2).map(BlockIndex).collect();
        let (mut from, mut found) = (Some(0), Vec::new());
        let mut answers = 0;
        while let Some(at) = from {
            let (runs, next) = some_runs(&changed, at);
            found.extend(runs);
            (from, answers) = (next, answers + 1);
        }
        assert_eq!(answers, 2);
        assert_eq!(found, (0..blocks).step_by(2).map(|b| (b, 1)).collect::<Vec<_>>());
        let one: BlockSet = (10..20).map(BlockIndex).collect();
        assert_eq!(some_runs(&one, 15), (vec![(15, 5)], None));
        assert_eq!(some_runs(&one, 20), (vec![], None));
    }
}
