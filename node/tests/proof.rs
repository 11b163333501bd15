//! A replica's proof of what it holds: a hundred differences planted behind its back, of four kinds,
//! and each is found by a round through the content, whether sets come meanwhile or not. What is not
//! whole goes to no child.

mod disks;

use std::collections::BTreeSet;
use std::time::Duration;

use node::volumes::open::Machine;
use rcp::proto::clock::Mono;
use rcp::proto::delta::Chunk;
use rcp::proto::ids::{NodeName, SetNumber};
use volmcast::digest::{BlockHash, Sum, table_bytes, table_range};
use volmcast::io::FileId;
use volmcast::storage::{Identity, Nothing, Overlay, Storage};
use volmcast::units::{BlockCount, BlockIndex};
use volmcast::volume::{Event, PlaybackPolicy, Scrubbed};

use disks::{BLOCKS, drive, drive_at, feed, follow, format, identity, opened};

const BLOCK: u64 = 4096;
/// Sets before anything is planted, and blocks that each writes.
const SETS: u64 = 12;
const EACH: u64 = 9;
/// A round reads so much each second: some blocks in each step of the clock.
const RATE: u64 = 1 << 20;
const STEP: u64 = 20_000;

/// Content of a block as a set wrote it.
fn content(block: u64, set: u64) -> Vec<u8> {
    let seed = block.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ set.wrapping_mul(0xd134_2543_de82_ef95);
    (0..BLOCK).map(|i| (seed.rotate_left((i % 61) as u32) >> (i % 7)) as u8).collect()
}

/// The blocks that a set writes.
fn written(set: u64) -> Vec<u64> {
    let blocks: BTreeSet<u64> = (0..EACH).map(|i| (set * 5 + i * 7) % (BLOCKS - 8)).collect();
    blocks.into_iter().collect()
}

/// What the primary has.
#[derive(Clone, Default)]
struct Primary {
    /// The last set that wrote each block, and the one before it.
    last: Vec<(u64, u64)>,
    sum: Sum,
    set: u64,
}

impl Primary {
    fn write(&mut self, m: &mut Machine, blocks: &[u64]) {
        self.set += 1;
        self.last.resize(BLOCKS as usize, (0, 0));
        let mut all = Vec::new();
        for b in blocks {
            let (last, _) = self.last[*b as usize];
            if last > 0 {
                self.sum = self.sum.minus(Sum::of(&[BlockHash::of(*b, &content(*b, last))]));
            }
            let new = content(*b, self.set);
            self.sum = self.sum.plus(BlockHash::of(*b, &new));
            self.last[*b as usize] = (self.set, last);
            all.push((*b, new));
        }
        feed(m, self.set, &all, self.sum);
    }

    /// Blocks that were written twice, so that there is an older content.
    fn twice(&self) -> Vec<u64> {
        let all = (0u64..).zip(&self.last);
        all.filter(|(_, (_, before))| *before > 0).map(|(b, _)| b).collect()
    }
}

fn replica() -> (Identity, Overlay<'static>, Primary) {
    let id = identity("replica");
    let disk = Overlay::new(&Nothing);
    format(&id, &disk);
    let mut m = opened(&id, &disk).expect("opened");
    follow(&mut m);
    let mut primary = Primary::default();
    for set in 1..=SETS {
        primary.write(&mut m, &written(set));
        drive(&mut m, &disk);
    }
    assert_eq!(m.volume.digest(), Some((SetNumber(SETS), primary.sum)));
    assert!(primary.twice().len() > 25, "{:?}", primary.twice());
    (id, disk, primary)
}

#[derive(Clone, Copy, Debug)]
enum Plant {
    Nothing,
    Bit,
    Stale,
    Swapped,
    Together,
}

/// Changes the files behind the replica's back: the blocks that are wrong then.
fn plant(disk: &Overlay<'_>, p: &Primary, kind: Plant, i: usize) -> Vec<u64> {
    let blocks = p.twice();
    let b = blocks[i % blocks.len()];
    let (last, before) = p.last[b as usize];
    let put = |block: u64, bytes: &[u8]| {
        disk.write(FileId::Base, block * BLOCK, bytes).expect("written");
    };
    match kind {
        Plant::Nothing => Vec::new(),
        Plant::Bit => {
            let mut c = content(b, last);
            c[(i * 163) % 4096] ^= 1 << (i % 8);
            put(b, &c);
            vec![b]
        }
        Plant::Stale => {
            put(b, &content(b, before));
            vec![b]
        }
        Plant::Swapped => {
            let other = blocks[(i + 7) % blocks.len()];
            put(b, &content(other, p.last[other as usize].0));
            put(other, &content(b, last));
            vec![b.min(other), b.max(other)]
        }
        Plant::Together => {
            let old = content(b, before);
            put(b, &old);
            let hash = table_bytes(&[BlockHash::of(b, &old)]);
            disk.write(FileId::Hashes, table_range(b, 1).0, &hash).expect("written");
            vec![b]
        }
    }
}

/// What a round found.
#[derive(Debug, Default)]
struct Found {
    doubted: Vec<u64>,
    differs: bool,
    /// Who had asked for the round was told of its end.
    told: bool,
    done: Option<Scrubbed>,
}

