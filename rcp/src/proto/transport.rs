//! How a hop is crossed: what carries the bytes between two neighbours (GEN-05).
//!
//! A session is the same over all of them. Names here are those of the topology, of `rcproute` and
//! of the status.

use std::fmt;
use std::str::FromStr;

use super::limits::MAX_SESSION_CONNECTIONS;
use super::pace::Limit;

/// What carries a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Transport {
    /// Plain TCP: neither secret nor proven.
    #[default]
    Tcp,
    /// TLS 1.3 over TCP, both sides proven.
    Tls,
    /// QUIC, both sides proven.
    Quic,
}

/// Who decides how fast a connection may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Congestion {
    /// What most systems do by default.
    Cubic,
    /// By measured bandwidth and delay; does not slow down for single losses.
    Bbr,
    /// The oldest.
    Reno,
}

/// A word that names none of the choices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is no {what}: {choices}")]
pub struct ChoiceError {
    what: &'static str,
    word: String,
    choices: &'static str,
}

macro_rules! words {
    ($ty:ident, $what:literal, $choices:literal, $($name:ident = $word:literal $n:literal),*) => {
        impl $ty {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            /// Their words, for hints.
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            /// Its word.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            /// Its number in stored tables.
            #[must_use]
            pub fn number(self) -> u8 {
                match self {
                    $(Self::$name => $n,)*
                }
            }

            /// The one with this number.
            #[must_use]
            pub fn from_number(n: u8) -> Option<Self> {
                Self::ALL.iter().copied().find(|c| c.number() == n)
            }
        }

        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $ty {
            type Err = ChoiceError;

            fn from_str(word: &str) -> Result<Self, ChoiceError> {
                Self::ALL.iter().copied().find(|c| c.as_str() == word).ok_or_else(|| ChoiceError {
                    what: $what,
                    word: word.chars().take(40).collect(),
                    choices: $choices,
                })
            }
        }
    };
}

words!(Transport, "transport", "tcp, tls or quic", Tcp = "tcp" 1, Tls = "tls" 2, Quic = "quic" 3);
words!(Congestion, "congestion control", "cubic, bbr or reno",
    Cubic = "cubic" 1, Bbr = "bbr" 2, Reno = "reno" 3);

/// An HTTP reverse proxy that a hop goes through: `http://HOST:PORT/PATH` or `https://…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProxyUrl {
    /// The connection to the proxy is TLS.
    pub https: bool,
    /// Host name or address; brackets around IPv6.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path before `/GROUP`, without a slash at its end.
    pub path: String,
}

/// Longest URL of a proxy.
pub const MAX_PROXY_URL: usize = 512;

/// Why a text is no URL of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no URL of a proxy: {why}; write http://HOST:PORT/rcp or https://HOST:PORT/rcp"
)]
pub struct ProxyUrlError {
    text: String,
    why: &'static str,
}

impl ProxyUrlError {
    /// What is wrong, without the remedy.
    #[must_use]
    pub fn why(&self) -> String {
        format!("`{}` is no URL of a proxy: {}", self.text, self.why)
    }
}

impl ProxyUrl {
    /// `host:port`, as it is dialled.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The host without brackets, as certificates name it.
    #[must_use]
    pub fn host_name(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path)
    }
}

impl FromStr for ProxyUrl {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, ProxyUrlError> {
        let no = |why| ProxyUrlError { text: text.chars().take(80).collect(), why };
        if text.len() > MAX_PROXY_URL {
            return Err(no("it is too long"));
        }
        let (https, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(no("it begins with neither http:// nor https://")),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let is_path = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%".contains(&b);
        if !path.bytes().all(is_path) {
            return Err(no("its path has a character that does not belong there"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().ok().filter(|p| *p > 0).ok_or(no("its port is no number"))?)
            }
            _ => (authority, if https { 443 } else { 80 }),
        };
        let bare = host.strip_prefix('[').map_or(Some(host), |h| h.strip_suffix(']'));
        let is_host = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
        let bare = bare.ok_or(no("its brackets do not match"))?;
        if bare.is_empty() || !bare.bytes().all(is_host) || (bare == host && bare.contains(':')) {
            return Err(no("its host is no name and no address"));
        }
        Ok(Self { https, host: host.to_owned(), port, path: path.trim_end_matches('/').to_owned() })
    }
}

/// How many connections carry the session of one hop, over TCP or TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connections(u8);

impl Connections {
    /// That many, if they are allowed.
    #[must_use]
    pub fn new(n: u8) -> Option<Self> {
        (1..=MAX_SESSION_CONNECTIONS).contains(&usize::from(n)).then_some(Self(n))
    }

    /// How many.
    #[must_use]
    pub fn count(self) -> usize {
        usize::from(self.0)
    }

    /// Its number in stored tables.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Connections {
    type Err = ChoiceError;

