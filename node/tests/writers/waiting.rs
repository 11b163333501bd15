//! Nobody waits for what does not come (promise 6).

use super::*;

impl Rig {
    /// The node ends, and what it stored since `was` was copied is gone.
    fn restart_as(&mut self, n: &'static str, hops: &[&str], was: &Path) {
        let folder = self.folder(n);
        let names = self.wires.keys().filter(|(a, _)| *a == n).count();
        assert!(names > 0, "it was connected");
        std::fs::remove_dir_all(&folder).expect("removed");
        copy(was, &folder);
        self.restart(n, "g1", hops);
    }

    fn state(&self, n: &str) -> String {
        let v = self.nodes[n].mover.status().volumes.into_iter().next().expect("a volume");
        format!("{} {} {:?}", v.state, v.current_set, v.reason)
    }
}

/// `p` feeds `l1`, and that one `l2`: all at set 2.
fn three() -> Rig {
    let mut r = Rig::new();
    r.add("p", "g1", &["l1"]);
    r.create("p", &identity("p", "g1", "primary"));
    r.add("l1", "g1", &["l2"]);
    r.add("l2", "g1", &[]);
    r.pass(2_000);
    r.write("p", 1, 1);
    r.write("p", 2, 2);
    r.pass(500);
    assert_eq!([r.visible("p"), r.visible("l1"), r.visible("l2")], [2; 3]);
    r
}

#[test]
fn a_seed_goes_on_at_a_parent_that_has_less_than_its_child() {
    let mut r = three();
    let dir = tempfile::tempdir().expect("temp");
    let before = dir.path().join("l1");
    copy(&r.folder("l1"), &before);
    r.write("p", 3, 3);
    r.pass(500);
    r.unheard = Some(|f| matches!(f, Frame::SeedEnd { .. }));
    r.ask("l1", Ask::Seed { volume: "vol".to_owned(), child: "l2".to_owned() });
    r.pass(2_000);
    assert!(r.state("l2").starts_with("seeding"), "{}", r.state("l2"));
    // Set 3 is lost at the parent, and does not come back at first.
    r.unheard = None;
    r.down.push("p");
    r.restart_as("l1", &["l2"], &before);
    r.pass(5_000);
    assert_eq!(r.visible("l1"), 2);
    assert!(!r.state("l2").starts_with("readable"), "{}", r.state("l2"));
    r.down.clear();
    r.pass(30_000);
    assert_eq!((r.visible("l1"), r.visible("l2")), (3, 3), "{}", r.state("l2"));
    assert!(r.state("l2").starts_with("readable"), "{}", r.state("l2"));
}

#[test]
fn a_writer_does_not_wait_for_one_whose_route_was_removed_in_a_crash() {
    let mut r = two();
    // The route is gone; what is kept for the child is not.
    r.restart("p", "g1", &[]);
    r.pass(2_000);
    r.is_open("p");
    let v = r.nodes["p"].mover.volume(VOLUME).expect("the volume");
    assert!(v.durable().consumers.is_empty(), "{:?}", v.durable().consumers);
}
