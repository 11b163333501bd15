//! A tree whose every hop goes through a proxy by `Upgrade: RCP/1.0`.

use std::net::TcpStream;
use std::time::Duration;

use node::nbd;
use tests::rig::{Authority, Clock, MIB, Plan, Process, Proxy, Random, Tree, free_port, wait_for};

const LONG: Duration = Duration::from_secs(60);
const NODES: [&str; 3] = ["p", "f1", "l1"];

/// How long data flows through each proxy: seconds in `RCP_PROXY_SECONDS`, for a longer look.
fn flow_time() -> Duration {
    let given = std::env::var("RCP_PROXY_SECONDS").ok();
    let seconds = given.map(|s| s.parse().expect("RCP_PROXY_SECONDS is a number of seconds"));
    Duration::from_secs(seconds.unwrap_or(3))
}

/// Writes until the time is over, sets being cut all the while; no session is ever lost. Returns
/// the bytes.
fn flow(tree: &Tree, c: &mut nbd::Client, random: &mut Random) -> u64 {
    let sessions = || {
        let s = tree.status("p").unwrap();
        let link = &s.groups[0].children[0];
        assert_eq!(link.state, "connected", "{link:?}");
        tree.volume("l1", "vol").map_or(0, |v| v.current_set)
    };
    wait_for("the first session through the proxy", LONG, || {
        let link = tree.status("p").unwrap().groups[0].children[0].clone();
        if link.state == "connected" { Ok(()) } else { Err(format!("{link:?}")) }
    });
    let (clock, mut written, mut last) = (Clock::default(), 0, 0);
    while clock.passed() < flow_time() {
        for _ in 0..4 {
            let at = random.below(47) * MIB + random.below(256) * 4096;
            c.write(at, &random.bytes(256 << 10), false).unwrap();
            written += 256 << 10;
        }
        let now = sessions();
        assert!(now >= last, "set {now} after {last}");
        last = now;
        clock.pace(clock.passed() + Duration::from_millis(50));
    }
    c.flush().unwrap();
    tree.reaches("l1", "vol", last + 1, LONG);
    written
}

fn through(proxy: Proxy, https: bool) {
    let port = free_port();
    let scheme = if https { "https" } else { "http" };
    let mut plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1"])]).volume("vol", 48).cut_every(300);
    plan = plan.by("tls");
    for (from, to) in [("p", "f1"), ("f1", "l1")] {
        plan = plan.hop(from, to, |h| {
            h.via = Some(format!("{scheme}://127.0.0.1:{port}/{to}"));
            h.ca = https.then(|| "proxy-ca.pem".to_owned());
        });
    }
    let tree = Tree::prepare(&mut plan);
    // The proxy's certificate is from a CA that the nodes do not trust as nodes.
    let authority = Authority::new("proxy");
    let shown = authority.issue(&["127.0.0.1"]);
    let pem = tree.dir().join("proxy.pem");
    std::fs::write(&pem, shown.cert + &shown.key).unwrap();
    std::fs::write(tree.dir().join("proxy-ca.pem"), authority.pem()).unwrap();
    let config = tree.dir().join("proxy.conf");
    std::fs::write(&config, proxy.config(&tree, &NODES, port, https.then_some(&*pem))).unwrap();
    let Some(mut command) = proxy.command(&config) else { return };
    let log = tree.dir().join("proxy.log");
    let mut running = Process::start(&mut command, &log);
    wait_for("the proxy", LONG, || match running.ended() {
        Some(end) => panic!("{proxy:?} ended: {}", end.log),
        None => TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|e| e.to_string()),
    });
    for n in NODES {
        tree.up(n);
    }
    let mut random = Random::seeded("proxy");
    let mut c: nbd::Client = tree.open("p", "vol").unwrap();
    for i in 0..32 {
        c.write(i * MIB, &random.bytes(1 << 20), false).unwrap();
    }
    c.flush().unwrap();
    let flowed = flow(&tree, &mut c, &mut random);
    eprintln!("proxy: {proxy:?}, {scheme}: {} MiB in {:?}", flowed / MIB, flow_time());
    let cut = tree.cut("vol", true);
    tree.all_same("vol", cut.set, LONG);
    let status = tree.status("p").unwrap();
    let link = &status.groups[0].children[0];
    assert_eq!(link.transport, format!("tls via {scheme}://127.0.0.1:{port}/f1"));
    // The proxy goes away under the sessions, and comes back.
    tree.expect(" WARN ");
    drop(running);
    for i in 0..8 {
        c.write(i * MIB, &random.bytes(1 << 20), false).unwrap();
    }
    c.flush().unwrap();
    let cut = tree.cut("vol", true);
    let _running = Process::start(&mut command, &log);
    tree.all_same("vol", cut.set, LONG);
    tree.quiet();
}

#[test]
fn nginx_plain() {
    through(Proxy::Nginx, false);
}

#[test]
fn nginx_ends_tls() {
    through(Proxy::Nginx, true);
}

#[test]
fn haproxy_plain() {
    through(Proxy::Haproxy, false);
}

#[test]
fn haproxy_ends_tls() {
    through(Proxy::Haproxy, true);
}

/// A proxy proves nothing: what comes through it without a certificate of its own is turned away,
/// though the proxy is on this machine.
#[test]
fn plain_text_inside_is_refused_even_on_loopback() {
    let port = free_port();
    let mut plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1"])]).volume("vol", 16);
    plan = plan.hop("p", "f1", |h| h.via = Some(format!("http://127.0.0.1:{port}/f1")));
    let tree = Tree::prepare(&mut plan);
    tree.expect(" WARN ");
    let config = tree.dir().join("proxy.conf");
    std::fs::write(&config, Proxy::Haproxy.config(&tree, &NODES, port, None)).unwrap();
    let Some(mut command) = Proxy::Haproxy.command(&config) else { return };
    let _running = Process::start(&mut command, &tree.dir().join("proxy.log"));
    for n in NODES {
        tree.up(n);
    }
    wait_for("p to be refused", LONG, || {
        let s = tree.status("p").map_err(|e| e.to_string())?;
        let link = &s.groups[0].children[0];
        let said = link.reason.clone().unwrap_or_default();
        let words = said.contains("takes no session without a certificate");
        if link.state == "refused" && words { Ok(()) } else { Err(format!("{link:?}")) }
    });
    // The other hop, which goes without a proxy, is fed as ever.
    wait_for("f1 to feed l1", LONG, || {
        let s = tree.status("f1").map_err(|e| e.to_string())?;
        let link = &s.groups[0].children[0];
        if link.state == "connected" { Ok(()) } else { Err(format!("{link:?}")) }
    });
    tree.quiet();
}
