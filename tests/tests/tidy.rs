//! The house rules, run over the tree: what each room may touch, how long its files and functions
//! are, what must not be left lying about. A rule's exceptions are in this file, each with its
//! reason; an exception that is no longer needed is an error as well.

mod tree;

use tree::{Source, sources, text_files};

/// Crates that neither read clocks nor touch files, sockets, threads or chance.
const PURE: [&str; 4] = ["rcp/src/proto/", "volmcast/src/", "forwarder/src/", "config/src/"];

/// Crates in which nothing that came from network or disk may panic.
const STEADY: [&str; 4] = ["rcp/src/", "volmcast/src/", "forwarder/src/", "config/src/"];

/// Most lines of code of a file, without tests, comments and empty lines.
const FILE_LINES: usize = 600;

/// Most lines of a function.
const FUNCTION_LINES: usize = 80;

/// A rule's exceptions: file, what in it, why.
type Allowed = &'static [(&'static str, &'static str, &'static str)];

/// What was found against a rule, and which exceptions were of use.
struct Verdict {
    allowed: Allowed,
    used: Vec<bool>,
    found: Vec<String>,
}

impl Verdict {
    fn new(allowed: Allowed) -> Self {
        Self { allowed, used: vec![false; allowed.len()], found: Vec::new() }
    }

    /// `what` in `file` breaks the rule, unless it is excepted.
    fn breach(&mut self, file: &str, line: usize, what: &str) {
        let excepted = self.allowed.iter().position(|(f, w, _)| *f == file && what.contains(w));
        match excepted {
            Some(i) => self.used[i] = true,
            None => self.found.push(format!("  {file}:{line}: {}", what.trim())),
        }
    }

    fn end(mut self, rule: &str) {
        for ((file, what, why), used) in self.allowed.iter().zip(&self.used) {
            if !used {
                let text = format!("  {file}: the exception for `{what}` ({why}) is not needed");
                self.found.push(text);
            }
        }
        assert!(self.found.is_empty(), "{rule}:\n{}", self.found.join("\n"));
    }
}

/// Lines of code that contain one of `words` break the rule in every file that `which` names.
fn forbid(rule: &str, words: &[&str], allowed: Allowed, which: impl Fn(&Source) -> bool) {
    let mut v = Verdict::new(allowed);
    for s in sources().iter().filter(|s| which(s)) {
        for (n, line) in s.code() {
            if words.iter().any(|w| contains_word(line, w)) {
                v.breach(&s.path, n, line);
            }
        }
    }
    v.end(rule);
}

/// `word` stands in `line`, and no letter, digit or underscore touches its ends if they are such.
fn contains_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().filter(|c| part(*c));
        let after = line[at + word.len()..].chars().next().filter(|c| part(*c));
        let starts = word.starts_with(part) && before.is_some();
        let ends = word.ends_with(part) && after.is_some();
        !starts && !ends
    })
}

#[test]
fn every_module_says_what_it_is_for() {
    let mut v = Verdict::new(&[]);
    for s in &sources() {
        if !s.text.starts_with("//! ") {
            v.breach(&s.path, 1, "the file does not begin with `//! …`");
        }
    }
    v.end("module documentation");
}

#[test]
fn pure_rooms_do_no_input_and_output() {
    let words = [
        "tokio",
        "std::net",
        "std::fs",
        "std::time::Instant",
        "Instant",
        "SystemTime",
        "std::thread",
        "thread::spawn",
        "rand",
        "std::env",
        "std::process",
        "rustix",
    ];
    let allowed: Allowed = &[
        ("config/src/address.rs", "std::net::{IpAddr", "types of addresses; no socket"),
        ("config/src/allow.rs", "std::net::", "types of addresses; no socket"),
    ];
    forbid("pure rooms", &words, allowed, |s| {
        s.is_in(&PURE) && !s.path.starts_with("volmcast/src/storage/")
    });
}

