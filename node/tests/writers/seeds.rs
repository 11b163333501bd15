//! What a receiver says of extents: how many may come, counted since its stream was answered, and up to
//! which block they are durable (`rcp/PROTOCOL.md`, section 6).

use super::*;

impl Rig {
    /// Up to which block extents are durable at `l1`.
    fn extents_at(&self) -> Option<u64> {
        self.nodes["l1"].mover.volume(VOLUME)?.seed_position().map(|(block, _)| block)
    }

    /// The line to `p` is cut for a moment.
    fn cut(&mut self) {
        self.apart("p");
        self.down.clear();
        self.pass(3_000);
    }
}

#[test]
fn extents_that_become_durable_before_the_stream_is_answered_are_told_after_it() {
    let mut r = two();
    r.write("p", 100, 3);
    // Of two extents one arrives.
    r.unheard = Some(|f| matches!(f, Frame::SeedData { seq: 1.., .. } | Frame::SeedEnd { .. }));
    r.ask("p", Ask::Seed { volume: "vol".to_owned(), child: "l1".to_owned() });
    let [(0, window)] = r.acks[..] else { panic!("{:?}", r.acks) };
    assert_eq!(r.extents_at(), Some(0));
    r.unheard = Some(|f| matches!(f, Frame::Start(_)));
    r.cut();
    // Whatever is stored, the extent is durable with it.
    r.ask("l1", Ask::Keep { volume: "vol".to_owned(), set: 9 });
    assert_eq!(r.extents_at(), Some(3));
    assert_eq!(r.acks, [(0, window)], "what came over the line before is counted");
    r.unheard = None;
    r.cut();
    assert_eq!(r.acks, [(0, window), (3, window)]);
    assert_eq!(r.visible("l1"), 3, "{:?}", r.nodes["l1"].notes);
}

/// That a catch-up is staged is stored in both slots, and so is told twice by the volume.
#[test]
fn what_was_said_of_extents_is_not_said_again() {
    let mut r = two();
    r.apart("l1");
    for byte in 3..6 {
        r.client("p").write(0, &[byte; 1 << 20]).expect("written");
        r.write("p", 1, byte);
    }
    r.down.clear();
    r.pass(3_000);
    let staged = |text: &String| text.contains("a staged catch-up begins");
    assert!(r.nodes["l1"].notes.iter().any(staged), "{:?}", r.nodes["l1"].notes);
    assert!(matches!(r.acks[..], [(0, _)]), "{:?}", r.acks);
    assert_eq!(r.visible("l1"), r.visible("p"));
}
