//! Several connections for one hop: the main job while they break, who may join, and with whom there
//! is only one.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use node::api::LinkStatus;
use rcp::net::conn::{FramedReader, FramedWriter, Verify};
use rcp::net::tls::Pki;
use rcp::net::{ByteStream, Dial, Dialled, dial_by};
use rcp::proto::frame::{Frame, Hello, Join, JoinKey, Role};
use rcp::proto::ids::{GroupName, NodeName};
use rcp::proto::session::VERSIONS;
use rcp::proto::transport::{Hop, Transport};
use tests::rig::{Clock, MIB, Narrow, Plan, Random, Tree, program, run, said, wait_for};
use tokio::io::{ReadHalf, WriteHalf};

use crate::load::{Ends, Load, Writer};

const LONG: Duration = Duration::from_secs(60);
/// Bytes a second that the way to a node lets through, over each connection.
const FAST: u64 = 16 << 20;

fn several(plan: Plan, from: &str, to: &str, n: u8) -> Plan {
    plan.hop(from, to, |h| h.connections = Some(n.to_string()))
}

/// How a node sees the link to a child, or, without one, to its parent.
fn link(tree: &Tree, node: &str, child: Option<&str>) -> Result<LinkStatus, String> {
    let status = tree.status(node).map_err(|e| e.to_string())?;
    let group = status.groups.into_iter().next().ok_or("no group")?;
    let found = match child {
        Some(child) => group.children.into_iter().find(|c| c.node == child),
        None => group.parent,
    };
    found.ok_or_else(|| format!("no {child:?}"))
}

/// A link comes to say this of its connections.
#[track_caller]
fn says(tree: &Tree, node: &str, child: Option<&str>, words: &str) -> LinkStatus {
    wait_for(&format!("{node} to say {words}"), LONG, || {
        let l = link(tree, node, child)?;
        let said = l.connections.clone().unwrap_or_default();
        if said.contains(words) { Ok(l) } else { Err(format!("{l:?}")) }
    })
}

/// Writes while further connections are cut, one after the other, and then the first one.
fn main_job(name: &str, plan: impl FnOnce(Plan) -> Plan) {
    let mut random = Random::seeded(name);
    let plan = plan(Plan::new(&[("p", &["f1"]), ("f1", &["l1"])]).volume("vol", 48).cut_every(200));
    let mut plan = several(several(plan, "p", "f1", 4), "f1", "l1", 2);
    let way = Narrow::listen(FAST);
    let f1 = plan.spec.nodes.get_mut("f1").unwrap();
    f1.address = Some(way.addr.to_string());
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    way.lead_to(tree.addr("f1"));
    let mut writer = Writer::new("vol", 0, 12_000, random.fork());
    let load = Load::default();
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, 6 * MIB));
        let sessions = says(&tree, "p", Some("f1"), "connections 4").sessions;
        says(&tree, "f1", None, "connections 4");
        says(&tree, "f1", Some("l1"), "connections 2");
        for last in (1..4).rev() {
            let now = tree.volume("p", "vol").unwrap().current_set;
            tree.reaches("l1", "vol", now + 2, LONG);
            way.cut(last);
            wait_for("the loss to be noted", LONG, || {
                let times = tree.log("p").matches("a further connection with f1 was lost").count();
                if times + last >= 4 { Ok(()) } else { Err(format!("{times} times")) }
            });
            says(&tree, "p", Some("f1"), "connections 4");
        }
        // It was one session all the time, and what was cut was not lost for the children.
        assert_eq!(link(&tree, "p", Some("f1")).unwrap().sessions, sessions);
        // With the first one the session ends; the next one has as many.
        way.cut(0);
        wait_for("another session", LONG, || {
            let l = link(&tree, "p", Some("f1"))?;
            if l.sessions > sessions { Ok(()) } else { Err(format!("{l:?}")) }
        });
        says(&tree, "p", Some("f1"), "connections 4");
        tree.kill("f1");
        Clock::default().pace(Duration::from_millis(500));
        tree.up("f1");
        let now = tree.volume("p", "vol").unwrap().current_set;
        tree.reaches("l1", "vol", now + 2, LONG);
    });
    assert!(load.written() > 4 * MIB, "{} bytes only", load.written());
    let cut = tree.cut("vol", true);
    tree.all_same("vol", cut.set, LONG);
    says(&tree, "p", Some("f1"), "connections 4");
    let mut rcpctl = Command::new(program("rcpctl"));
    let status = run(rcpctl.args(["status", "--topology"]).arg(tree.topology()));
    assert!(status.contains(", connections 4, "), "{status}");
    tree.quiet();
}