/// A round through the content; `busy`: with a set every few steps, of blocks that nothing was
/// planted in.
fn round(id: &Identity, disk: &Overlay<'_>, p: &Primary, busy: bool) -> Found {
    let mut p = p.clone();
    let mut m = opened(id, disk).expect("opened");
    assert!(m.notes.is_empty());
    drive(&mut m, disk);
    m.volume.scrub_now(RATE).expect("a replica");
    let mut found = Found::default();
    for tick in 1..400 {
        let now = Mono(1_000_000 + tick * STEP);
        if busy && tick % 3 == 0 {
            p.write(&mut m, &[BLOCKS - 1 - tick % 5]);
        }
        for e in drive_at(&mut m, disk, now) {
            match e {
                Event::Differs { .. } => found.differs = true,
                Event::Compare { .. } => m.volume.compare_hopeless(),
                Event::Scrubbed(done) => found.done = Some(done),
                Event::Damage { text } | Event::Failed { text } => panic!("{text}"),
                _ => {}
            }
        }
        found.doubted = m.volume.doubted().iter().flat_map(|(b, n)| b.0..b.0 + n.0).collect();
        found.told |= found.done.is_some();
        if found.differs {
            assert!(m.volume.refusal().is_some(), "reads go on");
        }
        if (found.done.is_some() && !found.differs) || !found.doubted.is_empty() {
            break;
        }
    }
    found
}

#[test]
fn a_hundred_planted_differences_are_found() {
    let (id, whole, p) = replica();
    let mut found = 0;
    for kind in [Plant::Bit, Plant::Stale, Plant::Swapped, Plant::Together] {
        for i in 0..25 {
            let disk = Overlay::new(&whole);
            let wrong = plant(&disk, &p, kind, i);
            let f = round(&id, &disk, &p, i % 2 == 1);
            let what = format!("{kind:?} {i}: {wrong:?}: {f:?}");
            match kind {
                // The parent cannot be asked which: what changed is fetched again, and it is among that.
                Plant::Together => {
                    assert!(f.differs && f.told, "{what}");
                    assert!(wrong.iter().all(|b| f.doubted.contains(b)), "{what}");
                    let never =
                        (0..BLOCKS).filter(|b| p.last[*b as usize].0 == 0 && *b < BLOCKS - 8);
                    assert!(never.into_iter().all(|b| !f.doubted.contains(&b)), "{what}");
                }
                _ => {
                    // The search stops at the first, until that is fetched again.
                    assert!(!f.doubted.is_empty(), "{what}");
                    assert!(f.doubted.iter().all(|b| wrong.contains(b)), "{what}");
                }
            }
            found += 1;
        }
    }
    assert_eq!(found, 100);
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let (id, whole, p) = replica();
    for busy in [false, true] {
        let disk = Overlay::new(&whole);
        assert!(plant(&disk, &p, Plant::Nothing, 0).is_empty());
        let f = round(&id, &disk, &p, busy);
        assert!(!f.differs && f.doubted.is_empty(), "{f:?}");
        let done = f.done.expect("it ended");
        assert_eq!(done.damaged, 0);
        assert!(done.looked >= p.twice().len() as u64, "{done:?}");
        let (set, _) = done.digest.expect("it is known");
        assert!(set >= SetNumber(SETS), "{done:?}");
        // What was planted in memory is not on the disk below.
        assert_eq!(whole.read(FileId::Base, 0, 8).expect("read").len(), 8);
    }
}

/// What the child gets is whole without the set that is not shown.
#[test]
fn what_has_rotted_goes_to_no_child_although_a_set_that_is_not_shown_has_the_block() {
    let (id, disk, mut p) = replica();
    let wrong = plant(&disk, &p, Plant::Bit, 0);
    let mut m = opened(&id, &disk).expect("opened");
    m.volume.set_playback_policy(PlaybackPolicy {
        hwm: u64::MAX,
        timeout: Duration::from_secs(3600),
        on_demand: false,
    });
    p.write(&mut m, &wrong);
    drive(&mut m, &disk);
    let sets = (m.volume.durable().visible, m.volume.position().0);
    assert_eq!(sets, (SetNumber(SETS), SetNumber(SETS + 1)));
    let child = NodeName::new("below").expect("valid");
    m.volume.consumer_seed(&child, SetNumber::ZERO, None, "it is empty".to_owned());
    m.volume.seed_out_credit(&child, 1 << 20);
    let said = drive(&mut m, &disk);
    let holds = |chunk: &Chunk| chunk.extents().any(|e| (e.block..e.end()).contains(&wrong[0]));
    let sent = |e: &Event| matches!(e, Event::SeedChunk { chunk, .. } if holds(chunk));
    assert!(!said.iter().any(sent), "block {} has left", wrong[0]);
    let waits =
        |e: &Event| matches!(e, Event::Detached { reason, .. } if reason.contains("damaged here"));
    assert!(said.iter().any(waits), "{said:?}");
    m.volume.look();
    assert_eq!(m.volume.doubted(), [(BlockIndex(wrong[0]), BlockCount(1))]);
}
