//! A move with all files, killed before every durable step that it makes, and then before every one
//! that the repeated command makes: what each node would do when it is started then.

use std::path::{Path, PathBuf};

use rcp::proto::ids::{Generation, GroupName, Label, NodeName, SetNumber, StateId, VolumeId};
use volmcast::storage::{Fenced, Identity, Standing};
use volmcast::units::{BlockCount, BlockSize};

use super::arriving::{expect, take};
use super::leaving::{folder_of, give, show};
use super::stored::find;
use crate::shift::Reach;
use crate::volumes::arriving::Arriving;
use crate::volumes::moved::Moved;
use crate::volumes::notes::Note;
use crate::volumes::owner;

const ID: VolumeId = VolumeId([7; 16]);

fn node(n: &str) -> NodeName {
    NodeName::new(n).expect("valid")
}

fn group() -> GroupName {
    GroupName::new("g1").expect("valid")
}

fn label() -> Label {
    Label::new("vol").expect("valid")
}

/// Two data folders on one file system, and content that may lie outside of them, by another path at
/// each.
struct World {
    dir: tempfile::TempDir,
    outside: bool,
}

impl World {
    fn new(outside: bool) -> Self {
        let w = Self { dir: tempfile::tempdir().expect("temp"), outside };
        for n in ["p", "b"] {
            std::fs::create_dir_all(w.data(n).join("volumes")).expect("a folder");
        }
        let folder = folder_of(&w.data("p"), ID);
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join("save"), "sets").expect("a save volume");
        std::fs::create_dir(w.path("san")).expect("a folder");
        std::os::unix::fs::symlink(w.path("san"), w.path("mnt")).expect("another way there");
        std::fs::write(w.path("san/vol.img"), "content").expect("content");
        let identity = Identity {
            volume: ID,
            label: label(),
            source: None,
            group: group(),
            node: node("p"),
            role: "primary".to_owned(),
            block_size: BlockSize::DEFAULT,
            blocks: BlockCount(16),
            save: 8 << 20,
            snapshots: 1 << 20,
            base: w.base("p"),
            standing: Standing::default(),
        };
        identity.store(&folder).expect("an identity");
        if let Some(base) = w.base("p") {
            owner::claim(&base, ID, &node("p"), &folder).expect("nobody's");
        }
        w
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn data(&self, n: &str) -> PathBuf {
        self.path(n)
    }

    fn base(&self, n: &str) -> Option<PathBuf> {
        let path = if n == "p" { "san/vol.img" } else { "mnt/vol.img" };
        self.outside.then(|| self.path(path))
    }

    fn is_at(&self, n: &str) -> bool {
        Identity::load(&folder_of(&self.data(n), ID), &node(n)).is_ok()
    }

