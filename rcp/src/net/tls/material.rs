//! What a node knows of keys and trust at one moment, read from its files.

use std::fmt;
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::hmac;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};
use x509_parser::prelude::{CertificateRevocationList, FromDer, GeneralName, X509Certificate};

use super::PkiError;
use crate::proto::ids::NodeName;

/// Largest file that is read.
const MAX_FILE: u64 = 16 << 20;
/// Most names that are taken from one certificate.
const MAX_CERT_NAMES: usize = 64;

/// Where a node's certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PkiFiles {
    /// CA certificates that are trusted, PEM.
    pub ca: PathBuf,
    /// This node's certificate chain, leaf first, PEM.
    pub cert: PathBuf,
    /// Its private key, PKCS#8 PEM, readable by its owner only.
    pub key: PathBuf,
    /// Revocation lists, PEM; there need not be any.
    pub crl: PathBuf,
}

impl PkiFiles {
    /// The files of a node in a folder: `ca.pem`, `NODE.pem`, `NODE.key`, `crl.pem`.
    #[must_use]
    pub fn in_folder(folder: &Path, node: &NodeName) -> Self {
        Self {
            ca: folder.join("ca.pem"),
            cert: folder.join(format!("{node}.pem")),
            key: folder.join(format!("{node}.key")),
            crl: folder.join("crl.pem"),
        }
    }

    /// What changes when a file does.
    pub(super) fn stamp(&self) -> Stamp {
        let one = |p: &Path| {
            let m: Metadata = std::fs::metadata(p).ok()?;
            Some((m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime_nsec()))
        };
        [one(&self.ca), one(&self.cert), one(&self.key), one(&self.crl)]
    }
}

/// Inode, size and times of each file.
pub(super) type Stamp = [Option<(u64, u64, i64, i64, i64)>; 4];

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Leaf {
    /// The DNS names in its subject alternative names.
    pub names: Vec<String>,
    /// The users in them, see [`super::USER_URN`].
    pub users: Vec<String>,
    /// Valid from, in seconds since 1970.
    pub not_before: i64,
    /// Valid until.
    pub not_after: i64,
}

impl Leaf {
    /// Reads a certificate; `None` if it is none.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let (_, cert) = X509Certificate::from_der(der).ok()?;
        let (mut names, mut users) = (Vec::new(), Vec::new());
        if let Ok(Some(san)) = cert.subject_alternative_name() {
            for name in &san.value.general_names {
                if names.len() + users.len() == MAX_CERT_NAMES {
                    break;
                }
                match name {
                    GeneralName::DNSName(n) => names.push(n.to_ascii_lowercase()),
                    GeneralName::URI(uri) => {
                        users
                            .extend(uri.strip_prefix(super::USER_URN).map(str::to_ascii_lowercase));
                    }
                    _ => {}
                }
            }
        }
        let validity = cert.validity();
        Some(Self {
            names,
            users,
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    /// The names that can be names of nodes.
    pub(super) fn nodes(&self) -> Vec<NodeName> {
        self.names.iter().filter_map(|n| NodeName::new(n).ok()).collect()
    }

    /// Whom it is for, to be shown.
    pub(super) fn subject(&self) -> String {
        self.names.first().or(self.users.first()).cloned().unwrap_or_default()
    }
}

/// What only the holder of the private key can compute, and computes again after a restart.
#[derive(Clone)]
pub(in crate::net) struct Lasting(hmac::Key);

impl Lasting {
    fn new(key: &PrivateKeyDer<'_>) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.secret_der()))
    }

    /// Bytes for one purpose; they tell nothing of the key nor of those for another.
    pub(in crate::net) fn bytes(&self, purpose: &str) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(hmac::sign(&self.0, purpose.as_bytes()).as_ref());
        out
    }
}

impl fmt::Debug for Lasting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lasting(..)")
    }
}

/// Keys and trust as loaded.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) lasting: Lasting,
    pub(super) own: Leaf,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) clients: Arc<dyn ClientCertVerifier>,
    pub(super) servers: Arc<WebPkiServerVerifier>,
    /// Until when every revocation list is up to date, in seconds since 1970.
    pub(super) crl_until: Option<i64>,
    /// What an operator should know, though it works.
    pub(super) notes: Vec<String>,
}

