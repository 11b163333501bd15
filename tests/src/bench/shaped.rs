//! (f) One hop over a link that is slow, lossy and long, also with several connections, and a chain
//! that mixes transports.

use std::path::Path;
use std::time::Duration;

use rcp::proto::transport::{Congestion, Transport};

use super::network::{self, Network, Shape};
use super::process;
use super::report::Report;
use super::transports::{Rig, iperf3, library};
use super::tree::{Plan, Tree, VOLUME};
use super::{MIB, Options, bare, fill, peers};
use crate::rig::Authority;

const GOODPUT: &str = "goodput over 50 Mbit/s, 1 % loss and 40 ms more round trip";
const CHAIN: &str = "two such hops, from the finished set to visible at the last node";
const SEVERAL: &str = "such a hop, from the finished set to visible at the replica";
const OURS: &str = "a node";
const BARE: &str = "bare library";
const IPERF: &str = "iperf3";
/// As good as bare.
const GOAL: f64 = 0.85;
/// In each direction.
const SHAPE: Shape = Shape { mbit: 50, loss: 1, delay: Duration::from_millis(20) };
/// MiB that go over the link, where losses slow a sender down, and where they do not.
const SLOW: u64 = 4;
const FAST: u64 = 24;
/// MiB that go over one connection or several.
const SPREAD: u64 = 16;

/// Both with what systems do by default, and with what does not mind losses.
const ROWS: [(Transport, Congestion); 6] = [
    (Transport::Tcp, Congestion::Cubic),
    (Transport::Tcp, Congestion::Bbr),
    (Transport::Tls, Congestion::Cubic),
    (Transport::Tls, Congestion::Bbr),
    (Transport::Quic, Congestion::Cubic),
    (Transport::Quic, Congestion::Bbr),
];

fn mbit(bytes: u64, secs: f64) -> f64 {
    bytes as f64 * 8.0 / secs / 1e6
}

pub(super) fn measure(root: &Path, o: &Options, report: &mut Report) -> anyhow::Result<()> {
    if let Some(what) = network::lacking() {
        report.lacks(what);
        return Ok(());
    }
    let iperf = peers::find("iperf3", "iperf3", o, report);
    let pki = root.join("bare-pki");
    Authority::new("bare").write(&pki, &[bare::NAME]);
    let net = Network::new(root, 3, SHAPE)?;
    for (transport, congestion) in ROWS {
        let row = format!("{transport}, {congestion}");
        if !row.contains(&o.only) {
            continue;
        }
        let mib = if congestion == Congestion::Bbr { FAST } else { SLOW };
        let len = mib * MIB;
        let mut plan = Plan::new(len, 3 * len + 8 * MIB, 1, true);
        (plan.transport, plan.congestion) = (transport, Some(congestion));
        plan.network = Some(&net);
        let rig =
            Rig { root, pki: &pki, network: Some(&net), transport, congestion: plan.congestion };
        let mut tree = Tree::start(root, &plan)?;
        for run in 0..o.runs {
            eprintln!("shaped: {row}: run {} of {}", run + 1, o.runs);
            fill::export(&tree.nbd(), VOLUME, len, run as u64)?;
            let set = tree.cut()?.set;
            report.add(GOODPUT, "Mbit/s", &row, OURS, mbit(len, tree.pour(set)?));
            if o.no_peers {
                continue;
            }
            let (rate, _) = library(&rig, mib)?;
            report.add(GOODPUT, "Mbit/s", &row, BARE, rate * 8.0 / 1e6);
            if let Some(p) = iperf.as_deref().filter(|_| transport == Transport::Tcp) {
                let (rate, _) = iperf3(p, &rig, 4 * o.seconds)?;
                report.add(GOODPUT, "Mbit/s", &row, IPERF, rate * 8.0 / 1e6);
            }
        }
        report.ratio(GOODPUT, &row, (OURS, BARE), GOAL, true);
        tree.end()?;
    }
    several(root, o, &net, report)?;
    chain(root, o, &net, report)
}

/// One connection of TCP, and several, by the congestion control that minds losses.
fn several(root: &Path, o: &Options, net: &Network, report: &mut Report) -> anyhow::Result<()> {
    for connections in [1, 4] {
        let row = format!("tcp, cubic, connections {connections}");
        if !row.contains(&o.only) {
            continue;
        }
        let len = SPREAD * MIB;
        let mut plan = Plan::new(len, 3 * len + 8 * MIB, 1, false);
        (plan.congestion, plan.connections) = (Some(Congestion::Cubic), connections);
        plan.network = Some(net);
        let mut tree = Tree::start(root, &plan)?;
        tree.until("the child has made its replica", |t| t.volume(Some(0)).map(|_| ()))?;
        for run in 0..o.runs {
            eprintln!("shaped: {row}: run {} of {}", run + 1, o.runs);
            fill::export(&tree.nbd(), VOLUME, len, run as u64)?;
            let set = tree.cut()?.set;
            let began = process::now();
            let took = tree.visible_everywhere(set)? - began;
            report.add(SEVERAL, "Mbit/s", &row, OURS, mbit(len, took));
        }
        tree.end()?;
    }
    Ok(())
}

/// Two hops that mix transports.
fn chain(root: &Path, o: &Options, net: &Network, report: &mut Report) -> anyhow::Result<()> {
    let bbr = |t| (t, Congestion::Bbr);
    for hops in [
        [bbr(Transport::Quic), bbr(Transport::Tls)],
        [bbr(Transport::Tls), bbr(Transport::Quic)],
        [bbr(Transport::Tcp), bbr(Transport::Tls)],
    ] {
        let row = hops.map(|(t, c)| format!("{t}, {c}")).join("; then ");
        if !"chain".contains(&o.only) {
            continue;
        }
        let len = FAST * MIB;
        let mut plan = Plan::new(len, 3 * len + 8 * MIB, 2, false);
        (plan.transport, plan.hops) = (Transport::Tls, hops.to_vec());
        plan.network = Some(net);
        let mut tree = Tree::start(root, &plan)?;
        tree.until("every child has made its replica", |t| {
            (0..2).all(|i| t.volume(Some(i)).is_some()).then_some(())
        })?;
        for run in 0..o.runs {
            eprintln!("shaped: {row}: run {} of {}", run + 1, o.runs);
            fill::export(&tree.nbd(), VOLUME, len, run as u64)?;
            let set = tree.cut()?.set;
            let began = process::now();
            let took = tree.visible_everywhere(set)? - began;
            report.add(CHAIN, "Mbit/s", &row, OURS, mbit(len, took));
        }
        tree.end()?;
    }
    Ok(())
}
