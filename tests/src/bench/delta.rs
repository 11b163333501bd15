//! (c) A small change of a large image, to many replicas.
//!
//! The tree is warm and idle when the cut is demanded; the clock stops when every leaf shows the
//! set, which it does only once the set is durable there.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process;
use super::report::Report;
use super::tree::{DEADLINE, Plan, Tree, VOLUME};
use super::{GIB, MIB, Options, facts, fill, peers};

const TIME: &str = "1% changed, time";
const WIRE: &str = "1% changed, bytes";
const OURS: &str = "ours";
const RSYNC: &str = "rsync";
const EDGE: &str = "per edge / changed";
const BLOCK: u64 = 4096;

fn row(n: usize) -> String {
    if n == 1 { "1 replica".to_owned() } else { format!("{n} replicas") }
}

pub(super) fn measure(root: &Path, o: &Options, report: &mut Report) -> anyhow::Result<()> {
    let size = o.delta_mib * MIB;
    let rsync = peers::find("rsync", "rsync", o, report);
    for &n in &o.children {
        let copies = n as u64 + 1;
        let mut sides = vec![true];
        sides.extend(rsync.is_some().then_some(false));
        // Both at once if there is room; else one after the other.
        let together = 2 * copies * size + copies * save(size) + 4 * GIB;
        let alone = copies * (size + save(size)) + 4 * GIB;
        let free = facts::free(root);
        if free < alone {
            report.note(format!("{TIME}: {} needs {} GiB free; left out", row(n), alone / GIB));
            continue;
        }
        if free >= together {
            let mut ours = Ours::start(root, n, size)?;
            let mut theirs = rsync.as_ref().map(|p| Theirs::start(root, p, n, size)).transpose()?;
            for run in 0..o.runs {
                ours.round(run as u64, o, report)?;
                if let Some(t) = &mut theirs {
                    t.round(run as u64, o, report)?;
                }
            }
            ours.tree.end()?;
            theirs.map(Theirs::end).transpose()?;
        } else {
            report.note(format!(
                "{TIME}: {}: {} GiB free are too few for both sides at once; they were measured \
                 one after the other",
                row(n),
                free / GIB
            ));
            let mut ours = Ours::start(root, n, size)?;
            for run in 0..o.runs {
                ours.round(run as u64, o, report)?;
            }
            ours.tree.end()?;
            if let Some(p) = &rsync {
                let mut theirs = Theirs::start(root, p, n, size)?;
                for run in 0..o.runs {
                    theirs.round(run as u64, o, report)?;
                }
                theirs.end()?;
            }
        }
        report.ratio(TIME, &row(n), (RSYNC, OURS), 10.0, true);
        report.bound(WIRE, &row(n), EDGE, 1.05);
    }
    Ok(())
}

/// Room for a few sets of one percent, and for seeding in pieces.
fn save(size: u64) -> u64 {
    (size / 4).max(64 * MIB)
}

struct Ours {
    tree: Tree,
    n: usize,
    size: u64,
}

impl Ours {
    /// A tree whose replicas hold the image.
    fn start(root: &Path, n: usize, size: u64) -> anyhow::Result<Self> {
        eprintln!("delta: {}: building the tree", row(n));
        let plan = Plan::new(size, save(size), n, false);
        let mut tree = Tree::start(root, &plan)?;
        // In pieces that fit the save volume, so that no seed is needed.
        let piece = save(size) / 4;
        for at in (0..size).step_by(usize::try_from(piece)?) {
            let len = piece.min(size - at);
            let mut c = node::nbd::Client::unix(&tree.nbd(), VOLUME, DEADLINE)?;
            let mut noise = fill::Noise::new(at);
            let mut buf = vec![0; usize::try_from(MIB)?];
            for at in (at..at + len).step_by(buf.len()) {
                noise.fill(&mut buf);
                c.write(at, &buf, false)?;
            }
            let set = tree.cut()?.set;
            tree.merged_everywhere(set)?;
        }
        process::settle();
        Ok(Self { tree, n, size })
    }