#[test]
fn the_layers_do_not_know_what_is_above_them() {
    let mut v = Verdict::new(&[]);
    for (room, above) in [
        ("rcp/src/", &["volmcast", "forwarder", "config", "node"][..]),
        ("volmcast/src/", &["forwarder", "node", "rcp::net"]),
        ("forwarder/src/", &["volmcast", "node", "rcp::net"]),
        ("config/src/", &["volmcast", "forwarder", "node", "rcp::net"]),
        ("node/src/mover/", &["tokio", "crate::runtime", "crate::clock", "rcp::net", "std::fs"]),
    ] {
        for s in sources().iter().filter(|s| s.path.starts_with(room)) {
            for (n, line) in s.code().filter(|(_, l)| l.trim_start().starts_with("use ")) {
                let names = |w: &&str| line.trim_start().starts_with(&format!("use {w}"));
                if above.iter().any(|w| names(w) && contains_word(line, w)) {
                    v.breach(&s.path, n, line);
                }
            }
        }
    }
    v.end("dependencies point one way");
}

#[test]
fn tasks_and_threads_are_started_in_few_places() {
    let words = ["tokio::spawn", "spawn_blocking", "thread::spawn", "thread::Builder", "JoinSet"];
    let allowed: Allowed = &[
        ("node/src/runtime/start.rs", "tokio::spawn(f)", "the place"),
        ("node/src/runtime/start.rs", "core.run()", "the core, whose end is waited for"),
        ("node/src/runtime/start.rs", "server.shutdown", "joining threads blocks"),
        ("node/src/runtime/disk.rs", "spawn_blocking", "requests on files block"),
        ("node/src/runtime/core.rs", "spawn_blocking", "making and removing files blocks"),
        ("node/src/runtime/writer.rs", "spawn_blocking", "waiting for writers, and files, blocks"),
        ("node/src/runtime/leaving.rs", "spawn_blocking", "moving and locking files blocks"),
        ("node/src/runtime/arriving.rs", "spawn_blocking", "moving and locking files blocks"),
        ("rcp/src/group/tasks.rs", "tokio::spawn", "the place of the library"),
        ("rcp/src/group/record.rs", "thread::Builder", "writes entries in their order"),
        ("node/src/runtime/certificates.rs", "spawn_blocking", "reading files blocks"),
        ("node/src/http/router.rs", "spawn_blocking", "rendering waits for locks"),
        ("node/src/http/body.rs", "spawn_blocking", "reading a volume blocks"),
        ("node/src/http/control.rs", "tokio::spawn(change)", "a change outlives who asked for it"),
        ("node/src/cli/status/mod.rs", "tokio::spawn", "a command asks all nodes at once"),
        ("node/src/cli/filetest.rs", "spawn_blocking", "a command: reading a file blocks"),
        ("node/src/demo/mod.rs", "spawn", "a command of its own: it plays, it serves nobody"),
        ("node/src/demo/show.rs", "thread::spawn", "draws beside the work"),
        ("node/src/nbd/pool.rs", "thread::Builder", "the NBD server's workers"),
        ("node/src/nbd/server.rs", "thread::Builder", "the NBD server's acceptors and connections"),
        ("node/src/nbd/outbox.rs", "thread::Builder", "sends beside reading, once per connection"),
    ];
    forbid("who starts tasks", &words, allowed, |s| s.is_product());
}

#[test]
fn one_file_reads_clocks() {
    let allowed: Allowed = &[
        ("node/src/clock.rs", "Instant::now", "the place"),
        ("node/src/clock.rs", "SystemTime::now", "the place"),
        ("rcp/src/group/clock.rs", "Instant::now", "the place of the library"),
        ("rcp/src/group/clock.rs", "SystemTime::now", "the place of the library"),
        ("node/src/nbd/deadline.rs", "Instant::now", "socket deadlines of the NBD threads"),
    ];
    forbid("clocks", &["Instant::now", "SystemTime::now"], allowed, |s| s.is_product());
}

#[test]
fn every_queue_has_a_bound() {
    let words = ["unbounded_channel", "unbounded", "mpsc::channel()", "UnboundedSender"];
    forbid("bounds", &words, &[], |s| s.is_product());
}

