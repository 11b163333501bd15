//! TLS and QUIC with real certificates: who is let in, who is not, and what each side is told.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcp::net::conn::{FramedReader, FramedWriter, Verify};
use rcp::net::port::{Accepted, accept};
use rcp::net::quic::{self, Listener};
use rcp::net::tls::{self, Distrust, Pki, Proven, Reload, TlsError};
use rcp::net::{Dial, Dialled, NetError, dial_by};
use rcp::proto::frame::{Frame, StreamId};
use rcp::proto::ids::{GroupName, NodeName};
use rcp::proto::transport::{Hop, Transport};
use tests::rig::{Authority, Issued};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn n(name: &str) -> NodeName {
    NodeName::new(name).expect("a name")
}

fn g() -> GroupName {
    GroupName::new("g1").expect("a name")
}

/// Certificates for `a` and `b` in one folder, and what they know.
struct Scene {
    ca: Authority,
    dir: tempfile::TempDir,
    a: Arc<Pki>,
    b: Arc<Pki>,
}

impl Scene {
    fn new() -> Self {
        let ca = Authority::new("test");
        let dir = tempfile::tempdir().expect("a folder");
        ca.write(dir.path(), &["a", "b"]);
        let [a, b] = ["a", "b"].map(|x| Arc::new(Pki::load(dir.path(), &n(x)).expect("loads")));
        Self { ca, dir, a, b }
    }

    /// Another folder with the certificate that `make` gives to a node.
    fn other(&self, node: &str, ca: &Authority, issued: &Issued) -> Arc<Pki> {
        let dir = self.dir.path().join(format!("other-{node}-{}", issued.serial));
        std::fs::create_dir_all(&dir).expect("a folder");
        // It trusts the scene's CA; only what it shows differs.
        let both = self.ca.pem() + &ca.pem();
        std::fs::write(dir.join("ca.pem"), both).expect("ca.pem");
        issued.write(&dir, node);
        Arc::new(Pki::load(&dir, &n(node)).expect("loads"))
    }
}

type Took = Result<(Vec<NodeName>, GroupName), TlsError>;

/// `server` takes one connection over TLS and echoes one frame.
async fn serve_tls(server: Arc<Pki>) -> (SocketAddr, tokio::task::JoinHandle<Took>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let addr = listener.local_addr().expect("an address");
    let task = tokio::spawn(async move {
        let (io, _) = listener.accept().await.expect("accepted");
        let Accepted::Tls { io } = accept(io).await else { panic!("not TLS") };
        let (io, proven) = tls::accept(&server, io).await?;
        let Accepted::Rcp { group, io } = accept(io).await else { panic!("not RCP inside") };
        let (read, write) = tokio::io::split(io);
        echo(read, write).await;
        Ok((proven.names, group))
    });
    (addr, task)
}

/// `server` takes one connection over QUIC and echoes one frame.
async fn serve_quic(server: Arc<Pki>) -> (SocketAddr, tokio::task::JoinHandle<Took>) {
    let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), server).expect("UDP");
    let addr = listener.local_addr().expect("an address");
    let task = tokio::spawn(async move {
        let incoming = listener.next().await.expect("one");
        let taken = incoming.accept().await;
        let (c, proven, group) = match taken {
            Ok(taken) => taken,
            Err(NetError::Tls { source, .. }) => {
                // The peer is told before the socket goes.
                tokio::time::sleep(Duration::from_millis(200)).await;
                return Err(source);
            }
            Err(e) => panic!("{e}"),
        };
        echo(c.recv, c.send).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok((proven.names, group))
    });
    (addr, task)
}

async fn echo<R, W>(read: R, write: W)
where
    R: tokio::io::AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    let mut reader = FramedReader::new(read, "peer", Verify::Content);
    let frame = reader.next().await.expect("a frame").expect("one").frame;
    FramedWriter::new(write, "peer").send(&frame).await.expect("sent");
}

