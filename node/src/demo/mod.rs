//! `rcpctl demo`: the main job from end to end, on this machine, in under a minute.
//!
//! A primary, two forwarders and some leaves, each a process of its own on loopback. The volume is
//! filled and written to over NBD while the tree runs; a leaf and a forwarder are killed and come
//! back; a leaf joins late. At the end every replica is read in full over NBD, at the same state as
//! the primary's, and compared.

mod load;
mod proof;
mod show;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use config::spec::{GroupSpec, HopSpec, NodeSpec, PolicySpec, TopologySpec, VolumeSpec};
use serde::Serialize;
use tokio::runtime::Handle;

use crate::api::CutInfo;
use crate::clock;
use crate::fleet::Fleet;
use crate::http::{paths, requests};

use proof::Verdict;
use show::Screen;

/// The volume's label and group.
const VOLUME: &str = "vol1";
const GROUP: &str = "g1";
/// Smallest volume.
const SIZE: u64 = 256 << 20;
/// Save volume of every node: a fraction of the volume, so that it wraps.
const SAVE: &str = "128MiB";

/// The main job from end to end, with everything on this machine
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Fill the volume from this file; it grows to fit
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Keep everything in this folder (default: a temporary one that is removed)
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave the nodes running and say how to reach them
    #[arg(long)]
    pub stay: bool,
    /// How many leaves; the last one joins late
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub leaves: u32,
    /// Flip one stored bit before the comparison, to see it found
    #[arg(long)]
    pub corrupt: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// What was shown.
#[derive(Debug, Serialize)]
struct Outcome {
    set: u64,
    state_id: String,
    replicas: usize,
    identical: usize,
    verdicts: Vec<Verdict>,
    seconds: f64,
    dir: String,
}

/// Runs the demo; whether all replicas were identical.
///
/// # Errors
/// What kept it from being shown.
pub async fn run(args: DemoArgs) -> anyhow::Result<bool> {
    let handle = Handle::current();
    tokio::task::spawn_blocking(move || Demo::new(args, handle)?.play())
        .await
        .context("the demo's thread")?
}

struct Demo {
    args: DemoArgs,
    rt: Handle,
    dir: PathBuf,
    fleet: Fleet,
    screen: Arc<Screen>,
    leaves: Vec<String>,
    size: u64,
    began: rcp::proto::clock::Mono,
}

fn node_name(i: u32) -> String {
    format!("cel{}-ser1", i + 1)
}

/// Loopback ports that are free now.
fn free_ports(n: usize) -> anyhow::Result<Vec<u16>> {
    let held: Vec<_> = (0..n)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()
        .context("finding free ports on 127.0.0.1")?;
    held.iter().map(|l| Ok(l.local_addr()?.port())).collect()
}

/// One primary, two forwarders, and the leaves by turns below them; the last leaf has no route yet.
fn topology(leaves: u32, size: u64) -> anyhow::Result<TopologySpec> {
    let count = 3 + leaves;
    let ports = free_ports(2 * count as usize)?;
    let mut spec = TopologySpec::default();
    for i in 0..count {
        let at = 2 * i as usize;
        spec.nodes.insert(
            node_name(i),
            NodeSpec {
                listen: format!("127.0.0.1:{}", ports[at]),
                data: format!("./{}", node_name(i)),
                nbd: Some(format!("127.0.0.1:{}", ports[at + 1])),
                ..NodeSpec::default()
            },
        );
    }
    let mut routes = BTreeMap::new();
    routes.insert(node_name(0), vec![HopSpec::from(node_name(1)), node_name(2).into()]);
    for leaf in 0..leaves {
        let hops: &mut Vec<HopSpec> = routes.entry(node_name(1 + leaf % 2)).or_default();
        hops.push(node_name(3 + leaf).into());
    }
    let volume = VolumeSpec {
        size: format!("{size}B"),
        save: Some(SAVE.to_owned()),
        ..VolumeSpec::default()
    };
    let policy = PolicySpec {
        hwm: Some("32MiB".to_owned()),
        timeout: Some("1s".to_owned()),
        ..PolicySpec::default()
    };
    let group = GroupSpec {
        primary: node_name(0),
        routes,
        volumes: [(VOLUME.to_owned(), volume)].into(),
        policy,
        ..GroupSpec::default()
    };
    spec.groups.insert(GROUP.to_owned(), group);
    Ok(spec)
}