#[test]
fn the_main_job_over_several_connections_by_tcp() {
    main_job("connections tcp", |plan| plan);
}

#[test]
fn the_main_job_over_several_connections_by_tls() {
    main_job("connections tls", |plan| plan.by("tls"));
}

#[test]
fn a_limit_counts_for_all_connections_together() {
    let mut random = Random::seeded("limited connections");
    let plan = several(Plan::new(&[("p", &["l1"])]).volume("vol", 16), "p", "l1", 4);
    let tree = Tree::start(plan.hop("p", "l1", |h| h.limit = Some("8Mbit/s".to_owned())));
    wait_for("a replica", LONG, || tree.volume("l1", "vol"));
    says(&tree, "p", Some("l1"), "connections 4");
    let mut c = tree.open("p", "vol").unwrap();
    for at in 0..6 {
        c.write(at * MIB, &random.bytes(1 << 20), true).unwrap();
    }
    drop(c);
    let clock = Clock::default();
    let set = tree.cut("vol", true).set;
    tree.all_same("vol", set, LONG);
    // 6 MiB at 8 Mbit/s are 6.3 s; the first one goes at once, whatever comes after it.
    assert!(clock.passed() > Duration::from_millis(4500), "{:?}", clock.passed());
    tree.quiet();
}

#[test]
fn a_child_that_dials_makes_the_further_connections_too() {
    let plan = several(Plan::new(&[("p", &["l1"])]).volume("vol", 16).by("tls"), "p", "l1", 3);
    let tree = Tree::start(plan.hop("p", "l1", |h| h.dial = Some("child".to_owned())));
    says(&tree, "l1", None, "connections 3");
    says(&tree, "p", Some("l1"), "connections 3");
    let mut random = Random::seeded("dialling connections");
    tree.open("p", "vol").unwrap().write(0, &random.bytes(8 << 20), true).unwrap();
    let set = tree.cut("vol", true).set;
    tree.all_same("vol", set, LONG);
    tree.quiet();
}

#[test]
fn with_an_older_neighbour_there_is_one_connection() {
    let plan = Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 16).older(&["l1"]);
    let plan = several(several(plan, "p", "l1", 4), "p", "l2", 4);
    let tree = Tree::start(plan);
    says(&tree, "p", Some("l1"), "connections 1 of 4: l1 speaks RCP 1.0");
    says(&tree, "p", Some("l2"), "connections 4");
    let mut random = Random::seeded("older neighbour");
    tree.open("p", "vol").unwrap().write(0, &random.bytes(8 << 20), true).unwrap();
    let set = tree.cut("vol", true).set;
    tree.all_same("vol", set, LONG);
    tree.quiet();
}

#[test]
fn a_route_is_added_with_connections_and_keeps_them() {
    let tree = Tree::start(Plan::new(&[("p", &["f1", "f2"])]).volume("vol", 16).by("tls"));
    tree.expect(" WARN ");
    let rcproute = |words: &[&str]| {
        said(Command::new(program("rcproute")).arg("--dir").arg(tree.folder("p")).args(words))
    };
    rcproute(&["delete", "group=g1", "nexthop=f2"]).unwrap();
    for (word, why) in [
        ("connections=0", "1 to 16"),
        ("connections=17", "1 to 16"),
        ("transport=quic connections=2", "not for QUIC"),
    ] {
        let words: Vec<_> =
            ["add", "group=g1", "nexthop=f2"].into_iter().chain(word.split(' ')).collect();
        let e = rcproute(&words).unwrap_err();
        assert!(e.contains(why), "{e}");
    }
    rcproute(&["add", "group=g1", "nexthop=f2", "connections=4"]).unwrap();
    for _ in 0..2 {
        says(&tree, "p", Some("f2"), "connections 4");
        let shown = rcproute(&["display"]).unwrap();
        assert!(shown.contains("f1, f2 (connections=4)"), "{shown}");
        tree.kill("p");
        tree.up("p");
    }
}

/// A connection to `f1`, with frames in both directions.
struct Wire {
    reader: FramedReader<ReadHalf<Box<dyn ByteStream>>>,
    writer: FramedWriter<WriteHalf<Box<dyn ByteStream>>>,
}

