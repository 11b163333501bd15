//! `rcpctl delta diff` and `rcpctl delta pull`: what changed between two kept states, and a copy of
//! one that is brought forward by what changed (DIFF-01, DIFF-09).

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use config::units::format_size;
use rcp::proto::ids::StateId;
use serde::{Deserialize, Serialize};

use super::client::Client;
use super::output::Failed;
use crate::api::Changes;
use crate::http::paths;
use crate::pki::write;

/// Bytes asked for at a time.
const PIECE: u64 = 8 << 20;
/// Bytes between two changed runs that are read along: they are the same in both states, and a
/// question of its own costs more.
const GAP: u64 = 128 << 10;

/// What a pulled file holds; kept beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Holds {
    /// Id of the state that it holds, apart from what a pull has begun to change.
    state: Option<String>,
    /// Id of the state that a pull is turning it into.
    becoming: Option<String>,
    /// Its length in bytes and when it was written last, in seconds and nanoseconds, as the pull
    /// left it.
    left: Option<(u64, i64, i64)>,
}

fn left(m: &Metadata) -> (u64, i64, i64) {
    (m.len(), m.mtime(), m.mtime_nsec())
}

/// A pull that is done.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Pulled {
    file: PathBuf,
    /// Id of the state that the file held.
    since: Option<String>,
    /// Id of the state that it holds.
    state: String,
    /// Bytes of the volume.
    size: u64,
    /// Bytes that were read.
    read: u64,
}

impl Pulled {
    pub(super) fn sentence(&self, volume: &str) -> String {
        let file = self.file.display();
        let (size, read) = (format_size(self.size), format_size(self.read));
        match &self.since {
            None => format!("{volume}: {file} holds state {} ({size})", set(&self.state)),
            Some(old) => format!(
                "{volume}: {file} went from state {} to state {}: {read} of {size} were read",
                set(old),
                set(&self.state)
            ),
        }
    }
}

/// The set number of a state id.
fn set(id: &str) -> &str {
    id.rsplit('.').next().unwrap_or(id)
}

/// Everything that changed up to a state, from all answers.
pub(super) async fn all_changes(
    client: &Client,
    volume: &str,
    since: Option<&str>,
    state: u64,
) -> Result<Changes, Failed> {
    let since = since.map(|s| format!("&since={s}")).unwrap_or_default();
    let path =
        |from| format!("{}?volume={volume}&state={state}{since}&from={from}", paths::CHANGES);
    let mut all: Changes = client.get(&path(0)).await?;
    while let Some(from) = all.next {
        let more: Changes = client.get(&path(from)).await?;
        let same = more.state == all.state && more.since == all.since && more.size == all.size;
        if !same || more.next.is_some_and(|next| next <= from) {
            return Err(Failed::new(format!(
                "the states of {volume} changed meanwhile: ask again"
            )));
        }
        all.runs.extend(more.runs);
        all.next = more.next;
    }
    Ok(all)
}

/// The list, for people.
pub(super) fn told(volume: &str, c: &Changes) -> String {
    let blocks: u64 = c.runs.iter().map(|(_, n)| n).sum();
    let mut text = format!(
        "{volume}: {blocks} blocks of {} bytes changed from state {} to state {}, in {} runs\n",
        c.block_size,
        c.since.as_deref().map_or("nothing", set),
        set(&c.state),
        c.runs.len()
    );
    for (first, n) in &c.runs {
        text.push_str(&format!("{first} +{n}\n"));
    }
    text
}

/// Makes `to` hold a state. `as_noted`: the file may have been copied since it was pulled.
pub(super) async fn run(
    client: &Client,
    volume: &str,
    state: u64,
    to: &Path,
    as_noted: bool,
) -> Result<Pulled, Failed> {
    let failed = |e| at(to, &e);
    let note = note_of(to);
    let held = held(to, &note)?;
    let mut how = OpenOptions::new();
    let file = how.write(true).create(true).truncate(false).open(to).map_err(failed)?;
    alone(&file, to)?;
    // Whoever was at it a moment ago may have gone on.
    let held = held.and(self::held(to, &note)?);
    let now = left(&file.metadata().map_err(failed)?);
    if let Some(Holds { becoming: None, left: Some(was), .. }) = &held
        && (now.0 != was.0 || now != *was && !as_noted)
    {
        return Err(Failed::new(format!(
            "{} was written or copied after it was pulled: what it holds is not known. Remove it and \
             {}, and pull it whole; if it was only copied, say --as-noted",
            to.display(),
            note.display()
        )));
    }
    let since = match held.as_ref().and_then(|h| h.state.as_ref()) {
        Some(id) => Some(followed(client, volume, id).await?),
        None => None,
    };
    let changes = all_changes(client, volume, since.as_deref(), state).await?;
    if since.is_some() && changes.since.as_ref() == Some(&changes.state) {
        return Err(Failed::new(format!("{} holds state {state} already", to.display())));
    }
    if let Some(other) = held.as_ref().and_then(|h| h.becoming.as_ref())
        && (set(other) != set(&changes.state)
            || since.is_some() && followed(client, volume, other).await.is_err())
    {
        return Err(Failed::new(format!(
            "{}: a pull of state {} was interrupted; finish it first (`rcpctl delta pull {volume} {} \
             --to {0}`), or remove the file and {}",
            to.display(),
            set(other),
            set(other),
            note.display()
        )));
    }
    let begun =
        Holds { state: changes.since.clone(), becoming: Some(changes.state.clone()), left: None };
    store(&note, &begun)?;
    // A new file is zeroes already, whatever an interrupted pull has written is written again.
    let read = copy(client, volume, &changes, &file, now.0 == 0, to).await?;
    file.sync_all().map_err(failed)?;
    let left = Some(left(&file.metadata().map_err(failed)?));
    store(&note, &Holds { state: Some(changes.state.clone()), becoming: None, left })?;
    let (since, state, size) = (changes.since, changes.state, changes.size);
    Ok(Pulled { file: to.to_owned(), since, state, size, read })
}

