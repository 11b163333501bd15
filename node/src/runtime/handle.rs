//! The running node as others see it: [`NodeApi`] over the core's queue.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use config::AddedGroup;
use rcp::proto::ids::{GroupName, Label, VolumeId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use volmcast::storage::{Identity, has_content};
use volmcast::units::{BlockCount, BlockSize};

use super::core::Input;
use super::disk;
use super::groups::Known;
use crate::api::{
    Answer, ApiError, ApiErrorKind, Changes, CutInfo, MemberResult, NodeApi, NodeStatus,
    PolicyChange, RouteTable, RouteWay, StateReader, TopologyTaken, VolumeInfo, VolumeSpec,
    WriterAnswer, WriterChange,
};
use crate::mover::{Ask, COPY_EXTENT, Extent, Order, Reply};
use crate::nbd::{OpenError, OpenErrorKind};
use crate::shift::{Answered, Step};
use crate::volumes::Names;
use crate::volumes::open::OpenPlan;

/// Asks the core.
pub struct NodeHandle {
    pub(super) core: mpsc::Sender<Input>,
    pub(super) names: Arc<Names>,
    pub(super) ready: AtomicBool,
    pub(super) stop: CancellationToken,
    pub(super) folder: PathBuf,
    /// The topology, and what commands added to it.
    pub(super) known: Arc<Known>,
}

pub(super) fn not_open(e: OpenError) -> ApiError {
    let kind = match e.kind {
        OpenErrorKind::Unknown => ApiErrorKind::NotFound,
        OpenErrorKind::Policy => ApiErrorKind::Conflict,
        OpenErrorKind::NotReady => ApiErrorKind::Unavailable,
    };
    ApiError::new(kind, e.text)
}

fn gone() -> ApiError {
    ApiError::new(ApiErrorKind::Unavailable, "the node is being stopped")
}

/// A new volume begins with zeroes: what lies there already would be on this node and on no other.
fn free_of_content(path: &Path, label: &str) -> Result<(), String> {
    let shown = path.display();
    let what = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(format!("{shown}: {e}")),
        Ok(m) if m.is_dir() => return Err(format!("{shown} is a folder: name a file in it")),
        Ok(m) if m.is_file() => match has_content(path) {
            Ok(false) => return Ok(()),
            Ok(true) => format!("has content ({} bytes)", m.len()),
            Err(e) => return Err(format!("{shown}: {e}")),
        },
        Ok(_) => "is a device, and what is on it is not known".to_owned(),
    };
    Err(format!("{shown} {what}: `rcpctl volume import {label} {shown}` makes a volume of it"))
}

