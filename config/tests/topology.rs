//! Correct files: what is read, the worked examples of the source texts, pictures, differences.

use config::plan::RouteTable;
use config::{Change, NodeDiff, Role, RouteDiff, Topology, diff};
use rcp::proto::ids::{GroupName, Label, NodeName};
use std::path::{Path, PathBuf};
use std::time::Duration;

const FIG16: &str = r#"
version: 1
nodes:
  cel1-ser1: {listen: "127.0.0.1:7101", data: ./cel1-ser1, nbd: "127.0.0.1:10809"}
  cel2-ser1: {listen: "127.0.0.1:7102", data: ./cel2-ser1}
  cel3-ser1: {listen: "127.0.0.1:7103", data: ./cel3-ser1, memory: 64 MiB}
  cel4-ser1: {listen: "127.0.0.1:7104", data: ./cel4-ser1}
  cel5-ser1: {listen: "[::1]:7105", data: ./cel5-ser1}
  cel7-ser1: {listen: "0.0.0.0:7107", address: "site-7.example:7107", data: /var/lib/rcpd, insecure_plaintext: true}
  cel9-ser1: {listen: "localhost:7109", data: ./cel9-ser1}
defaults: {save: 2GiB, memory: 128MiB}
groups:
  group1:
    primary: cel1-ser1
    routes:
      cel1-ser1: [cel2-ser1, cel9-ser1]
      cel2-ser1: [cel3-ser1, cel7-ser1]
      cel3-ser1: [cel4-ser1, cel5-ser1]
    volumes:
      vol1: {size: 256MiB, save: 64MiB}
      db.2: {size: 1TiB, block_size: 16KiB, backing: /dev/vg0/db2}
    policy: {hwm: 32MiB, timeout: 10min}
    playback: {hwm: 128MiB}
    overrides:
      cel3-ser1: {timeout: 20min, save: 1GiB}
      cel4-ser1: {hwm: 256MiB}
    forward_only: [cel2-ser1]
"#;

fn topology(text: &str) -> Topology {
    Topology::compile(text, "topo.yaml").unwrap_or_else(|e| panic!("{e}"))
}

fn n(name: &str) -> NodeName {
    NodeName::new(name).expect(name)
}

fn group<'a>(t: &'a Topology, name: &str) -> &'a config::GroupPlan {
    t.group(&GroupName::new(name).expect(name)).expect(name)
}

fn names(list: &[NodeName]) -> Vec<&str> {
    list.iter().map(NodeName::as_str).collect()
}

#[test]
fn figure_16() {
    let t = topology(FIG16);
    let g = group(&t, "group1");
    assert_eq!(names(g.children(&n("cel1-ser1"))), ["cel2-ser1", "cel9-ser1"]);
    assert_eq!(names(g.children(&n("cel2-ser1"))), ["cel3-ser1", "cel7-ser1"]);
    // node 3 does not answer: node 2 sends to node 3's own next hops
    assert_eq!(names(g.children(&n("cel3-ser1"))), ["cel4-ser1", "cel5-ser1"]);
    for leaf in ["cel4-ser1", "cel5-ser1", "cel7-ser1", "cel9-ser1"] {
        assert!(g.children(&n(leaf)).is_empty());
        assert_eq!(g.role(&n(leaf)), Some(Role::Leaf));
    }
    assert_eq!(g.role(&n("cel1-ser1")), Some(Role::Primary));
    assert_eq!(g.role(&n("cel2-ser1")), Some(Role::ForwarderOnly));
    assert_eq!(g.role(&n("cel3-ser1")), Some(Role::Forwarder));
    assert_eq!(g.role(&n("cel8-ser1")), None);
    assert_eq!(g.parent(&n("cel4-ser1")), Some(&n("cel3-ser1")));
    assert_eq!(g.parent(&n("cel1-ser1")), None);
    let members: Vec<&str> = g.members().into_iter().map(NodeName::as_str).collect();
    let order =
        ["cel1-ser1", "cel2-ser1", "cel3-ser1", "cel4-ser1", "cel5-ser1", "cel7-ser1", "cel9-ser1"];
    assert_eq!(members, order);
    // a node's table holds the onward routes of its children (ROUTE-04)
    let below: Vec<_> = g.below(&n("cel2-ser1")).into_keys().collect();
    assert_eq!(names(&below), ["cel2-ser1", "cel3-ser1"]);
    assert_eq!(g.below(&n("cel1-ser1")), g.routes);
    assert!(g.below(&n("cel9-ser1")).is_empty());
    let path: Vec<&str> = g.path(&n("cel4-ser1")).into_iter().map(NodeName::as_str).collect();
    assert_eq!(path, ["cel1-ser1", "cel2-ser1", "cel3-ser1", "cel4-ser1"]);
    assert_eq!(g.path(&n("cel1-ser1")).len(), 1);
    assert!(g.path(&n("cel8-ser1")).is_empty());
    // a command for a group that is not there is an error to the sender
    let e = t.require_group("group2").expect_err("no group2").to_string();
    assert_eq!(e, "the topology has no group `group2`; did you mean `group1`? groups are: group1");
}

