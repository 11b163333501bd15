//! The page as it is served; what it may not contain; and its script, run where `node` is installed.

use std::io::Write;
use std::process::{Command, Stdio};

use hyper::StatusCode;

use super::super::tests::{fake, get, guarded_site, tls};
use super::{PAGE, SCRIPT, STYLE, base64, is_host, paths};
use crate::access::Policy;
use crate::api::{
    Delayed, HandedOver, HistoryLine, LinkStatus, NodeStatus, SetInfo, StateDigest, Stranger,
    VolumeInfo,
};

const BROWSER: (&str, &str) = ("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8");
const SECURED: Policy = Policy { secured: true, metrics_closed: true, health_closed: true };

#[test]
fn base64_is_that_of_the_rfc() {
    for (plain, coded) in
        [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
    {
        assert_eq!(base64(plain.as_bytes()), coded);
    }
    assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
}

/// What stands between two marks.
fn inside<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    text.split_once(from).and_then(|(_, rest)| rest.split_once(to)).expect("marks").0
}

#[tokio::test]
async fn it_is_served_with_a_policy_that_names_its_own_script_and_nothing_else() {
    let (_, site) = guarded_site(Policy::default(), false);
    for router in [&site.public, &site.control] {
        let r = get(router, paths::DASHBOARD, &[BROWSER]).await;
        assert_eq!(r.status, StatusCode::OK);
        assert_eq!(r.header("content-type"), "text/html; charset=utf-8");
        assert_eq!(r.header("x-content-type-options"), "nosniff");
        assert_eq!(r.header("x-frame-options"), "DENY");
        assert_eq!(r.header("referrer-policy"), "no-referrer");
        assert_eq!(r.header("cache-control"), "no-store");
        let policy = r.header("content-security-policy");
        for part in ["default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        for (tag, kind) in [("script", "script-src"), ("style", "style-src")] {
            let text = inside(r.text(), &format!("<{tag}>"), &format!("</{tag}>"));
            let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
            let says = format!("{kind} 'sha256-{}';", base64(hash.as_ref()));
            assert!(policy.contains(&says), "{says} is not in {policy}");
        }
    }
}

#[tokio::test]
async fn a_browser_at_the_root_is_sent_there_and_others_get_the_list() {
    let (_, site) = guarded_site(Policy::default(), false);
    let r = get(&site.public, "/", &[BROWSER]).await;
    assert_eq!((r.status, r.header("location")), (StatusCode::TEMPORARY_REDIRECT, "/dashboard"));
    for (path, headers) in
        [("/", vec![]), ("/", vec![("accept", "*/*")]), ("/index.html", vec![BROWSER])]
    {
        let r = get(&site.public, path, &headers).await;
        assert_eq!(r.status, StatusCode::NOT_FOUND, "{path}");
        assert!(r.text().contains("/dashboard"), "{}", r.text());
    }
}

#[tokio::test]
async fn where_tokens_are_wanted_it_comes_over_tls_only_and_to_everybody() {
    let (_, site) = guarded_site(SECURED, true);
    let r = get(&tls(&site, None), paths::DASHBOARD, &[BROWSER]).await;
    assert_eq!(r.status, StatusCode::OK);
    let r = get(&tls(&site, None), paths::STATUS, &[]).await;
    assert_eq!(r.status, StatusCode::UNAUTHORIZED);
    let r = get(&site.public, paths::DASHBOARD, &[BROWSER]).await;
    assert_eq!(r.header("location"), "https://rcpd/dashboard");
    assert_eq!(r.status, StatusCode::TEMPORARY_REDIRECT);
    for (host, good) in [("n1:7101", true), ("[::1]:7101", true), ("a/b", false), ("u@h", false)] {
        assert_eq!(is_host(host), good, "{host}");
    }
}

#[test]
fn it_is_one_file_that_asks_for_nothing_outside() {
    assert_eq!(PAGE.matches("<script>").count(), 1);
    assert_eq!(PAGE.matches("</script").count(), 1, "the script ends where it ends");
    assert_eq!(PAGE.matches("<style>").count(), 1);
    // The name of a namespace is no address.
    let rest = PAGE.replace("http://www.w3.org/2000/svg", "");
    for word in ["//www", "http://", "@import", "url(", "src=", "import(", "WebSocket"] {
        assert!(!rest.contains(word), "{word}");
    }
    // Written with the colon of `location.protocol` only.
    assert_eq!(rest.matches("https:").count(), 2);
    let html = PAGE.replace(SCRIPT, "").replace(STYLE, "");
    for word in [" on", " style=", "javascript:"] {
        for (at, _) in html.match_indices(word) {
            let end: String = html[at..].chars().take_while(|c| *c != '>').collect();
            assert!(!end.contains('=') || word == " on" && !end[..6].contains('='), "{end}");
        }
    }
}