impl Demo {
    fn new(args: DemoArgs, rt: Handle) -> anyhow::Result<Self> {
        let size = load::volume_size(args.input.as_deref(), SIZE)?;
        let dir = match &args.dir {
            Some(d) => d.clone(),
            None => std::env::temp_dir().join(format!("rcp-demo-{}", std::process::id())),
        };
        std::fs::create_dir_all(&dir).with_context(|| format!("the folder {}", dir.display()))?;
        let dir = std::path::absolute(&dir)?;
        let path = dir.join("topology.yaml");
        if path.exists() {
            bail!(
                "{} exists: --dir wants a folder without an earlier demo; remove it, or start its \
                 nodes again with `rcpctl up {}`",
                path.display(),
                path.display()
            );
        }
        let spec = topology(args.leaves, size)?;
        std::fs::write(&path, spec.to_yaml()?).with_context(|| path.display().to_string())?;
        let fleet = Fleet::new(&path)?;
        let leaves = (0..args.leaves).map(|i| node_name(3 + i)).collect();
        let screen = Arc::new(Screen::new(std::io::stderr().is_terminal() && !args.json));
        Ok(Self { args, rt, dir, fleet, screen, leaves, size, began: clock::mono() })
    }

    fn say(&self, text: impl AsRef<str>) {
        self.screen.say(text.as_ref());
    }

    fn play(mut self) -> anyhow::Result<bool> {
        let result = self.scenes();
        self.screen.stop();
        let outcome = match result {
            Ok(o) => o,
            Err(e) => {
                let dead: Vec<_> =
                    self.fleet.nodes.iter_mut().filter_map(|n| n.post_mortem()).collect();
                self.fleet.stop_all(Duration::from_secs(5));
                if self.args.dir.is_none() {
                    eprintln!("everything is left in {} to look at", self.dir.display());
                }
                return Err(dead.into_iter().fold(e, |e, d| e.context(d)));
            }
        };
        self.report(&outcome)?;
        if self.args.stay {
            self.addresses();
            self.fleet.leave_running();
        } else {
            self.fleet.stop_all(Duration::from_secs(10));
            if self.args.dir.is_none() {
                let _ = std::fs::remove_dir_all(&self.dir);
            }
        }
        Ok(outcome.identical == outcome.replicas)
    }

    fn scenes(&mut self) -> anyhow::Result<Outcome> {
        let late = self.leaves.last().cloned().unwrap_or_default();
        self.say(format!(
            "1. one primary, two forwarders, {} leaves, each a process of its own",
            self.leaves.len()
        ));
        for i in 0..self.fleet.nodes.len() {
            if self.fleet.nodes[i].name != late {
                self.fleet.start(i)?;
            }
        }
        let primary = self.fleet.nodes[0].client();
        self.wait("the primary is ready", Duration::from_secs(15), |d| {
            d.rt.block_on(primary.status())
                .is_ok_and(|s| s.volumes.iter().any(|v| v.state.starts_with("writable")))
        })?;
        self.screen.watch(&self.rt, &self.fleet);

        let source = load::describe(self.args.input.as_deref());
        self.say(format!(
            "2. the volume ({} MiB) is filled over NBD from {source}",
            self.size >> 20
        ));
        let socket = self.fleet.nodes[0].nbd_socket();
        let filled = load::fill(&socket, VOLUME, self.args.input.as_deref(), self.size)?;
        self.say(format!(
            "   {} MiB written, {} MiB of it not zero",
            filled.bytes >> 20,
            filled.data >> 20
        ));
        self.cut(false)?;

        self.say("3. clients go on writing, overwriting and trimming; a set is cut every second");
        let stop = Arc::new(AtomicBool::new(false));
        let writer = {
            let (stop, size) = (stop.clone(), self.size);
            std::thread::spawn(move || load::keep_writing(&socket, VOLUME, size, &stop))
        };
        let scenes = self.trouble(&late);
        stop.store(true, Ordering::Relaxed);
        let written = writer.join().map_err(|_| anyhow::anyhow!("the writer's thread"))??;
        scenes?;
        self.say(format!(
            "   {} writes and {} trims were made meanwhile",
            written.writes, written.trims
        ));

        self.say("7. a last set; every replica plays it");
        let cut = self.cut(true)?;
        self.wait_for_set(cut.set)?;
        if self.args.corrupt {
            let victim = self.leaves.first().cloned().unwrap_or_default();
            let at = proof::corrupt(&self.fleet, &victim)?;
            self.say(format!("   one bit of {victim} was flipped on disk, at byte {at}"));
        }
        self.say(format!(
            "8. every replica is read in full over NBD at set {} and compared",
            cut.set
        ));
        let verdicts = proof::compare(&self.fleet, VOLUME, cut.set)?;
        let identical = verdicts.iter().filter(|v| v.identical).count();
        Ok(Outcome {
            set: cut.set,
            state_id: cut.state_id,
            replicas: verdicts.len(),
            identical,
            verdicts,
            seconds: clock::mono().since(self.began).as_secs_f64(),
            dir: self.dir.display().to_string(),
        })
    }

