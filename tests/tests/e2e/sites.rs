//! Two sites and a link between them that is cut: both go on with a writer of their own, and nothing
//! of either is lost.

use std::path::PathBuf;
use std::time::Duration;

use node::access::{Scope, Tokens};
use node::clock;
use tests::rig::{Clock, Plan, Sites, Tree, program, run, said, tool, wait_for};

use crate::rewind::{equal, image};

const LONG: Duration = Duration::from_secs(60);
const WEST: [&str; 2] = ["p", "w"];
const EAST: [&str; 2] = ["e1", "e2"];

/// What an operator has at a site: the folders of its nodes, and a token for the others.
struct Desk<'a> {
    tree: &'a Tree,
    sites: &'a Sites,
    site: usize,
    topology: PathBuf,
    token: PathBuf,
}

impl<'a> Desk<'a> {
    fn at(tree: &'a Tree, sites: &'a Sites, site: usize) -> Self {
        let topology = tree.dir().join(format!("topology{site}.yaml"));
        tree.copy_topology(&topology, if site == 0 { &WEST } else { &EAST });
        let token = tree.dir().join(format!("token{site}"));
        let tokens = Tokens::of(&tree.pki());
        let name = format!("operator{site}");
        let secret = tokens.create(&name, Scope::Admin, clock::unix_seconds(), None).unwrap();
        std::fs::write(&token, secret).unwrap();
        Self { tree, sites, site, topology, token }
    }

    fn try_say(&self, words: &str) -> Result<String, String> {
        let mut c = Sites::command(self.sites.name(self.site), &program("rcpctl"));
        c.env_remove("RCP_TOKEN").env_remove("RCP_DIR").args(words.split(' '));
        c.arg("--topology").arg(&self.topology).arg("--token-file").arg(&self.token);
        let told = said(&mut c);
        eprintln!(
            "{} $ rcpctl {words}\n{}",
            self.sites.name(self.site),
            match &told {
                Ok(t) | Err(t) => t,
            }
        );
        told
    }

    #[track_caller]
    fn say(&self, words: &str) -> String {
        self.try_say(words).unwrap_or_else(|e| panic!("{e}"))
    }

    /// As a program reads it.
    #[track_caller]
    fn json(&self, words: &str) -> serde_json::Value {
        serde_json::from_str(&self.say(words)).unwrap()
    }

    fn metrics(&self, node: &str) -> Option<String> {
        let socket = self.tree.folder(node).join("rcpd.sock");
        let mut curl = tool("curl", "curl")?;
        Some(run(curl.arg("-sS").arg("--unix-socket").arg(socket).arg("http://node/metrics")))
    }
}

/// Writes with somebody else's client.
fn write(tree: &Tree, node: &str, lines: &[(u64, u64, u8)]) -> Option<()> {
    let mut qemu = tool("qemu-io", "qemu-utils")?;
    qemu.args(["-f", "raw"]);
    for (kib, len, byte) in lines {
        qemu.args(["-c", &format!("write -P {byte} {kib}k {len}k")]);
    }
    run(qemu.args(["-c", "flush"]).arg(tree.unix_uri(node, "vol")));
    Some(())
}

fn named_split(tree: &Tree, node: &str, since: &Clock) -> String {
    let text = wait_for(&format!("{node} to name the split"), LONG, || {
        let v = tree.volume(node, "vol")?;
        v.split.ok_or_else(|| format!("{:?}, {:?}", v.fenced, v.reason))
    });
    eprintln!("{node}, {:?} after the link was there again: {text}", since.passed());
    text
}

/// The command that a text names between back-ticks.
fn named(text: &str, node: &str) -> String {
    let command = text.split('`').nth(1).unwrap_or_else(|| panic!("no command: {text}"));
    command.strip_prefix("rcpctl ").expect("a command of rcpctl").replace("NODE", node)
}