#[test]
fn nothing_in_it_parses_what_nodes_say() {
    for word in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "DOMParser",
        "srcdoc",
        "createContextualFragment",
        "localStorage",
        "document.cookie",
        "setTimeout(\"",
    ] {
        assert!(!SCRIPT.contains(word), "{word}");
    }
}

#[test]
fn it_asks_only_for_what_there_is() {
    let quoted = PAGE.split(['"', '`', '<', '>']).filter(|w| w.starts_with('/') && w.len() > 1);
    let known: Vec<&str> = paths::READS.iter().map(|e| e.0).collect();
    let mut seen = 0;
    for path in quoted.filter(|w| w.starts_with("/api/") || w.starts_with("/metrics")) {
        seen += 1;
        assert!(known.contains(&path), "there is no {path}");
    }
    assert!(seen >= 2, "only {seen} paths were found");
    assert!(SCRIPT.contains(&format!("\"{}\"", paths::STATUS)));
}

fn late(at: u64) -> Delayed {
    let since_us = at - 12_000_000;
    Delayed { cause: "disk".into(), text: "the disk takes 2 MiB/s".into(), by: None, since_us }
}

/// A status in which everything that may be absent is there.
fn full() -> NodeStatus {
    let mut s = fake::status();
    let at = s.at_us;
    s.security.problem = Some("n1.pem cannot be read".into());
    s.security.certificate_until_us = Some(at + 3_600_000_000);
    s.security.strangers = vec![Stranger::default()];
    let g = &mut s.groups[0];
    g.parent = Some(LinkStatus { node: "up".into(), ..g.children[0].clone() });
    for link in g.children.iter_mut().chain(&mut g.parent) {
        link.limit = Some(20_000_000);
        link.limit_in_words = Some("limited to 20 Mbit/s".into());
        link.connections = Some("connections 4".into());
    }
    g.drift = vec!["a route".into()];
    for c in &mut s.volumes[0].children {
        c.delayed = Some(late(at));
    }
    let line = HistoryLine { generation: "1-ab".into(), ..HistoryLine::default() };
    let v = &mut s.volumes[0];
    *v = VolumeInfo {
        source: "db0".into(),
        stalled: Some("the disk is full".into()),
        delayed: Some(late(at)),
        digests: vec![StateDigest { set: 16, digest: "5f".repeat(16) }],
        scrub_percent: Some(40),
        scrubbed_us: Some(at - 1),
        sets: vec![SetInfo { set: 16, created_us: at, made_in: Some(0.5), ..SetInfo::default() }],
        history: vec![line.clone(), line.clone()],
        rival: vec![line],
        handed_over: Some(HandedOver { to: "cel2-ser2".into(), set: 16 }),
        ..v.clone()
    };
    s
}

/// The same with everything that others say turned into an attack.
fn hostile() -> NodeStatus {
    let mut s = full();
    let script = "<script>alert(1)</script>\u{202e}\u{1b}[2J\u{200b}\u{2028}".to_owned();
    let image = "<img src=x onerror=alert(1)>; rm $(x) | y".to_owned();
    s.node.clone_from(&image);
    s.security.strangers[0] = Stranger {
        claims: script.clone(),
        why: script.clone(),
        from: image.clone(),
        ..Stranger::default()
    };
    let g = &mut s.groups[0];
    g.group.clone_from(&image);
    for link in g.children.iter_mut().chain(&mut g.parent) {
        link.addr = "javascript:alert(1)//:80".into();
        link.reason = Some(script.clone());
        link.state.clone_from(&image);
    }
    g.routes.insert(script.clone(), vec![image.clone(), "__proto__".into(), "constructor".into()]);
    let v = &mut s.volumes[0];
    v.label.clone_from(&image);
    v.group.clone_from(&image);
    v.reason = Some(script.clone());
    v.state.clone_from(&script);
    v.split = Some(script.clone());
    v.children[0].node.clone_from(&script);
    v.children[0].reason = Some(script);
    s
}

#[test]
fn its_script_shows_a_status_as_text() {
    let input = serde_json::json!({ "page": PAGE, "full": full(), "hostile": hostile() });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/dashboard/tests.js");
    let child = Command::new("node")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("SKIPPED: node (nodejs) is not installed");
        return;
    };
    let mut stdin = child.stdin.take().expect("stdin");
    stdin.write_all(input.to_string().as_bytes()).expect("write");
    drop(stdin);
    let out = child.wait_with_output().expect("node");
    let said = String::from_utf8_lossy(&out.stdout);
    let wrong = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}\n{wrong}");
    assert!(said.matches("ok: ").count() >= 10, "{said}");
}
