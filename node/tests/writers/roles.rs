//! Handlers that decide about changes of the writer, and hear of them.

use node::mover::Order;

use super::*;

impl Rig {
    /// The handlers that run at a node end.
    fn handlers_end(&mut self, n: &str, ok: bool, said: &'static str) -> Vec<String> {
        let (now, _) = (self.mono(), self.wall());
        let run = std::mem::take(&mut self.node(n).handled);
        for (id, ..) in &run {
            self.node(n).mover.control_done(now, *id, ok, said.as_bytes().into());
        }
        self.run();
        run.into_iter().map(|(_, kind, body)| format!("{kind}: {}", body.trim_end())).collect()
    }

    /// What the handlers of a node were told and asked meanwhile, all of which they agree to.
    fn heard(&mut self, n: &str) -> Vec<String> {
        self.handlers_end(n, true, "")
    }
}

/// As [`two`], with handlers; they have been told what is.
fn two_with(kinds: &[&str]) -> Rig {
    let mut r = Rig::new();
    r.handlers = kinds.iter().map(|k| (*k).to_owned()).collect();
    r.add("p", "g1", &["l1"]);
    r.create("p", &identity("p", "g1", "primary"));
    r.add("l1", "g1", &[]);
    r.pass(2_000);
    r.write("p", 1, 1);
    r.write("p", 2, 2);
    r.pass(200);
    assert_eq!((r.visible("p"), r.visible("l1")), (2, 2), "{:?}", r.nodes["l1"].notes);
    r
}

fn hold(limit_ms: u64) -> WriterChange {
    WriterChange::Hold { volume: "vol".to_owned(), limit_ms }
}

#[test]
fn each_change_of_role_is_told_once_and_after_a_restart_what_is() {
    let mut r = two_with(&["role"]);
    assert_eq!(
        (r.heard("p"), r.heard("l1")),
        (vec!["role: vol writer".to_owned()], vec!["role: vol replica".to_owned()])
    );
    let promoted = r.promote("l1");
    assert!(r.told("l1", promoted).contains("fresh: true"));
    r.pass(1_000);
    assert_eq!(r.heard("p"), ["role: vol fenced"]);
    assert_eq!(r.heard("l1"), ["role: vol writer"]);
    r.change("p", WriterChange::Resync { volume: "vol".to_owned(), discard: false });
    r.pass(2_000);
    assert_eq!(r.heard("p"), ["role: vol replica"]);
    r.pass(5_000);
    assert!(r.heard("p").is_empty() && r.heard("l1").is_empty(), "nothing is new");
    r.restart("p", "g1", &[]);
    r.pass(1_000);
    assert_eq!(r.heard("p"), ["role: vol replica"], "it may have died before it was told");
    // One that fails is not run again, and somebody hears of it.
    r.promote("p");
    r.pass(1_000);
    assert_eq!(r.handlers_end("p", false, "no such address"), ["role: vol writer"]);
    let said = r.nodes["p"]
        .notes
        .iter()
        .any(|t| t.contains("told that it is writer here, and failed: no such address"));
    assert!(said, "{:?}", r.nodes["p"].notes);
    r.pass(5_000);
    assert!(r.heard("p").is_empty());
}

#[test]
fn nobody_becomes_the_writer_against_its_handler() {
    let mut r = two_with(&["role-before"]);
    assert!(r.heard("p").is_empty() && r.heard("l1").is_empty(), "nobody is told");
    let refused = r.promote("l1");
    assert_eq!(r.told("l1", refused), "None", "the handler has not decided");
    // Nobody may take it for a replica that stays one.
    let info = r.info("l1");
    assert!(info.promoting && info.reason.is_some_and(|t| t.contains("may become writer here")));
    assert_eq!(r.handlers_end("l1", false, "p has the lock"), ["role-before: vol writer"]);
    r.pass(1_000);
    let told = r.told("l1", refused);
    assert!(told.contains("is against it (p has the lock); nothing was changed"), "{told}");
    r.is_open("p");
    r.write("p", 3, 3);
    r.pass(200);
    assert_eq!((r.visible("p"), r.visible("l1")), (3, 3));
    // Now it has nothing against it.
    let promoted = r.promote("l1");
    assert_eq!(r.heard("l1"), ["role-before: vol writer"]);
    r.pass(200);
    assert!(r.told("l1", promoted).contains("fresh: true"), "{}", r.told("l1", promoted));
    r.is_closed("p", "l1 took over");
    // Said again, there is nothing to decide.
    let again = r.promote("l1");
    assert!(r.told("l1", again).contains("fresh: false"), "{}", r.told("l1", again));
    assert!(r.heard("l1").is_empty());
    // What cannot be anyway is not asked for.
    let none = r.change("l1", WriterChange::Alone { volume: "vol2".to_owned() });
    assert!(r.told("l1", none).contains("no volume `vol2`"), "{}", r.told("l1", none));
    assert!(r.heard("l1").is_empty());
}