#[test]
fn nothing_is_left_over() {
    // put together, so that this file does not find itself
    let words: Vec<String> = [("to", "do!"), ("unimple", "mented!"), ("db", "g!"), ("FIX", "ME")]
        .iter()
        .chain(&[("X", "XX"), ("TO", "DO"), ("HA", "CK")])
        .map(|(a, b)| format!("{a}{b}"))
        .collect();
    let mut v = Verdict::new(&[]);
    for s in &sources() {
        for (n, line) in s.text.lines().enumerate() {
            if words.iter().any(|w| contains_word(line, w)) {
                v.breach(&s.path, n + 1, line);
            }
        }
    }
    v.end("left over");
}

#[test]
fn what_comes_from_outside_cannot_panic() {
    let words = [".unwrap()", ".expect(", "panic!", "unreachable!", ".unwrap_err()", "assert!"];
    forbid("no panics", &words, &[], |s| s.is_in(&STEADY));
}

#[test]
fn files_are_rooms_of_one_family() {
    let mut v = Verdict::new(&[]);
    for s in sources().iter().filter(|s| s.is_product()) {
        let lines = s.code().filter(|(_, l)| !l.trim().is_empty()).count();
        if lines > FILE_LINES {
            v.breach(&s.path, 1, &format!("{lines} lines of code, at most {FILE_LINES}"));
        }
    }
    v.end("file length");
}

#[test]
fn functions_can_be_seen_at_once() {
    let allowed: Allowed = &[];
    let mut v = Verdict::new(allowed);
    let mut seen = 0;
    for s in sources().iter().filter(|s| s.is_product()) {
        for (n, name, lines) in s.functions() {
            seen += 1;
            if lines > FUNCTION_LINES {
                let what = format!("{name} has {lines} lines, at most {FUNCTION_LINES}");
                v.breach(&s.path, n, &what);
            }
        }
    }
    assert!(seen > 1000, "only {seen} functions were found");
    v.end("function length");
}

#[test]
fn no_path_of_one_machine() {
    // put together, so that this file does not find itself
    let words =
        [["/ro", "ot/"], ["/ho", "me/"], ["/wo", "rk/"], ["/Use", "rs/"]].map(|w| w.concat());
    let mut v = Verdict::new(&[]);
    for (path, text) in text_files() {
        for (n, line) in text.lines().enumerate() {
            if words.iter().any(|w| line.contains(w.as_str())) {
                v.breach(&path, n + 1, line);
            }
        }
    }
    v.end("paths of one machine");
}

#[test]
fn no_merge_was_left_half_done() {
    let marks = ["<", ">", "|"].map(|m| m.repeat(7) + " ");
    let mut v = Verdict::new(&[]);
    for (path, text) in text_files() {
        for (n, line) in text.lines().enumerate() {
            if marks.iter().any(|m| line.starts_with(m.as_str())) {
                v.breach(&path, n + 1, line);
            }
        }
    }
    v.end("merges");
}

#[test]
fn the_tree_speaks_of_itself_only() {
    // who made it, with what, and where, belongs elsewhere; put together as above
    let words = [["clau", "de"], ["anthro", "pic"], ["co", "pilot"], ["chat", "gpt"], ["llm", "s"]];
    let words = words.map(|w| w.concat());
    let mut v = Verdict::new(&[]);
    for (path, text) in text_files() {
        for (n, line) in text.lines().enumerate() {
            let lower = line.to_lowercase();
            if words.iter().any(|w| contains_word(&lower, w)) {
                v.breach(&path, n + 1, line);
            }
        }
    }
    v.end("how it was made");
}

#[test]
fn pages_name_files_that_exist() {
    let mut v = Verdict::new(&[]);
    let root = tree::root();
    for (path, text) in text_files().into_iter().filter(|(p, _)| p.ends_with(".md")) {
        let home = root.join(&path);
        let home = home.parent().unwrap_or(&root);
        let crate_root = root.join(path.split('/').next().unwrap_or_default());
        for (n, line) in text.lines().enumerate() {
            for word in line.split('`').skip(1).step_by(2) {
                let file = word.ends_with(".rs") || word.ends_with(".md");
                if !file || word.contains([' ', '*', '<', '{']) || !word.contains('/') {
                    continue;
                }
                let bases = [home, &root, &crate_root, &crate_root.join("src")];
                if !bases.iter().any(|b| b.join(word).exists()) {
                    v.breach(&path, n + 1, &format!("`{word}` does not exist"));
                }
            }
        }
    }
    v.end("dangling names of files");
}
