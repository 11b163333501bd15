//! Content of which nobody knows what state it is, is shown once it was proven, and no sooner.

use super::*;

impl Pair {
    /// The child gives up what it holds, as far as that is not its parent's.
    fn discard(&mut self) {
        let history = self.child.machine.volume.history().to_vec();
        self.child.machine.volume.discard("a test", history);
        self.child.drive(self.now);
        self.refused("kept from before is not proven yet");
    }

    /// The parent begins a seed at its newest set, and has nothing to send of it but that set.
    fn join(&mut self) {
        let (from, before) = (SetNumber(self.set), SetNumber(self.set - 1));
        assert!(self.child.machine.volume.seed_goes_on(from, BlockCount(BLOCKS)));
        self.child.drive(self.now);
        let at = self.child.machine.volume.seed_position();
        assert_eq!(
            at,
            Some((BLOCKS, before)),
            "all of it is kept, and the header of `from` wanted"
        );
        let newest = self.newest();
        feed(&mut self.child.machine, self.set, &newest, self.digest);
        self.child.machine.volume.receive_seed_end(from, true);
    }

    /// The same where it has that set no more.
    fn join_late(&mut self) {
        let from = SetNumber(self.set);
        for at in [self.set - 1, self.set] {
            assert!(self.child.machine.volume.seed_goes_on(from, BlockCount(BLOCKS)));
            self.child.drive(self.now);
            let joined = self.child.machine.volume.seed_position();
            assert_eq!(joined, Some((BLOCKS, SetNumber(at))));
        }
        self.child.machine.volume.receive_seed_end(from, true);
    }

    fn newest(&self) -> [(u64, Vec<u8>); 1] {
        [(self.last, content(self.last, self.set))]
    }

    /// The child dies, and is there again with what its disk holds.
    fn restart(&mut self) {
        let id = Identity { blocks: BlockCount(BLOCKS), ..identity("replica") };
        self.child.machine = opened(&id, &self.child.disk).expect("opened");
        follow(&mut self.child.machine);
        self.child.drive(self.now);
    }

    /// The parent begins a catch-up at its newest set, and has nothing to send of it.
    fn catch_up(&mut self) {
        let from = SetNumber(self.set);
        self.child.machine.volume.catch_up_begin(from, BlockCount(BLOCKS), 1);
        self.child.drive(self.now);
        self.child.machine.volume.receive_seed_end(from, true);
    }

    #[track_caller]
    fn is_found_the_same(&mut self) {
        // A search that follows another one may have to wait.
        let said = self.go(60);
        let same =
            |e: &Event| matches!(e, Event::Lacks { text } if text.contains("nothing differs"));
        assert!(said.iter().any(same), "it was not compared: {said:?}");
        // Each block may be that of a later state: it is not enough that all are alike.
        self.refused("not proven yet; it is the parent's, in the set that was the newest there");
    }

    /// The parent has a newer set, which says no digest.
    #[track_caller]
    fn is_shown_with_the_next_set(&mut self) {
        self.child.machine.volume.receive_seed_end(SetNumber(self.set + 1), true);
        self.go(1);
        self.refused("not proven yet");
        self.write_and(7, false);
        self.go(1);
        assert_eq!(self.child.machine.volume.refusal(), None);
    }

    #[track_caller]
    fn refused(&self, why: &str) {
        let words = self.child.machine.volume.refusal().expect("refused");
        assert!(words.contains(why), "{words}");
    }
}

#[test]
fn content_is_shown_when_its_digest_is_the_one_that_was_told() {
    let mut p = Pair::new();
    p.discard();
    assert!(p.go(60).is_empty(), "nothing happens without a parent");
    p.refused("kept from before is not proven yet");
    p.join();
    p.go(2);
    assert_eq!(p.child.machine.volume.refusal(), None);
    assert_eq!(p.child.machine.volume.digest().map(|d| d.1), Some(p.digest));
    assert!(p.questions.is_empty(), "nobody had to be asked: {:?}", p.questions);
    p.write(9);
    p.go(1);
    assert_eq!(p.child.machine.volume.durable().visible, SetNumber(p.set));
}

#[test]
fn what_differs_is_found_whatever_the_table_says() {
    let mut p = Pair::new();
    p.stale(300);
    // The hash is right, and the content is not.
    p.child.disk.write(FileId::Base, 66_000 * 4096, &[7; 4096]).expect("written");
    // It is in no set.
    p.child.put(40_000, &[8; 4096], &table_bytes(&[BlockHash::ZERO]));
    p.discard();
    p.join();
    let said = p.go(3);
    let lacks =
        |e: &Event| matches!(e, Event::Lacks { text } if text.contains("3 blocks are fetched"));
    assert!(said.iter().any(lacks), "{said:?}");
    assert_eq!(p.doubted(), [(300, 1), (40_000, 1), (66_000, 1)]);
    p.refused("not proven yet; what it lacks is fetched");
    // They do not come: it is asked for them again, and not shown.
    p.restart();
    p.go(100);
    p.refused("not proven yet");
}

