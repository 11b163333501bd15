//! What carries a session, and how a child is dialled.

use tokio::sync::mpsc;

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

/// Runs a session over a connection to its end.
pub(super) async fn run(
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
