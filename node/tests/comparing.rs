//! A replica finds the blocks in which it differs from its parent, and only those.

mod disks;
#[path = "comparing/unproven.rs"]
mod unproven;

use node::volumes::open::Machine;
use rcp::proto::clock::Mono;
use rcp::proto::ids::{NodeName, SetNumber};
use volmcast::digest::{BlockHash, Sum, table_bytes, table_range};
use volmcast::io::FileId;
use volmcast::storage::{Identity, Nothing, Overlay};
use volmcast::units::{BlockCount, BlockIndex};
use volmcast::volume::{Event, Question};

use disks::{drive, drive_at, feed, feed_set, follow, format, identity, opened};

/// More than one question is about.
const BLOCKS: u64 = 70_000;
const SECOND: u64 = 1_000_000;

/// A replica and its disk.
struct Node {
    machine: Machine,
    disk: Overlay<'static>,
}

impl Node {
    fn new() -> Self {
        let id = Identity { blocks: BlockCount(BLOCKS), ..identity("replica") };
        let disk = Overlay::new(&Nothing);
        format(&id, &disk);
        let mut machine = opened(&id, &disk).expect("opened");
        follow(&mut machine);
        drive(&mut machine, &disk);
        Self { machine, disk }
    }

    fn drive(&mut self, now: Mono) -> Vec<Event> {
        drive_at(&mut self.machine, &self.disk, now)
    }

    /// A block and its hash are as they were before the block was written.
    fn stale(&self, block: u64) {
        self.put(block, &[0; 4096], &table_bytes(&[BlockHash::ZERO]));
    }

    /// What is stored of a block and its hash, behind the node's back.
    fn put(&self, block: u64, content: &[u8], hash: &[u8]) {
        self.disk.write(FileId::Base, block * 4096, content).expect("written");
        self.disk.write(FileId::Hashes, table_range(block, 1).0, hash).expect("written");
    }
}

fn child() -> NodeName {
    NodeName::new("child").expect("valid")
}

/// A parent and its child, which were sent the same.
struct Pair {
    child: Node,
    parent: Node,
    now: Mono,
    set: u64,
    /// The block that the newest set wrote.
    last: u64,
    digest: Sum,
    /// What the primary's digests are wrong by.
    off: u128,
    questions: Vec<Question>,
    /// Questions and answers that are lost with their session: so many of them, each second one.
    lost: usize,
}

fn content(block: u64, set: u64) -> Vec<u8> {
    let n = (block * 31 + set).to_le_bytes();
    n.repeat(512)
}

impl Pair {
    fn new() -> Self {
        let mut p = Self {
            child: Node::new(),
            parent: Node::new(),
            now: Mono(SECOND),
            set: 0,
            last: 0,
            digest: Sum::default(),
            off: 0,
            questions: Vec::new(),
            lost: 0,
        };
        for block in [3, 300, 66_000, 69_999] {
            p.write(block);
        }
        p.go(1);
        assert_eq!(p.child.machine.volume.digest().map(|d| d.1), Some(p.digest));
        p
    }

    /// A set that writes a block for the first time.
    fn write(&mut self, block: u64) {
        self.write_and(block, true);
    }

    /// The same, and the child is told the digest or not.
    fn write_and(&mut self, block: u64, tells: bool) {
        self.set += 1;
        self.last = block;
        let set = self.set;
        self.digest = self.digest.plus(BlockHash::of(block, &content(block, set)));
        let told = Sum(self.digest.0.wrapping_add(self.off));
        let blocks = [(block, content(block, set))];
        feed_set(&mut self.child.machine, set, &blocks, tells.then_some(told));
        // The parent knows better than to compare.
        feed(&mut self.parent.machine, set, &blocks, self.digest);
    }

    /// Time passes; what the child had to say, but for its questions, which the parent answers.
    fn go(&mut self, seconds: u64) -> Vec<Event> {
        let mut said = Vec::new();
        for _ in 0..seconds * 10 {
            self.now = Mono(self.now.0 + SECOND / 10);
            loop {
                let mut more = self.child.drive(self.now);
                more.extend(self.parent.drive(self.now));
                if more.is_empty() {
                    break;
                }
                for e in more {
                    self.event(e, &mut said);
                }
            }
        }
        said
    }

    fn event(&mut self, e: Event, said: &mut Vec<Event>) {
        if self.lost > 0 && matches!(e, Event::Compare { .. } | Event::Sums { .. }) {
            self.lost -= 1;
            if self.lost.is_multiple_of(2) {
                return;
            }
        }
        match e {
            Event::Compare { question } => {
                self.questions.push(question);
                self.parent.machine.volume.sums_asked(&child(), question);
            }
            Event::Sums { state, question: q, sums, text, .. } => {
                self.child.machine.volume.sums_told(state, (q.first, q.each), &sums, &text);
            }
            e => said.push(e),
        }
    }

    /// A block of the child and its hash are as they were before the block was written.
    fn stale(&self, block: u64) {
        self.child.stale(block);
    }

    fn scrub(&mut self) {
        self.child.machine.volume.scrub_now(u64::MAX).expect("begun");
    }

    fn doubted(&self) -> Vec<(u64, u64)> {
        self.child.machine.volume.doubted().into_iter().map(|(b, n)| (b.0, n.0)).collect()
    }
}

