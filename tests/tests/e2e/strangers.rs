//! Peers that should not be let in, beside a stream that goes on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcp::net::conn::{FramedReader, FramedWriter, Verify};
use rcp::net::tls::Pki;
use rcp::net::{Dial, Dialled, dial_by};
use rcp::proto::frame::{Frame, Hello, RefuseCode, Role};
use rcp::proto::ids::{GroupName, NodeName};
use rcp::proto::session::VERSIONS;
use rcp::proto::transport::{Hop, Transport};
use tests::rig::{Authority, Clock, Issued, MIB, Plan, Random, Tree, tool, wait_for};

use crate::load::{Ends, Load, Writer};

const LONG: Duration = Duration::from_secs(30);

/// Certificates of somebody who trusts this tree, and may not be trusted by it.
fn stranger(tree: &Tree, name: &str, by: &Authority, shows: &Issued) -> Arc<Pki> {
    let folder: PathBuf = tree.dir().join(format!("stranger-{}-{name}", shows.cert.len()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("ca.pem"), tree.authority().pem() + &by.pem()).unwrap();
    shows.write(&folder, name);
    Arc::new(Pki::load(&folder, &NodeName::new(name).unwrap()).unwrap())
}

/// Connects to `f1` and says hello as `says`; what comes back, in words.
fn knock(tree: &Tree, pki: Option<&Arc<Pki>>, by: Transport, says: &str) -> String {
    let (addr, f1) = (tree.addr("f1").to_string(), NodeName::new("f1").unwrap());
    let group = GroupName::new("g1").unwrap();
    let hop = Hop { transport: Some(by), ..Hop::default() };
    let hello = Frame::Hello(Hello {
        versions: VERSIONS,
        node: NodeName::new(says).unwrap(),
        instance: [9; 16],
        group: group.clone(),
        role: Role::Sender,
        path: vec![NodeName::new(says).unwrap()],
        feeder: 0,
        keepalive_ms: 1000,
    });
    async fn talk<R, W>(read: R, write: W, hello: &Frame) -> String
    where
        R: tokio::io::AsyncRead + Unpin,
        W: tokio::io::AsyncWrite + Unpin + Send,
    {
        let mut writer = FramedWriter::new(write, "f1");
        let _ = writer.send(hello).await;
        match FramedReader::new(read, "f1", Verify::Content).next().await {
            Ok(Some(f)) => match f.frame {
                Frame::Refuse { code, text } => format!("{}: {text}", code.as_str()),
                other => format!("it answered {:?}", other.frame_type()),
            },
            Ok(None) => "closed".to_owned(),
            Err(e) => e.to_string(),
        }
    }
    tree.block_on(async {
        let dial = Dial { addr: &addr, node: &f1, group: &group, hop: &hop, pki };
        let talk = async {
            match dial_by(dial).await {
                Err(e) => e.to_string(),
                Ok((Dialled::Tcp(io), _)) => {
                    let (read, write) = io.into_split();
                    talk(read, write, &hello).await
                }
                Ok((Dialled::Stream(io), _)) => {
                    let (read, write) = tokio::io::split(io);
                    talk(read, write, &hello).await
                }
                Ok((Dialled::Quic(mut c), _)) => talk(&mut c.recv, &mut c.send, &hello).await,
            }
        };
        tokio::time::timeout(LONG, talk).await.expect("an answer")
    })
}

/// `f1` remembers somebody it turned away for this reason.
#[track_caller]
fn noted(tree: &Tree, kind: &str, why: &str) {
    wait_for(&format!("f1 to note {kind}"), LONG, || {
        let strangers = tree.status("f1").map_err(|e| e.to_string())?.security.strangers;
        let found = strangers.iter().any(|s| s.kind == kind && s.why.contains(why) && s.times > 0);
        if found { Ok(()) } else { Err(format!("{strangers:?}")) }
    });
}

#[test]
fn strangers_are_turned_away_in_words_and_the_stream_goes_on() {
    let mut random = Random::seeded("strangers");
    let plan = Plan::new(&[("p", &["f1"]), ("f1", &["l1"])]).volume("vol", 32).cut_every(200);
    let tree = Tree::start(plan.by("tls"));
    tree.expect("refused a peer");
    let mut writer = Writer::new("vol", 0, 8000, random.fork());
    let load = Load::default();
    let (now, hour) = (Authority::now(), Duration::from_secs(3600));
    let ca = tree.authority();
    let foreign = Authority::new("foreign");
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| writer.work(&tree, &load, 4 * MIB));
        tree.reaches("l1", "vol", 3, LONG);
        let before = tree.volume("l1", "vol").unwrap().current_set;
        for by in [Transport::Tls, Transport::Quic] {
            let old = ca.issue_for(&["p"], now - 9 * hour, now - 3 * hour);
            let said = knock(&tree, Some(&stranger(&tree, "p", ca, &old)), by, "p");
            assert!(said.contains("refused this node's certificate: expired"), "{by}: {said}");
            noted(&tree, "expired", "certificate of p expired 3 h ago");

            let shown = foreign.issue(&["p"]);
            let said = knock(&tree, Some(&stranger(&tree, "p", &foreign, &shown)), by, "p");
            assert!(said.contains("its CA is not in the peer's ca.pem"), "{by}: {said}");
            noted(&tree, "foreign-ca", "certificate of p was issued by a CA");

            // A member's certificate, and another member's name.
            let shown = ca.issue(&["l1"]);
            let said = knock(&tree, Some(&stranger(&tree, "l1", ca, &shown)), by, "p");
            let untrusted = RefuseCode::Untrusted.as_str();
            assert!(said.starts_with(untrusted) && said.contains("certificate of l1"), "{said}");
            noted(&tree, "session", "by who says to be p");

            // The right CA, its own name, and no member of the group.
            let shown = ca.issue(&["x"]);
            let said = knock(&tree, Some(&stranger(&tree, "x", ca, &shown)), by, "x");
            assert!(said.starts_with("peer: x is not among the feeders of f1"), "{by}: {said}");
        }
        let said = knock(&tree, None, Transport::Tcp, "p");
        assert!(said.starts_with("untrusted: f1 takes no session without a certi"), "{said}");

        // No certificate, older TLS, and silence, with tools that are not ours.
        let openssl = |args: &[&str]| {
            let mut c = tool("openssl", "openssl")?;
            c.args(["s_client", "-connect", &tree.addr("f1").to_string()]).args(args);
            let out = c.output().unwrap();
            let (out, err) = (out.stdout, out.stderr);
            Some(String::from_utf8_lossy(&out).into_owned() + &String::from_utf8_lossy(&err))
        };
        if let Some(said) = openssl(&["-tls1_2"]) {
            assert!(said.contains("protocol version"), "{said}");
            noted(&tree, "old-tls", "older TLS than 1.3");
            let said = openssl(&["-tls1_3", "-alpn", "rcp/1", "-ign_eof"]).unwrap();
            assert!(said.contains("certificate required"), "{said}");
            noted(&tree, "no-certificate", "sent no certificate");
        }
        std::thread::scope(|s| {
            for first in
                [&b"\x16\x03\x01"[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03"]
            {
                let tree = &tree;
                s.spawn(move || {
                    let mut c = TcpStream::connect(tree.addr("f1")).unwrap();
                    c.set_read_timeout(Some(LONG)).unwrap();
                    c.write_all(first).unwrap();
                    let clock = Clock::default();
                    let _ = c.read(&mut [0; 64]);
                    assert!(clock.passed() < Duration::from_secs(6), "{:?}", clock.passed());
                });
            }
        });
        let after = tree.volume("l1", "vol").unwrap().current_set;
        assert!(after > before + 5, "the stream stood still: set {before}, then {after}");
    });
    let cut = tree.cut("vol", true);
    tree.all_same("vol", cut.set, LONG);
    tree.quiet();
}
