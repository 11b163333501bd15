//! Fixed newstyle option haggling as a state machine: bytes in, bytes out (NBD, `doc/proto.md`).
//!
//! It touches no socket and no clock; the deadline is the driver's. Bounds on lengths and counts
//! are checked before anything is kept.

use super::export::{Export, ExportInfo, Exports, OpenError, OpenErrorKind};
use super::limits::{
    HANDSHAKE_OUT, MAX_OPTION_LEN, MAX_OPTION_SKIP, MAX_OPTIONS, MAX_PAYLOAD, MAX_STRING,
    MIN_PREFERRED,
};
use super::proto::{CONTEXT_ID, Negotiated, transmission_flags};
use std::sync::Arc;

/// `NBDMAGIC`.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Magic of an option reply.
pub const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Handshake flag and client flag: fixed newstyle.
pub const FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag and client flag: no 124 zero bytes after EXPORT_NAME.
pub const NO_ZEROES: u16 = 2;

/// Options.
pub mod opt {
    #![expect(missing_docs, reason = "the names are those of the specification")]
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Option replies.
pub mod rep {
    #![expect(missing_docs, reason = "the names are those of the specification")]
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR: u32 = 1 << 31;
    pub const ERR_UNSUP: u32 = ERR + 1;
    pub const ERR_POLICY: u32 = ERR + 2;
    pub const ERR_INVALID: u32 = ERR + 3;
    pub const ERR_TLS_REQD: u32 = ERR + 5;
    pub const ERR_UNKNOWN: u32 = ERR + 6;
    pub const ERR_TOO_BIG: u32 = ERR + 9;
}

/// Information types.
pub mod info {
    #![expect(missing_docs, reason = "the names are those of the specification")]
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// The one metadata context there is.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// The client broke a rule that leaves nothing to say but goodbye.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A client flag that the server did not offer.
    #[error("unknown client flags {0:#x}")]
    ClientFlags(u32),
    /// No option where one must begin.
    #[error("option magic is {0:#018x}")]
    OptionMagic(u64),
    /// More options than anybody needs.
    #[error("more than {MAX_OPTIONS} options")]
    TooManyOptions,
    /// An option too long even to skip.
    #[error("option {option} announces {len} bytes")]
    TooLong {
        /// The option.
        option: u32,
        /// Its announced length.
        len: u32,
    },
    /// EXPORT_NAME cannot be answered with an error.
    #[error("EXPORT_NAME refused: {0}")]
    ExportName(String),
}

/// What the handshake led to.
pub enum Outcome {
    /// More bytes are needed.
    More,
    /// Transmission begins with the next byte.
    Enter {
        /// What was opened.
        export: Arc<dyn Export>,
        /// Its description as announced.
        info: ExportInfo,
        /// What was agreed.
        negotiated: Negotiated,
    },
    /// The client may begin TLS once the reply is sent; haggling goes on inside. Whatever it sent
    /// in plain text behind the option is not to be looked at.
    StartTls,
    /// The client took its leave.
    Abort,
}

/// How it is with TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// There is none.
    #[default]
    Unavailable,
    /// The client may ask for it (NBD, "SELECTIVETLS mode", for all exports alike).
    Offered,
    /// Nothing else is served before it (NBD, "FORCEDTLS mode").
    Required,
    /// It is spoken.
    Spoken,
}

/// What a client is told that wants something in plain text where TLS is required.
pub const TLS_REQUIRED: &str = "this server requires TLS: have the client start it with a \
     certificate that `rcpctl pki issue --client NAME` makes (QEMU: --object tls-creds-x509 and \
     tls-creds=; libnbd: nbds://HOST/EXPORT?tls-certificates=DIR), or use the Unix socket";

/// State of one handshake.
#[derive(Debug, Default)]
pub struct Handshake {
    flags: Option<u32>,
    options: u32,
    skip: u32,
    structured: bool,
    tls: TlsMode,
    plain_refused: bool,
    /// Export for which `base:allocation` was selected.
    context: Option<String>,
}

