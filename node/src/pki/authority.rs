//! The authority: makes, renews and revokes certificates.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevocationReason, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rcp::net::tls::USER_URN;
use rcp::proto::ids::NodeName;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::index::{Index, Issued, Standing};
use super::{CA_CERTIFICATE, CA_KEY, REVOKED};
use crate::hex;

/// Clocks of two nodes may differ by this much; a fresh certificate is valid from so long ago.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// What went wrong with certificates; names the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {why}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// What was asked for cannot be done; says why and what can.
    #[error("{0}")]
    Refused(String),
    /// Making a certificate failed.
    #[error("the certificate could not be made: {0}")]
    Making(#[from] rcgen::Error),
}

impl PkiError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// From when, and for how long a certificate is made to be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Seconds since 1970, UTC.
    pub now: i64,
    /// How long from now.
    pub length: Duration,
}

impl Validity {
    fn until(self) -> i64 {
        self.now.saturating_add(i64::try_from(self.length.as_secs()).unwrap_or(i64::MAX))
    }

    fn apply(self, params: &mut CertificateParams) {
        let epoch = date_time_ymd(1970, 1, 1);
        let now = Duration::from_secs(u64::try_from(self.now).unwrap_or_default());
        params.not_before = epoch + now.saturating_sub(CLOCK_SKEW);
        params.not_after = epoch + now + self.length;
    }
}

