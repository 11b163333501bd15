//! The listening side: what comes is told apart, proven, and handed to the core.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use super::core::Input;
use super::setup::{Setup, SetupError, Trust, plain_allowed};
use super::tasks;
use super::wire::Wire;
use crate::net::port::{Accepted, accept_within};
use crate::net::tls::{self, Pki, Proven};
use crate::net::{quic, set_up};
use crate::proto::ids::GroupName;
use crate::proto::limits::CLASSIFY_DEADLINE;

/// Connections at a time, of those that have not begun a session.
const MAX_HANDSHAKES: usize = 256;

/// A connection that came in, past the opening line.
pub(super) struct Visitor {
    pub(super) group: GroupName,
    pub(super) wire: Wire,
    pub(super) proof: Proof,
}

/// What a connection has proven.
#[derive(Clone, Debug)]
pub(super) enum Proof {
    /// Nothing, and nothing is asked for.
    Unasked,
    /// Nothing, and so it is refused, in words.
    Missing(&'static str),
    /// A certificate.
    Names(Proven),
}

/// Where connections come from.
pub(super) enum Listening {
    Tcp(TcpListener, Option<quic::Listener>),
    Memory(mpsc::Receiver<tokio::io::DuplexStream>),
}

/// Opens the port of an endpoint, and says where it is.
pub(super) async fn bind(setup: &Setup) -> Result<Option<(Listening, String)>, SetupError> {
    let Some(addr) = &setup.listen else { return Ok(None) };
    let failed = |source| SetupError::Listen { addr: addr.clone(), source };
    if let Trust::Memory(hub) = &setup.trust {
        let listening = Listening::Memory(hub.listen(addr).map_err(failed)?);
        return Ok(Some((listening, addr.clone())));
    }
    let tcp = TcpListener::bind(addr).await.map_err(failed)?;
    let local = tcp.local_addr().map_err(failed)?;
    if matches!(setup.trust, Trust::Loopback) && !local.ip().is_loopback() {
        return Err(SetupError::Exposed(addr.clone()));
    }
    let quic = match &setup.trust {
        Trust::Certificates(pki) => Some(quic::Listener::bind(local, pki.clone()).map_err(failed)?),
        _ => None,
    };
    Ok(Some((Listening::Tcp(tcp, quic), local.to_string())))
}

/// Serves a port until the core is gone.
pub(super) fn serve(listening: Listening, trust: Trust, core: mpsc::Sender<Input>) {
    let room = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    match listening {
        Listening::Memory(mut incoming) => tasks::start(async move {
            loop {
                let io = tokio::select! {
                    io = incoming.recv() => io,
                    () = core.closed() => return,
                };
                let Some(io) = io else { return };
                let core = core.clone();
                tasks::start(async move {
                    let Accepted::Rcp { group, io } = accept_within(io, CLASSIFY_DEADLINE).await
                    else {
                        return;
                    };
                    let wire = Wire::Stream(Box::new(io));
                    hand_over(&core, Visitor { group, wire, proof: Proof::Unasked }).await;
                });
            }
        }),
        Listening::Tcp(tcp, quic) => {
            if let Some(quic) = quic {
                tasks::start(serve_quic(quic, room.clone(), core.clone()));
            }
            tasks::start(serve_tcp(tcp, trust, room, core));
        }
    }
}

async fn serve_tcp(
    tcp: TcpListener,
    trust: Trust,
    room: Arc<Semaphore>,
    core: mpsc::Sender<Input>,
) {
    loop {
        let accepted = tokio::select! {
            a = tcp.accept() => a,
            () = core.closed() => return,
        };
        let Ok((io, peer)) = accepted else {
            // No descriptors are left, say: others may end meanwhile.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(share) = room.clone().try_acquire_owned() else { continue };
        let (trust, core) = (trust.clone(), core.clone());
        tasks::start(async move {
            let visitor = tokio::time::timeout(CLASSIFY_DEADLINE, greet(io, peer, &trust)).await;
            if let Ok(Some(visitor)) = visitor {
                hand_over(&core, visitor).await;
            }
            drop(share);
        });
    }
}

async fn greet(io: TcpStream, peer: SocketAddr, trust: &Trust) -> Option<Visitor> {
    set_up(&io).ok()?;
    let local = io.local_addr().ok()?.ip();
    match accept_within(io, CLASSIFY_DEADLINE).await {
        Accepted::Rcp { group, io } => {
            let proof = if plain_allowed(trust, local, peer.ip()) {
                Proof::Unasked
            } else {
                Proof::Missing("this endpoint takes no session without a certificate")
            };
            Some(Visitor { group, wire: Wire::Stream(Box::new(io)), proof })
        }
        Accepted::Tls { io } => {
            let Trust::Certificates(pki) = trust else { return None };
            secure(io, pki).await
        }
        Accepted::Refused { why } => {
            tracing::debug!(%peer, "refused: {why}");
            None
        }
        Accepted::Http { .. } | Accepted::Http2 { .. } => None,
    }
}

async fn secure<S>(io: S, pki: &Pki) -> Option<Visitor>
where
    S: crate::net::ByteStream + 'static,
{
    let (io, proven) = match tls::accept(pki, io).await {
        Ok(served) => served,
        Err(e) => {
            tracing::info!("refused: {e}");
            return None;
        }
    };
    let Accepted::Rcp { group, io } = accept_within(io, CLASSIFY_DEADLINE).await else {
        return None;
    };
    Some(Visitor { group, wire: Wire::Stream(Box::new(io)), proof: of(proven) })
}

fn of(proven: Proven) -> Proof {
    if proven.chain.is_empty() {
        return Proof::Missing("the peer sent no certificate");
    }
    Proof::Names(proven)
}

async fn serve_quic(quic: quic::Listener, room: Arc<Semaphore>, core: mpsc::Sender<Input>) {
    loop {
        let incoming = tokio::select! {
            i = quic.next() => i,
            () = core.closed() => break,
        };
        let Some(mut incoming) = incoming else { return };
        if room.available_permits() < MAX_HANDSHAKES / 2 {
            match incoming.ask_again() {
                Some(i) => incoming = i,
                None => continue,
            }
        }
        let Ok(share) = room.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let core = core.clone();
        tasks::start(async move {
            match tokio::time::timeout(CLASSIFY_DEADLINE, incoming.accept()).await {
                Ok(Ok((c, proven, group))) => {
                    let wire = Wire::Quic(Box::new(c));
                    hand_over(&core, Visitor { group, wire, proof: of(proven) }).await;
                }
                Ok(Err(e)) => tracing::info!("refused: {e}"),
                Err(_) => {}
            }
            drop(share);
        });
    }
    quic.close();
}

async fn hand_over(core: &mpsc::Sender<Input>, visitor: Visitor) {
    let _ = core.send(Input::Visitor(Box::new(visitor))).await;
}
