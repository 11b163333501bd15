//! A chain of network namespaces, joined by links that are slow, lossy and long.
//!
//! Each end of a link sends by a token bucket (`tc tbf`), holds back what it receives (NFQUEUE), and
//! then drops some of it at random (nftables): the same for whatever crosses it. A packet that the
//! sender's kernel left to be cut up is cut up before it is delayed, so that losses are of packets.

use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use super::process::{self, Process};

/// What a link does, in each direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) mbit: u32,
    /// In a hundred.
    pub(super) loss: u32,
    pub(super) delay: Duration,
}

/// Namespaces in a row; gone when dropped.
pub(super) struct Network {
    names: Vec<String>,
    _delays: Vec<Process>,
}

/// Packets that may wait for their time.
const QUEUE: u32 = 20_000;
/// Largest wait for the next look at the queue.
const LOOK: Duration = Duration::from_micros(200);
const PROGRAMS: [(&str, &str); 4] =
    [("ip", "iproute2"), ("tc", "iproute2"), ("nft", "nftables"), ("iptables-nft", "iptables")];

/// What is missing to make one: rights, or packages.
pub(super) fn lacking() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces: run it as root".to_owned());
    }
    let there = |program: &str| {
        ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
            .iter()
            .any(|d| Path::new(d).join(program).exists())
    };
    let package = PROGRAMS.iter().find(|(p, _)| !there(p))?;
    Some(format!("{} is not installed: sudo apt-get install {}", package.0, package.1))
}

fn run(words: &str) -> anyhow::Result<()> {
    let mut words = words.split(' ');
    let mut c = Command::new(words.next().unwrap_or_default());
    process::run(c.args(words), Duration::from_secs(20)).map(|_| ())
}

impl Network {
    /// So many namespaces, each joined to the next.
    pub(super) fn new(root: &Path, n: usize, shape: Shape) -> anyhow::Result<Self> {
        let pid = std::process::id();
        let names = (0..n).map(|i| format!("rcpbench-{pid}-{i}")).collect();
        let mut net = Self { names, _delays: Vec::new() };
        for name in &net.names {
            run(&format!("ip netns add {name}"))?;
            run(&format!("ip -n {name} link set lo up"))?;
        }
        for i in 1..n {
            let (a, b) = (&net.names[i - 1], &net.names[i]);
            run(&format!("ip link add lower netns {a} type veth peer name upper netns {b}"))?;
            run(&format!("ip -n {a} addr add 10.77.{i}.1/24 dev lower"))?;
            run(&format!("ip -n {b} addr add 10.77.{i}.2/24 dev upper"))?;
            for (queue, name, dev) in [(1, a, "lower"), (2, b, "upper")] {
                let delay = shaped(root, name, dev, queue, shape)?;
                net._delays.push(delay);
            }
        }
        Ok(net)
    }

    /// The namespace of a node, by its place in the row.
    pub(super) fn name(&self, i: usize) -> &str {
        &self.names[i]
    }

    /// Where the neighbour before it reaches a node (the first: where the second does).
    pub(super) fn address(i: usize) -> String {
        if i == 0 { "10.77.1.1".to_owned() } else { format!("10.77.{i}.2") }
    }
}

/// Shapes one end of a link; the process that delays.
fn shaped(root: &Path, name: &str, dev: &str, queue: u16, s: Shape) -> anyhow::Result<Process> {
    run(&format!("ip -n {name} link set {dev} up"))?;
    // A queue of 50 ms, as a router has; cut into packets.
    run(&format!(
        "ip netns exec {name} tc qdisc add dev {dev} root tbf rate {}mbit burst 4kb latency 50ms",
        s.mbit
    ))?;
    run(&format!(
        "ip netns exec {name} iptables-nft -A INPUT -i {dev} -j NFQUEUE --queue-num {queue}"
    ))?;
    let rules = format!(
        "table inet loss_{dev} {{\n chain i {{\n  type filter hook input priority 10;\n  iifname \"{dev}\" \
         numgen random mod 100 < {} drop\n }}\n}}\n",
        s.loss
    );
    let mut c = Command::new("ip");
    c.args(["netns", "exec", name, "nft", "-f", "-"]).stdin(Stdio::piped());
    let mut nft = c.spawn().context("nft")?;
    nft.stdin.take().context("its input")?.write_all(rules.as_bytes())?;
    anyhow::ensure!(nft.wait()?.success(), "nft refuses:\n{rules}");
    let mut c = within(name, &std::env::current_exe()?);
    let (queue, ms) = (queue.to_string(), s.delay.as_millis().to_string());
    c.args(["delay", "--queue", &queue, "--ms", &ms]);
    let p = Process::start(&mut c, &root.join("delay.log"), true)?;
    anyhow::ensure!(p.line(Duration::from_secs(10))? == "ready", "the delay of {dev}");
    Ok(p)
}

/// A program in a namespace.
pub(super) fn within(name: &str, program: &Path) -> Command {
    let mut c = Command::new("ip");
    c.args(["netns", "exec", name]).arg(program);
    c
}

impl Drop for Network {
    fn drop(&mut self) {
        self._delays.clear();
        for name in &self.names {
            let _ = run(&format!("ip netns del {name}"));
        }
    }
}

/// Holds every packet of a queue back for the same time.
pub(super) fn delay(queue: u16, delay: Duration) -> anyhow::Result<()> {
    let mut q = nfq::Queue::open().context("NFQUEUE")?;
    q.bind(queue)?;
    q.set_queue_max_len(queue, QUEUE)?;
    q.set_recv_enobufs(false)?;
    q.set_nonblocking(true);
    println!("ready");
    let mut held: VecDeque<(f64, nfq::Message)> = VecDeque::new();
    loop {
        let idle = match q.recv() {
            Ok(m) => {
                held.push_back((process::now() + delay.as_secs_f64(), m));
                false
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => true,
            Err(e) => return Err(e.into()),
        };
        let now = process::now();
        while held.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, mut m)) = held.pop_front() else { break };
            m.set_verdict(nfq::Verdict::Accept);
            q.verdict(m)?;
        }
        if idle {
            std::thread::sleep(LOOK);
        }
    }
}
