//! Why a copy is behind is said by the node that can see it, and nothing that follows from it is
//! taken for the cause.

use std::process::Command;
use std::time::Duration;

use config::spec::PlaybackSpec;
use node::api::Delayed;
use node::http::{paths, requests};
use tests::rig::{
    Clock, MIB, Narrow, Plan, Random, SlowDisk, Tree, may_mount, program, said, wait_for,
};

const LONG: Duration = Duration::from_secs(60);
/// Bytes a second through the narrow places, and to the slow disk.
const NARROW: u64 = 200_000;
const SLOW: u64 = 700_000;

/// What is said of a node's copy: by itself, and by its parent of the way there.
fn said_of(tree: &Tree, node: &str) -> Result<(Option<Delayed>, Option<Delayed>), String> {
    let parent = tree.volume("p", "vol")?;
    let child = parent.children.iter().find(|c| c.node == node).cloned();
    Ok((tree.volume(node, "vol")?.delayed, child.and_then(|c| c.delayed)))
}

fn cause(d: &Option<Delayed>) -> &str {
    d.as_ref().map_or("none", |d| &d.cause)
}

#[test]
fn the_first_thing_that_limits_a_copy_is_named() {
    if !may_mount("a slow disk") {
        return;
    }
    let nodes = ["link", "disk", "play", "both", "well"];
    let mut plan = Plan::new(&[("p", &nodes)]).volume("vol", 32);
    let gathers = PlaybackSpec {
        timeout: Some("1h".to_owned()),
        hwm: Some("1 GiB".to_owned()),
        ..PlaybackSpec::default()
    };
    for node in ["play", "both"] {
        plan.group().overrides.insert(node.to_owned(), gathers.clone());
    }
    let narrow = [("link", Narrow::listen(NARROW)), ("both", Narrow::listen(NARROW))];
    for (node, way) in &narrow {
        let node = plan.spec.nodes.get_mut(*node).unwrap();
        node.address = Some(way.addr.to_string());
    }
    let tree = Tree::prepare(&mut plan);
    tree.expect(" WARN ");
    for (node, way) in &narrow {
        way.lead_to(tree.addr(node));
    }
    let disk = SlowDisk::mount(tree.dir(), &tree.folder("disk"), 256 * MIB, SLOW);
    let Some(_disk) = disk else { return };
    for node in nodes.iter().chain(&["p"]) {
        tree.up(node);
    }

    let mut client = tree.open("p", "vol").unwrap();
    let mut random = Random::seeded("delays");
    let mut piece = vec![0; 256 << 10];
    // Twice as fast as any of them takes it, until all have been named; not so fast that the save
    // volumes are full before.
    let (clock, mut rounds) = (Clock::default(), 0);
    wait_for("every cause to be named", LONG, || {
        rounds += 1;
        clock.pace(Duration::from_millis(600) * rounds);
        for at in 0..4 {
            for word in piece.chunks_exact_mut(8) {
                word.copy_from_slice(&random.below(u64::MAX).to_le_bytes());
            }
            client.write((random.below(124) * 256) << 10, &piece, at == 3).unwrap();
        }
        tree.cut("vol", false);
        let (link, disk) = (said_of(&tree, "link")?, said_of(&tree, "disk")?);
        let (play, both) = (said_of(&tree, "play")?, said_of(&tree, "both")?);
        let found = [
            cause(&link.1),
            cause(&disk.0),
            cause(&play.0),
            cause(&both.1),
            // Nobody else is at fault.
            cause(&play.1),
        ];
        match found {
            ["link", "disk", "playback", "link", "none"] => Ok(()),
            _ => Err(format!("{found:?}: {link:?} {disk:?} {play:?} {both:?}")),
        }
    });
    // A copy that keeps up says nothing, and nobody says anything of it.
    let (own, way) = said_of(&tree, "well").unwrap();
    assert_eq!((cause(&own), cause(&way)), ("none", "none"), "{own:?} {way:?}");

    // What an operator reads.
    let reads = |node: &str| {
        let mut status = Command::new(program("rcpctl"));
        status.args(["status", "vol", "--dir"]).arg(tree.folder(node));
        said(&mut status).unwrap_or_else(|e| e)
    };
    let text = reads("p");
    assert!(text.contains("the connection takes "), "{text}");
    let text = reads("play");
    assert!(text.contains("gathered by the playback policy"), "{text}");
    // And with one command for all of them.
    let text = tree.told("why vol").unwrap();
    for line in ["p -> link: the connection takes ", "disk: the disk with ", "Nothing holds back: "]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
    let told = tree.told("why vol --json --copy well").unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let well = &told["copies"][0];
    assert_eq!((&told["writer"], &well["node"]), (&"p".into(), &"well".into()), "{told}");
    assert_eq!(well["way"], serde_json::json!(["p", "well"]));
    assert_eq!(well["causes"], serde_json::json!([]));
    let no = tree.told("why vol --copy nobody").unwrap_err();
    assert!(no.contains("nobody has no copy of vol: copies are at both, disk, link,"), "{no}");
    let no = tree.told("why other").unwrap_err();
    assert!(no.contains("no volume other at 6 nodes") && no.contains("volume list"), "{no}");
}