#[test]
fn the_chain_of_rcproute_lines() {
    let t = topology(
        r#"
version: 1
nodes:
  cel1-ser2: {listen: "127.0.0.1:7101", data: a}
  cel2-ser2: {listen: "127.0.0.1:7102", data: b}
  cel2-ser3: {listen: "127.0.0.1:7103", data: c}
  cel2-ser4: {listen: "127.0.0.1:7104", data: d}
groups:
  g1:
    primary: cel1-ser2
    routes:
      cel1-ser2: [cel2-ser2]
      cel2-ser2: [cel2-ser3, cel2-ser4]
"#,
    );
    let mut table = RouteTable::new();
    for line in [
        "cel1-ser2: rcproute add group=g1 nexthop=cel2-ser2",
        "cel2-ser2: rcproute add group=g1 nexthop=cel2-ser3",
        "cel2-ser2: rcproute add group=g1 nexthop=cell2-ser4",
    ] {
        let command: config::RouteCommand = line.parse().expect(line);
        let config::RouteAction::Add { next_hop, .. } = command.action else { panic!("{line}") };
        table.entry(command.node.expect("node")).or_default().push(next_hop);
    }
    let g = group(&t, "g1");
    assert_eq!(g.routes, table);
    // the primary sends once, whatever the number of leaves
    assert_eq!(g.children(&n("cel1-ser2")).len(), 1);
    // `cel2-ser2: rcproute delete`: drift against the file, seen from what rules
    table.remove(&n("cel2-ser2"));
    let drift: Vec<String> =
        diff::routes(&table, &g.routes).iter().map(RouteDiff::to_string).collect();
    assert_eq!(drift, ["+ route cel2-ser2 → cel2-ser3", "+ route cel2-ser2 → cel2-ser4"]);
}

