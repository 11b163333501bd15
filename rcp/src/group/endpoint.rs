//! What an application holds: endpoints, sessions with groups, pipes, acknowledgements.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::clock::Clock;
use super::core::{Core, Input, Reply};
use super::port;
use super::record::Records;
use super::setup::{Setup, SetupError, check_kind};
use super::tasks;
use crate::proto::control::pipe::{self, MAX_PIECE, PipeId, WINDOW};
use crate::proto::control::{BlockId, Journal, Member};
use crate::proto::frame::ControlBlock;
use crate::proto::ids::{GroupName, NodeName};
use crate::proto::limits::MAX_CONTROL_BLOCK;

/// Inputs that wait for the core.
const QUEUE: usize = 1024;
/// A piece of a pipe that is on its way for so many times the patience frees its place.
const PATIENCES: u32 = 6;

/// What became of a block at one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The callback was called and is content; what it gave.
    Done(Bytes),
    /// It will not be done there: no callback, or the callback says why.
    Refused(String),
    /// Nothing was heard of it before time was up, and why. It may still be done.
    Missing(String),
}

/// The acknowledgement of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Which.
    pub node: NodeName,
    /// What it says, or what is said of it.
    pub outcome: Outcome,
}

impl std::fmt::Display for Ack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.outcome {
            Outcome::Done(text) => {
                write!(f, "{}: done: {}", self.node, String::from_utf8_lossy(text))
            }
            Outcome::Refused(why) => write!(f, "{}: refused: {why}", self.node),
            Outcome::Missing(why) => write!(f, "{}: missing: {why}", self.node),
        }
    }
}

/// What the members of a group say, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acks {
    /// Id of the block; [`Session::send_as`] asks about it again.
    pub id: BlockId,
    /// All that are known; of those below a member that is away, nothing is.
    pub members: Vec<Ack>,
}

impl Acks {
    pub(super) fn new(id: BlockId, members: Vec<Member>) -> Self {
        let ack = |m: Member| {
            let text = || String::from_utf8_lossy(&m.text).into_owned();
            let outcome = match (m.ok, m.missing) {
                (true, _) => Outcome::Done(m.text),
                (false, true) => Outcome::Missing(text()),
                (false, false) => Outcome::Refused(text()),
            };
            Ack { node: m.node, outcome }
        };
        Self { id, members: members.into_iter().map(ack).collect() }
    }

    /// Whether every member has done it.
    #[must_use]
    pub fn all_done(&self) -> bool {
        self.members.iter().all(|a| matches!(a.outcome, Outcome::Done(_)))
    }

    /// What one member says.
    #[must_use]
    pub fn of(&self, node: &str) -> Option<&Outcome> {
        self.members.iter().find(|a| a.node.as_str() == node).map(|a| &a.outcome)
    }
}

impl std::fmt::Display for Acks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut first = true;
        for a in &self.members {
            if !std::mem::take(&mut first) {
                f.write_str("\n")?;
            }
            write!(f, "{a}")?;
        }
        Ok(())
    }
}

/// A child, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildState {
    /// Which.
    pub node: NodeName,
    /// Whether there is a session with it.
    pub connected: bool,
    /// Why not.
    pub why: Option<String>,
}

/// Why something cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The endpoint takes no part in it.
    #[error("this endpoint is not in a group {group}; its groups are: {known}")]
    Group {
        /// What was asked for.
        group: String,
        /// What there is.
        known: String,
    },
    /// A kind or name that cannot be one.
    #[error("{0}")]
    Kind(String),
    /// More than a block holds.
    #[error(
        "a control block holds at most {MAX_CONTROL_BLOCK} bytes, these are {0}: send them in a pipe"
    )]
    TooLong(usize),
    /// It cannot be taken now.
    #[error("{0}")]
    Busy(&'static str),
    /// No member took a pipe.
    #[error("no member takes this pipe:\n{0}")]
    Nobody(Acks),
    /// The pipe is broken.
    #[error("the pipe is broken: {0}")]
    Broken(String),
    /// The endpoint was stopped.
    #[error("the endpoint was stopped")]
    Stopped,
}

/// A member of groups: what it feeds, what feeds it, and its callbacks. It runs until it is stopped
/// or dropped.
#[derive(Debug)]
pub struct Endpoint {
    core: mpsc::Sender<Input>,
    clock: Arc<Clock>,
    name: NodeName,
    addr: Option<String>,
    groups: Vec<GroupName>,
    patience: Duration,
    /// Ends with the endpoint, and the core with it.
    _alive: oneshot::Sender<()>,
}

