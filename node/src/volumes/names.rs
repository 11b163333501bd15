//! Export names: `VOL`, `VOL@follow`, `VOL@STATE`.
//!
//! | name | at the primary | at a replica |
//! |---|---|---|
//! | `VOL` | the writable volume | the newest state at connect, fixed for the connection |
//! | `VOL@follow` | refused: the volume itself is live | whatever is visible at each request |
//! | `VOL@STATE` | a kept state | a kept state, or the visible one |
//! | `VOL@branch:NAME` | a state of a line that ended | the same |

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rcp::proto::ids::{Generation, SetNumber, StateId, VolumeId};
use rustix::fs::{SeekFrom, seek};
use volmcast::mailbox::KeptBranch;
use volmcast::snapshots::PinId;

use super::primary::PrimaryVolume;
use super::replica::{ReplicaVolume, StateView};
use crate::nbd::{Export, ExportName, Exports, Extent, OpenError, OpenErrorKind};

/// What a branch's name begins with, behind the `@`.
pub const BRANCH: &str = "branch:";

/// A volume that can be opened by name.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which volume.
    pub id: VolumeId,
    /// Its present line.
    pub generation: Option<Generation>,
    /// Size in bytes.
    pub size: u64,
    /// The writable side, at the primary.
    pub primary: Option<Arc<PrimaryVolume>>,
    /// The readable side; absent where the node only forwards.
    pub states: Option<Arc<ReplicaVolume>>,
    /// Newest finished set (primary) or visible set (replica).
    pub visible: SetNumber,
    /// Kept states.
    pub kept: Vec<SetNumber>,
    /// States of lines that ended.
    pub branches: Vec<KeptBranch>,
}

/// All names of this node; replaced whole at every change.
#[derive(Debug, Default)]
pub struct Names {
    table: ArcSwap<BTreeMap<String, Entry>>,
    /// Volumes that are here and cannot be opened: label, and why.
    closed: ArcSwap<BTreeMap<VolumeId, (String, String)>>,
}

impl Names {
    /// Adds or replaces a volume under its label.
    pub fn set(&self, label: &str, entry: &Entry) {
        self.table.rcu(|old| {
            let mut t = BTreeMap::clone(old);
            t.retain(|_, e| e.id != entry.id);
            t.insert(label.to_owned(), entry.clone());
            t
        });
    }

    /// A volume is here and cannot be opened: who asks for it is told why.
    pub fn set_closed(&self, id: VolumeId, label: &str, why: &str) {
        self.closed.rcu(|old| {
            let mut t = BTreeMap::clone(old);
            t.insert(id, (label.to_owned(), why.to_owned()));
            t
        });
    }

    /// No such export: because there is none, or because it cannot be opened.
    fn refusal(&self, label: &str, asked: &str) -> OpenError {
        let closed = self.closed.load();
        match closed.values().find(|(l, _)| l == label) {
            Some((_, why)) => OpenError {
                kind: OpenErrorKind::NotReady,
                text: format!("volume {label} cannot be opened here: {why}"),
            },
            None => OpenError::unknown(asked, &self.list()),
        }
    }

    /// Removes a volume.
    pub fn remove(&self, id: VolumeId) {
        self.table.rcu(|old| {
            let mut t = BTreeMap::clone(old);
            t.retain(|_, e| e.id != id);
            t
        });
        self.closed.rcu(|old| {
            let mut t = BTreeMap::clone(old);
            t.remove(&id);
            t
        });
    }

    /// The label of the only volume, which may be opened without saying its name.
    #[must_use]
    pub fn only(&self) -> Option<String> {
        let table = self.table.load();
        (table.len() == 1).then(|| table.keys().next().cloned()).flatten()
    }

    /// The entry of a label.
    #[must_use]
    pub fn get(&self, label: &str) -> Option<Entry> {
        self.table.load().get(label).cloned()
    }

    /// Opens a state for reading: the present one, or a set number, or a full state id.
    ///
    /// # Errors
    /// [`OpenError`] names the known volumes or the nearest states.
    pub fn open_state(&self, label: &str, state: Option<&str>) -> Result<StateView, OpenError> {
        let refuse = |kind, text: String| OpenError { kind, text };
        let Some(e) = self.get(label) else { return Err(self.refusal(label, label)) };
        let Some(states) = &e.states else {
            let text = format!("this node only forwards volume {label}; read it at a replica");
            return Err(refuse(OpenErrorKind::Policy, text));
        };
        let id = |set| e.generation.map(|generation| StateId { volume: e.id, generation, set });
        let not_ready = |why: String| {
            refuse(OpenErrorKind::NotReady, format!("volume {label} cannot be read now: {why}"))
        };
        let Some(state) = state else {
            if e.primary.is_some() {
                let text = format!(
                    "volume {label} is writable here, and has no single state to read: use NBD \
                     (export `{label}`), or name a kept state, as in {label}@SET or ?state=SET"
                );
                return Err(refuse(OpenErrorKind::Policy, text));
            }
            let pin = states.board().pin_visible().map_err(not_ready)?;
            let set = pin.state();
            let text = format!("volume {label} at set {set}");
            let size = states.size_of(&pin);
            return Ok(StateView::pinned(states.clone(), pin, size, id(set), false, text));
        };
        if let Some(name) = state.strip_prefix(BRANCH) {
            return open_branch(label, &e, states, name);
        }
        let set = self.parse_state(label, &e, state)?;
        let pin = match states.board().pin_kept(set) {
            Some(p) => p,
            None if e.primary.is_none() => {
                let pin = states.board().pin_visible().map_err(not_ready)?;
                if pin.state() != set {
                    return Err(no_such_state(label, set, &e, pin.state()));
                }
                pin
            }
            None => return Err(no_such_state(label, set, &e, e.visible)),
        };
        let text = format!("volume {label} at set {set}");
        // A kept state has zeroes where the volume has grown since.
        let size = states.size_of(&pin).max(e.size);
        Ok(StateView::pinned(states.clone(), pin, size, id(set), true, text))
    }