fn read(path: &Path) -> Result<Vec<u8>, PkiError> {
    let io = |source| PkiError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .map_err(io)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(bad(path, "it has more than 16 MiB"));
    }
    Ok(bytes)
}

fn bad(path: &Path, why: impl Into<String>) -> PkiError {
    PkiError::Bad { path: path.to_owned(), why: why.into() }
}

/// The certificates of a PEM file; at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let bytes = read(path)?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|e| bad(path, format!("it is not PEM: {e}")))?;
    if all.is_empty() { Err(bad(path, "there is no certificate in it")) } else { Ok(all) }
}

/// The CA certificates of a PEM file.
pub(super) fn roots(path: &Path) -> Result<Arc<RootCertStore>, PkiError> {
    let mut roots = RootCertStore::empty();
    for ca in certificates(path)? {
        roots.add(ca).map_err(|e| bad(path, format!("a certificate cannot be used: {e}")))?;
    }
    Ok(Arc::new(roots))
}

impl Material {
    pub(super) fn load(
        files: &PkiFiles,
        node: &NodeName,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, PkiError> {
        let mut notes = Vec::new();
        let roots = roots(&files.ca)?;
        let chain = certificates(&files.cert)?;
        let own = chain.first().and_then(|c| Leaf::read(c));
        let own = own.ok_or_else(|| bad(&files.cert, "its first certificate cannot be read"))?;
        if !own.names.iter().any(|n| n == node.as_str()) {
            let names = own.names.join(", ");
            let why = format!("it is for `{names}`, not for {node}: issue one for this node");
            return Err(bad(&files.cert, why));
        }
        let key = read(&files.key)?;
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|e| bad(&files.key, format!("it is no private key in PEM: {e}")))?;
        let lasting = Lasting::new(&key);
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|e| {
            let why = format!("it does not fit {}: {e}", files.cert.display());
            bad(&files.key, why)
        })?;
        if std::fs::metadata(&files.key).is_ok_and(|m| m.mode() & 0o077 != 0) {
            notes.push(format!(
                "{} can be read by others than its owner: chmod 600 it",
                files.key.display()
            ));
        }
        let crls = crls(&files.crl)?;
        let crl_until = crls.iter().filter_map(|c| next_update(c)).min();
        let build = |e: &dyn std::fmt::Display| bad(&files.ca, e.to_string());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .with_crls(crls.iter().cloned())
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status()
            .build()
            .map_err(|e| build(&e))?;
        let servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .with_crls(crls)
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status()
            .build()
            .map_err(|e| build(&e))?;
        if let Some((leaf, rest)) = key.cert.split_first()
            && let Err(e) = clients.verify_client_cert(leaf, rest, UnixTime::now())
            && e == rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)
        {
            notes.push(format!(
                "{} was not issued by an authority that is in {}: other nodes refuse it; `rcpctl pki \
                 issue {node}` makes one, or put the right ca.pem there",
                files.cert.display(),
                files.ca.display()
            ));
        }
        Ok(Self { key: Arc::new(key), lasting, own, roots, clients, servers, crl_until, notes })
    }
}

/// When a list is to be replaced (RFC 5280, section 5.1.2.5), in seconds since 1970.
fn next_update(crl: &CertificateRevocationListDer<'_>) -> Option<i64> {
    let (_, crl) = CertificateRevocationList::from_der(crl).ok()?;
    crl.next_update().map(|t| t.timestamp())
}

/// The revocation lists of a PEM file; none if it is not there.
pub(super) fn crls(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, PkiError> {
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(PkiError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(e),
    };
    let all: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|e| bad(path, format!("it is not PEM: {e}")))?;
    if all.is_empty() {
        // An empty list in place of one that was cut off would trust what was revoked.
        return Err(bad(
            path,
            "there is no revocation list in it: remove the file if none is meant",
        ));
    }
    Ok(all)
}
