//! What holds for every topology and every text: canonical text compiles to the same topology,
//! trees are trees, differences turn round, and nothing panics.

use config::spec::{GroupSpec, HopSpec, NodeSpec, PlaybackSpec, PolicySpec, VolumeSpec};
use config::{NodeDiff, Role, Topology, TopologySpec};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What a valid topology is made of: for each node after the first, the node it hangs below.
fn specs() -> impl Strategy<Value = TopologySpec> {
    let parents = prop::collection::vec(any::<prop::sample::Index>(), 0..12);
    let volumes = prop::collection::vec((1u64..4096, 0u32..8, prop::option::of(8u64..9000)), 0..4);
    let own = prop::collection::vec(
        (
            any::<prop::sample::Index>(),
            prop::option::of(0u64..10_000_000),
            prop::option::of(64u64..1 << 20),
        ),
        0..4,
    );
    let node = (any::<bool>(), "[a-z_äö '\"#:{}/\\[-]{1,12}", prop::option::of(16u64..5000));
    let nodes = prop::collection::vec(node, 13);
    (parents, volumes, own, nodes, 1u64..100_000, any::<bool>()).prop_map(
        |(parents, volumes, own, nodes, timeout, persistent)| {
            let count = parents.len() + 1;
            let name = |i: usize| format!("cel{i}-ser1");
            let mut spec = TopologySpec::default();
            for (i, (nbd, data, memory)) in nodes.into_iter().take(count).enumerate() {
                let node = NodeSpec {
                    listen: format!("127.0.0.1:{}", 7000 + i),
                    address: nbd.then(|| format!("[::1]:{}", 7000 + i)),
                    data: format!("{i}/{data}"),
                    nbd: nbd.then(|| format!("localhost:{}", 10_000 + i)),
                    memory: memory.map(|m| format!("{m} MiB")),
                    nbd_allow: memory.map(|_| vec!["::1".to_owned(), "10.0.0.0/8".to_owned()]),
                    insecure_plaintext: nbd,
                    metrics: nbd.then(|| "open".to_owned()),
                    health: None,
                    handlers: nbd
                        .then(|| {
                            (
                                "invalidate".to_owned(),
                                vec!["/bin/drop".to_owned(), "a b".to_owned()],
                            )
                        })
                        .into_iter()
                        .collect(),
                    writer_lost: memory.map(|m| format!("{}s", 5 + m % 80_000)),
                };
                spec.nodes.insert(name(i), node);
            }
            let mut routes: BTreeMap<String, Vec<HopSpec>> = BTreeMap::new();
            for (i, parent) in parents.iter().enumerate() {
                let mut hop = HopSpec::from(name(i + 1));
                // With certificates, some hops say how they are crossed.
                if persistent {
                    hop.transport =
                        [None, Some("tcp"), Some("tls"), Some("quic")][i % 4].map(str::to_owned);
                    hop.limit =
                        (i % 4 == 3).then(|| "20Mbit/s@mon-fri@08:00-18:00,none".to_owned());
                    hop.connections = (i % 4 == 2).then(|| "4".to_owned());
                    hop.congestion = (i % 3 == 1).then(|| "bbr".to_owned());
                    hop.dial = [None, Some("child"), Some("parent")][i % 3].map(str::to_owned);
                    if i % 8 == 2 {
                        hop.via = Some("https://[::1]:8443/rcp".to_owned());
                        hop.ca = Some("./ca: of 'the' proxy.pem".to_owned());
                    }
                }
                routes.entry(name(parent.index(i + 1))).or_default().push(hop);
            }
            let forward_only: Vec<_> =
                routes.keys().filter(|n| **n != name(0)).take(2).cloned().collect();
            let volumes = volumes.into_iter().enumerate().map(|(i, (blocks, shift, save))| {
                let volume = VolumeSpec {
                    size: format!("{}B", blocks * (512 << shift)),
                    block_size: Some(format!("{}B", 512 << shift)),
                    backing: save.map(|s| (name(0), format!("/dev/{s}/{i}"))).into_iter().collect(),
                    labels: save.map(|s| (name(0), format!("own{i}-{s}"))).into_iter().collect(),
                    save: save.map(|s| format!("{s}MiB")),
                    snapshot_area: None,
                    nbd_allow: save.map(|_| Vec::new()),
                };
                (format!("vol{i}"), volume)
            });
            let overrides = own.into_iter().map(|(node, timeout, hwm)| {
                let own = PlaybackSpec {
                    timeout: timeout.map(|t| format!("{t}ms")),
                    hwm: hwm.map(|h| format!("{h}KiB")),
                    max_staleness: timeout.map(|t| format!("{}s", t + 2)),
                    scrub: hwm.map(|h| format!("{h}KiB/s")),
                    scrub_every: timeout.map(|t| format!("{}s", t + 60)),
                    keep_bytes: hwm.map(|h| format!("{h}KiB")),
                    keep_sets: timeout.map(|t| t + 1),
                    keep_time: timeout.map(|t| format!("{}ms", t + 100)),
                    ..PlaybackSpec::default()
                };
                (name(node.index(count)), own)
            });
            let group = GroupSpec {
                primary: name(0),
                volumes: volumes.collect(),
                overrides: overrides.collect(),
                policy: PolicySpec {
                    timeout: Some(format!("{timeout}s")),
                    persistent: Some(persistent),
                    confirm: persistent.then(|| "3".to_owned()),
                    compress: Some(timeout % 3 > 0),
                    on_full: (timeout % 4 > 0).then(|| "suspend".to_owned()),
                    suspend_limit: (timeout % 4 > 1).then(|| "7s".to_owned()),
                    keep_sets: (timeout % 5 > 1).then_some(7),
                    ..PolicySpec::default()
                },
                playback: PlaybackSpec {
                    views: persistent.then(|| "always".to_owned()),
                    ..PlaybackSpec::default()
                },
                routes,
                forward_only,
                on_failover: BTreeMap::new(),
                bypass: (timeout % 4 > 1).then_some(persistent),
                transport: (timeout % 3 == 0).then(|| "tcp".to_owned()),
                feeders: if timeout % 2 == 0 { vec![name(0)] } else { Vec::new() },
                ..GroupSpec::default()
            };
            spec.groups.insert("g1".to_owned(), group);
            spec.pki = persistent.then(|| "./pki".to_owned());
            spec
        },
    )
}

