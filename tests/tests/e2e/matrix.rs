//! The main job, whole, over every way from one node to the next: seed, live, kills, a late leaf.

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use tests::rig::{
    Authority, Clock, MIB, Plan, Process, Proxy, Random, Tree, free_port, program, run, wait_for,
};

use crate::load::{Ends, Load, Writer};

const LONG: Duration = Duration::from_secs(60);
/// Three hops, one below the other, and a leaf that comes late.
const TREE: [(&str, &[&str]); 3] = [("p", &["f1"]), ("f1", &["f2"]), ("f2", &["l1", "l2"])];
const NODES: [&str; 5] = ["p", "f1", "f2", "l1", "l2"];
/// The smallest save volume there is: less than the volume holds.
const SAVE: u64 = 8;

/// How every hop of the tree is crossed.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    transport: &'static str,
    /// Through which proxy, and whether TLS ends there as well.
    proxy: Option<(Proxy, bool)>,
    /// Nodes that speak RCP 1.0: in this tree, on one side of every hop.
    older: &'static [&'static str],
}

macro_rules! matrix {
    ($($name:ident: $transport:literal, $proxy:expr, $older:expr;)*) => {
        const WAYS: &[Way] = &[$(Way {
            name: stringify!($name),
            transport: $transport,
            proxy: $proxy,
            older: $older,
        },)*];
        $(#[test]
        fn $name() {
            main_job(WAYS.iter().find(|w| w.name == stringify!($name)).expect("in the table"));
        })*
    };
}

matrix! {
    over_tcp: "tcp", None, &[];
    over_tls: "tls", None, &[];
    over_quic: "quic", None, &[];
    through_nginx: "tls", Some((Proxy::Nginx, false)), &[];
    through_nginx_that_ends_tls: "tls", Some((Proxy::Nginx, true)), &[];
    through_haproxy: "tls", Some((Proxy::Haproxy, false)), &[];
    through_haproxy_that_ends_tls: "tls", Some((Proxy::Haproxy, true)), &[];
    between_1_0_and_1_1: "tcp", None, &["p", "f2"];
    between_1_1_and_1_0: "quic", None, &["f1", "l1", "l2"];
}

/// The plan, and the URL of the proxy before the name of a node.
fn plan(way: &Way) -> (Plan, Option<(Proxy, bool, u16)>) {
    let mut plan = Plan::new(&TREE).volume("vol", 32).save(SAVE).cut_every(200);
    plan.group().policy.hwm = Some("1 MiB".to_owned());
    // Plain TCP is what a tree without certificates speaks.
    if way.transport != "tcp" {
        plan = plan.by(way.transport);
    }
    plan = plan.older(way.older);
    let proxy = way.proxy.map(|(proxy, https)| (proxy, https, free_port()));
    for (from, hops) in TREE {
        for to in hops {
            let Some((_, https, port)) = proxy else { continue };
            plan = plan.hop(from, to, |h| {
                h.via = Some(format!("{}{port}/{to}", scheme(https)));
                h.ca = https.then(|| "proxy-ca.pem".to_owned());
            });
        }
    }
    (plan, proxy)
}

fn scheme(https: bool) -> &'static str {
    if https { "https://127.0.0.1:" } else { "http://127.0.0.1:" }
}

/// Starts the proxy in front of the nodes; `None` where it is not installed.
fn proxy(tree: &Tree, proxy: Proxy, https: bool, port: u16) -> Option<Process> {
    let authority = Authority::new("proxy");
    let shown = authority.issue(&["127.0.0.1"]);
    let pem = tree.dir().join("proxy.pem");
    std::fs::write(&pem, shown.cert + &shown.key).unwrap();
    std::fs::write(tree.dir().join("proxy-ca.pem"), authority.pem()).unwrap();
    let config = tree.dir().join("proxy.conf");
    std::fs::write(&config, proxy.config(tree, &NODES, port, https.then_some(&*pem))).unwrap();
    let mut running = Process::start(&mut proxy.command(&config)?, &tree.dir().join("proxy.log"));
    wait_for("the proxy", LONG, || match running.ended() {
        Some(end) => panic!("{proxy:?} ended: {}", end.log),
        None => TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|e| e.to_string()),
    });
    Some(running)
}

fn seeds(tree: &Tree, node: &str) -> usize {
    tree.log(node).matches("a seed begins").count()
}

fn main_job(way: &Way) {
    let clock = Clock::default();
    let mut random = Random::seeded(way.name);
    let (mut plan, through) = plan(way);
    let tree = Tree::prepare(&mut plan);
    let _running = match through {
        Some((p, https, port)) => match proxy(&tree, p, https, port) {
            Some(running) => Some(running),
            None => return,
        },
        None => None,
    };
    // What a killed neighbour leaves is worth a warning each time.
    tree.expect(" WARN ");
    tree.up("p");
    let mut writer = Writer::new("vol", 0, 8000, random.fork());
    writer.fill(&tree).unwrap();
    let first = tree.cut("vol", false).set;
    // Seeds, three hops deep.
    for n in ["f1", "f2", "l1"] {
        tree.up(n);
    }
    tree.reaches("l1", "vol", first, LONG);
    assert!(seeds(&tree, "l1") > 0, "{} MiB cannot come from {SAVE} MiB", 8000 * 4 / 1024);
    let load = Load::default();
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, 3 * MIB));
        let newest = || tree.volume("p", "vol").unwrap().current_set;
        let before = newest();
        tree.reaches("l1", "vol", before + 2, LONG);
        let seeded = seeds(&tree, "l1");
        // A forwarder in the middle and a leaf are killed, one after the other.
        for n in ["f1", "f2", "l1"] {
            tree.kill(n);
            Clock::default().pace(Duration::from_millis(200));
            tree.up(n);
            let now = newest();
            tree.reaches("l1", "vol", now + 1, LONG);
        }
        // Without catch-ups, who was away for too long is seeded.
        if way.older.is_empty() {
            assert_eq!(seeds(&tree, "l1"), seeded, "it resumed");
        }
        // Late.
        let now = newest();
        tree.up("l2");
        tree.reaches("l2", "vol", now, LONG);
    });
    let cut = tree.cut("vol", true);
    tree.all_same("vol", cut.set, LONG);
    writer.verify("l2", &mut tree.open("l2", &format!("vol@{}", cut.set)).unwrap());
    for (from, hops) in TREE {
        for to in hops {
            let status = tree.status(from).unwrap();
            let link = status.groups[0].children.iter().find(|c| c.node == *to).unwrap();
            let want = match through {
                Some((_, https, port)) => {
                    format!("{} via {}{port}/{to}", way.transport, scheme(https))
                }
                None => way.transport.to_owned(),
            };
            assert_eq!((link.state.as_str(), &link.transport), ("connected", &want));
            let version = if way.older.is_empty() { "1.4" } else { "1.0" };
            assert_eq!(link.version, version, "{from} to {to}");
        }
    }
    let mut rcpctl = Command::new(program("rcpctl"));
    let said = run(rcpctl.arg("status").arg("--topology").arg(tree.topology()));
    assert_eq!(said.contains("is RCP 1.0: no catch-ups"), !way.older.is_empty(), "{said}");
    eprintln!("{}: {} MiB in {:?}", way.name, load.written() / MIB, clock.passed());
    tree.quiet();
}
