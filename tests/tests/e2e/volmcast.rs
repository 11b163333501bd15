//! A source volume and its copies, each with a label of its own; commands that the program carries
//! out itself at every member (VMC-03 to VMC-05, CB-01 to CB-03, CMD-01 to CMD-03).

use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use config::spec::{GroupSpec, VolumeSpec};
use serde_json::Value;
use tests::rig::{MIB, Plan, Tree, program, said, wait_for};

const LONG: Duration = Duration::from_secs(60);

fn ctl(tree: &Tree, words: &[&str]) -> Result<String, String> {
    let mut c = Command::new(program("rcpctl"));
    said(c.args(words).arg("--topology").arg(tree.topology()))
}

fn json(tree: &Tree, words: &[&str]) -> Value {
    let out = ctl(tree, words).expect("an answer");
    serde_json::from_str(&out).expect("JSON")
}

fn write(tree: &Tree, label: &str, at: u64, byte: u8) -> u64 {
    tree.open("p", label).unwrap().write(at, &[byte; 4096], true).unwrap();
    tree.cut(label, false).set
}

fn reads(tree: &Tree, node: &str, label: &str, at: u64) -> Result<u8, String> {
    let mut buf = [0; 4096];
    let mut c = tree.open(node, label).map_err(|e| e.to_string())?;
    c.read(at, &mut buf).map_err(|e| e.to_string())?;
    if buf.iter().all(|b| *b == buf[0]) { Ok(buf[0]) } else { Err("mixed content".to_owned()) }
}

fn three_levels() -> Plan {
    Plan::new(&[("p", &["f1", "l3"]), ("f1", &["l1", "l2"])]).volume("vol", 16)
}

#[test]
fn each_member_has_its_own_label_from_the_topology_or_the_command() {
    let mut plan = three_levels();
    let vol = plan.group().volumes.get_mut("vol").unwrap();
    vol.labels = [("f1", "at-f1"), ("l1", "at-l1")].map(|(n, l)| (n.into(), l.into())).into();
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    let set = write(&tree, "vol", 0, 7);
    let first = [("f1", "at-f1"), ("l1", "at-l1"), ("l2", "vol"), ("l3", "vol")];
    for (node, label) in first {
        tree.reaches(node, label, set, LONG);
        assert_eq!(reads(&tree, node, label, 0), Ok(7), "{node}");
        assert_eq!(tree.volume(node, label).unwrap().in_group(), "vol");
    }
    assert!(reads(&tree, "l1", "vol", 0).is_err(), "l1 calls it at-l1");

    // By command: who is not named calls it as its source does. A forwarder with another label
    // offers it by the group's.
    let make = |words: &[&str]| {
        let all = [&["volmcast", "create", "v7", "--group", "g1"], words].concat();
        ctl(&tree, &all)
    };
    let none = "no volume was made";
    let e = make(&["--size", "8MiB", "--dest", "l1=at-l1"]).unwrap_err();
    assert!(e.contains(none) && e.contains("l1 has another volume at-l1"), "{e}");
    let e = make(&["--size", "8MiB", "--dest", "l9=x"]).unwrap_err();
    assert!(e.contains("l9 is not in group g1"), "{e}");
    tree.kill("l2");
    let e = make(&["--size", "8MiB", "--dest", "f1=x", "--wait", "1"]).unwrap_err();
    assert!(e.contains(none) && e.contains("l2: not connected"), "{e}");
    assert!(tree.volume("p", "v7").is_err(), "it was made all the same");
    tree.up("l2");
    make(&["--size", "8MiB", "--dest", "f1=v-f1", "--dest", "l2=v-l2"]).expect("made");
    let set = write(&tree, "v7", 4096, 9);
    let second = [("f1", "v-f1"), ("l1", "v7"), ("l2", "v-l2"), ("l3", "v7")];
    for (node, label) in second {
        tree.reaches(node, label, set, LONG);
        assert_eq!(reads(&tree, node, label, 4096), Ok(9), "{node}");
    }
    // Fixed when the copy was made; the same again changes nothing.
    let e = make(&["--dest", "l2=other"]).unwrap_err();
    assert!(e.contains("l2: it is here, and called v-l2"), "{e}");
    make(&["--dest", "l2=v-l2"]).expect("as it is");
    for node in ["f1", "l2"] {
        tree.kill(node);
        tree.up(node);
    }
    let set = write(&tree, "v7", 4096, 10);
    for (node, label) in second {
        tree.reaches(node, label, set, LONG);
        assert_eq!(reads(&tree, node, label, 4096), Ok(10), "{node}");
    }
}

