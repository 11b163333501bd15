//! Opening a connection to another node.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::NetError;
use crate::proto::classify::opening_line;
use crate::proto::ids::GroupName;
use crate::proto::limits::DIAL_DEADLINE;

/// Connects to `addr` (`host:port`) and says which group the session is for; frames follow.
///
/// # Errors
/// [`NetError::Io`] or [`NetError::Timeout`], naming `addr`.
pub async fn dial(addr: &str, group: &GroupName) -> Result<TcpStream, NetError> {
    dial_within(addr, group, DIAL_DEADLINE).await
}

/// [`dial`] with another deadline.
///
/// # Errors
/// As [`dial`].
pub async fn dial_within(
    addr: &str,
    group: &GroupName,
    limit: Duration,
) -> Result<TcpStream, NetError> {
    let connect = async {
        let mut io =
            TcpStream::connect(addr).await.map_err(|e| NetError::io(addr, "connecting", e))?;
        io.set_nodelay(true).map_err(|e| NetError::io(addr, "setting TCP_NODELAY", e))?;
        io.write_all(&opening_line(group))
            .await
            .map_err(|e| NetError::io(addr, "writing the opening line", e))?;
        Ok(io)
    };
    match tokio::time::timeout(limit, connect).await {
        Ok(done) => done,
        Err(_) => Err(NetError::Timeout { peer: addr.to_owned(), what: "connecting", limit }),
    }
}