/// Dials, sends one frame and reads one; what came of it.
async fn ask(
    from: &Arc<Pki>,
    to: &str,
    addr: SocketAddr,
    by: Transport,
) -> Result<Proven, NetError> {
    let hop = Hop { transport: Some(by), ..Hop::default() };
    let (addr, node, group) = (addr.to_string(), n(to), g());
    let dial = Dial { addr: &addr, node: &node, group: &group, hop: &hop, pki: Some(from) };
    let (io, proven) = dial_by(dial).await?;
    let frame = Frame::Ping { nonce: 7 };
    async fn once<R, W>(read: R, write: W, frame: &Frame) -> Result<(), NetError>
    where
        R: tokio::io::AsyncRead + Unpin,
        W: tokio::io::AsyncWrite + Unpin,
    {
        let sent = FramedWriter::new(write, "peer").send(frame).await;
        let mut reader = FramedReader::new(read, "peer", Verify::Content);
        let got = reader.next().await?;
        sent?;
        assert_eq!(got.map(|f| f.frame), Some(frame.clone()));
        Ok(())
    }
    match io {
        Dialled::Tcp(_) => panic!("plain"),
        Dialled::Stream(io) => {
            let (read, write) = tokio::io::split(io);
            once(read, write, &frame).await?;
        }
        Dialled::Quic(mut c) => once(&mut c.recv, &mut c.send, &frame).await?,
    }
    Ok(proven.expect("proven"))
}

/// One connection from `from` to a server with `server`'s certificate that is taken for `to`.
async fn meet(
    from: &Arc<Pki>,
    to: &str,
    server: &Arc<Pki>,
    by: Transport,
) -> (Result<Proven, NetError>, Took) {
    let (addr, task) = match by {
        Transport::Quic => serve_quic(server.clone()).await,
        _ => serve_tls(server.clone()).await,
    };
    let all = async {
        let asked = ask(from, to, addr, by).await;
        (asked, task.await.expect("the server's task"))
    };
    tokio::time::timeout(Duration::from_secs(10), all).await.expect("in time")
}

const BOTH: [Transport; 2] = [Transport::Tls, Transport::Quic];

#[tokio::test]
async fn both_sides_know_who_the_other_is() {
    let s = Scene::new();
    for by in BOTH {
        let (asked, took) = meet(&s.a, "b", &s.b, by).await;
        let proven = asked.expect("met");
        assert_eq!(proven.names, [n("b")], "{by}");
        assert_eq!(took.expect("taken"), (vec![n("a")], g()), "{by}");
        assert!(s.a.judge_again(&proven).is_none());
    }
}

/// What the accepting side says, and what the dialling side is told.
async fn refused(s: &Scene, from: &Arc<Pki>, want: &Distrust, told: &str) {
    for by in BOTH {
        let (asked, took) = meet(from, "b", &s.b, by).await;
        let e = took.expect_err("refused");
        let TlsError::Untrusted(u) = &e else { panic!("{by}: {e}") };
        assert_eq!(u.why.label(), want.label(), "{by}: {e}");
        let e = asked.expect_err("told");
        assert!(e.is_refusal(), "{by}: {e:?}");
        assert!(e.to_string().contains(told), "{by}: {e}");
    }
}

#[tokio::test]
async fn a_bad_certificate_is_refused_by_its_reason_on_both_sides() {
    let s = Scene::new();
    let (now, hour) = (Authority::now(), Duration::from_secs(3600));
    let old = s.ca.issue_for(&["a"], now - 9 * hour, now - 3 * hour);
    let from = s.other("a", &s.ca, &old);
    let expired = Distrust::Expired(3 * hour);
    refused(&s, &from, &expired, "refused this node's certificate: expired").await;
    // In words that name it and the time.
    let (_, took) = meet(&from, "b", &s.b, Transport::Tls).await;
    let text = took.expect_err("refused").to_string();
    assert_eq!(text, "certificate of a expired 3 h ago: renew it there");

    let early = s.ca.issue_for(&["a"], now + hour, now + 9 * hour);
    let from = s.other("a", &s.ca, &early);
    refused(&s, &from, &Distrust::NotYetValid(hour), "not yet valid").await;

    let foreign = Authority::new("foreign");
    let from = s.other("a", &foreign, &foreign.issue(&["a"]));
    refused(&s, &from, &Distrust::ForeignCa, "its CA is not in the peer's ca.pem").await;
    // A CA that has taken the name of the right one.
    let double = Authority::new("test");
    let from = s.other("a", &double, &double.issue(&["a"]));
    refused(&s, &from, &Distrust::ForeignCa, "its CA is not in the peer's ca.pem").await;
}