#[test]
fn volmcasts_and_groups_are_listed_opened_and_closed() {
    let mut plan = three_levels();
    plan.group().volumes.get_mut("vol").unwrap().labels.insert("l1".into(), "at-l1".into());
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    let set = write(&tree, "vol", 0, 1);
    tree.reaches("l1", "at-l1", set, LONG);
    tree.reaches("l3", "vol", set, LONG);
    tree.reaches("l2", "vol", set, LONG);
    wait_for("every member to be heard of", LONG, || {
        let out = ctl(&tree, &["group", "list"])?;
        if out.contains("missing: ") { Err(out) } else { Ok(()) }
    });
    let groups = json(&tree, &["group", "list", "--json"]);
    let g = &groups[0];
    assert_eq!((&g["group"], &g["primary"]), (&"g1".into(), &"p".into()), "{g}");
    assert_eq!(g["members"].as_array().unwrap().len(), 5, "{g}");
    assert_eq!(
        (&g["volumes"][0], g["missing"].as_array().unwrap().len()),
        (&"vol".into(), 0),
        "{g}"
    );
    let list = json(&tree, &["volmcast", "list", "vol", "--json"]);
    let v = &list[0];
    assert_eq!((&v["primary"], &v["open"]), (&"p".into(), &true.into()), "{v}");
    let at = |v: &Value, node: &str| {
        let all = v["destinations"].as_array().unwrap().clone();
        all.into_iter().find(|d| d["node"] == node).unwrap_or(Value::Null)
    };
    assert_eq!(at(v, "l1")["label"], "at-l1", "{v}");
    assert_eq!(at(v, "l3")["label"], "vol", "{v}");

    // Who is away is named, with the reason.
    tree.kill("l3");
    wait_for("l3 to be missing", LONG, || {
        let out = ctl(&tree, &["group", "list"]).unwrap_err();
        if out.contains("missing: l3: ") { Ok(()) } else { Err(out) }
    });
    tree.up("l3");

    // A member goes, with its replica left as it is, and comes back below another.
    ctl(&tree, &["group", "remove", "g1", "l3"]).expect("removed");
    let e = ctl(&tree, &["group", "remove", "g1", "l3"]).unwrap_err();
    assert!(e.contains("nobody that answered feeds l3"), "{e}");
    assert_eq!(reads(&tree, "l3", "vol", 0), Ok(1));
    ctl(&tree, &["group", "add", "g1", "l3", "--below", "f1"]).expect("added");
    let e = ctl(&tree, &["group", "add", "g1", "l3", "--below", "p"]).unwrap_err();
    assert!(e.contains("l3 is fed by f1 in g1 already"), "{e}");
    let out = ctl(&tree, &["group", "add", "g1", "l3"]).expect("as it is");
    assert!(out.contains("l3 is fed by f1 already"), "{out}");

    // Closed: no sets, what is written is marked; opened, it goes out.
    ctl(&tree, &["volmcast", "close", "vol"]).expect("closed");
    assert_eq!(json(&tree, &["volmcast", "list", "--json"])[0]["open"], false);
    tree.open("p", "vol").unwrap().write(0, &[2; 4096], true).unwrap();
    assert_eq!(tree.volume("p", "vol").unwrap().current_set, set);
    ctl(&tree, &["volmcast", "open", "vol"]).expect("open");
    let set = tree.cut("vol", false).set;
    tree.reaches("l1", "at-l1", set, LONG);
    tree.reaches("l3", "vol", set, LONG);
    assert_eq!(reads(&tree, "l1", "at-l1", 0), Ok(2));
}