#[test]
fn values_and_defaults() {
    let t = topology(FIG16);
    let g = group(&t, "group1");
    let node = |name: &str| t.require_node(name).expect(name);
    assert_eq!(node("cel1-ser1").memory, 128 << 20);
    assert_eq!(node("cel3-ser1").memory, 64 << 20);
    assert_eq!(node("cel1-ser1").data, PathBuf::from("./cel1-ser1"));
    assert_eq!(
        node("cel1-ser1").nbd.as_ref().map(ToString::to_string).as_deref(),
        Some("127.0.0.1:10809")
    );
    assert_eq!(node("cel1-ser1").address, node("cel1-ser1").listen);
    assert_eq!(node("cel7-ser1").address.to_string(), "site-7.example:7107");
    assert!(node("cel7-ser1").insecure_plaintext);
    let (_, vol1) = t.volume(&Label::new("vol1").expect("label")).expect("vol1");
    assert_eq!((vol1.size, vol1.block_size, vol1.blocks()), (256 << 20, 4096, 65536));
    assert_eq!(vol1.backing_for(&n("cel1-ser1")), None);
    let (_, db2) = t.require_volume("db.2").expect("db.2");
    assert_eq!(db2.backing_for(&n("cel1-ser1")), Some(Path::new("/dev/vg0/db2")));
    assert_eq!(db2.backing_for(&n("cel3-ser1")), None);
    assert_eq!((vol1.save, db2.save), (64 << 20, 2 << 30));
    assert_eq!(g.save_for(vol1, &n("cel3-ser1")), 1 << 30);
    assert_eq!(g.save_for(vol1, &n("cel4-ser1")), 64 << 20);
    assert_eq!(vol1.snapshot_area, 1 << 30);
    assert_eq!((g.policy.hwm, g.policy.timeout), (32 << 20, Duration::from_secs(600)));
    assert!(g.policy.persistent && g.policy.compress);
    let playback = g.playback_for(&n("cel3-ser1"));
    assert_eq!((playback.timeout, playback.hwm), (Duration::from_secs(1200), 128 << 20));
    let playback = g.playback_for(&n("cel4-ser1"));
    assert_eq!((playback.timeout, playback.hwm), (Duration::ZERO, 256 << 20));
    let e = t.require_node("cel1-srv1").expect_err("typing error").to_string();
    assert!(
        e.starts_with("the topology has no node `cel1-srv1`; did you mean `cel1-ser1`?"),
        "{e}"
    );
    assert_eq!(t.groups_of(&n("cel9-ser1")).count(), 1);
}

#[test]
fn aliases_and_merge_keys_are_read() {
    let t = topology(
        r#"
version: 1
nodes:
  a: {listen: "127.0.0.1:7101", data: a}
  b: {listen: "127.0.0.1:7102", data: b}
  c: {listen: "127.0.0.1:7103", data: c}
groups:
  g:
    primary: a
    routes: {a: [b, c]}
    overrides:
      b: &slow {timeout: 1h, hwm: 1GiB}
      c: {<<: *slow, hwm: 2GiB}
"#,
    );
    let g = group(&t, "g");
    assert_eq!(g.playback_for(&n("c")).timeout, Duration::from_secs(3600));
    assert_eq!(g.playback_for(&n("c")).hwm, 2 << 30);
    assert_eq!(g.playback_for(&n("b")).hwm, 1 << 30);
}

#[test]
fn machines_apart_may_use_the_same_folder_and_ports() {
    topology(
        r#"
version: 1
nodes:
  a: {listen: "10.0.0.1:7101", data: /var/lib/rcpd, nbd: "127.0.0.1:10809", insecure_plaintext: true}
  b: {listen: "10.0.0.2:7101", data: /var/lib/rcpd, nbd: "127.0.0.1:10809", insecure_plaintext: true}
"#,
    );
}

#[test]
fn the_reference_shows_a_correct_file() {
    let reference = include_str!("../docs/topology.md");
    let example = reference.split("```yaml\n").nth(1).and_then(|s| s.split("```").next());
    assert_eq!(topology(example.expect("an example")).nodes().len(), 3);
}

#[test]
fn pictures() {
    let t = topology(FIG16);
    let expected = "\
group1 (db.2 1TiB, vol1 256MiB)
cel1-ser1              primary         127.0.0.1:7101
├── cel2-ser1          forwarder only  127.0.0.1:7102
│   ├── cel3-ser1      forwarder       127.0.0.1:7103
│   │   ├── cel4-ser1  leaf            127.0.0.1:7104
│   │   └── cel5-ser1  leaf            [::1]:7105
│   └── cel7-ser1      leaf            site-7.example:7107
└── cel9-ser1          leaf            localhost:7109
";
    assert_eq!(t.graph(), expected);
    let dot = t.dot();
    assert!(dot.starts_with("digraph topology {\n") && dot.ends_with("}\n"), "{dot}");
    assert!(dot.contains("    \"group1/cel3-ser1\" -> \"group1/cel5-ser1\";\n"), "{dot}");
    let label = "cel2-ser1\\nforwarder only\\n127.0.0.1:7102";
    let node = format!("\"group1/cel2-ser1\" [label=\"{label}\", style=dashed];");
    assert!(dot.contains(&node), "{dot}");
}

