//! A replica that mirrors: refused to readers and to a failover, until a version of it is wanted.

use std::time::Duration;

use config::spec::PlaybackSpec;
use node::api::{MemberResult, VolumeInfo, WriterAnswer, WriterChange};
use node::http::{paths, requests};
use tests::rig::{Clock, Plan, Tree, wait_for};

use crate::load::content;

const LONG: Duration = Duration::from_secs(60);
const BLOCK: u64 = 4096;
const WORDS_OF_BLOCKS: &str = "m mirrors vol without consistent views: there is no state";
const WORDS: &str = "mirrors without consistent views";

/// A tree of which `m` mirrors.
fn plan(routes: &[(&str, &[&str])]) -> Plan {
    let mut plan = Plan::new(routes).volume("vol", 16);
    let mirrors = PlaybackSpec { views: Some("on_demand".to_owned()), ..PlaybackSpec::default() };
    plan.group().overrides.insert("m".to_owned(), mirrors);
    plan
}

#[track_caller]
fn at(tree: &Tree, node: &str, words: &str) -> Result<String, String> {
    tree.ctl_at(node, &words.split(' ').collect::<Vec<_>>())
}

/// Everything that an operator has to find in it.
#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for p in parts {
        assert!(text.contains(p), "`{p}` is not in: {text}");
    }
}

/// One number in the first block, another in block `number`; the set that has it.
fn write(tree: &Tree, node: &str, number: u64) -> u64 {
    let mut c = tree.open(node, "vol").unwrap_or_else(|e| panic!("{node}: {e}"));
    c.write(0, &content(number), false).unwrap();
    c.write(number * BLOCK, &content(number), true).unwrap();
    tree.cut_at(node)
}

/// Waits until the mirror has a set in its content; nobody may read it meanwhile.
#[track_caller]
fn mirrors(tree: &Tree, set: u64) -> VolumeInfo {
    wait_for(&format!("m to hold set {set} and mirror"), LONG, || {
        let v = tree.volume("m", "vol")?;
        let done = v.state == "mirroring" && v.merged_set >= set;
        if done { Ok(v) } else { Err(format!("{}: set {}, {:?}", v.state, v.merged_set, v.reason)) }
    })
}

#[track_caller]
fn refused(tree: &Tree) {
    let e = tree.open("m", "vol").map(|_| ()).unwrap_err().to_string();
    says(&e, &[WORDS, "`rcpctl replicate version VOLUME --node m`"]);
    let mut follows = tree.open("m", "vol@follow").expect("it may be waited for");
    assert!(follows.read(0, &mut [0; 4096]).is_err(), "a mirror is read");
    let path = paths::VOLUME.replace("{name}", "vol");
    let e = tree.get::<serde_json::Value>("m", &path).unwrap_err().to_string();
    says(&e, &[WORDS]);
}

/// The number in the first block.
#[track_caller]
fn shows(tree: &Tree, node: &str) -> u64 {
    let mut first = [0; 8];
    let mut c = tree.open(node, "vol").unwrap_or_else(|e| panic!("{node}: {e}"));
    c.read(0, &mut first).unwrap_or_else(|e| panic!("{node}: {e}"));
    u64::from_le_bytes(first)
}