/// A plan whose members note the cuts they are told of, and what of a file system has changed; `l3`
/// is the primary of another group that does not replicate after a restart.
fn plan() -> (Plan, tempfile::TempDir) {
    let mut plan = three_levels();
    let scripts = tempfile::tempdir().unwrap();
    let path = scripts.path().join("note");
    let text = "(cat; echo \" $RCP_STATE\") >> $RCP_KIND-$RCP_NODE; echo noted\n";
    std::fs::write(&path, text).unwrap();
    for node in plan.spec.nodes.values_mut() {
        for kind in ["cut", "fs-invalidate"] {
            let argv = vec!["sh".to_owned(), path.display().to_string()];
            node.handlers.insert(kind.to_owned(), argv);
        }
    }
    let mut other = GroupSpec { primary: "l3".to_owned(), ..GroupSpec::default() };
    other.routes.insert("l3".to_owned(), vec!["p".into()]);
    other.policy.persistent = Some(false);
    let volume = VolumeSpec { size: "8 MiB".to_owned(), ..VolumeSpec::default() };
    other.volumes.insert("managed".to_owned(), volume);
    plan.spec.groups.insert("g2".to_owned(), other);
    (plan, scripts)
}

fn noted(tree: &Tree, kind: &str, node: &str) -> String {
    std::fs::read_to_string(tree.dir().join(format!("{kind}-{node}"))).unwrap_or_default()
}

#[test]
fn members_stop_and_start_playback_and_are_told_of_cuts() {
    let (plan, _scripts) = plan();
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    let members = ["f1", "l1", "l2", "l3"];
    let set = write(&tree, "vol", 0, 1);
    for m in members {
        tree.reaches(m, "vol", set, LONG);
    }
    let sent = |words: &[&str]| ctl(&tree, &[&["block", "send", "g1"], words].concat());
    let out = sent(&["volume-playback-stop", "--volume", "vol"]).expect("stopped");
    assert_eq!(out.matches("done    stopped").count(), members.len(), "{out}");
    let next = write(&tree, "vol", 0, 2);
    wait_for("the set to be saved at all members", LONG, || {
        let saved = |m: &&str| tree.volume(m, "vol").is_ok_and(|v| v.saved_set >= next);
        if members.iter().all(saved) { Ok(()) } else { Err("not yet".to_owned()) }
    });
    for m in members {
        assert_eq!(tree.volume(m, "vol").unwrap().current_set, set, "{m} shows what is only saved");
    }
    // One is away: it is named, and starts when it is back.
    tree.kill("l2");
    let out = sent(&["volume-playback-start", "--volume", "vol", "--wait", "2"]).unwrap_err();
    assert!(out.contains("1 of 4 members have not executed it"), "{out}");
    tree.up("l2");
    for m in members {
        tree.reaches(m, "vol", next, LONG);
        wait_for(&format!("{m} to be told of set {next}"), LONG, || {
            let text = noted(&tree, "cut", m);
            let state = tree.volume(m, "vol")?.state_id;
            let line = format!("vol {state}");
            if text.lines().any(|l| l == line) { Ok(()) } else { Err(format!("{line}: {text}")) }
        });
    }
    let e = sent(&["volume-playback-stop"]).unwrap_err();
    assert!(e.contains("name it (--volume VOLUME)"), "{e}");
    let e = sent(&["volume-hash"]).unwrap_err();
    assert!(e.contains("is none that can be sent"), "{e}");
}