/// An authority whose folder is open.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// Until when its own certificate is valid, seconds since 1970.
    until: i64,
    index: Index,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes an authority in a folder that has none. `name` is for people who look at
    /// certificates.
    ///
    /// # Errors
    /// [`PkiError::Refused`] if there is one already; the folder is then unchanged.
    pub fn init(folder: &Path, name: &str, valid: Validity) -> Result<Self, PkiError> {
        for file in [CA_CERTIFICATE, CA_KEY] {
            let path = folder.join(file);
            if path.exists() {
                return Err(PkiError::Refused(format!(
                    "{} exists: there is an authority already; a second one would be trusted by no \
                     node. Give --dir another folder, or remove this one if no node uses it",
                    path.display()
                )));
            }
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|e| PkiError::io(folder, e))?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial());
        valid.apply(&mut params);
        let certificate = params.self_signed(&key)?;
        write(&folder.join(CA_KEY), key.serialize_pem().as_bytes(), true)?;
        write(&folder.join(CA_CERTIFICATE), certificate.pem().as_bytes(), false)?;
        Self::open(folder)
    }

    /// Opens an authority to issue from.
    ///
    /// # Errors
    /// [`PkiError`], naming the file.
    pub fn open(folder: &Path) -> Result<Self, PkiError> {
        let (cert_path, key_path) = (folder.join(CA_CERTIFICATE), folder.join(CA_KEY));
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => PkiError::Refused(format!(
                    "{} is not there: `rcpctl pki init --dir {}` makes an authority (certificates \
                     are issued where its key is, not on the nodes)",
                    path.display(),
                    folder.display()
                )),
                _ => PkiError::io(path, e),
            })
        };
        let (cert, key) = (read(&cert_path)?, read(&key_path)?);
        let key = KeyPair::from_pem(&key).map_err(|e| PkiError::Damaged {
            path: key_path.clone(),
            why: format!("this is no private key: {e}"),
        })?;
        let damaged = |why: String| PkiError::Damaged { path: cert_path.clone(), why };
        let der = CertificateDer::from_pem_slice(cert.as_bytes())
            .map_err(|e| damaged(format!("this is no certificate: {e}")))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|e| damaged(format!("this is no certificate: {e}")))?;
        let until = parsed.validity().not_after.timestamp();
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(damaged(format!("it does not belong to {}", key_path.display())));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|e| damaged(format!("it cannot issue certificates: {e}")))?;
        let index = Index::load(folder)?;
        Ok(Self { folder: folder.to_owned(), issuer, until, index })
    }

    /// Until when the authority itself is valid, seconds since 1970.
    #[must_use]
    pub fn until(&self) -> i64 {
        self.until
    }

    /// Everything that was issued, oldest first.
    #[must_use]
    pub fn issued(&self) -> &[Issued] {
        &self.index.issued
    }

    /// Issues the first certificate of a node. `also` are host names and IP addresses for clients
    /// that look for those (`curl`); `names` are the other nodes' names, which `also` may not be.
    ///
    /// # Errors
    /// [`PkiError::Refused`] if the node has a valid one already, or if a name could be taken for
    /// another node's; nothing is written then.
    pub fn issue(
        &mut self,
        node: &NodeName,
        also: &[String],
        names: &BTreeSet<NodeName>,
        valid: Validity,
    ) -> Result<Issued, PkiError> {
        if let Some(i) = self.index.newest(node)
            && matches!(i.standing(valid.now), Standing::Valid(_))
        {
            return Err(PkiError::Refused(format!(
                "{node} has a certificate already: `rcpctl pki renew {node}` makes a new one, \
                 `rcpctl pki revoke {node}` takes it back"
            )));
        }
        self.check_names(node, also, names)?;
        self.make(node, also, false, valid)
    }

    /// Issues the first certificate of a user: somebody who opens NBD exports and is no node.
    /// `names` are the names of nodes.
    ///
    /// # Errors
    /// [`PkiError::Refused`] if the user has a valid one already, or a node goes by that name;
    /// nothing is written then.
    pub fn issue_user(
        &mut self,
        user: &NodeName,
        names: &BTreeSet<NodeName>,
        valid: Validity,
    ) -> Result<Issued, PkiError> {
        let same = |i: &Issued| i.node == user.as_str();
        let node = self.index.issued.iter().find(|i| !i.user && same(i)).map(|i| i.node.clone());
        let host = || {
            let other = |i: &&Issued| i.also.iter().any(|a| a == user.as_str());
            self.index.issued.iter().find(other).map(|i| i.node.clone())
        };
        let node = node.or_else(|| names.get(user).map(ToString::to_string)).or_else(host);
        if let Some(node) = node {
            return Err(PkiError::Refused(format!(
                "{user} is a name of node {node}: where an `nbd_allow` says `name:{user}` nobody \
                 would know who is meant; choose another name for the client"
            )));
        }
        if let Some(i) = self.index.newest(user)
            && matches!(i.standing(valid.now), Standing::Valid(_))
        {
            return Err(PkiError::Refused(format!(
                "{user} has a certificate already: `rcpctl pki renew {user}` makes a new one, \
                 `rcpctl pki revoke {user}` takes it back"
            )));
        }
        self.make(user, &[], true, valid)
    }

    /// Gives a node a new key and certificate with the names of the one before.
    ///
    /// # Errors
    /// [`PkiError::Refused`] if there is none, or if it was revoked.
    pub fn renew(&mut self, node: &NodeName, valid: Validity) -> Result<Issued, PkiError> {
        let Some(i) = self.index.newest(node) else {
            return Err(PkiError::Refused(format!(
                "{node} has no certificate to renew: `rcpctl pki issue {node}` makes the first one"
            )));
        };
        if i.revoked.is_some() {
            return Err(PkiError::Refused(format!(
                "the certificate of {node} was revoked: if {node} is to be trusted again, \
                 `rcpctl pki issue {}{node}{}`",
                if i.user { "--client " } else { "" },
                i.also.iter().map(|h| format!(" --host {h}")).collect::<String>()
            )));
        }
        let (also, user) = (i.also.clone(), i.user);
        self.make(node, &also, user, valid)
    }

    /// Takes back every certificate of a node that has not expired, and writes the list of revoked
    /// certificates anew. Returns how many were taken back.
    ///
    /// # Errors
    /// [`PkiError::Refused`] if there is none.
    pub fn revoke(&mut self, node: &NodeName, now: i64) -> Result<usize, PkiError> {
        let mut taken = 0;
        for i in &mut self.index.issued {
            if i.node == node.as_str() && matches!(i.standing(now), Standing::Valid(_)) {
                i.revoked = Some(now);
                taken += 1;
            }
        }
        if taken == 0 {
            return Err(PkiError::Refused(format!(
                "{node} has no valid certificate to revoke: `rcpctl pki show` lists what was issued"
            )));
        }
        self.write_revoked(now)?;
        Ok(taken)
    }

    /// Names that could be taken for another node's are refused.
    fn check_names(
        &self,
        node: &NodeName,
        also: &[String],
        names: &BTreeSet<NodeName>,
    ) -> Result<(), PkiError> {
        if node.as_str().parse::<IpAddr>().is_ok() {
            return Err(PkiError::Refused(format!(
                "node name {node} reads as an IP address, which a certificate cannot carry as a \
                 name: rename the node"
            )));
        }
        if self.index.issued.iter().any(|i| i.user && i.node == node.as_str()) {
            return Err(PkiError::Refused(format!(
                "{node} is the name of a client that has a certificate: choose another name for the \
                 node"
            )));
        }
        if let Some(other) =
            self.index.issued.iter().find(|i| i.also.iter().any(|a| a == node.as_str()))
        {
            return Err(PkiError::Refused(format!(
                "{node} is a host name in the certificate of {}, who could then pass for {node}: \
                 choose another name for the node",
                other.node
            )));
        }
        for name in also {
            let taken = names.iter().any(|n| n != node && n.as_str() == name)
                || self.index.issued.iter().any(|i| i.node == *name && *name != node.as_str());
            if taken {
                return Err(PkiError::Refused(format!(
                    "host name {name} is the name of another node, or of a client: with it in its certificate, \
                     {node} could pass for {name}"
                )));
            }
        }
        Ok(())
    }

    fn make(
        &mut self,
        node: &NodeName,
        also: &[String],
        user: bool,
        valid: Validity,
    ) -> Result<Issued, PkiError> {
        if valid.until() > self.until {
            return Err(PkiError::Refused(format!(
                "a certificate of {node} would outlive the authority, which is valid until {}: \
                 ask for less with --days, or make a new authority",
                day(self.until)
            )));
        }
        let serial = serial();
        let params = params(node, also, user, &serial, valid)?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let issued = Issued {
            node: node.to_string(),
            user,
            serial: hex::encode(&serial.to_bytes()),
            also: also.to_vec(),
            from: valid.now,
            until: valid.until(),
            revoked: None,
            replaced: false,
        };
        // The list first: a certificate that is not on it could not be revoked.
        for i in self.index.issued.iter_mut().filter(|i| i.node == node.as_str()) {
            i.replaced = true;
        }
        // Long expired ones can do no harm and need no place on the list.
        self.index.issued.retain(|i| !i.replaced || i.until > valid.now);
        self.index.issued.push(issued.clone());
        self.index.store(&self.folder)?;
        // Whoever reads between the two finds a pair that does not fit, and reads again.
        if user {
            let folder = self.folder.join(node.as_str());
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(|e| PkiError::io(&folder, e))?;
            let ca = self.folder.join(CA_CERTIFICATE);
            let ca = std::fs::read(&ca).map_err(|e| PkiError::io(&ca, e))?;
            write(&folder.join("client-key.pem"), key.serialize_pem().as_bytes(), true)?;
            write(&folder.join("client-cert.pem"), certificate.pem().as_bytes(), false)?;
            write(&folder.join("ca-cert.pem"), &ca, false)?;
            return Ok(issued);
        }
        let file = |ending: &str| self.folder.join(format!("{node}.{ending}"));
        write(&file("key"), key.serialize_pem().as_bytes(), true)?;
        write(&file("pem"), certificate.pem().as_bytes(), false)?;
        Ok(issued)
    }

    fn write_revoked(&mut self, now: i64) -> Result<(), PkiError> {
        let epoch = date_time_ymd(1970, 1, 1);
        let at = |s: i64| epoch + Duration::from_secs(u64::try_from(s).unwrap_or_default());
        let revoked_certs = self
            .index
            .issued
            .iter()
            .filter_map(|i| {
                Some(RevokedCertParams {
                    serial_number: SerialNumber::from_slice(&hex::decode(&i.serial)?),
                    revocation_time: at(i.revoked?),
                    reason_code: Some(RevocationReason::CessationOfOperation),
                    invalidity_date: None,
                })
            })
            .collect();
        let params = CertificateRevocationListParams {
            this_update: at(now),
            next_update: at(self.until),
            crl_number: SerialNumber::from(self.index.next_crl),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = params.signed_by(&self.issuer)?.pem()?;
        self.index.next_crl += 1;
        self.index.store(&self.folder)?;
        write(&self.folder.join(REVOKED), pem.as_bytes(), false)
    }
}