impl Wire {
    async fn open(tree: &Tree, pki: Option<&Arc<Pki>>) -> Self {
        let (addr, f1) = (tree.addr("f1").to_string(), NodeName::new("f1").unwrap());
        let group = GroupName::new("g1").unwrap();
        let transport = Some(if pki.is_some() { Transport::Tls } else { Transport::Tcp });
        let hop = Hop { transport, ..Hop::default() };
        let dial = Dial { addr: &addr, node: &f1, group: &group, hop: &hop, pki };
        let io: Box<dyn ByteStream> = match dial_by(dial).await.expect("a connection").0 {
            Dialled::Tcp(io) => Box::new(io),
            Dialled::Stream(io) => io,
            Dialled::Quic(_) => panic!("not asked for"),
        };
        let (read, write) = tokio::io::split(io);
        let reader = FramedReader::new(read, "f1", Verify::Content);
        Self { reader, writer: FramedWriter::new(write, "f1") }
    }

    /// Says something, and what comes back.
    async fn ask(&mut self, frame: &Frame) -> Frame {
        let _ = self.writer.send(frame).await;
        self.next().await
    }

    async fn next(&mut self) -> Frame {
        let next = tokio::time::timeout(LONG, self.reader.next()).await.expect("in time");
        next.expect("sound").expect("a frame").frame
    }

    /// Wants to join; the answer in words.
    async fn join(tree: &Tree, pki: Option<&Arc<Pki>>, node: &str, key: JoinKey) -> String {
        let mut wire = Self::open(tree, pki).await;
        let node = NodeName::new(node).unwrap();
        match wire.ask(&Frame::Join(Join { node, key })).await {
            Frame::Refuse { code, text } => format!("{code}: {text}"),
            other => other.frame_type().name().to_owned(),
        }
    }
}

/// A session with `f1` as its parent `p`, and what further connections of it join with.
async fn session(tree: &Tree, pki: Option<&Arc<Pki>>) -> (Wire, JoinKey) {
    let mut wire = Wire::open(tree, pki).await;
    let p = NodeName::new("p").unwrap();
    let hello = Hello {
        versions: VERSIONS,
        node: p.clone(),
        instance: [9; 16],
        group: GroupName::new("g1").unwrap(),
        role: Role::Sender,
        path: vec![p],
        feeder: 0,
        keepalive_ms: 60_000,
    };
    let Frame::Welcome(w) = wire.ask(&Frame::Hello(hello)).await else { panic!("no welcome") };
    (wire, w.join.expect("a key"))
}

#[test]
fn only_who_has_the_session_joins_it() {
    let plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1"])]).volume("vol", 16).by("tls");
    let tree = Tree::start_but(plan, &["p", "l1"]);
    tree.expect(" WARN ");
    let pki = |name: &str| {
        let node = NodeName::new(name).unwrap();
        Arc::new(Pki::load(&tree.pki(), &node).unwrap())
    };
    let (p, l1) = (pki("p"), pki("l1"));
    tree.block_on(async {
        let (mut first, key) = session(&tree, Some(&p)).await;
        let wrong = JoinKey { secret: [0; 16], ..key };
        let other = JoinKey { session: key.session + 1, ..key };
        let none = "join: there is no session that it could join";
        assert_eq!(Wire::join(&tree, Some(&p), "p", wrong).await, none);
        assert_eq!(Wire::join(&tree, Some(&p), "p", other).await, none);
        // With the key, and the certificate of another member, in either name.
        assert_eq!(Wire::join(&tree, Some(&l1), "l1", key).await, none);
        let said = Wire::join(&tree, Some(&l1), "p", key).await;
        assert!(said.starts_with("untrusted: f1 was shown a certificate of l1"), "{said}");
        let said = Wire::join(&tree, None, "p", key).await;
        assert!(said.starts_with("untrusted: "), "{said}");

        let mut joined = Wire::open(&tree, Some(&p)).await;
        let join = Frame::Join(Join { node: NodeName::new("p").unwrap(), key });
        assert_eq!(joined.ask(&join).await, Frame::Joined { session: key.session });
        // Two places for one frame: nothing that follows can be trusted, and the session is over.
        for number in [1, 2] {
            joined.writer.send(&Frame::Place { number }).await.unwrap();
        }
        loop {
            if let Frame::Goodbye { text, .. } = first.next().await {
                assert!(text.contains("at a place that it may not have"), "{text}");
                break;
            }
        }
        // A session that is over is joined by nobody.
        assert_eq!(Wire::join(&tree, Some(&p), "p", key).await, none);
    });
    wait_for("f1 to note them", LONG, || {
        let strangers = tree.status("f1").map_err(|e| e.to_string())?.security.strangers;
        let found = strangers.iter().any(|s| s.why.contains("to join a session of p"));
        if found { Ok(()) } else { Err(format!("{strangers:?}")) }
    });
}
