//! The commands against a made-up node behind a real socket, and their output letter by letter.

mod golden;
mod sample;

use std::sync::Arc;

use super::output::Failed;
use super::target::{Endpoint, Purpose, SOCKET, Surroundings, Target};
use super::{rcpctl, rcproute};
use crate::access::{Audit, Caller, Policy};
use crate::http::tests::fake::FakeNode;
use crate::http::{Deadlines, Guard, routers, serve_connection};
use crate::metrics::Metrics;
use tokio_util::sync::CancellationToken;

pub(in crate::cli) struct Running {
    pub(in crate::cli) node: Arc<FakeNode>,
    pub(in crate::cli) dir: tempfile::TempDir,
}

impl Running {
    fn dir(&self) -> &str {
        self.dir.path().to_str().expect("path")
    }

    pub(in crate::cli) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.node.asked.lock())
    }
}

pub(in crate::cli) fn running() -> Running {
    let dir = tempfile::tempdir().expect("folder");
    let node = FakeNode::new();
    let audit = Audit::new(dir.path());
    let guard =
        Guard { policy: Policy::default(), tokens: None, audit: audit.into(), host: String::new() };
    let all = routers(node.clone(), Metrics::detached(), guard);
    let router = all.caller(Caller::socket(None));
    let listener = tokio::net::UnixListener::bind(dir.path().join(SOCKET)).expect("bind");
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let stop = CancellationToken::new();
            tokio::spawn(serve_connection(io, router.clone(), Deadlines::default(), stop));
        }
    });
    Running { node, dir }
}

#[tokio::test]
async fn commands_ask_what_they_say() {
    let r = running();
    for (words, asked) in [
        ("delta cut db --keep", "cut db true"),
        ("delta cut db", "cut db false"),
        ("delta keep db 16", "keep db 16"),
        ("replicate start db", "replicate db true"),
        ("replicate stop db", "replicate db false"),
        ("replicate seed db --to cel2-ser2", "seed db cel2-ser2"),
        ("replicate detach db --receiver cel2-ser2", "detach db cel2-ser2"),
        ("replicate policy db --hwm 64MiB", "policy db Some(67108864) None None"),
        ("replicate policy db --timeout 10min", "policy db None Some(600000) None"),
        ("replicate mirror db", "views db false"),
        ("replicate persist on db", "policy db None None Some(true)"),
        ("replicate persist off db", "policy db None None Some(false)"),
        ("volume resize db 20GiB", "resize db 21474836480"),
        ("volume rename db bd", "rename db bd"),
        ("volume delete db --yes", "delete db"),
    ] {
        for json in [&[][..], &["--json"]] {
            let words: Vec<&str> =
                words.split(' ').chain(["--dir", r.dir()]).chain(json.iter().copied()).collect();
            assert_eq!(rcpctl::run_words(&words).await, Ok(()), "{words:?}");
            assert_eq!(r.asked(), [asked], "{words:?}");
        }
    }
    for (words, asked) in [
        ("add group=g1 nexthop=cel2-ser2", "route add g1 cel2-ser2"),
        ("cel1-ser2: add group=g1 nexthop=cel2-ser2", "route add g1 cel2-ser2"),
        ("cell1-ser2: rcproute display", "routes None"),
        ("display group=g1 --json", "routes Some(\"g1\")"),
        ("delete", "route delete None None"),
        ("delete group=g1 nexthop=x", "route delete Some(\"g1\") Some(\"x\")"),
    ] {
        let words: Vec<&str> = words.split(' ').chain(["--dir", r.dir()]).collect();
        assert_eq!(rcproute::run_words(&words).await, Ok(()), "{words:?}");
        assert_eq!(r.asked(), [asked], "{words:?}");
    }
    for words in ["status", "status db", "status --json", "status -v 3", "volume list"] {
        let words: Vec<&str> = words.split(' ').chain(["--dir", r.dir()]).collect();
        assert_eq!(rcpctl::run_words(&words).await, Ok(()), "{words:?}");
    }
}

