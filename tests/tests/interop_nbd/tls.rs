//! NBD over TLS, by clients that nobody here wrote, with certificates that `rcpctl pki` makes.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use node::pki::{Authority, Validity};
use rcp::proto::ids::NodeName;
use serde_json::Value;
use tests::rig::{Clock, MIB, Plan, Random, Tree, run, said, tool, wait_for};

const LONG: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn valid() -> Validity {
    valid_since(0)
}

/// For an hour, from so many seconds before now.
fn valid_since(ago: i64) -> Validity {
    let now = tests::rig::Authority::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Validity { now: i64::try_from(now.as_secs()).unwrap() - ago, length: HOUR }
}

/// A primary and a leaf with certificates; `secret` is for one client, `vol` for every one.
struct Site {
    tree: Tree,
    authority: Authority,
}

impl Site {
    fn start(change: impl FnOnce(&mut Plan)) -> Self {
        let mut plan = Plan::new(&[("p", &["l"])]).volume("vol", 24).volume("secret", 8).by("tls");
        let secret = plan.group().volumes.get_mut("secret").unwrap();
        secret.nbd_allow = Some(vec!["name:vm-host-7".to_owned(), "192.0.2.0/24".to_owned()]);
        change(&mut plan);
        let tree = Tree::prepare(&mut plan);
        std::fs::remove_dir_all(tree.pki()).unwrap();
        let ten_years = Validity { length: HOUR * 24 * 3650, ..valid_since(24 * 3600) };
        let mut authority = Authority::init(&tree.pki(), "test", ten_years).unwrap();
        for n in ["p", "l"] {
            let also = ["127.0.0.1".to_owned()];
            authority.issue(&name(n), &also, &BTreeSet::new(), valid()).unwrap();
        }
        for n in ["p", "l"] {
            tree.up(n);
        }
        Self { tree, authority }
    }

    fn user(&mut self, who: &str) -> PathBuf {
        self.authority.issue_user(&name(who), &BTreeSet::new(), valid()).unwrap();
        self.tree.pki().join(who)
    }

    fn uri(&self, export: &str, certificates: &Path) -> String {
        let plain = self.tree.uri("p", export);
        format!("{}?tls-certificates={}", plain.replace("nbd:", "nbds:"), certificates.display())
    }

    /// Fills `vol`, and returns what is in it.
    fn fill(&self) -> Vec<u8> {
        let data = Random::seeded("nbd tls").bytes(24 << 20);
        let mut c = self.tree.open("p", "vol").unwrap();
        for (i, piece) in data.chunks(1 << 20).enumerate() {
            c.write(i as u64 * MIB, piece, false).unwrap();
        }
        c.flush().unwrap();
        data
    }

    /// The primary noted a peer that it turned away for this reason.
    #[track_caller]
    fn noted(&self, kind: &str, why: &str) {
        wait_for(&format!("p to note {kind}: {why}"), LONG, || {
            let strangers = self.tree.status("p").map_err(|e| e.to_string())?.security.strangers;
            let is = |s: &node::api::Stranger| s.kind == kind && s.why.contains(why);
            if strangers.iter().any(is) { Ok(()) } else { Err(format!("{strangers:?}")) }
        });
        let refused = std::fs::read_to_string(self.tree.folder("p").join("refused.log")).unwrap();
        assert!(refused.lines().any(|l| l.contains("127.0.0.1:") && l.contains(why)), "{refused}");
    }

    fn port(&self) -> String {
        self.tree.uri("p", "").trim_start_matches("nbd://").trim_end_matches('/').to_owned()
    }

    /// QEMU's options for an export over TLS.
    fn qemu(
        &self,
        program: &str,
        export: &str,
        certificates: &Path,
        host: &str,
    ) -> Option<Command> {
        let mut c = tool(program, "qemu-utils")?;
        let (dir, port) = (certificates.display(), self.port());
        let port = port.rsplit(':').next().unwrap().to_owned();
        c.arg(match program {
            "qemu-img" => "info",
            _ => "--discard=unmap",
        });
        c.arg("--object").arg(format!("tls-creds-x509,id=t,dir={dir},endpoint=client"));
        c.arg("--image-opts").arg(format!(
            "driver=raw,file.driver=nbd,file.server.type=inet,file.server.host=127.0.0.1,\
             file.server.port={port},file.export={export},file.tls-creds=t{}",
            if host.is_empty() { String::new() } else { format!(",file.tls-hostname={host}") }
        ));
        Some(c)
    }
}

