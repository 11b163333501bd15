//! A replica finds the blocks in which it differs from its parent, and only those.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use node::volumes::open::{self, OpenPlan, Opened};
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::delta::{
    ChunkDraft, ChunkFlags, ChunkListSum, Compression, Extent, SetFlags, SetHeader, StepId,
};
use rcp::proto::frame::Branch;
use rcp::proto::ids::{
    Attempt, ChunkNumber, Generation, GroupName, Label, NodeName, SetNumber, VolumeId,
};
use volmcast::digest::{BlockHash, Sum, table_bytes, table_range};
use volmcast::io::{FileId, Outcome};
use volmcast::storage::{Identity, Standing, Storage};
use volmcast::units::{BlockCount, BlockIndex, BlockSize};
use volmcast::volume::{CutPolicy, Event, FullPolicy, PlaybackPolicy, Question, ScrubPolicy};

/// More than one question is about.
const BLOCKS: u64 = 70_000;
const LINE: Generation = Generation { counter: 1, id: [1; 16] };
const SECOND: u64 = 1_000_000;

fn name(n: &str) -> NodeName {
    NodeName::new(n).expect("valid")
}

fn replica(folder: &Path, node: &str) -> Opened {
    let plan = OpenPlan {
        node: name(node),
        persistent: true,
        cut: CutPolicy { hwm: 1 << 30, timeout: Duration::from_secs(3600) },
        playback: PlaybackPolicy { hwm: 0, timeout: Duration::ZERO },
        compression: Compression::Never,
        import: false,
        budget: volmcast::save::Budget::new(1 << 20),
        scrub: ScrubPolicy { rate: 0, every: Duration::ZERO },
        full: FullPolicy::default(),
    };
    let identity = Identity {
        volume: VolumeId([7; 16]),
        label: Label::new("vol").expect("valid"),
        source: None,
        group: GroupName::new("g1").expect("valid"),
        node: name(node),
        role: "replica".to_owned(),
        block_size: BlockSize::DEFAULT,
        blocks: BlockCount(BLOCKS),
        save: 16 << 20,
        snapshots: 1 << 20,
        base: None,
        standing: Standing::default(),
    };
    let mut o = open::create(folder, &identity, &plan, Mono(0), Wall(1)).expect("created");
    o.volume.adopt_history(vec![Branch {
        generation: LINE,
        forked_from: SetNumber(0),
        opened_by: name("prim"),
        opened_at: Wall(1),
    }]);
    o
}

/// A parent and its child, which were sent the same.
struct Pair {
    child: Opened,
    parent: Opened,
    now: Mono,
    set: u64,
    digest: Sum,
    /// What the primary's digests are wrong by.
    off: u128,
    questions: Vec<Question>,
    _dir: tempfile::TempDir,
}

fn content(block: u64, set: u64) -> Vec<u8> {
    let n = (block * 31 + set).to_le_bytes();
    n.repeat(512)
}

