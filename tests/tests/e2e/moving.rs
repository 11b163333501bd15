//! A volume's service goes to another node, with its files from shared storage or by a swap: nothing
//! acknowledged is lost, nothing is copied, one node writes (GEN-12).

use std::time::Duration;

use config::spec::NodeSpec;
use node::api::CutInfo;
use node::http::{paths, requests};
use serde_json::Value;
use tests::rig::{Clock, MIB, Plan, Process, Random, Tree, wait_for};

use crate::load::{Ends, Load, Writer, content};

const LONG: Duration = Duration::from_secs(90);

/// `b` is in no group, and has its data folder beside the others': what a shared disk is.
fn plan() -> Plan {
    let mut plan = Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 32).cut_every(200);
    let node = NodeSpec { data: "b".to_owned(), ..NodeSpec::default() };
    plan.spec.nodes.insert("b".to_owned(), node);
    plan
}

/// The replicas show what the writer holds.
#[track_caller]
fn same(tree: &Tree, writer: &str, replicas: &[&str]) {
    let body = requests::Cut { volume: "vol".to_owned(), keep: true };
    let cut: CutInfo = wait_for("a cut", LONG, || tree.post(writer, paths::CUT, &body));
    let export = format!("vol@{}", cut.set);
    let want = tree.all_of(writer, &export).expect("the writer's");
    for n in replicas {
        tree.reaches(n, "vol", cut.set, LONG);
        wait_for("the same content", LONG, || match tree.all_of(n, &export)? == want {
            true => Ok(()),
            false => Err(format!("{n} differs from {writer} at set {}", cut.set)),
        });
    }
}

