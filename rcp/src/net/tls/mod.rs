//! TLS 1.3 with both sides proven by certificates of a private CA; QUIC takes its configuration
//! from here too.
//!
//! [`Pki`] holds what a node knows of keys and trust. Every connection takes what is current when
//! it begins, so that renewed certificates and new revocation lists count from the next handshake
//! on; sessions that run are looked at again with [`Pki::judge_again`]. Nothing is resumed from
//! tickets: a ticket would outlive a revocation.

mod handshake;
mod material;
mod untrusted;
mod verify;

pub use handshake::{
    Connected, Served, TlsError, accept, accept_other, connect, connect_as_guest, connect_to_proxy,
};
pub use material::{Leaf, PkiFiles};
pub use untrusted::{Distrust, Untrusted, explain};

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::proto::ids::NodeName;
pub(super) use material::Lasting;
use material::{Material, Stamp};
use untrusted::Distrust as Why;
use verify::Judge;
pub(super) use verify::Reason;

/// The application protocol of RCP inside TLS and QUIC.
pub const ALPN_RCP: &[u8] = b"rcp/1";
/// HTTP/2 inside TLS.
pub const ALPN_H2: &[u8] = b"h2";
/// What the name of a user begins with in a certificate, as a URI (RFC 5280, section 4.2.1.6). The
/// name of a node is a DNS name, so that neither can be taken for the other.
pub const USER_URN: &str = "urn:rcp:user:";
/// HTTP/1.1 inside TLS.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Why certificates cannot be used; names the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The system says so.
    #[error("{}: {source}; `rcpctl pki` makes certificates", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its content will not do.
    #[error("{}: {why}", path.display())]
    Bad {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The name of a node cannot stand in a certificate.
    #[error("`{0}` cannot be proven by a certificate: it is not a DNS name; rename the node")]
    Name(NodeName),
}

/// Who the other side has proven to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The names of nodes in its certificate; empty if it sent none.
    pub names: Vec<NodeName>,
    /// The names of users in it, who are never nodes: `urn:rcp:user:NAME` among the URIs of its
    /// subject alternative names.
    pub users: Vec<String>,
    /// Its certificate chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// It was dialled.
    dialled: bool,
}

impl Proven {
    /// What a peer that was dialled as `peer`, and judged to be that, has proven. The name that was
    /// asked for comes first: it is the one to judge again.
    pub(super) fn of_dialled(chain: &[CertificateDer<'_>], peer: &NodeName) -> Self {
        let mut proven = Self::of(chain, true);
        proven.names.retain(|n| n != peer);
        proven.names.insert(0, peer.clone());
        proven
    }

    pub(super) fn of(chain: &[CertificateDer<'_>], dialled: bool) -> Self {
        let leaf = chain.first().and_then(|c| Leaf::read(c)).unwrap_or_default();
        Self {
            names: leaf.nodes(),
            users: leaf.users,
            chain: chain.iter().map(|c| c.clone().into_owned()).collect(),
            dialled,
        }
    }
}

/// Keys and trust of one node, as they are now.
#[derive(Debug)]
pub struct Pki {
    files: PkiFiles,
    node: NodeName,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Material>,
    /// Of the files that were tried last, good or bad.
    tried: Mutex<Stamp>,
}

/// What a look at the files gave.
#[derive(Debug)]
pub enum Reload {
    /// They are as they were.
    Same,
    /// New ones are in use; notes for the operator.
    Loaded(Vec<String>),
    /// They cannot be used; the old ones stay.
    Kept(PkiError),
}

impl Pki {
    /// Reads the certificates of `node` from `folder`.
    ///
    /// # Errors
    /// [`PkiError`] names the file.
    pub fn load(folder: &Path, node: &NodeName) -> Result<Self, PkiError> {
        server_name(node)?;
        let files = PkiFiles::in_folder(folder, node);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let stamp = files.stamp();
        let material = Material::load(&files, node, &provider)?;
        Ok(Self {
            files,
            node: node.clone(),
            provider,
            current: ArcSwap::from_pointee(material),
            tried: Mutex::new(stamp),
        })
    }

    /// Looks at the files and takes what is new. Blocks for a moment: it reads small files.
    pub fn reload(&self) -> Reload {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = self.files.stamp();
        if *tried == stamp {
            return Reload::Same;
        }
        *tried = stamp;
        match Material::load(&self.files, &self.node, &self.provider) {
            Ok(m) => {
                let notes = m.notes.clone();
                self.current.store(Arc::new(m));
                Reload::Loaded(notes)
            }
            Err(e) => Reload::Kept(e),
        }
    }

    /// What this node's own certificate says.
    #[must_use]
    pub fn own(&self) -> Leaf {
        self.current.load().own.clone()
    }

    /// What an operator should know of the files, though they work.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.current.load().notes.clone()
    }

    /// Since when a revocation list should have been replaced, in seconds before `now` (seconds since
    /// 1970); `None` while none is out of date. Whom it lists is refused all the same; whoever was
    /// revoked since is not on it.
    #[must_use]
    pub fn stale_list(&self, now: i64) -> Option<i64> {
        let until = self.current.load().crl_until?;
        (now > until).then(|| now - until)
    }

    /// The file of revocation lists.
    #[must_use]
    pub fn crl(&self) -> &Path {
        &self.files.crl
    }

    /// Judges a peer again, by the present time and lists.
    #[must_use]
    pub fn judge_again(&self, peer: &Proven) -> Option<Untrusted> {
        let (leaf, rest) = peer.chain.split_first()?;
        let m = self.current.load();
        let now = UnixTime::now();
        let judged = if peer.dialled {
            // The name was right when it was dialled, and is not judged again.
            match peer.names.first().map(server_name) {
                Some(Ok(name)) => {
                    m.servers.verify_server_cert(leaf, rest, &name, &[], now).map(|_| ())
                }
                _ => Ok(()),
            }
        } else {
            m.clients.verify_client_cert(leaf, rest, now).map(|_| ())
        };
        judged.err().map(|e| Untrusted { subject: leaf_subject(leaf), why: Why::of(&e, None) })
    }

    /// For one connection that comes in. With `mandatory`, a peer without certificate is refused.
    pub(super) fn server(
        &self,
        alpn: &[&[u8]],
        mandatory: bool,
    ) -> Result<(ServerConfig, Reason), rustls::Error> {
        let reason: Reason = Arc::new(OnceLock::new());
        let m = self.current.load_full();
        let key = SingleCertAndKey::from(m.key.clone());
        let judge = Judge::of_client(m, mandatory, reason.clone());
        let mut c = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(judge))
            .with_cert_resolver(Arc::new(key));
        c.alpn_protocols = alpn.iter().map(|a| a.to_vec()).collect();
        c.session_storage = Arc::new(NoServerSessionStorage {});
        c.send_tls13_tickets = 0;
        Ok((c, reason))
    }