#[test]
fn differences_for_one_node() {
    let old = topology(FIG16);
    let new = topology(
        &FIG16
            .replace("cel3-ser1: [cel4-ser1, cel5-ser1]", "cel3-ser1: [cel5-ser1]")
            .replace(
                "cel2-ser1: [cel3-ser1, cel7-ser1]",
                "cel2-ser1: [cel3-ser1, cel4-ser1, cel7-ser1]",
            )
            .replace("vol1: {size: 256MiB, save: 64MiB}", "vol3: {size: 8MiB}")
            .replace("hwm: 32MiB", "hwm: 16MiB")
            .replace("timeout: 20min", "timeout: 30min")
            .replace("memory: 64 MiB", "memory: 96MiB"),
    );
    let d = NodeDiff::between(&old, &new, &n("cel3-ser1"));
    let lines: Vec<String> = d.changes.iter().map(Change::to_string).collect();
    assert_eq!(
        lines,
        [
            "~ node cel3-ser1: memory 64MiB → 96MiB",
            "- group1: route cel3-ser1 → cel4-ser1",
            "- group1: volume vol1, 256MiB",
            "+ group1: volume vol3, 8MiB",
            "~ group1: policy: hwm 32MiB → 16MiB",
            "~ group1: playback: timeout 20min → 30min",
        ]
    );
    let moved = NodeDiff::between(&old, &new, &n("cel4-ser1"));
    let lines: Vec<String> = moved.changes.iter().map(Change::to_string).collect();
    assert_eq!(lines[0], "~ group1: parent cel3-ser1 → cel2-ser1");
    assert_eq!(d.reversed().reversed(), d);
    let sorted = |d: &NodeDiff| {
        let mut lines: Vec<String> = d.changes.iter().map(Change::to_string).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&d.reversed()), sorted(&NodeDiff::between(&new, &old, &n("cel3-ser1"))));
    assert!(NodeDiff::between(&old, &old, &n("cel3-ser1")).is_empty());
}

#[test]
fn what_a_receiver_may_hold_back_is_told_to_its_feeder() {
    let with = |policy: &str, own: &str| {
        topology(&format!(
            "version: 1\nnodes:\n  a: {{listen: \"127.0.0.1:1\", data: a}}\n  b: {{listen: \
             \"127.0.0.1:2\", data: b}}\ngroups:\n  g:\n    primary: a\n    routes: {{a: [b]}}\n    \
             policy: {{{policy}}}\n    overrides: {{b: {{{own}}}}}\n"
        ))
    };
    let old = with("keep_bytes: 1GiB", "keep_sets: 5");
    let new = with("keep_bytes: 1GiB, on_full: suspend, suspend_limit: 3s", "keep_time: 7d");
    let g = old.groups().next().expect("a group");
    assert_eq!(g.policy.on_full, config::OnFull::Detach);
    assert_eq!(g.policy.suspend_limit, Duration::from_secs(20));
    let keep = g.keep_for(&n("b"));
    assert_eq!((keep.bytes, keep.sets, keep.time), (Some(1 << 30), Some(5), None));
    assert_eq!(g.keep_for(&n("a")), g.policy.keep);
    let lines = |node: &str| -> Vec<String> {
        let d = NodeDiff::between(&old, &new, &n(node));
        d.changes.iter().map(Change::to_string).collect()
    };
    let policy = "~ g: policy: on_full detach → suspend, suspend_limit 20s → 3s";
    let own = "~ g: receiver b: keep_sets 5 → none, keep_time none → 7d";
    assert_eq!(lines("a"), [policy, own]);
    assert_eq!(lines("b"), [policy]);
}

#[test]
fn a_node_that_joins_and_one_that_goes() {
    let old = topology(FIG16);
    let without = FIG16
        .replace("  cel9-ser1: {listen: \"localhost:7109\", data: ./cel9-ser1}\n", "")
        .replace("[cel2-ser1, cel9-ser1]", "[cel2-ser1]");
    let new = topology(&without);
    let gone = NodeDiff::between(&old, &new, &n("cel9-ser1"));
    let lines: Vec<String> = gone.changes.iter().map(Change::to_string).collect();
    assert_eq!(lines, ["- node cel9-ser1", "- group1: no longer a member"]);
    let back: Vec<String> = gone.reversed().changes.iter().map(Change::to_string).collect();
    assert_eq!(back, ["+ node cel9-ser1", "+ group1: becomes a member"]);
    assert!(NodeDiff::between(&old, &new, &n("cel3-ser1")).is_empty());
}

