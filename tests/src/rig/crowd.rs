//! Thousands who connect and say nothing.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Connections from one address, so that not all of them are the same stranger's.
const FROM_ONE: usize = 100;

/// Open connections, whatever the other side makes of them.
#[derive(Debug, Default)]
pub struct Crowd {
    all: Vec<TcpStream>,
}

/// Lets this process have as many descriptors as it may; how many that are.
#[must_use]
pub fn many_descriptors() -> u64 {
    let now = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Connects from an address of this machine of one's choice.
///
/// # Errors
/// The system's.
pub fn connect_from(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let s = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&s, &SocketAddrV4::new(from, 0))?;
    connect(&s, &to)?;
    Ok(s.into())
}

impl Crowd {
    /// So many more who knock at `to`, from many addresses of loopback. Who is not let in is no
    /// error.
    pub fn knock(&mut self, to: SocketAddr, more: usize) {
        for i in self.all.len()..self.all.len() + more {
            let who = u32::try_from(i / FROM_ONE).unwrap_or(0);
            let from = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + who % 50_000);
            match connect_from(from, to) {
                Ok(s) => self.all.push(s),
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    /// Lets go of the `n` who are here longest, and has as many others knock.
    pub fn turn_over(&mut self, to: SocketAddr, n: usize) {
        self.all.drain(..n.min(self.all.len()));
        self.knock(to, n);
    }

    /// Lets go of those that the other side has closed; how many they were.
    pub fn thin_out(&mut self) -> usize {
        let before = self.all.len();
        self.all.retain_mut(|s| {
            let _ = s.set_nonblocking(true);
            matches!(s.read(&mut [0; 16]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
        });
        before - self.all.len()
    }

    /// How many are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Nobody is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}