#[test]
fn blocks_that_are_stale_with_their_hashes_are_found_and_no_others() {
    let mut p = Pair::new();
    for block in [300, 69_999] {
        p.stale(block);
    }
    p.scrub();
    let said = p.go(5);
    assert!(said.iter().any(|e| matches!(e, Event::Differs { .. })), "{said:?}");
    assert!(p.child.machine.volume.refusal().is_some());
    assert_eq!(p.doubted(), [(300, 1), (69_999, 1)], "{said:?}");
    assert!(
        said.iter()
            .any(|e| matches!(e, Event::Doubts { text } if text.contains("2 blocks are not")))
    );
    // Two coarse questions, one of them twice because the parent had to add up its table first, and
    // three looks at each of the two ranges.
    let coarse = p.questions.iter().filter(|q| q.each > 1).count();
    assert_eq!((coarse, p.questions.len()), (3, 9), "{:?}", p.questions);
}

#[test]
fn what_is_lost_with_a_session_is_asked_again() {
    let mut p = Pair::new();
    p.stale(300);
    p.scrub();
    p.lost = 8;
    let said = p.go(90);
    assert_eq!(p.lost, 0);
    assert_eq!(p.doubted(), [(300, 1)], "{said:?}");
}

#[test]
fn a_digest_that_the_primary_tells_wrongly_does_not_stop_readers_for_good() {
    let mut p = Pair::new();
    p.off = 77;
    p.write(5);
    let said = p.go(5);
    assert!(said.iter().any(|e| matches!(e, Event::Differs { .. })), "{said:?}");
    let suspect = |e: &Event| matches!(e, Event::Suspect { text } if text.contains("primary"));
    assert!(said.iter().any(suspect), "{said:?}");
    assert_eq!(p.child.machine.volume.refusal(), None, "reads go on");
    assert_eq!(p.doubted(), []);
    // Later sets that are off by as much are taken; and so is one that is right.
    for off in [77, 77, 0] {
        p.off = off;
        p.write(10 + p.set);
        let said = p.go(1);
        assert!(!said.iter().any(|e| matches!(e, Event::Differs { .. })), "{said:?}");
        assert_eq!(p.child.machine.volume.durable().visible, SetNumber(p.set));
    }
    // What was known of the primary's sum does not hold after that.
    p.off = 77;
    p.write(20);
    assert!(p.go(1).iter().any(|e| matches!(e, Event::Differs { .. })));
}

#[test]
fn sets_that_come_meanwhile_are_no_difference() {
    let mut p = Pair::new();
    p.stale(66_000);
    p.scrub();
    let mut doubted = false;
    for block in 0..40 {
        p.write(66_001 + block);
        doubted |= p.go(1).iter().any(|e| matches!(e, Event::Doubts { .. }));
        if doubted {
            break;
        }
    }
    assert!(doubted, "{:?}", p.child.machine.volume.refusal());
    assert_eq!(p.doubted(), [(66_000, 1)]);
}

#[test]
fn a_parent_without_sums_is_asked_again_and_then_no_more() {
    let mut p = Pair::new();
    // It differs itself.
    p.parent.put(3, &[9; 4096], &table_bytes(&[BlockHash::of(3, &[9; 4096])]));
    p.parent.machine.volume.scrub_now(u64::MAX).expect("begun");
    p.go(1);
    p.stale(300);
    p.scrub();
    let said = p.go(3);
    let words = p.child.machine.volume.refusal().expect("refused");
    assert!(words.contains("differs from the primary itself"), "{words}");
    assert!(!said.iter().any(|e| matches!(e, Event::Doubts { .. })), "{said:?}");
    // What is known to have changed is fetched again then.
    let said = p.go(70);
    assert!(said.iter().any(|e| matches!(e, Event::Doubts { .. })), "{said:?}");
    assert!(p.child.machine.volume.doubted().contains(&(BlockIndex(300), BlockCount(1))));
}

#[test]
fn a_parent_that_is_as_stale_as_its_child_finds_that_out_first() {
    let mut p = Pair::new();
    // As if the child had been filled from it since.
    p.parent.stale(300);
    p.stale(300);
    p.scrub();
    let mut said = p.go(20);
    said.retain(|e| matches!(e, Event::Suspect { .. } | Event::Healed { .. }));
    assert_eq!(said, [], "it is not taken for what the primary has");
    assert!(p.parent.machine.volume.differs().is_some());
    let words = p.child.machine.volume.refusal().expect("refused");
    assert!(words.contains("differs from the primary itself"), "{words}");
}

#[test]
fn questions_that_ask_too_much_are_answered_with_words() {
    let mut p = Pair::new();
    for (each, sums) in [(0, 1), (1, 0), (257, 256), (u64::MAX, 256), (1, 257)] {
        p.parent.machine.volume.sums_asked(&child(), Question { first: 0, each, sums });
        let said = p.parent.drive(p.now);
        let refused = |e: &Event| matches!(e, Event::Sums { sums, text, .. } if sums.is_empty() && text.contains("65536"));
        assert!(said.iter().any(refused), "{each} {sums}: {said:?}");
    }
    // Behind the end of the volume there is nothing.
    p.parent
        .machine
        .volume
        .sums_asked(&child(), Question { first: u64::MAX - 7, each: 1, sums: 2 });
    let said = p.parent.drive(p.now);
    assert!(
        said.iter().any(|e| matches!(e, Event::Sums { sums, .. } if *sums == [0, 0])),
        "{said:?}"
    );
}