#[test]
fn libnbd_and_qemu_speak_tls() {
    let mut site = Site::start(|_| ());
    let data = site.fill();
    let (mine, other) = (site.user("vm-host-7"), site.user("backup"));
    let dir = site.tree.dir().to_owned();
    if let Some(mut info) = tool("nbdinfo", "libnbd-bin") {
        let list = |certificates: &Path| {
            let mut info = tool("nbdinfo", "libnbd-bin").unwrap();
            let out = run(info.args(["--list", "--json"]).arg(site.uri("", certificates)));
            let json: Value = serde_json::from_str(&out).unwrap();
            assert_eq!(json["TLS"], true);
            let exports = json["exports"].as_array().unwrap();
            exports
                .iter()
                .map(|e| e["export-name"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(list(&mine), ["secret", "vol"]);
        assert_eq!(list(&other), ["vol"]);
        run(info.args(["--is", "tls"]).arg(site.uri("vol", &other)));
    }
    if let Some(mut copy) = tool("nbdcopy", "libnbd-bin") {
        let out = dir.join("copy.raw");
        run(copy.args(["--connections=4"]).arg(site.uri("vol", &other)).arg(&out));
        assert!(std::fs::read(&out).unwrap() == data);
        // And there: half of it is new.
        let mut new = data.clone();
        new[..12 << 20].rotate_left(4096);
        std::fs::write(&out, &new).unwrap();
        let mut copy = tool("nbdcopy", "libnbd-bin").unwrap();
        run(copy.args(["--flush", "--connections=4"]).arg(&out).arg(site.uri("vol", &other)));
        let cut = site.tree.cut("vol", true);
        site.tree.all_same("vol", cut.set, LONG);
        if let Some(mut compare) = tool("qemu-img", "qemu-utils") {
            compare.args(["compare", "-f", "raw", "-F", "raw"]).arg(&out);
            run(compare.arg(site.tree.unix_uri("l", &format!("vol@{}", cut.set))));
        }
    }
    if let Some(mut io) = site.qemu("qemu-io", "secret", &mine, "") {
        for c in ["write -P 0x5a 0 5M", "write -P 0x5b -f 5M 4k", "aio_write -P 1 6M 1M", "flush"] {
            io.args(["-c", c]);
        }
        for c in ["read -P 0x5a 0 5M", "discard 0 64k", "read -P 0 0 64k", "read -P 1 6M 1M"] {
            io.args(["-c", c]);
        }
        let out = run(&mut io);
        assert!(!out.contains("failed") && !out.contains("rror"), "{out}");
        // A node goes by its own name as well.
        let out = run(&mut site.qemu("qemu-img", "vol", &other, "p").unwrap());
        assert!(out.contains("24 MiB"), "{out}");
    }
    site.tree.quiet();
}

#[test]
fn clients_are_refused_in_words() {
    let mut site = Site::start(|_| ());
    site.tree.expect("refused a peer");
    let (mine, other) = (site.user("vm-host-7"), site.user("backup"));
    let try_info = |uri: &str| {
        let mut info = tool("nbdinfo", "libnbd-bin")?;
        Some(said(info.arg("--list").arg(uri)).err().or_else(|| {
            let mut info = tool("nbdinfo", "libnbd-bin")?;
            said(info.arg(uri)).err()
        }))
    };
    let failed = |uri: &str| try_info(uri).map(|e| e.expect("it is refused"));

    // In plain text, with the remedy, and nothing about what there is.
    if let Some(mut img) = tool("qemu-img", "qemu-utils") {
        let e = said(img.args(["info", "-f", "raw"]).arg(site.tree.uri("p", "vol"))).unwrap_err();
        assert!(e.contains("rcpctl pki issue --client"), "{e}");
        site.noted("nbd-plain", "requires TLS");
    }
    if let Some(e) = failed(&site.tree.uri("p", "vol")) {
        assert!(!e.contains("secret"), "{e}");
    }
    // No certificate at all.
    let bare = site.tree.dir().join("bare");
    std::fs::create_dir(&bare).unwrap();
    std::fs::copy(mine.join("ca-cert.pem"), bare.join("ca-cert.pem")).unwrap();
    if let Some(mut img) = site.qemu("qemu-img", "vol", &bare, "") {
        let e = said(&mut img).unwrap_err();
        assert!(e.contains("showed no certificate"), "{e}");
        site.noted("nbd-no-certificate", "127.0.0.1 showed no certificate");
    }
    // Not on the list of that export: as if there were none.
    if let Some(mut img) = site.qemu("qemu-img", "secret", &other, "") {
        let e = said(&mut img).unwrap_err();
        let none = said(&mut site.qemu("qemu-img", "nosuch", &other, "").unwrap()).unwrap_err();
        assert!(e.contains("backup at 127.0.0.1: `nbd_allow` in the topology"), "{e}");
        let words = |e: &str| e.lines().last().unwrap_or_default().replace("secret", "nosuch");
        assert_eq!(words(e.trim_end()), words(none.trim_end()));
        site.noted("nbd-refused", "backup at 127.0.0.1");
        run(&mut site.qemu("qemu-img", "secret", &mine, "").unwrap());
        // A server that is somebody else.
        let e = said(&mut site.qemu("qemu-img", "vol", &other, "l").unwrap()).unwrap_err();
        assert!(e.contains("name") || e.contains("owner"), "{e}");
    }
    // Of a foreign authority. It claims the right one's name, so that the client shows it.
    let foreign = site.tree.dir().join("foreign");
    let mut strangers =
        Authority::init(&foreign, "test", Validity { length: HOUR * 48, ..valid() }).unwrap();
    strangers.issue_user(&name("vm-host-7"), &BTreeSet::new(), valid()).unwrap();
    let shown = foreign.join("vm-host-7");
    std::fs::copy(mine.join("ca-cert.pem"), shown.join("ca-cert.pem")).unwrap();
    if failed(&site.uri("secret", &shown)).is_some() {
        site.noted("foreign-ca", "certificate of vm-host-7 was issued by a CA that is not in");
    }
    // Expired, an hour ago.
    site.authority.issue_user(&name("old"), &BTreeSet::new(), valid_since(7200)).unwrap();
    if failed(&site.uri("vol", &site.tree.pki().join("old"))).is_some() {
        site.noted("expired", "certificate of old expired");
    }
    // A node's certificate does not do for writing.
    let node = site.tree.dir().join("node");
    std::fs::create_dir(&node).unwrap();
    for (from, to) in
        [("l.pem", "client-cert.pem"), ("l.key", "client-key.pem"), ("ca.pem", "ca-cert.pem")]
    {
        std::fs::copy(site.tree.pki().join(from), node.join(to)).unwrap();
    }
    // (QEMU does not show it: it wants a key usage that such keys may not have.)
    if let Some(mut info) = tool("nbdinfo", "libnbd-bin") {
        said(info.arg(site.uri("vol", &node))).unwrap_err();
        site.noted("nbd-refused", "node l is good for reading");
    }
    // Numbers.
    let metrics: String = {
        let mut s = TcpStream::connect(site.tree.addr("p")).unwrap();
        s.write_all(b"GET /metrics HTTP/1.1\r\nHost: p\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        s.read_to_string(&mut text).unwrap();
        text
    };
    for kind in ["nbd-plain", "nbd-refused", "expired", "foreign-ca"] {
        assert!(metrics.contains(&format!("rcp_nbd_refused_total{{reason=\"{kind}\"}}")), "{kind}");
    }
    site.tree.quiet();
}

/// A client that reads until it may not any more.
const READER: &str = r"
import nbd, sys, time
h = nbd.NBD()
h.set_uri_allow_local_file(True)
h.connect_uri(sys.argv[1])
print('ready', flush=True)
try:
    while True:
        h.pread(65536, 0)
        time.sleep(0.02)
except nbd.Error as e:
    print('ended', flush=True)
";

#[test]
fn a_connection_outlives_renewal_and_not_revocation() {
    let mut site = Site::start(|_| ());
    site.tree.expect("refused a peer");
    site.tree.expect("an NBD connection is ended: certificate of vm-host-7 was revoked");
    let (mine, other) = (site.user("vm-host-7"), site.user("backup"));
    if tool("nbdsh", "python3-libnbd").is_none() {
        return;
    }
    let script = site.tree.dir().join("reader.py");
    std::fs::write(&script, READER).unwrap();
    let reader = |who: &Path| {
        let mut python = tool("python3", "python3-libnbd").unwrap();
        python.arg(&script).arg(site.uri("vol", who)).stdout(Stdio::piped());
        let mut child = python.spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0; 6]).unwrap();
        (child, out)
    };
    let (mut revoked, mut end) = reader(&mine);
    let (mut kept, _kept_out) = reader(&other);
    let before = std::fs::read(site.tree.pki().join("p.pem")).unwrap();
    let uris = [site.uri("vol", &mine), site.uri("vol", &other)];
    site.authority.renew(&name("p"), valid()).unwrap();
    site.authority.renew(&name("backup"), valid()).unwrap();
    assert_ne!(std::fs::read(site.tree.pki().join("p.pem")).unwrap(), before);
    wait_for("p to use its new certificate", LONG, || {
        let log = site.tree.log("p");
        if log.contains("new certificates and revocation lists are in use") {
            Ok(())
        } else {
            Err("not yet")
        }
    });
    let info = |uri: &str| said(tool("nbdinfo", "libnbd-bin").unwrap().arg(uri));
    info(&uris[1]).unwrap();
    assert!(revoked.try_wait().unwrap().is_none() && kept.try_wait().unwrap().is_none());

    site.authority.revoke(&name("vm-host-7"), valid().now).unwrap();
    let mut text = String::new();
    end.read_to_string(&mut text).unwrap();
    assert_eq!(text.trim(), "ended");
    revoked.wait().unwrap();
    info(&uris[0]).unwrap_err();
    site.noted("revoked", "certificate of vm-host-7 was revoked");
    info(&uris[1]).unwrap();
    assert!(kept.try_wait().unwrap().is_none(), "the other client goes on");
    kept.kill().unwrap();
    kept.wait().unwrap();
    site.tree.quiet();
}

/// Plain text behind `STARTTLS`, silence where TLS should begin, and old TLS end the connection.
#[test]
fn nothing_is_smuggled_past_tls() {
    let site = Site::start(|_| ());
    site.tree.expect("refused a peer");
    let begin = |more: &[u8]| {
        let mut s = TcpStream::connect(site.port()).unwrap();
        s.set_read_timeout(Some(LONG)).unwrap();
        s.read_exact(&mut [0; 18]).unwrap();
        let mut hello = vec![0, 0, 0, 3];
        hello.extend_from_slice(b"IHAVEOPT\0\0\0\x05\0\0\0\0");
        hello.extend_from_slice(more);
        s.write_all(&hello).unwrap();
        let mut ack = [0; 20];
        s.read_exact(&mut ack).unwrap();
        assert_eq!(&ack[8..], b"\0\0\0\x05\0\0\0\x01\0\0\0\0");
        s
    };
    let ends = |mut s: TcpStream| {
        let clock = Clock::default();
        let mut rest = Vec::new();
        let _ = s.read_to_end(&mut rest);
        assert!(clock.passed() < Duration::from_secs(7), "{:?}", clock.passed());
        rest
    };
    // LIST in the same breath: never answered, in whatever form.
    assert!(ends(begin(b"IHAVEOPT\0\0\0\x03\0\0\0\0")).is_empty());
    assert!(ends(begin(b"")).is_empty());
    let mut old = begin(b"");
    // A TLS 1.2 hello without supported_versions: two cipher suites, null compression.
    let mut hello = b"\x16\x03\x01\0\x31\x01\0\0\x2d\x03\x03".to_vec();
    hello.extend_from_slice(&[7; 32]);
    hello.extend_from_slice(b"\0\0\x04\xc0\x2f\xc0\x30\x01\0\0\0");
    old.write_all(&hello).unwrap();
    let said = ends(old);
    assert_eq!(said.first(), Some(&0x15), "an alert: {said:?}");
    // EXPORT_NAME has no reply for errors.
    let mut s = TcpStream::connect(site.port()).unwrap();
    s.read_exact(&mut [0; 18]).unwrap();
    s.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x03vol").unwrap();
    assert!(ends(s).is_empty());
    site.tree.quiet();
}

/// `insecure_plaintext` lets plain text in beside TLS, and addresses still count.
#[test]
fn plain_text_only_by_the_operators_word() {
    let mut site = Site::start(|plan| {
        plan.spec.nodes.get_mut("p").unwrap().insecure_plaintext = true;
    });
    site.tree.expect("refused a peer");
    site.tree.expect("insecure_plaintext");
    let mine = site.user("vm-host-7");
    if let Some(mut info) = tool("nbdinfo", "libnbd-bin") {
        run(info.arg(site.tree.uri("p", "vol")));
        run(tool("nbdinfo", "libnbd-bin").unwrap().arg(site.uri("secret", &mine)));
        said(tool("nbdinfo", "libnbd-bin").unwrap().arg(site.tree.uri("p", "secret"))).unwrap_err();
        site.noted("nbd-refused", "127.0.0.1");
    }
    site.tree.quiet();
}