fn one_writer(tree: &Tree, nodes: &[&str], writer: &str) {
    wait_for("one writer", LONG, || {
        let mut found = Vec::new();
        for n in nodes {
            let status = tree.status(n).map_err(|e| e.to_string())?;
            let writes = |v: &node::api::VolumeInfo| v.role == "primary" && v.fenced.is_none();
            found.extend(status.volumes.iter().filter(|v| writes(v)).map(|_| (*n).to_owned()));
        }
        if found == [writer] { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// Writes wherever it is let in.
fn work(writer: &mut Writer, tree: &Tree, load: &Load, nodes: &[&str]) {
    let (mut at, mut own, clock) = (0, 0u64, Clock::default());
    while load.on() {
        let opened = tree.open(nodes[at % nodes.len()], "vol");
        at += 1;
        let Ok(mut c) = opened else {
            Clock::default().pace(Duration::from_millis(10));
            continue;
        };
        while load.on() {
            let Ok(n) = writer.once(&mut c) else {
                writer.lost += 1;
                break;
            };
            own += n;
            load.bytes.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
            clock.pace(Duration::from_micros(own * 1_000_000 / (4 * MIB)));
        }
    }
}

fn not_seeded_after(tree: &Tree, nodes: &[&str], before: &[usize]) {
    for (n, had) in nodes.iter().zip(before) {
        assert_eq!(seeds(tree, n), *had, "{n} was seeded: {}", tree.log(n));
    }
}

fn seeds(tree: &Tree, node: &str) -> usize {
    tree.log(node).matches("a seed begins").count()
}

#[test]
fn a_volume_moves_with_its_files_while_it_is_written() {
    let mut random = Random::seeded("moving");
    let mut plan = plan();
    let volume = plan.group().volumes.get_mut("vol").expect("the volume");
    volume.backing.insert("p".to_owned(), "../san.img".to_owned());
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    let mut writer = Writer::new("vol", 0, 8000, random.fork());
    let load = Load::default();
    let mut told = Value::Null;
    let mut before = Vec::new();
    std::thread::scope(|s| {
        let _ends = Ends(&load);
        s.spawn(|| work(&mut writer, &tree, &load, &["p", "b"]));
        for n in ["l1", "l2"] {
            tree.reaches(n, "vol", 3, LONG);
        }
        before = ["l1", "l2"].iter().map(|n| seeds(&tree, n)).collect();
        let shown = tree.ctl(&["volume", "move", "vol", "--to", "b", "--plan"]).expect("a plan");
        assert!(shown.contains("storage that p and b share"), "{shown}");
        one_writer(&tree, &["p", "b", "l1", "l2"], "p");
        let out = tree.ctl(&["volume", "move", "vol", "--to", "b", "--json"]).expect("moved");
        told = serde_json::from_str(&out).expect("JSON");
        let at = load.written();
        wait_for("writes at b", LONG, || match load.written() - at {
            n if n > 4 * MIB => Ok(()),
            n => Err(format!("{n} bytes")),
        });
    });
    eprintln!("{told}");
    let v = &told["volumes"][0];
    assert_eq!((v["way"].as_str(), v["from"].as_str()), (Some("files"), Some("p")), "{told}");
    writer.verify("at b", &mut tree.open("b", "vol").expect("open"));
    same(&tree, "b", &["l1", "l2"]);
    not_seeded_after(&tree, &["l1", "l2"], &before);
    let record = std::fs::read_to_string(tree.dir().join("san.img.rcp-owner")).expect("a record");
    assert!(record.contains("node b"), "{record}");
    let again = tree.ctl(&["volume", "move", "vol", "--to", "b"]).expect("said again");
    assert!(again.contains("b is the writer already"), "{again}");

    // The file names p still: it makes no volume in the place of the one it gave away.
    for n in ["p", "b"] {
        tree.kill(n);
        tree.up(n);
    }
    one_writer(&tree, &["p", "b", "l1", "l2"], "b");
    let why = tree.open("p", "vol").err().map(|e| e.to_string()).unwrap_or_default();
    assert!(why.contains("was moved to b with all its files"), "{why}");
    wait_for("b to be confirmed", LONG, || {
        let mut c = tree.open("b", "vol").map_err(|e| e.to_string())?;
        writer.verify("at b again", &mut c);
        writer.once(&mut c).map_err(|e| e.to_string())
    });
    same(&tree, "b", &["l1", "l2"]);
    not_seeded_after(&tree, &["l1", "l2"], &before);
    // Who has the volume as a replica has not its writer's file.
    tree.ctl(&["group", "add", "g1", "p"]).expect("a member");
    wait_for("p to leave the file alone", LONG, || {
        match tree.log("p").contains("san.img is in use by node b") {
            true => Ok(()),
            false => Err(tree.log("p")),
        }
    });
    tree.volume("p", "vol").expect_err("there is no replica");
    tree.refuses(&["volume", "move", "vol", "--to", "l1", "--files"], "without --files");
    tree.refuses(&["volume", "move", "vol", "--to", "x"], "`x`");
    tree.refuses(&["volume", "move", "vol", "--to", "p", "--swap"], "`rcpctl group add g1 p`");
}

#[test]
fn a_file_that_is_a_volume_of_a_node_is_refused_to_another_also_while_that_is_down() {
    let mut plan = plan();
    let volume = plan.group().volumes.get_mut("vol").expect("the volume");
    volume.backing.insert("p".to_owned(), "../san.img".to_owned());
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    tree.open("p", "vol").expect("open").write(0, &content(1), true).expect("written");
    tree.ctl(&["group", "create", "g2", "--primary", "b"]).expect("a group");
    let file = tree.dir().join("san.img").display().to_string();
    let import = ["volume", "import", "v2", &file, "--group", "g2", "--format", "raw"];
    tree.refuses(&import, "is in use by node p");
    tree.kill("p");
    tree.refuses(&import, "is in use by node p");
    tree.up("p");
    let mut block = vec![0; 4096];
    tree.open("p", "vol").expect("open").read(0, &mut block).expect("read");
    assert!(block == content(1));
}

#[test]
fn a_move_that_is_killed_anywhere_is_finished_by_the_same_command() {
    let mut random = Random::seeded("moves");
    let tree = Tree::start(plan());
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    let nodes = ["p", "b", "l1", "l2"];
    let (mut writer, mut number, mut cut_short) = ("p", 1 << 52, 0);
    let (mut before, mut within) = (Vec::new(), 220);
    for round in 0.. {
        if round >= 9 && (cut_short >= 6 || round >= 30) {
            break;
        }
        let mut want = Vec::new();
        let mut client = wait_for("the writer", LONG, || tree.open(writer, "vol"));
        for block in 0..64u64 {
            number += 1;
            want.extend(content(number));
            wait_for("a write", LONG, || client.write(block * 4096, &content(number), false));
        }
        client.flush().expect("flushed");
        drop(client);
        if round == 0 {
            same(&tree, "p", &["l1", "l2"]);
            before = ["l1", "l2"].iter().map(|n| seeds(&tree, n)).collect();
        }
        let to = if writer == "p" { "b" } else { "p" };
        let words = ["volume", "move", "vol", "--to", to];
        let log = tree.dir().join(format!("move{round}.log"));
        let mut moving = Process::start(&mut tree.rcpctl(&words), &log);
        Clock::default().pace(Duration::from_millis(random.below(within)));
        // Soon enough for this machine.
        match moving.ended() {
            None => (cut_short, within) = (cut_short + 1, within + within / 8),
            Some(_) => within = (within / 2).max(20),
        }
        let victim = ["the command", writer, to][round % 3];
        match victim {
            "the command" => moving.kill(),
            node => {
                tree.kill(node);
                tree.up(node);
                moving.wait(LONG);
            }
        }
        eprintln!("round {round}: {victim} ended: {}", moving.log());
        let again = wait_for("the move to be done", LONG, || tree.ctl(&words));
        eprintln!("{again}");
        one_writer(&tree, &nodes, to);
        let holds = wait_for("the volume", LONG, || tree.all_of(to, "vol"));
        assert!(holds[..want.len()] == want, "{to} has something else after round {round}");
        same(&tree, to, &["l1", "l2"]);
        writer = to;
    }
    assert!(cut_short >= 6, "no move was under way any more");
    not_seeded_after(&tree, &["l1", "l2"], &before);
}

/// Each step by itself, both nodes killed after it; then the command.
#[test]
fn after_every_step_the_disk_says_whose_the_volume_is() {
    use node::api::WriterChange;
    use node::shift::{Answered, Reach, Step};
    for steps in 0..=6 {
        let tree = Tree::start(plan());
        tree.expect(" WARN ");
        tree.expect(" ERROR ");
        tree.open("p", "vol").expect("open").write(0, &content(7), true).expect("written");
        same(&tree, "p", &["l1", "l2"]);
        tree.ctl(&["volume", "move", "vol", "--to", "b", "--plan"]).expect("a plan");
        let id = tree.volume("p", "vol").expect("the volume").id;
        let ask =
            |node: &str, step: &Step| tree.post::<_, Answered>(node, paths::VOLUME_MOVE, step);
        let step = |node: &str, step: &Step| -> Answered {
            ask(node, step).unwrap_or_else(|e| panic!("{step:?}: {e}"))
        };
        let not = |node: &str, step: &Step, says: &str| {
            let e = ask(node, step).expect_err(says).to_string();
            assert!(e.contains(says), "{e}");
        };
        let show = Step::Show { volume: "vol".to_owned(), mark: true };
        let Answered::Shown(shown) = step("p", &show) else { panic!("where it is") };
        let reach = Reach { shown, same_device: false };
        // What nobody gave is not taken, nor what is not expected.
        let (take, expect) = (Step::Take { id: id.clone() }, Step::Expect(reach.clone()));
        not("b", &take, "b does not expect volume");
        not("b", &expect, "b is in no group g1");
        let mut elsewhere = reach.clone();
        elsewhere.shown.folder = format!("{}/..", reach.shown.folder);
        not("b", &Step::Reach(elsewhere), "no absolute path");
        if steps >= 1 {
            assert_eq!(step("b", &Step::Reach(reach)), Answered::Done);
            let added = config::AddedGroup {
                revision: 1,
                routes: [("p".to_owned(), vec!["b".to_owned()])].into(),
                ..config::AddedGroup::default()
            };
            let body = requests::GroupDefinition { group: "g1".into(), definition: Some(added) };
            let _: requests::Done = tree.post("b", paths::GROUP, &body).expect("a member");
        }
        if steps >= 2 {
            step("b", &expect);
            not("b", &take, "is in use by node p");
            // Nobody else is called so here.
            let make =
                ["volume", "create", "vol", "--size", "1MiB", "--group", "g1", "--node", "b"];
            tree.ctl(&make).expect_err("it is on its way");
        }
        if steps >= 3 {
            let hold = WriterChange::Hold { volume: id.clone(), limit_ms: 20_000 };
            let held: Value = tree.post("p", paths::WRITER, &hold).expect("held");
            if steps >= 4 {
                let set = held["set"].as_u64().expect("a set");
                step("p", &Step::Give { volume: id.clone(), to: "b".into(), set });
            }
        }
        if steps >= 5 {
            // Two at once: one of them takes it.
            std::thread::scope(|s| {
                let both = [s.spawn(|| ask("b", &take)), s.spawn(|| ask("b", &take))];
                for one in both {
                    one.join().expect("joined").expect("taken");
                }
            });
            // Taken, and nobody writes yet.
            let e = tree.open("b", "vol").expect("open").write(0, &content(8), true).unwrap_err();
            assert!(e.to_string().contains("read-only"), "{e}");
        }
        if steps >= 6 {
            let (volume, above) = (id.clone(), 0);
            let (now, at, lose_damaged_blocks) = (false, None, false);
            let body = WriterChange::Promote { volume, now, at, above, lose_damaged_blocks };
            let _: Value = tree.post("b", paths::WRITER, &body).expect("promoted");
        }
        for n in ["p", "b"] {
            tree.kill(n);
        }
        for n in ["p", "b"] {
            tree.up(n);
        }
        // Never two, and never an empty one.
        for n in ["p", "b"] {
            if let Ok(v) = tree.volume(n, "vol") {
                assert_eq!((v.id.as_str(), n == "b"), (id.as_str(), steps >= 5), "step {steps}");
            }
        }
        let told = wait_for("the move", LONG, || tree.ctl(&["volume", "move", "vol", "--to", "b"]));
        eprintln!("after step {steps}: {told}");
        one_writer(&tree, &["p", "b", "l1", "l2"], "b");
        assert!(tree.all_of("b", "vol").expect("read")[..4096] == content(7), "step {steps}");
        same(&tree, "b", &["l1", "l2"]);
        let moved = |n: &str| tree.status(n).expect("a status").moved.len();
        assert_eq!((moved("p"), moved("b")), (1, 0));
        if steps == 6 {
            // It is a node like any other: it may have a replica, and what it gave away is history.
            tree.ctl(&["group", "add", "g1", "p"]).expect("a replica");
            same(&tree, "b", &["p", "l1", "l2"]);
            assert_eq!(moved("p"), 0);
            tree.kill("p");
            tree.up("p");
            same(&tree, "b", &["p", "l1", "l2"]);
            tree.ctl(&["volume", "move", "vol", "--to", "p"]).expect("by a swap");
            one_writer(&tree, &["p", "b", "l1", "l2"], "p");
        }
    }
}

#[test]
fn volumes_of_one_group_move_together_by_swaps() {
    let plan = Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 8).volume("v2", 8).cut_every(200);
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    for (n, label) in ["vol", "v2"].iter().enumerate() {
        let mut c = tree.open("p", label).expect("open");
        c.write(0, &content(n as u64 + 1), true).expect("written");
    }
    same(&tree, "p", &["l1", "l2"]);
    tree.refuses(&["volume", "move", "vol", "--to", "l1"], "`rcpctl group move g1 --to l1`");
    let shown = tree.ctl(&["group", "move", "g1", "--to", "l1", "--plan"]).expect("a plan");
    assert!(shown.contains("by a planned swap: writers wait"), "{shown}");
    let told = tree.ctl(&["group", "move", "g1", "--to", "l1"]).expect("moved");
    eprintln!("{told}");
    for (n, label) in ["vol", "v2"].iter().enumerate() {
        assert_eq!(tree.volume("l1", label).expect("there").role, "primary");
        assert_eq!(tree.volume("p", label).expect("there").role, "replica");
        let mut c = tree.open("l1", label).expect("open");
        let mut block = vec![0; 4096];
        c.read(0, &mut block).expect("read");
        assert!(block == content(n as u64 + 1), "{label}");
        c.write(4096, &content(n as u64 + 8), true).expect("written");
    }
    same(&tree, "l1", &["p", "l2"]);
}
