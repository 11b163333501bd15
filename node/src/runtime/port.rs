//! The shared port: who connects, what for, and whether that is allowed.
//!
//! TCP connections are told apart by their first bytes, inside TLS and inside an upgraded HTTP
//! connection once more; QUIC comes on UDP. From the first byte of a connection to the end of its
//! handshake there is one deadline, whatever it goes through.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rcp::net::port::{Accepted, accept_within};
use rcp::net::quic::{Incoming, Listener};
use rcp::net::tls::{self, Pki, Proven, TlsError};
use rcp::net::{ByteStream, NetError};
use rcp::proto::clock::Mono;
use rcp::proto::ids::{GroupName, NodeName};
use rcp::proto::limits::CLASSIFY_DEADLINE;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::conns::Wire;
use super::core::Input;
use super::lobby::{Guest, Lobby};
use super::places::Places;
use super::start::task;
use crate::access::{Caller, Way};
use crate::http::{self, Deadlines};
use crate::mover::{self, Proof, TurnedAway};
use crate::{clock, limits};

/// When a session may begin without a certificate.
#[derive(Clone, Debug)]
pub(super) struct PlainRule {
    pub(super) node: NodeName,
    /// From anywhere: `insecure_plaintext`.
    pub(super) anywhere: bool,
    /// From this machine: there are no certificates, or a route says `transport: tcp`.
    pub(super) loopback: bool,
}

impl PlainRule {
    fn proof(&self, local: IpAddr, peer: IpAddr) -> Proof {
        let here = local.is_loopback() && peer.is_loopback();
        if self.anywhere || (self.loopback && here) {
            return Proof::Nothing;
        }
        self.missing()
    }

    /// Through a proxy nobody knows who is behind it, not even on this machine.
    fn proof_through_proxy(&self) -> Proof {
        if self.anywhere { Proof::Nothing } else { self.missing() }
    }

    fn missing(&self) -> Proof {
        Proof::Missing(format!(
            "{} takes no session without a certificate: dial it with transport tls or quic, or set \
             `insecure_plaintext: true` there",
            self.node
        ))
    }
}

/// Who is let in, and as whom.
pub(super) struct Entry {
    pub(super) rule: PlainRule,
    pub(super) nodes: BTreeSet<NodeName>,
}

/// What serves the shared port.
#[derive(Clone)]
pub(super) struct Port {
    core: mpsc::Sender<Input>,
    routers: Option<http::Routers>,
    stop: CancellationToken,
    pki: Option<Arc<Pki>>,
    rule: PlainRule,
    /// The nodes of the topology: other names that a certificate carries are not a node's.
    nodes: Arc<BTreeSet<NodeName>>,
    lobby: Arc<Lobby>,
    http: Arc<Places>,
    greeting: Arc<Places>,
}

/// Which HTTP a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Http {
    One,
    Two,
}

/// One connection on its way to whom it is for.
struct Visit {
    local: IpAddr,
    peer: SocketAddr,
    began: Mono,
    /// Its place among those who have not said yet what they are.
    guest: Option<Guest>,
}

impl Visit {
    fn new(local: IpAddr, peer: SocketAddr) -> Self {
        Self { local, peer, began: clock::mono(), guest: None }
    }

    /// It has said what it is.
    fn through(&self) {
        if let Some(guest) = &self.guest {
            guest.through();
        }
    }

    fn left(&self) -> Duration {
        CLASSIFY_DEADLINE.saturating_sub(clock::mono().since(self.began))
    }
}

impl Port {
    /// A port that serves no HTTP yet.
    pub(super) fn new(
        core: mpsc::Sender<Input>,
        pki: Option<Arc<Pki>>,
        entry: Entry,
        stop: CancellationToken,
    ) -> Self {
        let Entry { rule, nodes } = entry;
        Self {
            core,
            routers: None,
            stop,
            pki,
            rule,
            nodes: Arc::new(nodes),
            lobby: Arc::default(),
            http: Places::new(limits::MAX_HTTP, limits::MAX_HTTP_FROM_ONE),
            greeting: Places::new(limits::MAX_GREETING, limits::MAX_GREETING_FROM_ONE),
        }
    }