impl Pair {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp");
        let [child, parent] = ["child", "parent"].map(|n| replica(&dir.path().join(n), n));
        let (digest, questions) = (Sum::default(), Vec::new());
        let now = Mono(SECOND);
        let mut p = Self { child, parent, now, set: 0, digest, off: 0, questions, _dir: dir };
        for block in [3, 300, 66_000, 69_999] {
            p.write(block);
        }
        p.go(1);
        assert_eq!(p.child.volume.digest().map(|d| d.1), Some(p.digest));
        p
    }

    /// A set that writes a block for the first time.
    fn write(&mut self, block: u64) {
        self.set += 1;
        let set = self.set;
        self.digest = self.digest.plus(BlockHash::of(block, &content(block, set)));
        let step = StepId {
            volume: VolumeId([7; 16]),
            generation: LINE,
            base: SetNumber(set - 1),
            to: SetNumber(set),
            attempt: Attempt(u32::try_from(set).expect("small")),
        };
        let chunk = ChunkDraft {
            step,
            number: ChunkNumber(0),
            block_size_shift: 12,
            flags: ChunkFlags::NONE,
            extents: vec![Extent::data(block, 1)],
            payload: Bytes::from(content(block, set)),
        };
        let chunk = chunk.encode(Compression::Never).expect("a chunk");
        let mut sum = ChunkListSum::new();
        sum.add(ChunkNumber(0), chunk.body_crc()).expect("in order");
        let header = SetHeader {
            step,
            chunk_count: 1,
            block_count: 1,
            volume_blocks: BLOCKS,
            block_shift: 12,
            cut_time: Wall(set),
            flags: SetFlags::default(),
            digest: Sum(self.digest.0.wrapping_add(self.off)).to_header(),
            chunk_list_crc: sum.crc(),
        };
        // The parent knows better than to compare.
        let right = SetHeader { digest: self.digest.to_header(), ..header.clone() };
        for (o, header) in [(&mut self.child, header), (&mut self.parent, right)] {
            o.volume.receive_chunk(&chunk).expect("taken");
            o.volume.receive_set_end(&header).expect("taken");
        }
    }

    /// Time passes; what the child had to say, but for its questions, which the parent answers.
    fn go(&mut self, seconds: u64) -> Vec<Event> {
        let mut said = Vec::new();
        for _ in 0..seconds * 10 {
            self.now = Mono(self.now.0 + SECOND / 10);
            loop {
                let mut more = drive(&mut self.child, self.now);
                more.extend(drive(&mut self.parent, self.now));
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
        match e {
            Event::Compare { question } => {
                self.questions.push(question);
                self.parent.volume.sums_asked(&name("child"), question);
            }
            Event::Sums { state, question: q, sums, text, .. } => {
                self.child.volume.sums_told(state, (q.first, q.each), &sums, &text);
            }
            e => said.push(e),
        }
    }

    /// A block of the child and its hash are as they were before the block was written.
    fn stale(&self, block: u64) {
        let files = &self.child.files;
        files.file(FileId::Base).write_all_at(&[0; 4096], block * 4096).expect("written");
        let (at, len) = table_range(block, 1);
        files.file(FileId::Hashes).write_all_at(&vec![0; len], at).expect("written");
    }

    fn scrub(&mut self) {
        self.child.volume.scrub_now(u64::MAX).expect("begun");
    }

    fn doubted(&self) -> Vec<(u64, u64)> {
        self.child.volume.doubted().into_iter().map(|(b, n)| (b.0, n.0)).collect()
    }
}

fn drive(o: &mut Opened, now: Mono) -> Vec<Event> {
    let v = &mut o.volume;
    v.timer(now, Wall(now.0));
    let mut events = Vec::new();
    loop {
        let mut more = false;
        while let Some(io) = v.poll_io() {
            let outcome = o.files.perform(&io);
            assert!(!matches!(outcome, Outcome::Failed(_)), "{io:?}: {outcome:?}");
            v.io_done(now, io.tag, outcome);
            more = true;
        }
        while let Some((tag, work)) = v.poll_work() {
            v.work_done(now, tag, work.run());
            more = true;
        }
        while let Some(e) = v.poll_event() {
            events.push(e);
            more = true;
        }
        if !more {
            return events;
        }
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
    assert!(p.child.volume.refusal().is_some());
    assert_eq!(p.doubted(), [(300, 1), (69_999, 1)], "{said:?}");
    assert!(
        said.iter()
            .any(|e| matches!(e, Event::Doubts { text } if text.contains("2 blocks are not")))
    );
    // Two coarse questions, and three looks at each of the two ranges.
    let coarse = p.questions.iter().filter(|q| q.each > 1).count();
    assert_eq!((coarse, p.questions.len()), (2, 8), "{:?}", p.questions);
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
    assert_eq!(p.child.volume.refusal(), None, "reads go on");
    assert_eq!(p.doubted(), []);
    // Later sets that are off by as much are taken; and so is one that is right.
    for off in [77, 77, 0] {
        p.off = off;
        p.write(10 + p.set);
        let said = p.go(1);
        assert!(!said.iter().any(|e| matches!(e, Event::Differs { .. })), "{said:?}");
        assert_eq!(p.child.volume.durable().visible, SetNumber(p.set));
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
    assert!(doubted, "{:?}", p.child.volume.refusal());
    assert_eq!(p.doubted(), [(66_000, 1)]);
}

#[test]
fn a_parent_without_sums_is_asked_again_and_then_no_more() {
    let mut p = Pair::new();
    // It differs itself.
    let files = &p.parent.files;
    files.file(FileId::Base).write_all_at(&[9; 4096], 3 * 4096).expect("written");
    let hash = table_bytes(&[BlockHash::of(3, &[9; 4096])]);
    files.file(FileId::Hashes).write_all_at(&hash, table_range(3, 1).0).expect("written");
    p.parent.volume.scrub_now(u64::MAX).expect("begun");
    p.go(1);
    p.stale(300);
    p.scrub();
    let said = p.go(3);
    let words = p.child.volume.refusal().expect("refused");
    assert!(words.contains("parent differs from the primary itself"), "{words}");
    assert!(!said.iter().any(|e| matches!(e, Event::Doubts { .. })), "{said:?}");
    // What is known to have changed is fetched again then.
    let said = p.go(20);
    assert!(said.iter().any(|e| matches!(e, Event::Doubts { .. })), "{said:?}");
    assert!(p.child.volume.doubted().contains(&(BlockIndex(300), BlockCount(1))));
}

#[test]
fn questions_that_ask_too_much_are_answered_with_words() {
    let mut p = Pair::new();
    for (each, sums) in [(0, 1), (1, 0), (257, 256), (u64::MAX, 256), (1, 257)] {
        p.parent.volume.sums_asked(&name("child"), Question { first: 0, each, sums });
        let said = drive(&mut p.parent, p.now);
        let refused = |e: &Event| matches!(e, Event::Sums { sums, text, .. } if sums.is_empty() && text.contains("65536"));
        assert!(said.iter().any(refused), "{each} {sums}: {said:?}");
    }
    // Behind the end of the volume there is nothing.
    p.parent.volume.sums_asked(&name("child"), Question { first: u64::MAX - 7, each: 1, sums: 2 });
    let said = drive(&mut p.parent, p.now);
    assert!(
        said.iter().any(|e| matches!(e, Event::Sums { sums, .. } if *sums == [0, 0])),
        "{said:?}"
    );
}
