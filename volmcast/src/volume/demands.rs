//! Demanded cuts (CAP-13): which cut answers which demand.
//!
//! Who demands a cut wants everything written before that in the answer. A demand is therefore
//! answered by a cut made after it, or by finding that nothing has changed, and never by a set that
//! was being drained when it came.

use rcp::proto::ids::SetNumber;

use super::Volume;

/// A demand for a cut of one volume; a later one is larger.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Demand(u64);

/// Demands that have no answer yet.
#[derive(Debug, Default)]
pub(super) struct Demands {
    newest: Demand,
    /// Some demand was made after the last cut.
    open: bool,
    /// Keep the state of the next cut.
    keep: bool,
    /// The set that answers demands up to this one, once it is committed.
    cut: Option<(Demand, SetNumber)>,
    /// The state that is kept without a cut, and answers once that is durable.
    kept: Option<(Demand, SetNumber)>,
}

impl Demands {
    pub(super) fn add(&mut self, keep: bool) -> Demand {
        self.newest.0 += 1;
        self.open = true;
        self.keep |= keep;
        self.newest
    }

    pub(super) fn are_open(&self) -> bool {
        self.open
    }

    /// The state of the next cut is to be kept.
    pub(super) fn keep_next(&self) -> bool {
        self.keep
    }

    /// A cut was made.
    pub(super) fn cut(&mut self, set: SetNumber) {
        self.keep = false;
        if std::mem::take(&mut self.open) {
            self.cut = Some((self.newest, set));
        }
    }

    /// The set of the last cut is given up: the next one answers. `keep` says that its state was to
    /// be kept.
    pub(super) fn given_up(&mut self, keep: bool) {
        self.keep |= keep;
        self.open |= self.cut.take().is_some();
    }

    /// Sets up to this one are committed: the newest demand answered by that.
    pub(super) fn committed(&mut self, set: SetNumber) -> Option<Demand> {
        self.cut.take_if(|(_, s)| *s <= set).map(|(demand, _)| demand)
    }

    /// Nothing has changed since `state`: the newest demand answered by that, unless it waits for
    /// the state to be kept.
    pub(super) fn unchanged(&mut self, state: SetNumber) -> Option<Demand> {
        let open = std::mem::take(&mut self.open);
        if std::mem::take(&mut self.keep) && open {
            self.kept = Some((self.newest, state));
        }
        match &mut self.kept {
            Some((demand, _)) => {
                *demand = self.newest;
                None
            }
            None => open.then_some(self.newest),
        }
    }

    /// The answer that waited until its state was kept durably.
    pub(super) fn kept(
        &mut self,
        durably: impl FnOnce(SetNumber) -> bool,
    ) -> Option<(Demand, SetNumber)> {
        self.kept.take_if(|(_, state)| durably(*state))
    }

    /// The role changed: nothing is cut any more, and nobody is answered.
    pub(super) fn forget(&mut self) {
        *self = Self { newest: self.newest, ..Self::default() };
    }
}

impl Volume {
    /// Asks for a cut now (CAP-13): an [`Event::CutDone`](super::Event::CutDone) with this demand or a
    /// later one answers. With `keep` the state stays readable at the primary until it is released.
    pub fn demand_cut(&mut self, keep: bool) -> Demand {
        let demand = self.add_demand(keep);
        self.pump();
        demand
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: SetNumber = SetNumber(1);
    const TWO: SetNumber = SetNumber(2);

    #[test]
    fn a_set_under_way_is_no_answer() {
        let mut d = Demands::default();
        let first = d.add(false);
        d.cut(ONE);
        let second = d.add(true);
        assert!(first < second && d.are_open() && d.keep_next());
        assert_eq!(d.committed(ONE), Some(first));
        d.cut(TWO);
        assert!(!d.keep_next());
        assert_eq!(d.committed(ONE), None);
        assert_eq!(d.committed(TWO), Some(second));
    }

    #[test]
    fn a_set_that_is_given_up_leaves_its_demands_open() {
        let mut d = Demands::default();
        let first = d.add(true);
        d.cut(ONE);
        d.given_up(true);
        assert!(d.are_open() && d.keep_next());
        d.cut(ONE);
        assert_eq!(d.committed(ONE), Some(first));
        // A cut that nobody demanded opens nothing.
        d.cut(TWO);
        d.given_up(false);
        assert!(!d.are_open() && !d.keep_next());
    }

    #[test]
    fn an_unchanged_state_answers_when_it_is_kept() {
        let mut d = Demands::default();
        let first = d.add(false);
        assert_eq!(d.unchanged(ONE), Some(first));
        assert_eq!(d.unchanged(ONE), None);
        d.add(true);
        assert_eq!(d.unchanged(ONE), None);
        let third = d.add(false);
        assert_eq!(d.unchanged(ONE), None, "it would overtake the second");
        assert_eq!(d.kept(|_| false), None);
        assert_eq!(d.kept(|s| s == ONE), Some((third, ONE)));
    }

    #[test]
    fn who_demands_after_a_change_of_role_is_not_taken_for_one_before() {
        let mut d = Demands::default();
        let before = d.add(true);
        d.cut(ONE);
        d.forget();
        assert_eq!(d.committed(ONE), None);
        assert!(!d.are_open() && d.add(false) > before);
    }
}
