//! The routing table against its rules, its file image and the worked examples.

mod support;

use std::collections::BTreeMap;

use forwarder::limits::MAX_NEXT_HOPS;
use forwarder::table::{AddContext, ChangeKind, Line, RouteError, StoredError, Table};
use proptest::prelude::*;
use rcp::proto::ids::NodeName;
use rcp::proto::transport::{Congestion, Connections, Hop, Transport};
use support::{g, line, n, ns};

/// A table with these next hops in group `g1`.
fn table(node: &str, hops: &str) -> Table {
    Table::from_plan(n(node), &BTreeMap::from([(g("g1"), ns(hops))])).expect("sound")
}

fn add(t: &mut Table, hop: &str, path: &str, onward: &[Line]) -> Result<(), RouteError> {
    let (nodes, path) = (ns("p a b c d e x cel2-ser3"), ns(path));
    let ctx = AddContext { groups: &[g("g1"), g("group2")], nodes: &nodes, path: &path, onward };
    let before = t.clone();
    let checked = t.check_add(&g("g1"), &n(hop), &ctx);
    let done = t.add(&g("g1"), &n(hop), &ctx).map(|_| ());
    assert_eq!(checked, done, "a check says what the change does");
    if done.is_err() {
        assert_eq!(*t, before, "an error changes nothing");
    }
    done
}

/// The text of the error of an add, which names everything in `words`.
fn refused(t: &mut Table, hop: &str, path: &str, onward: &[Line], words: &[&str]) -> &'static str {
    let e = add(t, hop, path, onward).expect_err(hop);
    for w in words {
        assert!(e.to_string().contains(w), "`{w}` is missing in: {e}");
    }
    e.kind()
}

#[test]
fn names_must_be_known() {
    let mut t = table("p", "a");
    let kind = refused(&mut t, "cel2-sre3", "", &[], &["cel2-sre3", "g1", "`p`", "cel2-ser3`?"]);
    assert_eq!(kind, "unknown-node");
    let ctx = AddContext { groups: &[g("group2")], nodes: &ns("b"), ..AddContext::default() };
    let e = t.add(&g("gruop2"), &n("b"), &ctx).expect_err("no such group");
    assert!(e.to_string().contains("did you mean `group2`?"), "{e}");
    assert_eq!(refused(&mut t, "p", "", &[], &["`p`", "`g1`", "another"]), "itself");
    assert_eq!(refused(&mut t, "a", "", &[], &["`a`", "`p`", "`g1`"]), "already");
}

#[test]
fn rings_are_named() {
    // above
    let mut t = table("b", "c");
    assert_eq!(refused(&mut t, "p", "p a b", &[], &["b -> p -> a -> b"]), "loop");
    assert_eq!(refused(&mut t, "a", "p a b", &[], &["b -> a -> b", "`g1`"]), "loop");
    // a path that ends with the feeder means the same
    assert_eq!(refused(&mut t, "p", "p a", &[], &["b -> p -> a -> b"]), "loop");
    // this node is below the next hop
    let says = [line("d", "x"), line("x", "b")];
    assert_eq!(refused(&mut t, "d", "", &says, &["b -> d -> x -> b"]), "loop");
    // the next hop feeds a node above this one
    assert_eq!(refused(&mut t, "d", "p a b", &[line("d", "a")], &["b -> d -> a -> b"]), "loop");
    assert_eq!(add(&mut t, "d", "p a b", &[line("d", "e")]), Ok(()));
}

#[test]
fn nobody_is_fed_twice() {
    let mut t = table("p", "a");
    t.learn(&g("g1"), &n("a"), &[line("a", "b c"), line("c", "d")]).expect("a child");
    let kind = refused(&mut t, "d", "", &[], &["`d`", "`c`", "`p`", "nexthop=d` at `c`"]);
    assert_eq!(kind, "second-parent");
    // a node below the new one is fed already
    let words = ["`x` would become", "`b` is already fed by `a`"];
    assert_eq!(refused(&mut t, "x", "", &[line("x", "b")], &words), "second-parent");
    assert_eq!(refused(&mut t, "x", "", &[line("x", "a")], &["fed by `p`"]), "second-parent");
    assert_eq!(add(&mut t, "x", "", &[line("x", "e")]), Ok(()));
    assert_eq!(t.onward(&g("g1"), &n("x"), &n("x")), ns("e"));
}