#[tokio::test]
async fn refusals_name_the_thing_and_the_remedy() {
    let r = running();
    for (words, code, says) in [
        ("delta cut bd", 1, "no volume `bd`; it has: broken, db, live"),
        ("status bd", 1, "no volume `bd` on cel1-ser2; there are: db"),
        ("delta release db 9", 1, "kept: 12"),
        ("volume delete db", 1, "say --yes"),
        ("replicate policy db", 2, "--hwm"),
        ("replicate detach db", 2, "--receiver"),
        ("replicate policy db --hwm 64M", 2, "write 64MiB"),
        ("volume create v --group g1 --size 10", 2, "unit is missing"),
        ("delta cat db", 2, "cut"),
        ("delta cut db --node n", 2, "--topology"),
    ] {
        let words: Vec<&str> = words.split(' ').chain(["--dir", r.dir()]).collect();
        let e = rcpctl::run_words(&words).await.expect_err("refused");
        assert_eq!(e.code, code, "{words:?}: {}", e.text);
        assert!(e.text.contains(says), "{words:?}: {}", e.text);
    }
    let words = ["cel9-ser9:", "display", "--dir", r.dir()];
    let e = rcproute::run_words(&words).await.expect_err("another node");
    assert!(e.text.contains("is cel1-ser2, not cel9-ser9"), "{}", e.text);
    let e = rcproute::run_words(&["ad", "group=g1", "--dir", r.dir()]).await.expect_err("usage");
    assert!(e.code == 2 && e.text.contains("did you mean `add`?"), "{}", e.text);
}

#[tokio::test]
async fn a_node_that_is_not_there_is_told_apart_from_one_that_ended() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().to_str().expect("path");
    let e = rcpctl::run_words(&["status", "--dir", path]).await.expect_err("nobody");
    assert!(
        e.code == 1 && e.text.contains("there is no ") && e.text.contains("rcpctl up"),
        "{}",
        e.text
    );
    drop(std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).expect("bind"));
    let e = rcpctl::run_words(&["delta", "cut", "db", "--dir", path]).await.expect_err("ended");
    assert!(e.code == 1 && e.text.contains("left over"), "{}", e.text);
    // Nothing to stop is no failure.
    assert_eq!(rcpctl::run_words(&["down", "--dir", path]).await, Ok(()));
    // One of two that is silent is.
    let r = running();
    let e = rcpctl::run_words(&["status", "--dir", path, "--dir", r.dir()]).await.expect_err("one");
    assert_eq!(e.text, "1 of 2 nodes did not answer");
}

#[tokio::test]
async fn sockets_with_long_paths_are_reached() {
    let r = running();
    let deep = r.dir.path().join("x".repeat(120));
    std::fs::create_dir(&deep).expect("folder");
    std::fs::rename(r.dir.path().join(SOCKET), deep.join(SOCKET)).expect("move");
    let client = super::Client::new(deep.join(SOCKET));
    assert_eq!(client.status().await.expect("status").node, "cel1-ser2");
    assert_eq!(client.ready().await, Ok(()));
}

