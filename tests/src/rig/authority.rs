//! A certificate authority for tests: good certificates, and every kind of bad one.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber,
};

/// A day, to say when certificates begin and end.
const DAY: u64 = 86_400;

/// A private CA.
#[derive(Debug)]
pub struct Authority {
    ca: CertifiedIssuer<'static, KeyPair>,
    next: AtomicU64,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate, PEM.
    pub cert: String,
    /// Its key, PKCS#8 PEM.
    pub key: String,
    /// Its serial number.
    pub serial: u64,
}

impl Authority {
    /// A CA that goes by `name`, with a key of its own.
    ///
    /// # Panics
    /// Never, as long as keys can be made.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let ca = CertifiedIssuer::self_signed(params, key).expect("a CA");
        Self { ca, next: AtomicU64::new(2) }
    }

    /// What the clock on the wall shows: certificates are about that.
    #[must_use]
    #[allow(clippy::disallowed_methods)] // the nodes' own look at it is rustls'
    pub fn now() -> SystemTime {
        SystemTime::now()
    }

    /// Its own certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.ca.as_ref().pem()
    }

    /// A certificate for these names, good since yesterday, for a month.
    #[must_use]
    pub fn issue(&self, names: &[&str]) -> Issued {
        let now = Self::now();
        let day = Duration::from_secs(DAY);
        self.issue_for(names, now - day, now + 30 * day)
    }

    /// A certificate with a time of its own.
    ///
    /// # Panics
    /// When a name cannot stand in a certificate.
    #[must_use]
    pub fn issue_for(&self, names: &[&str], from: SystemTime, until: SystemTime) -> Issued {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let common = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, common);
        params.not_before = from.into();
        params.not_after = until.into();
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let serial = self.next.fetch_add(1, Ordering::Relaxed);
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.ca).expect("a certificate");
        Issued { cert: cert.pem(), key: key.serialize_pem(), serial }
    }

    /// A revocation list with these serial numbers, PEM.
    ///
    /// # Panics
    /// Never, as long as it can be signed.
    #[must_use]
    pub fn revoke(&self, serials: &[u64]) -> String {
        let now = Self::now();
        let revoked = serials.iter().map(|s| RevokedCertParams {
            serial_number: SerialNumber::from(*s),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: (now - Duration::from_secs(60)).into(),
            next_update: (now + Duration::from_secs(30 * DAY)).into(),
            crl_number: SerialNumber::from(self.next.fetch_add(1, Ordering::Relaxed)),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.ca).expect("signed").pem().expect("PEM")
    }

    /// Makes a folder of certificates for these nodes.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, folder: &Path, nodes: &[&str]) {
        std::fs::create_dir_all(folder).expect("the folder");
        std::fs::write(folder.join("ca.pem"), self.pem()).expect("ca.pem");
        for node in nodes {
            self.issue(&[node]).write(folder, node);
        }
    }
}

impl Issued {
    /// Writes it as the certificate of a node, each file at once.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, folder: &Path, node: &str) {
        use std::os::unix::fs::PermissionsExt;
        for (name, text) in
            [(format!("{node}.key"), &self.key), (format!("{node}.pem"), &self.cert)]
        {
            let new = folder.join(format!("{name}.new"));
            std::fs::write(&new, text).expect("written");
            let private = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&new, private).expect("private");
            std::fs::rename(&new, folder.join(name)).expect("renamed");
        }
    }
}
