//! Why a peer is not trusted, in words that name the certificate and the remedy.

use std::fmt;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError};

/// Why a certificate, or the lack of one, is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untrusted {
    /// Whose certificate it claims to be; empty if there is none, or it cannot be read.
    pub subject: String,
    /// What is wrong with it.
    pub why: Distrust,
}

/// What is wrong with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// Its time is over, since so long.
    Expired(Duration),
    /// Its time begins only after so long.
    NotYetValid(Duration),
    /// No CA that is trusted here has issued it.
    ForeignCa,
    /// It is on the revocation list.
    Revoked,
    /// It is for somebody else than this.
    WrongName(String),
    /// It is not for both sides of a connection.
    Purpose,
    /// There is none.
    Missing,
    /// Anything else.
    Other(String),
}

impl Distrust {
    /// A short name for a metric: bounded in number.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Expired(_) => "expired",
            Self::NotYetValid(_) => "not-yet-valid",
            Self::ForeignCa => "foreign-ca",
            Self::Revoked => "revoked",
            Self::WrongName(_) => "wrong-name",
            Self::Purpose => "purpose",
            Self::Missing => "no-certificate",
            Self::Other(_) => "other",
        }
    }

    pub(super) fn of(error: &rustls::Error, expected: Option<&str>) -> Self {
        use CertificateError as C;
        let seconds = |a: rustls::pki_types::UnixTime, b: rustls::pki_types::UnixTime| {
            Duration::from_secs(a.as_secs().saturating_sub(b.as_secs()))
        };
        match error {
            rustls::Error::NoCertificatesPresented => Self::Missing,
            rustls::Error::InvalidCertificate(e) => match e {
                C::ExpiredContext { time, not_after } => Self::Expired(seconds(*time, *not_after)),
                C::Expired => Self::Expired(Duration::ZERO),
                C::NotValidYetContext { time, not_before } => {
                    Self::NotYetValid(seconds(*not_before, *time))
                }
                C::NotValidYet => Self::NotYetValid(Duration::ZERO),
                // A CA of the same name with another key fails at the signature.
                C::UnknownIssuer | C::BadSignature => Self::ForeignCa,
                C::Revoked => Self::Revoked,
                C::NotValidForName | C::NotValidForNameContext { .. } => {
                    Self::WrongName(expected.unwrap_or_default().to_owned())
                }
                C::InvalidPurpose | C::InvalidPurposeContext { .. } => Self::Purpose,
                other => Self::Other(other.to_string()),
            },
            other => Self::Other(other.to_string()),
        }
    }
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match self.subject.as_str() {
            "" => "the peer's certificate".to_owned(),
            name => format!("certificate of {name}"),
        };
        match &self.why {
            Distrust::Expired(ago) => {
                write!(f, "{whose} expired {} ago: renew it there", span(*ago))
            }
            Distrust::NotYetValid(wait) => {
                write!(f, "{whose} is not valid before {} from now: check the clocks", span(*wait))
            }
            Distrust::ForeignCa => {
                write!(f, "{whose} was issued by a CA that is not in ca.pem here")
            }
            Distrust::Revoked => write!(f, "{whose} was revoked: issue a new one there"),
            Distrust::WrongName(wanted) => write!(f, "{whose} is not one for {wanted}"),
            Distrust::Purpose => {
                write!(f, "{whose} is not for both sides of a connection (serverAuth, clientAuth)")
            }
            Distrust::Missing => write!(f, "the peer sent no certificate"),
            Distrust::Other(text) => write!(f, "{whose} cannot be accepted: {text}"),
        }
    }
}

/// What the peer says of this node's certificate, if that is what the alert is about.
pub(super) fn told(alert: AlertDescription) -> Option<&'static str> {
    use AlertDescription as A;
    Some(match alert {
        A::CertificateExpired => {
            "the peer refused this node's certificate: expired, or not yet valid by its clock"
        }
        A::CertificateRevoked => "the peer refused this node's certificate: revoked",
        A::UnknownCA | A::DecryptError => {
            "the peer refused this node's certificate: its CA is not in the peer's ca.pem"
        }
        A::CertificateRequired => "the peer demands a certificate, and this node sent none",
        A::BadCertificate | A::CertificateUnknown | A::UnsupportedCertificate | A::AccessDenied => {
            "the peer refused this node's certificate; its status says why"
        }
        A::ProtocolVersion => "the peer does not speak TLS 1.3",
        A::NoApplicationProtocol => "the peer does not speak RCP over TLS",
        A::UnrecognisedName => "the peer does not go by this name",
        _ => return None,
    })
}

/// The rustls error inside an I/O error, if that is what it is.
pub(super) fn inner(e: &std::io::Error) -> Option<&rustls::Error> {
    e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>())
}

/// An I/O error of a TLS stream, in words: alerts are what the other side says.
#[must_use]
pub fn explain(e: &std::io::Error) -> Option<&'static str> {
    match inner(e) {
        Some(rustls::Error::AlertReceived(alert)) => told(*alert),
        _ => None,
    }
}

/// `3 h`, `12 s`: the largest unit that fits.
fn span(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{} min", s / 60),
        3_600..172_800 => format!("{} h", s / 3_600),
        _ => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_name_the_certificate_and_the_time() {
        let say = |why| Untrusted { subject: "cel2-ser3".to_owned(), why }.to_string();
        let hours = Distrust::Expired(Duration::from_secs(3 * 3600 + 59));
        assert_eq!(say(hours), "certificate of cel2-ser3 expired 3 h ago: renew it there");
        assert!(say(Distrust::NotYetValid(Duration::from_secs(90))).contains("before 1 min from"));
        assert!(say(Distrust::Expired(Duration::from_secs(864_000))).contains("10 days ago"));
        let wrong = say(Distrust::WrongName("a".to_owned()));
        assert_eq!(wrong, "certificate of cel2-ser3 is not one for a");
    }
}
