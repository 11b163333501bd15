//! A volume goes to another node with all its files (GEN-12): what the old node does. `arriving` is the
//! new one's part; `node/docs/moving.md` has the steps and what a crash leaves after each.
//!
//! The commit point is when `identity` names the new node; before it stands what this node keeps of it
//! (`moved/UUID`), so that it never makes an empty volume in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcp::proto::ids::{NodeName, VolumeId};
use volmcast::storage::{Files, Identity, Standing, StorageError};

use super::core::{Core, Input, Waiting};
use super::same;
use crate::api::{ApiError, ApiErrorKind, VolumeInfo};
use crate::clock;
use crate::mover::{AskId, Reply};
use crate::shift::{MARK, MovedStatus, Shown};
use crate::volumes::PrimaryVolume;
use crate::volumes::arriving::Arriving;
use crate::volumes::moved::Moved;
use crate::volumes::notes::Note;
use crate::volumes::open::{self, OpenPlan};

/// How long the lock of a file may outlive its owner's last request.
const LOCKED: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// Volumes between this node and others.
#[derive(Debug, Default)]
pub(super) struct Ways {
    /// Those that were given to other nodes.
    pub(super) moved: BTreeMap<VolumeId, Moved>,
    /// Those that other nodes are to give to this one.
    pub(super) arriving: BTreeMap<VolumeId, Arriving>,
    /// Those whose files are being opened.
    pub(super) taking: BTreeSet<VolumeId>,
}

/// The files were not given away.
#[derive(Debug)]
pub(super) struct NotGiven {
    why: String,
    /// They are this node's, for certain.
    ours: bool,
    plan: Option<Box<OpenPlan>>,
}

pub(super) fn folder_of(data: &Path, volume: VolumeId) -> PathBuf {
    data.join("volumes").join(volume.to_string())
}

/// What the old node does to the files, on a thread that may block: nobody reads or writes them here
/// any more, and no lock is held.
fn quiet(files: &Files, primary: Option<&PrimaryVolume>, label: &str) -> Result<(), String> {
    if let Some(p) = primary {
        p.gate().retire();
        p.gate().await_quiet();
        if let Err(why) = p.settle_extents() {
            tracing::warn!("volume {label}: {why}: it will seem to have changes");
        }
    }
    files.let_go().map_err(|e| format!("its files could not be let go of: {e}"))
}

