//! Who may open an NBD export: addresses, networks, and names in certificates.

use crate::value::{ValueError, shown};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// What a name in a list begins with.
const NAME: &str = "name:";

/// One entry of `nbd_allow`. Prints in the form that it is read from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Allow {
    /// Everybody whose address begins with these bits.
    Network {
        /// The first address of the network; the bits behind `bits` are zero.
        address: IpAddr,
        /// How many bits count: 32 (IPv4) or 128 (IPv6) is one address.
        bits: u8,
    },
    /// Whoever shows a certificate with this name, in lower case.
    Name(String),
}

/// The address without the bits behind the first so many.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask))
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & mask))
        }
    }
}

/// Bits of an address of this family.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl Allow {
    /// Whether somebody at `address`, whose certificate has these names (none: there is no
    /// certificate), is meant. An IPv4 address inside an IPv6 one is an IPv4 address.
    #[must_use]
    pub fn admits(&self, address: IpAddr, names: &[String]) -> bool {
        match self {
            Self::Name(name) => names.contains(name),
            Self::Network { address: network, bits } => {
                let address = address.to_canonical();
                address.is_ipv4() == network.is_ipv4() && masked(address, *bits) == *network
            }
        }
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{NAME}{name}"),
            Self::Network { address, bits } if *bits == width(*address) => write!(f, "{address}"),
            Self::Network { address, bits } => write!(f, "{address}/{bits}"),
        }
    }
}

impl FromStr for Allow {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bad = |hint: String| {
            ValueError::new(format!("{} is no address, network or name", shown(text)), hint)
        };
        if let Some(name) = text.strip_prefix(NAME) {
            let good = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
            if name.is_empty() || name.len() > 253 || !name.bytes().all(good) {
                return Err(bad(
                    "a name in a certificate is written `name:vm-host-7`, of a-z 0-9 \
                                . _ -; one entry for each name, no wildcards"
                        .to_owned(),
                ));
            }
            return Ok(Self::Name(name.to_ascii_lowercase()));
        }
        let forms = "write an address (10.0.0.7, \"::1\"), a network (10.0.0.0/8, \
                     \"2001:db8::/32\"), or the name in a certificate (name:vm-host-7)";
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let Ok(address) = address.parse::<IpAddr>() else {
            let port = text.parse::<std::net::SocketAddr>().is_ok();
            let name = !text.contains([':', '/']) && text.contains(|c: char| c.is_alphabetic());
            return Err(bad(match (port, name) {
                (true, _) => "callers have any port: write the address alone".to_owned(),
                (_, true) => format!(
                    "names of hosts are not looked up: write the address, or `name:{text}` for \
                     whoever has a certificate of that name"
                ),
                _ => forms.to_owned(),
            }));
        };
        let address = address.to_canonical();
        let most = width(address);
        let bits = match bits {
            None => most,
            Some(bits) => match bits.parse::<u8>() {
                Ok(n) if n <= most && bits.bytes().all(|b| b.is_ascii_digit()) => n,
                _ => {
                    return Err(bad(format!(
                        "behind the `/` stands a number of bits from 0 to {most}"
                    )));
                }
            },
        };
        let network = masked(address, bits);
        if network != address {
            return Err(bad(format!(
                "bits are set behind the first {bits}: write {network}/{bits} for the network, or \
                 {address} for the one address"
            )));
        }
        Ok(Self::Network { address, bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn allow(s: &str) -> Allow {
        s.parse().expect(s)
    }

    fn ip(s: &str) -> IpAddr {
        s.parse().expect(s)
    }

    #[test]
    fn entries_round_trip() {
        for s in ["10.0.0.0/8", "10.1.2.3", "::1", "2001:db8::/32", "0.0.0.0/0", "::/0", "name:a"] {
            assert_eq!(allow(s).to_string(), s);
        }
        assert_eq!(allow("name:VM-Host-7").to_string(), "name:vm-host-7");
    }

    #[test]
    fn who_is_meant() {
        let names = ["vm-host-7".to_owned()];
        for (entry, address, admitted) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.2", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "192.0.2.1", false),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("name:vm-host-7", "192.0.2.1", true),
            ("name:vm-host-8", "192.0.2.1", false),
        ] {
            assert_eq!(allow(entry).admits(ip(address), &names), admitted, "{entry} {address}");
        }
        assert!(!allow("name:vm-host-7").admits(ip("192.0.2.1"), &[]));
    }

    #[test]
    fn bad_entries_get_a_hint() {
        for (s, hint) in [
            ("10.0.0.1/8", "write 10.0.0.0/8"),
            ("10.0.0.0/33", "from 0 to 32"),
            ("10.0.0.0/+8", "from 0 to 32"),
            ("::1/129", "from 0 to 128"),
            ("10.0.0.0/", "from 0 to 32"),
            ("10.0.0.1:10809", "any port"),
            ("db1.example", "name:db1.example"),
            ("10.0.0", "write an address"),
            ("name:", "one entry for each name"),
            ("name:*.example", "no wildcards"),
            ("", "write an address"),
        ] {
            let e = s.parse::<Allow>().expect_err(s);
            assert!(e.hint.contains(hint), "{s}: {e}");
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_prints_back(s in "(name:)?[0-9a-f:./-]{0,20}") {
            if let Ok(a) = s.parse::<Allow>() {
                prop_assert_eq!(a.to_string().parse(), Ok(a));
            }
        }
    }
}
