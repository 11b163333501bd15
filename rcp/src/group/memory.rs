//! Endpoints of one process without sockets: for tests of applications, with stopped time if wanted.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;

use crate::proto::classify::opening_line;
use crate::proto::ids::GroupName;

/// Bytes under way in one direction of a connection.
const PIPE: usize = 64 << 10;
/// Connections that wait to be accepted.
const BACKLOG: usize = 64;

/// Where endpoints of one process find each other: an address is any text.
#[derive(Clone, Debug, Default)]
pub struct Hub {
    listeners: Arc<Mutex<BTreeMap<String, mpsc::Sender<DuplexStream>>>>,
}

impl Hub {
    /// Nobody listens yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn listen(&self, addr: &str) -> io::Result<mpsc::Receiver<DuplexStream>> {
        let (tx, rx) = mpsc::channel(BACKLOG);
        let mut all = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(addr).is_some_and(|l| !l.is_closed()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        all.insert(addr.to_owned(), tx);
        Ok(rx)
    }

    pub(super) async fn dial(&self, addr: &str, group: &GroupName) -> io::Result<DuplexStream> {
        let listener = {
            let all = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(addr).cloned()
        };
        let listener = listener.ok_or(io::ErrorKind::ConnectionRefused)?;
        let (mut near, far) = duplex(PIPE);
        listener.try_send(far).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        near.write_all(&opening_line(group)).await?;
        Ok(near)
    }
}
