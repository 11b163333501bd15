//! Data that cannot be compressed, the same for everybody.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::MIB;

/// Numbers that look random (xorshift64*).
#[derive(Clone, Debug)]
pub(super) struct Noise(u64);

impl Noise {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn fill(&mut self, buf: &mut [u8]) {
        for c in buf.chunks_mut(8) {
            let n = self.next().to_le_bytes();
            c.copy_from_slice(&n[..c.len()]);
        }
    }
}

/// A new file of `len` bytes, on the disk.
pub(super) fn file(path: &Path, len: u64, seed: u64) -> anyhow::Result<()> {
    let f = File::create(path)?;
    let mut noise = Noise::new(seed);
    let mut buf = vec![0; usize::try_from(MIB)?];
    for at in (0..len).step_by(buf.len()) {
        noise.fill(&mut buf);
        let n = usize::try_from((len - at).min(MIB))?;
        f.write_all_at(&buf[..n], at)?;
    }
    f.sync_all()?;
    Ok(())
}

/// `len` bytes into an export, from its beginning.
pub(super) fn export(socket: &Path, name: &str, len: u64, seed: u64) -> anyhow::Result<()> {
    let mut c = node::nbd::Client::unix(socket, name, Duration::from_secs(120))?;
    let mut noise = Noise::new(seed);
    let mut buf = vec![0; usize::try_from(MIB)?];
    for at in (0..len).step_by(buf.len()) {
        noise.fill(&mut buf);
        let n = usize::try_from((len - at).min(MIB))?;
        c.write(at, &buf[..n], false)?;
    }
    c.flush()?;
    Ok(())
}

/// Which blocks change in one round: one in a hundred, each at most once.
pub(super) fn one_percent(blocks: u64, round: u64) -> Vec<u64> {
    let mut noise = Noise::new(round + 1000);
    let mut chosen = std::collections::BTreeSet::new();
    while (chosen.len() as u64) < blocks / 100 {
        chosen.insert(noise.next() % blocks);
    }
    chosen.into_iter().collect()
}

/// New content for one block.
pub(super) fn block(round: u64, index: u64) -> Vec<u8> {
    let mut buf = vec![0; 4096];
    Noise::new((round << 40) ^ index).fill(&mut buf);
    buf
}
