//! A narrow place on the way to a node: a TCP proxy that lets only so many bytes a second through, and
//! where single connections can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};

use super::wait::Clock;

/// Bytes in the buffers of either side; what is in them has gone, for who sent it.
const BUFFER: usize = 16 << 10;

/// Where it listens; it ends with the test.
#[derive(Debug)]
pub struct Narrow {
    /// What is to be dialled.
    pub addr: SocketAddr,
    to: Arc<OnceLock<SocketAddr>>,
    open: Open,
    rate: Arc<AtomicU64>,
}

/// Connections that pass, in the order in which they came.
type Open = Arc<Mutex<Vec<TcpStream>>>;

impl Narrow {
    /// Lets `rate` bytes a second through to the side that is dialled, as soon as that is known.
    ///
    /// # Panics
    /// When there is no socket to be had.
    #[must_use]
    pub fn listen(rate: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        set_socket_recv_buffer_size(&listener, BUFFER).expect("a small buffer");
        let addr = listener.local_addr().expect("bound");
        let to: Arc<OnceLock<SocketAddr>> = Arc::default();
        let target = Arc::clone(&to);
        let open = Open::default();
        let all = Arc::clone(&open);
        let rate = Arc::new(AtomicU64::new(rate));
        let narrow = Arc::clone(&rate);
        std::thread::spawn(move || {
            for from in listener.incoming().flatten() {
                // Who comes before the place is known, or while nobody is there, is turned away.
                let Some(onward) = target.get().and_then(|a| TcpStream::connect(a).ok()) else {
                    continue;
                };
                let _ = set_socket_send_buffer_size(&onward, BUFFER);
                all.lock().unwrap_or_else(PoisonError::into_inner).extend(from.try_clone());
                let rate = Some(Arc::clone(&narrow));
                for (a, b, rate) in [(&from, &onward, rate), (&onward, &from, None)] {
                    let (Ok(a), Ok(b)) = (a.try_clone(), b.try_clone()) else { continue };
                    std::thread::spawn(move || pass(a, b, rate));
                }
            }
        });
        Self { addr, to, open, rate }
    }

    /// Lets this many bytes a second through from now on.
    pub fn limit(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// Cuts the connection that came as this one, from 0, of those that pass.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn cut(&self, which: usize) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Who is shut down has no peer any more.
        open.retain(|c| c.peer_addr().is_ok());
        assert!(which < open.len(), "{} connections pass", open.len());
        let _ = open.remove(which).shutdown(Shutdown::Both);
    }

    /// Where it leads.
    pub fn lead_to(&self, node: SocketAddr) {
        let _ = self.to.set(node);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, rate: Option<Arc<AtomicU64>>) {
    let (clock, mut buf, mut until) = (Clock::default(), [0; 4096], Duration::ZERO);
    while let Ok(n @ 1..) = from.read(&mut buf) {
        if to.write_all(&buf[..n]).is_err() {
            break;
        }
        if let Some(rate) = &rate {
            let took = n as u64 * 1_000_000 / rate.load(Ordering::Relaxed);
            // What was not used is not made up for.
            until = until.max(clock.passed()) + Duration::from_micros(took);
            clock.pace(until);
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
