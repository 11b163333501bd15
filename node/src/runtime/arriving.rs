//! A volume comes from another node with all its files (GEN-12): what the new node does. `leaving` is
//! the old one's part.
//!
//! Before the old node is asked to give, this one has seen that it reaches the very files, and has
//! stored so (`arriving/UUID`). Nothing that comes over the network later says where files are.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rcp::proto::ids::{NodeName, VolumeId};
use rustix::fs::FlockOperation;
use tokio::sync::oneshot;
use volmcast::storage::{Identity, IdentityError, StorageError};

use super::core::{Core, Input, Waiting};
use super::handle::NodeHandle;
use super::leaving::{Steps, folder_of, show};
use super::same;
use crate::api::{ApiError, ApiErrorKind, NodeApi, VolumeInfo};
use crate::mover::Ask;
use crate::shift::{Answered, ArrivingStatus, MARK, Reach, Step};
use crate::volumes::arriving::{self, Arriving};
use crate::volumes::moved::Moved;
use crate::volumes::notes::Note;
use crate::volumes::owner;

fn conflict(text: String) -> ApiError {
    ApiError::new(ApiErrorKind::Conflict, text)
}

/// Whether this node sees the very files that another showed, and could take them by renaming their
/// folder. `backing` is where the topology has the content here.
fn reach(
    data: &Path,
    r: &Reach,
    node: &NodeName,
    backing: Option<PathBuf>,
) -> Result<Arriving, String> {
    let s = &r.shown;
    let bad = |what: &str| format!("`{what}` is no name of that kind");
    let volume: VolumeId = s.id.parse().map_err(|_| bad(&s.id))?;
    let not = |what: String| {
        format!(
            "{node} does not share the storage of {}: {what}; without shared storage a volume moves \
             by a planned swap, to a node that has a replica",
            s.node
        )
    };
    let folder = same::volume_folder(&s.folder, volume, data).map_err(not)?;
    let apart = |e: &str| {
        not(format!(
            "{} cannot be renamed to {} ({e}): both data folders have to be on one file system",
            folder.display(),
            data.display()
        ))
    };
    match &s.mark {
        Some(mark) => {
            let path = folder.join(MARK);
            same::is_marked(&path, mark).map_err(not)?;
            // A folder can be renamed to where a file in it can be linked to.
            let probe = data.join(format!("{MARK}.{volume}"));
            let _ = std::fs::remove_file(&probe);
            let linked = std::fs::hard_link(&path, &probe);
            let _ = std::fs::remove_file(&probe);
            linked.map_err(|e| apart(&e.to_string()))?;
        }
        None => {
            let of = |path: &Path| std::fs::metadata(path).map(|m| m.dev());
            let (theirs, ours) = (of(&folder), of(data));
            if theirs.map_err(|e| not(e.to_string()))? != ours.map_err(|e| e.to_string())? {
                return Err(apart("they are on two file systems"));
            }
        }
    }
    let base = match &s.base {
        None => None,
        Some(theirs) => {
            let here = backing.unwrap_or_else(|| PathBuf::from(&theirs.path));
            let here = std::path::absolute(&here).map_err(|e| e.to_string())?;
            let found = same::look(&here).map_err(not)?;
            same::may_be(theirs, &found, r.same_device).map_err(not)?;
            if let Some(mark) = s.mark.as_ref().filter(|_| found.device.is_none()) {
                same::is_marked(&same::mark_beside(&here), mark).map_err(not)?;
            }
            Some(here)
        }
    };
    Ok(Arriving {
        volume,
        label: s.label.parse().map_err(|_| bad(&s.label))?,
        group: s.group.parse().map_err(|_| bad(&s.group))?,
        from: s.node.parse().map_err(|_| bad(&s.node))?,
        folder,
        base,
    })
}

/// The same, and it is stored that the volume comes.
pub(super) fn expect(
    data: &Path,
    r: &Reach,
    node: &NodeName,
    backing: Option<PathBuf>,
    steps: Steps<'_>,
) -> Result<Arriving, String> {
    if r.shown.mark.is_none() {
        return Err("marks show that both nodes see the same files, and there are none".to_owned());
    }
    let a = reach(data, r, node, backing)?;
    if a.from == *node {
        return Err(format!("{node} cannot be given what is its own"));
    }
    steps("arriving").and_then(|()| a.store(data))?;
    Ok(a)
}

