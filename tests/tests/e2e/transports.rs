//! The main job over every transport, and changes of certificates and routes under way.

use std::process::Command;
use std::time::Duration;

use node::api::LinkStatus;
use tests::rig::{Clock, MIB, Plan, Random, Tree, program, run, said, tool, wait_for};

use crate::load::{Ends, Load, Writer};

const LONG: Duration = Duration::from_secs(60);

fn plan() -> Plan {
    Plan::new(&[("p", &["f1", "f2"]), ("f1", &["l1"]), ("f2", &["l2"])])
        .volume("vol", 48)
        .volume("second", 16)
        .cut_every(200)
}

/// How a node sees the link to a child.
fn link(tree: &Tree, node: &str, child: &str) -> Result<LinkStatus, String> {
    let status = tree.status(node).map_err(|e| e.to_string())?;
    let group = status.groups.into_iter().next().ok_or("no group")?;
    group.children.into_iter().find(|c| c.node == child).ok_or_else(|| format!("no {child}"))
}

#[track_caller]
fn becomes(tree: &Tree, node: &str, child: &str, state: &str, reason: &str) {
    wait_for(&format!("{node} to see {child} {state}"), LONG, || {
        let l = link(tree, node, child)?;
        let said = l.reason.clone().unwrap_or_default();
        if l.state == state && said.contains(reason) { Ok(()) } else { Err(format!("{l:?}")) }
    });
}

/// Writes, kills a forwarder in between, and compares every leaf.
fn main_job(name: &str, plan: Plan, links: &[(&str, &str, &str)]) {
    let mut random = Random::seeded(name);
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    let mut one = Writer::new("vol", 0, 12_000, random.fork());
    let mut two = Writer::new("second", 0, 4000, random.fork());
    let load = Load::default();
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| one.work(&tree, &load, 6 * MIB));
        s.spawn(|| two.work(&tree, &load, 2 * MIB));
        for l in ["l1", "l2"] {
            tree.reaches(l, "vol", 3, LONG);
        }
        tree.kill("f1");
        Clock::default().pace(Duration::from_millis(500));
        tree.up("f1");
        let now = tree.volume("p", "vol").unwrap().current_set;
        tree.reaches("l1", "vol", now + 2, LONG);
        tree.kill("l2");
        tree.up("l2");
        tree.reaches("l2", "vol", now + 4, LONG);
    });
    assert!(load.written() > 4 * MIB, "{} bytes only", load.written());
    for label in ["vol", "second"] {
        let cut = tree.cut(label, true);
        tree.all_same(label, cut.set, LONG);
    }
    for (from, to, by) in links {
        let l = link(&tree, from, to).unwrap();
        assert_eq!((l.state.as_str(), l.transport.as_str()), ("connected", *by), "{from} to {to}");
    }
    tree.quiet();
}

#[test]
fn the_main_job_over_tcp() {
    main_job("over tcp", plan(), &[("p", "f1", "tcp"), ("f2", "l2", "tcp")]);
}

#[test]
fn the_main_job_over_tls() {
    let plan = plan().by("tls");
    main_job("over tls", plan, &[("p", "f1", "tls"), ("f2", "l2", "tls")]);
}

#[test]
fn the_main_job_over_quic() {
    let plan = plan().by("quic");
    main_job("over quic", plan, &[("p", "f1", "quic"), ("f2", "l2", "quic")]);
}

#[test]
fn the_main_job_over_a_tree_that_mixes_them() {
    let set = |t: &'static str| move |h: &mut config::spec::HopSpec| h.transport = Some(t.into());
    let plan = plan()
        .by("tls")
        .hop("p", "f1", |h| {
            h.transport = Some("quic".to_owned());
            h.congestion = Some("bbr".to_owned());
        })
        .hop("f1", "l1", set("tcp"))
        .hop("f2", "l2", |h| h.congestion = Some("cubic".to_owned()));
    let links = [("p", "f1", "quic"), ("p", "f2", "tls"), ("f1", "l1", "tcp"), ("f2", "l2", "tls")];
    main_job("mixed", plan, &links);
}