    /// What `rcpctl volume move vol --to b` has the nodes do, killed before its step number `at`.
    fn command(&self, at: usize) -> Result<(), String> {
        let mut made = 0;
        let steps = &mut |_: &'static str| {
            made += 1;
            if made > at { Err("killed".to_owned()) } else { Ok(()) }
        };
        let (p, b) = (self.data("p"), self.data("b"));
        if !self.is_at("b") {
            let writes = self.is_at("p");
            if writes || Arriving::load(&b, ID).is_err() {
                let owner = if writes { node("p") } else { node("b") };
                let shown = show(&p, ID, (&node("p"), &owner), true)?;
                let r = Reach { shown, same_device: false };
                expect(&b, &r, &node("b"), self.base("b"), steps)?;
            }
            if writes {
                let was = Identity::load(&folder_of(&p, ID), &node("p")).expect("its own");
                let generation = Generation { counter: 2, id: [9; 16] };
                let line = StateId { volume: ID, generation, set: SetNumber(41) };
                let fenced = Some(Fenced { at: line, by: node("b"), handed: true });
                let standing = Standing { fenced, ..Standing::default() };
                let gone = Moved { volume: ID, label: label(), group: group(), to: node("b") };
                give(&p, &was, standing, &gone, steps).map_err(|(why, ours)| {
                    assert_eq!(ours, self.is_at("p"));
                    why
                })?;
            }
        }
        if Arriving::load(&b, ID).is_ok() {
            take(&b, ID, &node("b"), steps)?;
            // It is open.
            steps("open")?;
            Moved::forget(&b, ID)?;
            Arriving::forget(&b, ID)?;
        }
        Ok(())
    }

    /// Both nodes are started.
    fn look(&self, after: &str) {
        let sees = |n: &str| {
            find(&self.data(n), &node(n)).unwrap_or_else(|e| panic!("{n} starts {after}: {e}"))
        };
        let (p, b) = (sees("p"), sees("b"));
        let opens = |f: &super::stored::Found| f.stored.iter().any(|s| s.identity.volume == ID);
        let makes = |f: &super::stored::Found| !opens(f) && !f.is_elsewhere(&group(), &label());
        assert!(!(opens(&p) && opens(&b)), "two have it open {after}");
        // Whoever has not got it makes no empty one, if the topology names it as the primary.
        assert!(!makes(&p), "p makes an empty volume {after}");
        let under_way = !opens(&p) || Arriving::load(&self.data("b"), ID).is_ok();
        assert!(!(under_way && makes(&b)), "b makes an empty volume {after}");
        // One folder has it, whole.
        let there = ["p", "b"].map(|n| folder_of(&self.data(n), ID));
        let [there] = &there.iter().filter(|f| f.exists()).collect::<Vec<_>>()[..] else {
            panic!("{there:?} {after}")
        };
        assert_eq!(std::fs::read(there.join("save")).expect("there"), b"sets", "{after}");
        for (n, other, found) in [("p", "b", &p), ("b", "p", &b)] {
            let Some(s) = found.stored.first() else { continue };
            assert_eq!(s.identity.base, self.base(n), "{n} opens another's path {after}");
            if let Some(base) = self.base(n) {
                owner::check(&base, ID, &node(n)).unwrap_or_else(|e| panic!("{after}: {e}"));
                owner::check(&base, ID, &node(other)).expect_err("it is in use");
            }
        }
    }
}

/// Steps of the whole command, by counting.
fn length(outside: bool) -> usize {
    (0..100).find(|n| World::new(outside).command(*n).is_ok()).expect("it ends")
}

#[test]
fn killed_before_any_step_and_again_before_any_other_the_move_is_finished() {
    for outside in [false, true] {
        let steps = length(outside);
        assert_eq!(steps, if outside { 8 } else { 6 });
        for first in 0..=steps {
            for second in 0..=steps {
                let w = World::new(outside);
                w.look("before");
                let at = format!("after {first} and then {second} steps (outside: {outside})");
                let _ = w.command(first);
                w.look(&at);
                let _ = w.command(second);
                w.look(&at);
                w.command(usize::MAX).unwrap_or_else(|e| panic!("{at}: {e}"));
                w.look(&at);
                assert!(w.is_at("b") && !w.is_at("p"), "{at}");
                assert_eq!(Moved::given_to(&w.data("p"), ID), Some(node("b")), "{at}");
                assert_eq!(Moved::given_to(&w.data("b"), ID), None, "{at}");
                Arriving::load(&w.data("b"), ID).expect_err("it is here");
                w.command(usize::MAX).expect("said again");
            }
        }
    }
}

/// A file like the one that was shown, which is another one.
#[test]
fn content_that_is_not_the_very_file_is_not_expected() {
    let w = World::new(true);
    let shown = show(&w.data("p"), ID, (&node("p"), &node("p")), true).expect("shown");
    let r = Reach { shown, same_device: true };
    let ask = |r: &Reach, base: Option<PathBuf>| {
        expect(&w.data("b"), r, &node("b"), base, &mut |_| Ok(())).map(drop)
    };
    std::fs::create_dir(w.path("other")).expect("a folder");
    std::fs::write(w.path("other/vol.img"), "content").expect("as long");
    let why = ask(&r, Some(w.path("other/vol.img"))).expect_err("another file");
    assert!(why.contains("another number"), "{why}");
    // The very number of another file system: nothing but the mark tells them apart.
    let mut same = r.clone();
    use std::os::unix::fs::MetadataExt;
    let number = std::fs::metadata(w.path("other/vol.img")).expect("there").ino();
    same.shown.base.as_mut().expect("outside").file = number;
    let why = ask(&same, Some(w.path("other/vol.img"))).expect_err("another file");
    assert!(why.contains("vol.img.rcp-moving"), "{why}");
    std::fs::write(w.path("other/vol.img.rcp-moving"), "of an earlier time").expect("a mark");
    let why = ask(&same, Some(w.path("other/vol.img"))).expect_err("another file");
    assert!(why.contains("does not say what was written there"), "{why}");
    Arriving::load(&w.data("b"), ID).expect_err("nothing was stored");
    ask(&r, w.base("b")).expect("the very file");
}