/// What the server says first.
pub fn greeting() -> [u8; 18] {
    let mut b = [0; 18];
    b[0..8].copy_from_slice(&INIT_MAGIC.to_be_bytes());
    b[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    b[16..18].copy_from_slice(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    b
}

/// Appends an option reply; `data` longer than an option may be is cut off.
pub fn reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(data);
}

/// A string of the protocol: at most 4096 bytes, cut at a character.
fn clipped(text: &str) -> &str {
    let mut end = text.len().min(MAX_STRING);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Reads fields off the front of option data; every length is checked against what is there.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.bytes(2).and_then(|b| b.try_into().ok()).map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes(4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes)
    }

    fn string(&mut self) -> Option<&'a str> {
        let len = usize::try_from(self.u32()?).ok()?;
        name(self.bytes(len)?)
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// A string without NUL and of legal length.
fn name(bytes: &[u8]) -> Option<&str> {
    if bytes.len() > MAX_STRING || bytes.contains(&0) {
        return None;
    }
    std::str::from_utf8(bytes).ok()
}

enum Next<'a> {
    Incomplete,
    Skip,
    Option(u32, &'a [u8]),
}

impl Handshake {
    /// The beginning of one.
    #[must_use]
    pub fn new(tls: TlsMode) -> Self {
        Self { tls, ..Self::default() }
    }

    /// The client wanted something in plain text that is served over TLS only.
    #[must_use]
    pub fn plain_refused(&self) -> bool {
        self.plain_refused
    }

    /// Takes what has arrived, appends replies to `out`, and says how many bytes were used. Stops
    /// after the option that ends the handshake: what follows belongs to transmission. Stops as
    /// well when [`HANDSHAKE_OUT`] bytes of replies have gathered: send them and call again, until
    /// nothing is used any more.
    pub fn step(
        &mut self,
        input: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<(usize, Outcome), Violation> {
        let mut f = Fields(input);
        if self.flags.is_none() {
            let Some(flags) = f.u32() else { return Ok((0, Outcome::More)) };
            if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
                return Err(Violation::ClientFlags(flags));
            }
            self.flags = Some(flags);
        }
        loop {
            let skipped = f.0.len().min(self.skip as usize);
            f.0 = &f.0[skipped..];
            self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
            let used = input.len() - f.0.len();
            if self.skip > 0 || out.len() >= HANDSHAKE_OUT {
                return Ok((used, Outcome::More));
            }
            match self.next_option(&mut f, out)? {
                Next::Incomplete => return Ok((used, Outcome::More)),
                Next::Skip => {}
                Next::Option(option, data) => match self.option(option, data, exports, out)? {
                    Outcome::More => {}
                    end => return Ok((input.len() - f.0.len(), end)),
                },
            }
        }
    }

    /// The next whole option. Uses nothing up while it is incomplete.
    fn next_option<'a>(
        &mut self,
        f: &mut Fields<'a>,
        out: &mut Vec<u8>,
    ) -> Result<Next<'a>, Violation> {
        let mut ahead = Fields(f.0);
        let Some(magic) = ahead.bytes(8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes)
        else {
            return Ok(Next::Incomplete);
        };
        if magic != OPTION_MAGIC {
            return Err(Violation::OptionMagic(magic));
        }
        let (Some(option), Some(len)) = (ahead.u32(), ahead.u32()) else {
            return Ok(Next::Incomplete);
        };
        if len > MAX_OPTION_SKIP {
            return Err(Violation::TooLong { option, len });
        }
        let data = if len > MAX_OPTION_LEN { Some(&[][..]) } else { ahead.bytes(len as usize) };
        let Some(data) = data else { return Ok(Next::Incomplete) };
        self.options += 1;
        if self.options > MAX_OPTIONS {
            return Err(Violation::TooManyOptions);
        }
        f.0 = ahead.0;
        if len > MAX_OPTION_LEN {
            reply(out, option, rep::ERR_TOO_BIG, b"the option is too long");
            self.skip = len;
            return Ok(Next::Skip);
        }
        Ok(Next::Option(option, data))
    }

    fn option(
        &mut self,
        option: u32,
        data: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<Outcome, Violation> {
        let invalid = |out: &mut Vec<u8>, text: &str| {
            reply(out, option, rep::ERR_INVALID, text.as_bytes());
        };
        if self.tls == TlsMode::Required && !matches!(option, opt::STARTTLS | opt::ABORT) {
            self.plain_refused = true;
            if option == opt::EXPORT_NAME {
                return Err(Violation::ExportName(TLS_REQUIRED.to_owned()));
            }
            reply(out, option, rep::ERR_TLS_REQD, TLS_REQUIRED.as_bytes());
            return Ok(Outcome::More);
        }
        match option {
            opt::EXPORT_NAME => return self.export_name(data, exports, out),
            opt::ABORT => {
                reply(out, option, rep::ACK, &[]);
                return Ok(Outcome::Abort);
            }
            opt::LIST if data.is_empty() => list(exports, out),
            opt::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                reply(out, option, rep::ACK, &[]);
            }
            opt::LIST | opt::STRUCTURED_REPLY => invalid(out, "this option has no data"),
            opt::STARTTLS => match self.tls {
                TlsMode::Unavailable => {
                    reply(out, option, rep::ERR_UNSUP, b"TLS is not available on this listener");
                }
                TlsMode::Spoken => invalid(out, "TLS is spoken already"),
                _ if !data.is_empty() => invalid(out, "this option has no data"),
                TlsMode::Offered | TlsMode::Required => {
                    // what was agreed in plain text may have been agreed with somebody else
                    (self.structured, self.context) = (false, None);
                    self.tls = TlsMode::Spoken;
                    reply(out, option, rep::ACK, &[]);
                    return Ok(Outcome::StartTls);
                }
            },
            opt::INFO | opt::GO => match parse_info(data) {
                Some((name, wants)) => return Ok(self.info(option, name, &wants, exports, out)),
                None => invalid(out, "malformed export name or information requests"),
            },
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => match parse_contexts(data) {
                _ if !self.structured => invalid(out, "negotiate structured replies first"),
                Some((name, queries)) => self.contexts(option, name, &queries, exports, out),
                None => invalid(out, "malformed export name or queries"),
            },
            _ => reply(out, option, rep::ERR_UNSUP, b"unknown option"),
        }
        Ok(Outcome::More)
    }

    fn negotiated(&self, name: &str) -> Negotiated {
        Negotiated {
            structured: self.structured,
            block_status: self.structured && self.context.as_deref() == Some(name),
        }
    }

    fn export_name(
        &mut self,
        data: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<Outcome, Violation> {
        let Some(name) = name(data) else {
            return Err(Violation::ExportName("malformed name".into()));
        };
        let export = exports.open(name).map_err(|e| Violation::ExportName(e.text))?;
        let (info, negotiated) = (export.info(), self.negotiated(name));
        out.extend_from_slice(&info.size.to_be_bytes());
        out.extend_from_slice(&transmission_flags(&info, negotiated).to_be_bytes());
        if self.flags.unwrap_or(0) & u32::from(NO_ZEROES) == 0 {
            out.extend_from_slice(&[0; 124]);
        }
        Ok(Outcome::Enter { export, info, negotiated })
    }

    fn info(
        &mut self,
        option: u32,
        name: &str,
        wants: &[u16],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let opened = if option == opt::GO {
            exports.open(name).map(|e| (e.info(), Some(e)))
        } else {
            exports.describe(name).map(|info| (info, None))
        };
        let (info, export) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                refuse(out, option, &e);
                return Outcome::More;
            }
        };
        let negotiated = self.negotiated(name);
        let mut item = Vec::with_capacity(16);
        let mut send = |kind: u16, parts: &[&[u8]]| {
            item.clear();
            item.extend_from_slice(&kind.to_be_bytes());
            parts.iter().for_each(|p| item.extend_from_slice(p));
            reply(out, option, rep::INFO, &item);
        };
        let flags = transmission_flags(&info, negotiated).to_be_bytes();
        send(info::EXPORT, &[&info.size.to_be_bytes(), &flags]);
        if wants.contains(&info::NAME) {
            send(info::NAME, &[name.as_bytes()]);
        }
        if wants.contains(&info::DESCRIPTION) && !info.description.is_empty() {
            send(info::DESCRIPTION, &[clipped(&info.description).as_bytes()]);
        }
        if wants.contains(&info::BLOCK_SIZE) {
            let preferred = preferred_block_size(info.block_size).to_be_bytes();
            send(info::BLOCK_SIZE, &[&1u32.to_be_bytes(), &preferred, &MAX_PAYLOAD.to_be_bytes()]);
        }
        reply(out, option, rep::ACK, &[]);
        match export {
            Some(export) => Outcome::Enter { export, info, negotiated },
            None => Outcome::More,
        }
    }

    fn contexts(
        &mut self,
        option: u32,
        name: &str,
        queries: &[&str],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) {
        let set = option == opt::SET_META_CONTEXT;
        if set {
            self.context = None;
        }
        if let Err(e) = exports.describe(name) {
            refuse(out, option, &e);
            return;
        }
        let all = !set && queries.is_empty();
        let wanted = |q: &&str| *q == BASE_ALLOCATION || (!set && *q == "base:");
        if all || queries.iter().any(wanted) {
            let mut item = if set { CONTEXT_ID } else { 0 }.to_be_bytes().to_vec();
            item.extend_from_slice(BASE_ALLOCATION.as_bytes());
            reply(out, option, rep::META_CONTEXT, &item);
            if set {
                self.context = Some(name.to_owned());
            }
        }
        reply(out, option, rep::ACK, &[]);
    }
}

