//! A swap of roles that is interrupted, whoever ends in the middle, is finished by repeating it; what
//! was written before is there, and one node is the writer (FAIL-22, FAIL-20).

use std::process::Command;
use std::time::Duration;

use tests::rig::{Clock, Plan, Process, Random, Tree, program, said, wait_for};

use crate::load::{BLOCK, content};

const LONG: Duration = Duration::from_secs(60);
const NODES: [&str; 3] = ["p", "l1", "l2"];
const BLOCKS: u64 = 64;

fn swap(tree: &Tree, to: &str) -> Command {
    let mut c = Command::new(program("rcpctl"));
    c.args(["failover", "vol", "--sync", "--to", to]);
    c.arg("--topology").arg(tree.topology());
    c
}

/// Everything the volume holds at a node.
fn holds(tree: &Tree, node: &str) -> Result<Vec<u8>, String> {
    let mut c = tree.open(node, "vol").map_err(|e| format!("{node}: {e}"))?;
    let mut all = vec![0; BLOCK * usize::try_from(BLOCKS).unwrap()];
    c.read(0, &mut all).map_err(|e| format!("{node}: {e}"))?;
    Ok(all)
}

#[test]
fn an_interrupted_swap_is_finished_by_repeating_it() {
    let mut random = Random::seeded("swaps");
    let plan = Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 16).cut_every(100);
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    let (mut writer, mut number) = ("p", 1 << 52);
    let mut cut_short = 0;
    for round in 0.. {
        // As often as it takes to come in time: a swap is done within a tenth of a second.
        if round >= 6 && (cut_short >= 4 || round >= 30) {
            break;
        }
        let mut want = Vec::new();
        let mut client = tree.open(writer, "vol").unwrap();
        for block in 0..BLOCKS {
            number += 1;
            want.extend(content(number));
            client.write(block * BLOCK as u64, &content(number), false).unwrap();
        }
        client.flush().unwrap();
        drop(client);

        // The command, the old writer or the new one ends while it is carried out.
        let to = if writer == "p" { "l1" } else { "p" };
        let mut command = swap(&tree, to);
        let log = tree.dir().join(format!("swap{round}.log"));
        let mut swapping = Process::start(&mut command, &log);
        Clock::default().pace(Duration::from_millis(random.below(100)));
        let victim = ["the command", writer, to][round % 3];
        cut_short += u32::from(swapping.ended().is_none());
        match victim {
            "the command" => swapping.kill(),
            node => {
                tree.kill(node);
                tree.up(node);
                swapping.wait(LONG);
            }
        }
        let told = swapping.log();
        eprintln!("round {round}: {victim} ended: {told}");

        // Said again until it is done; a refusal changes nothing and says why.
        let again = wait_for("the swap to be done", LONG, || said(&mut swap(&tree, to)));
        let roles = wait_for("one writer", LONG, || {
            let mut roles = Vec::new();
            for n in NODES {
                roles.push((n, tree.volume(n, "vol")?.role));
            }
            let writers = roles.iter().filter(|(_, r)| r == "primary").map(|(n, _)| *n);
            if writers.eq([to]) { Ok(roles) } else { Err(format!("{roles:?}")) }
        });
        eprintln!("{again}\n{roles:?}");
        assert!(holds(&tree, to).unwrap() == want, "{to} is another after round {round}");
        for n in NODES.into_iter().filter(|n| *n != to) {
            wait_for("every replica to have it", LONG, || {
                if holds(&tree, n)? == want { Ok(()) } else { Err(format!("{n} has another")) }
            });
        }
        wait_for("nobody to be missed above the writer", LONG, || {
            let status = tree.status(to).map_err(|e| e.to_string())?;
            let parent = status.groups[0].parent.clone();
            match parent.filter(|p| p.state != "connected") {
                None => Ok(()),
                Some(p) => Err(format!("{to} waits for {}: {:?}", p.node, p.reason)),
            }
        });
        writer = to;
    }
    assert!(cut_short >= 4, "no swap was under way any more");
    for n in NODES {
        assert!(!tree.log(n).contains("a seed begins"), "{n} was seeded");
    }
}