#[tokio::test]
async fn a_node_that_is_not_the_one_dialled_is_refused_by_the_dialler() {
    let s = Scene::new();
    for by in BOTH {
        // b answers where c was expected.
        let (asked, took) = meet(&s.a, "c", &s.b, by).await;
        let e = asked.expect_err("refused");
        assert_eq!(e.to_string(), "certificate of b is not one for c", "{by}");
        assert!(e.is_refusal());
        assert!(took.is_err(), "{by}");
        let old = s.ca.issue_for(&["b"], SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + DAY);
        let server = s.other("b", &s.ca, &old);
        let (asked, _) = meet(&s.a, "b", &server, by).await;
        let e = asked.expect_err("refused").to_string();
        assert!(e.starts_with("certificate of b expired "), "{by}: {e}");
        // No wildcard stands for a node.
        let wild = s.ca.issue(&["b", "*.site"]);
        let server = s.other("b", &s.ca, &wild);
        let (asked, _) = meet(&s.a, "x.site", &server, by).await;
        assert!(asked.expect_err("refused").to_string().contains("is not one for x.site"));
    }
}

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn a_revocation_counts_from_the_next_look_on() {
    let s = Scene::new();
    let issued = s.ca.issue(&["a"]);
    let from = s.other("a", &s.ca, &issued);
    let (asked, took) = meet(&from, "b", &s.b, Transport::Tls).await;
    let of_b = asked.expect("met");
    assert!(took.is_ok());
    assert!(matches!(s.b.reload(), Reload::Same));
    let crl = s.dir.path().join("crl.pem");
    std::fs::write(&crl, s.ca.revoke(&[issued.serial])).expect("written");
    assert!(matches!(s.b.reload(), Reload::Loaded(_)));
    refused(&s, &from, &Distrust::Revoked, "refused this node's certificate: revoked").await;
    // And of a session that runs.
    assert!(s.b.judge_again(&of_b).is_none(), "b itself is good");
    let leaf = s.ca.issue(&["b"]);
    leaf.write(s.dir.path(), "b");
    std::fs::write(&crl, s.ca.revoke(&[3])).expect("written");
    assert!(matches!(s.b.reload(), Reload::Loaded(_)));
    let u = s.b.judge_again(&of_b).expect("revoked");
    assert_eq!(u.to_string(), "certificate of b was revoked: issue a new one there");
}

#[tokio::test]
async fn files_that_will_not_do_leave_the_old_ones_in_use() {
    let s = Scene::new();
    let file = |name: &str| s.dir.path().join(name);
    let good = ["ca.pem", "b.pem", "b.key"].map(|f| (f, std::fs::read(file(f)).expect("read")));
    let other = s.ca.issue(&["b"]);
    let wrong_name = s.ca.issue(&["c"]);
    for (name, text, says) in [
        ("b.key", other.key.as_str(), "does not fit"),
        ("b.key", "", "no private key"),
        ("b.pem", wrong_name.cert.as_str(), "it is for `c`, not for b"),
        ("b.pem", "nonsense", "no certificate"),
        ("ca.pem", "", "no certificate"),
        ("crl.pem", "", "no revocation list"),
    ] {
        std::fs::write(file(name), text).expect("written");
        let Reload::Kept(e) = s.b.reload() else { panic!("{name}: {says}") };
        assert!(e.to_string().contains(says), "{name}: {e}");
        assert!(e.to_string().contains(name), "{e}");
        let (asked, took) = meet(&s.a, "b", &s.b, Transport::Tls).await;
        assert!(asked.is_ok() && took.is_ok(), "{name}");
        let before = good.iter().find(|(f, _)| *f == name);
        match before {
            Some((_, bytes)) => std::fs::write(file(name), bytes).expect("written"),
            None => std::fs::remove_file(file(name)).expect("removed"),
        }
        assert!(matches!(s.b.reload(), Reload::Loaded(_)));
    }
    other.write(s.dir.path(), "b");
    assert!(matches!(s.b.reload(), Reload::Loaded(_)), "renewed");
    let (asked, _) = meet(&s.a, "b", &s.b, Transport::Tls).await;
    assert!(asked.is_ok());
    // Names that no certificate can carry, and files that are not there.
    for name in ["10.0.0.1", "a..b", "nobody"] {
        assert!(Pki::load(s.dir.path(), &n(name)).is_err(), "{name}");
    }
    let key = file("a.key");
    set_mode(&key, 0o644);
    assert!(matches!(s.a.reload(), Reload::Loaded(notes) if notes[0].contains("chmod 600")));
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode");
}

