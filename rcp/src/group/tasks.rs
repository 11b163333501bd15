//! Where the tasks of an endpoint are started.

use bytes::Bytes;

use super::setup::Answer;

/// Starts a task that ends by itself when the endpoint does.
pub(super) fn start(f: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(f);
}

/// Runs a callback; what it breaks is only its own.
pub(super) async fn shielded(answer: Answer) -> Result<Bytes, String> {
    match tokio::spawn(answer).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => Err("the callback panicked".to_owned()),
        Err(_) => Err("the callback was stopped".to_owned()),
    }
}