#[test]
fn certificates_are_renewed_and_revoked_while_data_flows() {
    let mut random = Random::seeded("certificates");
    let plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1", "l2"])]).volume("vol", 16);
    let tree = Tree::start(plan.cut_every(200).by("tls").hop("f1", "l2", |h| {
        h.transport = Some("quic".to_owned());
    }));
    for part in ["lost ", "refused", "revoked", "certificates on disk"] {
        tree.expect(part);
    }
    let mut writer = Writer::new("vol", 0, 4000, random.fork());
    let load = Load::default();
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, MIB));
        for l in ["l1", "l2"] {
            tree.reaches(l, "vol", 2, LONG);
        }
        // Renewed: the session that runs is not disturbed, the next one uses it.
        let sessions = link(&tree, "p", "f1").unwrap().sessions;
        let renewed = tree.authority().issue(&["f1"]);
        renewed.write(&tree.pki(), "f1");
        loaded(&tree, "f1", 1);
        assert_eq!(link(&tree, "p", "f1").unwrap().sessions, sessions);

        // Nonsense in a file: loud, and the old one stays.
        std::fs::write(tree.pki().join("f1.pem"), "nonsense").unwrap();
        wait_for("f1 to say so", LONG, || {
            let s = tree.status("f1").map_err(|e| e.to_string())?.security;
            s.problem.filter(|p| p.contains("f1.pem")).ok_or_else(|| "nothing".to_owned())
        });
        renewed.write(&tree.pki(), "f1");
        loaded(&tree, "f1", 2);

        // Revoked: both leaves lose their sessions, and status says why.
        let [one, two] = ["l1", "l2"].map(|l| {
            let issued = tree.authority().issue(&[l]);
            issued.write(&tree.pki(), l);
            issued
        });
        loaded(&tree, "l1", 1);
        loaded(&tree, "l2", 1);
        tree.kill("f1");
        tree.up("f1");
        for l in ["l1", "l2"] {
            becomes(&tree, "f1", l, "connected", "");
        }
        let list = tree.authority().revoke(&[one.serial, two.serial]);
        std::fs::write(tree.pki().join("crl.pem.new"), list).unwrap();
        std::fs::rename(tree.pki().join("crl.pem.new"), tree.pki().join("crl.pem")).unwrap();
        for l in ["l1", "l2"] {
            becomes(&tree, "f1", l, "refused", &format!("certificate of {l} was revoked"));
        }
        // The stream beside them goes on.
        let now = tree.volume("f1", "vol").unwrap().current_set;
        tree.reaches("f1", "vol", now + 2, LONG);
        for l in ["l1", "l2"] {
            tree.authority().issue(&[l]).write(&tree.pki(), l);
            becomes(&tree, "f1", l, "connected", "");
        }
    });
    let cut = tree.cut("vol", true);
    tree.all_same("vol", cut.set, LONG);
    tree.quiet();
}

/// New certificates have come into use so often.
#[track_caller]
fn loaded(tree: &Tree, node: &str, times: usize) {
    wait_for(&format!("{node} to load certificates"), LONG, || {
        let n = tree.log(node).matches("new certificates").count();
        if n >= times { Ok(()) } else { Err(format!("{n} times")) }
    });
}

#[test]
fn a_route_added_by_quic_stays_so() {
    let rcproute = |tree: &Tree, words: &[&str]| {
        said(Command::new(program("rcproute")).arg("--dir").arg(tree.folder("p")).args(words))
    };
    let plan = Plan::new(&[("p", &["f1", "f2"])]).volume("vol", 16).by("tls");
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    rcproute(&tree, &["delete", "group=g1", "nexthop=f2"]).unwrap();
    let add = ["add", "group=g1", "nexthop=f2", "transport=quic", "congestion=bbr"];
    let shown = rcproute(&tree, &add).unwrap();
    assert!(shown.contains("f2 (transport=quic congestion=bbr)"), "{shown}");
    for _ in 0..2 {
        becomes(&tree, "p", "f2", "connected", "");
        let shown = rcproute(&tree, &["display"]).unwrap();
        assert!(shown.contains("f1, f2 (transport=quic congestion=bbr)"), "{shown}");
        assert_eq!(link(&tree, "p", "f2").unwrap().transport, "quic");
        let status = run(Command::new(program("rcpctl"))
            .args(["status", "--topology"])
            .arg(tree.topology()));
        assert!(status.contains("by quic"), "{status}");
        assert!(status.contains("differ from the topology"), "{status}");
        let cut = tree.cut("vol", true);
        tree.reaches("f2", "vol", cut.set, LONG);
        tree.kill("p");
        tree.up("p");
    }
    let e = rcproute(&tree, &["add", "group=g1", "nexthop=f2", "transport=udp"]).unwrap_err();
    assert!(e.contains("tcp, tls or quic"), "{e}");
    // Plain text is not taken where certificates are expected.
    rcproute(&tree, &["delete", "group=g1", "nexthop=f2"]).unwrap();
    let e = rcproute(&tree, &["add", "group=g1", "nexthop=f2", "transport=tcp"]).unwrap_err();
    assert!(e.contains("takes no session without a certificate"), "{e}");
}

