//! The addresses of a name: all are tried, and none that does not answer is waited for long.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;

/// Head start of an address over the next one: the connection attempt delay of RFC 8305, section 5.
const HEAD_START: Duration = Duration::from_millis(250);

/// A TCP connection to `addr` (`host:port`), by whichever of its addresses answers first.
///
/// # Errors
/// The resolver's, or that of the address that failed last.
pub async fn connect_tcp(addr: &str) -> io::Result<TcpStream> {
    let found = tokio::net::lookup_host(addr).await?;
    first(found, TcpStream::connect).await.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))
}

/// What the first attempt that succeeds brings, or the error of the last one that failed; nothing
/// where there is no address. The next address is tried as soon as one failed, or after
/// [`HEAD_START`] beside those under way, which end with the first success.
pub(super) async fn first<T, E, F>(
    found: impl Iterator<Item = SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
) -> Option<Result<T, E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut left = in_turns(found).into_iter();
    let mut under_way: Vec<Pin<Box<F>>> = Vec::new();
    let mut failed = None;
    loop {
        under_way.extend(left.next().map(|a| Box::pin(attempt(a))));
        if under_way.is_empty() {
            return failed;
        }
        let any = poll_fn(|cx| {
            let ended =
                under_way.iter_mut().enumerate().find_map(|(i, f)| match f.as_mut().poll(cx) {
                    Poll::Ready(done) => Some((i, done)),
                    Poll::Pending => None,
                });
            let Some((i, done)) = ended else { return Poll::Pending };
            drop(under_way.swap_remove(i));
            Poll::Ready(done)
        });
        let done = match left.len() {
            0 => Some(any.await),
            _ => tokio::time::timeout(HEAD_START, any).await.ok(),
        };
        match done {
            Some(Err(e)) => failed = Some(Err(e)),
            Some(done) => return Some(done),
            None => {}
        }
    }
}

/// The families in turns, in the order in which each was found (RFC 8305, section 4): a network
/// that carries only one of them costs one head start.
fn in_turns(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = found.collect();
    let Some(first) = all.first().map(SocketAddr::is_ipv6) else { return all };
    let place = |of_first: &mut usize, other: &mut usize, a: &SocketAddr| {
        let (n, odd) = if a.is_ipv6() == first { (of_first, 0) } else { (other, 1) };
        *n += 1;
        2 * *n + odd
    };
    let (mut of_first, mut other) = (0, 0);
    all.sort_by_cached_key(|a| place(&mut of_first, &mut other, a));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use tokio::time::{Instant, sleep};

    fn all(addresses: &[&str]) -> Vec<SocketAddr> {
        addresses.iter().map(|a| a.parse().unwrap()).collect()
    }

    #[test]
    fn the_families_take_turns() {
        let found = all(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]);
        let turns = all(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]);
        assert_eq!(in_turns(found.into_iter()), turns);
    }

    /// Tries made (port, ms since the start) and what came of them: a port above 9000 is silent, one
    /// above 8000 refuses after 10 ms, any other answers after 100 ms.
    async fn tries(ports: &[u16]) -> (Vec<(u16, u128)>, Option<Result<u16, u16>>) {
        let begun = Instant::now();
        let made = RefCell::new(Vec::new());
        let found = ports.iter().map(|p| SocketAddr::from(([127, 0, 0, 1], *p)));
        let done = first(found, async |a| {
            made.borrow_mut().push((a.port(), begun.elapsed().as_millis()));
            match a.port() {
                9000.. => std::future::pending().await,
                8000.. => {
                    sleep(Duration::from_millis(10)).await;
                    Err(a.port())
                }
                port => {
                    sleep(Duration::from_millis(100)).await;
                    Ok(port)
                }
            }
        });
        let done = done.await;
        (made.into_inner(), done)
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_silent_costs_a_head_start_and_one_that_refuses_nothing() {
        assert_eq!(tries(&[]).await, (vec![], None));
        assert_eq!(tries(&[1, 2]).await, (vec![(1, 0)], Some(Ok(1))));
        assert_eq!(tries(&[9001, 1]).await, (vec![(9001, 0), (1, 250)], Some(Ok(1))));
        let refused = vec![(8001, 0), (8002, 10), (9001, 20), (1, 270)];
        assert_eq!(tries(&[8001, 8002, 9001, 1]).await, (refused, Some(Ok(1))));
        assert_eq!(tries(&[8001, 8002]).await, (vec![(8001, 0), (8002, 10)], Some(Err(8002))));
    }
}