#[test]
fn nothing_is_shown_after_a_restart_that_was_not_proven_before() {
    for stage in 0..4 {
        let mut p = Pair::new();
        p.stale(300);
        p.discard();
        if stage > 0 {
            p.join();
        }
        if stage > 1 {
            // The table is made.
            for _ in 0..20 * stage {
                p.child.drive(p.now);
            }
        }
        if stage > 2 {
            p.go(3);
        }
        p.restart();
        p.go(1);
        assert!(p.child.machine.volume.refusal().is_some(), "stage {stage}");
        if p.child.machine.volume.seed_position().is_some() {
            p.join();
        }
        p.go(20);
        assert_eq!(p.doubted(), [(300, 1)], "stage {stage}");
    }
}

/// Of a line that ended as well: what is here differs from the parent's, and is what a branch has.
#[test]
fn blocks_that_a_comparison_found_are_not_refused_as_damaged_when_another_writer_took_over() {
    for anew in [false, true] {
        let mut p = Pair::new();
        p.stale(300);
        p.discard();
        p.join();
        p.go(3);
        assert_eq!(p.doubted(), [(300, 1)]);
        if anew {
            p.join();
        } else {
            p.discard();
        }
        let view = p.child.machine.volume.board().view();
        assert!(view.hashed.or(view.proven).is_none(), "no table proves what is read");
        assert!(view.damaged.is_empty(), "{:?}", view.damaged);
    }
}

/// The parent begins anew, and with the log goes what a crash left half done: of a set that was being
/// merged the hash was written, and the content not.
#[test]
fn a_table_that_was_made_before_is_not_trusted_when_the_parent_begins_anew() {
    let mut p = Pair::new();
    p.stale(300);
    p.discard();
    p.join();
    p.go(3);
    assert_eq!(p.doubted(), [(300, 1)]);
    for block in [40_000, 50_000] {
        p.write(block);
        p.go(1);
    }
    p.child.disk.write(FileId::Base, 40_000 * 4096, &[0; 4096]).expect("written");
    p.restart();
    p.join();
    p.go(20);
    assert_eq!(p.doubted(), [(300, 1), (40_000, 1)]);
    p.refused("not proven yet");
}

#[test]
fn content_without_a_digest_is_shown_when_the_parent_can_have_told_of_no_later_state() {
    let mut p = Pair::new();
    p.discard();
    p.restart();
    p.join_late();
    p.is_found_the_same();
    p.is_shown_with_the_next_set();
}

#[test]
fn content_that_was_found_the_same_is_compared_once_more_when_a_seed_begins_anew() {
    let mut p = Pair::new();
    p.discard();
    p.restart();
    for _ in 0..2 {
        p.join_late();
        p.is_found_the_same();
    }
    p.is_shown_with_the_next_set();
}

#[test]
fn content_that_was_found_the_same_is_compared_once_more_when_a_catch_up_begins_anew() {
    let mut p = Pair::new();
    p.child.put(40_000, &[8; 4096], &table_bytes(&[BlockHash::ZERO]));
    p.discard();
    p.restart();
    p.join_late();
    p.go(3);
    assert_eq!(p.doubted(), [(40_000, 1)]);
    // It comes with a set.
    p.write_and(40_000, false);
    p.go(1);
    for _ in 0..2 {
        p.catch_up();
        p.is_found_the_same();
    }
    p.is_shown_with_the_next_set();
}

#[test]
fn a_digest_that_says_otherwise_counts_for_more_than_equal_hashes() {
    let mut p = Pair::new();
    p.discard();
    p.restart();
    p.join_late();
    p.go(3);
    p.off = 5;
    p.write(7);
    p.child.machine.volume.receive_seed_end(SetNumber(p.set), true);
    p.go(1);
    p.refused("not proven yet");
    // One that is right is enough.
    p.off = 0;
    p.write(8);
    p.go(1);
    assert_eq!(p.child.machine.volume.refusal(), None);
    assert_eq!(p.child.machine.volume.digest(), Some((SetNumber(p.set), p.digest)));
}

#[test]
fn a_seed_is_asked_for_if_the_parent_cannot_compare_and_once() {
    let mut p = Pair::new();
    p.stale(300);
    p.discard();
    p.join();
    p.child.drive(p.now);
    p.child.machine.volume.compare_hopeless();
    let seeds =
        |said: &[Event]| said.iter().filter(|e| matches!(e, Event::NeedsSeed { .. })).count();
    let said = p.go(60);
    assert_eq!(seeds(&said), 1, "{said:?}");
    // An ordinary one: nothing of what was here counts.
    assert_eq!(p.child.machine.volume.seed_position().map(|(block, _)| block), Some(0));
    assert!(!p.child.machine.volume.seed_goes_on(SetNumber(p.set), BlockCount(BLOCKS)));
    p.refused("being seeded: 0%");
}
