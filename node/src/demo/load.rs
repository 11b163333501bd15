//! What is written into the demo's volume: real files first, then a client that never rests.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;

use crate::nbd::Client;

/// Bytes of one write while filling.
const PIECE: usize = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(30);
/// Most files looked at when none was named.
const MAX_FILES: usize = 20_000;

/// What filling wrote.
pub(super) struct Filled {
    pub(super) bytes: u64,
    pub(super) data: u64,
}

/// What the restless client did.
pub(super) struct Written {
    pub(super) writes: u64,
    pub(super) trims: u64,
}

/// Size of the volume: at least `least`, and room for the input in whole blocks.
pub(super) fn volume_size(input: Option<&Path>, least: u64) -> anyhow::Result<u64> {
    let Some(path) = input else { return Ok(least) };
    let len = std::fs::metadata(path).with_context(|| super::shown(path))?.len();
    Ok(least.max(len.div_ceil(1 << 20) << 20))
}

/// Words for what the volume is filled from.
pub(super) fn describe(input: Option<&Path>) -> String {
    input.map_or_else(
        || "files at hand (this program, its source and build folder)".to_owned(),
        super::shown,
    )
}

/// Writes the input, or files at hand, one behind the other from the beginning of the volume.
pub(super) fn fill(
    socket: &Path,
    export: &str,
    input: Option<&Path>,
    size: u64,
) -> anyhow::Result<Filled> {
    let mut client = Client::unix(socket, export, DEADLINE).context("connecting over NBD")?;
    let files = match input {
        Some(p) => vec![p.to_path_buf()],
        None => files_at_hand(),
    };
    let mut at = 0u64;
    let mut data = 0u64;
    let mut buf = vec![0u8; PIECE];
    for path in files {
        let Ok(mut f) = File::open(&path) else { continue };
        while at < size {
            let want = PIECE.min(usize::try_from(size - at).unwrap_or(PIECE));
            let n = read_up_to(&mut f, &mut buf[..want]).with_context(|| super::shown(&path))?;
            if n == 0 {
                break;
            }
            client.write(at, &buf[..n], false).context("writing over NBD")?;
            data += buf[..n].iter().filter(|b| **b != 0).count() as u64;
            // Files begin at block boundaries, as in a file system.
            at += (n as u64).div_ceil(4096) * 4096;
        }
        if at >= size {
            break;
        }
    }
    client.flush().context("flushing over NBD")?;
    let _ = client.disconnect();
    Ok(Filled { bytes: at.min(size), data })
}

fn read_up_to(f: &mut File, buf: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while n < buf.len() {
        match f.read(&mut buf[n..])? {
            0 => break,
            k => n += k,
        }
    }
    Ok(n)
}

/// This program, then what lies in the folder it was started from, largest variety first.
fn files_at_hand() -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = std::env::current_exe().into_iter().collect();
    let mut folders: Vec<PathBuf> = std::env::current_dir().into_iter().collect();
    folders.extend(out.first().and_then(|p| p.parent()).map(Path::to_path_buf));
    while let Some(dir) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for e in entries.flatten() {
            if out.len() >= MAX_FILES {
                return out;
            }
            match e.file_type() {
                Ok(t) if t.is_dir() => folders.push(e.path()),
                Ok(t) if t.is_file() => out.push(e.path()),
                _ => {}
            }
        }
    }
    out
}

/// Overwrites, rewrites and trims at random until told to stop.
pub(super) fn keep_writing(
    socket: &Path,
    export: &str,
    size: u64,
    stop: &AtomicBool,
) -> anyhow::Result<Written> {
    let mut client = Client::unix(socket, export, DEADLINE).context("connecting over NBD")?;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let (mut writes, mut trims) = (0u64, 0u64);
    let mut block = vec![0u8; 64 << 10];
    while !stop.load(Ordering::Relaxed) {
        let len = [4 << 10, 4 << 10, 16 << 10, 64 << 10][usize::try_from(next() % 4).unwrap_or(0)];
        let at = next() % (size / 4096) * 4096;
        let at = at.min(size - len as u64);
        if next() % 16 == 0 {
            client.trim(at, u32::try_from(len).unwrap_or(4096)).context("trimming over NBD")?;
            trims += 1;
        } else {
            for b in block[..len].chunks_mut(8) {
                b.copy_from_slice(&next().to_le_bytes());
            }
            client.write(at, &block[..len], false).context("writing over NBD")?;
            writes += 1;
        }
        if writes % 64 == 0 {
            client.flush().context("flushing over NBD")?;
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    client.flush().context("flushing over NBD")?;
    let _ = client.disconnect();
    Ok(Written { writes, trims })
}