#[test]
fn a_mirror_is_read_when_a_version_of_it_is_wanted() {
    // Below a forwarder with a replica of its own.
    let tree = Tree::start(plan(&[("p", &["f"]), ("f", &["l", "m"])]));
    let first = write(&tree, "p", 1);
    tree.reaches("l", "vol", first, LONG);
    let v = mirrors(&tree, first);
    assert_eq!((v.reason, v.stalled), (None, None), "that it is not read was wanted");
    says(v.mirror.as_deref().unwrap_or_default(), &[&format!("whole is {first}"), "--node m"]);
    refused(&tree);
    let body = requests::KeptState { volume: "vol".to_owned(), set: first };
    let e = tree.post::<_, requests::Done>("m", paths::KEEP, &body).unwrap_err().to_string();
    says(&e, &["no state can be kept", WORDS]);
    let hash = requests::Hash { volume: "vol".to_owned(), set: first, len: BLOCK, wait_s: 30 };
    let members: Vec<MemberResult> = tree.post("p", paths::HASH, &hash).unwrap();
    let of =
        |n: &str| members.iter().find(|m| m.node == n).unwrap_or_else(|| panic!("{members:?}"));
    assert!(of("l").ok && !of("m").ok, "{members:?}");
    says(&of("m").text, &[WORDS_OF_BLOCKS]);
    let status = at(&tree, "m", "status vol").unwrap();
    says(&status, &["mirroring", WORDS, "No problems on 1 node"]);
    // Who does not mirror says so, and how.
    let e = at(&tree, "l", "replicate version vol").unwrap_err();
    says(&e, &["is no mirror", "views: on_demand", "--node"]);
    let e = at(&tree, "p", "replicate mirror vol").unwrap_err();
    says(&e, &["p writes volume vol", "shows who mirrors"]);
    // At once, and not after it has waited for what does not come.
    let clock = Clock::default();
    let e = tree.told("failover vol --sync --to m").unwrap_err();
    says(
        &e,
        &["m cannot take over", "`rcpctl replicate version vol --node m`", "Nothing was changed"],
    );
    assert!(clock.passed() < LONG, "{:?}", clock.passed());

    // Over a kill in the stream it stays what it is.
    write(&tree, "p", 2);
    tree.expect(" WARN ");
    tree.kill("m");
    write(&tree, "p", 3);
    tree.up("m");
    let set = tree.cut("vol", true).set;
    mirrors(&tree, set);
    refused(&tree);

    let said = at(&tree, "m", "replicate version vol").unwrap();
    says(&said, &[&format!("m has version {set}, cut "), "`rcpctl replicate mirror vol --node m`"]);
    assert_eq!(shows(&tree, "m"), 3);
    tree.same("m", "vol", set);
    // A replica as any other, over a restart too.
    let fourth = write(&tree, "p", 4);
    tree.reaches("m", "vol", fourth, LONG);
    tree.kill("m");
    tree.up("m");
    tree.reaches("m", "vol", fourth, LONG);
    assert_eq!(shows(&tree, "m"), 4);

    // And back, without a copy.
    let mut before = tree.open("m", "vol").unwrap();
    let extents = || {
        let v = tree.volume("f", "vol").unwrap();
        (v.seed_sent, v.catch_up_sent)
    };
    let sent = extents();
    says(&at(&tree, "m", "replicate mirror vol").unwrap(), &["mirrors again"]);
    refused(&tree);
    let fifth = write(&tree, "p", 5);
    mirrors(&tree, fifth);
    refused(&tree);
    let mut first = [0; 8];
    before.read(0, &mut first).unwrap();
    assert_eq!(u64::from_le_bytes(first), 4, "whoever has a state open reads it on");
    tree.kill("m");
    tree.up("m");
    mirrors(&tree, fifth);
    refused(&tree);
    assert_eq!(extents(), sent, "it was neither seeded nor caught up");
    at(&tree, "m", "replicate version vol").unwrap();
    assert_eq!(shows(&tree, "m"), 5);
}

#[test]
fn a_mirror_takes_over_once_it_was_brought_to_a_version() {
    let tree = Tree::start(plan(&[("p", &["l", "m"])]));
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    let first = write(&tree, "p", 1);
    tree.reaches("l", "vol", first, LONG);
    mirrors(&tree, first);
    // Whoever could send a set is gone.
    tree.kill("p");
    let plan = tree.told("failover vol --plan").unwrap_or_else(|e| e);
    let way = "`rcpctl replicate version vol --node m`";
    says(&plan, &["it mirrors, and no version of it was made", way]);
    let e = tree.told("failover vol --to m").unwrap_err();
    says(&e, &["no version of it was made", way]);
    let promote = WriterChange::Promote {
        volume: "vol".to_owned(),
        now: true,
        at: None,
        above: 0,
        lose_damaged_blocks: false,
    };
    let e = tree.post::<_, WriterAnswer>("m", paths::WRITER, &promote).unwrap_err().to_string();
    says(&e, &["vol at m mirrors", way, "Nothing was changed"]);
    assert_eq!(tree.volume("m", "vol").unwrap().role, "replica");

    let said = at(&tree, "m", "replicate version vol").unwrap();
    says(&said, &[&format!("m has version {first}, cut ")]);
    assert_eq!(shows(&tree, "m"), 1);
    tree.told("failover vol --to m --adopt").unwrap();
    assert_eq!(tree.volume("m", "vol").unwrap().role, "primary");
    assert_eq!(shows(&tree, "m"), 1);
    let set = write(&tree, "m", 2);
    tree.reaches("l", "vol", set, LONG);
    // As a replica it mirrors again.
    tree.told("failover vol --sync --to l --adopt").unwrap();
    assert_eq!(tree.volume("l", "vol").unwrap().role, "primary");
    let set = write(&tree, "l", 3);
    mirrors(&tree, set);
    refused(&tree);
}