#[test]
fn what_was_begun_is_told_of_also_if_it_comes_to_nothing() {
    let mut r = two_with(&["role", "role-before"]);
    let _ = (r.heard("p"), r.heard("l1"));
    // A handler may have to write before it lets go: writers are held after it.
    let held = r.change("p", hold(1_000));
    r.pass(5_000);
    r.is_open("p");
    assert_eq!(r.handlers_end("p", false, "in use"), ["role-before: vol fenced"]);
    assert!(r.told("p", held).contains("against it (in use)"), "{}", r.told("p", held));
    r.is_open("p");
    assert_eq!(r.heard("p"), ["role: vol writer"], "it may have begun to let go");
    // It is not wanted any more before it was decided.
    let held = r.change("p", hold(1_000));
    let back = r.change("p", WriterChange::TakeBack { volume: "vol".to_owned() });
    assert!(r.told("p", held).contains("that was undone"), "{}", r.told("p", held));
    assert!(r.told("p", back).contains("Done"), "{}", r.told("p", back));
    assert_eq!(r.heard("p"), ["role-before: vol fenced"]);
    r.is_open("p");
    assert_eq!(r.heard("p"), ["role: vol writer"]);
    let held = r.change("p", hold(1_000));
    assert_eq!(r.heard("p"), ["role-before: vol fenced"]);
    r.is_held("p");
    assert!(r.told("p", held).contains("Cut"), "{}", r.told("p", held));
    assert!(r.heard("p").is_empty());
    // Nobody finishes it.
    r.pass(2_000);
    r.is_open("p");
    assert_eq!(r.heard("p"), ["role: vol writer"]);
    // Somebody does.
    r.change("p", hold(1_000));
    assert_eq!(r.heard("p"), ["role-before: vol fenced"]);
    let over = WriterChange::HandOver {
        volume: "vol".to_owned(),
        to: "l1".to_owned(),
        set: 2,
        whole: true,
    };
    let over = r.change("p", over);
    assert!(r.told("p", over).contains("Done"), "{}", r.told("p", over));
    assert_eq!(r.heard("p"), ["role: vol fenced"]);
    // Whoever let go is asked before it goes on.
    let back = r.change("p", WriterChange::TakeBack { volume: "vol".to_owned() });
    assert_eq!(r.handlers_end("p", false, "given away"), ["role-before: vol writer"]);
    assert!(r.told("p", back).contains("against it (given away)"), "{}", r.told("p", back));
    r.is_closed("p", "handed over");
    assert_eq!(r.heard("p"), ["role: vol fenced"]);
    r.change("p", WriterChange::TakeBack { volume: "vol".to_owned() });
    assert_eq!(r.heard("p"), ["role-before: vol writer"]);
    r.is_open("p");
    assert_eq!(r.heard("p"), ["role: vol writer"]);
}

#[test]
fn a_yes_is_for_what_it_was_asked_about() {
    let mut r = two_with(&["role-before"]);
    let late = r.promote("l1");
    let twice = r.promote("l1");
    // Somebody else takes over while the handler of l1 thinks: p, which is told of a newer line.
    let (volume, now, at, above) = ("vol".to_owned(), false, None, 5);
    let ask = WriterChange::Promote { volume, now, at, above, lose_damaged_blocks: false };
    let other = r.change("p", ask);
    assert_eq!(r.heard("p"), ["role-before: vol writer"], "another may have taken its place");
    r.pass(2_000);
    assert!(r.told("p", other).contains("fresh: true"), "{}", r.told("p", other));
    r.write("p", 3, 3);
    r.pass(500);
    assert_eq!(r.visible("l1"), 3);
    assert_eq!(r.heard("l1"), ["role-before: vol writer"], "asked once for the same");
    r.pass(500);
    for ask in [late, twice] {
        let told = r.told("l1", ask);
        assert!(told.contains("changed while its handler was asked"), "{told}");
    }
    r.is_open("p");
}

#[test]
fn one_handler_runs_for_a_volume_and_nobody_sends_them() {
    let mut r = two_with(&["role", "role-before"]);
    // What it is told at the start goes before what it is asked.
    r.promote("l1");
    let heard = r.heard("l1");
    assert!(heard.contains(&"role: vol replica".to_owned()), "{heard:?}");
    assert!(heard.iter().all(|h| !h.starts_with("role-before")), "{heard:?}");
    assert_eq!(r.heard("l1"), ["role-before: vol writer"]);
    for kind in ["role", "role-before", "cut"] {
        let order = Order {
            group: "g1".to_owned(),
            id: [9; 16],
            kind: kind.to_owned(),
            after: None,
            body: "vol writer".into(),
            wait: Duration::ZERO,
        };
        let sent = r.ask("p", Ask::Block(order));
        assert!(r.told("p", sent).contains("by itself"), "{}", r.told("p", sent));
    }
}

/// Also if a handler is busy with the volume when it goes, and after a restart.
#[test]
fn a_volume_that_is_given_away_is_fenced_here() {
    let mut r = two_with(&["role"]);
    // The handler is still at what it was told first.
    r.change("p", hold(30_000));
    r.pass(1_000);
    let give = Ask::Give { volume: "vol".to_owned(), to: "l2".to_owned(), set: 2 };
    r.ask("p", give);
    assert!(r.nodes["p"].mover.volume(VOLUME).is_none());
    assert_eq!(r.heard("p"), ["role: vol writer"]);
    assert_eq!(r.heard("p"), ["role: vol fenced"], "it is news");
    r.pass(5_000);
    assert!(r.heard("p").is_empty(), "and told once");
    std::fs::remove_dir_all(r.folder("p")).expect("taken");
    r.restart("p", "g1", &[]);
    r.node("p").mover.gave(VOLUME, group("g1"), Label::new("vol").expect("valid"));
    r.pass(1_000);
    assert_eq!(r.heard("p"), ["role: vol fenced"], "it may have died before it was told");
}