    /// Lets everybody in who may: HTTP is served by `routers`.
    pub(super) fn open(mut self, routers: http::Routers, tcp: TcpListener, quic: Option<Listener>) {
        self.routers = Some(routers);
        if let Some(quic) = quic {
            task(self.clone().accept_quic(quic));
        }
        task(self.accept(tcp));
    }

    /// Takes connections that HTTP hands over.
    pub(super) fn upgrades(&self) -> http::Upgrades {
        let port = self.clone();
        Arc::new(move |group, peer, on| {
            let port = port.clone();
            task(async move {
                match tokio::time::timeout(CLASSIFY_DEADLINE, on).await {
                    Ok(Ok(io)) => port.upgraded(group, peer, TokioIo::new(io)).await,
                    _ => crate::metrics::port_connection("upgrade-failed"),
                }
            });
        })
    }

    /// Takes connections of the TCP port.
    async fn accept(self, listener: TcpListener) {
        let room = Arc::new(Semaphore::new(limits::MAX_CONNECTIONS));
        let mut full = false;
        loop {
            let (io, peer) = tokio::select! {
                a = listener.accept() => match a {
                    Ok(a) => a,
                    Err(e) => {
                        tracing::warn!("the shared port: {e}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
                () = self.stop.cancelled() => return,
            };
            let Ok(share) = room.clone().try_acquire_owned() else {
                crate::metrics::port_connection("full");
                // Once: nobody fills the log by knocking.
                if !std::mem::replace(&mut full, true) {
                    let most = limits::MAX_CONNECTIONS;
                    tracing::warn!(%peer, "refused: {most} connections are open");
                }
                continue;
            };
            full &= room.available_permits() == 0;
            let port = self.clone();
            task(async move {
                port.tcp(io, peer).await;
                drop(share);
            });
        }
    }

    async fn tcp(&self, io: TcpStream, peer: SocketAddr) {
        let (Ok(local), Ok(())) = (io.local_addr(), rcp::net::set_up(&io)) else { return };
        let guest = self.lobby.enter(peer.ip());
        let out = guest.out();
        let visit = Visit { guest: Some(guest), ..Visit::new(local.ip(), peer) };
        tokio::select! {
            () = self.receive(visit, io) => {}
            () = out.cancelled() => crate::metrics::port_connection("crowded-out"),
        }
    }

    async fn receive(&self, visit: Visit, io: TcpStream) {
        let peer = visit.peer;
        let accepted = accept_within(io, visit.left()).await;
        crate::metrics::port_connection(accepted.label());
        match accepted {
            Accepted::Rcp { group, io } => {
                let proof = self.rule.proof(visit.local, visit.peer.ip());
                self.session(&visit, group, Wire::Tcp(io), proof, None).await;
            }
            Accepted::Http { io } => self.http(&visit, io, Http::One, Way::Plain).await,
            Accepted::Http2 { io } => self.http(&visit, io, Http::Two, Way::Plain).await,
            Accepted::Tls { io } => self.tls(&visit, io).await,
            Accepted::Refused { why } => tracing::debug!(%peer, "refused: {why}"),
        }
    }

    /// TLS on TCP: what is inside is told apart by its first bytes, which have to fit the protocol
    /// that was agreed on.
    async fn tls<S: ByteStream + 'static>(&self, visit: &Visit, io: S) {
        let Some((io, proven)) = self.secure(visit, io).await else { return };
        let alpn = io.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let agreed = |what: &[u8]| alpn.as_deref().is_none_or(|a| a == what);
        let io = accept_within(io, visit.left()).await;
        crate::metrics::port_connection(inside(io.label()));
        let way = Way::Tls { node: member(&proven.names, &self.nodes) };
        match io {
            Accepted::Rcp { group, io } if agreed(tls::ALPN_RCP) => {
                let proof = names(&proven);
                self.session(visit, group, Wire::Stream(Box::new(io)), proof, Some(proven)).await;
            }
            Accepted::Http { io } if agreed(tls::ALPN_HTTP1) => {
                self.http(visit, io, Http::One, way).await;
            }
            Accepted::Http2 { io } if agreed(tls::ALPN_H2) => {
                self.http(visit, io, Http::Two, way).await;
            }
            Accepted::Refused { why } => tracing::debug!(peer = %visit.peer, "refused: {why}"),
            _ => tracing::debug!(peer = %visit.peer, "refused: not what ALPN said it would be"),
        }
    }

    /// The handshake of TLS, within the deadline.
    async fn secure<S: ByteStream>(&self, visit: &Visit, io: S) -> Option<tls::Served<S>> {
        let Some(pki) = &self.pki else {
            tracing::debug!(peer = %visit.peer, "refused: TLS, and there are no certificates here");
            return None;
        };
        match tokio::time::timeout(visit.left(), tls::accept(pki, io)).await {
            Ok(Ok(served)) => Some(served),
            Ok(Err(e)) => {
                self.refused(visit.peer, &e).await;
                None
            }
            Err(_) => {
                crate::metrics::port_connection("tls-timeout");
                None
            }
        }
    }

    /// A session through an HTTP proxy, from the first byte after the upgrade. What the proxy has
    /// proven is the proxy's: only TLS from end to end proves a node.
    async fn upgraded<S: ByteStream + 'static>(&self, group: GroupName, peer: SocketAddr, io: S) {
        let visit = Visit::new(peer.ip(), peer);
        let first = accept_within(io, visit.left()).await;
        crate::metrics::port_connection(inside(first.label()));
        match first {
            Accepted::Rcp { group: named, io } if named == group => {
                let proof = self.rule.proof_through_proxy();
                self.session(&visit, group, Wire::Stream(Box::new(io)), proof, None).await;
            }
            Accepted::Tls { io } => {
                let Some((io, proven)) = self.secure(&visit, io).await else { return };
                if let Accepted::Rcp { group: named, io } = accept_within(io, visit.left()).await
                    && named == group
                {
                    let proof = names(&proven);
                    let io = Wire::Stream(Box::new(io));
                    self.session(&visit, group, io, proof, Some(proven)).await;
                }
            }
            _ => tracing::debug!(%peer, "refused: no session for {group} after the upgrade"),
        }
    }

    /// Takes connections of the UDP port.
    async fn accept_quic(self, listener: Listener) {
        let room = Arc::new(Semaphore::new(limits::MAX_HANDSHAKES));
        loop {
            let incoming = tokio::select! {
                i = listener.next() => i,
                () = self.stop.cancelled() => break,
            };
            let Some(mut incoming) = incoming else { return };
            if room.available_permits() < limits::MAX_HANDSHAKES / 2 {
                match incoming.ask_again() {
                    Some(i) => incoming = i,
                    None => continue,
                }
            }
            let Ok(share) = room.clone().try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            let port = self.clone();
            task(async move {
                port.quic(incoming).await;
                drop(share);
            });
        }
        // Sessions say goodbye by themselves; what is left then is cut off.
        tokio::time::sleep(limits::STOP_DEADLINE).await;
        listener.close();
    }

    async fn quic(&self, incoming: Incoming) {
        let peer = incoming.remote();
        let visit = Visit::new(peer.ip(), peer);
        match tokio::time::timeout(visit.left(), incoming.accept()).await {
            Ok(Ok((c, proven, group))) => {
                crate::metrics::port_connection("quic");
                let proof = names(&proven);
                self.session(&visit, group, Wire::Quic(Box::new(c)), proof, Some(proven)).await;
            }
            Ok(Err(NetError::Tls { source, .. })) => self.refused(peer, &source).await,
            Ok(Err(_)) => crate::metrics::port_connection("quic-failed"),
            Err(_) => crate::metrics::port_connection("quic-timeout"),
        }
    }

    async fn session(
        &self,
        visit: &Visit,
        group: GroupName,
        wire: Wire,
        proof: Proof,
        proven: Option<Proven>,
    ) {
        visit.through();
        let Some(place) = self.greeting.take(visit.peer.ip()) else {
            return crate::metrics::port_connection("full");
        };
        let from = visit.peer.ip().to_string();
        // QUIC has streams of its own, and no further connections.
        let secret = (!matches!(wire, Wire::Quic(_))).then(|| *uuid::Uuid::new_v4().as_bytes());
        let accepted = mover::Accepted { group, proof, from, since: visit.began, secret };
        let peer = visit.peer.to_string();
        let _ = self.core.send(Input::Accepted { accepted, wire, peer, proven, place }).await;
    }

    /// Notes who was turned away by TLS, and why.
    async fn refused(&self, peer: SocketAddr, e: &TlsError) {
        crate::metrics::port_connection(e.label());
        let claims = match e {
            TlsError::Untrusted(u) => NodeName::new(&u.subject).ok(),
            // Not about trust: a port scan, a browser. It is counted.
            TlsError::Closed | TlsError::Other(_) | TlsError::Pki(_) => {
                return tracing::debug!(%peer, "refused: {e}");
            }
            TlsError::Told(_) | TlsError::OldVersion => None,
        };
        let from = peer.ip().to_string();
        let who = TurnedAway { from, claims, why: e.to_string(), kind: e.label() };
        let _ = self.core.send(Input::TurnedAway { who }).await;
    }

    async fn http<S: ByteStream + 'static>(&self, visit: &Visit, io: S, version: Http, way: Way) {
        visit.through();
        let Some(routers) = &self.routers else { return };
        let Some(_place) = self.http.take(visit.peer.ip()) else {
            return crate::metrics::port_connection("full");
        };
        // Whoever sends its first line byte by byte has used up its time for the rest.
        let mut deadlines = Deadlines::default();
        let left = deadlines.header_read.saturating_sub(clock::mono().since(visit.began));
        deadlines.header_read = left.max(limits::MIN_HEADER_READ);
        let caller = Caller { from: visit.peer.to_string(), way };
        let router = routers.caller(caller).layer(axum::Extension(http::From(visit.peer)));
        let stop = self.stop.clone();
        match version {
            Http::One => http::serve_connection(io, router, deadlines, stop).await,
            Http::Two => http::serve_http2(io, router, deadlines, stop).await,
        };
    }
}