#[tokio::test]
async fn images_are_imported() {
    let r = running();
    let image = r.dir.path().join("disk");
    let path = image.to_str().expect("path");
    std::fs::write(&image, vec![7; 8192]).expect("write");
    let import = ["volume", "import", "new", path, "--group", "g1", "--dir", r.dir()];
    assert_eq!(rcpctl::run_words(&import).await, Ok(()));
    let asked = r.asked().pop().expect("asked");
    assert!(asked.contains("size: 8192") && asked.contains("import: true") && asked.contains(path));

    std::fs::write(&image, vec![7; 8000]).expect("write");
    let e = rcpctl::run_words(&import).await.expect_err("odd size");
    assert!(e.text.contains("truncate -s %4096"), "{}", e.text);
    let words = ["volume", "import", "db", path, "--group", "g1", "--dir", r.dir()];
    let e = rcpctl::run_words(&words).await.expect_err("taken");
    assert!(e.text.contains("has a volume `db` already"), "{}", e.text);
    let words = ["volume", "import", "x", path, "--group", "g2", "--dir", r.dir()];
    let e = rcpctl::run_words(&words).await.expect_err("group");
    assert!(e.text.contains("it is in: g1"), "{}", e.text);

    let made = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&image)
        .arg("1049088") // 1 MiB and one sector
        .status();
    std::fs::create_dir_all(r.dir.path().join("imported")).expect("folder");
    match made {
        Ok(status) if status.success() => {
            assert_eq!(rcpctl::run_words(&import).await, Ok(()));
            let asked = r.asked().pop().expect("asked");
            assert!(
                asked.contains("size: 1052672") && asked.contains("imported/new.img"),
                "{asked}"
            );
            let e = rcpctl::run_words(&import).await.expect_err("again");
            assert!(e.text.contains("is there already"), "{}", e.text);
        }
        _ => {
            eprintln!("SKIPPED: qemu-img is not installed");
            std::fs::write(&image, b"QFI\xfb").expect("write");
            let e = rcpctl::run_words(&import).await.expect_err("no qemu-img");
            assert!(e.text.contains("qemu-utils"), "{}", e.text);
        }
    }
}