#[test]
fn a_replica_that_is_too_old_is_not_read() {
    let mut plan = Plan::new(&[("p", &["l1"])]).volume("vol", 8).cut_every(100);
    plan.group().playback.max_staleness = Some("2s".to_owned());
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    tree.open("p", "vol").unwrap().write(0, &[1; 4096], true).unwrap();
    let kept = tree.cut("vol", false).set;
    tree.reaches("l1", "vol", kept, LONG);
    let opens = |name: &str| tree.open("l1", name).map(|_| ()).map_err(|e| e.to_string());
    wait_for("l1 to be current", LONG, || opens("vol"));
    let body = requests::KeptState { volume: "vol".to_owned(), set: kept };
    let _: requests::Done = tree.post("l1", paths::KEEP, &body).unwrap();
    let mut before = tree.open("l1", "vol").unwrap();

    tree.kill("p");
    let e = wait_for("l1 to be too old", LONG, || match opens("vol") {
        Ok(()) => Err("it is read"),
        Err(e) => Ok(e),
    });
    assert!(e.contains("older than 2 s") && e.contains("max_staleness"), "{e}");
    let v = tree.volume("l1", "vol").unwrap();
    assert!(v.reason.as_ref().is_some_and(|r| r.contains("max_staleness")), "{v:?}");
    assert!(opens("vol@follow").is_ok_and(|()| {
        let mut follows = tree.open("l1", "vol@follow").unwrap();
        follows.read(0, &mut [0; 4096]).is_err()
    }));
    // What was opened before is that state, whatever its age; so is a kept one.
    let mut block = [0; 4096];
    before.read(0, &mut block).unwrap();
    tree.open("l1", &format!("vol@{kept}")).unwrap().read(0, &mut block).unwrap();
    assert_eq!(block, [1; 4096]);
    // A replica that does not know its age does not take itself for young.
    tree.kill("l1");
    tree.up("l1");
    let e = opens("vol").unwrap_err();
    assert!(e.contains("max_staleness"), "{e}");

    tree.up("p");
    wait_for("l1 to be current again", LONG, || opens("vol"));
}

#[test]
fn a_replica_that_is_too_old_to_be_read_can_take_over() {
    let mut plan = Plan::new(&[("p", &["l1"])]).volume("vol", 8).cut_every(100);
    plan.group().playback.max_staleness = Some("2s".to_owned());
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    tree.open("p", "vol").unwrap().write(0, &[7; 4096], true).unwrap();
    let set = tree.cut("vol", false).set;
    tree.reaches("l1", "vol", set, LONG);
    tree.kill("p");
    wait_for("l1 to be too old", LONG, || match tree.open("l1", "vol") {
        Ok(_) => Err("it is read"),
        Err(_) => Ok(()),
    });
    tree.told("failover vol --to l1").unwrap();
    let mut block = [0; 4096];
    tree.open("l1", "vol").unwrap().read(0, &mut block).unwrap();
    assert_eq!(block, [7; 4096]);
}
