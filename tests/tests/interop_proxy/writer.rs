//! A client that nobody here wrote, behind HAProxy as `deploy/haproxy/nbd.cfg` sets it up, while the
//! volume is handed from node to node: it notices nothing but a pause.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use tests::rig::{Clock, MIB, Plan, Process, Proxy, Tree, free_port, tool, wait_for};

const LONG: Duration = Duration::from_secs(60);
const SIZE: u64 = 16;
/// Bytes of one write.
const RUN: usize = 64 << 10;
/// How often the volume is handed over.
const SWAPS: usize = 4;

/// The file that operators get, with this tree's addresses and ports.
fn config(tree: &Tree, writer: u16, readers: u16) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/haproxy/nbd.cfg");
    let text = std::fs::read_to_string(path).unwrap();
    let server = |line: &str| {
        let node = if line.contains("cel1-ser1") { "p" } else { "l1" };
        let uri = tree.uri(node, "vol");
        let at = uri.trim_start_matches("nbd://").trim_end_matches("/vol").to_owned();
        let how = line.split(" check port 7101").nth(1).unwrap();
        format!("    server {node} {at} check port {}{how}", tree.addr(node).port())
    };
    let lines = text.lines().map(|line| match line.trim_start() {
        l if l.starts_with("server ") => server(l),
        _ => line
            .replace("vol1", "vol")
            .replace(":10810", &format!(":{writer}"))
            .replace(":10811", &format!(":{readers}")),
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// `qemu-io` at a prompt.
struct QemuIo {
    child: Child,
    input: ChildStdin,
    said: Receiver<String>,
}

impl Drop for QemuIo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl QemuIo {
    fn open(port: u16) -> Option<Self> {
        tool("qemu-io", "qemu-utils")?;
        let image = format!(
            "driver=nbd,server.type=inet,server.host=127.0.0.1,server.port={port},export=vol,\
             reconnect-delay=30"
        );
        let mut c = Command::new("/usr/bin/qemu-io");
        c.args(["--image-opts", &image]);
        let mut child = c
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (tell, said) = sync_channel(16);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let input = child.stdin.take().unwrap();
        Some(Self { child, input, said })
    }

    /// One request; its answer must come, and be a good one.
    fn does(&mut self, words: &str) {
        writeln!(self.input, "{words}").unwrap();
        let end = Clock::default();
        loop {
            let left = LONG.saturating_sub(end.passed());
            let line = self.said.recv_timeout(left);
            let line = line.unwrap_or_else(|e| panic!("{words}: no answer: {e}"));
            let bad = ["failed", "error", "rror:"].iter().any(|w| line.contains(w));
            assert!(!bad, "{words}: {line}");
            if line.contains("wrote ") || line.contains("read ") {
                return;
            }
        }
    }
}

/// Which pattern each piece of the volume holds.
fn piece(n: usize) -> (usize, u8) {
    let pieces = usize::try_from(SIZE * MIB).unwrap() / RUN;
    (n % pieces * RUN, u8::try_from(n % 251).unwrap() + 1)
}

#[test]
fn a_client_that_connects_again_goes_on_over_planned_swaps() {
    let mut plan = Plan::new(&[("p", &["l1"])]).volume("vol", SIZE).cut_every(200);
    let tree = Tree::prepare(&mut plan);
    tree.expect(" WARN ");
    for n in ["p", "l1"] {
        tree.up(n);
    }
    let (writer, readers) = (free_port(), free_port());
    let path = tree.dir().join("proxy.conf");
    std::fs::write(&path, config(&tree, writer, readers)).unwrap();
    let Some(mut command) = Proxy::Haproxy.command(&path) else { return };
    let mut proxy = Process::start(&mut command, &tree.dir().join("proxy.log"));
    // HAProxy takes servers for good until it has asked them, and takes turns among them.
    wait_for("the writer behind the proxy", LONG, || match proxy.ended() {
        Some(end) => panic!("HAProxy ended: {}", end.log),
        None => (0..4).try_for_each(|_| {
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, writer));
            let c = node::nbd::Client::tcp(at, "vol", LONG).map_err(|e| e.to_string())?;
            if c.announced().read_only() { Err("a replica".to_owned()) } else { Ok(()) }
        }),
    });
    let Some(mut qemu) = QemuIo::open(writer) else { return };
    let (mut written, mut holder) = (0, "p");
    let mut holds = vec![0; usize::try_from(SIZE * MIB).unwrap()];
    let mut once = |qemu: &mut QemuIo| {
        let (at, pattern) = piece(written);
        qemu.does(&format!("write -P {pattern} {at} {RUN}"));
        holds[at..at + RUN].fill(pattern);
        written += 1;
    };
    for _ in 0..SWAPS {
        let to = if holder == "p" { "l1" } else { "p" };
        std::thread::scope(|s| {
            let swap = s.spawn(|| {
                let words = ["failover", "vol", "--sync", "--to", to];
                wait_for("the swap", LONG, || tree.ctl(&words))
            });
            while !swap.is_finished() {
                once(&mut qemu);
            }
            eprintln!("{}", swap.join().unwrap());
        });
        for _ in 0..16 {
            once(&mut qemu);
        }
        assert_eq!(tree.volume(to, "vol").unwrap().role, "primary");
        holder = to;
    }
    eprintln!("{written} writes of {RUN} bytes over {SWAPS} swaps");
    // What was acknowledged is there, also for readers, who are sent to the replica.
    let (at, pattern) = piece(written - 1);
    qemu.does(&format!("read -P {pattern} {at} {RUN}"));
    drop(qemu);
    let set = tree.cut_at(holder);
    let other = if holder == "p" { "l1" } else { "p" };
    tree.reaches(other, "vol", set, LONG);
    let read = wait_for("a reader behind the proxy", LONG, || {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, readers));
        let mut c = node::nbd::Client::tcp(at, "vol", LONG).map_err(|e| e.to_string())?;
        if !c.announced().read_only() {
            return Err("it was sent to the writer".to_owned());
        }
        let mut all = vec![0; holds.len()];
        for (i, part) in all.chunks_mut(RUN).enumerate() {
            c.read((i * RUN) as u64, part).map_err(|e| e.to_string())?;
        }
        Ok(all)
    });
    assert!(read == holds, "a write that was acknowledged is not there");
    assert!(tree.all_of(holder, "vol").unwrap() == holds);
}
