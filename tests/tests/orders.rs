//! A crash at every durable step of a failover, a resync and a swap, as the nodes take them: the old
//! state or the new one is found, the command said again finishes, and nothing is lost (FAIL-17, FAIL-22).

use std::time::Duration;

use tests::sim::orders::{Order, Strike};
use tests::sim::steps::When;
use tests::sim::{Counters, Options, options::Kind, options::Place, rng::Rng, world::World};

/// One writes, two follow.
fn options(seed: u64) -> Options {
    let mut rng = Rng::new(seed);
    let place = |kind, parent| Place { kind, parent, joins: Duration::ZERO };
    let (block, blocks) = (512, 256);
    Options {
        places: vec![
            place(Kind::Primary, None),
            place(Kind::Replica, Some(0)),
            place(Kind::Replica, Some(0)),
        ],
        blocks,
        block_size: volmcast::units::BlockSize::from_bytes(block).unwrap(),
        save: 256 << 10,
        snapshot_slots: blocks * 8,
        chunk: 8 * block,
        window: 32 << 10,
        held: 16 * block,
        cache: 64 << 10,
        cut: (blocks * block / 8, Duration::from_millis(60)),
        playback: (0, Duration::ZERO),
        faults_for: Duration::from_secs(60),
        client_pause: 10_000,
        disk_delay: 500,
        link_delay: 500,
        crash_ppm: 0,
        turns: true,
        calm: true,
        ..Options::random(&mut rng)
    }
}

fn run(orders: &[Order], strikes: Vec<Strike>, seed: u64, verbose: bool) -> Counters {
    let (opt, rng) = (options(seed), Rng::new(seed));
    let w = World::new(seed, opt, rng, verbose).with_orders(orders.to_vec(), strikes.clone());
    match w.run() {
        Ok(c) => c,
        Err(f) => panic!("{orders:?}, {strikes:?}, seed {seed}:\n{f}"),
    }
}

/// A failover with a replica that is past the fork, the old writer's return, and the way back.
fn disaster(now: bool) -> Vec<Order> {
    vec![
        Order::Wait(500),
        Order::Apart(0, 1, 200),
        Order::Kill(0),
        Order::Promote(1, now),
        Order::Start(0),
        Order::Resync(0),
        Order::Wait(100),
        Order::Swap(0),
    ]
}

/// Crashes at steps of one of the orders, in the ways by turns: before a step or after it, with the
/// machine or the process alone. Then a second one, so many steps later, if that is said.
fn at_every_step(orders: &[Order], of: fn(&Order) -> bool, seed: u64, (every, then): (u64, u64)) {
    let order = orders.iter().position(of).expect("it is ordered");
    let name = orders[order].steps().expect("it has steps");
    let steps = run(orders, vec![], seed, false).get(name);
    let (mut total, mut runs) = (Counters::default(), 0);
    for step in (0..steps).filter(|s| s % every == seed % every) {
        let way = |step: u64| Strike {
            order,
            step,
            when: if step.is_multiple_of(2) { When::Before } else { When::After },
            power: (step / 2 + seed).is_multiple_of(2),
        };
        let mut strikes = vec![way(step)];
        strikes.extend((then > 0).then(|| way(step + 1 + step % then)));
        total.merge(&run(orders, strikes, seed, false));
        runs += 1;
    }
    println!("{name}: {steps}, {runs} runs, {} crashes", total.get("crash at a durable step"));
    assert!(steps > 60, "{steps} {name}");
    // A second crash may come too late: the order was at its end.
    let came = total.get("crash at a durable step");
    let missed = total.get("crashes that did not come");
    assert!(came >= runs && came + missed == runs * (1 + u64::from(then > 0)), "{total}");
    for (what, least) in [
        ("runs converged", runs),
        ("what was lost is a branch", runs),
        ("nothing was lost by a swap", runs),
        ("branch read", runs),
        ("seed begun", 0),
    ] {
        let n = total.get(what);
        assert!(if least == 0 { n == 0 } else { n >= least }, "{what}: {n}\n{total}");
    }
}

const PROMOTION: fn(&Order) -> bool = |o| matches!(o, Order::Promote(..));
const RESYNC: fn(&Order) -> bool = |o| matches!(o, Order::Resync(_));
const SWAP: fn(&Order) -> bool = |o| matches!(o, Order::Swap(_));

#[test]
fn a_crash_at_any_step_of_a_failover() {
    at_every_step(&disaster(false), PROMOTION, 7, (1, 0));
}

#[test]
fn a_crash_at_any_step_of_a_resync() {
    at_every_step(&disaster(false), RESYNC, 8, (1, 0));
}

#[test]
fn a_crash_at_any_step_of_a_failback() {
    at_every_step(&disaster(true), SWAP, 9, (1, 0));
}

#[test]
fn another_crash_while_the_command_is_said_again() {
    for (seed, of) in [(10, PROMOTION), (11, RESYNC), (12, SWAP)] {
        at_every_step(&disaster(true), of, seed, (4, 24));
    }
}

/// One run again, to look at: `ORDER`, `STEP`, `AFTER`, `POWER`, `NOW`, `SEED` say which.
#[test]
#[ignore = "to look at one run"]
fn look() {
    let env = |n: &str, d: u64| std::env::var(n).map_or(d, |v| v.parse().expect("a number"));
    let when = if env("AFTER", 0) == 0 { When::Before } else { When::After };
    let order = usize::try_from(env("ORDER", 3)).expect("small");
    let strike = Strike { order, step: env("STEP", 0), when, power: env("POWER", 1) == 1 };
    println!("{}", run(&disaster(env("NOW", 0) == 1), vec![strike], env("SEED", 7), true));
}
