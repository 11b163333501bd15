//! `fio`: as a client of NBD servers, and writing files.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::process;

/// What one NBD measurement gave.
pub(super) struct NbdResult {
    pub(super) requests: f64,
    pub(super) iops: f64,
    pub(super) mbps: f64,
    pub(super) p99_us: f64,
}

/// One kind of load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) name: &'static str,
    pub(super) rw: &'static str,
    pub(super) bs: &'static str,
    pub(super) depth: u32,
    pub(super) fsync: u32,
}

/// Loads an export.
pub(super) fn nbd(
    fio: &Path,
    uri: &str,
    l: &Load,
    size: u64,
    secs: u64,
) -> anyhow::Result<NbdResult> {
    let mut c = Command::new(fio);
    c.args(["--name=bench", "--ioengine=nbd", "--output-format=json", "--time_based=1"])
        .args(["--randrepeat=0", "--norandommap=1", "--refill_buffers=0"])
        .arg(format!("--uri={uri}"))
        .arg(format!("--rw={}", l.rw))
        .arg(format!("--bs={}", l.bs))
        .arg(format!("--iodepth={}", l.depth))
        .arg(format!("--size={size}"))
        .arg(format!("--runtime={secs}"));
    if l.fsync > 0 {
        c.arg(format!("--fsync={}", l.fsync));
    }
    let text = process::run(&mut c, Duration::from_secs(secs + 60))?;
    let job = job(&text)?;
    let side = &job[if l.rw.contains("write") { "write" } else { "read" }];
    let n = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    Ok(NbdResult {
        requests: n(&side["total_ios"]),
        iops: n(&side["iops"]),
        mbps: n(&side["bw_bytes"]) / 1e6,
        p99_us: n(&side["clat_ns"]["percentile"]["99.000000"]) / 1e3,
    })
}

/// Writes every block of an export once, with data that cannot be compressed.
pub(super) fn fill(fio: &Path, uri: &str, size: u64) -> anyhow::Result<()> {
    let mut c = Command::new(fio);
    c.args(["--name=fill", "--ioengine=nbd", "--output-format=json", "--rw=write", "--bs=4k"])
        .args(["--iodepth=32", "--refill_buffers=1"])
        .arg(format!("--uri={uri}"))
        .arg(format!("--size={size}"));
    job(&process::run(&mut c, Duration::from_secs(300))?).map(drop)
}

fn job(text: &str) -> anyhow::Result<Value> {
    // fio may say something before its JSON.
    let from = text.find('{').context("fio gave no JSON")?;
    let v: Value = serde_json::from_str(&text[from..]).context("fio's answer")?;
    let job = v["jobs"][0].clone();
    anyhow::ensure!(job["error"] == 0, "fio failed: {}", job["error"]);
    Ok(job)
}

/// Writes `files` new files of `len` bytes at the same time, each synced at its end; seconds.
pub(super) fn files(fio: &Path, dir: &Path, files: usize, len: u64) -> anyhow::Result<f64> {
    let folder = dir.join("fio");
    let once = |len: u64| -> anyhow::Result<f64> {
        std::fs::create_dir_all(&folder)?;
        let mut c = Command::new(fio);
        c.args(["--name=bench", "--ioengine=psync", "--rw=write", "--bs=1m", "--end_fsync=1"])
            .args(["--output-format=json", "--refill_buffers=0", "--group_reporting=1"])
            .arg(format!("--directory={}", folder.display()))
            .arg(format!("--numjobs={files}"))
            .arg(format!("--size={len}"));
        let began = process::now();
        let text = process::run(&mut c, Duration::from_secs(600))?;
        let took = process::now() - began;
        job(&text)?;
        std::fs::remove_dir_all(&folder)?;
        process::cool_down();
        Ok(took)
    };
    // What fio needs for itself is not held against the disk.
    let own = once(super::MIB)?;
    Ok((once(len)? - own).max(0.001))
}
