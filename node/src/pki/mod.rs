//! A private certificate authority for the nodes of a topology (GEN-05, DESIGN "Trust").
//!
//! One folder holds it all:
//!
//! | file | what | who needs it |
//! |---|---|---|
//! | `ca.pem` | the authority's certificate | every node |
//! | `NODE.pem`, `NODE.key` | a node's certificate and key (PKCS#8) | that node, nobody else |
//! | `crl.pem` | certificates that are trusted no more | every node, once there is one |
//! | `NAME/ca-cert.pem`, `client-cert.pem`, `client-key.pem` | a user's, as QEMU and libnbd want them | that user, nobody else |
//! | `ca.key` | the authority's key | the machine that issues; never a node |
//! | `issued.json` | what was issued, for `show`, `renew` and `revoke` | the machine that issues |
//!
//! Keys are made readable for their owner only. The name in a certificate, a DNS name in its
//! subject alternative names, *is* the node's name; further names are refused where they could be
//! taken for another node's. A user's name is a URI there ([`rcp::net::tls::USER_URN`]), and the
//! certificate is good for clients only, so that a user can never speak as a node. Certificates are short-lived by default: `renew` replaces them in
//! place, and a running node takes the new files up by itself.

mod authority;
mod index;

pub(crate) use authority::write;
pub use authority::{Authority, PkiError, Validity};
pub use index::{Issued, Standing};

/// File name of the authority's certificate.
pub const CA_CERTIFICATE: &str = "ca.pem";
/// File name of the authority's key.
pub const CA_KEY: &str = "ca.key";
/// File name of the list of revoked certificates.
pub const REVOKED: &str = "crl.pem";

#[cfg(test)]
mod tests;
