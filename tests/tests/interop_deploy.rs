//! What is in `deploy/`, held against the programs that read it and the node that it is about.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::rig::{Plan, Process, Tree, run, tool};

const LONG: Duration = Duration::from_secs(20);

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

fn read(file: &str) -> String {
    let path = deploy(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The words of a text that begin so.
fn words<'a>(text: &'a str, start: &str) -> BTreeSet<&'a str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !word(c)).filter(|w| w.starts_with(start)).collect()
}

#[test]
fn prometheus_takes_the_rules_and_each_alert_is_raised() {
    let folder = deploy("prometheus");
    for arguments in [
        ["check", "rules", "alerts.yml"],
        ["check", "config", "scrape.yml"],
        ["test", "rules", "alerts_test.yml"],
    ] {
        let Some(mut promtool) = tool("promtool", "prometheus") else { return };
        run(promtool.current_dir(&folder).args(arguments));
    }
}

#[test]
fn haproxy_takes_its_configuration() {
    let Some(mut haproxy) = tool("haproxy", "haproxy") else { return };
    run(haproxy.arg("-c").arg("-f").arg(deploy("haproxy/nbd.cfg")));
}

#[test]
fn each_alert_has_its_case() {
    let (rules, cases) = (read("prometheus/alerts.yml"), read("prometheus/alerts_test.yml"));
    let alerts: BTreeSet<_> =
        rules.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")).collect();
    let tried: BTreeSet<_> =
        cases.lines().filter_map(|l| l.strip_prefix("  - name: Rcp").map(|_| &l[10..])).collect();
    assert!(alerts.len() > 10);
    assert_eq!(alerts, tried);
}

#[test]
fn rules_speak_of_metrics_that_there_are() {
    let known: BTreeSet<_> = node::metrics::names().collect();
    for file in ["prometheus/alerts.yml", "prometheus/alerts_test.yml"] {
        let text = read(file);
        for name in words(&text, "rcp_") {
            assert!(known.contains(name), "{file}: there is no metric {name}");
        }
    }
}

/// The dashboard for Grafana.
fn dashboard() -> serde_json::Value {
    serde_json::from_str(&read("grafana/rcp.json")).expect("JSON")
}

/// Every string under one of these keys, wherever it stands.
fn under<'a>(value: &'a serde_json::Value, keys: &[&str], found: &mut Vec<&'a str>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(text) if keys.contains(&key.as_str()) => found.push(text),
                    _ => under(value, keys, found),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|v| under(v, keys, found)),
        _ => {}
    }
}

#[test]
fn grafana_is_asked_for_metrics_that_there_are() {
    let of_status = node::metrics::names().map(str::to_owned);
    let known: BTreeSet<String> = of_status.chain(node::metrics::names_of_process()).collect();
    let (board, mut texts) = (dashboard(), Vec::new());
    under(&board, &["expr", "query", "definition"], &mut texts);
    let mut seen = BTreeSet::new();
    for text in texts {
        for name in words(text, "rcp_") {
            assert!(known.contains(name), "rcp.json: there is no metric {name}: {text}");
            seen.insert(name);
        }
    }
    assert!(seen.len() > 40, "only {} metrics are shown", seen.len());
}

#[test]
fn prometheus_takes_every_query_of_the_grafana_dashboard() {
    let (board, mut texts) = (dashboard(), Vec::new());
    under(&board, &["expr"], &mut texts);
    assert!(texts.len() > 50, "only {} queries", texts.len());
    let rules: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| {
            let expr = text.replace("$__rate_interval", "1m");
            assert!(!expr.contains("$__"), "{expr}");
            serde_json::json!({"record": format!("query_{i}"), "expr": expr})
        })
        .collect();
    // JSON is YAML as well.
    let file = serde_json::json!({"groups": [{"name": "grafana", "rules": rules}]});
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("queries.yml"), file.to_string()).expect("written");
    let Some(mut promtool) = tool("promtool", "prometheus") else { return };
    let said = run(promtool.current_dir(&dir).args(["check", "rules", "queries.yml"]));
    assert!(said.contains(&format!("{} rules found", texts.len())), "{said}");
}

#[test]
fn the_grafana_dashboard_is_whole() {
    let board = dashboard();
    let panels = board["panels"].as_array().expect("panels");
    let of = |p: &serde_json::Value, key: &str| p["gridPos"][key].as_u64().expect("a place");
    let mut taken = BTreeSet::new();
    let (mut ids, mut rows) = (BTreeSet::new(), BTreeSet::new());
    for p in panels {
        let title = p["title"].as_str().expect("a title");
        assert!(ids.insert(p["id"].as_u64()), "{title}: its id stands twice");
        for x in of(p, "x")..of(p, "x") + of(p, "w") {
            assert!(x < 24, "{title} is wider than the page");
            for y in of(p, "y")..of(p, "y") + of(p, "h") {
                assert!(taken.insert((x, y)), "{title} lies on another panel");
            }
        }
        if p["type"] == "row" {
            rows.insert(title);
        } else {
            assert_eq!(p["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
    let wanted = ["Overview", "Lag", "Save volumes", "Tree and sessions", "NBD", "Alerts"];
    assert!(wanted.iter().all(|w| rows.contains(w)), "{rows:?}");
    assert_eq!(board["templating"]["list"][0]["type"], "datasource");
    let text = board.to_string();
    for name in ["group", "volume", "instance"] {
        assert!(text.contains(&format!("=~\\\"${name}\\\"")), "nothing is chosen by ${name}");
    }
}

#[test]
fn a_service_manager_is_told() {
    let mut plan = Plan::new(&[("p", &[])]).volume("vol", 8);
    let tree = Tree::prepare(&mut plan);
    let path = tree.dir().join("notify.sock");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(LONG)).expect("a time limit");
    let heard = || {
        let mut buf = [0; 256];
        let n = manager.recv(&mut buf).expect("a word to the service manager");
        String::from_utf8_lossy(&buf[..n]).trim().to_owned()
    };
    let mut command = tree.command("p");
    let mut node = Process::start(command.env("NOTIFY_SOCKET", &path), &tree.log_path("p"));
    assert_eq!(heard(), "READY=1");
    assert!(tree.status("p").is_ok(), "it is ready when it says so");
    node.terminate(LONG);
    assert_eq!(heard(), "STOPPING=1");
}