#[test]
fn an_extent_is_copied_to_every_copy_again() {
    let tree = Tree::start(three_levels());
    tree.expect(" WARN ");
    let set = write(&tree, "vol", 8 * MIB, 5);
    for m in ["f1", "l1", "l2", "l3"] {
        tree.reaches(m, "vol", set, LONG);
    }
    wait_for("the set to be in the content of l1", LONG, || {
        let v = tree.volume("l1", "vol")?;
        if v.merged_set >= set { Ok(()) } else { Err(format!("{} of {set}", v.merged_set)) }
    });
    // Somebody else writes into a copy.
    tree.kill("l1");
    let path = tree.volume_folder("l1", "vol").join("base");
    let base = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    base.write_all_at(&[6; 4096], 8 * MIB).unwrap();
    base.sync_all().unwrap();
    tree.up("l1");
    let words = ["block", "send", "g1", "volume-copy-extent", "--volume", "vol", "--extent"];
    let out = ctl(&tree, &[&words[..], &["8MiB+4KiB"]].concat()).expect("copied");
    let with = format!("4096 bytes at 8388608 written again with set {}", set + 1);
    assert_eq!(out.matches(&with).count(), 4, "{out}");
    assert_eq!(reads(&tree, "l1", "vol", 8 * MIB), Ok(5));
    assert_eq!(tree.volume("p", "vol").unwrap().sets[0].blocks, 1, "more than the extent was sent");
    for (extent, word) in
        [("16MiB+4KiB", "ends beyond the volume"), ("1MiB+0", "there is no extent")]
    {
        let e = ctl(&tree, &[&words[..], &[extent]].concat()).unwrap_err();
        assert!(e.contains(word), "{extent}: {e}");
    }
    let e = ctl(&tree, &[&words[..5], &["vol", "--node", "l3"]].concat());
    assert!(e.is_err(), "{e:?}");
}

#[test]
fn a_member_is_told_to_send_what_it_manages_and_what_a_file_system_has_changed() {
    let (plan, _scripts) = plan();
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    tree.reaches("p", "managed", 0, LONG);
    tree.kill("l3");
    tree.up("l3");
    assert!(!tree.volume("l3", "managed").unwrap().replicating, "it is not persistent");
    let sent = |words: &[&str]| ctl(&tree, &[&["block", "send", "g1"], words].concat());
    let out = sent(&["volume-replicate", "--volume", "managed"]).expect("started");
    assert!(out.lines().any(|l| l.starts_with("l3 ") && l.contains("done    started")), "{out}");
    assert_eq!(out.lines().count(), 2, "only l3 manages it: {out}");
    assert!(tree.volume("l3", "managed").unwrap().replicating);
    let e = sent(&["volume-replicate", "--volume", "nothing"]).unwrap_err();
    assert!(e.contains("a volume that they do not manage"), "{e}");

    let data = tree.dir().join("paths");
    std::fs::write(&data, "/a\n/b\n").unwrap();
    let data = data.display().to_string();
    let set = write(&tree, "vol", 0, 3);
    let e = sent(&["fs-invalidate", "--data", &data]).unwrap_err();
    assert!(e.contains("must not overtake the data"), "{e}");
    sent(&["fs-invalidate", "--data", &data, "--after", "vol"]).expect("told");
    for m in ["f1", "l1", "l2", "l3"] {
        assert!(tree.volume(m, "vol").unwrap().current_set >= set);
        assert!(noted(&tree, "fs-invalidate", m).starts_with("/a\n/b\n"), "{m}");
    }
}

#[test]
fn a_member_with_its_own_label_takes_over_and_the_others_keep_theirs() {
    let mut plan = Plan::new(&[("p", &["l1", "l2"])]).volume("vol", 16);
    let vol = plan.group().volumes.get_mut("vol").unwrap();
    vol.labels = [("l1", "at-l1")].map(|(n, l)| (n.into(), l.into())).into();
    let tree = Tree::start(plan);
    tree.expect(" WARN ");
    tree.expect("refused");
    let set = write(&tree, "vol", 0, 1);
    tree.reaches("l1", "at-l1", set, LONG);
    tree.reaches("l2", "vol", set, LONG);
    tree.kill("p");
    ctl(&tree, &["failover", "vol", "--to", "l1", "--adopt"]).expect("l1 takes over");
    tree.open("l1", "at-l1").unwrap().write(0, &[2; 4096], true).unwrap();
    let body = node::http::requests::Cut { volume: "vol".to_owned(), keep: false };
    let cut: node::api::CutInfo = tree.post("l1", node::http::paths::CUT, &body).unwrap();
    tree.reaches("l2", "vol", cut.set, LONG);
    assert_eq!(reads(&tree, "l2", "vol", 0), Ok(2));
    assert_eq!(tree.volume("l1", "at-l1").unwrap().in_group(), "vol");
}
