//! The table as a file image, to the byte as `docs/routing.md` says.
//!
//! A header with magic, version, length and checksums, then the lines in a canonical order: equal
//! tables have equal images. Nothing that came from disk panics; a file that is zero, torn, damaged
//! in any bit or of a later version is refused by name.

use std::collections::BTreeMap;

use rcp::proto::ids::{GroupName, NodeName};
use rcp::proto::pace::Limit;
use rcp::proto::transport::{Congestion, Connections, Hop, ProxyUrl, Transport};

use super::{Onward, Routes, Table, count};
use crate::limits::{MAX_GROUPS, MAX_NAMES_BELOW, MAX_NEXT_HOPS, MAX_TABLE_FILE};

const MAGIC: [u8; 8] = *b"RCPROUTE";
/// Without next hops that are reached in a way of their own, with such, and with such that are
/// limited, or have several connections. A table is written in the lowest version that can say it.
const VERSIONS: [u16; 4] = [1, 2, 3, 4];
/// From these on, a next hop has these fields.
const WITH_HOPS: u16 = VERSIONS[1];
const WITH_LIMITS: u16 = VERSIONS[2];
const WITH_CONNECTIONS: u16 = VERSIONS[3];
const HEADER_LEN: usize = 32;

/// Why bytes are not a stored table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    /// It is something else, or was never written.
    #[error("this is no routing table: it does not begin with `RCPROUTE`")]
    Magic,
    /// Written by a later version.
    #[error("the routing table has version {0}, this program reads versions 1 to 4")]
    Version(u16),
    /// Cut off, or with something behind it.
    #[error("the routing table has {have} bytes where {want} are expected")]
    Length {
        /// Bytes given.
        have: usize,
        /// Bytes expected, or the least that could be.
        want: usize,
    },
    /// The header is damaged.
    #[error("the checksum of the routing table's header does not hold")]
    HeaderChecksum,
    /// The lines are damaged.
    #[error("the checksum of the routing table's lines does not hold")]
    BodyChecksum,
    /// The checksums hold and the content breaks a rule: it was written by a faulty program.
    #[error("the routing table breaks a rule of its format: {0}")]
    Rule(&'static str),
}

impl Table {
    /// The file image.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let version = lowest_version(&self.groups);
        let mut body = Vec::new();
        put_name(&mut body, self.node.as_str());
        put_count(&mut body, self.groups.len());
        for (group, routes) in &self.groups {
            put_name(&mut body, group.as_str());
            put_hops(&mut body, &routes.own);
            if version >= WITH_HOPS {
                put_count(&mut body, routes.hops.len());
                for (next_hop, hop) in &routes.hops {
                    put_name(&mut body, next_hop.as_str());
                    put_hop(&mut body, hop, version);
                }
            }
            put_count(&mut body, routes.below.len());
            for (child, lines) in &routes.below {
                put_name(&mut body, child.as_str());
                put_count(&mut body, lines.len());
                for (node, hops) in lines {
                    put_name(&mut body, node.as_str());
                    put_hops(&mut body, hops);
                }
            }
        }
        let total = u32::try_from(HEADER_LEN + body.len()).unwrap_or(u32::MAX);
        let mut out = Vec::with_capacity(HEADER_LEN + body.len());
        out.extend(MAGIC);
        out.extend(version.to_le_bytes());
        out.extend([0; 2]);
        out.extend(total.to_le_bytes());
        out.extend(self.revision.to_le_bytes());
        out.extend(crc32c::crc32c(&body).to_le_bytes());
        out.extend(crc32c::crc32c(&out).to_le_bytes());
        out.extend(body);
        out
    }

    /// The table in a file image.
    ///
    /// # Errors
    /// [`StoredError`] says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoredError> {
        if bytes.len() > MAX_TABLE_FILE {
            return Err(StoredError::Length { have: bytes.len(), want: MAX_TABLE_FILE });
        }
        let header = bytes
            .first_chunk::<HEADER_LEN>()
            .ok_or(StoredError::Length { have: bytes.len(), want: HEADER_LEN })?;
        let mut h = Reader(header);
        if h.array::<8>()? != MAGIC {
            return Err(StoredError::Magic);
        }
        let version = h.u16()?;
        let reserved = h.u16()?;
        let total = h.u32()?;
        let revision = u64::from_le_bytes(h.array()?);
        let body_crc = h.u32()?;
        if h.u32()? != crc32c::crc32c(&header[..HEADER_LEN - 4]) {
            return Err(StoredError::HeaderChecksum);
        }
        if !VERSIONS.contains(&version) {
            return Err(StoredError::Version(version));
        }
        if reserved != 0 {
            return Err(StoredError::Rule("reserved bytes are not zero"));
        }
        let want = usize::try_from(total).unwrap_or(usize::MAX);
        if bytes.len() != want {
            return Err(StoredError::Length { have: bytes.len(), want });
        }
        let body = &bytes[HEADER_LEN..];
        if crc32c::crc32c(body) != body_crc {
            return Err(StoredError::BodyChecksum);
        }
        let mut r = Reader(body);
        let node = r.node()?;
        let groups = r.groups(&node, version)?;
        if lowest_version(&groups) != version {
            return Err(StoredError::Rule("its version is later than what it says needs"));
        }
        if !r.0.is_empty() {
            return Err(StoredError::Rule("bytes are left after the last line"));
        }
        Ok(Self { node, revision, groups })
    }
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    // a name has at most 63 bytes
    out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    out.extend(name.as_bytes());
}