impl NodeHandle {
    async fn ask(&self, question: Ask) -> Result<Reply, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.core.send(Input::Ask { question, reply }).await.map_err(|_| gone())?;
        match answer.await.map_err(|_| gone())? {
            Reply::Refused(e) => Err(e),
            other => Ok(other),
        }
    }

    /// The group as it is known here is one of the node's groups.
    async fn enter_again(&self, group: &GroupName) -> Result<(), ApiError> {
        let Some(defined) = self.known.again(group) else { return Ok(()) };
        self.done(Ask::Learn(Box::new(defined?.learned))).await
    }

    pub(super) async fn done(&self, question: Ask) -> Result<(), ApiError> {
        self.ask(question).await.map(|_| ())
    }

    async fn table(&self, question: Ask) -> Result<RouteTable, ApiError> {
        match self.ask(question).await? {
            Reply::Routes(t) => Ok(t),
            _ => Err(ApiError::new(ApiErrorKind::Internal, "an answer of the wrong kind")),
        }
    }

    /// From a request to the identity of a volume to be made.
    fn identity(&self, spec: &VolumeSpec) -> Result<(Identity, OpenPlan), ApiError> {
        let bad = |text: String| ApiError::new(ApiErrorKind::BadRequest, text);
        let label = Label::new(&spec.label).map_err(|e| bad(e.to_string()))?;
        let group = GroupName::new(&spec.group).map_err(|e| bad(e.to_string()))?;
        let plan = self.known.as_primary(&group).map_err(bad)?;
        let block_size = match spec.block_size {
            None => BlockSize::DEFAULT,
            Some(n) => BlockSize::from_bytes(n).ok_or_else(|| {
                bad(format!(
                    "a block size of {n} bytes is not possible: a power of two, 512 B to 1 MiB"
                ))
            })?,
        };
        let bs = block_size.bytes();
        let base = spec.backing.as_ref().map(PathBuf::from);
        let mut size = spec.size;
        if spec.import {
            let path = base
                .as_ref()
                .ok_or_else(|| bad("an import needs the file to import".to_owned()))?;
            let len =
                std::fs::metadata(path).map_err(|e| bad(format!("{}: {e}", path.display())))?.len();
            size = size.max(len).div_ceil(bs) * bs;
        } else if let Some(path) = &base {
            free_of_content(path, &spec.label).map_err(bad)?;
        }
        if size == 0 || !size.is_multiple_of(bs) {
            return Err(bad(format!(
                "a size of {size} bytes is not a multiple of the block size {bs}"
            )));
        }
        if size > 64 << 40 || size / bs > 1 << 34 {
            return Err(bad(format!(
                "a size of {size} bytes is too large: at most 64 TiB and 2^34 blocks"
            )));
        }
        let identity = Identity {
            volume: VolumeId(*uuid::Uuid::new_v4().as_bytes()),
            label,
            source: None,
            group,
            node: plan.open.node.clone(),
            role: "primary".to_owned(),
            block_size,
            blocks: BlockCount(size / bs),
            save: spec.save.unwrap_or(plan.default_save),
            snapshots: plan.snapshots,
            base,
            standing: volmcast::storage::Standing::default(),
        };
        let open = OpenPlan { import: spec.import, ..plan.open.clone() };
        Ok((identity, open))
    }

    /// Has the next set carry an extent again, and the order wait for it (CB-01).
    async fn copy_extent(&self, order: &mut Order) -> Result<(), ApiError> {
        let bad = |text: String| ApiError::new(ApiErrorKind::BadRequest, text);
        let e = Extent::read(&order.body).map_err(bad)?;
        let primary = self.names.get(&e.volume).and_then(|v| v.primary).ok_or_else(|| {
            bad(format!(
                "{} is not the label of a volume that is written here: extents are copied from the \
                 primary",
                e.volume
            ))
        })?;
        let (offset, length) = (e.offset, e.length);
        super::disk::touch(primary, offset, length).await.map_err(bad)?;
        let cut = self.cut(&e.volume, false).await?;
        order.after = Some((e.volume, Some(cut.set)));
        Ok(())
    }

    /// Where its data lies.
    #[must_use]
    pub fn folder(&self) -> &PathBuf {
        &self.folder
    }
}

