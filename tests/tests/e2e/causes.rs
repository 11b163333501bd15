//! Two things hold a copy back at the same time: the one to mend first is named.
//!
//! The tree is `p -> f -> l, x` and `p -> y`; it is asked about the copy at `l`. Everything happens
//! for real: a narrow connection, a slow disk, dead processes, an expired certificate.

use std::time::Duration;

use node::http::{paths, requests};
use node::why::{Answer, Cause, Copy, Explained, Kind, Said, explain};
use tests::rig::{
    Authority, Clock, MIB, Narrow, Plan, Random, SlowDisk, Tree, may_mount, wait_for,
};

use crate::load::{Ends, Load};

/// Save volumes have to fill and to be emptied, beside other tests.
const LONG: Duration = Duration::from_secs(150);
/// What clients write, bytes a second, and where it is held back.
const WRITES: u64 = 1 << 20;
const WIDE: u64 = 100 << 20;
/// A disk has to write what comes twice, and more.
const SLOW_DISK: u64 = 600_000;
const SLOW_LINK: u64 = 300_000;
const SLOWER_LINK: u64 = 60_000;
const SLOWER_DISK: u64 = 100_000;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// What may be wrong. Of two, the one that stands first here is named first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// The writer waits for `y`, which is dead.
    Suspended,
    /// `f` is dead.
    DeadParent,
    /// The save volume of `f` is full of what `x` has not taken, which is dead.
    FullSave,
    /// `l` is dead.
    DeadLeaf,
    /// The certificate of `l` is no longer good.
    Expired,
    /// An operator stopped `l`.
    Paused,
    /// From `f` to `l`.
    SlowLink,
    /// At `l`.
    SlowDisk,
}

use Fault::*;

const ALL: [Fault; 8] =
    [Suspended, DeadParent, FullSave, DeadLeaf, Expired, Paused, SlowLink, SlowDisk];

impl Fault {
    /// Where it is seen, as what, and what that follows from.
    fn named(self) -> &'static [(&'static str, Kind)] {
        match self {
            Suspended => &[("p", Kind::Suspended), ("y", Kind::Silent)],
            DeadParent => &[("f", Kind::Silent)],
            FullSave => &[("f", Kind::Full), ("x", Kind::Silent)],
            DeadLeaf => &[("l", Kind::Silent)],
            Expired => &[("f -> l", Kind::Refused)],
            Paused => &[("l", Kind::Stopped)],
            SlowLink => &[("f -> l", Kind::Link)],
            SlowDisk => &[("l", Kind::Disk)],
        }
    }

    /// It shows when a save volume has run full: nothing else may be in the way of that.
    fn needs_a_flow(self) -> bool {
        matches!(self, Suspended | FullSave)
    }

    /// A node that does not answer says nothing of what else is wrong with it.
    fn hides(self, other: Fault) -> bool {
        match self {
            DeadParent => matches!(other, FullSave | Expired),
            DeadLeaf => matches!(other, Expired | Paused),
            _ => false,
        }
    }
}

struct Scene {
    // Goes first: the tree's folder is around it.
    disk: SlowDisk,
    way: Narrow,
    tree: Tree,
}

impl Scene {
    fn new() -> Option<Self> {
        let routes: [(&str, &[&str]); 2] = [("p", &["f", "y"]), ("f", &["l", "x"])];
        let mut plan = Plan::new(&routes).volume("vol", 16).save(8).cut_every(200).by("tls");
        plan.group().policy.on_full = Some("suspend".to_owned());
        plan.group().policy.suspend_limit = Some("1h".to_owned());
        plan.group().bypass = Some(false);
        let way = Narrow::listen(WIDE);
        plan.spec.nodes.get_mut("l").unwrap().address = Some(way.addr.to_string());
        let tree = Tree::prepare(&mut plan);
        tree.expect(" WARN ");
        tree.expect(" ERROR ");
        way.lead_to(tree.addr("l"));
        let disk = SlowDisk::mount(tree.dir(), &tree.folder("l"), 256 * MIB, WIDE)?;
        for node in ["p", "f", "x", "y", "l"] {
            tree.up(node);
        }
        Some(Self { tree, way, disk })
    }