#[tokio::test]
async fn frames_on_lanes_keep_their_order_and_arrive_when_it_closes() {
    let s = Scene::new();
    let listener =
        Listener::bind("127.0.0.1:0".parse().expect("an address"), s.b.clone()).expect("UDP");
    let addr = listener.local_addr().expect("an address").to_string();
    let server = tokio::spawn(async move {
        let (c, ..) = listener.next().await.expect("one").accept().await.expect("taken");
        let mut lanes = Vec::new();
        for _ in 0..2 {
            let lane = c.link.next_lane().await.expect("a lane");
            lanes.push(tokio::spawn(async move {
                let mut reader = FramedReader::new(lane, "peer", Verify::Content);
                let mut states = Vec::new();
                while let Some(f) = reader.next().await.expect("sound") {
                    let Frame::Heartbeat { stream, state, .. } = f.frame else { panic!() };
                    states.push((stream.0, state.0));
                }
                states
            }));
        }
        let mut all = Vec::new();
        for lane in lanes {
            all.push(lane.await.expect("read"));
        }
        all.sort();
        all
    });
    let hop = Hop { transport: Some(Transport::Quic), ..Hop::default() };
    let (node, group) = (n("b"), g());
    let dial = Dial { addr: &addr, node: &node, group: &group, hop: &hop, pki: Some(&s.a) };
    let (Dialled::Quic(c), _) = dial_by(dial).await.expect("met") else { panic!() };
    let mut streams = Vec::new();
    for lane in [1, 2] {
        let mut w = FramedWriter::new(c.link.open_lane().await.expect("a lane"), "peer");
        for state in 0..500 {
            let beat = Frame::Heartbeat {
                stream: StreamId(lane),
                state: rcp::proto::ids::SetNumber(state),
                as_of: rcp::proto::clock::Wall(1),
                newest: rcp::proto::ids::SetNumber(state),
            };
            assert_eq!(quic::lane(&beat, |_| false), 1 + lane);
            w.queue(&beat).expect("queued");
        }
        w.flush().await.expect("flushed");
        streams.push(w.into_inner());
    }
    c.link.close(streams).await;
    let all = tokio::time::timeout(Duration::from_secs(10), server).await.expect("in time");
    let want = |lane: u16| (0..500).map(|s| (lane, s)).collect::<Vec<_>>();
    assert_eq!(all.expect("served"), [want(1), want(2)]);
}

#[test]
fn a_stream_error_goes_where_the_stream_goes_and_else_up() {
    let error = Frame::StreamError { stream: StreamId(5), code: 1, text: String::new() };
    assert_eq!(quic::lane(&error, |_| false), 0);
    assert_eq!(quic::lane(&error, |l| l == 6), 6);
    assert_eq!(quic::lane(&Frame::Ping { nonce: 1 }, |_| true), 0);
    let far = Frame::Withdraw { stream: StreamId(5 + 64), text: String::new() };
    assert_eq!(quic::lane(&far, |_| true), 6);
}

#[tokio::test]
async fn whoever_asks_for_rcp_must_have_a_certificate_and_others_need_not() {
    let s = Scene::new();
    let mut roots = rustls::RootCertStore::empty();
    let ca = s.ca.pem();
    let ca = <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(ca.as_bytes());
    roots.add(ca.expect("PEM")).expect("a CA");
    for (alpn, good) in [(Some(&b"rcp/1"[..]), false), (Some(b"http/1.1"), true), (None, true)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let addr = listener.local_addr().expect("an address");
        let server = s.b.clone();
        let task = tokio::spawn(async move {
            let (io, _) = listener.accept().await.expect("accepted");
            let (mut io, proven) = tls::accept(&server, io).await?;
            io.write_all(b"x").await.expect("written");
            let _ = io.shutdown().await;
            Ok::<_, TlsError>(proven.chain.len())
        });
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|a| a.to_vec()).collect();
        let io = tokio::net::TcpStream::connect(addr).await.expect("connected");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = "b".try_into().expect("a name");
        let mut got = Vec::new();
        let read = match connector.connect(name, io).await {
            Ok(mut io) => io.read_to_end(&mut got).await.map(|_| ()),
            Err(e) => Err(e),
        };
        match task.await.expect("served") {
            Ok(chain) => assert!(good && chain == 0 && got == b"x", "{alpn:?}"),
            Err(e) => {
                assert_eq!(e.label(), "no-certificate", "{e}");
                let told = tls::explain(&read.expect_err("told")).expect("an alert");
                assert!(!good && told.contains("demands a certificate"), "{told}");
            }
        }
    }
}
