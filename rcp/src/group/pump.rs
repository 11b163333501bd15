//! The driver of one session: moves frames between a connection, its [`Session`] and the core.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::clock::Clock;
use super::core::{ConnId, Input};
use crate::net::NetError;
use crate::net::conn::{FramedReader, FramedWriter, Verify};
use crate::proto::frame::{Frame, GoodbyeCode, Hello, RefuseCode};
use crate::proto::session::{CloseReason, Event, Peer, Session};

/// Bytes that may wait for the connection before further frames are left in the queue.
const HIGH: usize = 1 << 20;
/// Time for the last frames of a session.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the core wants of a connection.
#[derive(Debug)]
pub(super) enum Command {
    Send(Frame),
    Accept,
    Refuse(RefuseCode, String),
    Close(GoodbyeCode, String),
}

/// What a connection tells the core.
#[derive(Debug)]
pub(super) enum Heard {
    Asked(Hello),
    Up(Peer),
    Frame(Frame),
    Closed(CloseReason),
}

/// Runs a session to its end; gives the writing side back, with everything written.
pub(super) async fn pump<R, W>(
    conn: ConnId,
    mut session: Session,
    (read, write): (R, W),
    clock: &Clock,
    core: &mpsc::Sender<Input>,
    mut commands: mpsc::Receiver<Command>,
) -> W
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send,
{
    let mut reader = FramedReader::new(read, "the peer", Verify::Nothing);
    let mut writer = FramedWriter::new(write, "the peer");
    let mut received = 0;
    loop {
        while let Some(event) = session.poll_event() {
            let heard = match event {
                Event::Asked(hello) => Heard::Asked(hello),
                Event::Up(peer) => {
                    reader.set_peer(peer.node.as_str());
                    writer.set_peer(peer.node.as_str());
                    Heard::Up(peer)
                }
                // Without a key there are none.
                Event::Joins(_) | Event::Joined => continue,
                Event::Frame(Frame::Probe { .. }) => {
                    let _ = session.send(no_volumes());
                    continue;
                }
                Event::Frame(frame) => Heard::Frame(frame),
                Event::Closed(why) => Heard::Closed(why),
            };
            let over = matches!(heard, Heard::Closed(_));
            if core.send(Input::Heard { conn, heard }).await.is_err() || over {
                flush(&mut session, &mut writer).await;
                return writer.into_inner();
            }
        }
        let mut failed = None;
        while let Some(frame) = session.poll_transmit() {
            if let Err(e) = writer.queue(&frame) {
                failed = Some(e);
                break;
            }
        }
        if let Some(e) = failed {
            session.handle_broken(&e.to_string());
            continue;
        }
        let wake = session.poll_timeout().map(|at| clock.instant(at));
        tokio::select! {
            frame = reader.next() => match frame {
                Ok(Some(f)) => session.handle_frame(clock.mono(), f.frame),
                Ok(None) => session.handle_broken("the peer closed the connection"),
                Err(e) => unread(&mut session, &e),
            },
            written = writer.flush(), if writer.queued() > 0 => if let Err(e) = written {
                session.handle_broken(&e.to_string());
            },
            command = commands.recv(), if writer.queued() < HIGH => match command {
                Some(Command::Send(frame)) => {
                    // One that may not be sent any more is of a session that has just ended.
                    let _ = session.send(frame);
                }
                Some(Command::Accept) => session.accept(clock.mono(), 0),
                Some(Command::Refuse(code, text)) => session.refuse(code, &text),
                Some(Command::Close(code, text)) => session.close(code, &text),
                None => session.close(GoodbyeCode::Shutdown, "the endpoint was stopped"),
            },
            () = sleep_until(wake) => {
                // A long frame over a slow link is a sign of life, too.
                if reader.received() > std::mem::replace(&mut received, reader.received()) {
                    session.note_received(clock.mono());
                }
                session.handle_timeout(clock.mono());
            }
        }
    }
}

/// Nothing more can be read. A peer that sent nonsense is told so.
fn unread(session: &mut Session, e: &NetError) {
    let text = e.to_string();
    if e.is_nonsense() {
        session.handle_nonsense(&text);
    } else {
        session.handle_broken(&text);
    }
}

fn no_volumes() -> Frame {
    let text = "an application's endpoint takes no volumes".to_owned();
    Frame::ProbeReply { ok: false, text }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Writes what the session still has to say.
async fn flush<W: AsyncWrite + Unpin + Send>(session: &mut Session, writer: &mut FramedWriter<W>) {
    while let Some(frame) = session.poll_transmit() {
        if writer.queue(&frame).is_err() {
            return;
        }
    }
    // Whoever does not read them does without.
    let _ = tokio::time::timeout(LAST_WORDS, writer.shutdown()).await;
}