#[test]
fn what_hangs_on_nothing_is_out_of_date_and_refuses_no_route() {
    let mut t = table("p", "a");
    // b was below a once, fed d, and had p as next hop.
    t.learn(&g("g1"), &n("a"), &[line("a", "c"), line("b", "d p")]).expect("a child");
    assert_eq!(add(&mut t, "d", "", &[]), Ok(()));
    assert_eq!(add(&mut t, "b", "", &[]), Ok(()));
    assert_eq!(refused(&mut t, "c", "", &[], &["already fed by `a`"]), "second-parent");
}

#[test]
fn the_degree_is_bounded() {
    let hops: Vec<NodeName> = (0..=MAX_NEXT_HOPS).map(|i| n(&format!("n{i}"))).collect();
    let (last, fit) = hops.split_last().expect("some");
    let mut t = Table::from_plan(n("p"), &BTreeMap::from([(g("g1"), fit.to_vec())])).expect("fit");
    let ctx = AddContext { groups: &[g("g1")], nodes: &hops, ..AddContext::default() };
    let e = t.add(&g("g1"), last, &ctx).expect_err("one too many");
    assert_eq!(e.kind(), "degree");
    assert!(e.to_string().contains("256"), "{e}");
    assert!(Table::from_plan(n("p"), &BTreeMap::from([(g("g1"), hops)])).is_err());
}

#[test]
fn changes_can_be_turned_round() {
    let mut t = Table::from_plan(
        n("p"),
        &BTreeMap::from([(g("g1"), ns("a b c")), (g("g2"), ns("b")), (g("g3"), ns("x"))]),
    )
    .expect("sound");
    t.learn(&g("g1"), &n("b"), &[line("b", "d e")]).expect("a child");
    for (group, hop) in
        [(None, None), (Some(g("g1")), None), (Some(g("g1")), Some(n("b"))), (None, Some(n("b")))]
    {
        let before = t.clone();
        let changes = t.delete(group.as_ref(), hop.as_ref()).expect("it is there");
        assert!(changes.iter().all(|c| c.kind() == ChangeKind::Removed));
        assert_eq!(t.revision(), before.revision() + changes.len() as u64);
        for c in changes.iter().rev() {
            t.apply(&c.inverse()).expect("as it was");
        }
        assert_eq!(t.display(None), before.display(None));
        assert!(t.revision() > before.revision());
    }
    let ctx = AddContext { groups: &[g("g2")], nodes: &ns("y"), ..AddContext::default() };
    let before = t.clone();
    let c = t.add(&g("g2"), &n("y"), &ctx).expect("new");
    assert_eq!((c.kind(), c.group(), c.next_hop()), (ChangeKind::Added, &g("g2"), &n("y")));
    assert_eq!(t.apply(&c).expect_err("twice").kind(), "already");
    t.apply(&c.inverse()).expect("it is there");
    assert_eq!(t.display(None), before.display(None));
    assert_eq!(t.apply(&c.inverse()).expect_err("gone").kind(), "no-such-hop");
}

#[test]
fn deleting_what_is_not_there() {
    let mut t = table("p", "alpha b");
    let before = t.clone();
    let e = t.delete(Some(&g("g2")), None).expect_err("no such group").to_string();
    assert!(e.contains("did you mean `g1`?"), "{e}");
    let e = t.delete(None, Some(&n("alhpa"))).expect_err("no such hop").to_string();
    assert!(e.contains("in any group") && e.contains("`alpha`?") && e.contains("alpha, b"), "{e}");
    let e = t.delete(Some(&g("g1")), Some(&n("z"))).expect_err("no such hop").to_string();
    assert!(e.contains("in group `g1`"), "{e}");
    assert_eq!(t, before);
    assert_eq!(Table::new(n("p")).delete(None, None), Ok(vec![]));
}