#[test]
fn a_plan_leaves_no_mark() {
    let w = World::new(true);
    show(&w.data("p"), ID, (&node("p"), &node("p")), false).expect("shown");
    let all = |path: &Path| std::fs::read_dir(path).expect("a folder").count();
    assert_eq!((all(&folder_of(&w.data("p"), ID)), all(&w.path("san"))), (2, 2));
}

/// What lies here under that name is not what was given, and is left as it is.
#[test]
fn nothing_else_is_taken_for_what_was_given() {
    let w = World::new(true);
    assert!(w.command(3).is_err(), "it is given, and not taken");
    let (b, own) = (w.data("b"), folder_of(&w.data("b"), ID));
    let given = folder_of(&w.data("p"), ID);
    let identity = Identity::load(&given, &node("b")).expect("given");
    assert_eq!(identity.base, w.base("p"));
    let mut none = |_: &'static str| Ok(());
    // A replica of its own.
    std::fs::create_dir(&own).expect("a folder");
    let replica = Identity { role: "replica".to_owned(), base: Some("/b.img".into()), ..identity };
    replica.store(&own).expect("an identity");
    let why = take(&b, ID, &node("b"), &mut none).expect_err("a replica");
    assert!(why.contains("is a replica of vol of its own"), "{why}");
    assert_eq!(Identity::load(&own, &node("b")).expect("as it was"), replica);
    std::fs::remove_dir_all(&own).expect("removed");
    // Another volume of that label, or the old node does not say that it gave it.
    let said = Moved { volume: ID, label: label(), group: group(), to: node("b") };
    for other in [
        Moved { to: node("c"), ..said.clone() },
        Moved { group: GroupName::new("g2").expect("valid"), ..said.clone() },
    ] {
        other.store(&w.data("p")).expect("stored");
        let why = take(&b, ID, &node("b"), &mut none).expect_err("not given");
        assert!(why.contains("does not say that p gave volume vol to b"), "{why}");
    }
    said.store(&w.data("p")).expect("stored");
    let kept = Identity { label: Label::new("v2").expect("valid"), ..replica };
    let was = std::fs::read(given.join("identity")).expect("there");
    kept.store(&given).expect("an identity");
    let why = take(&b, ID, &node("b"), &mut none).expect_err("another label");
    assert!(why.contains("holds volume v2 of group g1"), "{why}");
    std::fs::write(given.join("identity"), was).expect("as it was");
    // The content was given to somebody else meanwhile.
    let base = w.base("b").expect("outside");
    let record = w.path("san/vol.img.rcp-owner");
    let text = std::fs::read_to_string(&record).expect("a record");
    std::fs::write(&record, text.replace("node p", "node c")).expect("written");
    let why = take(&b, ID, &node("b"), &mut none).expect_err("c's");
    assert!(why.contains("is in use by node c"), "{why}");
    std::fs::write(&record, text).expect("as it was");
    // Or somebody has it open.
    let open = std::fs::File::open(&base).expect("open");
    rustix::fs::flock(&open, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    let why = take(&b, ID, &node("b"), &mut none).expect_err("in use");
    assert!(why.contains("is in use by another process"), "{why}");
    drop(open);
    assert!(!own.exists());
    take(&b, ID, &node("b"), &mut none).expect("taken");
    assert_eq!(Identity::load(&own, &node("b")).expect("its own").base, Some(base));
}