fn put_count(out: &mut Vec<u8>, n: usize) {
    // all counts are bounded far below this
    out.extend(u16::try_from(n).unwrap_or(u16::MAX).to_le_bytes());
}

/// The lowest version that can say it.
fn lowest_version(groups: &BTreeMap<GroupName, Routes>) -> u16 {
    let hops = || groups.values().flat_map(|r| r.hops.values());
    if hops().any(|h| h.connections.is_some()) {
        WITH_CONNECTIONS
    } else if hops().any(|h| h.limit.is_some()) {
        WITH_LIMITS
    } else if hops().next().is_some() {
        WITH_HOPS
    } else {
        VERSIONS[0]
    }
}

fn put_hop(out: &mut Vec<u8>, hop: &Hop, version: u16) {
    out.push(hop.transport.map_or(0, Transport::number));
    out.push(hop.congestion.map_or(0, Congestion::number));
    let via = hop.via.as_ref().map(ToString::to_string).unwrap_or_default();
    let limit = hop.limit.as_ref().map(ToString::to_string).unwrap_or_default();
    let texts = [via.as_str(), hop.ca.as_deref().unwrap_or_default(), limit.as_str()];
    for text in &texts[..if version >= WITH_LIMITS { 3 } else { 2 }] {
        // whoever made the hop held all of them to their limits
        put_count(out, text.len());
        out.extend(text.as_bytes());
    }
    if version >= WITH_CONNECTIONS {
        out.push(hop.connections.map_or(0, Connections::number));
    }
}

