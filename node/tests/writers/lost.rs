//! A writer that is not heard of is told to a handler, once, wherever the line is cut.

use super::*;

const ALL: [&str; 3] = ["p", "l1", "l2"];

impl Rig {
    /// Nobody reaches the node any more, nor it anybody.
    pub(super) fn apart(&mut self, n: &'static str) {
        self.down.push(n);
        let cut: Vec<_> = self.wires.keys().filter(|(a, _)| *a == n).copied().collect();
        let (now, wall) = (self.mono(), self.wall());
        for end in cut {
            let other = self.wires.remove(&end).expect("two ends");
            self.wires.remove(&other);
            for (node, conn) in [end, other] {
                self.node(node).mover.lost(now, wall, conn, "the line is cut");
            }
        }
        self.run();
    }

    /// Handlers about the line to the writer that were started at a node; they end well.
    fn missed(&mut self, n: &str) -> Vec<String> {
        let (now, _) = (self.mono(), self.wall());
        let run = std::mem::take(&mut self.node(n).handled);
        for (id, ..) in &run {
            self.node(n).mover.control_done(now, *id, true, "good".into());
        }
        self.run();
        run.into_iter().map(|(_, kind, body)| format!("{kind} {}", body.trim_end())).collect()
    }

    /// Kinds of all handlers that were started, at each node.
    fn missed_by(&mut self) -> [Vec<String>; 3] {
        let kind = |told: String| told.split(' ').next().expect("a word").to_owned();
        ALL.map(|n| self.missed(n).into_iter().map(kind).collect())
    }

    fn route(&mut self, n: &str, hop: &str, there: bool) {
        let group = "g1".to_owned();
        let ask = if there {
            let (next_hop, by) = (hop.to_owned(), Hop::default());
            Ask::RouteAdd { group, next_hop, by, unasked: true }
        } else {
            Ask::RouteDelete { group: Some(group), next_hop: Some(hop.to_owned()) }
        };
        let ask = self.ask(n, ask);
        assert!(self.told(n, ask).contains("Routes"), "{}", self.told(n, ask));
    }

    fn reason(&self, n: &str) -> Option<String> {
        self.nodes[n].mover.status().volumes[0].reason.clone()
    }
}

