//! Pipes at a receiver: what came is held against order and sum, and handed to a callback at the
//! pace at which it reads.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::sync::mpsc;

use super::clock::random;
use super::core::Input;
use super::setup::PipeHandler;
use super::tasks;
use crate::proto::clock::Mono;
use crate::proto::control::BlockId;
use crate::proto::control::pipe::{Piece, PipeId, Reader, Seen, WINDOW};
use crate::proto::ids::GroupName;

/// A pipe that nothing came of for so long is given up: its sender is gone.
const IDLE: Duration = Duration::from_secs(3600);
/// Pipes that are known at a time; of those that are over, the oldest are forgotten first.
const MAX_PIPES: usize = 256;

/// A pipe that came: an [`AsyncRead`] that ends well only if every byte has come.
#[derive(Debug)]
pub struct Incoming {
    /// In which group.
    pub group: GroupName,
    /// Its name.
    pub name: String,
    pieces: mpsc::Receiver<Fed>,
    rest: Bytes,
    ended: bool,
}

#[derive(Debug)]
enum Fed {
    Data(Bytes),
    End,
}

impl Incoming {
    /// The next piece, as it was sent; `None` at the end.
    ///
    /// # Errors
    /// When the pipe breaks off.
    pub async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await?;
        Ok((!self.rest.is_empty()).then(|| std::mem::take(&mut self.rest)))
    }

    /// Writes everything to a file, which is there, whole and durable, or not there at all. Gives
    /// the number of bytes.
    ///
    /// # Errors
    /// In words, naming the file; what is there by that name stays.
    pub async fn to_file(mut self, path: impl AsRef<Path>) -> Result<u64, String> {
        let path = path.as_ref();
        let mut part = path.as_os_str().to_owned();
        let [a, b, c, d, ..] = random();
        part.push(format!(".{a:02x}{b:02x}{c:02x}{d:02x}.part"));
        let part = PathBuf::from(part);
        let done = self.fill_file(&part, path).await;
        if done.is_err() {
            let _ = tokio::fs::remove_file(&part).await;
        }
        done.map_err(|e| format!("{}: {e}", path.display()))
    }

    async fn fill_file(&mut self, part: &Path, path: &Path) -> std::io::Result<u64> {
        let mut file = tokio::fs::File::create(part).await?;
        let mut bytes = 0;
        while let Some(piece) = self.next().await? {
            file.write_all(&piece).await?;
            bytes += piece.len() as u64;
        }
        file.sync_all().await?;
        tokio::fs::rename(part, path).await?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        tokio::fs::File::open(folder.unwrap_or(Path::new("."))).await?.sync_all().await?;
        Ok(bytes)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while self.rest.is_empty() && !self.ended {
            match self.pieces.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Fed::Data(d))) => self.rest = d,
                Poll::Ready(Some(Fed::End)) => self.ended = true,
                Poll::Ready(None) => {
                    let e = std::io::Error::new(
                        std::io::ErrorKind::UnexpectedEof,
                        "the pipe broke off before its end",
                    );
                    return Poll::Ready(Err(e));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Incoming {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        match this.poll_fill(cx) {
            Poll::Ready(Ok(())) => {
                let n = this.rest.len().min(buf.remaining());
                buf.put_slice(&this.rest[..n]);
                this.rest.advance(n);
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

/// What is to be said of a block of a pipe now.
pub(super) enum Say {
    /// Nothing yet.
    Later,
    /// This: whether it is good, and the text; no text says it without a name.
    Now(bool, Bytes),
}

enum Phase {
    /// Its opening is being put on record.
    Opening(VecDeque<(BlockId, Piece)>),
    /// The callback runs, or has run; pieces go to its feeder.
    Running(Option<mpsc::Sender<(BlockId, Fed)>>),
}

struct Pipe {
    group: GroupName,
    name: String,
    reader: Reader,
    phase: Phase,
    /// Why it came to nothing here.
    failed: Option<String>,
    /// What the callback gave.
    result: Option<Result<Bytes, String>>,
    end: Option<BlockId>,
    touched: Mono,
}

impl Pipe {
    fn new(group: GroupName, name: String, now: Mono) -> Self {
        Self {
            group,
            name,
            reader: Reader::default(),
            phase: Phase::Opening(VecDeque::new()),
            failed: None,
            result: None,
            end: None,
            touched: now,
        }
    }

    fn is_over(&self) -> bool {
        self.failed.is_some() || self.result.is_some()
    }

    fn fail(&mut self, why: String) -> Bytes {
        // The callback sees that its pipe broke off.
        self.phase = Phase::Running(None);
        let text = Bytes::from(why.clone());
        self.failed.get_or_insert(why);
        text
    }

    fn end_says(&self) -> Option<Say> {
        let said = match (&self.failed, &self.result) {
            (Some(why), _) => Say::Now(false, Bytes::from(why.clone())),
            (None, Some(Ok(text))) if text.is_empty() => {
                let text = format!("{} bytes", self.reader.bytes());
                Say::Now(true, Bytes::from(text))
            }
            (None, Some(Ok(text))) => Say::Now(true, text.clone()),
            (None, Some(Err(why))) => Say::Now(false, Bytes::from(why.clone())),
            (None, None) => return None,
        };
        Some(said)
    }

    fn piece(&mut self, id: BlockId, piece: Piece) -> Say {
        if let Phase::Opening(queue) = &mut self.phase {
            if queue.len() >= WINDOW + 2 {
                return Say::Now(false, self.fail("too many pieces are under way".to_owned()));
            }
            queue.push_back((id, piece));
            return Say::Later;
        }
        let end = matches!(piece, Piece::End { .. });
        if self.failed.is_some() {
            return if end { self.end_says().unwrap_or(Say::Later) } else { silent() };
        }
        let (_, number) = PipeId::of(&id);
        match self.reader.see(number, &piece) {
            // What came before is in the feeder's queue, and is answered from there.
            Seen::Again if end => {
                self.end = Some(id);
                self.end_says().unwrap_or(Say::Later)
            }
            Seen::Again => silent(),
            Seen::Wrong(why) => Say::Now(false, self.fail(why)),
            Seen::Next => self.feed(id, piece),
        }
    }

    fn feed(&mut self, id: BlockId, piece: Piece) -> Say {
        let (fed, end) = match piece {
            Piece::Data(d) => (Fed::Data(d), false),
            _ => (Fed::End, true),
        };
        if end {
            self.end = Some(id);
        }
        let Phase::Running(Some(feeder)) = &self.phase else {
            return if end { self.end_says().unwrap_or(Say::Later) } else { silent() };
        };
        match feeder.try_send((id, fed)) {
            Ok(()) if end => self.end_says().unwrap_or(Say::Later),
            Ok(()) => Say::Later,
            Err(mpsc::error::TrySendError::Full(_)) => {
                Say::Now(false, self.fail("too many pieces are under way".to_owned()))
            }
            // The callback has ended without reading to the end; its result says the rest.
            Err(mpsc::error::TrySendError::Closed(_)) if end => {
                self.end_says().unwrap_or(Say::Later)
            }
            Err(mpsc::error::TrySendError::Closed(_)) => silent(),
        }
    }
}

fn silent() -> Say {
    Say::Now(true, Bytes::new())
}

/// All pipes that are known here.
#[derive(Default)]
pub(super) struct Inbound {
    pipes: BTreeMap<PipeId, Pipe>,
}

impl Inbound {
    /// A pipe is about to be opened.
    pub(super) fn opening(&mut self, id: PipeId, group: GroupName, name: String, now: Mono) {
        if self.pipes.len() >= MAX_PIPES {
            let over = self.pipes.iter().filter(|(_, p)| p.is_over());
            let oldest = over.min_by_key(|(_, p)| p.touched).map(|(id, _)| *id);
            oldest.and_then(|id| self.pipes.remove(&id));
        }
        self.pipes.entry(id).or_insert_with(|| Pipe::new(group, name, now));
    }

    /// A pipe is not taken; its pieces are answered for, and its end says why.
    pub(super) fn refuse(&mut self, id: PipeId, group: &GroupName, why: &str, now: Mono) {
        self.opening(id, group.clone(), String::new(), now);
        if let Some(p) = self.pipes.get_mut(&id) {
            p.fail(why.to_owned());
        }
    }

    /// Whether there is room for one more.
    pub(super) fn room(&self) -> bool {
        self.pipes.len() < MAX_PIPES || self.pipes.values().any(Pipe::is_over)
    }

    /// The opening is on record: starts the callback, and gives what is to be said of pieces that
    /// came meanwhile.
    pub(super) fn open(
        &mut self,
        id: PipeId,
        handler: &PipeHandler,
        patience: Duration,
        core: &mpsc::Sender<Input>,
    ) -> Vec<(BlockId, Say)> {
        let Some(pipe) = self.pipes.get_mut(&id) else { return Vec::new() };
        let (feeder, queue) = mpsc::channel(WINDOW + 2);
        let waiting = match std::mem::replace(&mut pipe.phase, Phase::Running(Some(feeder))) {
            Phase::Opening(waiting) => waiting,
            Phase::Running(old) => {
                pipe.phase = Phase::Running(old);
                return Vec::new();
            }
        };
        let open = Piece::Open { name: pipe.name.clone() };
        pipe.reader.see(0, &open);
        let (pieces, read) = mpsc::channel(1);
        let incoming = Incoming {
            group: pipe.group.clone(),
            name: pipe.name.clone(),
            pieces: read,
            rest: Bytes::new(),
            ended: false,
        };
        tasks::start(feed(id, queue, pieces, patience, core.clone()));
        let answer = handler(incoming);
        let core = core.clone();
        tasks::start(async move {
            let result = tasks::shielded(answer).await;
            let _ = core.send(Input::PipeOver { pipe: id, result }).await;
        });
        waiting.into_iter().map(|(id, piece)| (id, pipe.piece(id, piece))).collect()
    }

    /// A piece or the end came.
    pub(super) fn piece(&mut self, id: BlockId, piece: Piece, group: &GroupName, now: Mono) -> Say {
        let (pipe, _) = PipeId::of(&id);
        if !self.pipes.contains_key(&pipe) {
            if !self.room() {
                return Say::Now(false, Bytes::from_static(b"too many pipes are open here"));
            }
            self.opening(pipe, group.clone(), String::new(), now);
            if let Some(p) = self.pipes.get_mut(&pipe) {
                let why = "this member was started again in the middle of the pipe: send it again";
                return Say::Now(false, p.fail(why.to_owned()));
            }
        }
        let Some(p) = self.pipes.get_mut(&pipe) else { return silent() };
        p.touched = now;
        p.piece(id, piece)
    }

    /// The callback has ended; gives what is to be said of the pipe's end, if that came.
    pub(super) fn over(
        &mut self,
        id: PipeId,
        result: Result<Bytes, String>,
    ) -> Option<(BlockId, Say)> {
        let pipe = self.pipes.get_mut(&id)?;
        pipe.result = Some(result);
        let end = pipe.end?;
        pipe.end_says().map(|say| (end, say))
    }

    /// Gives up pipes whose sender is gone.
    pub(super) fn tick(&mut self, now: Mono) {
        for pipe in self.pipes.values_mut() {
            if !pipe.is_over() && pipe.end.is_none() && now.since(pipe.touched) >= IDLE {
                pipe.fail("nothing of the pipe came for an hour".to_owned());
            }
        }
    }

    /// A piece could not be handed on; gives what is to be said of it, and of the end.
    pub(super) fn stuck(&mut self, id: PipeId, why: &str) -> (Say, Option<(BlockId, Say)>) {
        let Some(pipe) = self.pipes.get_mut(&id) else { return (silent(), None) };
        let first = pipe.failed.is_none() && pipe.result.is_none();
        let text = if first { pipe.fail(why.to_owned()) } else { Bytes::new() };
        let end = pipe.end.and_then(|end| pipe.end_says().map(|say| (end, say)));
        (Say::Now(!first, text), end)
    }
}

/// Hands pieces to the callback; one that is not taken in time ends the pipe here.
async fn feed(
    pipe: PipeId,
    mut queue: mpsc::Receiver<(BlockId, Fed)>,
    pieces: mpsc::Sender<Fed>,
    patience: Duration,
    core: mpsc::Sender<Input>,
) {
    let (mut stuck, mut gone) = (None, false);
    while let Some((id, fed)) = queue.recv().await {
        // The end is answered by the callback's result, however long that takes.
        if matches!(fed, Fed::End) {
            if stuck.is_none() && !gone {
                let _ = pieces.send(fed).await;
            }
            continue;
        }
        if stuck.is_none() && !gone {
            match tokio::time::timeout(patience, pieces.send(fed)).await {
                Ok(taken) => gone = taken.is_err(),
                Err(_) => {
                    let why = format!("its callback did not read for {} s", patience.as_secs_f32());
                    stuck = Some(why);
                }
            }
        }
        if core.send(Input::Piece { pipe, id, stuck: stuck.clone() }).await.is_err() {
            return;
        }
    }
}
