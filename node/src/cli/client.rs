//! A small HTTP client over the Unix socket of a node.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::api::{ApiError, NodeStatus};
use crate::http::paths;

/// Longest answer: the status of a thousand volumes with full tables stays below a third of it.
const MAX_ANSWER: usize = 128 << 20;
/// Time to get a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Time for an answer that changes nothing. (A change takes as long as it takes.)
const ANSWER: Duration = Duration::from_secs(20);
/// Longest path of a Unix socket that the kernel takes, with its final zero.
const MAX_SOCKET_PATH: usize = 108;

/// What is said to somebody whose node is not running.
pub(super) const HOW_TO_START: &str =
    "start it with `rcpctl up TOPOLOGY`, or as the service that runs rcpd on this machine";

/// Why there is no good answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("{0}")]
    NotRunning(String),
    /// The node refuses, in its own words.
    #[error("{}", .0.text)]
    Refused(ApiError),
    /// The connection broke, or the answer is not what was expected.
    #[error("{0}")]
    Broken(String),
}

/// Speaks with the node that owns one socket; every request has a connection of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For the node behind this socket.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The whole node.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn status(&self) -> Result<NodeStatus, ClientError> {
        self.get(paths::STATUS).await
    }

    /// Asks for a value.
    ///
    /// # Errors
    /// [`ClientError`]: nobody there, refused, or broken.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.limited(path, self.send(Method::GET, path, Bytes::new())).await?;
        self.value(path, &body)
    }

    /// Asks for a change, and waits until it is done.
    ///
    /// # Errors
    /// [`ClientError`]: nobody there, refused, or broken.
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| self.broken(path, &e.to_string()))?;
        let answer = self.send(Method::POST, path, body.into()).await?;
        self.value(path, &answer)
    }

    /// Whether the node is ready to serve.
    ///
    /// # Errors
    /// [`ClientError::Broken`] says what is missing; [`ClientError::NotRunning`] if nobody is there.
    pub async fn ready(&self) -> Result<(), ClientError> {
        let asked = self.send(Method::GET, paths::READYZ, Bytes::new());
        self.limited(paths::READYZ, asked).await.map(drop)
    }

    async fn limited<T>(
        &self,
        path: &str,
        asked: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        timeout(ANSWER, asked).await.unwrap_or_else(|_| {
            Err(self.broken(path, &format!("no answer within {} s", ANSWER.as_secs())))
        })
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let stream = timeout(CONNECT, self.connect())
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|e| self.unreachable(&e))?;
        let broken = |e: &dyn std::fmt::Display| self.broken(path, &e.to_string());
        let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| broken(&e))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "rcpd")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| broken(&e))?;
        let exchange = async {
            let response = send.send_request(request).await.map_err(|e| broken(&e))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER);
            let body = body.collect().await.map_err(|e| broken(&e))?.to_bytes();
            Ok((status, body))
        };
        let mut exchange = std::pin::pin!(exchange);
        let mut connection = std::pin::pin!(connection);
        let (status, body) = tokio::select! {
            answer = exchange.as_mut() => answer?,
            // The connection may be done before its last answer was looked at.
            end = connection.as_mut() => {
                match (timeout(CONNECT, exchange).await, end) {
                    (Ok(answer), _) => answer?,
                    (Err(_), Err(e)) => return Err(broken(&e)),
                    (Err(_), Ok(())) => return Err(broken(&"the connection ended")),
                }
            }
        };
        if status == StatusCode::OK {
            return Ok(body);
        }
        Err(match serde_json::from_slice::<ApiError>(&body) {
            Ok(error) => ClientError::Refused(error),
            Err(_) => {
                let text: String = String::from_utf8_lossy(&body).chars().take(500).collect();
                ClientError::Broken(text.trim_end().to_owned())
            }
        })
    }

    async fn connect(&self) -> io::Result<UnixStream> {
        if self.socket.as_os_str().len() < MAX_SOCKET_PATH {
            return UnixStream::connect(&self.socket).await;
        }
        // Too long for the kernel's address: go through the open folder.
        let (Some(folder), Some(name)) = (self.socket.parent(), self.socket.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let folder = std::fs::File::open(folder)?;
        let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        UnixStream::connect(path).await
    }

    fn value<T: DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|e| {
            let text = format!(
                "its answer is not understood ({e}): are rcpd and this command of one version?"
            );
            self.broken(path, &text)
        })
    }

    fn broken(&self, path: &str, why: &str) -> ClientError {
        ClientError::Broken(format!("rcpd at {}, {path}: {why}", self.socket.display()))
    }

    fn unreachable(&self, error: &io::Error) -> ClientError {
        let socket = self.socket.display();
        match error.kind() {
            io::ErrorKind::NotFound => ClientError::NotRunning(format!(
                "no rcpd is running there: there is no {socket}; {HOW_TO_START}"
            )),
            io::ErrorKind::ConnectionRefused => ClientError::NotRunning(format!(
                "no rcpd is running there: {socket} is left over from one that ended; {HOW_TO_START}"
            )),
            io::ErrorKind::PermissionDenied => ClientError::Broken(format!(
                "no permission to use {socket}: run this as the user that rcpd runs as"
            )),
            _ => ClientError::Broken(format!("cannot reach rcpd at {socket}: {error}")),
        }
    }
}
