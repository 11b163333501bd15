//! TLS on an NBD connection (NBD, `NBD_OPT_STARTTLS`).
//!
//! The connection's thread goes on with a socket pair in plain text, so that the way of requests is
//! the same with TLS and without; a task of the runtime carries bytes between the far end of the
//! pair and the peer. What the pair holds bounds what is under way.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use rcp::net::tls::{Pki, Proven, TlsError, accept_other};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::deadline::Deadline;
use super::limits::{TLS_BUFFER, TLS_LINGER};
use super::socket::Socket;

/// What the TCP listeners of a server need to speak TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Keys and trust; what is current when a connection begins counts.
    pub pki: Arc<Pki>,
    /// Where bytes are carried.
    pub runtime: tokio::runtime::Handle,
    /// Nothing is served before TLS is spoken.
    pub required: bool,
    /// Changes when the certificates of those who are connected are to be judged again.
    pub judge: watch::Receiver<u64>,
}

/// A connection's TLS, from the thread that serves it.
pub(super) struct Tunnel {
    /// The peer.
    tcp: Arc<Socket>,
    /// Hung up when nothing is carried any more.
    ended: Receiver<()>,
}

impl Tls {
    /// Has the peer begin TLS, within `deadline`. Gives the socket for plain text, and what the
    /// peer has proven.
    pub(super) fn begin(
        &self,
        tcp: &Arc<Socket>,
        deadline: Deadline,
    ) -> Result<(Socket, Tunnel, Proven), TlsError> {
        let other = |e: io::Error| TlsError::Other(e.to_string());
        let left = deadline.left().ok_or_else(|| other(io::ErrorKind::TimedOut.into()))?;
        let peer = tcp.nonblocking().map_err(other)?;
        let (near, far) = UnixStream::pair().map_err(other)?;
        far.set_nonblocking(true).map_err(other)?;
        let (tell, told) = sync_channel(1);
        let (done, ended) = sync_channel(1);
        let (pki, judge) = (self.pki.clone(), self.judge.clone());
        self.runtime.spawn(async move {
            let _done: std::sync::mpsc::SyncSender<()> = done;
            let (peer, far) =
                match (TcpStream::from_std(peer), tokio::net::UnixStream::from_std(far)) {
                    (Ok(peer), Ok(far)) => (peer, far),
                    (Err(e), _) | (_, Err(e)) => {
                        let _ = tell.send(Err(TlsError::Other(e.to_string())));
                        return;
                    }
                };
            match tokio::time::timeout(left, accept_other(&pki, peer)).await {
                Ok(Ok((io, proven))) => {
                    let _ = tell.send(Ok(proven.clone()));
                    carry(io, far, revoked(&pki, &proven, judge)).await;
                }
                Ok(Err(e)) => drop(tell.send(Err(e))),
                Err(_) => drop(tell.send(Err(TlsError::Closed))),
            }
        });
        // The runtime is gone: the node stops.
        let proven = told.recv().unwrap_or(Err(TlsError::Closed))?;
        Ok((near.into(), Tunnel { tcp: tcp.clone(), ended }, proven))
    }
}

impl Tunnel {
    /// Waits until what was said has been carried to the peer, but not for long. The socket for
    /// plain text is closed by now.
    pub(super) fn finish(&self) {
        if self.ended.recv_timeout(TLS_LINGER) == Err(RecvTimeoutError::Timeout) {
            self.tcp.close();
            let _ = self.ended.recv_timeout(Duration::from_secs(1));
        }
    }
}

/// Ends when the peer's certificate is no longer good.
async fn revoked(pki: &Pki, peer: &Proven, mut judge: watch::Receiver<u64>) {
    while judge.changed().await.is_ok() {
        if let Some(why) = pki.judge_again(peer) {
            tracing::warn!("an NBD connection is ended: {why}");
            return;
        }
    }
    std::future::pending().await
}

/// Carries bytes both ways until there is nothing left to tell the peer, or `until` ends. When the
/// peer has said its last, what is answered to it is still carried.
async fn carry<S: AsyncRead + AsyncWrite>(
    peer: S,
    far: tokio::net::UnixStream,
    until: impl Future<Output = ()>,
) {
    let (mut from_peer, mut to_peer) = tokio::io::split(peer);
    let (mut from_us, mut to_us) = far.into_split();
    let inbound = async {
        let _ = copy(&mut from_peer, &mut to_us).await;
        let _ = to_us.shutdown().await;
        std::future::pending::<()>().await;
    };
    let outbound = async {
        if copy(&mut from_us, &mut to_peer).await.is_ok() {
            let _ = to_peer.shutdown().await;
        }
    };
    tokio::select! {
        () = inbound => {}
        () = outbound => {}
        () = until => {}
    }
}

/// Until the end of what there is to read.
async fn copy<R, W>(from: &mut R, to: &mut W) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buf = vec![0; TLS_BUFFER];
    loop {
        let n = from.read(&mut buf).await?;
        if n == 0 {
            return Ok(());
        }
        to.write_all(&buf[..n]).await?;
        to.flush().await?;
    }
}
