//! Through an HTTP reverse proxy: `Upgrade: RCP/1.0` (RFC 9110, section 7.8).
//!
//! `GET PATH/GROUP` asks for it; after `101 Switching Protocols` the connection is a stream of bytes
//! like any other, from its first byte.

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{NetError, Prefixed};
use crate::proto::ids::GroupName;
use crate::proto::limits::MAX_FIRST_BYTES;
use crate::proto::transport::ProxyUrl;

/// Asks the proxy, and through it the node behind, for a session; the stream after its answer.
///
/// # Errors
/// [`NetError::Proxy`] with what it said instead.
pub(super) async fn upgrade<S>(
    mut io: S,
    proxy: &ProxyUrl,
    group: &GroupName,
) -> Result<Prefixed<S>, NetError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let no = |why: String| NetError::Proxy { proxy: proxy.to_string(), why };
    let request = format!(
        "GET {}/{group} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: RCP/1.0\r\n\r\n",
        proxy.path,
        proxy.address()
    );
    let written = async {
        io.write_all(request.as_bytes()).await?;
        io.flush().await
    };
    written.await.map_err(|e| no(format!("it took no request: {e}")))?;
    let mut read = BytesMut::with_capacity(1024);
    let end = loop {
        if let Some(at) = read.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if read.len() >= MAX_FIRST_BYTES {
            return Err(no("its answer has no end".to_owned()));
        }
        let n = io.read_buf(&mut read).await;
        if n.map_err(|e| no(format!("it gave no answer: {e}")))? == 0 {
            return Err(no("it closed the connection without an answer".to_owned()));
        }
    };
    judge(&read[..end]).map_err(no)?;
    read.advance(end);
    Ok(Prefixed::new(read.freeze(), io))
}

/// Whether an answer's head says yes.
fn judge(head: &[u8]) -> Result<(), String> {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let first: String = lines.next().unwrap_or_default().chars().take(80).collect();
    let mut words = first.split(' ');
    let version = words.next().is_some_and(|v| v.starts_with("HTTP/1."));
    if !version || words.next() != Some("101") {
        return Err(format!("it answered `{first}` instead of 101 Switching Protocols"));
    }
    let upgraded = lines.filter_map(|l| l.split_once(':')).any(|(name, value)| {
        name.eq_ignore_ascii_case("upgrade") && value.trim().eq_ignore_ascii_case("RCP/1.0")
    });
    if upgraded { Ok(()) } else { Err("it switched to another protocol than RCP/1.0".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_answer_is_taken() {
        let yes =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: rcp/1.0\r\n\r\n";
        assert_eq!(judge(yes), Ok(()));
        for (head, says) in [
            (&b"HTTP/1.1 502 Bad Gateway\r\n\r\n"[..], "`HTTP/1.1 502 Bad Gateway`"),
            (b"HTTP/1.1 200 OK\r\nUpgrade: RCP/1.0\r\n\r\n", "instead of 101"),
            (b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n", "another protocol"),
            (b"HTTP/1.1 101 x\r\n\r\n", "another protocol"),
            (b"SSH-2.0\r\n\r\n", "instead of 101"),
        ] {
            let e = judge(head).expect_err("refused");
            assert!(e.contains(says), "{e}");
        }
    }

    #[tokio::test]
    async fn bytes_after_the_answer_are_kept_and_the_group_is_in_the_path() {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let answer = b"HTTP/1.1 101 x\r\nUpgrade: RCP/1.0\r\n\r\nafter";
        theirs.write_all(answer).await.expect("written");
        let proxy = "http://p:80/rcp".parse().expect("a URL");
        let group = GroupName::new("g1").expect("a group");
        let mut io = upgrade(ours, &proxy, &group).await.expect("upgraded");
        let mut five = [0; 5];
        io.read_exact(&mut five).await.expect("bytes");
        assert_eq!(&five, b"after");
        let mut asked = vec![0; 1024];
        let n = theirs.read(&mut asked).await.expect("a request");
        let asked = String::from_utf8_lossy(&asked[..n]).into_owned();
        assert!(asked.starts_with("GET /rcp/g1 HTTP/1.1\r\nHost: p:80\r\n"), "{asked}");
    }
}
