//! What carries a session, and how a child is dialled.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::clock::Clock;
use super::core::{ConnId, Input};
use super::pump::{Command, pump};
use super::setup::{Child, Trust, plain_allowed};
use crate::net::tls::Proven;
use crate::net::{ByteStream, Dial, Dialled, dial_by, quic};
use crate::proto::ids::{GroupName, NodeName};
use crate::proto::session::Session;
use crate::proto::transport::{Hop, Transport};

/// A connection past its opening line.
pub(super) enum Wire {
    /// TCP, TLS, a proxy's, or one of this process.
    Stream(Box<dyn ByteStream>),
    /// QUIC; everything is on the control stream.
    Quic(Box<quic::Connection>),
}

/// How long a session that the core has done with may take to say so to its peer.
const LAST_MOMENT: Duration = Duration::from_secs(2);

/// Runs a session over a connection to its end, or, once the core has done with it, for a moment:
/// a peer that sends and never reads would else keep it, with all that is queued for it.
pub(super) async fn run(
    conn: ConnId,
    wire: Wire,
    session: Session,
    clock: &Clock,
    core: &mpsc::Sender<Input>,
    (commands, mut over): (mpsc::Receiver<Command>, watch::Receiver<bool>),
) {
    let given_up = async {
        let _ = over.wait_for(|over| *over).await;
        tokio::time::sleep(LAST_MOMENT).await;
    };
    tokio::select! {
        () = carry(conn, wire, session, clock, core, commands) => {}
        () = given_up => {
            let why = "the peer does not read what it is sent".to_owned();
            let _ = core.send(Input::Unreachable { conn, why }).await;
        }
    }
}

async fn carry(
    conn: ConnId,
    wire: Wire,
    session: Session,
    clock: &Clock,
    core: &mpsc::Sender<Input>,
    commands: mpsc::Receiver<Command>,
) {
    match wire {
        Wire::Stream(io) => {
            pump(conn, session, tokio::io::split(io), clock, core, commands).await;
        }
        Wire::Quic(c) => {
            let quic::Connection { send, recv, link } = *c;
            let send = pump(conn, session, (recv, send), clock, core, commands).await;
            link.close(vec![send]).await;
        }
    }
}

/// Opens a connection to a child; errors are in words.
pub(super) async fn dial(
    trust: &Trust,
    child: &Child,
    node: &NodeName,
    group: &GroupName,
) -> Result<(Wire, Option<Proven>), String> {
    if let Trust::Memory(hub) = trust {
        let io = hub.dial(&child.addr, group).await.map_err(|e| format!("{}: {e}", child.addr))?;
        return Ok((Wire::Stream(Box::new(io)), None));
    }
    let pki = match trust {
        Trust::Certificates(pki) => Some(pki),
        _ => None,
    };
    let transport = match (child.hop.transport, pki) {
        (Some(t), _) => t,
        (None, Some(_)) => Transport::Tls,
        (None, None) => Transport::Tcp,
    };
    let hop = Hop { transport: Some(transport), ..child.hop.clone() };
    let dialled = dial_by(Dial { addr: &child.addr, node, group, hop: &hop, pki }).await;
    let (dialled, proven) = dialled.map_err(|e| e.to_string())?;
    let wire = match dialled {
        Dialled::Tcp(io) => {
            let ends = io.local_addr().and_then(|l| Ok((l.ip(), io.peer_addr()?.ip())));
            let (local, peer) = ends.map_err(|e| format!("{}: {e}", child.addr))?;
            if !plain_allowed(trust, local, peer) {
                return Err(format!(
                    "{} is not on this machine, and nobody is proven: give certificates, or say \
                     Trust::InsecurePlaintext",
                    child.addr
                ));
            }
            Wire::Stream(Box::new(io))
        }
        Dialled::Stream(io) => Wire::Stream(io),
        Dialled::Quic(c) => Wire::Quic(c),
    };
    Ok((wire, proven))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::conn::{FramedReader, FramedWriter, Verify};
    use crate::proto::frame::{Frame, GoodbyeCode, Role, StreamId};
    use crate::proto::session::{Peers, SessionConfig, Side, VERSIONS};

    fn config(name: &str) -> SessionConfig {
        SessionConfig {
            versions: VERSIONS,
            node: NodeName::new(name).expect("a name"),
            instance: [name.len() as u8; 16],
            group: GroupName::new("g").expect("a name"),
            path: vec![NodeName::new(name).expect("a name")],
            feeder: 0,
            // Nobody is idle in this test.
            keepalive: Duration::from_secs(3600),
            feeders: Peers::Any,
            children: Peers::Any,
            ask: false,
            join: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_no_more_does_not_keep_a_session_that_is_over() {
        let clock = Clock::new();
        let session = Session::new(config("here"), Side::Acceptor, clock.mono());
        let (io, far) = tokio::io::duplex(16 << 10);
        let (core, mut told) = mpsc::channel(16);
        let (commands, queue) = mpsc::channel(4096);
        let (over, ends) = watch::channel(false);
        let wire = Wire::Stream(Box::new(io));
        let running = run(ConnId(7), wire, session, &clock, &core, (queue, ends));
        let peer = async {
            let mut peer = Session::new(config("far"), Side::Dialer(Role::Sender), clock.mono());
            let (read, write) = tokio::io::split(far);
            let mut reader = FramedReader::new(read, "here", Verify::Nothing);
            let mut writer = FramedWriter::new(write, "here");
            writer.queue(&peer.poll_transmit().expect("a hello")).expect("it fits");
            writer.flush().await.expect("it is open");
            let welcome = reader.next().await.expect("it is open").expect("a welcome");
            peer.handle_frame(clock.mono(), welcome.frame);
            for _ in 0..2000 {
                let frame =
                    Frame::StreamError { stream: StreamId(1), code: 1, text: "x".repeat(1000) };
                commands.send(Command::Send(frame)).await.expect("there is room");
            }
            tokio::task::yield_now().await;
            let bye = Command::Close(GoodbyeCode::Untrusted, "revoked".to_owned());
            commands.send(bye).await.expect("there is room");
            over.send(true).expect("it runs");
            (reader, writer)
        };
        let (_, _unread) = tokio::join!(running, peer);
        let mut last = None;
        while let Ok(input) = told.try_recv() {
            last = Some(input);
        }
        assert!(matches!(last, Some(Input::Unreachable { conn: ConnId(7), .. })));
    }
}