impl Endpoint {
    /// Opens the port, reads the record, and begins to dial children. Needs a tokio runtime with
    /// time and I/O.
    ///
    /// # Errors
    /// [`SetupError`]
    pub async fn start(setup: Setup) -> Result<Self, SetupError> {
        setup.check()?;
        let clock = Arc::new(Clock::new());
        let record = match &setup.record {
            Some(path) => {
                let (journal, records) = Records::open(path)?;
                (journal, Some(records))
            }
            None => (Journal::default(), None),
        };
        let listening = port::bind(&setup).await?;
        let (core, input) = mpsc::channel(QUEUE);
        let (alive, dropped) = oneshot::channel::<()>();
        let addr = listening.map(|(listening, addr)| {
            port::serve(listening, setup.trust.clone(), core.clone());
            addr
        });
        let this = Self {
            core: core.clone(),
            clock: clock.clone(),
            name: setup.name.clone(),
            addr,
            groups: setup.groups.keys().cloned().collect(),
            patience: setup.patience,
            _alive: alive,
        };
        let run = Core::new(setup, clock, (core, input), record).run();
        tasks::start(async move {
            tokio::select! {
                () = run => {}
                _ = dropped => {}
            }
        });
        Ok(this)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// Where it listens, with the port that the system gave if none was asked for.
    #[must_use]
    pub fn addr(&self) -> Option<&str> {
        self.addr.as_deref()
    }

    /// A session with a group: with every member below this endpoint.
    ///
    /// # Errors
    /// [`GroupError::Group`]
    pub fn session(&self, group: &str) -> Result<Session, GroupError> {
        match self.groups.iter().find(|g| g.as_str() == group) {
            Some(group) => Ok(Session {
                core: self.core.clone(),
                clock: self.clock.clone(),
                group: group.clone(),
                patience: self.patience,
            }),
            None => {
                let known: Vec<_> = self.groups.iter().map(ToString::to_string).collect();
                Err(GroupError::Group { group: group.to_owned(), known: known.join(", ") })
            }
        }
    }

    /// Says goodbye to all neighbours and ends.
    pub async fn stop(self) {
        let (done, stopped) = oneshot::channel();
        if self.core.send(Input::Stop { done }).await.is_ok() {
            let _ = stopped.await;
        }
        self.core.closed().await;
    }
}

/// A session with a group.
#[derive(Clone, Debug)]
pub struct Session {
    core: mpsc::Sender<Input>,
    clock: Arc<Clock>,
    group: GroupName,
    patience: Duration,
}

impl Session {
    /// Has every member of the group below this endpoint execute a control block, and waits until
    /// all have said what became of it, or for `wait`. A member that is away then is named, and gets
    /// the block when it is back within an hour.
    ///
    /// # Errors
    /// [`GroupError`], if nothing was sent.
    pub async fn send(
        &self,
        kind: &str,
        body: impl Into<Bytes>,
        wait: Duration,
    ) -> Result<Acks, GroupError> {
        self.send_as(self.clock.block_id(), kind, body, wait).await
    }

    /// As [`send`](Self::send), under an id of the application's choice. A block that a member has
    /// executed under this id it does not execute again: it gives the same answer.
    ///
    /// # Errors
    /// As there.
    pub async fn send_as(
        &self,
        id: BlockId,
        kind: &str,
        body: impl Into<Bytes>,
        wait: Duration,
    ) -> Result<Acks, GroupError> {
        check_kind(kind).map_err(|e| GroupError::Kind(e.to_string()))?;
        let body = body.into();
        if body.len() > MAX_CONTROL_BLOCK {
            return Err(GroupError::TooLong(body.len()));
        }
        let block = ControlBlock { id, kind: kind.to_owned(), after: None, body, hops: 0 };
        self.ask(block, wait).await
    }

    async fn ask(&self, block: ControlBlock, wait: Duration) -> Result<Acks, GroupError> {
        let (reply, acks) = oneshot::channel();
        self.give(block, wait, Reply::Acks(reply)).await?;
        acks.await.map_err(|_| GroupError::Stopped)?.map_err(GroupError::Busy)
    }

    async fn give(
        &self,
        block: ControlBlock,
        wait: Duration,
        reply: Reply,
    ) -> Result<(), GroupError> {
        let group = self.group.clone();
        let input = Input::Send { group, block, wait, reply };
        self.core.send(input).await.map_err(|_| GroupError::Stopped)
    }