    fn parse_state(&self, label: &str, e: &Entry, state: &str) -> Result<SetNumber, OpenError> {
        if let Ok(n) = state.parse::<u64>() {
            return Ok(SetNumber(n));
        }
        let bad = |text: String| OpenError { kind: OpenErrorKind::Unknown, text };
        let id: StateId = state.parse().map_err(|_| {
            bad(format!(
                "`{state}` is no state of volume {label}: use a set number, `follow`, or a full \
                 state id"
            ))
        })?;
        if id.volume != e.id || Some(id.generation) != e.generation {
            return Err(bad(format!("state {id} is not on the present line of volume {label}")));
        }
        Ok(id.set)
    }
}

fn open_branch(
    label: &str,
    e: &Entry,
    states: &Arc<ReplicaVolume>,
    name: &str,
) -> Result<StateView, OpenError> {
    let refuse = |kind, text: String| OpenError { kind, text };
    let Some(k) = e.branches.iter().find(|k| k.name() == name) else {
        let known: Vec<_> =
            e.branches.iter().map(|k| format!("{label}@{BRANCH}{}", k.name())).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let text = format!("volume {label} has no branch {name} here; there is {known}");
        return Err(refuse(OpenErrorKind::Unknown, text));
    };
    let Some(pin) = states.board().pin_branch(PinId(k.pin), k.set, k.blocks) else {
        let text = format!(
            "branch {name} of volume {label} can no longer be read: the snapshot area was full, or \
             is damaged"
        );
        return Err(refuse(OpenErrorKind::NotReady, text));
    };
    let size = states.size_of(&pin);
    let id = StateId { volume: e.id, generation: k.line, set: k.set };
    let text = format!("volume {label}, branch {name}");
    Ok(StateView::pinned(states.clone(), pin, size, Some(id), true, text))
}

fn no_such_state(label: &str, asked: SetNumber, e: &Entry, visible: SetNumber) -> OpenError {
    let mut states: Vec<_> = e.kept.iter().copied().chain([visible]).collect();
    states.sort_unstable();
    states.dedup();
    if e.primary.is_some() {
        states.retain(|s| e.kept.contains(s));
    }
    let below = states.iter().rev().find(|s| **s < asked);
    let above = states.iter().find(|s| **s > asked);
    let near: Vec<_> =
        [below, above].into_iter().flatten().map(|s| format!("{label}@{s}")).collect();
    let near = if near.is_empty() {
        "no state is kept; `rcpctl delta cut --keep` keeps one".to_owned()
    } else {
        format!("the nearest are {}", near.join(" and "))
    };
    OpenError {
        kind: OpenErrorKind::Unknown,
        text: format!("state {asked} of volume {label} is not kept here: {near}"),
    }
}

impl Exports for Names {
    fn list(&self) -> Vec<ExportName> {
        let mut out = Vec::new();
        for (label, e) in self.table.load().iter() {
            let description = match (&e.primary, &e.states) {
                (Some(_), _) => "primary, writable".to_owned(),
                (None, Some(_)) => format!("replica at set {}", e.visible),
                (None, None) => continue,
            };
            out.push(ExportName { name: label.clone(), description });
            for k in &e.kept {
                let description = "kept state, read-only".to_owned();
                out.push(ExportName { name: format!("{label}@{k}"), description });
            }
            for k in &e.branches {
                let description = format!("branch at set {}, read-only", k.set);
                let name = format!("{label}@{BRANCH}{}", k.name());
                out.push(ExportName { name, description });
            }
        }
        out
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Export>, OpenError> {
        let table = self.table.load();
        let only = if name.is_empty() { self.only() } else { None };
        let name = only.as_deref().unwrap_or(name);
        let (label, state) = name.split_once('@').map_or((name, None), |(l, s)| (l, Some(s)));
        let Some(e) = table.get(label) else { return Err(self.refusal(label, name)) };
        match (state, &e.primary, &e.states) {
            (None, Some(p), _) => Ok(p.clone()),
            (Some("follow"), Some(_), _) => Err(OpenError {
                kind: OpenErrorKind::Policy,
                text: format!("volume {label} is live here: its export is `{label}`"),
            }),
            (Some("follow"), None, Some(s)) => {
                let text = format!("volume {label}, newest state at each request");
                Ok(Arc::new(StateView::newest(s.clone(), e.size, text)))
            }
            (state, ..) => Ok(Arc::new(self.open_state(label, state)?)),
        }
    }
}

/// Data and holes of a sparse file.
pub(super) fn file_extents(f: &File, offset: u64, len: u64, most: usize) -> Vec<Extent> {
    let data = |len| Extent { len, hole: false, zero: false };
    let end = offset + len;
    let (mut out, mut at) = (Vec::new(), offset);
    while at < end && out.len() < most {
        let next = match seek(f, SeekFrom::Data(at)) {
            Ok(d) => d.min(end),
            Err(rustix::io::Errno::NXIO) => end,
            Err(_) => {
                out.push(data(end - at));
                break;
            }
        };
        if next > at {
            out.push(Extent { len: next - at, hole: true, zero: true });
            at = next;
            continue;
        }
        let hole = seek(f, SeekFrom::Hole(at)).map_or(end, |h| h.min(end)).max(at + 1);
        out.push(data(hole - at));
        at = hole;
    }
    out
}
