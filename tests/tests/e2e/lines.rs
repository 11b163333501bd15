//! The library without volumes: the example `lines`, as processes on loopback (FIG. 14, 15).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tests::rig::{example, free_port, program, said, wait_for};

const LONG: Duration = Duration::from_secs(60);

/// A running `lines`; dropping it kills it.
struct Member {
    child: Child,
    out: PathBuf,
}

impl Member {
    fn start(dir: &Path, name: &str, args: &[String]) -> Self {
        let out = dir.join(format!("{name}.out"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&out).unwrap();
        let child = Command::new(example("lines"))
            .args(["--name", name, "--wait", "5"])
            .arg("--record")
            .arg(dir.join(format!("{name}.blocks")))
            .args(args)
            .stdin(Stdio::piped())
            .stderr(file.try_clone().unwrap())
            .stdout(file)
            .spawn()
            .unwrap();
        Self { child, out }
    }

    fn out(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap_or_default()
    }

    fn type_line(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn wait_for(&self, what: &str) {
        wait_for(what, LONG, || {
            let out = self.out();
            if out.contains(what) { Ok(()) } else { Err(out) }
        });
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How often it has printed exactly this line.
    fn printed(&self, line: &str) -> usize {
        self.out().lines().filter(|l| *l == line).count()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An address that nobody listens on.
fn free() -> String {
    format!("127.0.0.1:{}", free_port())
}

fn words(w: &[&str]) -> Vec<String> {
    w.iter().map(|w| (*w).to_owned()).collect()
}

/// `root` → `mid` → `leaf1`, `leaf2`, with further arguments for all; the arguments of `mid` too.
fn tree(dir: &Path, more: &[String]) -> (Vec<Member>, Vec<String>) {
    let (a, b, m) = (free(), free(), free());
    let start = |name: &str, mut args: Vec<String>| {
        args.extend_from_slice(more);
        Member::start(dir, name, &args)
    };
    let below = format!("leaf1={a} leaf2={b}");
    let mut mid = words(&["--listen", &m]);
    for child in below.split(' ') {
        mid.extend(words(&["--parent-of", child]));
    }
    let members = vec![
        start("leaf1", words(&["--listen", &a])),
        start("leaf2", words(&["--listen", &b])),
        start("mid", mid.clone()),
        start("root", words(&["--parent-of", &format!("mid={m}")])),
    ];
    mid.extend_from_slice(more);
    (members, mid)
}

/// Types until every member has answered: those that still dial are missing at first.
fn until_all_print(members: &mut [Member], line: &str) {
    let mut n = 0;
    wait_for("all members to print", LONG, || {
        n += 1;
        let line = format!("{line} {n}");
        let before = members[3].out().len();
        members[3].type_line(&line);
        wait_for("an answer about mid", LONG, || {
            let out = members[3].out();
            if out[before..].contains("mid: ") { Ok(()) } else { Err(out) }
        });
        let out = members[3].out();
        let all = ["leaf1", "leaf2", "mid"]
            .iter()
            .all(|m| out[before..].contains(&format!("{m}: done: printed")));
        if all { Ok(()) } else { Err(out) }
    });
}

#[test]
fn lines_reach_every_member_once_though_a_forwarder_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut members, mid) = tree(dir.path(), &[]);
    until_all_print(&mut members, "hello");

    // Nobody can be reached below a forwarder that is gone; it is named.
    members[2].kill();
    members[3].type_line("while it is away");
    members[3].wait_for("mid: missing: not connected, nor are those below it");
    members[3].type_line("and another");
    // It is back: what was missed comes by itself, in order, once.
    members[2] = Member::start(dir.path(), "mid", &mid);
    for m in &members[..3] {
        m.wait_for("and another");
    }
    until_all_print(&mut members, "again");
    for m in &members[..3] {
        let out = m.out();
        assert_eq!((m.printed("while it is away"), m.printed("and another")), (1, 1), "{out}");
        assert!(out.find("while it is away") < out.find("and another"), "{out}");
    }

    // A leaf that is killed has printed everything once, and prints what it missed.
    let one = members[0].printed("and another");
    members[0].kill();
    members[3].type_line("without leaf1");
    members[3].wait_for("leaf1: missing: not connected");
    assert_eq!((one, members[0].printed("without leaf1")), (1, 0));
    assert_eq!(members[1].printed("without leaf1"), 1);
    members[3].type_line("/send nowhere");
    members[3].wait_for("not sent: nowhere: No such file");
}

/// With certificates from `rcpctl pki`, over TLS; a file goes to every member.
#[test]
fn a_file_reaches_every_member_with_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().join("pki");
    let rcpctl = |words: &[&str]| {
        let mut c = Command::new(program("rcpctl"));
        c.arg("pki").args(words).arg("--dir").arg(&pki);
        said(&mut c).unwrap()
    };
    rcpctl(&["init"]);
    rcpctl(&["issue", "root", "mid", "leaf1", "leaf2"]);
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let file = dir.path().join("data");
    std::fs::write(&file, &data).unwrap();
    let save = dir.path().join("save");
    let more = words(&["--pki", &pki.display().to_string()]);
    let (mut members, _) = tree(dir.path(), &more);
    until_all_print(&mut members, "hello");
    // Nobody takes files.
    members[3].type_line(&format!("/send {}", file.display()));
    members[3].wait_for("leaf1: refused: no callback for pipes `file` at leaf1");
    drop(members);

    let mut more = more;
    more.extend(words(&["--save", &save.display().to_string()]));
    std::fs::create_dir(&save).unwrap();
    let (mut members, _) = tree(dir.path(), &more);
    until_all_print(&mut members, "hello");
    members[3].type_line(&format!("/send {}", file.display()));
    // All of them have one folder in common.
    for m in ["leaf1", "leaf2", "mid"] {
        members[3].wait_for(&format!("{m}: done: {} bytes in ", data.len()));
        assert_eq!(std::fs::read(save.join(format!("{m}.received"))).unwrap(), data, "{m}");
    }
    // Somebody without a certificate is not let in.
    let mut stranger = Member::start(
        dir.path(),
        "stranger",
        &words(&["--parent-of", &format!("leaf1={}", listening(&members[0]))]),
    );
    stranger.type_line("let me in");
    stranger.wait_for("takes no session without a certificate");
}

/// Where a member says that it listens.
fn listening(m: &Member) -> String {
    let out = m.out();
    let (_, after) = out.rsplit_once("listening on ").unwrap();
    after.lines().next().unwrap().to_owned()
}