/// `p` feeds `l1`, and that one `l2`; all have a handler. Some are of the oldest version.
fn three(older: &[&'static str]) -> Rig {
    let mut r = Rig::new();
    r.handlers = ["writer-lost", "writer-back"].map(str::to_owned).into();
    r.older = older.to_vec();
    r.add("p", "g1", &["l1"]);
    r.create("p", &identity("p", "g1", "primary"));
    r.add("l1", "g1", &["l2"]);
    r.add("l2", "g1", &[]);
    r.pass(2_000);
    r.write("p", 1, 1);
    r.pass(500);
    assert_eq!([r.visible("p"), r.visible("l1"), r.visible("l2")], [1; 3]);
    r
}

fn none() -> [Vec<String>; 3] {
    Default::default()
}

fn below(kind: &str) -> [Vec<String>; 3] {
    [vec![], vec![kind.to_owned()], vec![kind.to_owned()]]
}

#[test]
fn everybody_below_the_place_where_the_line_is_cut_is_told_once() {
    let mut r = three(&[]);
    // A writer that has nothing to send is heard of.
    r.pass(120_000);
    assert_eq!(r.missed_by(), none());
    let since = r.now / 1_000_000;
    r.apart("p");
    r.pass(28_000);
    assert_eq!(r.missed_by(), none(), "it is not long enough");
    assert_eq!(r.reason("l2"), None);
    r.pass(6_000);
    assert!(r.node("p").handled.is_empty(), "the writer misses nobody");
    // What is said of a parent that is not there says it all; one that is there is to be asked.
    let why = r.reason("l1").expect("a reason");
    assert!(why.contains("the parent p is not connected") && !why.contains("heard"), "{why}");
    let why = r.reason("l2").expect("a reason");
    assert!(why.starts_with("nothing was heard of the writer for 3"), "{why}");
    assert!(why.ends_with(" s: l1 says why"), "{why}");
    for (n, parent, within) in [("l1", "p", 1), ("l2", "l1", 4)] {
        let told = r.missed(n);
        let [told] = told.as_slice() else { panic!("{n}: {told:?}") };
        let told: Vec<_> = told.split(' ').collect();
        let ["writer-lost", "vol", at, by] = told[..] else { panic!("{n}: {told:?}") };
        let at: u64 = at.parse().expect("seconds");
        assert!(at.abs_diff(since) <= within, "{n}: {at}, and it was cut at {since}");
        assert_eq!(by, parent);
    }
    r.pass(600_000);
    assert_eq!(r.missed_by(), none(), "once");
    // It was only cut off.
    r.down.clear();
    r.pass(60_000);
    assert_eq!(r.missed_by(), below("writer-back"));
    assert_eq!(r.reason("l2"), None);
    r.pass(60_000);
    assert_eq!(r.missed_by(), none());
    assert_eq!([r.visible("l1"), r.visible("l2")], [1; 2]);
}

#[test]
fn one_that_takes_over_is_told_nothing_more_and_those_below_hear_of_it() {
    let mut r = three(&[]);
    r.apart("p");
    r.pass(31_000);
    assert_eq!(r.missed("l1").len(), 1);
    let promoted = r.promote("l1");
    assert!(r.told("l1", promoted).contains("fresh: true"), "{}", r.told("l1", promoted));
    r.pass(120_000);
    assert_eq!(r.missed_by(), none(), "l2 hears of the new one in time");
    // The old one is back, is fenced, and is made a copy: nobody has to feed it at once.
    r.down.clear();
    r.route("l1", "p", true);
    r.pass(20_000);
    r.is_closed("p", "l1 took over");
    r.change("p", WriterChange::Resync { volume: "vol".to_owned(), discard: false });
    r.pass(120_000);
    assert_eq!(r.missed_by(), none());
    r.apart("l1");
    r.pass(40_000);
    assert_eq!(r.missed_by(), [vec!["writer-lost".to_owned()], vec![], vec!["writer-lost".into()]]);
}

#[test]
fn a_writer_of_before_is_no_sign_of_the_writer() {
    let mut r = three(&[]);
    r.apart("p");
    r.promote("l1");
    r.pass(5_000);
    assert_eq!(r.nodes["l2"].mover.volume(VOLUME).expect("l2").history().len(), 2);
    r.apart("l1");
    r.down.retain(|n| *n != "p");
    // It offers what it has to one that knows better.
    r.route("p", "l1", false);
    r.route("p", "l2", true);
    r.pass(50_000);
    r.is_closed("p", "l1 took over");
    let told = r.missed("l2");
    assert!(told.len() == 1 && told[0].starts_with("writer-lost"), "{told:?}");
}

#[test]
fn a_planned_swap_makes_nobody_miss_the_writer() {
    let mut r = three(&[]);
    let volume = || "vol".to_owned();
    let hold = r.change("p", WriterChange::Hold { volume: volume(), limit_ms: 30_000 });
    assert!(r.told("p", hold).contains("Cut"), "{}", r.told("p", hold));
    r.pass(25_000);
    let (to, set) = ("l1".to_owned(), r.visible("p"));
    r.change("p", WriterChange::HandOver { volume: volume(), to, set, whole: true });
    r.pass(5_000);
    r.promote("l1");
    r.is_open("l1");
    r.change("p", WriterChange::Resync { volume: volume(), discard: false });
    r.pass(25_000);
    r.route("p", "l1", false);
    r.pass(25_000);
    r.route("l1", "p", true);
    r.pass(60_000);
    assert_eq!(r.missed_by(), none());
    r.write("l1", 7, 7);
    r.pass(500);
    assert_eq!(ALL.map(|n| r.visible(n)), [r.visible("l1"); 3]);
    // From now on the old writer misses the new one.
    r.apart("l1");
    r.pass(40_000);
    assert_eq!(r.missed_by(), [vec!["writer-lost".to_owned()], vec![], vec!["writer-lost".into()]]);
}

#[test]
fn whose_route_was_removed_misses_nobody_before_it_is_fed_again() {
    let mut r = three(&[]);
    r.route("l1", "l2", false);
    r.pass(300_000);
    assert_eq!(r.missed_by(), none());
    r.route("l1", "l2", true);
    r.pass(60_000);
    assert_eq!(r.missed_by(), none());
    r.apart("p");
    r.pass(40_000);
    assert_eq!(r.missed_by(), below("writer-lost"));
}

#[test]
fn one_that_only_saves_sets_hears_of_the_writer() {
    let mut r = three(&[]);
    r.ask("l1", Ask::Replicate { volume: "vol".to_owned(), on: false });
    r.pass(120_000);
    assert_eq!(r.missed_by(), none());
    r.apart("p");
    r.pass(40_000);
    assert_eq!(r.missed_by(), below("writer-lost"));
}

#[test]
fn a_node_of_an_older_version_on_the_way_is_no_silence() {
    for older in ALL {
        let mut r = three(&[older]);
        r.pass(120_000);
        assert_eq!(r.missed_by(), none(), "{older}");
        r.apart("p");
        r.pass(40_000);
        // Over a session of that version only the parent's own end is noticed.
        let mut told = below("writer-lost");
        if older != "p" {
            told[2].clear();
        }
        assert_eq!(r.missed_by(), told, "{older}");
        if older != "p" {
            r.apart("l1");
            r.pass(40_000);
            assert_eq!(r.missed_by(), [vec![], vec![], told[1].clone()]);
        }
    }
}

#[test]
fn a_second_handler_waits_for_the_first_one() {
    let mut r = three(&[]);
    r.apart("p");
    r.pass(40_000);
    // It runs. Meanwhile the writer comes and goes.
    assert_eq!(r.node("l1").handled.len(), 1);
    r.down.clear();
    r.pass(30_000);
    r.apart("p");
    r.pass(60_000);
    assert_eq!(r.node("l1").handled.len(), 1);
    let first = r.missed("l1");
    assert!(first[0].starts_with("writer-lost"), "{first:?}");
    let then = r.missed("l1");
    assert!(then.len() == 1 && then[0].starts_with("writer-lost") && then != first, "{then:?}");
    assert!(r.missed("l1").is_empty());
}