#[test]
fn the_examples_are_usable_and_differ_by_one_leaf() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let read = |name: &str| {
        let text = std::fs::read_to_string(folder.join(name)).expect("an example");
        Topology::compile(&text, name).unwrap_or_else(|e| panic!("{}", e.plain()))
    };
    let (three, four) = (read("tour.yaml"), read("tour-four.yaml"));
    assert_eq!((three.nodes().len(), four.nodes().len()), (3, 4));
    for node in three.nodes() {
        assert_eq!(four.node(&node.name), Some(node));
    }
}

#[test]
fn who_steps_in_when_nobody_above_is_left() {
    let text = "version: 1\nnodes:\n  p: {listen: \"127.0.0.1:1\", data: ./p}\n  f1: {listen: \
                \"127.0.0.1:2\", data: ./f1}\n  f2: {listen: \"127.0.0.1:3\", data: ./f2}\n  l1: \
                {listen: \"127.0.0.1:4\", data: ./l1}\ngroups:\n  g1:\n    primary: p\n    routes: {p: \
                [f1, f2], f1: [l1]}\n    bypass: false\n    fallbacks: {l1: [f2, p]}\n";
    let t = Topology::compile(text, "t.yaml").expect("sound");
    let g = group(&t, "g1");
    assert!(!g.bypass);
    let named: Vec<_> = g.fallbacks.iter().map(|(n, l)| (n.as_str(), l.len())).collect();
    assert_eq!(named, [("l1", 2)]);
    let again = Topology::compile(&t.to_yaml().expect("text"), "t.yaml").expect("sound");
    assert_eq!(again, t);
    let plain = text.replace("    bypass: false\n", "");
    assert!(group(&Topology::compile(&plain, "t.yaml").expect("sound"), "g1").bypass, "on unless");
}

/// How replicas look after their content: a rate or `off`, a period, and what single members do.
#[test]
fn the_search_for_damage_is_set() {
    let file = |group: &str| {
        format!(
            "version: 1\nnodes:\n  a: {{listen: 127.0.0.1:7101, data: ./a}}\n  b: {{listen: 127.0.0.1:7102, \
             data: ./b}}\n  c: {{listen: 127.0.0.1:7103, data: ./c}}\ngroups:\n  g:\n    primary: a\n    \
             routes: {{a: [b, c]}}\n{group}"
        )
    };
    let compiled = |group: &str| Topology::compile(&file(group), "t").expect("it compiles");
    let scrub = |t: &Topology, node: &str| {
        let g = t.groups().next().expect("a group");
        let s = g.playback_for(&n(node)).scrub;
        (s.rate_words(), s.every.as_secs())
    };
    let t = compiled("");
    assert_eq!(scrub(&t, "b"), ("16MiB/s".to_owned(), 86_400));
    let t = compiled(
        "    playback: {scrub: off, scrub_every: 7d}\n    overrides: {c: {scrub: 1MiB/s}}\n",
    );
    assert_eq!(scrub(&t, "b"), ("off".to_owned(), 7 * 86_400));
    assert_eq!(scrub(&t, "c"), ("1MiB/s".to_owned(), 7 * 86_400));
    let again = t.to_spec().to_yaml().expect("it is written");
    assert_eq!(Topology::compile(&again, "again").expect("and read"), t);
    for wrong in ["scrub: 16MiB", "scrub: 1KiB/s", "scrub: slow", "scrub_every: 1s"] {
        let text = file(&format!("    playback: {{{wrong}}}\n"));
        let why = Topology::compile(&text, "t").expect_err("refused").plain().to_string();
        assert!(why.contains("`scrub"), "{wrong}: {why}");
    }
}