    /// As [`Pki::server`], for QUIC.
    pub(super) fn quic_server(&self, alpn: &[&[u8]]) -> Result<(ServerConfig, Reason), TlsError> {
        self.server(alpn, true).map_err(|e| TlsError::Other(e.to_string()))
    }

    /// What a listener for QUIC must know again after a restart.
    pub(super) fn lasting(&self) -> Lasting {
        self.current.load().lasting.clone()
    }

    /// As [`Pki::client`], for QUIC.
    pub(super) fn quic_client(&self, peer: &NodeName) -> Result<(ClientConfig, Reason), TlsError> {
        self.client(peer).map_err(|e| TlsError::Other(e.to_string()))
    }

    /// For one connection to `peer`.
    pub(super) fn client(&self, peer: &NodeName) -> Result<(ClientConfig, Reason), rustls::Error> {
        let reason: Reason = Arc::new(OnceLock::new());
        let m = self.current.load_full();
        let key = SingleCertAndKey::from(m.key.clone());
        let judge = Judge::of_server(m, peer.as_str(), reason.clone());
        let mut c = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(judge))
            .with_client_cert_resolver(Arc::new(key));
        c.alpn_protocols = vec![ALPN_RCP.to_vec()];
        c.resumption = Resumption::disabled();
        Ok((c, reason))
    }
}

/// Whom a certificate is for, to be shown.
fn leaf_subject(leaf: &CertificateDer<'_>) -> String {
    Leaf::read(leaf).map(|l| l.subject()).unwrap_or_default()
}

/// For a connection to a proxy that ends TLS; no certificate of this node is shown to it. Trusted
/// are the CAs of `ca`, else those of `pki`.
fn proxy_client(pki: Option<&Pki>, ca: Option<&Path>) -> Result<ClientConfig, PkiError> {
    match (ca, pki) {
        (Some(path), _) => guest(path, material::roots(path)?, Vec::new()),
        (None, Some(pki)) => {
            guest(Path::new("ca.pem"), pki.current.load().roots.clone(), Vec::new())
        }
        (None, None) => {
            let why = "a proxy with https needs `pki:`, whose CA is trusted".to_owned();
            Err(PkiError::Bad { path: PathBuf::from("ca.pem"), why })
        }
    }
}

/// Whom somebody trusts who has no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    /// CA certificates, PEM.
    pub ca: PathBuf,
    /// Revocation lists, PEM; there need not be any.
    pub crl: PathBuf,
}

impl Trusted {
    /// The files of a folder that `rcpctl pki` made: `ca.pem`, `crl.pem`.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self { ca: folder.join("ca.pem"), crl: folder.join("crl.pem") }
    }

    fn client(&self) -> Result<ClientConfig, PkiError> {
        guest(&self.ca, material::roots(&self.ca)?, material::crls(&self.crl)?)
    }
}

/// For HTTP over TLS to whoever has a certificate by `roots`, read from `ca`.
fn guest(
    ca: &Path,
    roots: Arc<RootCertStore>,
    crls: Vec<CertificateRevocationListDer<'static>>,
) -> Result<ClientConfig, PkiError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let bad = |e: &dyn std::fmt::Display| PkiError::Bad { path: ca.into(), why: e.to_string() };
    let mut verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
    if !crls.is_empty() {
        verifier = verifier
            .with_crls(crls)
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status();
    }
    let mut c = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| bad(&e))?
        .with_webpki_verifier(verifier.build().map_err(|e| bad(&e))?)
        .with_no_client_auth();
    c.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
    c.resumption = Resumption::disabled();
    Ok(c)
}

/// The name of a node as TLS writes it.
///
/// # Errors
/// [`PkiError::Name`] if it is no DNS name: an address, or a dot too many.
pub fn server_name(node: &NodeName) -> Result<ServerName<'static>, PkiError> {
    match ServerName::try_from(node.as_str().to_owned()) {
        Ok(name @ ServerName::DnsName(_)) => Ok(name),
        _ => Err(PkiError::Name(node.clone())),
    }
}
