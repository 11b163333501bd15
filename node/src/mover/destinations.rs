//! What volumes are to be called here when their replicas are made (VMC-03): the destination names
//! of `rcpctl volmcast create`, stored with this node. They go before what the topology says, and
//! say nothing of a replica that is there: its label is its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rcp::proto::clock::Mono;
use rcp::proto::ids::{GroupName, Label};

use super::{Effect, Mover};

const FIRST_LINE: &str = "rcp-destinations 1";
/// Names that are kept, so that nobody fills the disk.
const MAX: usize = 4096;

/// Labels by group and the group's name of the volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations(BTreeMap<(GroupName, Label), Label>);

/// Why a stored file is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0}: the file is damaged or not this program's; restore it, or remove it: volumes that come \
     later then have the labels of the topology"
)]
pub struct NotDestinations(&'static str);

impl Destinations {
    /// From the stored text.
    ///
    /// # Errors
    /// [`NotDestinations`]: cut off, flipped bits, another version.
    pub fn read(text: &str) -> Result<Self, NotDestinations> {
        let bad = NotDestinations;
        let (body, crc) = text
            .strip_suffix('\n')
            .and_then(|t| t.rsplit_once('\n'))
            .and_then(|(b, last)| Some((format!("{b}\n"), last.strip_prefix("crc32c ")?)))
            .ok_or(bad("no checksum line"))?;
        if u32::from_str_radix(crc, 16) != Ok(crc32c::crc32c(body.as_bytes())) {
            return Err(bad("wrong checksum"));
        }
        let mut lines = body.lines();
        if lines.next() != Some(FIRST_LINE) {
            return Err(bad("unknown version"));
        }
        let one = |line: &str| {
            let words: Vec<_> = line.split(' ').collect();
            let [group, source, label] = words.as_slice() else { return None };
            Some(((group.parse().ok()?, source.parse().ok()?), label.parse().ok()?))
        };
        lines.map(one).collect::<Option<_>>().map(Self).ok_or(bad("a line that is no name"))
    }

    /// As stored.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n");
        for ((group, source), label) in &self.0 {
            let _ = writeln!(text, "{group} {source} {label}");
        }
        let crc = crc32c::crc32c(text.as_bytes());
        let _ = writeln!(text, "crc32c {crc:08x}");
        text
    }
}

/// Names that are being stored, by control block.
pub(super) type Storing = BTreeMap<[u8; 16], ((GroupName, Label), Label)>;

impl Mover {
    /// What a volume of a group is to be called here.
    pub(super) fn label_for(&self, group: &GroupName, source: &Label) -> Label {
        let stored = self.destinations.0.get(&(group.clone(), source.clone()));
        let planned = || self.groups.get(group).and_then(|g| g.plan.labels.get(source));
        stored.or_else(planned).unwrap_or(source).clone()
    }

    /// Has a volume that is not here yet be called `label` when it comes, for a control block.
    ///
    /// # Errors
    /// In words: it is here already, or the label is taken.
    pub(super) fn destine(
        &mut self,
        id: [u8; 16],
        group: &GroupName,
        source: &Label,
        label: &Label,
    ) -> Result<Option<String>, String> {
        let node = &self.cfg.node;
        let here = self.volumes.values().find(|h| h.group == *group && h.source == *source);
        if let Some(h) = here {
            return if h.label == *label {
                Ok(Some(format!("is called {label}")))
            } else {
                Err(format!(
                    "it is here, and called {0}: `rcpctl volume rename {0} {label}` at {node} changes \
                     that",
                    h.label
                ))
            };
        }
        let other = self.volumes.values().any(|h| h.label == *label)
            || self.closed.values().any(|c| c.label == *label)
            || self
                .destinations
                .0
                .iter()
                .any(|((g, s), l)| l == label && (g, s) != (group, source));
        if other {
            return Err(format!("{node} has another volume {label}: choose another label"));
        }
        if self.label_for(group, source) == *label {
            return Ok(Some(format!("will be called {label}")));
        }
        if self.destinations.0.len() >= MAX {
            return Err(format!("{node} keeps {MAX} destination names already"));
        }
        self.storing.insert(id, ((group.clone(), source.clone()), label.clone()));
        let mut next = self.destinations.clone();
        next.0.extend(self.storing.values().cloned());
        self.effect(Effect::StoreDestinations { id, bytes: next.text().into_bytes() });
        Ok(None)
    }

    /// What [`Effect::StoreDestinations`] was about is durable, or why it is not.
    pub fn destinations_stored(&mut self, now: Mono, id: [u8; 16], stored: Result<(), String>) {
        self.now = self.now.max(now);
        let Some((key, label)) = self.storing.remove(&id) else { return };
        let told = stored.map(|()| format!("will be called {label}"));
        if told.is_ok() {
            self.destinations.0.insert(key, label);
        }
        self.own_done(id, told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_names_survive_and_damage_is_noticed() {
        let label = |l: &str| Label::new(l).expect("a label");
        let g1 = GroupName::new("g1").expect("a name");
        let mut all = Destinations::default();
        assert_eq!(Destinations::read(&all.text()), Ok(all.clone()));
        all.0.insert((g1.clone(), label("vol1")), label("vol9"));
        all.0.insert((g1, label("vol2")), label("a.b_c-d"));
        let text = all.text();
        assert_eq!(Destinations::read(&text), Ok(all));
        for at in 0..text.len() {
            assert!(Destinations::read(&text[..at]).is_err(), "cut at {at}");
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let flipped = String::from_utf8(bytes).expect("ASCII");
            assert!(Destinations::read(&flipped).is_err(), "flipped at {at}");
        }
    }
}