fn preferred_block_size(block_size: u32) -> u32 {
    let size = block_size.clamp(MIN_PREFERRED, MAX_PAYLOAD);
    size.checked_next_power_of_two().unwrap_or(MIN_PREFERRED)
}

fn refuse(out: &mut Vec<u8>, option: u32, e: &OpenError) {
    let kind = match e.kind {
        OpenErrorKind::Unknown => rep::ERR_UNKNOWN,
        OpenErrorKind::Policy | OpenErrorKind::NotReady => rep::ERR_POLICY,
    };
    reply(out, option, kind, clipped(&e.text).as_bytes());
}

fn list(exports: &dyn Exports, out: &mut Vec<u8>) {
    if let Err(e) = exports.may_list() {
        return refuse(out, opt::LIST, &e);
    }
    for e in exports.list() {
        let name = clipped(&e.name);
        let len = u32::try_from(name.len()).unwrap_or(0);
        let mut item = len.to_be_bytes().to_vec();
        item.extend_from_slice(name.as_bytes());
        item.extend_from_slice(clipped(&e.description).as_bytes());
        reply(out, opt::LIST, rep::SERVER, &item);
    }
    reply(out, opt::LIST, rep::ACK, &[]);
}

/// Data of INFO and GO: name, then 16-bit information requests.
fn parse_info(data: &[u8]) -> Option<(&str, Vec<u16>)> {
    let mut f = Fields(data);
    let name = f.string()?;
    let count = f.u16()?;
    let wants = (0..count).map(|_| f.u16()).collect::<Option<Vec<u16>>>()?;
    f.end()?;
    Some((name, wants))
}

/// Data of the metadata context options: name, then queries.
fn parse_contexts(data: &[u8]) -> Option<(&str, Vec<&str>)> {
    let mut f = Fields(data);
    let name = f.string()?;
    let count = f.u32()?;
    // a query takes four bytes at least: a lying count ends the loop, not the memory
    let mut queries = Vec::new();
    for _ in 0..count {
        queries.push(f.string()?);
    }
    f.end()?;
    Some((name, queries))
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