#[test]
fn what_is_learned_goes_with_its_child_and_never_counts_as_a_revision() {
    let mut t = table("p", "a b");
    let revision = t.revision();
    let group = g("g1");
    assert_eq!(t.learn(&group, &n("a"), &[line("a", "c d"), line("d", "")]), Ok(true));
    assert_eq!(t.learn(&group, &n("a"), &[line("a", "c d")]), Ok(false));
    assert_eq!(t.update(&group, &n("a"), &[line("c", "e")]), Ok(true));
    assert_eq!(t.onward(&group, &n("a"), &n("a")), ns("c d"));
    assert_eq!(t.update(&group, &n("a"), &[line("c", "")]), Ok(true));
    assert_eq!(t.onward(&group, &n("a"), &n("c")), ns(""));
    assert_eq!(t.learn(&group, &n("a"), &[line("a", "d")]), Ok(true));
    assert_eq!(t.report(&group), [line("p", "a b"), line("a", "d")]);
    assert_eq!(t.learn(&group, &n("z"), &[]).expect_err("no child").kind(), "no-such-hop");
    assert_eq!(t.learn(&g("g9"), &n("a"), &[]).expect_err("no group").kind(), "unknown-group");
    assert_eq!(t.revision(), revision);
    t.delete(Some(&group), Some(&n("a"))).expect("it is there");
    assert_eq!(t.report(&group), [line("p", "b")]);
    assert_eq!(t.report(&g("g9")), [line("p", "")]);
}

#[test]
fn reports_from_below_are_bounded() {
    let mut t = table("p", "a b");
    let many: Vec<Line> = (0..200)
        .map(|i| (n(&format!("f{i}")), (0..163).map(|j| n(&format!("l{i}-{j}"))).collect()))
        .collect();
    assert_eq!(t.learn(&g("g1"), &n("b"), &[line("b", "c")]), Ok(true));
    let before = t.clone();
    let e = t.learn(&g("g1"), &n("a"), &many).expect_err("too many");
    assert_eq!(e.kind(), "too-many-below");
    assert_eq!(t, before);
    assert_eq!(t.learn(&g("g1"), &n("a"), &many[1..]), Ok(true));
}

#[test]
fn drift_and_conflicts_in_words() {
    let mut t = table("cel1-ser2", "a b");
    let plan = BTreeMap::from([(g("g1"), ns("b c")), (g("g2"), ns("d"))]);
    let drift = t.drift(&plan);
    assert_eq!(drift.len(), 3);
    assert!(drift[0].contains("`rcproute cel1-ser2: add group=g1 nexthop=c --"), "{}", drift[0]);
    assert!(drift[1].contains("`rcproute cel1-ser2: delete group=g1 nexthop=a --"), "{}", drift[1]);
    assert!(drift[2].contains("`rcproute cel1-ser2: add group=g2 nexthop=d --"), "{}", drift[2]);
    assert!(t.drift(&BTreeMap::from([(g("g1"), ns("b a"))])).is_empty());

    assert!(t.conflicts(&g("g1")).is_empty());
    t.learn(&g("g1"), &n("a"), &[line("a", "x cel1-ser2")]).expect("a child");
    t.learn(&g("g1"), &n("b"), &[line("b", "x")]).expect("a child");
    let found = t.conflicts(&g("g1"));
    assert_eq!(found.len(), 2);
    assert!(found[0].contains("above"), "{}", found[0]);
    assert!(found[1].contains("`x`") && found[1].contains("`a`"), "{}", found[1]);
}