/// Who waits for each durable step of a move; an error of its keeps the step from being made. Only
/// tests have one that says no.
pub(super) type Steps<'a> = &'a mut dyn FnMut(&'static str) -> Result<(), String>;

/// Writes down that the volume is another node's. On an error: whether it is still this node's, for
/// certain.
pub(super) fn give(
    data: &Path,
    was: &Identity,
    standing: Standing,
    gone: &Moved,
    steps: Steps<'_>,
) -> Result<(), (String, bool)> {
    let folder = folder_of(data, was.volume);
    steps("moved").and_then(|()| gone.store(data)).map_err(|why| (why, true))?;
    let base = was.base.as_ref().map(|b| std::path::absolute(b).unwrap_or_else(|_| b.clone()));
    let theirs = Identity { node: gone.to.clone(), standing, base, ..was.clone() };
    steps("identity").map_err(|why| (why, true))?;
    theirs.store(&folder).map_err(|e| {
        // After an error the file may be the old one or the new one.
        let ours = was.store(&folder).is_ok();
        (e.to_string(), ours)
    })?;
    // They have served.
    let _ = std::fs::remove_file(folder.join(MARK));
    if let Some(base) = &theirs.base {
        let _ = std::fs::remove_file(same::mark_beside(base));
    }
    Ok(())
}

impl Core {
    /// It belongs to another node: who asks for it here is told.
    pub(super) fn gave(&mut self, m: Moved) {
        let told = m.told(&self.folder);
        tracing::warn!("volume {} is not made here: {told}", m.label);
        self.names.remove(m.volume);
        self.names.set_closed(m.volume, m.label.as_str(), &told);
        self.mover.gave(m.volume, m.group.clone(), m.label.clone());
        self.ways.moved.insert(m.volume, m);
    }

    pub(super) fn moved_status(&self) -> Vec<MovedStatus> {
        let status = |m: &Moved| MovedStatus {
            id: m.volume.to_string(),
            label: m.label.to_string(),
            group: m.group.to_string(),
            to: m.to.to_string(),
            folder: m.waits(&self.folder).then(|| same::shown(&folder_of(&self.folder, m.volume))),
        };
        self.ways.moved.values().map(status).collect()
    }

    pub(super) fn give_away(&mut self, ask: AskId, id: VolumeId, to: NodeName, standing: Standing) {
        let Some(shared) = self.volumes.remove(&id) else { return };
        self.names.remove(id);
        self.names.set_closed(id, shared.identity.label.as_str(), &format!("it moves to {to}"));
        let was = shared.identity;
        let gone =
            Moved { volume: id, label: was.in_group().clone(), group: was.group.clone(), to };
        let plan = self.plans.get(&was.group).map(|p| Box::new(p.open.clone()));
        let (files, primary) = (shared.disk.files().clone(), shared.primary);
        let (data, core) = (self.folder.clone(), self.sender.clone());
        tokio::task::spawn_blocking(move || {
            let done = quiet(&files, primary.as_deref(), was.label.as_str())
                .map_err(|why| (why, true))
                .and_then(|()| give(&data, &was, standing, &gone, &mut |_| Ok(())));
            let given = match done {
                Ok(()) => Ok(gone),
                Err((why, ours)) => Err(NotGiven { why, ours, plan }),
            };
            let _ = core.blocking_send(Input::Given { volume: id, given, ask });
        });
    }

    pub(super) fn given(&mut self, id: VolumeId, given: Result<Moved, NotGiven>, ask: AskId) {
        let reply = match given {
            Ok(m) => {
                self.gave(m);
                Reply::Done
            }
            Err(NotGiven { why, ours, plan }) => {
                tracing::error!("volume {id} was not given away: {why}");
                let then = match plan.filter(|_| ours) {
                    Some(plan) => {
                        self.open_again(id, *plan, None);
                        "it is opened here again"
                    }
                    None => {
                        "and whether the disk says so is not known: look at the disk, then start this \
                         node again"
                    }
                };
                let text = format!("volume {id} was not given away: {why}; {then}");
                Reply::Refused(ApiError::new(ApiErrorKind::Internal, text))
            }
        };
        if let Some(r) = self.asks.remove(&ask) {
            let _ = r.send(reply);
        }
    }

    /// Opens a volume whose folder is there.
    pub(super) fn open_again(
        &mut self,
        id: VolumeId,
        plan: OpenPlan,
        reply: Option<Waiting<VolumeInfo>>,
    ) {
        self.names.remove(id);
        let (folder, core) = (folder_of(&self.folder, id), self.sender.clone());
        tokio::task::spawn_blocking(move || {
            let until = clock::mono().after(LOCKED);
            let opened = loop {
                match open::open(&folder, &plan, clock::mono(), clock::wall()) {
                    Err(open::OpenFailure::Storage(StorageError::Locked(_)))
                        if clock::mono() < until =>
                    {
                        std::thread::sleep(LOOK);
                    }
                    other => break other,
                }
            };
            let opened = opened.map(Box::new).map_err(|e| e.to_string());
            let _ = core.blocking_send(Input::Opened { volume: id, opened, reply });
        });
    }
}

/// Where a volume of `owner` is, with fresh marks beside its files if those are wanted.
pub(super) fn show(
    data: &Path,
    volume: VolumeId,
    (here, owner): (&NodeName, &NodeName),
    mark: bool,
) -> Result<Shown, String> {
    let folder = folder_of(data, volume);
    let identity = Identity::load(&folder, owner).map_err(|e| e.to_string())?;
    let mark = mark.then(|| uuid::Uuid::new_v4().to_string());
    if let Some(mark) = &mark {
        same::put_mark(&folder.join(MARK), mark)?;
    }
    let base = match &identity.base {
        None => None,
        Some(base) => {
            let found = same::look(base)?;
            if let Some(mark) = mark.as_ref().filter(|_| found.device.is_none()) {
                same::put_mark(&same::mark_beside(base), mark)?;
            }
            Some(found)
        }
    };
    Ok(Shown {
        id: volume.to_string(),
        label: identity.in_group().to_string(),
        group: identity.group.to_string(),
        node: here.to_string(),
        folder: same::shown(&folder),
        mark,
        base,
    })
}