    fn from_str(word: &str) -> Result<Self, ChoiceError> {
        let digits = word.bytes().all(|b| b.is_ascii_digit());
        let n = word.parse().ok().filter(|_| digits && !word.starts_with('0'));
        n.and_then(Self::new).ok_or_else(|| ChoiceError {
            what: "number of connections",
            word: word.chars().take(40).collect(),
            choices: "1 to 16",
        })
    }
}

/// How one hop is crossed, where it differs from what its group says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Hop {
    /// What carries it.
    pub transport: Option<Transport>,
    /// Congestion control of the sending side.
    pub congestion: Option<Congestion>,
    /// The proxy it goes through.
    pub via: Option<ProxyUrl>,
    /// The file with the CA of a proxy with https; the topology's own CA if none.
    pub ca: Option<String>,
    /// How fast the sending side may be, by the time of day.
    pub limit: Option<Limit>,
    /// How many connections carry it; one if nothing is said.
    pub connections: Option<Connections>,
}

impl Hop {
    /// Nothing differs.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// How many connections it is to have.
    #[must_use]
    pub fn wanted_connections(&self) -> usize {
        self.connections.map_or(1, Connections::count)
    }

    /// This, and where it says nothing, what `group` says.
    #[must_use]
    pub fn or(&self, group: &Self) -> Self {
        Self {
            transport: self.transport.or(group.transport),
            congestion: self.congestion.or(group.congestion),
            via: self.via.clone().or_else(|| group.via.clone()),
            ca: self.ca.clone().or_else(|| group.ca.clone()),
            limit: self.limit.clone().or_else(|| group.limit.clone()),
            connections: self.connections.or(group.connections),
        }
    }
}

impl fmt::Display for Hop {
    /// `transport=quic via=http://proxy:80/rcp`; empty if nothing differs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            self.transport.map(|t| format!("transport={t}")),
            self.congestion.map(|c| format!("congestion={c}")),
            self.via.as_ref().map(|v| format!("via={v}")),
            self.ca.as_ref().map(|c| format!("ca={c}")),
            self.limit.as_ref().map(|l| format!("limit={l}")),
            self.connections.map(|n| format!("connections={n}")),
        ];
        f.write_str(&words.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_read_back() {
        for t in Transport::ALL {
            assert_eq!(
                (t.as_str().parse(), Transport::from_number(t.number())),
                (Ok(*t), Some(*t))
            );
        }
        for c in Congestion::ALL {
            assert_eq!(
                (c.as_str().parse(), Congestion::from_number(c.number())),
                (Ok(*c), Some(*c))
            );
        }
        let e = "udp".parse::<Transport>().expect_err("udp");
        assert_eq!(e.to_string(), "`udp` is no transport: tcp, tls or quic");
        assert_eq!(Transport::from_number(9), None);
    }

    #[test]
    fn connections() {
        for n in 1..=16u8 {
            let c = Connections::new(n).expect("allowed");
            assert_eq!((n.to_string().parse(), c.count()), (Ok(c), usize::from(n)));
        }
        for bad in ["0", "17", "256", "-1", "+4", "04", "4.0", "many", ""] {
            let e = bad.parse::<Connections>().expect_err(bad).to_string();
            assert_eq!(e, format!("`{bad}` is no number of connections: 1 to 16"));
        }
        assert_eq!((Connections::new(0), Connections::new(17)), (None, None));
    }

    #[test]
    fn urls() {
        for (text, host, port, path) in [
            ("http://127.0.0.1:8080/rcp", "127.0.0.1", 8080, "/rcp"),
            ("https://proxy.example", "proxy.example", 443, ""),
            ("http://proxy/", "proxy", 80, ""),
            ("https://[::1]:8443/a/b/", "[::1]", 8443, "/a/b"),
            ("http://[::1]/x", "[::1]", 80, "/x"),
        ] {
            let u: ProxyUrl = text.parse().expect(text);
            assert_eq!((u.host.as_str(), u.port, u.path.as_str()), (host, port, path), "{text}");
            assert_eq!(u.to_string().parse(), Ok(u));
        }
        for text in [
            "ftp://x",
            "http://",
            "http://:80/",
            "http://a:0",
            "http://a:b",
            "http://a b/",
            "http://a/ b",
            "http://::1/",
            "http://[::1:80/",
            "http://a/\r\n",
            "http://a/?q",
            "proxy:80",
        ] {
            let e = text.parse::<ProxyUrl>().expect_err(text).to_string();
            assert!(e.contains("write http://HOST:PORT/rcp"), "{e}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_good_ones_are_read_back(text in "(https?://)?[a-z0-9:./\\[\\]-]{0,20}") {
            if let Ok(u) = text.parse::<ProxyUrl>() {
                prop_assert_eq!(u.to_string().parse(), Ok(u));
            }
        }
    }
}