    fn certificate(&self, good: bool) {
        let (ca, now, hour) = (self.tree.authority(), Authority::now(), Duration::from_secs(3600));
        let shown = match good {
            true => ca.issue(&["l"]),
            false => ca.issue_for(&["l"], now - 9 * hour, now - 3 * hour),
        };
        shown.write(&self.tree.pki(), "l");
    }

    fn replicates(&self, on: bool) {
        let body = requests::Replicate { volume: "vol".to_owned(), on };
        let _: requests::Done = self.tree.post("l", paths::REPLICATE, &body).unwrap();
    }

    /// `then`: the other one has limited the copy before.
    fn begin(&self, fault: Fault, then: bool) {
        match fault {
            Suspended => self.tree.kill("y"),
            DeadParent => self.tree.kill("f"),
            FullSave => self.tree.kill("x"),
            DeadLeaf => self.tree.kill("l"),
            Expired => {
                self.tree.kill("l");
                self.certificate(false);
                self.tree.up("l");
            }
            Paused => self.replicates(false),
            SlowLink => self.way.limit(if then { SLOWER_LINK } else { SLOW_LINK }),
            SlowDisk => self.disk.limit(if then { SLOWER_DISK } else { SLOW_DISK }),
        }
    }

    /// All is well again.
    fn end(&self) {
        self.way.limit(WIDE);
        self.disk.limit(WIDE);
        self.certificate(true);
        for node in ["y", "f", "x", "l"] {
            if self.tree.pid(node).is_none() {
                self.tree.up(node);
            }
        }
        let stopped = || self.tree.volume("l", "vol").map(|v| !v.replicating);
        if wait_for("l to answer", LONG, stopped) {
            self.replicates(true);
        }
        // Nothing is kept for who has not got anything yet: all of them, not `l` alone.
        wait_for("nothing to be in the way", LONG, || {
            let all = self.found()?;
            let newest = all.newest.ok_or("nobody writes")?;
            let near = |c: &Copy| c.set.is_some_and(|s| s > 0 && s + 5 >= newest);
            let good = |c: &Copy| c.causes.is_empty() && near(c);
            if all.copies.len() == 4 && all.copies.iter().all(good) {
                Ok(())
            } else {
                Err(format!("{all:?}"))
            }
        });
    }

    fn found(&self) -> Result<Explained, String> {
        let asked =
            ["p", "f", "x", "y", "l"].map(|n| (n, self.tree.status(n).map_err(|e| e.to_string())));
        let answers: Vec<_> = asked
            .iter()
            .map(|(node, s)| Answer {
                node,
                said: s.as_ref().map_or_else(|e| Said::Nothing(e), Said::Status),
            })
            .collect();
        explain("vol", &answers).map_err(|e| format!("{e:?}"))
    }

    /// What the nodes on the way say themselves.
    fn said(&self) -> String {
        let of = |n| self.tree.volume(n, "vol").map(|v| (v.delayed, v.suspended, v.children));
        ["p", "f", "l"].map(|n| format!("{n}: {:?}", of(n))).join("; ")
    }

    /// Until it is named at three looks in a row: not for a moment only.
    fn names(&self, what: &str, fault: Fault, also: Option<Fault>) {
        let clock = Clock::default();
        let mut looks = 0;
        wait_for(&format!("{what}: {fault:?} to be named"), LONG, || {
            clock.pace(clock.passed() + LOOK);
            let copies = self.found()?.copies;
            let copy = copies.into_iter().find(|c| c.node == "l").ok_or("l has no copy")?;
            let is_there = |f: &Fault| copy.causes.iter().any(|c| is(Some(c), *f));
            let good = is(copy.causes.first(), fault) && also.iter().all(is_there);
            looks = if good { looks + 1 } else { 0 };
            if looks == 3 { Ok(()) } else { Err(format!("{:?}; {}", copy.causes, self.said())) }
        });
    }

