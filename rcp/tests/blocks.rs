//! The control blocks under way at a node, as a value: many nodes in a tree, with messages lost,
//! doubled and late, and nodes that are started again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::control::{
    Below, Blocks, Effect, Journal, MAX_RESULT, Order, Origin, Part, Report, Taken, provisional,
};
use rcp::proto::frame::{ControlBlock, ControlResult};
use rcp::proto::ids::{GroupName, NodeName};

type Node = Blocks<u32, u32>;

fn name(n: &str) -> NodeName {
    NodeName::new(n).expect("good")
}

fn group() -> GroupName {
    GroupName::new("g1").expect("good")
}

fn block(n: u8) -> ControlBlock {
    let body = Bytes::from_static(b"x");
    ControlBlock { id: [n; 16], kind: "say".to_owned(), after: None, body, hops: 0 }
}

fn node(n: &str, max: usize) -> Node {
    Blocks::new(name(n), Journal::default(), max)
}

fn effects(n: &mut Node) -> Vec<Effect<u32, u32>> {
    std::iter::from_fn(|| n.poll_effect()).collect()
}

fn order(n: u8, origin: Origin<u32, u32>, children: &[&str], part: Part) -> Order<u32, u32> {
    let children = children.iter().map(|c| name(c)).collect();
    Order { group: group(), block: block(n), origin, children, part }
}

const ASK: Origin<u32, u32> = Origin::Ask { ask: 1, deadline: Mono(1000) };
const ABOVE: Origin<u32, u32> = Origin::Above { conn: 9 };

fn told(node: &str, ok: bool, body: &str, done: bool, n: u8) -> ControlResult {
    let body = Bytes::copy_from_slice(body.as_bytes());
    ControlResult { id: [n; 16], node: name(node), ok, body, done }
}