fn check_quietly(text: &str) {
    if let Err(e) = Topology::compile(text, "topo.yaml") {
        assert!(e.count() > 0 && e.iter().count() > 0);
        let (plain, coloured) = (e.plain(), e.coloured());
        assert!(plain.contains("error: ") && coloured.contains("\u{1b}["), "{plain}");
        assert!(!plain.contains('\u{1b}'), "{plain:?}");
    }
}

proptest! {
    #[test]
    fn canonical_text_compiles_to_the_same(spec in specs()) {
        let first = spec.compile("spec.yaml").map_err(|e| TestCaseError::fail(e.plain()))?;
        let text = first.to_yaml().expect("text");
        let second = Topology::compile(&text, "canonical.yaml")
            .map_err(|e| TestCaseError::fail(format!("{}\n{text}", e.plain())))?;
        prop_assert_eq!(&first, &second);
        prop_assert_eq!(second.to_yaml().expect("text"), text);
        prop_assert_eq!(second.to_spec().compile("again.yaml").expect("compiles"), first);
    }

    #[test]
    fn trees_are_trees(spec in specs()) {
        let t = spec.compile("spec.yaml").map_err(|e| TestCaseError::fail(e.plain()))?;
        for g in t.groups() {
            let members = g.members();
            prop_assert_eq!(members.len(), t.nodes().len());
            for m in members {
                let path = g.path(m);
                prop_assert_eq!(path.first(), Some(&&g.primary));
                prop_assert_eq!(path.last(), Some(&m));
                prop_assert_eq!(g.role(m) == Some(Role::Primary), g.parent(m).is_none());
                for child in g.children(m) {
                    prop_assert_eq!(g.parent(child), Some(m));
                }
                for (node, hops) in g.below(m) {
                    prop_assert!(g.path(&node).contains(&m));
                    prop_assert_eq!(g.children(&node), hops);
                }
            }
        }
        prop_assert_eq!(t.graph().lines().count(), 1 + t.nodes().len());
        let dot = t.dot();
        prop_assert_eq!(dot.lines().last(), Some("}"));
    }

    #[test]
    fn differences_turn_round(a in specs(), b in specs()) {
        let compile = |s: TopologySpec| s.compile("x").map_err(|e| TestCaseError::fail(e.plain()));
        let (a, b) = (compile(a)?, compile(b)?);
        for node in a.nodes().chain(b.nodes()) {
            let lines = |d: NodeDiff| {
                let mut l: Vec<_> = d.changes.iter().map(ToString::to_string).collect();
                l.sort();
                l
            };
            let there = NodeDiff::between(&a, &b, &node.name);
            let back = NodeDiff::between(&b, &a, &node.name);
            prop_assert_eq!(lines(there.reversed()), lines(back));
            prop_assert!(NodeDiff::between(&a, &a, &node.name).is_empty());
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC*") {
        check_quietly(&text);
    }

    #[test]
    fn no_yaml_like_text_panics(text in "([a-z<&*!|>%\"'~#?-]|[0-9: \\t\\r\\n\\[\\]{},]){0,120}") {
        check_quietly(&text);
    }

    #[test]
    fn no_damaged_file_panics(
        spec in specs(),
        cuts in prop::collection::vec(
            (
                any::<prop::sample::Index>(),
                0usize..4,
                "\\PC{0,3}|[\\[\\]{}:,&*\\t\\r\\n a1\"'-]{1,3}",
            ),
            1..6,
        ),
    ) {
        let mut chars: Vec<char> = spec.to_yaml().expect("text").chars().collect();
        for (at, remove, insert) in cuts {
            let at = at.index(chars.len() + 1);
            let end = (at + remove).min(chars.len());
            chars.splice(at..end, insert.chars());
        }
        check_quietly(&chars.into_iter().collect::<String>());
    }
}

#[test]
fn large_input_is_refused_and_many_errors_are_counted() {
    let e = Topology::compile(&" ".repeat((1 << 20) + 1), "topo.yaml").expect_err("too large");
    assert!(e.plain().contains("at most 1MiB"), "{e}");
    let mut text = String::from("version: 1\nnodes:\n");
    for i in 0..500 {
        text.push_str(&format!("  n{i}: {{listen: x, data: d}}\n"));
    }
    let e = Topology::compile(&text, "topo.yaml").expect_err("500 errors");
    assert_eq!((e.count(), e.iter().count()), (500, 100));
    assert!(e.plain().ends_with("500 errors in topo.yaml\n(the last 400 are not shown)\n"));
}

#[test]
fn deep_nesting_and_long_chains_end() {
    for text in ["[".repeat(5000), "a: ".repeat(5000), format!("{}x", "- ".repeat(5000))] {
        check_quietly(&text);
    }
    let anchors: String = (1..3000).map(|i| format!("k{i}: &k{i} [*k{}]\n", i - 1)).collect();
    check_quietly(&format!("k0: &k0 x\n{anchors}"));
    let count = 3000;
    let mut spec = TopologySpec::default();
    let name = |i: usize| format!("n{i:04}");
    let mut routes = BTreeMap::new();
    for i in 0..count {
        let listen = format!("127.0.0.1:{}", 1000 + i);
        spec.nodes.insert(name(i), NodeSpec { listen, data: name(i), ..NodeSpec::default() });
        if i > 0 {
            routes.insert(name(i - 1), vec![HopSpec::from(name(i))]);
        }
    }
    let group = GroupSpec { primary: name(0), routes, ..GroupSpec::default() };
    spec.groups.insert("g".to_owned(), group.clone());
    let t = spec.compile("chain").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(t.groups().map(|g| g.members().len()).sum::<usize>(), count);
    let mut ring = group;
    ring.routes.insert(name(count - 1), vec![name(1).into()]);
    spec.groups.insert("g".to_owned(), ring);
    let e = spec.compile("ring").expect_err("a loop");
    assert!(e.plain().contains("form a loop: n0001 → n0002"), "{e}");
    assert!(e.plain().len() < 1000, "{e}");
}