/// What a certificate says.
fn params(
    node: &NodeName,
    also: &[String],
    user: bool,
    serial: &SerialNumber,
    valid: Validity,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(if user {
        let urn = format!("{USER_URN}{node}");
        SanType::URI(urn.try_into()?)
    } else {
        SanType::DnsName(node.as_str().try_into()?)
    });
    for name in also {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(name.as_str().try_into().map_err(|_| {
                PkiError::Refused(format!("{name} is neither a host name nor an IP address"))
            })?),
        });
    }
    params.distinguished_name = common_name(node.as_str());
    params.is_ca = IsCa::ExplicitNoCa;
    if user {
        // No key usage: QEMU wants keyEncipherment in it, which RFC 8813 forbids for such keys.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    } else {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    }
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial.clone());
    valid.apply(&mut params);
    Ok(params)
}

/// The day of a moment, UTC.
fn day(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| "?".to_owned(), |t| t.strftime("%Y-%m-%d").to_string())
}

fn common_name(name: &str) -> DistinguishedName {
    let mut n = DistinguishedName::new();
    n.push(DnType::CommonName, name);
    n
}

/// 127 random bits, positive, never zero (RFC 5280 section 4.1.2.2).
fn serial() -> SerialNumber {
    let mut bytes = *uuid::Uuid::new_v4().as_bytes();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Replaces a file whole and durably; a secret one is never readable for others, not even for a
/// moment.
pub(crate) fn write(path: &Path, bytes: &[u8], secret: bool) -> Result<(), PkiError> {
    let failed = |e| PkiError::io(path, e);
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    // A file left by a crash may have other permissions.
    let _ = std::fs::remove_file(&new);
    let mut f = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(if secret { 0o600 } else { 0o644 })
        .open(&new)
        .map_err(failed)?;
    f.write_all(bytes).and_then(|()| f.sync_all()).map_err(failed)?;
    std::fs::rename(&new, path).map_err(failed)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(folder).and_then(|d| d.sync_all()).map_err(failed)
}
