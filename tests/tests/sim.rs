//! The simulation: seeds that once failed, and two thousand others.

use std::sync::LazyLock;

use tests::sim::ci::{RANGES, Tally, run_ci};
use tests::sim::coverage::{FAULTS, STATES, Table, never};
use tests::sim::reread::forged;
use tests::sim::rng::Rng;
use tests::sim::{
    AIMED, BAD_DISKS, BYPASS, Counters, Edition, MIRRORS, MOMENTS, OPERATORS, STEPS, TURNS, run_as,
};

/// Seeds that found something, with a word on what.
const REGRESSIONS: &[(u64, &str)] = &[
    (7, "a record read back before it was written counted as damage"),
    (10, "a seed ended at a state that its base had passed before a restart"),
    (14, "children kept a place in a log that was emptied"),
    (15, "acknowledged a position of a log that was emptied, before the mailbox knew"),
    (18, "a record written after its commit was never committed"),
    (19, "a seed ended in the middle of a folded set"),
    (28, "readers held the last room and nobody looked again"),
    (32, "an abandoned attempt was mixed with its successor after a restart"),
    (65, "a seed cleared the base under merge writes that were still under way"),
    (71, "a state could be pinned between the start of a seed and its mark"),
    (101, "a primary listed a kept state whose set it then abandoned"),
    (114, "a set that only lacked room for its header waited for ever"),
    (104, "a receiver had room left, but less than a grant, and stood still"),
    (146, "a replica that came back before its seed mark was durable asked for no seed"),
    (548, "requests of a seed that had ended moved its successor on"),
    (2287, "a state that was released and kept again at once was not listed"),
    (2204, "a seed ended with a set that was cut before its last extents were read"),
    (2218, "the room that counts as short left less credit than one chunk"),
    (3160, "chunks that came twice used up the credit, and no more was granted"),
    (119, "a reader's view held the log and its end told nobody"),
    (126, "a write after a cut counted for the set that was finished and not committed"),
    (144, "two superblocks that break pins were on their way at the same time"),
    (348, "a seed went on from a node whose own content was being cleared"),
    (1249, "a replica without room stood still after a restart: nothing gave room back"),
    (2839, "the answer to an attachment was taken for that of a later one"),
    (70546, "a state to be kept was passed before the mailbox listed its pin"),
    (21310, "writes of records that were given up landed on those that came after them"),
    (22796, "a kept state could be opened although a seed had begun to overwrite it"),
    (24236, "a seed from a parent that was behind took a replica back"),
    (25090, "blocks whose before images were on their way at a restart were never saved again"),
    (25587, "a set header was sent for a step whose last chunks were gone"),
    (1_000_133, "growth was forgotten for a moment when the newest mailbox slot was lost"),
    (1_000_157, "growth was forgotten for a moment when the newest mailbox slot was lost"),
    (1_001_639, "damaged blocks below an older parent stayed, and nobody said what to do"),
    (1_000_891, "a frame of a new session counted as one that went again over another connection"),
    (1_001_821, "a set that a lost slot had named had a rotten record, and its number came again"),
    (
        2_000_052,
        "positions more than a round beyond the tail of an older slot left less than no room",
    ),
    (2_000_038, "a damaged replica was promoted, and damage became the volume"),
    (2_000_085, "a damaged replica was promoted, and nobody could tell damage any more"),
    (2_000_170, "a replica that knew of damage was promoted"),
    (2_000_290, "a replica that knew of damage was promoted"),
    (2_000_291, "a replica that knew of damage was promoted"),
    (2_000_285, "a seed ended within a set of which a part was written before the disk was full"),
    (2_000_053, "the newest set of a line that was given up counted as missing for ever"),
    (2_000_406, "a table of hashes that proved nothing was held against a branch"),
    (2_000_873, "a kept state was read below hidden content, and showed what had rotted there"),
    (2_001_130, "a replica that was a writer once made its table of hashes anew at every start"),
    (2_001_166, "a crash right after a discard forgot it, and a mixture became the volume"),
    (2_001_892, "a table that was made anew without need was made of damaged content"),
    (2_000_450, "a promoted writer lost its newest mailbox slot, and counted on the line before"),
    (2_000_726, "a promoted writer lost its newest mailbox slot, and counted on the line before"),
    (2_001_491, "a promoted writer lost its newest mailbox slot, and counted on the line before"),
    (3_000_046, "a catch-up stood still when its parent had less than the child"),
    (3_000_074, "a seed waited for a set whose number its writer had lost in a crash"),
    (4_000_010, "a table of hashes that proved nothing was held against a branch"),
    (4_000_776, "a hash that had rotted at a node got into the digests that it told as the writer"),
    (4_000_087, "a comparison that found nothing to differ counted for the seed after it as well"),
    (7_000_325, "a comparison that found nothing to differ counted for the seed after it as well"),
    (1_000_080, "content that had rotted went to a child where a set not shown yet had the block"),
    (4_001_311, "a hash that had rotted at a node got into the digests that it told as the writer"),
    (4_001_437, "a hash that had rotted at a node got into the digests that it told as the writer"),
    (4_001_351, "a writer took sound content for damaged because its hash had rotted"),
    (4_001_587, "a replica that was filled anew went on saying that it differed"),
    (4_010_013, "blocks that were those of a later state made content count as proven"),
    (4_010_299, "a state was kept of content that was not proven"),
    (5_000_052, "what was kept from before could not be mended from a writer without a set"),
];