/// A volume's identity is the expected one.
fn expected(i: &Identity, a: &Arriving, folder: &Path) -> Result<(), String> {
    let Arriving { volume, label, group, .. } = a;
    if i.volume != *volume || i.group != *group || i.in_group() != label {
        return Err(format!(
            "{} holds volume {} of group {} ({}), not {label} of group {group} ({volume})",
            folder.display(),
            i.in_group(),
            i.group,
            i.volume
        ));
    }
    if i.role != "primary" {
        return Err(format!(
            "{} is a {} of {label} of its own, not what {} gave: `rcpctl volume delete {label} --yes` at \
             this node removes it (what was given stays), then say the same command again",
            folder.display(),
            i.role,
            a.from
        ));
    }
    Ok(())
}

/// The content's record names this node, and no other one has it locked.
fn take_content(base: &Path, a: &Arriving, node: &NodeName, own: &Path) -> Result<(), String> {
    let shown = |e: std::io::Error| format!("{}: {e}", base.display());
    let file = std::fs::File::options().read(true).write(true).open(base).map_err(shown)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(format!(
                "{} is in use by another process, although {} gave it away: stop that one, then say the \
                 same command again",
                base.display(),
                a.from
            ));
        }
        Err(e) => return Err(shown(e.into())),
    }
    owner::transfer(base, a.volume, (&a.from, node), own)
}

/// Makes what was given this node's own. Repeatable: each step leaves what the next one begins with.
pub(super) fn take(
    data: &Path,
    id: VolumeId,
    node: &NodeName,
    steps: Steps<'_>,
) -> Result<(), String> {
    let a = Arriving::load(data, id)
        .map_err(|why| format!("{node} does not expect volume {id} ({why})"))?;
    let (own, from) = (folder_of(data, id), &a.folder);
    let here = std::fs::symlink_metadata(&own);
    if here.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
        let from = same::volume_folder(&from.display().to_string(), id, data)?;
        let mut identity = match Identity::load(&from, node) {
            Ok(identity) => identity,
            Err(StorageError::Identity(IdentityError::OtherNode { found, .. })) => {
                return Err(format!(
                    "{} is in use by node {found}; it has to let go of it first: `rcpctl volume move` \
                     does that",
                    from.display()
                ));
            }
            Err(e) => return Err(e.to_string()),
        };
        expected(&identity, &a, &from)?;
        let theirs = from.parent().and_then(Path::parent).unwrap_or(&from);
        let given = Moved::load(theirs, id);
        if !given.is_ok_and(|m| m.to == *node && m.is_called(&a.group, &a.label)) {
            return Err(format!(
                "{} does not say that {} gave volume {} to {node}",
                theirs.join("moved").join(id.to_string()).display(),
                a.from,
                a.label
            ));
        }
        if identity.base.is_some() != a.base.is_some() {
            return Err(format!("{} keeps its content elsewhere than was shown", from.display()));
        }
        if identity.base != a.base {
            steps("base")?;
            identity.base.clone_from(&a.base);
            identity.store(&from).map_err(|e| e.to_string())?;
        }
        if let Some(base) = &a.base {
            steps("owner")?;
            take_content(base, &a, node, &own)?;
        }
        steps("rename")?;
        std::fs::rename(&from, &own)
            .map_err(|e| format!("{} to {}: {e}", from.display(), own.display()))?;
    }
    let identity = Identity::load(&own, node).map_err(|e| e.to_string())?;
    expected(&identity, &a, &own)?;
    // Also if it was renamed before: only then is it known to stay so.
    arriving::settle(data, &a)?;
    steps("forget")?;
    Moved::forget(data, id)
}

