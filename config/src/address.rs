//! Addresses as written in a topology: `127.0.0.1:7101`, `[::1]:7101`, `db1.example.net:7101`.
//! Nothing is resolved here.

use crate::value::{ValueError, shown};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Host part of an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An IP address.
    Ip(IpAddr),
    /// A DNS name, in lower case; whoever connects resolves it.
    Name(String),
}

/// A host and a TCP port. Prints in the form that it is read from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    host: Host,
    port: u16,
}

impl Host {
    /// Reached from this machine only: 127.0.0.0/8, `::1` or `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(ip) => ip.to_canonical().is_loopback(),
            Self::Name(name) => name == "localhost",
        }
    }

    /// Stands for every address of the machine: `0.0.0.0` or `[::]`.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        matches!(self, Self::Ip(ip) if ip.to_canonical().is_unspecified())
    }

    /// Both certainly name one machine. (Different names may still do.)
    pub(crate) fn same_machine(&self) -> Self {
        if self.is_loopback() { Self::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)) } else { self.clone() }
    }
}

impl HostPort {
    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// See [`Host::is_loopback`].
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host.is_loopback()
    }

    /// The host as a resolver takes it: IPv6 without brackets.
    #[must_use]
    pub fn host_text(&self) -> String {
        match &self.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.clone(),
        }
    }

    /// On one machine, the two cannot both be listened on.
    pub(crate) fn collides(&self, other: &Self) -> bool {
        let localhost = |h: &Host| matches!(h, Host::Name(n) if n == "localhost");
        self.port == other.port
            && (self.host == other.host
                || self.host.is_wildcard()
                || other.host.is_wildcard()
                || (localhost(&self.host) && other.is_loopback())
                || (localhost(&other.host) && self.is_loopback()))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&match &self.host {
            Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]:{}", self.port),
            Host::Ip(IpAddr::V4(ip)) => format!("{ip}:{}", self.port),
            Host::Name(name) => format!("{name}:{}", self.port),
        })
    }
}

impl FromStr for HostPort {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bad = |hint: &str| {
            ValueError::new(format!("{} is not an address", shown(text)), hint.to_owned())
        };
        let forms = "write host:port, such as 127.0.0.1:7101, [::1]:7101 or site-a.example:7101";
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (ip, port) = rest.split_once("]:").ok_or_else(|| bad(forms))?;
            let ip: Ipv6Addr =
                ip.parse().map_err(|_| bad("between [ and ] stands an IPv6 address, as [::1]"))?;
            (Host::Ip(IpAddr::V6(ip)), port)
        } else {
            let (host, port) = text
                .rsplit_once(':')
                .ok_or_else(|| bad("the port is missing: write host:port, as 127.0.0.1:7101"))?;
            if host.contains(':') {
                return Err(bad("an IPv6 address stands in brackets, as [::1]:7101"));
            }
            (parse_host(host).map_err(|hint| bad(hint.unwrap_or(forms)))?, port)
        };
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        match port.parse::<u16>() {
            Ok(0) => Err(bad("port 0 cannot be dialled by other nodes: choose a fixed port")),
            Ok(port) if digits => Ok(Self { host, port }),
            _ => Err(bad("the port is a number from 1 to 65535")),
        }
    }
}

/// An IPv4 address or a DNS name; the error is a hint, if there is a better one than the forms.
fn parse_host(host: &str) -> Result<Host, Option<&'static str>> {
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(IpAddr::V4(ip)));
    }
    if host.is_empty() {
        return Err(Some("the host is missing: write 127.0.0.1:PORT, or 0.0.0.0:PORT for all"));
    }
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(Some("the host is not an IPv4 address: four numbers from 0 to 255"));
    }
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if host.len() <= 253 && host.split('.').all(label) {
        Ok(Host::Name(host.to_ascii_lowercase()))
    } else {
        Err(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hp(s: &str) -> HostPort {
        s.parse().expect(s)
    }

    #[test]
    fn addresses_round_trip() {
        for s in ["127.0.0.1:7101", "[::1]:7101", "site-a.example:1", "localhost:65535"] {
            assert_eq!(hp(s).to_string(), s);
        }
        assert_eq!(hp("[::1]:1").host_text(), "::1");
        assert_eq!(hp("Site-A:1").to_string(), "site-a:1");
    }

    #[test]
    fn bad_addresses_get_a_hint() {
        for (s, hint) in [
            ("7101", "port is missing"),
            (":7101", "host is missing"),
            ("::1:7101", "brackets"),
            ("[::1]7101", "write host:port"),
            ("[127.0.0.1]:1", "IPv6"),
            ("127.0.0.256:1", "IPv4"),
            ("a:0", "port 0"),
            ("a:65536", "1 to 65535"),
            ("a:+1", "1 to 65535"),
            ("a:", "1 to 65535"),
            ("a b:1", "write host:port"),
            ("http://a:1", "brackets"),
        ] {
            let e = s.parse::<HostPort>().expect_err(s);
            assert!(e.hint.contains(hint), "{s}: {e}");
        }
    }

    #[test]
    fn loopback_and_collisions() {
        for s in ["127.9.9.9:1", "[::1]:1", "localhost:1", "[::ffff:127.0.0.1]:1"] {
            assert!(hp(s).is_loopback(), "{s}");
        }
        for s in ["10.0.0.1:1", "0.0.0.0:1", "[::]:1", "localhost.example:1"] {
            assert!(!hp(s).is_loopback(), "{s}");
        }
        assert!(hp("localhost:1").collides(&hp("127.0.0.1:1")));
        assert!(hp("0.0.0.0:1").collides(&hp("127.0.0.1:1")));
        assert!(!hp("127.0.0.2:1").collides(&hp("127.0.0.1:1")));
        assert!(!hp("127.0.0.1:2").collides(&hp("127.0.0.1:1")));
    }

    proptest! {
        #[test]
        fn whatever_parses_prints_back(s in "[0-9a-z:.\\[\\]-]{0,24}") {
            if let Ok(a) = s.parse::<HostPort>() {
                prop_assert_eq!(a.to_string().parse(), Ok(a));
            }
        }
    }
}