/// What went wrong with a file.
fn at(file: &Path, e: &dyn std::fmt::Display) -> Failed {
    Failed::new(format!("{}: {e}", file.display()))
}

/// Writes what changed; how many bytes were read.
async fn copy(
    client: &Client,
    volume: &str,
    changes: &Changes,
    file: &File,
    sparse: bool,
    to: &Path,
) -> Result<u64, Failed> {
    let failed = |e| at(to, &e);
    file.set_len(changes.size).map_err(failed)?;
    let path = paths::VOLUME.replace("{name}", volume) + "?state=" + &changes.state;
    let mut read = 0;
    for (mut at, end) in pieces(changes) {
        while at < end {
            let stop = (at + PIECE).min(end);
            let piece = client.range(&path, at, stop).await?;
            read += stop - at;
            if !sparse || piece.iter().any(|b| *b != 0) {
                file.write_all_at(&piece, at).map_err(failed)?;
            }
            at = stop;
        }
    }
    Ok(read)
}

/// Two pulls into one file would undo each other's work.
fn alone(file: &File, to: &Path) -> Result<(), Failed> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Failed::new(format!(
            "another pull into {} is running: wait for its end",
            to.display()
        ))),
        Err(TryLockError::Error(e)) => Err(at(to, &e)),
    }
}

/// How the node that is asked calls a state that was pulled: after a change of the writer, states
/// from before it are of the same history under their number alone.
async fn followed(client: &Client, volume: &str, id: &str) -> Result<String, Failed> {
    let not = || {
        Failed::new(format!(
            "the file holds state {} of a line that {volume} does not follow any more: remove it and \
             its .state, and pull it whole",
            set(id)
        ))
    };
    let old: StateId = id.parse().map_err(|_| not())?;
    let v = client.volume(volume).await?;
    if v.id != old.volume.to_string() {
        return Err(Failed::new(format!("the file holds a state of another volume than {volume}")));
    }
    let text = id.rsplit_once('.').map_or(id, |(line, _)| line);
    let line = text.split_once('.').map_or("", |(_, line)| line);
    let at = v.history.iter().position(|l| line.starts_with(&l.generation)).ok_or_else(not)?;
    match v.history.get(at + 1) {
        Some(next) if old.set.0 > next.forked_from => Err(not()),
        _ => Ok(old.set.to_string()),
    }
}

/// Byte ranges to read: runs of blocks, those near each other as one.
fn pieces(c: &Changes) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (first, n) in &c.runs {
        let (at, end) = (first * c.block_size, ((first + n) * c.block_size).min(c.size));
        match out.last_mut() {
            Some((_, last)) if at.saturating_sub(*last) <= GAP => *last = end,
            _ if at < end => out.push((at, end)),
            _ => {}
        }
    }
    out
}

fn note_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".state");
    PathBuf::from(name)
}

/// What the file holds; `None` if it is not there.
fn held(file: &Path, note: &Path) -> Result<Option<Holds>, Failed> {
    let there = match std::fs::metadata(file) {
        Ok(m) if m.is_dir() => {
            return Err(at(file, &"is a folder: name a file in it"));
        }
        Ok(m) if !m.is_file() => {
            return Err(at(file, &"is no plain file: only such can be brought forward"));
        }
        Ok(m) => Some(m.len()),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(at(file, &e)),
    };
    match std::fs::read(note) {
        Ok(text) if there.is_some() => {
            serde_json::from_slice(&text).map(Some).map_err(|e| at(note, &e))
        }
        // The file was taken away: it is made anew.
        Ok(_) => Ok(None),
        Err(e) if e.kind() != ErrorKind::NotFound => Err(at(note, &e)),
        Err(_) if there.unwrap_or(0) == 0 => Ok(None),
        Err(_) => Err(Failed::new(format!(
            "{} is there and {} is not, which says which state it holds: name another file, or \
             remove it",
            file.display(),
            note.display()
        ))),
    }
}

/// Replaces the note, durably.
fn store(note: &Path, holds: &Holds) -> Result<(), Failed> {
    let path = std::path::absolute(note).map_err(|e| at(note, &e))?;
    let text = serde_json::to_vec(holds).map_err(|e| at(note, &e))?;
    write(&path, &text, false).map_err(|e| at(note, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_near_each_other_are_read_as_one() {
        let c = Changes {
            block_size: 4096,
            size: 1000 * 4096 - 5,
            runs: vec![(0, 1), (2, 1), (33, 2), (100, 1), (999, 1)],
            ..Changes::default()
        };
        let kib = |n: u64| n * 4096;
        let due = vec![(0, kib(35)), (kib(100), kib(101)), (kib(999), kib(1000) - 5)];
        assert_eq!(pieces(&c), due);
    }
}
