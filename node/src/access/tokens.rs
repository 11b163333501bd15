//! Bearer tokens: made once, stored as hashes, taken up by running nodes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Scope;
use crate::hex;
use crate::pki::{PkiError, write};

/// File name, in the folder with the certificates.
const FILE: &str = "tokens.json";
/// Form of the file.
const VERSION: u32 = 1;
/// What every token begins with, so that one that leaked can be found by a search.
const PREFIX: &str = "rcp_";
/// More would make every check slow.
const MOST: usize = 1000;

/// A token as it is stored: nobody can make the token from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Whose it is.
    pub name: String,
    /// What it is good for.
    pub scope: Scope,
    /// SHA-256 of the whole token, in hexadecimal.
    pub sha256: String,
    /// When it was made, seconds since 1970, UTC.
    pub created: i64,
    /// When it ends; `None`: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
}

/// Why a token is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not on the list: never made, or revoked.
    #[error(
        "the token is not known here: it was revoked, or the node has no tokens.json that lists it"
    )]
    Unknown,
    /// Its time is over.
    #[error("token {0} has expired: `rcpctl token revoke {0}`, then `rcpctl token create {0}`")]
    Expired(String),
    /// The list cannot be read.
    #[error("the node cannot read its list of tokens: {0}")]
    Unreadable(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    tokens: Vec<Token>,
}

/// What was read, and from which file it was.
type Loaded = (Option<(SystemTime, u64)>, Result<Arc<Vec<Token>>, String>);

/// The tokens of a folder. A change of the file counts from the next request on.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    loaded: Mutex<Option<Loaded>>,
}

impl Tokens {
    /// Of the folder with the certificates.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self { path: folder.join(FILE), loaded: Mutex::default() }
    }

    /// The token on the list that `secret` is, at `now` (seconds since 1970).
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn check(&self, secret: &str, now: i64) -> Result<Token, TokenError> {
        let list = self.current().map_err(TokenError::Unreadable)?;
        let hash = hash(secret);
        let mut found = None;
        for t in list.iter() {
            if verify_slices_are_equal(t.sha256.as_bytes(), hash.as_bytes()).is_ok() {
                found = Some(t);
            }
        }
        match found {
            None => Err(TokenError::Unknown),
            Some(t) if t.until.is_some_and(|until| now >= until) => {
                Err(TokenError::Expired(t.name.clone()))
            }
            Some(t) => Ok(t.clone()),
        }
    }

    /// All of them, in the order in which they were made.
    ///
    /// # Errors
    /// [`PkiError`] names the file.
    pub fn list(&self) -> Result<Vec<Token>, PkiError> {
        self.current()
            .map(|l| l.to_vec())
            .map_err(|why| PkiError::Damaged { path: self.path.clone(), why })
    }

    /// Makes a token; what is returned is shown once and stored nowhere.
    ///
    /// # Errors
    /// [`PkiError::Refused`] if there is one of this name.
    pub fn create(
        &self,
        name: &str,
        scope: Scope,
        created: i64,
        until: Option<i64>,
    ) -> Result<String, PkiError> {
        let sound = !name.is_empty()
            && name.len() <= 63
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-@".contains(&b));
        if !sound {
            return Err(PkiError::Refused(format!(
                "{name:?} is no name for a token: 1 to 63 letters, digits, and . _ - @"
            )));
        }
        let mut tokens = self.list()?;
        if tokens.iter().any(|t| t.name == name) {
            return Err(PkiError::Refused(format!(
                "there is a token {name} already: `rcpctl token revoke {name}` first, or choose \
                 another name"
            )));
        }
        if tokens.len() >= MOST {
            return Err(PkiError::Refused(format!("there are {MOST} tokens already: revoke some")));
        }
        // 244 random bits.
        let secret =
            format!("{PREFIX}{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        tokens.push(Token { name: name.to_owned(), scope, sha256: hash(&secret), created, until });
        self.store(tokens)?;
        Ok(secret)
    }

    /// Takes a token off the list.
    ///
    /// # Errors
    /// [`PkiError::Refused`] if there is none of this name.
    pub fn revoke(&self, name: &str) -> Result<(), PkiError> {
        let mut tokens = self.list()?;
        let before = tokens.len();
        tokens.retain(|t| t.name != name);
        if tokens.len() == before {
            let names: Vec<&str> = tokens.iter().map(|t| t.name.as_str()).collect();
            let all = if names.is_empty() { "there are none".to_owned() } else { names.join(", ") };
            return Err(PkiError::Refused(format!("there is no token {name}; tokens: {all}")));
        }
        self.store(tokens)
    }

    fn store(&self, tokens: Vec<Token>) -> Result<(), PkiError> {
        let stored = Stored { version: VERSION, tokens };
        let text = serde_json::to_string_pretty(&stored)
            .map_err(|e| PkiError::Damaged { path: self.path.clone(), why: e.to_string() })?;
        *self.loaded.lock() = None;
        write(&self.path, format!("{text}\n").as_bytes(), true)
    }

    /// The list, read again if the file is another one than before.
    fn current(&self) -> Result<Arc<Vec<Token>>, String> {
        let stamp = match std::fs::metadata(&self.path) {
            Ok(m) => m.modified().ok().map(|t| (t, m.len())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Arc::default()),
            Err(e) => return Err(e.to_string()),
        };
        let mut loaded = self.loaded.lock();
        if let Some((was, list)) = &*loaded
            && *was == stamp
        {
            return list.clone();
        }
        let list = read(&self.path).map(Arc::new);
        *loaded = Some((stamp, list.clone()));
        list
    }
}

fn read(path: &Path) -> Result<Vec<Token>, String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    let stored: Stored = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    if stored.version == VERSION {
        Ok(stored.tokens)
    } else {
        Err(format!("it is of version {}, this program reads {VERSION}", stored.version))
    }
}

fn hash(secret: &str) -> String {
    hex::encode(digest(&SHA256, secret.as_bytes()).as_ref())
}