fn names(proven: &Proven) -> Proof {
    if proven.chain.is_empty() {
        return Proof::Missing("the peer sent no certificate".to_owned());
    }
    if let (Some(user), []) = (proven.users.first(), proven.names.as_slice()) {
        return Proof::Missing(format!(
            "the certificate of {user} is for a client, and no node's: `rcpctl pki issue NODE` makes \
             those"
        ));
    }
    Proof::Names(proven.names.clone())
}

/// The first of a certificate's names that is a node's. The CA may have issued it to something else.
fn member(names: &[NodeName], nodes: &BTreeSet<NodeName>) -> Option<String> {
    names.iter().find(|n| nodes.contains(*n)).map(ToString::to_string)
}

/// The verdict on what is inside another protocol, for the metric.
fn inside(label: &'static str) -> &'static str {
    match label {
        "rcp" => "inside-rcp",
        "http" => "inside-http",
        "http2" => "inside-http2",
        "tls" => "inside-tls",
        _ => "inside-refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_topology_are_nodes() {
        let name = |n: &str| NodeName::new(n).expect("good");
        let nodes = BTreeSet::from([name("cel1-ser1"), name("cel2-ser1")]);
        assert_eq!(member(&[], &nodes), None);
        assert_eq!(member(&[name("dashboard")], &nodes), None);
        let both = [name("dashboard"), name("cel2-ser1")];
        assert_eq!(member(&both, &nodes).as_deref(), Some("cel2-ser1"));
    }
}
