//! `rcpctl delta diff` and `rcpctl delta pull`: what changed between two kept states, and a copy of
//! one that is brought forward by what changed (DIFF-01, DIFF-09).

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use config::units::format_size;
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
        if more.state != all.state || more.next.is_some_and(|next| next <= from) {
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

/// Makes `to` hold a state.
pub(super) async fn run(
    client: &Client,
    volume: &str,
    state: u64,
    to: &Path,
) -> Result<Pulled, Failed> {
    let note = note_of(to);
    let held = held(to, &note)?;
    let since = held.as_ref().and_then(|h| h.state.clone());
    let changes = all_changes(client, volume, since.as_deref(), state).await?;
    if since.as_ref() == Some(&changes.state) {
        return Err(Failed::new(format!("{} holds state {state} already", to.display())));
    }
    if let Some(other) = held.as_ref().and_then(|h| h.becoming.as_ref())
        && *other != changes.state
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
    let mut now = Holds { state: since.clone(), becoming: Some(changes.state.clone()) };
    store(&note, &now)?;
    let failed = |e: std::io::Error| Failed::new(format!("{}: {e}", to.display()));
    let mut how = OpenOptions::new();
    let file = how.write(true).create(true).truncate(false).open(to).map_err(failed)?;
    // A new file is zeroes already, whatever an interrupted pull has written is written again.
    let sparse = file.metadata().map_err(failed)?.len() == 0;
    file.set_len(changes.size).map_err(failed)?;
    let path = paths::VOLUME.replace("{name}", volume) + "?state=" + &changes.state;
    let mut read = 0;
    for (mut at, end) in pieces(&changes) {
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
    file.sync_all().map_err(failed)?;
    now = Holds { state: Some(changes.state.clone()), becoming: None };
    store(&note, &now)?;
    let (state, size) = (changes.state, changes.size);
    Ok(Pulled { file: to.to_owned(), since, state, size, read })
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
    let failed = |p: &Path, e: &dyn std::fmt::Display| Failed::new(format!("{}: {e}", p.display()));
    let there = file.try_exists().map_err(|e| failed(file, &e))?;
    match std::fs::read(note) {
        Ok(text) if there => serde_json::from_slice(&text).map(Some).map_err(|e| failed(note, &e)),
        // The file was taken away: it is made anew.
        Ok(_) => Ok(None),
        Err(e) if e.kind() == ErrorKind::NotFound && there => Err(Failed::new(format!(
            "{} is there and {} is not, which says which state it holds: name another file, or \
             remove it",
            file.display(),
            note.display()
        ))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(note, &e)),
    }
}

/// Replaces the note, durably.
fn store(note: &Path, holds: &Holds) -> Result<(), Failed> {
    let failed = |e: &dyn std::fmt::Display| Failed::new(format!("{}: {e}", note.display()));
    let path = std::path::absolute(note).map_err(|e| failed(&e))?;
    let text = serde_json::to_vec(holds).map_err(|e| failed(&e))?;
    write(&path, &text, false).map_err(|e| failed(&e))
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
