//! On what, when and with what was measured.

use std::collections::BTreeMap;
use std::path::Path;

use super::GIB;

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn field(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|l| l.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Cores, memory, kernel, file system, date, load by others.
pub(super) fn machine(dir: &Path) -> BTreeMap<String, String> {
    let cpu = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kib: u64 = field(&read("/proc/meminfo"), "MemTotal")
        .and_then(|m| m.split(' ').next().and_then(|n| n.parse().ok()))
        .unwrap_or(0);
    let build = if cfg!(debug_assertions) { "debug: figures mean nothing" } else { "release" };
    BTreeMap::from([
        ("machine".to_owned(), format!("{cores} cores, {cpu}, {:.1} GiB", kib as f64 / MIB_IN_KIB)),
        ("kernel".to_owned(), read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("file system".to_owned(), file_system(dir)),
        ("date".to_owned(), super::process::output("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
        ("load before".to_owned(), read("/proc/loadavg").trim().to_owned()),
        ("congestion control".to_owned(), congestion()),
        ("build".to_owned(), build.to_owned()),
    ])
}

const MIB_IN_KIB: f64 = 1_048_576.0;

fn congestion() -> String {
    read("/proc/sys/net/ipv4/tcp_congestion_control").trim().to_owned()
}

/// Type, device and free room of the file system that holds `dir`.
fn file_system(dir: &Path) -> String {
    let mounts = read("/proc/mounts");
    let best = mounts
        .lines()
        .filter_map(|l| {
            let mut f = l.split(' ');
            Some((f.next()?, f.next()?, f.next()?))
        })
        .filter(|(_, at, _)| dir.starts_with(at))
        .max_by_key(|(_, at, _)| at.len());
    let (device, at, kind) = best.unwrap_or(("?", "?", "?"));
    format!("{kind} on {device} at {at}, {} GiB free", free(dir) / GIB)
}

/// Bytes free where `dir` lies.
pub(super) fn free(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize))
}