fn put_hops(out: &mut Vec<u8>, hops: &[NodeName]) {
    put_count(out, hops.len());
    hops.iter().for_each(|hop| put_name(out, hop.as_str()));
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, n: usize) -> Result<&[u8], StoredError> {
        let (head, tail) =
            self.0.split_at_checked(n).ok_or(StoredError::Rule("it ends inside a line"))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const K: usize>(&mut self) -> Result<[u8; K], StoredError> {
        let mut out = [0; K];
        out.copy_from_slice(self.take(K)?);
        Ok(out)
    }

    fn u16(&mut self) -> Result<u16, StoredError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, StoredError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<&str, StoredError> {
        let [len] = self.array()?;
        std::str::from_utf8(self.take(usize::from(len))?)
            .map_err(|_| StoredError::Rule("a name is not text"))
    }

    fn node(&mut self) -> Result<NodeName, StoredError> {
        NodeName::new(self.text()?).map_err(|_| StoredError::Rule("a node's name has not the form"))
    }

    fn group(&mut self) -> Result<GroupName, StoredError> {
        GroupName::new(self.text()?)
            .map_err(|_| StoredError::Rule("a group's name has not the form"))
    }

    fn hops(&mut self) -> Result<Vec<NodeName>, StoredError> {
        let n = usize::from(self.u16()?);
        if n == 0 || n > MAX_NEXT_HOPS {
            return Err(StoredError::Rule("a line has no next hops, or too many"));
        }
        (0..n).map(|_| self.node()).collect()
    }

    /// A text with its length in two bytes; none if that is 0.
    fn long_text(&mut self) -> Result<Option<String>, StoredError> {
        let len = usize::from(self.u16()?);
        let text = std::str::from_utf8(self.take(len)?)
            .map_err(|_| StoredError::Rule("a URL, path or limit is not text"))?;
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    fn hop(&mut self, version: u16) -> Result<Hop, StoredError> {
        let [transport, congestion] = self.array()?;
        let bad = StoredError::Rule("a next hop is reached in a way that is not known");
        let transport = match transport {
            0 => None,
            n => Some(Transport::from_number(n).ok_or_else(|| bad.clone())?),
        };
        let congestion = match congestion {
            0 => None,
            n => Some(Congestion::from_number(n).ok_or_else(|| bad.clone())?),
        };
        let via = self.long_text()?;
        let parsed = via.as_ref().map(|v| v.parse::<ProxyUrl>()).transpose();
        let parsed = parsed.map_err(|_| bad.clone())?;
        if parsed.as_ref().map(ToString::to_string) != via {
            return Err(bad);
        }
        let ca = self.long_text()?;
        let text = if version >= WITH_LIMITS { self.long_text()? } else { None };
        let limit = text.as_ref().map(|t| t.parse::<Limit>()).transpose();
        let limit = limit.map_err(|_| bad.clone())?;
        if limit.as_ref().map(ToString::to_string) != text {
            return Err(bad);
        }
        let connections = match if version >= WITH_CONNECTIONS { self.array()? } else { [0] } {
            [0] => None,
            [n] => Some(Connections::new(n).ok_or_else(|| bad.clone())?),
        };
        let hop = Hop { transport, congestion, via: parsed, ca, limit, connections };
        if hop.is_default() { Err(bad) } else { Ok(hop) }
    }

    /// The next hops of one line that say how they are reached.
    fn ways(
        &mut self,
        own: &[NodeName],
        version: u16,
    ) -> Result<BTreeMap<NodeName, Hop>, StoredError> {
        let mut hops = BTreeMap::new();
        for _ in 0..self.u16()? {
            let next_hop = self.node()?;
            if !own.contains(&next_hop) {
                return Err(StoredError::Rule("the way to a node that is no next hop"));
            }
            let hop = self.hop(version)?;
            push_sorted(&mut hops, next_hop, hop)?;
        }
        Ok(hops)
    }

    fn groups(
        &mut self,
        node: &NodeName,
        version: u16,
    ) -> Result<BTreeMap<GroupName, Routes>, StoredError> {
        let mut groups = BTreeMap::new();
        let n = usize::from(self.u16()?);
        if n > MAX_GROUPS {
            return Err(StoredError::Rule("there are too many groups"));
        }
        for _ in 0..n {
            let group = self.group()?;
            let own = self.hops()?;
            if own.contains(node) || own.iter().enumerate().any(|(i, h)| own[..i].contains(h)) {
                return Err(StoredError::Rule("a next hop is the node itself, or there twice"));
            }
            let hops =
                if version >= WITH_HOPS { self.ways(&own, version)? } else { BTreeMap::new() };
            let below = self.below(&own)?;
            push_sorted(&mut groups, group, Routes { own, hops, below })?;
        }
        Ok(groups)
    }

    fn below(&mut self, own: &[NodeName]) -> Result<BTreeMap<NodeName, Onward>, StoredError> {
        let mut below = BTreeMap::new();
        let mut names = 0usize;
        for _ in 0..self.u16()? {
            let child = self.node()?;
            if !own.contains(&child) {
                return Err(StoredError::Rule("onward routes of a node that is no next hop"));
            }
            let mut lines = Onward::new();
            for _ in 0..self.u16()? {
                let node = self.node()?;
                let hops = self.hops()?;
                push_sorted(&mut lines, node, hops)?;
            }
            names = names.saturating_add(count(&lines));
            if lines.is_empty() || names > MAX_NAMES_BELOW {
                return Err(StoredError::Rule("onward routes are empty, or too many"));
            }
            push_sorted(&mut below, child, lines)?;
        }
        Ok(below)
    }
}

/// Keeps to the canonical order.
fn push_sorted<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V) -> Result<(), StoredError> {
    if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
        return Err(StoredError::Rule("names are not in order"));
    }
    map.insert(key, value);
    Ok(())
}
