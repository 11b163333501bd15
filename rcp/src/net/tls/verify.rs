//! Judging the peer's certificate, and remembering why it was refused.
//!
//! The chain, the times, the purpose and the revocation lists are webpki's to judge; what is added
//! here are the exact name (no wildcards) and the reason in words. One verifier serves one
//! connection.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::material::{Leaf, Material};
use super::untrusted::{Distrust, Untrusted};

/// Where the reason of a refusal is found after a handshake has failed.
pub(in super::super) type Reason = Arc<OnceLock<Untrusted>>;

/// Judges the certificate of one peer.
#[derive(Debug)]
pub(super) struct Judge {
    material: Arc<Material>,
    /// The name that it must have; any if none.
    expected: Option<String>,
    /// A peer without a certificate is refused.
    mandatory: bool,
    why: Reason,
}

impl Judge {
    /// Of a peer that was dialled, and must be `expected`.
    pub(super) fn of_server(material: Arc<Material>, expected: &str, why: Reason) -> Self {
        Self { material, expected: Some(expected.to_owned()), mandatory: true, why }
    }

    /// Of a peer that connected.
    pub(super) fn of_client(material: Arc<Material>, mandatory: bool, why: Reason) -> Self {
        Self { material, expected: None, mandatory, why }
    }

    /// Remembers why, and hands the error on.
    fn refuse(&self, leaf: Option<&CertificateDer<'_>>, error: Error) -> Error {
        let subject = leaf.and_then(|c| Leaf::read(c)).map(|l| l.subject()).unwrap_or_default();
        let why = Distrust::of(&error, self.expected.as_deref());
        let _ = self.why.set(Untrusted { subject, why });
        error
    }

    fn check_name(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let Some(expected) = &self.expected else { return Ok(()) };
        match Leaf::read(leaf) {
            Some(l) if l.names.iter().any(|n| n == expected) => Ok(()),
            _ => Err(CertificateError::NotValidForName.into()),
        }
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.material
            .servers
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .and_then(|ok| self.check_name(end_entity).map(|()| ok))
            .map_err(|e| self.refuse(Some(end_entity), e))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(&*self.material.servers, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(&*self.material.servers)
    }
}

impl ClientCertVerifier for Judge {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.material.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.material
            .clients
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(|e| self.refuse(Some(end_entity), e))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.material.clients.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.material.clients.supported_verify_schemes()
    }
}