/// As [`REGRESSIONS`], but what full save volumes do is drawn as well.
const WITH_POLICIES: &[(u64, &str)] = &[
    (4_000_257, "the newest set of a line that was given up kept a node's lag unknown"),
    (
        4_020_227,
        "a writer's table was half made when it was killed, and its mailbox still named it",
    ),
    (5_001_654, "a lost slot brought a released state back, whose blocks had been overwritten"),
    (5_002_476, "a lost slot let a state be kept that the content had passed"),
    (4_001_409, "a reader that was there before went on with content that was known to differ"),
    (1_000_537, "the room that an older mailbox slot names was taken for damage of the disk"),
    (1_001_088, "a seed waited for a set that was given up, and whose number came again"),
    (2_000_399, "playback that began anew elsewhere said for good that it had stopped"),
];

/// The runs of CI's seeds, by the tests that look at them.
static CI: LazyLock<Vec<Tally>> = LazyLock::new(run_ci);

/// Seeds of CI that fail, what the check that finds them says, and why: what they found is not mended
/// yet. Each goes to the lists above as soon as it is.
const OPEN: &[(u64, &str, &str)] = &[];

/// What happened in the range of CI's seeds that begins here, unless one of them failed.
fn range(from: u64) -> &'static Counters {
    let i = RANGES.iter().position(|r| r.0 == from).expect("a range of CI");
    let tally = &CI[i];
    println!("from {from}: {}", tally.words());
    let open = |seed: u64| OPEN.iter().any(|(s, ..)| *s == seed);
    let failed: Vec<_> = tally.failures.iter().filter(|f| !open(f.seed)).collect();
    if let Some(first) = failed.first() {
        let all: Vec<_> = failed.iter().map(|f| (f.seed, &f.text)).collect();
        panic!("{} seeds failed: {all:#?}\n{first}", all.len());
    }
    &tally.counters
}

#[test]
fn what_is_open_still_fails() {
    for (seed, says, what) in OPEN {
        let mut ranges = RANGES.iter().zip(CI.iter());
        let of_ci = ranges.find(|((from, n), _)| (*from..from + n).contains(seed));
        let (_, tally) = of_ci.expect("a seed of CI");
        let failure = tally.failures.iter().find(|f| f.seed == *seed);
        let text = failure.map_or("it does not fail any more", |f| &f.text);
        assert!(text.contains(says), "seed {seed} is no open finding of this ({what}): {text}");
    }
}

