//! Every path and status, through a real connection in memory; then curl, if it is installed.

pub(crate) mod fake;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use self::fake::{DB_12, DB_16, DB_SIZE, FakeNode, content};
use super::limits::{Deadlines, MAX_BODY_BYTES, MAX_VOLUME_READS};
use super::{End, Guard, Routers, paths, routers, serve_connection, serve_http2};
use crate::access::{Audit, Caller, Need, Policy, Scope, Tokens, Way};
use crate::api::{ApiError, ApiErrorKind, NodeStatus};
use crate::metrics::Metrics;

/// A node as a stranger on the shared port and as its owner sees it.
pub(super) struct Site {
    pub(super) public: Router,
    pub(super) control: Router,
    all: Routers,
    dir: tempfile::TempDir,
}

impl Site {
    fn audit(&self) -> String {
        self.file("audit.log")
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
}

/// A node without certificates.
fn site() -> (Arc<FakeNode>, Site) {
    guarded_site(Policy::default(), false)
}

pub(super) fn guarded_site(policy: Policy, tokens: bool) -> (Arc<FakeNode>, Site) {
    let node = FakeNode::new();
    let dir = tempfile::tempdir().expect("folder");
    let tokens = tokens.then(|| Tokens::of(dir.path()));
    let guard =
        Guard { policy, tokens, audit: Audit::new(dir.path()).into(), host: "cel1.example".into() };
    let all = routers(node.clone(), Metrics::detached(), guard);
    let (public, control) =
        (all.caller(Caller::plain("127.0.0.1:9")), all.caller(Caller::socket(Some(7))));
    (node, Site { public, control, all, dir })
}

/// The node as whoever came over TLS sees it.
pub(super) fn tls(site: &Site, node: Option<&str>) -> Router {
    let way = Way::Tls { node: node.map(str::to_owned) };
    site.all.caller(Caller { from: "192.0.2.1:9".to_owned(), way })
}

pub(super) struct Reply {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    /// The body was as long as announced.
    whole: bool,
}

impl Reply {
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().expect("header"))
    }

    fn error(&self) -> ApiError {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

async fn ask(
    router: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Reply {
    let (client, server) = tokio::io::duplex(64 << 10);
    tokio::spawn(serve_connection(
        server,
        router.clone(),
        Deadlines::default(),
        CancellationToken::new(),
    ));
    let (mut send, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(client)).await.expect("handshake");
    tokio::spawn(connection);
    let mut request =
        Request::builder().method(Method::from_bytes(method.as_bytes()).expect("method")).uri(path);
    if headers.iter().all(|(name, _)| *name != "host") {
        request = request.header("host", "rcpd");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request =
        request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).expect("request");
    let (head, mut rest) = send.send_request(request).await.expect("response").into_parts();
    let (mut data, mut whole) = (Vec::new(), true);
    while let Some(frame) = rest.frame().await {
        match frame {
            Ok(frame) => data.extend_from_slice(frame.data_ref().map_or(&[], |d| d)),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    Reply { status: head.status, headers: head.headers, body: data.into(), whole }
}

pub(super) async fn get(router: &Router, path: &str, headers: &[(&str, &str)]) -> Reply {
    ask(router, "GET", path, headers, "").await
}

/// One request on one connection, for whoever counts them.
pub(crate) async fn one_request() {
    let (_, site) = site();
    assert_eq!(get(&site.public, "/healthz", &[]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_name_that_anybody_may_own_reads_nothing() {
    let (_, site) = site();
    let as_host = async |path, host| get(&site.public, path, &[("host", host)]).await;
    for path in ["/api/v1/status", "/v1/volumes/vol"] {
        let r = as_host(path, "evil.example:7000").await;
        assert_eq!(r.status, StatusCode::FORBIDDEN, "{path}");
        assert!(r.text().contains("does not answer to the name evil.example"), "{}", r.text());
        for host in ["cel1.example:7000", "127.0.0.1:7000", "[::1]", "localhost", "cel1"] {
            assert_ne!(as_host(path, host).await.status, StatusCode::FORBIDDEN, "{path} {host}");
        }
    }
    assert_eq!(as_host("/metrics", "evil.example").await.status, StatusCode::OK);
    let r = get(&site.public, "/healthz", &[("host", "a"), ("host", "b")]).await;
    assert_eq!(r.status, StatusCode::BAD_REQUEST);
    assert!(r.text().contains("several hosts"), "{}", r.text());
    // With certificates, who asks is proven and the name does not matter.
    let (_, site) = guarded_site(Policy { secured: true, ..Policy::default() }, true);
    let r = get(&site.public, "/api/v1/status", &[("host", "evil.example")]).await;
    assert_eq!(r.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn status_health_and_readiness() {
    let (node, site) = site();
    for router in [&site.public, &site.control] {
        let r = get(router, "/api/v1/status", &[]).await;
        assert_eq!((r.status, r.header("content-type")), (StatusCode::OK, "application/json"));
        let status: NodeStatus = serde_json::from_slice(&r.body).expect("status");
        assert_eq!(status, fake::status());
        assert_eq!(get(router, "/healthz", &[]).await.text(), "ok\n");
        assert_eq!(get(router, "/readyz", &[]).await.text(), "ready\n");
    }
    *node.not_ready.lock() = Some("volume `db` is being recovered".into());
    let r = get(&site.public, "/readyz", &[]).await;
    assert_eq!(r.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(r.text(), "not ready: volume `db` is being recovered\n");
    assert_eq!(get(&site.public, "/healthz", &[]).await.status, StatusCode::OK);
    let head = ask(&site.public, "HEAD", "/api/v1/status", &[], "").await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
}

#[tokio::test]
async fn who_sends_clients_on_is_told_where_a_volume_is_written_and_read() {
    let (_, site) = site();
    for router in [&site.public, &site.control] {
        for (path, there) in [
            ("/writer/db", true),
            ("/writer/mail", false),
            ("/writer/nothing", false),
            ("/reader/mail", true),
            ("/reader/db", false),
        ] {
            let status = if there { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let r = get(router, path, &[]).await;
            assert_eq!(r.status, status, "{path}: {}", r.text());
            assert_eq!(ask(router, "HEAD", path, &[], "").await.status, status);
        }
    }
    // Strangers are not told which volumes there are.
    let said =
        [get(&site.public, "/writer/mail", &[]).await, get(&site.public, "/writer/x", &[]).await];
    assert_eq!(said[0].text().replace("mail", "x"), said[1].text());
}

#[tokio::test]
async fn metrics_are_served_and_forget_what_is_gone() {
    let (node, site) = site();
    let r = get(&site.public, "/metrics", &[]).await;
    assert_eq!(r.status, StatusCode::OK);
    assert!(r.header("content-type").starts_with("text/plain; version=0.0.4"));
    assert!(
        r.text().contains("rcp_current_delta_set{volume=\"db\",group=\"g1\",role=\"primary\"} 16")
    );
    node.status.lock().volumes.clear();
    assert!(!get(&site.public, "/metrics", &[]).await.text().contains("volume=\"db\""));
}

#[tokio::test]
async fn a_volume_is_read_whole_or_in_part() {
    let (_, site) = site();
    let r = get(&site.public, "/v1/volumes/db", &[]).await;
    assert_eq!(r.status, StatusCode::OK);
    assert_eq!(r.header("etag"), format!("\"{DB_16}\""));
    assert_eq!(r.header("content-length"), DB_SIZE.to_string());
    assert_eq!(r.header("accept-ranges"), "bytes");
    assert!(r.body == content(16) && r.whole);

    let r =
        get(&site.public, "/v1/volumes/db?state=12", &[("range", "bytes=1048570-2097160")]).await;
    assert_eq!(r.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(r.header("content-range"), format!("bytes 1048570-2097160/{DB_SIZE}"));
    assert_eq!(r.header("etag"), format!("\"{DB_12}\""));
    assert!(r.body == content(12)[1_048_570..=2_097_160]);

    let full = format!("/v1/volumes/db?state={DB_12}");
    assert_eq!(
        get(&site.public, &full, &[("range", "bytes=-5")]).await.body,
        content(12)[DB_SIZE - 5..]
    );

    let r = ask(&site.public, "HEAD", "/v1/volumes/db", &[("range", "bytes=0-9")], "").await;
    assert_eq!((r.status, r.body.len()), (StatusCode::OK, 0));
    assert_eq!(r.header("content-length"), DB_SIZE.to_string());

    let r = get(&site.public, "/v1/volumes/live", &[("range", "bytes=0-9")]).await;
    assert_eq!((r.status, r.header("etag")), (StatusCode::PARTIAL_CONTENT, ""));
}

#[tokio::test]
async fn conditions_of_a_volume_read() {
    let (_, site) = site();
    let (now, old) = (format!("\"{DB_16}\""), format!("\"{DB_12}\""));
    let part = ("range", "bytes=0-9");
    for (headers, status) in [
        (vec![("if-match", now.as_str())], 200),
        (vec![("if-match", "*")], 200),
        (vec![("if-match", &old)], 412),
        (vec![("if-match", &old), ("if-match", &now)], 200),
        (vec![("if-none-match", &now)], 304),
        (vec![("if-none-match", &old)], 200),
        (vec![part, ("if-range", &now)], 206),
        (vec![part, ("if-range", &old)], 200),
        (vec![part, ("if-match", &now)], 206),
        (vec![("range", "bytes=99999999999-")], 416),
        (vec![("range", "bytes=0-1,5-6")], 416),
        (vec![("range", "bytes=5-1")], 416),
        (vec![("range", "blocks=0-1")], 200),
    ] {
        let r = get(&site.public, "/v1/volumes/db", &headers).await;
        assert_eq!(r.status.as_u16(), status, "{headers:?}");
        assert_eq!(r.header("etag"), now, "{headers:?}");
    }
    let r = get(&site.public, "/v1/volumes/db", &[("if-match", &old)]).await;
    assert!(r.text().contains(DB_16) && r.text().contains("?state="), "{}", r.text());
    let r = get(&site.public, "/v1/volumes/db", &[("range", "bytes=99999999-")]).await;
    assert_eq!(r.header("content-range"), format!("bytes */{DB_SIZE}"));
    assert!(r.text().contains("`db` has 3145851 bytes"), "{}", r.text());
    let r = get(&site.public, "/v1/volumes/live", &[("if-match", &now)]).await;
    assert_eq!(r.status, StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn refusals_of_a_volume_read() {
    let (_, site) = site();
    for (path, status, says) in [
        ("/v1/volumes/bd", 404, "no volume `bd`; it has: broken, db, live"),
        ("/v1/volumes/db?state=13", 404, "nearest: 12 and 16"),
        ("/v1/volumes/db?sate=12", 400, "only ?state=SET"),
    ] {
        let r = get(&site.public, path, &[]).await;
        assert_eq!(r.status.as_u16(), status, "{path}");
        assert!(r.text().contains(says), "{path}: {}", r.text());
        assert!(r.header("content-type").starts_with("text/plain"), "{path}");
    }
    // What cannot be read at all has a status; what breaks later ends the connection.
    let r = get(&site.public, "/v1/volumes/broken", &[("range", "bytes=2000000-")]).await;
    assert_eq!(r.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(r.text().contains("state 3 of `broken` is gone"));
    let r = get(&site.public, "/v1/volumes/broken", &[]).await;
    assert_eq!(r.status, StatusCode::OK);
    assert!(!r.whole && r.body.len() < DB_SIZE);
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let (_, site) = site();
    let r = get(&site.public, "/nowhere", &[]).await;
    assert_eq!(r.status, StatusCode::NOT_FOUND);
    assert!(r.text().contains("nothing at /nowhere") && r.text().contains("/v1/volumes/{name}"));
    let r = get(&site.control, "/api/v2/cut", &[]).await;
    assert_eq!(r.status, StatusCode::NOT_FOUND);
    assert_eq!(r.error().kind, ApiErrorKind::NotFound);
    assert!(r.error().text.contains("/api/v1/cut"));

    for (router, method, path, allow) in [
        (&site.public, "POST", "/metrics", "GET,HEAD"),
        (&site.public, "DELETE", "/v1/volumes/db", "GET,HEAD"),
        (&site.public, "PUT", "/api/v1/status", "GET,HEAD"),
        (&site.control, "GET", "/api/v1/cut", "POST"),
    ] {
        let r = ask(router, method, path, &[], "").await;
        assert_eq!(r.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(r.header("allow"), allow, "{path}");
        assert!(r.text().contains(&format!(", not {method}")), "{}", r.text());
    }
}

#[tokio::test]
async fn every_listed_path_is_there() {
    let (_, site) = site();
    for (router, list) in [
        (&site.public, paths::READS),
        (&site.control, paths::READS),
        (&site.control, paths::CONTROL),
    ] {
        for (path, method, _) in list {
            let path = path.replace("{name}", "db").replace("{group}", "g1");
            let r = ask(router, method, &path, &[], "{}").await;
            assert_ne!(r.status, StatusCode::NOT_FOUND, "{path}");
            assert_ne!(r.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        }
    }
}

#[tokio::test]
async fn changes_are_refused_on_the_shared_port() {
    let (node, site) = site();
    for (path, method, _) in paths::CONTROL {
        let r = ask(&site.public, method, path, &[], "{}").await;
        if *method == "GET" {
            // Looked at; one of them wants to know more.
            let read = [StatusCode::OK, StatusCode::BAD_REQUEST].contains(&r.status);
            assert!(read, "{path}: {}", r.status);
            continue;
        }
        assert_eq!(r.status, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(r.header("www-authenticate"), INSUFFICIENT);
        assert!(r.error().text.contains("rcpd.sock"), "{}", r.text());
    }
    assert_eq!(*node.asked.lock(), ["routes None"]);
    assert!(site.file("refused.log").contains("127.0.0.1:9"), "refusals are on record as well");
    assert_eq!(site.audit(), "", "where they push no change out");
}

const INSUFFICIENT: &str = "Bearer realm=\"rcp\", error=\"insufficient_scope\"";

#[tokio::test]
async fn with_certificates_every_path_needs_its_scope() {
    let (node, site) =
        guarded_site(Policy { secured: true, metrics_closed: true, health_closed: false }, true);
    let tokens = Tokens::of(site.dir.path());
    let by = |scope| tokens.create(&format!("{scope:?}"), scope, 0, None).expect("token");
    let secrets = [Scope::Read, Scope::Operate, Scope::Admin].map(|s| (s, by(s)));
    let tls = |node| tls(&site, node);
    for (path, method, _) in paths::READS.iter().chain(paths::CONTROL) {
        let at = path.replace("{name}", "db");
        let needs = match paths::need(path) {
            Need::Health | Need::Nothing => continue,
            Need::Metrics => Scope::Read,
            Need::Scope(s) => s,
        };
        let plain = ask(&site.public, method, &at, &[], "{}").await;
        let nobody = ask(&tls(None), method, &at, &[], "{}").await;
        for r in [plain, nobody] {
            assert_eq!(r.status, StatusCode::UNAUTHORIZED, "{path}");
            assert_eq!(r.header("www-authenticate"), "Bearer realm=\"rcp\"");
        }
        for (scope, secret) in &secrets {
            let with = format!("Bearer {secret}");
            let r = ask(&tls(None), method, &at, &[("authorization", &with)], "{}").await;
            let denied = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&r.status);
            assert_eq!(denied, *scope < needs, "{path} with {scope:?}: {}", r.status);
            if denied {
                assert_eq!(r.header("www-authenticate"), INSUFFICIENT);
            }
        }
        let r = ask(&tls(Some("n2")), method, &at, &[], "{}").await;
        assert_eq!(r.status == StatusCode::UNAUTHORIZED, needs > Scope::Read, "{path}");
    }
    let wrong = [("authorization", "Bearer rcp_wrong")];
    let r = ask(&tls(None), "GET", paths::STATUS, &wrong, "").await;
    assert_eq!(r.status, StatusCode::UNAUTHORIZED);
    assert!(r.header("www-authenticate").contains("invalid_token"), "{}", r.text());

    node.asked.lock().clear();
    let admin = format!("Bearer {}", secrets[2].1);
    let body = r#"{"volume":"db","keep":true}"#;
    let r = ask(&tls(None), "POST", paths::CUT, &[("authorization", &admin)], body).await;
    assert_eq!(r.status, StatusCode::OK, "{}", r.text());
    assert_eq!(*node.asked.lock(), ["cut db true"]);
    let audit = site.audit();
    let last = audit.lines().last().expect("a record");
    for part in ["token Admin", "192.0.2.1:9", "cut", "db", "done"] {
        assert!(last.contains(part), "{part}: {last}");
    }
    assert!(!audit.contains(&secrets[2].1), "no secret is on record");
}

#[tokio::test]
async fn every_change_reaches_the_node() {
    let (node, site) = site();
    for (path, body, asked) in [
        (paths::CUT, r#"{"volume":"db","keep":true}"#, "cut db true"),
        (paths::CUT, r#"{"volume":"db"}"#, "cut db false"),
        (paths::KEEP, r#"{"volume":"db","set":16}"#, "keep db 16"),
        (paths::VOLUME_RESIZE, r#"{"volume":"db","size":8192}"#, "resize db 8192"),
        (paths::VOLUME_RENAME, r#"{"volume":"db","label":"bd"}"#, "rename db bd"),
        (paths::VOLUME_DELETE, r#"{"volume":"db"}"#, "delete db"),
        (paths::REPLICATE, r#"{"volume":"db","on":false}"#, "replicate db false"),
        (paths::SEED, r#"{"volume":"db","child":"c"}"#, "seed db c"),
        (paths::DETACH, r#"{"volume":"db","child":"c"}"#, "detach db c"),
        (paths::POLICY, r#"{"volume":"db","change":{"hwm":5}}"#, "policy db Some(5) None None"),
        (paths::VIEWS, r#"{"volume":"db","open":true}"#, "views db true"),
        (paths::ROUTE_ADD, r#"{"group":"g1","next_hop":"n"}"#, "route add g1 n"),
        (paths::ROUTE_DELETE, "{}", "route delete None None"),
        (
            paths::WRITER,
            r#"{"change":"promote","volume":"db"}"#,
            "Promote { volume: \"db\", now: false, at: None, above: 0, lose_damaged_blocks: false }",
        ),
        (paths::TOPOLOGY, r#"{"text":"version: 1"}"#, "topology version: 1"),
        (
            paths::GROUP,
            r#"{"group":"g2","definition":{"revision":3,"primary":"a"}}"#,
            "group g2 Some((3, Some(\"a\")))",
        ),
        (paths::GROUP, r#"{"group":"g2"}"#, "group g2 None"),
        (paths::SHUTDOWN, "", "shutdown"),
    ] {
        let r = ask(&site.control, "POST", path, &[], body).await;
        assert_eq!(r.status, StatusCode::OK, "{path}: {}", r.text());
        assert_eq!(node.asked.lock().pop().as_deref(), Some(asked));
    }
    // What was sent is on record, but for the bytes of a block or file.
    let record = site.file("audit.log");
    assert!(record.contains(r#""request":{"keep":true,"volume":"db"}"#), "{record}");
    assert!(record.contains(r#""request":{"text":"10 bytes"}"#), "{record}");
    let spec = r#"{"label":"v","group":"g1","size":4096,"block_size":null,"backing":null,"save":null,"import":false}"#;
    let r = ask(&site.control, "POST", paths::VOLUME_CREATE, &[], spec).await;
    assert!(r.text().contains("\"label\":\"v\""), "{}", r.text());
    let r = get(&site.control, "/api/v1/routes?group=g1", &[]).await;
    assert!(r.text().contains("\"revision\":4"), "{}", r.text());
    assert_eq!(node.asked.lock().pop().as_deref(), Some("routes Some(\"g1\")"));
}

#[tokio::test]
async fn refusals_of_a_change() {
    let (_, site) = site();
    let long = format!("{{\"volume\":\"{}\"}}", "x".repeat(MAX_BODY_BYTES));
    for (path, body, status, says) in [
        (paths::CUT, r#"{"volume":"bd"}"#, 404, "no volume `bd`"),
        (paths::RELEASE, r#"{"volume":"db","set":9}"#, 409, "kept: 12"),
        (paths::CUT, "", 400, "not what is expected"),
        (paths::CUT, r#"{"volume":"db","kep":true}"#, 400, "unknown field `kep`"),
        (paths::CUT, long.as_str(), 400, "at most 73728 bytes"),
    ] {
        let r = ask(&site.control, "POST", path, &[], body).await;
        assert_eq!(r.status.as_u16(), status, "{path}: {}", r.text());
        assert!(r.error().text.contains(says), "{path}: {}", r.text());
    }
    let r = get(&site.control, "/api/v1/routes?gruop=g1", &[]).await;
    assert!(r.error().text.contains("?group=GROUP"), "{}", r.text());
}

/// Sends bytes as they are and reads until the server closes.
async fn raw(bytes: &[u8], deadlines: Deadlines) -> (String, End) {
    let (_, site) = site();
    let (mut client, server) = tokio::io::duplex(256 << 10);
    let end =
        tokio::spawn(serve_connection(server, site.public, deadlines, CancellationToken::new()));
    client.write_all(bytes).await.expect("write");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("read");
    (String::from_utf8_lossy(&answer).into_owned(), end.await.expect("end"))
}

#[tokio::test]
async fn headers_are_bounded_in_length_and_time() {
    let soon = Deadlines { header_read: Duration::from_millis(50), ..Deadlines::default() };
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(9 << 10));
    let (answer, end) = raw(long.as_bytes(), soon).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert!(matches!(end, End::Failed(_)));
    let many = "a: b\r\n".repeat(70);
    let (answer, _) = raw(format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes(), soon).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let (answer, end) = raw(b"GET /healthz HTTP/1.1\r\nhos", soon).await;
    assert!(!answer.contains("200"), "{answer}");
    assert!(matches!(end, End::Failed(e) if e.is_timeout()));
    // An idle connection is closed as well.
    let (answer, _) = raw(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", soon).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\r\n\r\nok\n"), "{answer}");
    let (answer, _) = raw(b"no such protocol\r\n\r\n", soon).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_off() {
    let (_, site) = site();
    let (mut client, server) = tokio::io::duplex(4 << 10);
    let soon = Deadlines { write_stall: Duration::from_millis(50), ..Deadlines::default() };
    let end = tokio::spawn(serve_connection(server, site.public, soon, CancellationToken::new()));
    client.write_all(b"GET /v1/volumes/db HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("write");
    let end = tokio::time::timeout(Duration::from_secs(10), end).await.expect("in time");
    assert!(matches!(end.expect("end"), End::Failed(_)));
}

#[tokio::test]
async fn a_stop_lets_the_answer_out() {
    let (_, site) = site();
    let stop = CancellationToken::new();
    let (mut client, server) = tokio::io::duplex(4 << 10);
    let end =
        tokio::spawn(serve_connection(server, site.public, Deadlines::default(), stop.clone()));
    client.write_all(b"GET /v1/volumes/db HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("write");
    let mut answer = vec![0; 100];
    client.read_exact(&mut answer).await.expect("head");
    stop.cancel();
    client.read_to_end(&mut answer).await.expect("rest");
    assert!(answer.ends_with(&content(16)[DB_SIZE - 1000..]));
    assert!(matches!(end.await.expect("end"), End::Stopped));
}

#[tokio::test]
async fn volume_reads_are_bounded_in_number() {
    let (_, site) = site();
    let mut held = Vec::new();
    for _ in 0..MAX_VOLUME_READS {
        let (mut client, server) = tokio::io::duplex(4 << 10);
        let stop = CancellationToken::new();
        tokio::spawn(serve_connection(server, site.public.clone(), Deadlines::default(), stop));
        client.write_all(b"GET /v1/volumes/db HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("write");
        let mut first = [0; 15];
        client.read_exact(&mut first).await.expect("head");
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        held.push(client);
    }
    let r = get(&site.control, "/v1/volumes/db", &[]).await;
    assert_eq!(r.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(r.header("retry-after"), "1");
    drop(held);
    let freed = async {
        while get(&site.control, "/v1/volumes/db", &[]).await.status != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), freed)
        .await
        .expect("a read ends with its client");
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn h2(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_opens_no_window_is_cut_off() {
    let (_, site) = site();
    let (mut client, server) = tokio::io::duplex(64 << 10);
    let (deadlines, stop) = (Deadlines::default(), CancellationToken::new());
    let served = tokio::spawn(serve_http2(server, site.public.clone(), deadlines, stop));
    // SETTINGS_INITIAL_WINDOW_SIZE = 0, and GET /healthz from the static table.
    let settings = h2(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let head = [&[0x82, 0x86, 0x04, 8][..], b"/healthz", &[0x01, 1], b"x"].concat();
    let ask = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), settings, h2(1, 5, 1, &head)];
    client.write_all(&ask.concat()).await.expect("written");
    let began = tokio::time::Instant::now();
    let (mut answered, mut head) = (false, [0; 9]);
    while client.read_exact(&mut head).await.is_ok() {
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut body = vec![0; usize::try_from(len).expect("small")];
        client.read_exact(&mut body).await.expect("a whole frame");
        match (head[3], head[4]) {
            // It is alive: it answers to every ping, until it is cut off.
            (6, 0) => drop(client.write_all(&h2(6, 1, 0, &body)).await),
            (1, _) => answered = true,
            (0, _) => assert!(body.is_empty(), "there is no window"),
            _ => {}
        }
    }
    assert!(answered);
    let end = served.await.expect("no panic");
    assert!(matches!(end, End::Stalled), "{end:?}");
    assert!(began.elapsed() <= 3 * deadlines.write_stall, "{:?}", began.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn parts_are_slices_of_the_whole(a in 0..DB_SIZE + 10, len in 1usize..3 << 20) {
        let b = a + len - 1;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let (_, site) = site();
            let range = format!("bytes={a}-{b}");
            let r = get(&site.public, "/v1/volumes/db", &[("range", &range)]).await;
            let data = content(16);
            match data.get(a..(b + 1).min(DB_SIZE)).filter(|s| !s.is_empty()) {
                Some(slice) => {
                    prop_assert_eq!(r.status.as_u16(), 206);
                    prop_assert!(r.body == slice);
                }
                None => prop_assert_eq!(r.status.as_u16(), 416),
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn curl_on_a_unix_socket() {
    let Ok(curl) = std::process::Command::new("curl").arg("--version").output() else {
        eprintln!("SKIPPED: curl is not installed");
        return;
    };
    assert!(curl.status.success());
    let (node, site) = site();
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("rcpd.sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("bind");
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let stop = CancellationToken::new();
            tokio::spawn(serve_connection(io, site.control.clone(), Deadlines::default(), stop));
        }
    });
    let curl = async |args: &[&str]| {
        let out = tokio::process::Command::new("curl")
            .args(["-sS", "--fail-with-body", "--max-time", "20", "--unix-socket"])
            .arg(&path)
            .args(args)
            .output()
            .await
            .expect("curl");
        assert!(out.status.success(), "{args:?}: {out:?}");
        out.stdout
    };
    assert_eq!(curl(&["http://rcpd/v1/volumes/db?state=12"]).await, content(12));
    assert_eq!(curl(&["-r", "5-9", "http://rcpd/v1/volumes/db"]).await, content(16)[5..10]);
    let cut = curl(&["-d", r#"{"volume":"db"}"#, "http://rcpd/api/v1/cut"]).await;
    assert!(String::from_utf8_lossy(&cut).contains("\"set\":17"));
    assert_eq!(node.asked.lock().as_slice(), ["cut db false"]);
}