    fn pair(&self, first: Fault, then: Fault) {
        let what = format!("{first:?}, then {then:?}");
        let clock = Clock::default();
        if first.needs_a_flow() && then.needs_a_flow() {
            self.begin(then, true);
            self.begin(first, false);
        } else {
            self.begin(first, false);
            self.names(&what, first, None);
            self.begin(then, true);
        }
        let named = if then == SlowDisk && first == SlowLink { then } else { first.min(then) };
        // What only slows does not show where nothing flows any more; else both are on the list.
        let shows = |f: Fault| f != named && !matches!(f, SlowLink | SlowDisk);
        let hidden = first.hides(then) || then.hides(first);
        let also = [first, then].into_iter().find(|f| shows(*f) && !hidden);
        self.names(&what, named, also);
        let named_after = clock.passed();
        self.end();
        let (named, all) = (named_after.as_secs_f64(), clock.passed().as_secs_f64());
        eprintln!("{what}: named after {named:.1} s, over after {all:.1} s");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // It stands on the disk that goes first.
        if self.tree.pid("l").is_some() {
            self.tree.kill("l");
        }
    }
}

/// Whether this is what is said of a fault, and of what it follows from.
fn is(cause: Option<&Cause>, fault: Fault) -> bool {
    let chain = std::iter::successors(cause, |c| c.because.as_deref());
    chain.map(|c| (c.at.as_str(), c.kind)).eq(fault.named().iter().copied())
}

/// Clients write all the time.
fn writes(scene: &Scene, load: &Load) {
    let mut client = None;
    let mut random = Random::seeded("causes");
    let mut piece = vec![0; 64 << 10];
    let clock = Clock::default();
    let mut at = Duration::ZERO;
    while load.on() {
        for word in piece.chunks_exact_mut(8) {
            word.copy_from_slice(&random.below(u64::MAX).to_le_bytes());
        }
        // Writes wait as long as the writer does, which is longer than this client has patience.
        let open = client.take().or_else(|| scene.tree.open("p", "vol").ok());
        let place = random.below(256) * (64 << 10);
        client = open.and_then(|mut c| c.write(place, &piece, false).is_ok().then_some(c));
        at =
            clock.passed().max(at) + Duration::from_micros(piece.len() as u64 * 1_000_000 / WRITES);
        clock.pace(at);
    }
}

/// The pairs of which one is in this half, with the one that is to hold first; where both only slow,
/// the narrower of the two is named, whichever that is.
fn pairs(half: usize) -> Vec<(Fault, Fault)> {
    let mut all: Vec<(Fault, Fault)> = Vec::new();
    for (i, a) in ALL.iter().enumerate() {
        for b in &ALL[i + 1..] {
            // What needs a flow has to hold before anything else is in its way; else the one that is
            // named in the end comes second, and takes the other's place.
            all.push(if a.needs_a_flow() { (*a, *b) } else { (*b, *a) });
        }
    }
    all.extend([(SlowLink, SlowDisk), (DeadParent, DeadLeaf)]);
    all.into_iter().enumerate().filter(|(i, _)| i % 2 == half).map(|(_, p)| p).collect()
}

fn plays(half: usize) {
    if !may_mount("a slow disk") {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let load = Load::default();
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writes(&scene, &load));
        scene.end();
        for (first, then) in pairs(half) {
            scene.pair(first, then);
        }
    });
}

#[test]
fn of_two_causes_the_first_to_mend_is_named_one_half() {
    plays(0);
}

#[test]
fn of_two_causes_the_first_to_mend_is_named_the_other_half() {
    plays(1);
}

#[test]
fn every_pair_is_played_and_what_needs_a_flow_holds_first() {
    let all: Vec<_> = pairs(0).into_iter().chain(pairs(1)).collect();
    assert_eq!(all.len(), 30);
    assert!(ALL.iter().all(|f| all.iter().any(|(first, _)| first == f)), "each is named alone");
    for (first, then) in all {
        assert!(!then.needs_a_flow() || first.needs_a_flow(), "{first:?}, then {then:?}");
    }
}