/// Worked example 5.5 (rcproute chain).
#[test]
fn rcproute_chain() {
    let (groups, nodes) = ([g("g1")], ns("cel1-ser2 cel2-ser2 cel2-ser3 cel2-ser4"));
    let ctx = |path| AddContext { groups: &groups, nodes: &nodes, path, onward: &[] };
    let mut first = Table::new(n("cel1-ser2"));
    let mut second = Table::new(n("cel2-ser2"));
    let path = ns("cel1-ser2 cel2-ser2");
    first.add(&groups[0], &n("cel2-ser2"), &ctx(&path[..1])).expect("free");
    second.add(&groups[0], &n("cel2-ser3"), &ctx(&path)).expect("free");
    second.add(&groups[0], &n("cel2-ser4"), &ctx(&path)).expect("free");
    let shown = second.display(Some(&groups[0])).expect("there are routes");
    assert_eq!(shown[0].to_string(), "g1:\n  cel2-ser2 -> cel2-ser3, cel2-ser4");
    assert_eq!(first.next_hops(&groups[0]), Ok(&ns("cel2-ser2")[..]));
    assert_eq!(second.next_hops(&groups[0]), Ok(&ns("cel2-ser3 cel2-ser4")[..]));
    second.delete(None, None).expect("all");
    let e = second.next_hops(&groups[0]).expect_err("no routes");
    assert_eq!(e.kind(), "unknown-group");
    assert!(e.to_string().contains("cel2-ser2") && e.to_string().contains("g1"), "{e}");
}

/// Worked example 5.6 (FIG. 16): the table of the primary names immediate and further destinations.
#[test]
fn figure_16_tables() {
    let plans = [
        ("primary", "cel2-ser1 cel9-ser1"),
        ("cel2-ser1", "cel3-ser1 cel7-ser1"),
        ("cel3-ser1", "cel4-ser1 cel5-ser1"),
    ];
    let mut tables: Vec<Table> = plans
        .iter()
        .map(|(node, hops)| {
            Table::from_plan(n(node), &BTreeMap::from([(g("group1"), ns(hops))])).expect("sound")
        })
        .collect();
    // each reports upwards, from the bottom
    for i in [2, 1] {
        let (child, report) = (tables[i].node().clone(), tables[i].report(&g("group1")));
        tables[i - 1].learn(&g("group1"), &child, &report).expect("a child");
    }
    let shown = tables[0].display(Some(&g("group1"))).expect("there are routes");
    assert_eq!(
        shown[0].to_string(),
        "group1:\n  primary -> cel2-ser1, cel9-ser1\n  cel2-ser1 -> cel3-ser1, cel7-ser1\n  \
         cel3-ser1 -> cel4-ser1, cel5-ser1"
    );
    // what a bypass of node 3 would need at node 2
    let at = &tables[1];
    assert_eq!(
        at.onward(&g("group1"), &n("cel3-ser1"), &n("cel3-ser1")),
        ns("cel4-ser1 cel5-ser1")
    );
    let e = at.next_hops(&g("group2")).expect_err("unknown");
    assert!(e.to_string().contains("did you mean `group1`?"), "{e}");
}

fn golden() -> Table {
    let mut t =
        Table::from_plan(n("p"), &BTreeMap::from([(g("g1"), ns("b a")), (g("g2"), ns("b"))]))
            .expect("sound");
    t.learn(&g("g1"), &n("a"), &[line("c", "e"), line("a", "d c")]).expect("a child");
    t
}

/// These bytes may never change: a node must read what an older one wrote.
const GOLDEN: &str = "
    52435052 4f555445   # magic: RCPROUTE
    0100 0000           # version, reserved
    4a000000            # length: 74
    0300000000000000    # revision
    8ac430e2 faa4d143   # checksum of the body, of the header
    01 70               # node: p
    0200                # groups
    02 6731 0200        # g1, next hops
    01 62 01 61         #   b a
    0100                #   children with onward routes
    01 61 0200          #   a, lines
    01 61 0200          #     a, next hops
    01 64 01 63         #       d c
    01 63 0100          #     c, next hops
    01 65               #       e
    02 6732 0100        # g2, next hops
    01 62               #   b
    0000                #   children with onward routes
";

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text
        .lines()
        .flat_map(|l| l.split('#').next().unwrap_or("").chars())
        .filter(|c| !c.is_whitespace())
        .collect();
    (0..digits.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).expect("hex"))
        .collect()
}

#[test]
fn the_golden_image() {
    let bytes = golden().encode();
    let shown: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(bytes, hex(GOLDEN), "{shown}");
    assert_eq!(Table::decode(&bytes), Ok(golden()));
}