#[test]
fn both_sides_of_a_partition_take_writes_and_one_command_ends_the_split() {
    let Some(sites) = Sites::make() else { return };
    let plan = Plan::new(&[("p", &["w", "e1"]), ("e1", &["e2"])]).volume("vol", 64).by("tls");
    let tree = Tree::start(plan.at(&sites, 0, &WEST).at(&sites, 1, &EAST));
    tree.expect(" WARN ");
    tree.expect(" ERROR ");
    let (west, east) = (Desk::at(&tree, &sites, 0), Desk::at(&tree, &sites, 1));
    if write(&tree, "p", &[(0, 4096, 1), (20_000, 64, 1)]).is_none() {
        return;
    }
    let set = tree.cut_at("p");
    for n in ["w", "e1", "e2"] {
        tree.reaches(n, "vol", set, LONG);
    }

    // The writer's side goes on, the other one takes over: it cannot ask.
    sites.cut();
    write(&tree, "p", &[(1000, 256, 2), (30_000, 64, 2)]);
    tree.cut_at("p");
    write(&tree, "p", &[(31_000, 64, 3)]);
    let shown = east.say("failover vol --plan");
    assert!(shown.contains("p, did not answer"), "{shown}");
    let told = east.say("failover vol --to e1 --adopt");
    assert!(told.contains("e1 is the writer since set"), "{told}");
    assert!(told.contains("e1 goes on dialling it until it is there"), "{told}");
    write(&tree, "e1", &[(1000, 64, 11), (40_000, 128, 11)]);
    let set = tree.cut_at("e1");
    tree.reaches("e2", "vol", set, LONG);
    // And the writer's side moves its writer: two lines with one number.
    let told = west.say("failover vol --to w --adopt");
    assert!(told.contains("p was made read-only first"), "{told}");
    write(&tree, "w", &[(1200, 64, 4), (50_000, 64, 4)]);
    tree.cut_at("w");
    for n in ["w", "e1"] {
        let v = tree.volume(n, "vol").unwrap();
        assert_eq!((v.role.as_str(), v.split, v.history.len()), ("primary", None, 2), "{n}");
    }

    // Everybody who hears of both says so, and both go on.
    sites.heal();
    let since = Clock::default();
    let text = named_split(&tree, "w", &since);
    named_split(&tree, "e1", &since);
    assert!(since.passed() < LONG, "within seconds: {:?}", since.passed());
    for desk in [&west, &east] {
        let status = desk.say("status vol");
        assert!(status.contains("split-brain: ") && status.contains("--adopt"), "{status}");
    }
    for n in ["w", "e1"] {
        if let Some(metrics) = west.metrics(n) {
            let line = metrics.lines().find(|l| l.starts_with("rcp_writer_split{"));
            assert!(line.is_some_and(|l| l.ends_with(" 1")), "{n}: {line:?}");
        }
    }
    write(&tree, "w", &[(51_000, 64, 5)]);
    write(&tree, "e1", &[(41_000, 64, 12)]);
    let shown = west.say("failover vol --plan");
    assert!(shown.contains("! split-brain"), "{shown}");
    let drawn = east.say("history vol");
    assert!(drawn.contains("another line begins here as well"), "{drawn}");
    let (Some(of_w), Some(of_e)) =
        (image(&tree, "w", "vol", "of_w"), image(&tree, "e1", "vol", "of_e"))
    else {
        return;
    };

    // One command, which status names; the answer for programs.
    let command = named(&text, "e1");
    let told = west.json(&format!("{command} --json"));
    assert_eq!(told["split"], true, "{told}");
    let gave_way = told["gave_way"].as_array().unwrap();
    assert!(!gave_way.is_empty() && gave_way.iter().all(|g| g["done"] == true), "{told}");
    assert_eq!(told["loss"]["sets"], 0, "{told}");
    let set = tree.cut_at("e1");
    let kept = format!("vol@{set}");
    for n in ["p", "w", "e2"] {
        tree.reaches(n, "vol", set, LONG);
        assert_eq!(tree.volume(n, "vol").unwrap().role, "replica", "{n}");
        equal(&of_e, &image(&tree, n, &kept, &format!("{n}.now")).unwrap());
        assert!(!tree.log(n).contains("a seed begins"), "{n} was seeded");
    }
    equal(&of_e, &image(&tree, "e1", "vol", "e1.now").unwrap());
    // What the other one wrote, also after the link was there again.
    let branch = tree.volume("w", "vol").unwrap().branches.pop().expect("a branch");
    equal(&of_w, &image(&tree, "w", &format!("vol@branch:{}", branch.name), "w.branch").unwrap());
    for n in ["w", "e1"] {
        assert_eq!(tree.volume(n, "vol").unwrap().split, None, "{n}");
    }
    let again = east.say(&command);
    assert!(again.contains("was the writer already"), "{again}");
    // The writer goes on, at both sites.
    write(&tree, "e1", &[(60_000, 64, 13)]);
    let set = tree.cut_at("e1");
    for n in ["p", "w", "e2"] {
        tree.reaches(n, "vol", set, LONG);
    }
}