/// Everything that must have happened at least once, or the simulation has gone blind.
const MUST_HAPPEN: &[&str] = &[
    "catch-up begun",
    "catch-up finished",
    "catch-up resumed",
    "catch-up staged",
    "catch-up weighed",
    "child ahead of parent",
    "chunk cut through",
    "connection cut",
    "connection left half open",
    "crash between two effects",
    "crash of a node that is being seeded",
    "cut demanded, kept",
    "detached",
    "detached after a wait",
    "duplicate chunk",
    "flush",
    "forged: a bit of a body before the head",
    "forged: a bit of a body behind the head",
    "forged: a bit of a header before the head",
    "forged: a bit of a header behind the head",
    "forged: a chunk of something else",
    "forged: a damaged slot",
    "forged: a head within a record",
    "forged: a head within a set",
    "forged: a line that is not opened yet",
    "forged: a record twice",
    "forged: a ring that is being filled",
    "forged: a ring that is full",
    "forged: a seed under way",
    "forged: a set",
    "forged: a set begun again with a higher attempt",
    "forged: a set begun again with a lower attempt",
    "forged: a set begun again with the same attempt",
    "forged: a set of another line",
    "forged: a set over several states",
    "forged: a set that does not follow",
    "forged: a set that is not finished",
    "forged: a set without data",
    "forged: a slot of zeroes",
    "forged: a staged catch-up",
    "forged: a staged step",
    "forged: a tail within a set",
    "forged: an end that does not fit",
    "forged: chunks out of order",
    "forged: the first commit",
    "forged: the set before once more",
    "frame sent again over another connection",
    "further connection joined",
    "keep demanded",
    "kept state read after a restart",
    "kept state released",
    "kept states read on trial",
    "kill of a replica",
    "kill of the primary",
    "log given up on trial",
    "log wrapped",
    "long absence",
    "looked at while stopped",
    "lost write",
    "one-way stall",
    "opened on trial",
    "opened on trial without a bit of the save volume",
    "opened on trial without the newest slot",
    "opened on trial without the newest slot and a bit of the save volume",
    "orderly stop",
    "partition",
    "policy changed",
    "power cut of a relay",
    "power cut of a replica",
    "power cut of the primary",
    "queue coalesced at attach",
    "queue coalesced in a running stream",
    "read refused",
    "readable under a catch-up in place",
    "reader done",
    "reader lost its state",
    "released state kept again",
    "replication stopped",
    "route added",
    "route deleted",
    "runs converged",
    "said in both slots",
    "seed begun",
    "seed demanded",
    "seed ended through a relay",
    "seed finished",
    "seed resumed",
    "set without data",
    "sets of the save volume taken over on trial",
    "slow disk",
    "staged catch-up finished",
    "staged catch-up given up",
    "the volume grew",
    "told of states that are no longer kept",
    "torn write",
    "write met a closed gate",
    "write waited for room",
    "write waited for the drain",
];

/// Faults that any run may have.
const EVERYWHERE: &[&str] =
    &["kill", "power cut", "connection cut", "one-way stall", "partition", "slow disk"];

/// Each of these faults met a node in the middle of each of these things.
fn all_met(counters: &Counters, faults: &[&str], states: &[&str]) {
    let met = |f: &str, s: &str| counters.1.iter().any(|((a, b), _)| *a == f && *b == s);
    for fault in faults {
        for state in states.iter().filter(|s| never(fault, s).is_none()) {
            assert!(met(fault, state), "`{fault}` never met a node that is {state}");
        }
    }
}

#[test]
fn seeds_that_once_failed() {
    for (seed, what) in REGRESSIONS {
        if let Err(f) = run_as(Edition::Plain, *seed, false) {
            panic!("{what}, again:\n{f}");
        }
    }
    for (seed, what) in WITH_POLICIES {
        if let Err(f) = run_as(Edition::Policies, *seed, false) {
            panic!("{what}, again:\n{f}");
        }
    }
}

#[test]
fn every_seed_has_its_steps() {
    let mut all = Tally::default();
    CI.iter().for_each(|t| all.merge(t));
    println!("{}", all.words());
    let seeds = RANGES.iter().map(|(_, n)| n).sum::<u64>();
    assert!(seeds >= 2_000, "CI runs {seeds} seeds");
    let (least, seed) = all.least().unwrap_or_default();
    assert!(least >= STEPS, "seed {seed} has {least} steps");
}

#[test]
fn volumes_that_chance_makes_up_are_read_alike() {
    for seed in 0..20_000 {
        if let Err(e) = forged(&mut Rng::new(seed)) {
            panic!("volume {seed}: {e}");
        }
    }
}