impl Core {
    /// It is on its way: who asks for it here is told.
    pub(super) fn expects(&mut self, a: Arriving) {
        let told = a.told(&self.folder, self.known.node());
        tracing::warn!("volume {} is not made here: {told}", a.label);
        self.names.set_closed(a.volume, a.label.as_str(), &told);
        self.ways.arriving.insert(a.volume, a);
    }

    /// Nothing that is here, or being made, is in the way of it.
    pub(super) fn expect(&mut self, a: Arriving, reply: Waiting<()>) {
        let taken = self.mover.labels().any(|(l, _)| *l == a.label);
        let answer = if taken || self.volumes.contains_key(&a.volume) {
            if let Err(why) = Arriving::forget(&self.folder, a.volume) {
                tracing::error!("{why}");
            }
            let node = self.known.node();
            Err(conflict(format!("{node} has a volume called {} already", a.label)))
        } else {
            self.expects(a);
            Ok(())
        };
        let _ = reply.send(answer);
    }

    pub(super) fn arriving_status(&self) -> Vec<ArrivingStatus> {
        let node = self.known.node();
        let status = |a: &Arriving| ArrivingStatus {
            id: a.volume.to_string(),
            label: a.label.to_string(),
            group: a.group.to_string(),
            from: a.from.to_string(),
            given: a.is_given(node),
        };
        self.ways.arriving.values().map(status).collect()
    }

    /// The files are this node's: opens them.
    pub(super) fn take(&mut self, id: VolumeId, reply: Waiting<VolumeInfo>) {
        let opening = || conflict("the volume is being opened: say the same command again".into());
        if self.volumes.contains_key(&id) {
            let text = id.to_string();
            let info = self.mover.status().volumes.into_iter().find(|v| v.id == text);
            let _ = reply.send(info.ok_or_else(opening));
            return;
        }
        if !self.ways.taking.insert(id) {
            let _ = reply.send(Err(opening()));
            return;
        }
        let identity = Identity::load(&folder_of(&self.folder, id), self.known.node());
        let plan = match &identity {
            Ok(i) => self.plans.get(&i.group).map(|p| p.open.clone()).ok_or_else(|| {
                conflict(format!("{} is in no group {}", self.known.node(), i.group))
            }),
            Err(e) => Err(conflict(e.to_string())),
        };
        match plan {
            Ok(plan) => self.open_again(id, plan, Some(reply)),
            Err(e) => {
                self.ways.taking.remove(&id);
                drop(reply.send(Err(e)));
            }
        }
    }

    /// A volume is here: it is neither gone nor on its way.
    pub(super) fn is_here(&mut self, id: VolumeId) {
        self.ways.taking.remove(&id);
        self.ways.moved.remove(&id);
        self.ways.arriving.remove(&id);
        let gone = [Moved::forget(&self.folder, id), Arriving::forget(&self.folder, id)];
        for why in gone.into_iter().filter_map(Result::err) {
            tracing::error!("{why}: remove it, or it is read again at the next start");
        }
    }
}

impl NodeHandle {
    /// One step of a volume's way to another node.
    pub(super) async fn shift(&self, step: Step) -> Result<Answered, ApiError> {
        match step {
            Step::Show { volume, mark } => self.show(&volume, mark).await.map(Answered::Shown),
            Step::Reach(r) => {
                let _one = self.known.shifting.lock().await;
                let backing = self.could_take(&r).await?;
                let (data, node) = (self.folder.clone(), self.known.node().clone());
                blocking(move || reach(&data, &r, &node, backing)).await?;
                Ok(Answered::Done)
            }
            Step::Expect(r) => {
                let _one = self.known.shifting.lock().await;
                let backing = self.could_take(&r).await?;
                self.member_of(&r.shown.group)?;
                let (data, node) = (self.folder.clone(), self.known.node().clone());
                let work = move || expect(&data, &r, &node, backing, &mut |_| Ok(()));
                let a = blocking(work).await?;
                self.core_does(|reply| Input::Expect { arriving: Box::new(a), reply }).await?;
                Ok(Answered::Done)
            }
            Step::Give { volume, to, set } => {
                self.done(Ask::Give { volume, to, set }).await?;
                Ok(Answered::Done)
            }
            Step::Take { id } => self.take(&id).await,
        }
    }

