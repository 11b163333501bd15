//! A TLS scanner that nobody here wrote looks at the shared port: testssl.sh, on loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::Duration;

use node::pki::{Authority, Validity};
use rcp::proto::ids::NodeName;
use serde_json::Value;
use tests::rig::{Plan, Tree, tool};

/// What it finds worse than good, and why that is as it should be.
const EXCEPTIONS: [(&str, &str); 2] = [
    ("engine_problem", "of the scanner's own openssl, which lacks GOST"),
    ("cert_revocation", "lists are files that nodes are given: a URI would be asked by strangers"),
];

/// Protocols, forward secrecy, what the server chooses and its certificate; and categories of
/// ciphers with the vulnerabilities that do not need an older TLS.
const CHECKS: [&[&str]; 2] = [&["-p", "-f", "-S"], &["-s", "-H", "-I", "-R", "-C", "-Z", "-W"]];

/// Seconds for either; half a minute where nothing else runs.
const LIMIT: &str = "240";

#[test]
fn a_scanner_finds_nothing_worse_than_ok() {
    if tool("testssl", "testssl.sh").is_none() {
        return;
    }
    let mut plan = Plan::new(&[("p", &["l"])]).volume("vol", 8).by("tls");
    let tree = Tree::prepare(&mut plan);
    tree.expect(" WARN ");
    std::fs::remove_dir_all(tree.pki()).unwrap();
    let now = tests::rig::Authority::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let days = |n: u64| Validity {
        now: i64::try_from(now.as_secs()).unwrap(),
        length: Duration::from_secs(n * 86_400),
    };
    let mut authority = Authority::init(&tree.pki(), "test", days(3650)).unwrap();
    let also = ["127.0.0.1".to_owned()];
    authority.issue(&NodeName::new("p").unwrap(), &also, &BTreeSet::new(), days(90)).unwrap();
    tree.up("p");
    // Names are not looked up, nobody outside is asked. Two at a time: most of it is waiting.
    let ca = tree.pki().join("ca.pem");
    let scans: Vec<_> = CHECKS
        .iter()
        .enumerate()
        .map(|(i, checks)| {
            let found = tree.dir().join(format!("found-{i}.json"));
            let mut scan = Command::new("timeout");
            scan.args([
                "-k",
                "5",
                LIMIT,
                "testssl",
                "--quiet",
                "--color",
                "0",
                "--warnings",
                "off",
            ]);
            scan.args(["-n", "none", "--fast"]).args(*checks).arg("--add-ca").arg(&ca);
            scan.arg("--jsonfile").arg(&found).arg(tree.addr("p").to_string());
            scan.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            (scan.spawn().unwrap(), found)
        })
        .collect();
    let (mut by_id, mut said) = (BTreeMap::new(), String::new());
    for (scan, found) in scans {
        let out = scan.wait_with_output().unwrap();
        said.push_str(&String::from_utf8_lossy(&out.stdout));
        let text = std::fs::read_to_string(&found).unwrap_or_else(|e| panic!("{e}: {said}"));
        let all: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {said}"));
        for v in &all {
            let of = |field: &str| v[field].as_str().unwrap_or_default().to_owned();
            by_id.insert(of("id"), format!("{}: {}", of("severity"), of("finding")));
        }
    }
    assert!(by_id.len() > 30, "the scan is not whole: {said}");
    // It did look, and TLS 1.3 is all there is.
    assert!(by_id["TLS1_3"].starts_with("OK: offered"), "{by_id:#?}");
    for old in ["SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2"] {
        assert!(by_id[old].contains("not offered"), "{old}: {}", by_id[old]);
    }
    let worse: Vec<_> = by_id
        .iter()
        .filter(|(id, text)| {
            let good = ["OK", "INFO", "DEBUG"].iter().any(|s| text.starts_with(&format!("{s}:")));
            !good && !EXCEPTIONS.iter().any(|(e, _)| e == id)
        })
        .collect();
    assert!(worse.is_empty(), "{worse:#?}\n{said}");
    for (id, why) in EXCEPTIONS {
        eprintln!("scan: {id}: {:?} stands, {why}", by_id.get(id));
    }
}
