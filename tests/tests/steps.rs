//! A blow at every step of handshake and transfer: the connection is cut, or one side restarts from
//! its disk, right before and right after each frame that may come. The steps are those of the
//! session's table.

use std::time::Duration;

use rcp::proto::frame::FrameType as F;
use rcp::proto::session::SessionState as S;
use tests::sim::steps::{Blow, Step, Trap, When, all};
use tests::sim::{Counters, Options, options::Kind, options::Place, rng::Rng, world::World};

/// Steps that a handshake and a transfer do not take: they end a session, refuse one, ask beforehand,
/// compare copies, or carry commands. Other tests take them (`rcp/tests/states.rs`, `node`,
/// `tests/tests/e2e`).
fn aside(s: Step) -> bool {
    matches!(s.state, S::ProbeSent | S::Deciding | S::Answering)
        || further(s)
        || matches!(
            s.frame,
            F::Refuse
                | F::Goodbye
                | F::Probe
                | F::ProbeReply
                | F::Withdraw
                | F::StreamError
                | F::Fence
                | F::Compare
                | F::Sums
                | F::Control
                | F::ControlResult
        )
}

/// Steps of sessions with several connections.
fn further(s: Step) -> bool {
    matches!(s.state, S::JoinSent | S::Joining | S::FurtherSender | S::FurtherReceiver)
        || matches!(s.frame, F::Join | F::Joined | F::Place | F::Placed)
}

/// Writes, a replica, one below it: seeded both, then live.
fn options(seed: u64) -> Options {
    let mut rng = Rng::new(seed);
    let place = |kind, parent, ms| Place { kind, parent, joins: Duration::from_millis(ms) };
    let (block, blocks) = (512, 256);
    Options {
        places: vec![
            place(Kind::Primary, None, 0),
            place(Kind::Replica, Some(0), 2000),
            place(Kind::Replica, Some(1), 2000),
        ],
        blocks,
        block_size: volmcast::units::BlockSize::from_bytes(block).unwrap(),
        // Less than what is written before anybody joins, and much more than a blow costs.
        save: 256 << 10,
        snapshot_slots: blocks * 4,
        chunk: 8 * block,
        window: 32 << 10,
        held: 16 * block,
        cache: 64 << 10,
        cut: (blocks * block / 8, Duration::from_millis(100)),
        playback: (0, Duration::ZERO),
        faults_for: Duration::from_secs(5),
        client_pause: 3_000,
        disk_delay: 500,
        link_delay: 500,
        crash_ppm: 0,
        calm: true,
        ..Options::random(&mut rng)
    }
}

fn run(trap: Trap, seed: u64, verbose: bool) -> Counters {
    let connections = if further(trap.step) { 3 } else { 1 };
    let (opt, rng) = (Options { connections, ..options(seed) }, Rng::new(seed));
    match World::new(seed, opt, rng, verbose).with_trap(trap).run() {
        Ok(c) => c,
        Err(f) => panic!("{trap:?}, seed {seed}:\n{f}"),
    }
}

/// The run in which the blow falls: in some a step is not taken, because a child came late, or a
/// seed had everything.
fn strike(trap: Trap, seed: u64) -> (u64, Counters) {
    let tries = if trap.pass == 0 { 48 } else { 1 };
    let mut seeds = (0..tries).map(|t| seed + (t << 32));
    let runs = seeds.by_ref().map(|s| (s, run(trap, s, false)));
    let mut last = (seed, Counters::default());
    for one in runs {
        last = one;
        if last.1.get("blow") > 0 {
            break;
        }
    }
    assert!(trap.pass > 0 || last.1.get("blow") == 1, "never taken in {tries} runs: {trap:?}");
    last
}

/// What a blow costs each hop that it breaks: a window of its live stream, and two of the seed or
/// catch-up beside it (credit is given for what is written, and the place that a restart goes on
/// from is a commit behind).
fn costs_a_window(trap: Trap, seed: u64, c: &Counters) {
    let Options { window, chunk, .. } = options(seed);
    // An extent begins while there is credit, and may end beyond it; with its header.
    let beyond = chunk + 512;
    if trap.step.frame == F::Doubt {
        // What heals a damaged replica is a catch-up of its own, once more for what rotted meanwhile.
        return;
    }
    for (what, windows) in
        [("most live bytes sent twice to a node", 1), ("most seed bytes sent twice to a node", 2)]
    {
        if c.get(what) > windows * window + beyond {
            run(trap, seed, true);
            panic!("{what}: {}, window {window}: {trap:?}, seed {seed}", c.get(what));
        }
    }
}

/// The same where three connections carry each session: whichever is cut, everything arrives.
#[test]
fn a_blow_at_every_step_of_several_connections() {
    let (mut walked, mut again) = (0, 0);
    for (state, frame) in [
        (S::AwaitHello, F::Join),
        (S::JoinSent, F::Joined),
        (S::UpReceiver, F::Place),
        (S::UpSender, F::Placed),
    ] {
        let step = Step { state, frame };
        assert!(all().contains(&step), "{step:?}");
        for when in [When::Before, When::After] {
            for blow in [Blow::Cut, Blow::Sender, Blow::Receiver] {
                for pass in [0, 1, 7, 20] {
                    let trap = Trap { step, blow, when, pass };
                    let (_, c) = strike(trap, 900 + walked);
                    walked += 1;
                    again += c.get("frame sent again over another connection");
                }
            }
        }
    }
    println!("{walked} runs, {again} frames sent again");
    assert!(again > 0);
}

#[test]
fn a_blow_at_every_step_costs_at_most_a_window() {
    let base = std::env::var("STEPS_BASE").map_or(140, |b| b.parse().expect("a number"));
    let (mut taken, mut walked, mut worst, mut total) = (0, 0, 0, Counters::default());
    let mut table = Vec::new();
    for step in all().into_iter().filter(|s| !aside(*s)) {
        let (mut sprung, mut most) = (0, 0);
        for when in [When::Before, When::After] {
            for blow in [Blow::Cut, Blow::Sender, Blow::Receiver] {
                for pass in [0, 7] {
                    let trap = Trap { step, blow, when, pass };
                    let (seed, c) = strike(trap, base + walked);
                    walked += 1;
                    sprung += c.get("blow");
                    costs_a_window(trap, seed, &c);
                    most = most.max(c.get("bytes sent twice"));
                    total.merge(&c);
                }
            }
        }
        taken += 1;
        table.push(format!(
            "{:>10} × {:<12} {sprung:>2} blows, {most} bytes twice at most",
            step.state.name(),
            step.frame
        ));
        worst = worst.max(most);
    }
    println!(
        "{taken} of {} steps, {walked} runs, {} blows; {} bytes sent, {} of them twice, at most \
         {worst} for a blow; window {}\n{}",
        all().len(),
        total.get("blow"),
        total.get("bytes sent once") + total.get("bytes sent twice"),
        total.get("bytes sent twice"),
        options(0).window,
        table.join("\n"),
    );
    assert!(taken >= 17, "{taken} steps of a transfer");
    assert!(total.get("seed resumed") > 0 && total.get("seed finished") > 0, "{total}");
}