    async fn core_does<T>(&self, input: impl FnOnce(Waiting<T>) -> Input) -> Result<T, ApiError> {
        let gone = || ApiError::new(ApiErrorKind::Unavailable, "the node is being stopped");
        let (reply, answer) = oneshot::channel();
        self.core.send(input(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    fn member_of(&self, group: &str) -> Result<(), ApiError> {
        if self.known.plans().keys().any(|g| g.as_str() == group) {
            return Ok(());
        }
        Err(conflict(format!("{} is in no group {group}", self.known.node())))
    }

    /// What is here, or was given away and not taken yet.
    async fn show(&self, volume: &str, mark: bool) -> Result<crate::shift::Shown, ApiError> {
        let (data, node) = (self.folder.clone(), self.known.node().clone());
        let status = self.status().await?;
        let none = || {
            let text = format!("{node} has no volume `{volume}` that is open");
            ApiError::new(ApiErrorKind::NotFound, text)
        };
        let open = status.volumes.iter().find(|v| v.is_called(volume));
        let given = status.moved.iter().find(|m| m.id == volume && m.folder.is_some());
        let (id, owner) = match (open, given) {
            (Some(v), _) => (v.id.parse().map_err(|_| none())?, node.clone()),
            (None, Some(m)) => {
                (m.id.parse().map_err(|_| none())?, m.to.parse().map_err(|_| none())?)
            }
            (None, None) => return Err(none()),
        };
        blocking(move || show(&data, id, (&node, &owner), mark)).await
    }

    async fn take(&self, id: &str) -> Result<Answered, ApiError> {
        let _one = self.known.shifting.lock().await;
        let volume: VolumeId = id
            .parse()
            .map_err(|_| ApiError::new(ApiErrorKind::BadRequest, format!("`{id}` is no UUID")))?;
        let node = self.known.node().clone();
        let status = self.status().await?;
        match status.volumes.iter().find(|v| v.id == id) {
            // One that failed to open is opened again.
            Some(v) if v.role == "primary" && self.names.get(&v.label).is_some() => {
                return Ok(Answered::Done);
            }
            Some(v) if v.role != "primary" => {
                return Err(conflict(format!(
                    "{node} has a copy of {} of its own (as its {}): `rcpctl volume delete {} --yes \
                     --node {node}` removes it, then say the same command again",
                    v.label, v.role, v.label
                )));
            }
            _ => {}
        }
        if let Some(a) = status.arriving.iter().find(|a| a.id == id) {
            self.member_of(&a.group)?;
            no_namesake(&status, &a.id, &a.label)?;
        }
        let data = self.folder.clone();
        blocking(move || take(&data, volume, &node, &mut |_| Ok(()))).await?;
        self.core_does(|reply| Input::Take { volume, reply }).await?;
        Ok(Answered::Done)
    }

    /// Nothing that is here is in the way; where the topology has the content of the volume here, if
    /// that is outside.
    async fn could_take(&self, r: &Reach) -> Result<Option<PathBuf>, ApiError> {
        let (node, s) = (self.known.node(), &r.shown);
        let status = self.status().await?;
        if let Some(v) = status.volumes.iter().find(|v| v.id == s.id) {
            return Err(conflict(format!(
                "{node} has a copy of volume {} already (as its {}): a volume moves with its files to a \
                 node that has none",
                s.label, v.role
            )));
        }
        no_namesake(&status, &s.id, &s.label)?;
        let plans = self.known.plans();
        let plan = plans.iter().find(|(g, _)| g.as_str() == s.group);
        Ok(plan.and_then(|(_, p)| p.backing.get(&s.label).cloned()))
    }
}

fn no_namesake(status: &crate::api::NodeStatus, id: &str, label: &str) -> Result<(), ApiError> {
    match status.volumes.iter().find(|v| v.label == label && v.id != id) {
        Some(v) => Err(conflict(format!(
            "{} has another volume called {label} (of group {}): rename or delete that one first",
            status.node, v.group
        ))),
        None => Ok(()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(e.to_string())).map_err(conflict)
}