#[test]
fn every_flipped_bit_is_refused() {
    let good = golden().encode();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Table::decode(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn torn_and_zero_images_are_refused() {
    let good = golden().encode();
    for len in 0..good.len() {
        assert!(Table::decode(&good[..len]).is_err(), "{len}");
        assert!(Table::decode(&vec![0; len]).is_err(), "{len} zeroes");
        let mut tail_lost = good.clone();
        tail_lost[len..].fill(0);
        assert!(tail_lost == good || Table::decode(&tail_lost).is_err(), "zero from {len}");
    }
    let longer = [&good[..], &[0]].concat();
    assert_eq!(
        Table::decode(&longer),
        Err(StoredError::Length { have: good.len() + 1, want: good.len() })
    );
}

/// Puts right checksums on a spoiled image.
fn seal(image: &mut [u8]) {
    let body = crc32c::crc32c(&image[32..]).to_le_bytes();
    image[24..28].copy_from_slice(&body);
    let head = crc32c::crc32c(&image[..28]).to_le_bytes();
    image[28..32].copy_from_slice(&head);
}

#[test]
fn a_later_version_is_named() {
    let mut image = golden().encode();
    image[8] = 5;
    seal(&mut image);
    assert_eq!(Table::decode(&image), Err(StoredError::Version(5)));
    // And one that claims to say how next hops are reached, or limited, and does not.
    for version in [2, 3, 4] {
        image[8] = version;
        seal(&mut image);
        assert!(matches!(Table::decode(&image), Err(StoredError::Rule(_))));
    }
}

/// The golden image with some bytes of its lines replaced, under right checksums.
fn spoiled(from: &[u8], to: &[u8]) -> Result<Table, StoredError> {
    let mut image = golden().encode();
    let at = image.windows(from.len()).rposition(|w| w == from).expect("in the image");
    image.splice(at..at + from.len(), to.iter().copied());
    let len = u32::try_from(image.len()).expect("small").to_le_bytes();
    image[12..16].copy_from_slice(&len);
    seal(&mut image);
    Table::decode(&image)
}

#[test]
fn every_rule_of_the_lines_holds() {
    assert_eq!(spoiled(b"\x02g2", b"\x02g2"), Ok(golden()));
    let cases: [(&[u8], &[u8], &str); 12] = [
        (b"\x02g2", b"\x02g1", "order"),
        (b"\x02g2", b"\x02g0", "order"),
        (b"\x01c\x01\x00", b"\x01a\x01\x00", "order"),
        (b"\x02g2", b"\x02G2", "group's name"),
        (b"\x01e", b"\x01E", "node's name"),
        (b"\x01e", b"\x01\xff", "not text"),
        (b"\x01p", b"\x01a", "itself"),
        (b"\x01b\x01a\x01\x00", b"\x01a\x01a\x01\x00", "twice"),
        (b"\x01b\x01a\x01\x00", b"\x01b\x01x\x01\x00", "no next hop"),
        (b"\x01\x00\x01e", b"\x00\x00", "no next hops"),
        (b"\x01b\x00\x00", b"\x01b\x00\x00\x00", "left"),
        (b"\x01b\x00\x00", b"\x01b\x00", "ends inside"),
    ];
    for (from, to, want) in cases {
        let e = spoiled(from, to).expect_err(want).to_string();
        assert!(e.contains(want), "{want}: {e}");
    }
}

fn by(words: (u8, u8, &str, &str)) -> Hop {
    Hop {
        transport: Transport::from_number(words.0),
        congestion: Congestion::from_number(words.1),
        via: words.2.parse().ok(),
        ca: (!words.3.is_empty()).then(|| words.3.to_owned()),
        limit: None,
        connections: None,
    }
}

#[test]
fn how_next_hops_are_reached_is_stored_and_comes_back_with_them() {
    let groups = [g("g1")];
    let nodes = [n("b"), n("c"), n("d")];
    let ctx = AddContext { groups: &groups, nodes: &nodes, ..AddContext::default() };
    let mut t = Table::new(n("a"));
    t.add(&groups[0], &nodes[0], &ctx).expect("b");
    assert_eq!(t.encode()[8], 1, "a table without ways is written as ever");
    let quic = by((3, 2, "", ""));
    let proxied = by((0, 0, "https://[::1]:8443/rcp", "/etc/ca.pem"));
    t.add_by(&groups[0], &nodes[1], quic.clone(), &ctx).expect("c");
    t.add_by(&groups[0], &nodes[2], proxied.clone(), &ctx).expect("d");
    let image = t.encode();
    assert_eq!(image[8], 2);
    assert_eq!(image[32..], hex(WAYS), "the bytes of version 2 never change");
    let mut back = Table::decode(&image).expect("sound");
    assert_eq!(back, t);
    let ways = [&nodes[0], &nodes[1], &nodes[2]].map(|h| back.hop(&groups[0], h));
    assert_eq!(ways, [Hop::default(), quic.clone(), proxied]);
    let gone = back.delete(None, Some(&nodes[1])).expect("there");
    assert!(back.hop(&groups[0], &nodes[1]).is_default());
    for change in gone.iter().rev() {
        back.apply(&change.inverse()).expect("turned round");
    }
    assert_eq!(back.hop(&groups[0], &nodes[1]), quic);
}

#[test]
fn limits_are_stored_and_can_be_changed() {
    let groups = [g("g1")];
    let nodes = [n("b")];
    let ctx = AddContext { groups: &groups, nodes: &nodes, ..AddContext::default() };
    let mut t = Table::new(n("a"));
    t.add(&groups[0], &nodes[0], &ctx).expect("b");
    let before = t.encode();
    let limit = || "9Mbit/s@sat".parse().ok();
    assert_eq!(t.limit(&groups[0], &nodes[0], limit()), Ok(true));
    assert_eq!(t.limit(&groups[0], &nodes[0], limit()), Ok(false), "as it was");
    let image = t.encode();
    assert_eq!((image[8], t.revision()), (3, 2));
    assert_eq!(image[32..], hex(LIMITED), "the bytes of version 3 never change");
    let back = Table::decode(&image).expect("sound");
    assert_eq!(back, t);
    assert_eq!(back.hop(&groups[0], &nodes[0]).to_string(), "limit=9Mbit/s@sat");
    assert!(t.limit(&groups[0], &n("c"), limit()).is_err(), "no next hop");
    assert_eq!(t.limit(&groups[0], &nodes[0], None), Ok(true));
    assert_eq!(t.encode()[32..], before[32..], "a table without limits is written as ever");
}

#[test]
fn connections_are_stored() {
    let groups = [g("g1")];
    let nodes = [n("b")];
    let ctx = AddContext { groups: &groups, nodes: &nodes, ..AddContext::default() };
    let mut t = Table::new(n("a"));
    let several = Hop { connections: Connections::new(4), ..Hop::default() };
    t.add_by(&groups[0], &nodes[0], several, &ctx).expect("b");
    let image = t.encode();
    assert_eq!(image[8], 4);
    assert_eq!(image[32..], hex(SEVERAL), "the bytes of version 4 never change");
    let back = Table::decode(&image).expect("sound");
    assert_eq!(
        (back.hop(&groups[0], &nodes[0]).to_string().as_str(), &back),
        ("connections=4", &t)
    );
    // More than there may be, and a version that is later than what it says.
    for (n, why) in [(17, "in a way that is not known"), (0, "in a way that is not known")] {
        let mut bad = image.clone();
        let at = bad.len() - 3;
        bad[at] = n;
        seal(&mut bad);
        assert!(Table::decode(&bad).expect_err(why).to_string().contains(why), "{n}");
    }
    t.limit(&groups[0], &nodes[0], "9Mbit/s".parse().ok()).expect("a hop");
    assert_eq!(Table::decode(&t.encode()), Ok(t));
}

/// The lines in hexadecimal, made by hand.
const SEVERAL: &str = "0161010002673101000162010001620000000000000000040000";

/// The lines in hexadecimal, made by hand.
const LIMITED: &str = "016101000267310100016201000162000000000000\
     0b00394d6269742f73407361740000";

/// The lines in hexadecimal, made by hand.
const WAYS: &str = "016101000267310300016201630164020001630302000000000164000016\
     0068747470733a2f2f5b3a3a315d3a383434332f7263700b002f6574632f63612e70656d0000";

fn name_in() -> impl Strategy<Value = String> {
    "[a-d][0-9]?"
}

prop_compose! {
    fn any_table()(
        plan in prop::collection::btree_map(name_in(), prop::collection::btree_set(name_in(), 1..5), 0..4),
        below in prop::collection::vec((name_in(), prop::collection::vec(name_in(), 0..4)), 0..8),
        ways in any::<bool>(),
    ) -> Table {
        let plan = plan.into_iter().map(|(group, hops)| (g(&group), hops.iter().map(|h| n(h)).collect())).collect();
        let mut t = Table::from_plan_by(n("me"), &plan, &|_, hop| match hop.as_str().as_bytes() {
            [b'a', ..] if ways => by((3, 1, "", "")),
            [b'b', ..] if ways => by((2, 0, "http://proxy:80/rcp", "")),
            [b'c', b'1', ..] if ways => {
                Hop { limit: "none@sat,64kbit/s".parse().ok(), ..Hop::default() }
            }
            [b'c', b'2', ..] if ways => {
                Hop { connections: Connections::new(16), ..Hop::default() }
            }
            _ => Hop::default(),
        })
        .expect("sound");
        let lines: Vec<Line> = below.iter().map(|(x, hops)| (n(x), hops.iter().map(|h| n(h)).collect())).collect();
        let groups: Vec<_> = t.groups().cloned().collect();
        for group in groups {
            let first = t.next_hops(&group).expect("routes")[0].clone();
            t.learn(&group, &first, &lines).expect("few");
        }
        t
    }
}

proptest! {
    #[test]
    fn images_survive_and_are_canonical(t in any_table()) {
        let image = t.encode();
        let back = Table::decode(&image);
        prop_assert_eq!(back.as_ref(), Ok(&t));
        prop_assert_eq!(back.map(|b| b.encode()), Ok(image));
    }

    /// Spoiled bytes under right checksums: whatever is accepted is a table that keeps the rules.
    #[test]
    fn nothing_on_disk_panics(
        t in any_table(),
        spoil in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut image = t.encode();
        for (at, value) in spoil {
            let at = 32 + at.index(image.len() - 32);
            image[at] = value;
        }
        seal(&mut image);
        if let Ok(back) = Table::decode(&image) {
            prop_assert_eq!(back.encode(), image);
        }
    }

    #[test]
    fn random_bytes_are_no_table(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Table::decode(&bytes).is_err());
    }

    /// Routes added in any order to any node of a tree, with reports going up after each: all nodes
    /// ever fed are fed once, and no ring is closed, as far as the adding node can see.
    #[test]
    fn no_ring_and_no_second_feeder(adds in prop::collection::vec((0usize..8, 0usize..8), 1..30)) {
        let names: Vec<NodeName> = (0..8).map(|i| n(&format!("n{i}"))).collect();
        let group = g("g");
        let mut tables: Vec<Table> = names.iter().cloned().map(Table::new).collect();
        let mut parent: [Option<usize>; 8] = [None; 8];
        for (at, hop) in adds {
            // what the sessions carry: the path from above, the next hop's own report
            let mut path = vec![names[at].clone()];
            let mut up = at;
            while let Some(p) = parent[up] {
                path.insert(0, names[p].clone());
                up = p;
            }
            let onward = tables[hop].report(&group);
            let ctx = AddContext { groups: std::slice::from_ref(&group), nodes: &names, path: &path, onward: &onward };
            // a next hop that is fed by somebody else refuses when it is asked
            let free = parent[hop].is_none_or(|p| p == at);
            let would_ring = hop == at || path.contains(&names[hop]);
            let done = tables[at].check_add(&group, &names[hop], &ctx).is_ok() && free;
            prop_assert_eq!(done, free && !would_ring && parent[hop].is_none());
            if done {
                tables[at].add(&group, &names[hop], &ctx).expect("checked");
                parent[hop] = Some(at);
                let mut child = at;
                while let Some(p) = parent[child] {
                    let report = tables[child].report(&group);
                    tables[p].learn(&group, &names[child], &report).expect("a child");
                    prop_assert!(tables[p].conflicts(&group).is_empty());
                    child = p;
                }
            }
        }
    }
}