fn report(n: &mut Node) -> Report {
    match effects(n).pop() {
        Some(Effect::Answer { ask: 1, report }) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_begins_after_it_is_on_record_and_is_told_after_its_result_is() {
    let mut n = node("a", 8);
    assert_eq!(n.from_above(9, &group(), &block(1), Mono(0)), Taken::New);
    n.begin(order(1, ABOVE, &[], Part::Once), Mono(0));
    assert_eq!(effects(&mut n), []);
    n.go([1; 16], Mono(0), Wall(0));
    assert!(matches!(&effects(&mut n)[..], [Effect::Record { .. }]), "nothing runs before");
    n.done([1; 16], true, Bytes::from_static(b"early"), Mono(0), Wall(0));
    assert_eq!(effects(&mut n), []);
    n.recorded([1; 16], Ok(()), Mono(0));
    assert!(matches!(&effects(&mut n)[..], [Effect::Run { .. }]));
    n.done([1; 16], true, Bytes::from(vec![b'y'; 5000]), Mono(0), Wall(0));
    assert!(matches!(&effects(&mut n)[..], [Effect::Record { .. }]), "nothing is told before");
    n.recorded([1; 16], Ok(()), Mono(0));
    let said = effects(&mut n);
    let [Effect::Tell { result, .. }, Effect::Tell { result: last, .. }] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!((result.body.len(), result.done), (MAX_RESULT, false));
    assert!(last.done && last.body.is_empty());
    // Told again, it says the same, and does nothing.
    assert_eq!(n.from_above(9, &group(), &block(1), Mono(0)), Taken::Known);
    assert_eq!(effects(&mut n), said);
}

#[test]
fn what_cannot_be_put_on_record_is_not_executed() {
    let mut n = node("a", 8);
    n.begin(order(1, ABOVE, &[], Part::Once), Mono(0));
    n.go([1; 16], Mono(0), Wall(0));
    n.recorded([1; 16], Err("disk full".to_owned()), Mono(0));
    let said = effects(&mut n);
    assert!(!said.iter().any(|e| matches!(e, Effect::Run { .. })), "{said:?}");
    let text = |e: &Effect<u32, u32>| {
        matches!(e, Effect::Tell { result, .. }
        if !result.ok && result.body.starts_with(b"not executed, since it cannot"))
    };
    assert!(said.iter().any(text), "{said:?}");
    assert!(n.on_record(&block(1)).is_none(), "it may be tried again");
}

#[test]
fn a_member_that_changes_its_parent_is_waited_for_once() {
    let mut n = node("root", 8);
    n.begin(order(1, ASK, &["mid"], Part::Nothing), Mono(0));
    effects(&mut n);
    // mid is away, and x, which is below it, is fed from here.
    n.adopt(&group(), &name("x"), &name("mid"));
    n.for_child(&group(), &name("x"));
    assert!(matches!(&effects(&mut n)[..], [Effect::Pass { child, .. }] if *child == name("x")));
    n.adopt(&group(), &name("y"), &name("mid"));
    n.from_below(&group(), &name("x"), told("x", true, "fine", true, 1), Mono(1));
    assert_eq!(n.unfinished(&[1; 16]), [name("mid"), name("y")]);
    // mid is back, and has y again before y has finished.
    n.passed_on(&group(), &name("x"), Mono(2));
    n.passed_on(&group(), &name("y"), Mono(2));
    assert_eq!(n.unfinished(&[1; 16]), [name("mid")]);
    for (who, done) in [("x", false), ("y", false), ("mid", true)] {
        n.from_below(&group(), &name("mid"), told(who, true, "done", done, 1), Mono(3));
    }
    let members = report(&mut n).members(|_| Below::Up);
    let said: Vec<_> = members.iter().map(|m| (m.node.as_str(), m.ok, m.missing)).collect();
    assert_eq!(said, [("mid", true, false), ("x", true, false), ("y", true, false)]);
    // Who finished is not told what another has not.
    n.begin(order(2, ASK, &["mid", "z"], Part::Nothing), Mono(4));
    n.from_below(&group(), &name("mid"), told("mid", true, "done", true, 2), Mono(4));
    n.adopt(&group(), &name("x"), &name("mid"));
    assert_eq!(n.unfinished(&[2; 16]), [name("z")]);
}

#[test]
fn a_child_speaks_for_its_own_subtree_only() {
    let mut n = node("root", 8);
    assert_eq!(n.asked(&block(1), 1, Mono(1000), Mono(0)), Taken::New);
    n.begin(order(1, ASK, &["a", "b"], Part::Nothing), Mono(0));
    effects(&mut n);
    let other = GroupName::new("g2").expect("good");
    n.from_below(&other, &name("b"), told("b", true, "of another group", true, 1), Mono(1));
    for foreign in ["root", "b"] {
        n.from_below(&group(), &name("a"), told(foreign, true, "made up", false, 1), Mono(1));
    }
    n.from_below(&group(), &name("c"), told("c", true, "never asked", true, 1), Mono(1));
    // Those below it are its own, however much they say.
    let long = "x".repeat(5000);
    for i in 0..5000 {
        n.from_below(&group(), &name("a"), told(&format!("a{i}"), true, &long, false, 1), Mono(1));
    }
    n.from_below(&group(), &name("a"), told("a", true, "fine", true, 1), Mono(1));
    n.from_below(&group(), &name("b"), told("b", true, "fine", true, 1), Mono(1));
    let said = effects(&mut n);
    let Some(Effect::Answer { report, .. }) = said.last() else { panic!("{said:?}") };
    let members = report.members(|_| Below::Up);
    let of = |who: &str| members.iter().filter(|m| m.node == name(who)).collect::<Vec<_>>();
    assert_eq!((of("root").len(), of("c").len()), (0, 0));
    assert_eq!(of("b").iter().map(|m| m.text.as_ref()).collect::<Vec<_>>(), [b"fine"]);
    assert!(members.len() <= 4098 && members.len() > 4000, "{}", members.len());
    let bytes: usize = members.iter().map(|m| m.text.len()).sum();
    assert!(bytes < 512 << 10, "{bytes}");
}

#[test]
fn who_is_missing_is_told_from_who_refused() {
    let mut n = node("root", 8);
    assert_eq!(n.asked(&block(1), 1, Mono(1000), Mono(0)), Taken::New);
    n.begin(order(1, ASK, &["a", "b", "c", "d"], Part::Nothing), Mono(0));
    assert_eq!(effects(&mut n).len(), 4);
    n.from_below(&group(), &name("a"), told("a", true, "fine", true, 1), Mono(1));
    n.from_below(&group(), &name("b"), told("b", false, "no room", false, 1), Mono(1));
    n.from_below(&group(), &name("b"), told("x", false, "waits for state 7", false, 1), Mono(1));
    n.from_below(&group(), &name("c"), told("c", false, "waits for state 7", false, 1), Mono(1));
    n.check([1; 16], Mono(999));
    assert_eq!(effects(&mut n), []);
    n.check([1; 16], Mono(1000));
    let away = "not connected, nor are those below it: x".to_owned();
    let members = report(&mut n)
        .members(|child| if *child == name("d") { Below::Away(away.clone()) } else { Below::Up });
    let said: Vec<_> = members.iter().map(|m| (m.node.as_str(), m.ok, m.missing)).collect();
    let want = [
        ("a", true, false),
        ("b", false, false),
        ("c", false, true),
        ("x", false, true),
        ("d", false, true),
    ];
    assert_eq!(said, want);
    // Asked again under the same id, it goes on where it was.
    assert_eq!(n.asked(&block(1), 1, Mono(2000), Mono(1001)), Taken::Known);
    for c in ["b", "c", "d"] {
        n.from_below(&group(), &name(c), told(c, true, "", true, 1), Mono(1500));
    }
    assert!(report(&mut n).members(|_| Below::Up).len() == 4);
    assert!(n.is_empty());
}

#[test]
fn a_child_that_is_left_out_is_named_and_not_waited_for() {
    let mut n = node("mid", 8);
    n.begin(order(1, ABOVE, &["a"], Part::Nothing), Mono(0));
    effects(&mut n);
    n.leave_out([1; 16], &name("a"), "left out".to_owned(), Mono(5));
    let said = effects(&mut n);
    assert!(matches!(&said[0], Effect::Tell { result, .. } if result.node == name("a")));
    assert!(matches!(&said[1], Effect::Tell { result, .. } if result.done));
    n.leave_out([1; 16], &name("a"), "left out".to_owned(), Mono(5));
    assert_eq!(effects(&mut n), []);
}

#[test]
fn a_full_house_refuses_and_a_ring_is_cut() {
    let mut n = node("a", 2);
    for i in 1..=2 {
        n.begin(order(i, ABOVE, &["b"], Part::Nothing), Mono(u64::from(i)));
    }
    effects(&mut n);
    assert!(matches!(n.from_above(9, &group(), &block(3), Mono(3)), Taken::No(_)));
    assert!(matches!(&effects(&mut n)[..], [Effect::Tell { result, .. }]
        if result.done && result.body.starts_with(b"2 control blocks are under way")));
    n.from_below(&group(), &name("b"), told("b", true, "", true, 1), Mono(4));
    effects(&mut n);
    assert_eq!(n.from_above(9, &group(), &block(3), Mono(5)), Taken::New, "a done one goes");
    let ring = ControlBlock { hops: 64, ..block(4) };
    assert!(matches!(n.from_above(9, &group(), &ring, Mono(5)), Taken::No(_)));
    let other = ControlBlock { body: Bytes::from_static(b"y"), ..block(2) };
    assert!(matches!(n.from_above(9, &group(), &other, Mono(5)), Taken::No(_)));
    n.forget_idle(Mono(0).after(Duration::from_secs(3601)));
    assert!(n.is_empty());
}

/// A tree of nodes whose children are given by index, and what is under way between them.
struct World {
    nodes: Vec<Node>,
    children: Vec<Vec<usize>>,
    down: Vec<VecDeque<ControlBlock>>,
    up: Vec<VecDeque<ControlResult>>,
    /// The connection above each node; what is told over an earlier one is lost.
    conn: Vec<u32>,
    executed: BTreeMap<usize, u32>,
    answered: Option<Report>,
    now: Mono,
}

fn called(i: usize) -> NodeName {
    name(&format!("n{i}"))
}

impl World {
    /// Node 0 is the root; node i is below `parents[i - 1]`.
    fn new(parents: &[usize]) -> Self {
        let count = parents.len() + 1;
        let mut children = vec![Vec::new(); count];
        for (i, p) in parents.iter().enumerate() {
            children[p % (i + 1)].push(i + 1);
        }
        Self {
            nodes: (0..count).map(|i| node(&format!("n{i}"), 8)).collect(),
            children,
            down: vec![VecDeque::new(); count],
            up: vec![VecDeque::new(); count],
            conn: vec![0; count],
            executed: BTreeMap::new(),
            answered: None,
            now: Mono(0),
        }
    }

    fn names_below(&self, i: usize) -> BTreeSet<NodeName> {
        self.children[i].iter().map(|c| called(*c)).collect()
    }

    fn parent(&self, i: usize) -> Option<usize> {
        self.children.iter().position(|c| c.contains(&i))
    }

    fn settle(&mut self, i: usize) {
        while let Some(e) = self.nodes[i].poll_effect() {
            match e {
                Effect::Tell { conn, result } if conn == self.conn[i] => {
                    self.up[i].push_back(result);
                }
                Effect::Tell { .. } => {}
                Effect::Pass { child, block, .. } => {
                    let c = (0..self.nodes.len()).find(|c| called(*c) == child).expect("there");
                    self.down[c].push_back(block);
                }
                Effect::Record { id, .. } => self.nodes[i].recorded(id, Ok(()), self.now),
                Effect::Run { block, .. } => {
                    *self.executed.entry(i).or_default() += 1;
                    let text = Bytes::from_static(b"fine");
                    self.nodes[i].done(block.id, true, text, self.now, Wall(0));
                }
                Effect::Answer { report, .. } => self.answered = Some(report),
                Effect::Note(text) => panic!("{text}"),
            }
        }
    }

    fn deliver_down(&mut self, i: usize) {
        let Some(block) = self.down[i].pop_front() else { return };
        let id = block.id;
        if self.nodes[i].from_above(self.conn[i], &group(), &block, self.now) == Taken::New {
            let part = self.nodes[i].on_record(&block).unwrap_or(Part::Once);
            let origin = Origin::Above { conn: self.conn[i] };
            let children = self.names_below(i);
            let order = Order { group: group(), block, origin, children, part };
            self.nodes[i].begin(order, self.now);
            self.nodes[i].go(id, self.now, Wall(0));
        }
        self.settle(i);
    }

    fn deliver_up(&mut self, i: usize) {
        let Some(r) = self.up[i].pop_front() else { return };
        if let Some(p) = self.parent(i) {
            self.nodes[p].from_below(&group(), &called(i), r, self.now);
            self.settle(p);
        }
    }

    /// The connection above `i` breaks.
    fn cut(&mut self, i: usize) {
        self.down[i].clear();
        self.up[i].clear();
        self.conn[i] += 1;
    }

    /// It breaks and is made again.
    fn reconnect(&mut self, i: usize) {
        self.cut(i);
        if let Some(p) = self.parent(i) {
            self.nodes[p].for_child(&group(), &called(i));
            self.settle(p);
        }
    }

    /// Node `i` is started again with its record, and reconnects to all.
    fn restart(&mut self, i: usize, journal: Journal) {
        self.nodes[i] = Blocks::new(called(i), journal, 8);
        self.reconnect(i);
        for c in self.children[i].clone() {
            self.cut(c);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is lost, doubled or late: every member executes the block once, and the one who
    /// asked hears of each by name once connections hold.
    #[test]
    fn once_everywhere_and_everybody_is_heard(
        parents in prop::collection::vec(0usize..8, 1..9),
        steps in prop::collection::vec((0u8..4, any::<prop::sample::Index>()), 0..120),
    ) {
        let mut w = World::new(&parents);
        let count = w.nodes.len();
        let children = w.names_below(0);
        let origin = Origin::Ask { ask: 1, deadline: Mono(u64::MAX) };
        let part = Part::Nothing;
        let order = Order { group: group(), block: block(1), origin, children, part };
        w.nodes[0].begin(order, Mono(0));
        w.settle(0);
        // What a node has on record when it is started again: all it ever did.
        let mut done = Journal::default();
        done.begin(&block(1), Wall(0)).expect("room");
        let _ = done.done(&[1; 16], true, &Bytes::from_static(b"fine"), Wall(0));
        for (what, i) in steps {
            let i = 1 + i.index(count - 1);
            match what {
                0 => w.deliver_down(i),
                1 => w.deliver_up(i),
                2 => w.reconnect(i),
                _ => {
                    let ran = w.executed.contains_key(&i);
                    w.restart(i, if ran { done.clone() } else { Journal::default() });
                }
            }
        }
        // Connections hold from now on.
        (1..count).for_each(|i| w.reconnect(i));
        while w.down.iter().any(|q| !q.is_empty()) || w.up.iter().skip(1).any(|q| !q.is_empty()) {
            for i in 1..count {
                w.deliver_down(i);
                w.deliver_up(i);
            }
        }
        prop_assert!(w.executed.values().all(|n| *n == 1), "{:?}", w.executed);
        prop_assert_eq!(w.executed.len(), count - 1);
        let members = w.answered.expect("an answer").members(|_| Below::Up);
        prop_assert_eq!(members.len(), count - 1);
        prop_assert!(members.iter().all(|m| m.ok && !m.missing));
    }

    #[test]
    fn only_what_is_said_so_is_provisional(text in ".{0,40}") {
        prop_assert!(!provisional(true, text.as_bytes()));
        let early = text.starts_with("waits for ") || text.starts_with("not connected");
        prop_assert_eq!(provisional(false, text.as_bytes()), early);
    }
}