    fn round(&mut self, round: u64, o: &Options, report: &mut Report) -> anyhow::Result<()> {
        let row = row(self.n);
        eprintln!("delta: {row}: run {} of {}", round + 1, o.runs);
        let changed = fill::one_percent(self.size / BLOCK, round);
        let mut c = node::nbd::Client::unix(&self.tree.nbd(), VOLUME, DEADLINE)?;
        for b in &changed {
            c.write(b * BLOCK, &fill::block(round, *b), false)?;
        }
        drop(c);
        process::settle();
        // Heartbeats and reports of a quiet tree.
        std::thread::sleep(Duration::from_millis(600));
        let pids = self.tree.pids();
        let (edges, cpu) = (self.tree.edges()?, process::cpu_seconds(&pids));
        let read_before = process::bytes_read(self.tree.primary_pid());
        let began = process::now();
        let set = self.tree.cut()?.set;
        let ready = process::now();
        let visible = self.tree.visible_everywhere(set)?;
        let read = process::bytes_read(self.tree.primary_pid()) - read_before;
        let cpu = process::cpu_seconds(&pids) - cpu;
        let after = self.tree.edges()?;
        let merged = self.tree.merged_everywhere(set)?;
        let bytes = (changed.len() as u64 * BLOCK) as f64;
        let worst = edges.iter().zip(&after).map(|(a, b)| (b - a) / bytes).fold(0.0, f64::max);
        for (column, value) in [
            (OURS, visible - began),
            ("of it: set finished", ready - began),
            ("then, in the background: in the content", merged - visible),
            ("CPU", cpu),
        ] {
            report.add(TIME, "s", &row, column, value);
        }
        report.add(WIRE, "of the changed bytes", &row, EDGE, worst);
        report.add(WIRE, "of the changed bytes", &row, "read by the primary", read / bytes);
        Ok(())
    }
}

/// As many files, brought up to date by as many processes.
struct Theirs {
    program: PathBuf,
    dir: PathBuf,
    n: usize,
    size: u64,
}

impl Theirs {
    fn start(root: &Path, program: &Path, n: usize, size: u64) -> anyhow::Result<Self> {
        let dir = root.join("rsync");
        std::fs::create_dir_all(&dir)?;
        fill::file(&dir.join("image"), size, 7)?;
        for i in 0..n {
            std::fs::copy(dir.join("image"), dir.join(format!("copy{i}")))?;
        }
        process::settle();
        Ok(Self { program: program.to_owned(), dir, n, size })
    }

    fn round(&mut self, round: u64, o: &Options, report: &mut Report) -> anyhow::Result<()> {
        let row = row(self.n);
        eprintln!("delta: {row}: rsync: run {} of {}", round + 1, o.runs);
        let image = File::options().write(true).open(self.dir.join("image"))?;
        let changed = fill::one_percent(self.size / BLOCK, round);
        for b in &changed {
            image.write_all_at(&fill::block(round, *b), b * BLOCK)?;
        }
        drop(image);
        process::settle();
        let cpu = process::cpu_seconds(&[]);
        let began = process::now();
        let running: Vec<_> = (0..self.n)
            .map(|i| {
                let mut c = Command::new(&self.program);
                c.args(["--inplace", "--no-whole-file", "--times", "--stats"])
                    .arg(self.dir.join("image"))
                    .arg(self.dir.join(format!("copy{i}")));
                std::thread::spawn(move || process::run(&mut c, Duration::from_secs(1800)))
            })
            .collect();
        let mut sent: f64 = 0.0;
        for r in running {
            let text = r.join().map_err(|_| anyhow::anyhow!("a thread that waits for rsync"))??;
            let literal = text.lines().find_map(|l| l.strip_prefix("Total bytes sent: "));
            let n = literal.map(|n| n.replace(',', "")).and_then(|n| n.parse().ok());
            sent = sent.max(n.unwrap_or(f64::NAN));
        }
        // rsync does not sync; ours is durable when it is visible.
        for i in 0..self.n {
            File::open(self.dir.join(format!("copy{i}")))?.sync_data()?;
        }
        report.add(TIME, "s", &row, RSYNC, process::now() - began);
        report.add(TIME, "s", &row, "rsync CPU", process::cpu_seconds(&[]) - cpu);
        let bytes = (changed.len() as u64 * BLOCK) as f64;
        report.add(WIRE, "of the changed bytes", &row, "rsync per edge / changed", sent / bytes);
        // It reads both sides whole: the image at the sender, the copy at the receiver.
        report.add(
            WIRE,
            "of the changed bytes",
            &row,
            "read by one rsync",
            2.0 * self.size as f64 / bytes,
        );
        Ok(())
    }

    fn end(self) -> anyhow::Result<()> {
        std::fs::remove_dir_all(self.dir)?;
        process::settle();
        Ok(())
    }
}
