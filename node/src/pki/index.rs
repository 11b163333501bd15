//! What an authority has issued.

use std::path::Path;

use rcp::proto::ids::NodeName;
use serde::{Deserialize, Serialize};

use super::authority::PkiError;

/// File name of the list.
const FILE: &str = "issued.json";
/// Form of the file.
const VERSION: u32 = 1;

/// One certificate that was issued. Times are seconds since 1970, UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issued {
    /// Whose it is.
    pub node: String,
    /// Who is no node: a client of NBD or HTTP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub user: bool,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// Host names and addresses in it, beside the node's name.
    #[serde(default)]
    pub also: Vec<String>,
    /// Valid from.
    pub from: i64,
    /// Valid until.
    pub until: i64,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<i64>,
    /// A newer one took its place.
    #[serde(default)]
    pub replaced: bool,
}

/// Whether a certificate is good for anything now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// For so many seconds more.
    Valid(i64),
    /// Since so many seconds not any more.
    Expired(i64),
    /// Trusted no more.
    Revoked,
}

impl Issued {
    /// Whether it is good for anything at `now` (seconds since 1970).
    #[must_use]
    pub fn standing(&self, now: i64) -> Standing {
        if self.revoked.is_some() {
            Standing::Revoked
        } else if now < self.until {
            Standing::Valid(self.until - now)
        } else {
            Standing::Expired(now - self.until)
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    /// Number of the next list of revoked certificates; it only rises.
    next_crl: u64,
    issued: Vec<Issued>,
}

/// The list, as it is in the folder.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) issued: Vec<Issued>,
    pub(super) next_crl: u64,
}

impl Index {
    pub(super) fn load(folder: &Path) -> Result<Self, PkiError> {
        let path = folder.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(b) => b,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { issued: Vec::new(), next_crl: 1 });
            }
            Err(e) => return Err(PkiError::io(&path, e)),
        };
        let damaged = |why: String| PkiError::Damaged { path: path.clone(), why };
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if stored.version != VERSION {
            return Err(damaged(format!(
                "it is of version {}, this program writes version {VERSION}",
                stored.version
            )));
        }
        Ok(Self { issued: stored.issued, next_crl: stored.next_crl })
    }

    pub(super) fn store(&self, folder: &Path) -> Result<(), PkiError> {
        let path = folder.join(FILE);
        let stored =
            Stored { version: VERSION, next_crl: self.next_crl, issued: self.issued.clone() };
        let text = serde_json::to_string_pretty(&stored)
            .map_err(|e| PkiError::Damaged { path: path.clone(), why: e.to_string() })?;
        super::authority::write(&path, format!("{text}\n").as_bytes(), false)
    }

    /// A node's newest certificate.
    pub(super) fn newest(&self, node: &NodeName) -> Option<&Issued> {
        self.issued.iter().rev().find(|i| i.node == node.as_str() && !i.replaced)
    }
}