    /// What happens while the clients write.
    fn trouble(&mut self, late: &str) -> anyhow::Result<()> {
        std::thread::sleep(Duration::from_secs(2));
        let leaf = self.leaves.first().cloned().unwrap_or_default();
        let forwarder = self.fleet.nodes[2].name.clone();
        if leaf != late {
            self.say(format!("4. {leaf}, a leaf, is killed (SIGKILL) and started again"));
            self.kill_and_start(&leaf, Duration::from_millis(1500))?;
        }
        self.say(format!("5. {forwarder}, a forwarder, is killed and started again"));
        self.kill_and_start(&forwarder, Duration::from_millis(1500))?;
        self.say(format!("6. {late} joins late: it is seeded while the sets go on"));
        if let Some(i) = self.fleet.find(late) {
            self.fleet.start(i)?;
        }
        self.screen.watch(&self.rt, &self.fleet);
        let client = self.fleet.find(late).map(|i| self.fleet.nodes[i].client());
        self.wait("the late leaf is readable", Duration::from_secs(40), |d| {
            client.as_ref().is_some_and(|c| {
                d.rt.block_on(c.status()).is_ok_and(|s| {
                    s.volumes.iter().any(|v| v.state.starts_with("readable") && v.current_set > 0)
                })
            })
        })?;
        std::thread::sleep(Duration::from_secs(2));
        Ok(())
    }

    fn kill_and_start(&mut self, name: &str, pause: Duration) -> anyhow::Result<()> {
        let Some(i) = self.fleet.find(name) else { return Ok(()) };
        self.fleet.nodes[i].kill();
        std::thread::sleep(pause);
        self.fleet.start(i)?;
        let client = self.fleet.nodes[i].client();
        self.wait("the killed node answers again", Duration::from_secs(15), |d| {
            d.rt.block_on(client.status()).is_ok()
        })?;
        std::thread::sleep(pause);
        Ok(())
    }

    fn cut(&self, keep: bool) -> anyhow::Result<CutInfo> {
        let body = requests::Cut { volume: VOLUME.to_owned(), keep };
        let client = self.fleet.nodes[0].client();
        self.rt.block_on(client.post(paths::CUT, &body)).context("cutting a set")
    }

    fn wait_for_set(&mut self, set: u64) -> anyhow::Result<()> {
        let clients: Vec<_> =
            self.fleet.nodes[1..].iter().map(|n| (n.name.clone(), n.client())).collect();
        let mut behind = String::new();
        let done = self.wait("every replica shows the last set", Duration::from_secs(60), |d| {
            behind.clear();
            for (name, c) in &clients {
                let at = d.rt.block_on(c.status()).ok().and_then(|s| {
                    s.volumes.first().map(|v| (v.current_set, v.reason.clone().unwrap_or_default()))
                });
                match at {
                    Some((s, _)) if s == set => {}
                    Some((s, why)) => behind.push_str(&format!("; {name} is at set {s} {why}")),
                    None => behind.push_str(&format!("; {name} does not answer")),
                }
            }
            behind.is_empty()
        });
        done.with_context(|| format!("set {set} did not arrive everywhere{behind}"))
    }

    fn wait(
        &mut self,
        what: &str,
        deadline: Duration,
        mut ready: impl FnMut(&Self) -> bool,
    ) -> anyhow::Result<()> {
        let end = clock::mono().after(deadline);
        while !ready(self) {
            if clock::mono() > end {
                bail!("waited {} s in vain until {what}", deadline.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn report(&self, o: &Outcome) -> anyhow::Result<()> {
        if self.args.json {
            println!("{}", serde_json::to_string_pretty(o)?);
            return Ok(());
        }
        for v in &o.verdicts {
            println!("{}", v.line());
        }
        println!(
            "{} of {} replicas identical at set {} ({:.0} s)",
            o.identical, o.replicas, o.set, o.seconds
        );
        Ok(())
    }

    fn addresses(&self) {
        let topology = self.dir.join("topology.yaml");
        println!(
            "\nThe nodes keep running. Stop them with: rcpctl down --topology {}",
            topology.display()
        );
        for n in &self.fleet.nodes {
            let nbd = n.nbd.as_ref().map(|a| format!("nbd://{a}/{VOLUME}")).unwrap_or_default();
            println!(
                "  {:<11} http://{}/  {nbd}  nbd+unix:///{VOLUME}?socket={}",
                n.name,
                n.listen,
                n.nbd_socket().display()
            );
        }
    }
}

/// Where a path is, for messages.
fn shown(p: &Path) -> String {
    p.display().to_string()
}