impl NodeApi for NodeHandle {
    fn status(&self) -> Answer<'_, NodeStatus> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            self.core.send(Input::Status { reply }).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())
        })
    }

    fn ready(&self) -> Result<(), String> {
        if self.ready.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err("the node is still opening its volumes".to_owned())
        }
    }

    fn writes(&self, volume: &str) -> bool {
        let primary = self.names.get(volume).and_then(|e| e.primary);
        primary.is_some_and(|p| p.gate().is_open())
    }

    fn shows(&self, volume: &str) -> bool {
        self.names.open_state(volume, None).is_ok()
    }

    fn cut<'a>(&'a self, volume: &'a str, keep: bool) -> Answer<'a, CutInfo> {
        Box::pin(async move {
            match self.ask(Ask::Cut { volume: volume.to_owned(), keep }).await? {
                Reply::Cut(c) => Ok(c),
                _ => Err(ApiError::new(ApiErrorKind::Internal, "an answer of the wrong kind")),
            }
        })
    }

    fn keep<'a>(&'a self, volume: &'a str, set: u64) -> Answer<'a, ()> {
        Box::pin(self.done(Ask::Keep { volume: volume.to_owned(), set }))
    }

    fn release<'a>(&'a self, volume: &'a str, set: u64) -> Answer<'a, ()> {
        Box::pin(self.done(Ask::Release { volume: volume.to_owned(), set }))
    }

    fn open_state<'a>(
        &'a self,
        volume: &'a str,
        state: Option<&'a str>,
    ) -> Answer<'a, Arc<dyn StateReader>> {
        Box::pin(async move {
            match self.names.open_state(volume, state) {
                Ok(v) => Ok(Arc::new(v) as Arc<dyn StateReader>),
                Err(e) => Err(not_open(e)),
            }
        })
    }

    fn changes<'a>(
        &'a self,
        volume: &'a str,
        since: Option<&'a str>,
        state: &'a str,
        from: u64,
    ) -> Answer<'a, Changes> {
        let (since, state) = (since.map(str::to_owned), state.to_owned());
        let asked = disk::changes(self.names.clone(), volume.to_owned(), since, state, from);
        Box::pin(async move { asked.await.unwrap_or_else(|| Err(gone())) })
    }

    fn volume_create(&self, spec: VolumeSpec) -> Answer<'_, VolumeInfo> {
        Box::pin(async move {
            let (identity, plan) = self.identity(&spec)?;
            let (reply, answer) = oneshot::channel();
            let input = Input::Create { identity: Box::new(identity), plan: Box::new(plan), reply };
            self.core.send(input).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        })
    }

    fn volume_resize<'a>(&'a self, volume: &'a str, size: u64) -> Answer<'a, ()> {
        Box::pin(self.done(Ask::Resize { volume: volume.to_owned(), size }))
    }

    fn volume_rename<'a>(&'a self, volume: &'a str, label: &'a str) -> Answer<'a, ()> {
        let (volume, label) = (volume.to_owned(), label.to_owned());
        Box::pin(self.done(Ask::Rename { volume, label }))
    }

    fn volume_delete<'a>(&'a self, volume: &'a str) -> Answer<'a, ()> {
        Box::pin(self.done(Ask::Delete { volume: volume.to_owned() }))
    }

    fn retire(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let status = self.status().await?;
            super::retired::allowed(&status)?;
            super::retired::store(&self.folder, self.known.node())?;
            self.stop.cancel();
            Ok(())
        })
    }

    fn volume_move(&self, step: Step) -> Answer<'_, Answered> {
        Box::pin(self.shift(step))
    }

    fn replicate<'a>(&'a self, volume: &'a str, on: bool) -> Answer<'a, ()> {
        Box::pin(self.done(Ask::Replicate { volume: volume.to_owned(), on }))
    }

    fn seed<'a>(&'a self, volume: &'a str, child: &'a str) -> Answer<'a, ()> {
        Box::pin(self.done(Ask::Seed { volume: volume.to_owned(), child: child.to_owned() }))
    }

    fn detach<'a>(&'a self, volume: &'a str, child: &'a str) -> Answer<'a, ()> {
        Box::pin(self.done(Ask::Detach { volume: volume.to_owned(), child: child.to_owned() }))
    }

    fn policy<'a>(&'a self, volume: &'a str, change: PolicyChange) -> Answer<'a, ()> {
        Box::pin(self.done(Ask::Policy { volume: volume.to_owned(), change }))
    }

    fn views<'a>(&'a self, volume: &'a str, open: bool) -> Answer<'a, ()> {
        Box::pin(self.done(Ask::Views { volume: volume.to_owned(), open }))
    }

    fn writer(&self, change: WriterChange) -> Answer<'_, WriterAnswer> {
        Box::pin(async move {
            match self.ask(Ask::Writer(change)).await? {
                Reply::Writer(a) => Ok(a),
                Reply::Cut(c) => Ok(WriterAnswer::Held(c)),
                _ => Ok(WriterAnswer::Done),
            }
        })
    }

    fn hash<'a>(
        &'a self,
        volume: &'a str,
        set: u64,
        len: u64,
        wait: std::time::Duration,
    ) -> Answer<'a, Vec<MemberResult>> {
        Box::pin(async move {
            let question = Ask::Hash { volume: volume.to_owned(), set, len, wait };
            match self.ask(question).await? {
                Reply::Members(m) => Ok(m),
                _ => Err(ApiError::new(ApiErrorKind::Internal, "an answer of the wrong kind")),
            }
        })
    }

    fn block_send(&self, mut order: Order) -> Answer<'_, Vec<MemberResult>> {
        Box::pin(async move {
            if order.kind == COPY_EXTENT {
                self.copy_extent(&mut order).await?;
            }
            match self.ask(Ask::Block(order)).await? {
                Reply::Members(m) => Ok(m),
                _ => Err(ApiError::new(ApiErrorKind::Internal, "an answer of the wrong kind")),
            }
        })
    }

    fn routes<'a>(&'a self, group: Option<&'a str>) -> Answer<'a, RouteTable> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let group = group.map(str::to_owned);
            self.core.send(Input::Routes { group, reply }).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        })
    }

    fn route_add<'a>(
        &'a self,
        group: &'a str,
        next_hop: &'a str,
        by: &'a RouteWay,
        unasked: bool,
    ) -> Answer<'a, RouteTable> {
        let (group, next_hop) = (group.to_owned(), next_hop.to_owned());
        Box::pin(async move {
            let by = by.hop().map_err(|e| ApiError::new(ApiErrorKind::BadRequest, e))?;
            self.table(Ask::RouteAdd { group, next_hop, by, unasked }).await
        })
    }

    fn route_delete<'a>(
        &'a self,
        group: Option<&'a str>,
        next_hop: Option<&'a str>,
    ) -> Answer<'a, RouteTable> {
        let (group, next_hop) = (group.map(str::to_owned), next_hop.map(str::to_owned));
        Box::pin(self.table(Ask::RouteDelete { group, next_hop }))
    }

    fn topology(&self, text: String) -> Answer<'_, TopologyTaken> {
        Box::pin(async move {
            let _one = self.known.changing.lock().await;
            let (learned, told, taken) = self.known.compare(&text)?;
            self.done(Ask::Learn(Box::new(learned))).await?;
            self.known.take(taken);
            Ok(told)
        })
    }

    fn group_define(&self, group: String, definition: Option<AddedGroup>) -> Answer<'_, ()> {
        Box::pin(async move {
            let _one = self.known.changing.lock().await;
            match definition {
                Some(definition) => {
                    let defined = self.known.define(&group, definition)?;
                    defined.taken.store()?;
                    let plan = Input::Plan { group: defined.group, plan: Box::new(defined.plan) };
                    self.core.send(plan).await.map_err(|_| gone())?;
                    self.known.take(defined.taken);
                    self.done(Ask::Learn(Box::new(defined.learned))).await
                }
                None => {
                    let Some((group, taken)) = self.known.forget(&group)? else { return Ok(()) };
                    self.done(Ask::Leave(group.clone())).await?;
                    if let Err(e) = taken.store() {
                        // Not left, then: whoever looks still finds the group, and says it again.
                        self.enter_again(&group).await?;
                        return Err(e);
                    }
                    self.known.take(taken);
                    Ok(())
                }
            }
        })
    }

    fn shutdown(&self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_volume_is_made_of_nothing_that_is_somebodys() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("mine.txt");
        assert_eq!(free_of_content(&path, "v5"), Ok(()));
        std::fs::write(&path, "").expect("an empty file");
        assert_eq!(free_of_content(&path, "v5"), Ok(()));
        std::fs::File::options()
            .write(true)
            .open(&path)
            .and_then(|f| f.set_len(1 << 20))
            .expect("a hole");
        assert_eq!(free_of_content(&path, "v5"), Ok(()));
        std::fs::write(&path, "1\n2\n").expect("content");
        let text = free_of_content(&path, "v5").expect_err("refused");
        assert!(text.contains("has content (4 bytes): `rcpctl volume import v5 "), "{text}");
        assert_eq!(std::fs::read(&path).expect("as it was"), b"1\n2\n");
        let text = free_of_content(dir.path(), "v5").expect_err("refused");
        assert!(text.contains("is a folder"), "{text}");
        let text = free_of_content(Path::new("/dev/null"), "v5").expect_err("refused");
        assert!(text.contains("is a device"), "{text}");
    }
}
