//! The live tree on a terminal: a few lines, redrawn in place; elsewhere, only what is said.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::api::{NodeStatus, VolumeInfo};
use crate::cli::Client;
use crate::fleet::Fleet;

const EVERY: Duration = Duration::from_millis(250);
/// Cells of a progress bar.
const BAR: usize = 20;

#[derive(Default)]
struct Picture {
    /// Lines of the picture on the screen now.
    drawn: usize,
    nodes: Vec<(String, Client)>,
}

/// Where the demo shows itself.
pub(super) struct Screen {
    live: bool,
    stop: AtomicBool,
    started: AtomicBool,
    picture: Mutex<Picture>,
}

impl Screen {
    pub(super) fn new(live: bool) -> Self {
        Self {
            live,
            stop: AtomicBool::new(false),
            started: AtomicBool::new(false),
            picture: Mutex::default(),
        }
    }

    /// Says a line that stays.
    pub(super) fn say(&self, text: &str) {
        let mut p = self.picture.lock();
        let mut err = std::io::stderr().lock();
        erase(&mut err, &mut p.drawn);
        let _ = writeln!(err, "{text}");
    }

    /// Draws these nodes from now on.
    pub(super) fn watch(self: &Arc<Self>, rt: &Handle, fleet: &Fleet) {
        self.picture.lock().nodes =
            fleet.nodes.iter().map(|n| (n.name.clone(), n.client())).collect();
        if !self.live || self.started.swap(true, Ordering::Relaxed) {
            return;
        }
        let (screen, rt) = (self.clone(), rt.clone());
        std::thread::spawn(move || {
            while !screen.stop.load(Ordering::Relaxed) {
                screen.draw(&rt);
                std::thread::sleep(EVERY);
            }
        });
    }

    /// Stops drawing; the last picture goes.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut p = self.picture.lock();
        erase(&mut std::io::stderr().lock(), &mut p.drawn);
    }

    fn draw(&self, rt: &Handle) {
        let nodes = self.picture.lock().nodes.clone();
        let answers: Vec<_> = rt.block_on(async {
            let mut out = Vec::new();
            for (name, client) in &nodes {
                let s = tokio::time::timeout(EVERY, client.status()).await;
                out.push((name.clone(), s.ok().and_then(Result::ok)));
            }
            out
        });
        let lines = picture(&answers);
        let mut p = self.picture.lock();
        if self.stop.load(Ordering::Relaxed) {
            return;
        }
        let mut err = std::io::stderr().lock();
        erase(&mut err, &mut p.drawn);
        for l in &lines {
            let _ = writeln!(err, "{l}");
        }
        p.drawn = lines.len();
    }
}

fn erase(out: &mut impl Write, drawn: &mut usize) {
    if *drawn > 0 {
        let _ = write!(out, "\x1b[{drawn}A\x1b[J");
        *drawn = 0;
    }
}

/// One line a node, indented by its depth.
fn picture(nodes: &[(String, Option<NodeStatus>)]) -> Vec<String> {
    let newest = nodes
        .iter()
        .filter_map(|(_, s)| s.as_ref()?.volumes.first().map(|v| v.newest_known_set))
        .max()
        .unwrap_or(0);
    nodes
        .iter()
        .enumerate()
        .map(|(i, (name, s))| {
            let indent = match i {
                0 => "",
                1 | 2 => "├─ ",
                _ => "│  └─ ",
            };
            let label = format!("{indent}{name}");
            match s.as_ref().map(|s| s.volumes.first()) {
                None => format!("  {label:<17}  down"),
                Some(None) => format!("  {label:<17}  up, no volume yet"),
                Some(Some(v)) => format!("  {label:<17}  {}", line(v, newest)),
            }
        })
        .collect()
}

fn line(v: &VolumeInfo, newest: u64) -> String {
    let done = match v.state.as_str() {
        "seeding" | "catching up" => seeded(v),
        _ if newest == 0 => 1.0,
        #[allow(clippy::cast_precision_loss)]
        _ => v.current_set as f64 / newest as f64,
    };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let full = (done.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    let bar = format!("{}{}", "█".repeat(full), "░".repeat(BAR - full));
    let lag = match (v.role.as_str(), v.lag_seconds) {
        ("primary", _) => format!("{} KiB modified", v.dirty_bytes >> 10),
        (_, Some(s)) => format!("lag {s:.1} s"),
        (_, None) => "lag unknown".to_owned(),
    };
    let why = v.reason.as_deref().map(|r| format!("  {r}")).unwrap_or_default();
    let text = format!("{bar} set {:<4} {:<9} {lag}{why}", v.current_set, v.state);
    text.chars().take(110).collect()
}

/// Part of a seed that has come, from the words of the reason.
fn seeded(v: &VolumeInfo) -> f64 {
    let percent = v.reason.as_deref().and_then(|r| {
        let at = r.find('%')?;
        r[..at].rsplit(' ').next()?.parse::<f64>().ok()
    });
    percent.unwrap_or(0.0) / 100.0
}