const TOPOLOGY: &str = "\
version: 1
nodes:
  cel1-ser1: {listen: \"127.0.0.1:7101\", data: ./one}
  cel2-ser1: {listen: \"127.0.0.1:7102\", data: ./two}
groups:
  g1:
    primary: cel1-ser1
    routes: {cel1-ser1: [cel2-ser1]}
    volumes:
      vol1: {size: 256MiB}
";

#[tokio::test]
async fn topologies_are_checked_and_drawn() {
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join("t.yaml");
    let path = file.to_str().expect("path");
    std::fs::write(&file, TOPOLOGY).expect("write");
    for words in ["check", "check --json", "graph", "graph --dot", "graph --json"] {
        let words: Vec<&str> =
            ["topology"].into_iter().chain(words.split(' ')).chain([path]).collect();
        assert_eq!(rcpctl::run_words(&words).await, Ok(()), "{words:?}");
    }
    std::fs::write(&file, TOPOLOGY.replace("[cel2-ser1]", "[cel3-ser1]")).expect("write");
    let e = rcpctl::run_words(&["topology", "check", path]).await.expect_err("wrong");
    assert!(e.code == 1 && e.text.contains("cel3-ser1") && e.text.contains("t.yaml"), "{}", e.text);
}

fn one(target: &Target, purpose: Purpose<'_>, around: &Surroundings) -> Result<String, Failed> {
    target.one(purpose, around).map(|e: Endpoint| e.way.to_string())
}

#[test]
fn the_socket_is_found() {
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join("t.yaml");
    std::fs::write(&file, TOPOLOGY).expect("write");
    let nowhere = Surroundings::default();
    let in_dir = Surroundings { rcp_dir: Some("/env".into()), socket_here: true, token: None };
    let here = Surroundings { rcp_dir: None, socket_here: true, token: None };
    let none = Target::default();
    assert_eq!(one(&none, Purpose::Any, &in_dir), Ok("/env/rcpd.sock".into()));
    assert_eq!(one(&none, Purpose::Any, &here), Ok("./rcpd.sock".into()));
    let e = one(&none, Purpose::Any, &nowhere).expect_err("nowhere");
    for word in ["--dir", "--socket", "--topology", "--node", "RCP_DIR", "rcpd.sock"] {
        assert!(e.text.contains(word), "{}", e.text);
    }
    let by_dir = Target { dir: vec!["/d".into()], ..Target::default() };
    assert_eq!(one(&by_dir, Purpose::Any, &in_dir), Ok("/d/rcpd.sock".into()));
    let two = Target { dir: vec!["/d".into(), "/e".into()], ..Target::default() };
    assert_eq!(one(&two, Purpose::Any, &in_dir).expect_err("two").code, 2);
    assert_eq!(two.all(&nowhere).map(|l| l.len()), Ok(2));

    let by_topology = Target { topology: Some(file.clone()), ..Target::default() };
    let socket = |d: &str| format!("{}/{d}/rcpd.sock", dir.path().display());
    let find = |p| one(&by_topology, p, &in_dir);
    assert_eq!(find(Purpose::Volume("vol1")), Ok(socket("one")));
    assert_eq!(find(Purpose::Group("g1")), Ok(socket("one")));
    assert_eq!(find(Purpose::Node("cel2-ser1")), Ok(socket("two")));
    let e = find(Purpose::Volume("vol2")).expect_err("unknown");
    assert!(e.text.contains("did you mean `vol1`?") && e.text.contains("--node"), "{}", e.text);
    let e = find(Purpose::Any).expect_err("which");
    assert!(e.text.contains("cel1-ser1, cel2-ser1"), "{}", e.text);
    // Over the network: where a token is shown, or where there are no certificates and the address
    // is another machine's.
    let token = Surroundings { token: Some("rcp_1".into()), ..Surroundings::default() };
    let written = |text: &str| std::fs::write(&file, text).expect("write");
    let found = |around: &Surroundings| one(&by_topology, Purpose::Node("cel2-ser1"), around);
    assert_eq!(found(&token), Ok(socket("two")), "a token is of no use without certificates");
    written(&TOPOLOGY.replace("version: 1", "version: 1\npki: pki"));
    assert_eq!(found(&nowhere), Ok(socket("two")));
    assert_eq!(found(&token), Ok("127.0.0.1:7102 (cel2-ser1)".into()));
    std::fs::create_dir(dir.path().join("two")).expect("folder");
    std::fs::write(dir.path().join("two").join(SOCKET), "").expect("a socket");
    assert_eq!(found(&token), Ok(socket("two")), "a node here is asked here");
    // Both have a folder of this name, each on its machine (192.0.2.0/24 is nobody's, RFC 5737).
    let apart = TOPOLOGY.replace("./one", "./two").replace("127.0.0.1:7102", "192.0.2.1:7102");
    written(&apart.replace("version: 1", "version: 1\npki: pki"));
    assert_eq!(found(&token), Ok("192.0.2.1:7102 (cel2-ser1)".into()));
    assert_eq!(one(&by_topology, Purpose::Node("cel1-ser1"), &token), Ok(socket("two")));
    written(TOPOLOGY);

    let named = Target { node: vec!["cel2-ser1".into()], ..by_topology.clone() };
    assert_eq!(one(&named, Purpose::Volume("vol1"), &in_dir), Ok(socket("two")));
    let wrong = Target { node: vec!["cel2-ser2".into()], ..by_topology };
    assert!(one(&wrong, Purpose::Any, &in_dir).expect_err("node").text.contains("did you mean"));
}

#[tokio::test]
async fn a_node_that_was_stopped_is_no_node_of_another_machine() {
    let dir = tempfile::tempdir().expect("folder");
    let write = |name: &str, nodes: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("version: 1\nnodes:\n{nodes}")).expect("a topology");
        path.to_str().expect("path").to_owned()
    };
    let near = write(
        "near.yaml",
        "  a: {listen: \"127.0.0.1:7101\", data: ./a}\n  b: {listen: \"127.0.0.1:7102\", data: ./b}\n",
    );
    let e = rcpctl::run_words(&["status", "--topology", &near]).await.expect_err("none ever");
    assert!(e.text.contains("none of the topology's nodes has a socket"), "{}", e.text);
    std::fs::create_dir(dir.path().join("a")).expect("a data folder");
    let e = rcpctl::run_words(&["status", "--topology", &near]).await.expect_err("both");
    assert_eq!((e.code, e.text.as_str()), (1, "2 of 2 nodes did not answer"));
    // RFC 5737: nobody's address.
    let far = write(
        "far.yaml",
        "  a: {listen: \"192.0.2.1:7101\", data: ./far, insecure_plaintext: true}\n",
    );
    let e = rcpctl::run_words(&["down", "--topology", &far]).await.expect_err("none is here");
    assert!(e.code == 1 && e.text.contains("to stop one elsewhere: --node NAME"), "{}", e.text);
}