    /// Opens a pipe to every member that is there and has a callback for pipes of this name. Whoever
    /// cannot take it is named when the pipe is [finished](Pipe::finish).
    ///
    /// # Errors
    /// [`GroupError::Nobody`] if no member takes it.
    pub async fn pipe(&self, name: &str) -> Result<Pipe, GroupError> {
        check_kind(name).map_err(|e| GroupError::Kind(e.to_string()))?;
        let mut id = PipeId([0; 12]);
        // The count is at the end of the first eight bytes; what is random follows.
        id.0.copy_from_slice(&self.clock.block_id()[..12]);
        let (writer, open) = pipe::Writer::open(id, name);
        let acks = self.ask(open, self.patience.saturating_mul(2)).await?;
        if !acks.members.iter().any(|a| matches!(a.outcome, Outcome::Done(_))) {
            return Err(GroupError::Nobody(acks));
        }
        let (io, other) = tokio::io::duplex(MAX_PIECE);
        let (finish, finished) = oneshot::channel();
        let (told, acks) = oneshot::channel();
        let session = self.clone();
        tasks::start(async move {
            let _ = told.send(session.run_pipe(writer, other, finished).await);
        });
        Ok(Pipe { io, finish, acks })
    }

    async fn run_pipe(
        self,
        mut writer: pipe::Writer,
        mut from: DuplexStream,
        finished: oneshot::Receiver<Duration>,
    ) -> Result<Acks, GroupError> {
        let window = Arc::new(Semaphore::new(WINDOW));
        let failed = Arc::new(OnceLock::<&'static str>::new());
        let wait = self.patience.saturating_mul(PATIENCES);
        let mut piece = BytesMut::with_capacity(MAX_PIECE);
        loop {
            if let Some(why) = failed.get() {
                return Err(GroupError::Broken((*why).to_owned()));
            }
            let room = (&mut from).take(MAX_PIECE as u64).read_buf(&mut piece).await;
            if room.map_err(|e| GroupError::Broken(e.to_string()))? == 0 {
                break;
            }
            let data = piece.split().freeze();
            piece.reserve(MAX_PIECE);
            let Some(block) = writer.data(data) else {
                let why = "it is longer than a pipe can be: go on in another one";
                return Err(GroupError::Broken(why.to_owned()));
            };
            let Ok(share) = window.clone().acquire_owned().await else {
                return Err(GroupError::Stopped);
            };
            self.give(block, wait, Reply::Window(share, failed.clone())).await?;
        }
        // All pieces are done, or given up, before the end is sent: nothing overtakes them.
        let all = u32::try_from(WINDOW).unwrap_or(u32::MAX);
        let _ = window.acquire_many(all).await;
        let (given_up, wait) = match finished.await {
            Ok(wait) => (false, wait),
            Err(_) => (true, self.patience),
        };
        self.ask(writer.end(given_up), wait).await
    }

    /// The children of this endpoint in the group, as they are now.
    ///
    /// # Errors
    /// [`GroupError::Stopped`]
    pub async fn children(&self) -> Result<Vec<ChildState>, GroupError> {
        let (reply, children) = oneshot::channel();
        let group = self.group.clone();
        let input = Input::Children { group, reply };
        self.core.send(input).await.map_err(|_| GroupError::Stopped)?;
        children.await.map_err(|_| GroupError::Stopped)
    }

    /// Waits until all children are connected, or for `wait`; whether they are.
    ///
    /// # Errors
    /// [`GroupError::Stopped`]
    pub async fn connected(&self, wait: Duration) -> Result<bool, GroupError> {
        let all = async {
            while !self.children().await?.iter().all(|c| c.connected) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(true)
        };
        tokio::time::timeout(wait, all).await.unwrap_or(Ok(false))
    }
}

/// A pipe to the members of a group: what is written goes to each of them, in order, at the pace of
/// the slowest that is not left out. [Finish](Self::finish) it; one that is dropped is given up, and
/// breaks off at its members.
#[derive(Debug)]
pub struct Pipe {
    io: DuplexStream,
    finish: oneshot::Sender<Duration>,
    acks: oneshot::Receiver<Result<Acks, GroupError>>,
}

impl Pipe {
    /// Ends the pipe, and waits until all members have said what became of it, or for `wait`.
    ///
    /// # Errors
    /// [`GroupError`], if it broke before its end.
    pub async fn finish(mut self, wait: Duration) -> Result<Acks, GroupError> {
        let _ = self.finish.send(wait);
        // If the other side is gone, its last word says why.
        let _ = self.io.shutdown().await;
        self.acks.await.map_err(|_| GroupError::Stopped)?
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
}