#[test]
fn a_restarted_child_says_by_quic_that_it_knows_nothing_of_the_connection() {
    let tree = Tree::start(Plan::new(&[("p", &["l1"])]).volume("vol", 16).by("quic"));
    tree.expect(" WARN ");
    becomes(&tree, "p", "l1", "connected", "");
    let before = tree.log("p").len();
    tree.kill("l1");
    tree.up("l1");
    // RFC 9000, section 10.3: without it the parent would wait for the silence to be too long.
    wait_for("the parent to be told", LONG, || {
        let log = tree.log("p").split_off(before);
        let told = log.contains("lost l1 of group g1") && log.contains("knows nothing of this");
        if told { Ok(()) } else { Err(log) }
    });
    let cut = tree.cut("vol", true);
    tree.reaches("l1", "vol", cut.set, LONG);
}

#[test]
fn http_2_on_the_shared_port_plain_and_inside_tls() {
    let plan = Plan::new(&[("p", &["f1"])]).volume("vol", 16).by("tls");
    let tree = Tree::start(plan);
    let cut = tree.cut("vol", true);
    tree.reaches("f1", "vol", cut.set, LONG);
    let port = tree.addr("f1").port();
    let ca = tree.pki().join("ca.pem");
    let to = format!("f1:{port}:127.0.0.1");
    for (how, url, version) in [
        (&["--http2-prior-knowledge"][..], format!("http://127.0.0.1:{port}"), "2"),
        (&["--http1.1"], format!("http://127.0.0.1:{port}"), "1.1"),
        (&["--http2", "--resolve", &to, "--tlsv1.3"], format!("https://f1:{port}"), "2"),
        (&["--http1.1", "--resolve", &to, "--tlsv1.3"], format!("https://f1:{port}"), "1.1"),
        (&["--no-alpn", "--resolve", &to, "--tlsv1.3"], format!("https://f1:{port}"), "1.1"),
    ] {
        let ask = |path: &str, more: &[&str]| {
            let mut curl = tool("curl", "curl")?;
            curl.args(["-sS", "--max-time", "20", "-w", " %{http_version} %{http_code}"]);
            curl.arg("--cacert").arg(&ca).args(how).args(more);
            Some(run(curl.arg(format!("{url}{path}"))))
        };
        let Some(out) = ask("/metrics", &["-o", "/dev/null"]) else { return };
        assert_eq!(out, format!(" {version} 200"), "{how:?}");
        let out = ask("/rcp/g1", &[]).unwrap();
        assert!(out.contains("Upgrade: RCP/1.0") && out.ends_with(" 426"), "{out}");
        // Content is for who proves to be somebody.
        let volume = "/v1/volumes/vol";
        let range = ["-o", "/dev/null", "-r", "0-1048575"];
        let out = ask(volume, &range).unwrap();
        assert_eq!(out, format!(" {version} 401"), "{how:?}");
        if url.starts_with("https") {
            let [cert, key] = ["p.pem", "p.key"].map(|f| tree.pki().join(f).display().to_string());
            let more = [&range[..], &["--cert", &cert, "--key", &key]].concat();
            let out = ask(volume, &more).unwrap();
            assert_eq!(out, format!(" {version} 206"), "{how:?}");
        }
    }
    tree.expect("request refused");
    tree.quiet();
}
