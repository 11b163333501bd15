//! A small HTTP client of a node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::way::{Remote, Way};
use crate::api::{ApiError, ApiErrorKind, NodeStatus, VolumeInfo};
use crate::http::paths;

/// Longest answer: the status of a thousand volumes with full tables stays below a third of it.
const MAX_ANSWER: usize = 128 << 20;
/// An answer that has come is looked at within this.
const LAST: Duration = Duration::from_secs(5);
/// Time for an answer that changes nothing. (A change takes as long as it takes.)
const ANSWER: Duration = Duration::from_secs(20);
/// Why there is no good answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("{0}")]
    NotRunning(String),
    /// The node refuses, in its own words.
    #[error("{}", .0.text)]
    Refused(ApiError),
    /// The connection broke, or the answer is not what was expected.
    #[error("{0}")]
    Broken(String),
}

/// Speaks with one node; every request has a connection of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    way: Way,
}

impl Client {
    /// For the node behind this socket.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self::by(Way::socket(socket))
    }

    /// For the node that is reached by this way.
    #[must_use]
    pub fn by(way: Way) -> Self {
        Self { way }
    }

    /// How the node is reached.
    #[must_use]
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// The data folder of a node on this machine.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.way.folder()
    }

    /// The whole node.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn status(&self) -> Result<NodeStatus, ClientError> {
        self.get(paths::STATUS).await
    }

    /// What the node says of a volume that it holds, by label or UUID.
    ///
    /// # Errors
    /// As [`Client::get`], and if it holds none of that name.
    pub async fn volume(&self, volume: &str) -> Result<VolumeInfo, ClientError> {
        let status = self.status().await?;
        let labels: Vec<_> = status.volumes.iter().map(|v| v.label.clone()).collect();
        let found = status.volumes.into_iter().find(|v| v.label == volume || v.id == volume);
        found.ok_or_else(|| {
            let there = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
            let text = format!("{} holds no volume `{volume}`; it has: {there}", status.node);
            ClientError::Refused(ApiError::new(ApiErrorKind::NotFound, text))
        })
    }

    /// Asks for a value.
    ///
    /// # Errors
    /// [`ClientError`]: nobody there, refused, or broken.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.limited(path, self.send(Method::GET, path, Bytes::new())).await?;
        self.value(path, &body)
    }

    /// Bytes `first` up to `end` of what is there.
    ///
    /// # Errors
    /// As [`Client::get`]; and if other bytes came, or not so many.
    pub async fn range(&self, path: &str, first: u64, end: u64) -> Result<Bytes, ClientError> {
        let range = format!("bytes={first}-{}", end.saturating_sub(1));
        let request = self.exchange(Method::GET, path, Bytes::new(), Some(&range));
        let body = self.limited(path, request).await?;
        if body.len() as u64 != end - first {
            return Err(self.broken(path, &format!("{} bytes came for {range}", body.len())));
        }
        Ok(body)
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
        self.exchange(method, path, body, None).await
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        range: Option<&str>,
    ) -> Result<Bytes, ClientError> {
        let stream = self.way.connect().await?;
        let broken = |e: &dyn std::fmt::Display| self.broken(path, &e.to_string());
        let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| broken(&e))?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "rcpd")
            .header("content-type", "application/json");
        if let Way::Network(Remote { token: Some(token), .. }) = &self.way {
            request = request.header("authorization", token.header());
        }
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let request = request.body(Full::new(body)).map_err(|e| broken(&e))?;
        let exchange = async {
            let response = send.send_request(request).await.map_err(|e| {
                if e.is_parse() {
                    return broken(
                        &"what answers there does not speak HTTP, so it is not rcpd's socket",
                    );
                }
                broken(&e)
            })?;
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
                match (timeout(LAST, exchange).await, end) {
                    (Ok(answer), _) => answer?,
                    (Err(_), Err(e)) => return Err(broken(&e)),
                    (Err(_), Ok(())) => return Err(broken(&"the connection ended")),
                }
            }
        };
        let good = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        if status == good {
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

    fn value<T: DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|e| {
            let text = format!(
                "its answer is not understood ({e}): are rcpd and this command of one version?"
            );
            self.broken(path, &text)
        })
    }

    fn broken(&self, path: &str, why: &str) -> ClientError {
        ClientError::Broken(format!("rcpd at {}, {path}: {why}", self.way))
    }
}