/// So often each fault has met a node in the middle of each thing.
const MET: u64 = 100;

#[test]
fn every_fault_meets_every_state_often() {
    let mut all = Tally::default();
    CI.iter().for_each(|t| all.merge(t));
    println!("{}", Table(&all.counters.1));
    let met = |f, s| all.counters.1.get(&(f, s)).copied().unwrap_or(0);
    let cells = FAULTS.iter().flat_map(|f| STATES.iter().map(move |s| (*f, *s)));
    let thin: Vec<_> = cells
        .filter(|(f, s)| never(f, s).is_none() && met(*f, *s) < MET)
        .map(|(f, s)| format!("`{f}` met a node that is {s} {} times", met(f, s)))
        .collect();
    assert!(thin.is_empty(), "{thin:#?}");
}

#[test]
fn blows_at_a_node_in_the_middle_of_one_thing() {
    let counters = range(AIMED);
    for what in ["aimed blow", "blow that came too late", "write refused by a full file system"] {
        assert!(counters.get(what) > 0, "never happened: {what}\n{counters}");
    }
}

#[test]
fn disks_that_fail_and_rot() {
    let counters = range(BAD_DISKS);
    let faults = ["failed request", "rot in the save area", "mailbox slot lost"];
    all_met(counters, &faults, &["writing", "making a set", "merging", "starting"]);
    for what in [
        "bit flipped in a save area",
        "block status",
        "damage or failure reported",
        "failed request",
        "file system full",
        "flush failed",
        "newest mailbox slot lost",
        "no space left",
        "notice lost",
        "old content could not be read",
        "request refused by a volume that stopped",
        "stood still: a seed",
        "stood still: playback",
    ] {
        assert!(counters.get(what) > 0, "never happened: {what}\n{counters}");
    }
}

#[test]
fn a_few_hundred_seeds() {
    let counters = range(2_000);
    println!("{counters}");
    let busy = ["writing", "making a set", "merging", "seeding", "catching up", "starting"];
    all_met(counters, EVERYWHERE, &busy);
    for what in MUST_HAPPEN {
        assert!(counters.get(what) > 0, "never happened: {what}\n{counters}");
    }
}

#[test]
fn forwarders_that_are_away_for_long() {
    let counters = range(BYPASS);
    for what in [
        "detached beyond a limit",
        "disk lost",
        "fed in another's place",
        "handed back",
        "left to who feeds it",
        "partition",
    ] {
        assert!(counters.get(what) > 0, "never happened: {what}\n{counters}");
    }
}

#[test]
fn writers_that_change() {
    let counters = range(TURNS);
    all_met(counters, EVERYWHERE, &["undoing", "swapping"]);
    for what in [
        "content kept until it is proven",
        "content compared before writers were let in",
        "crash of a node that is being seeded",
        "crash right after a promotion was stored",
        "node followed another line",
        "promoted",
        "promotion of which nobody knows whether it is stored",
        "role could not be stored",
        "runs converged",
        "swap finished",
        "swap left unfinished",
        "taken back",
        "writer became a replica",
    ] {
        assert!(counters.get(what) > 0, "never happened: {what}\n{counters}");
    }
}

#[test]
fn operators_who_know_nothing_of_each_other() {
    let counters = range(OPERATORS);
    for what in ["clock jumped", "promoted", "swap finished", "two operators at once"] {
        assert!(counters.get(what) > 0, "never happened: {what}\n{counters}");
    }
}

#[test]
fn blows_at_moments_at_which_little_holds() {
    let counters = range(MOMENTS);
    for what in ["newest mailbox slot lost", "struck at a moment", "seed finished", "swap finished"]
    {
        assert!(counters.get(what) > 0, "never happened: {what}\n{counters}");
    }
}

#[test]
fn mirrors_and_versions_of_them() {
    let counters = range(MIRRORS);
    for what in [
        "catch-up finished",
        "mirror brought to a version in the end",
        "mirror with a whole set not read",
        "mirroring again wanted",
        "promoted",
        "replica read",
        "seed finished",
        "taken back",
        "version wanted",
    ] {
        assert!(counters.get(what) > 0, "never happened: {what}\n{counters}");
    }
}
