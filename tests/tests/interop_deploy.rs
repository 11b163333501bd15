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
