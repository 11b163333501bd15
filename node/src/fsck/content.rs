//! Everything that is stored, read once: the bodies of sets, and each block against its hash.

use std::fmt;

use volmcast::digest::{ENTRY_LEN, Sum, TABLE_AT, hash_blocks, hashes_in, table_range};
use volmcast::io::{FileId, Io, IoError, Op, Outcome, Tag};
use volmcast::storage::Storage;
use volmcast::units::BlockIndex;
use volmcast::volume::{Role, Volume};

use super::report::{Finding, VolumeFound};

/// Bytes of content that are read at a time.
const AT_ONCE: u64 = 1 << 20;
/// Places that are named of each kind of damage.
const NAMED: usize = 10;

/// Looks at all of it.
pub(super) fn look(v: &Volume, files: &dyn Storage, found: &mut VolumeFound) {
    bodies(v, files, found);
    let told = match &v.config().role {
        Role::Relay => return,
        Role::Primary { .. } => {
            found.next_start.push("(the content of a primary was not looked at)".to_owned());
            return;
        }
        Role::Replica { .. } if !v.is_provable() => return,
        Role::Replica { .. } => blocks(v, files, found),
    };
    if let Err(e) = told {
        let text = format!("the content cannot be read ({e}): look at the disk");
        found.findings.push(Finding::needs("content", text));
    }
}

fn bodies(v: &Volume, files: &dyn Storage, found: &mut VolumeFound) {
    match v.damaged_bodies(NAMED, &mut |file, at, len| files.read(file, at, len)) {
        Ok(bad) => found.findings.extend(bad.iter().map(|b| {
            let text = format!(
                "a stored piece of set {} is damaged (position {}: {}): it is given up when it is \
                 sent or merged; a replica fetches it again, below a primary children are seeded",
                b.to, b.pos, b.why
            );
            Finding::heals("save", text)
        })),
        Err(e) => found.findings.push(Finding::needs("save", format!("cannot be read: {e}"))),
    }
}

/// Each block must be what its hash says, and all hashes together the digest.
fn blocks(v: &Volume, files: &dyn Storage, found: &mut VolumeFound) -> Result<(), IoError> {
    let shift = v.config().block_size.shift();
    let unmerged = v.unmerged_blocks();
    let end = v.blocks().0;
    let mut sum = Some(Sum::default());
    let (mut content, mut entries) = (Named::default(), Named::default());
    let mut at = 0;
    while at < end {
        // A hole in one of them must be a hole in the other.
        let data = next(files, FileId::Base, at << shift)?.map(|x| x >> shift);
        let table = next(files, FileId::Hashes, table_range(at, 0).0)?;
        let table = table.map(|x| x.saturating_sub(TABLE_AT) / ENTRY_LEN);
        at = [data, table].into_iter().flatten().min().unwrap_or(end).max(at);
        let n = (end.saturating_sub(at)).min((AT_ONCE >> shift).max(1));
        if n == 0 {
            break;
        }
        let len = usize::try_from(n << shift).unwrap_or(0);
        let bytes = files.read(FileId::Base, at << shift, len)?;
        let (from, len) = table_range(at, n);
        let stored = files.read(FileId::Hashes, from, len)?;
        sum = sum.and_then(|s| Some(s.and(Sum::of_table(&stored)?)));
        let pairs = hash_blocks(at, &bytes, shift).into_iter().zip(hashes_in(&stored)).zip(at..);
        for ((is, should), block) in pairs {
            match should {
                _ if unmerged.contains(BlockIndex(block)) => {}
                None => entries.add(block),
                Some(h) if h != is => content.add(block),
                Some(_) => {}
            }
        }
        at += n;
    }
    if content.count > 0 {
        let text = format!(
            "{content} are not what was stored: reads of them fail, and they are fetched again from \
             the parent; look at the disk"
        );
        found.findings.push(Finding::heals("content", text));
    }
    if entries.count > 0 {
        let text = format!(
            "the hashes of {entries} are not what was stored, so that nothing proves their content; \
             a replica fetches them again, a primary makes its table anew when it adds it up; look \
             at the disk"
        );
        found.findings.push(Finding::heals("hashes", text));
    }
    let known = v.digest().filter(|_| unmerged.count().0 == 0).map(|(_, s)| s);
    if let (Some(known), Some(sum)) = (known, sum)
        && known != sum
    {
        let text = format!(
            "the hashes that are stored make the digest {sum}, and it was another: writes of blocks \
             and of their hashes were lost together; the next search finds it and reads are refused"
        );
        found.findings.push(Finding::heals("content", text));
    }
    Ok(())
}

/// Blocks, the first few of them by number.
#[derive(Default)]
struct Named {
    count: usize,
    first: Vec<u64>,
}

impl Named {
    fn add(&mut self, block: u64) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(block);
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first: Vec<_> = self.first.iter().map(u64::to_string).collect();
        let more = if self.count > NAMED { ", …" } else { "" };
        write!(f, "{} blocks ({}{more})", self.count, first.join(", "))
    }
}

fn next(files: &dyn Storage, file: FileId, offset: u64) -> Result<Option<u64>, IoError> {
    match files.perform(&Io { tag: Tag(0), file, op: Op::NextData { offset } }) {
        Outcome::NextData(found) => Ok(found.map(|(from, _)| from)),
        Outcome::Failed(e) => Err(e),
        _ => Err(IoError::Os(5)),
    }
}
