//! How hops are crossed: transports, certificates, proxies, and who else may feed a group.
//!
//! What a file may not say: encrypted hops without certificates to prove them by, names that no
//! certificate can carry, plain text between machines without a word that this is meant.

use super::values::{self, Field};
use super::{Scene, routes};
use crate::address::HostPort;
use crate::diagnostics::{Problem, Report};
use crate::plan::NodePlan;
use crate::raw::{RawGroup, RawHop, RawTopology};
use crate::suggest;
use crate::value::shown;
use crate::yaml::Text;
use rcp::proto::ids::NodeName;
use rcp::proto::pace::Limit;
use rcp::proto::transport::{Congestion, Connections, Hop, ProxyUrl, Transport};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// What the whole file says of hops.
pub(super) struct Top {
    pub(super) pki: Option<PathBuf>,
    hop: Hop,
}

/// The folder of certificates, and what every hop is crossed by.
pub(super) fn top(raw: &RawTopology, report: &mut Report) -> Top {
    let field = |name| Field::new(name, "the topology");
    let pki = values::path(raw.pki.as_ref(), field("pki"), report);
    // With a path that is wrong, certificates are meant all the same.
    let proven = raw.pki.is_some();
    let transport = transport(raw.transport.as_ref(), field("transport"), proven, report);
    let default = if proven { Transport::Tls } else { Transport::Tcp };
    let congestion = congestion(raw.congestion.as_ref(), field("congestion"), report);
    let hop = Hop { transport: Some(transport.unwrap_or(default)), congestion, ..Hop::default() };
    Top { pki, hop }
}

/// Names of nodes that no certificate can carry.
pub(super) fn names(raw: &RawTopology, report: &mut Report) {
    if raw.pki.is_none() {
        return;
    }
    for node in raw.nodes.iter().filter(|n| NodeName::new(&n.name.value).is_ok()) {
        if !is_dns_name(&node.name.value) {
            report.add(|| {
                let name = shown(&node.name.value);
                Problem::new(&node.name.span, format!("no certificate can carry the name {name}"))
                    .label("not a DNS name")
                    .hint(
                        "with `pki`, each part of a name between dots begins and ends with a \
                         letter or digit, and the last one is not a number",
                    )
            });
        }
    }
}

/// Whether a well-formed name is a DNS name, and not an address.
fn is_dns_name(name: &str) -> bool {
    let part = |p: &str| !p.is_empty() && !p.starts_with('-') && !p.ends_with('-');
    let last = name.rsplit('.').next().unwrap_or_default();
    name.split('.').all(part) && !last.bytes().all(|b| b.is_ascii_digit())
}

/// How the hops of one group are crossed.
#[derive(Default)]
pub(super) struct Hops {
    /// Where a hop says nothing of its own.
    pub(super) group: Hop,
    /// Hops that say something of their own, by sender and next hop.
    pub(super) own: BTreeMap<(NodeName, NodeName), Hop>,
    pub(super) feeders: BTreeSet<NodeName>,
    /// Members that dial their parent.
    pub(super) dialling: BTreeSet<NodeName>,
}

/// Who dials, of a parent and its next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dials {
    Parent,
    Child,
}

impl Dials {
    const WORDS: &'static [&'static str] = &["parent", "child"];
}

impl std::str::FromStr for Dials {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "parent" => Ok(Self::Parent),
            "child" => Ok(Self::Child),
            _ => Err(()),
        }
    }
}

pub(super) fn group(
    raw: &RawGroup,
    title: &str,
    scene: &Scene<'_>,
    tree: &routes::Tree,
    report: &mut Report,
) -> Hops {
    let Scene { names, nodes, top, proven } = *scene;
    let owner = format!("group {title}");
    let field = |name| Field::new(name, &owner);
    let own = Hop {
        transport: transport(raw.transport.as_ref(), field("transport"), proven, report),
        congestion: congestion(raw.congestion.as_ref(), field("congestion"), report),
        ..Hop::default()
    };
    let mut hops = Hops { group: own.or(&top.hop), ..Hops::default() };
    for (from, list) in &raw.routes {
        for hop in list {
            let read = one(hop, title, proven, report);
            let what = format!("next hop {} in group {title}", shown(&hop.node.value));
            let dials = choice(hop.dial.as_ref(), Field::new("dial", &what), Dials::WORDS, report);
            let (Ok(from), Ok(to)) = (NodeName::new(&from.value), NodeName::new(&hop.node.value))
            else {
                continue;
            };
            if tree.parents.get(&to) != Some(&from) {
                continue;
            }
            let dialled = if dials == Some(Dials::Child) {
                hops.dialling.insert(to.clone());
                &from
            } else {
                &to
            };
            let whole = read.or(&hops.group);
            contradictions(hop, &whole, report);
            if let Some(node) = nodes.get(dialled)
                && proven
                && whole.transport == Some(Transport::Tcp)
                && whole.via.is_none()
                && !(node.insecure_plaintext || HostPort::is_loopback(&node.listen))
            {
                report.add(|| plain(hop, node));
            }
            if !read.is_default() {
                hops.own.insert((from, to), read);
            }
        }
    }
    let place = format!("`feeders` of {owner}");
    for text in &raw.feeders {
        if let Some(node) = names.resolve(text, &place, report)
            && !hops.feeders.insert(node.clone())
        {
            report.add(|| {
                Problem::new(&text.span, format!("`{node}` stands twice in {place}"))
                    .hint("remove one")
            });
        }
    }
    hops
}

fn one(raw: &RawHop, title: &str, proven: bool, report: &mut Report) -> Hop {
    let owner = format!("next hop {} in group {title}", shown(&raw.node.value));
    let field = |name| Field::new(name, &owner);
    let via = raw.via.as_ref().and_then(|text| match text.value.parse::<ProxyUrl>() {
        Ok(url) => Some(url),
        Err(e) => {
            report.add(|| {
                Problem::new(&text.span, format!("{}: {}", field("via"), e.why()))
                    .label("not a URL of a proxy")
                    .hint("write `via: \"http://HOST:PORT/rcp\"`, or https")
            });
            None
        }
    });
    let ca = values::path(raw.ca.as_ref(), field("ca"), report);
    let limit = raw.limit.as_ref().and_then(|text| match text.value.parse::<Limit>() {
        Ok(limit) => Some(limit),
        Err(e) => {
            report.add(|| {
                Problem::new(&text.span, format!("{}: {}", field("limit"), e.why()))
                    .label("not a limit")
                    .hint("write `limit: 20Mbit/s`, or `limit: \"20Mbit/s@mon-fri@08:00-18:00\"` (UTC)")
            });
            None
        }
    });
    Hop {
        transport: transport(raw.transport.as_ref(), field("transport"), proven, report),
        congestion: congestion(raw.congestion.as_ref(), field("congestion"), report),
        via,
        ca: ca.map(|p| p.to_string_lossy().into_owned()),
        limit,
        connections: connections(raw.connections.as_ref(), field("connections"), report),
    }
}

/// What does not go together in one hop.
fn contradictions(raw: &RawHop, hop: &Hop, report: &mut Report) {
    if let (Some(text), Some(Transport::Quic)) = (&raw.via, hop.transport) {
        report.add(|| {
            Problem::new(&text.span, "QUIC does not go through an HTTP proxy")
                .label("with `transport: quic`")
                .hint("write `transport: tls` for this next hop, or remove `via`")
        });
    }
    if let (Some(text), Some(Transport::Quic)) = (&raw.connections, hop.transport)
        && hop.wanted_connections() > 1
    {
        report.add(|| {
            Problem::new(&text.span, "`connections` is not for QUIC: it has streams of its own")
                .label("with `transport: quic`")
                .hint("write `transport: tls` for this next hop, or remove `connections`")
        });
    }
    if let Some(text) = &raw.ca
        && hop.via.as_ref().is_none_or(|v| !v.https)
    {
        report.add(|| {
            Problem::new(&text.span, "`ca` is for a proxy that is reached by https")
                .label("no such proxy here")
                .hint("write `via: \"https://…\"`, or remove `ca`")
        });
    }
}

fn plain(hop: &RawHop, node: &NodePlan) -> Problem {
    let (name, listen) = (&node.name, &node.listen);
    let text = hop.transport.as_ref().unwrap_or(&hop.node);
    Problem::new(
        &text.span,
        format!("this hop would cross the network to `{name}` on {listen} without encryption"),
    )
    .label("plain tcp")
    .hint(format!(
        "write `transport: tls`, or, if the network is trusted, add `insecure_plaintext: true` to \
         `{name}`"
    ))
}

fn transport(
    text: Option<&Text>,
    field: Field<'_>,
    proven: bool,
    report: &mut Report,
) -> Option<Transport> {
    let found: Transport = choice(text, field, Transport::WORDS, report)?;
    if let Some(text) = text
        && !proven
        && found != Transport::Tcp
    {
        report.add(|| {
            Problem::new(&text.span, format!("{field} is {found}, but there are no certificates"))
                .label("needs `pki`")
                .hint("make some with `rcpctl pki`, and write `pki: DIR` at the top of the file")
        });
    }
    Some(found)
}

fn congestion(text: Option<&Text>, field: Field<'_>, report: &mut Report) -> Option<Congestion> {
    choice(text, field, Congestion::WORDS, report)
}

fn connections(text: Option<&Text>, field: Field<'_>, report: &mut Report) -> Option<Connections> {
    let text = text?;
    let found = text.value.parse().ok();
    if found.is_none() {
        report.add(|| {
            let value = shown(&text.value);
            Problem::new(&text.span, format!("{field} is a number from 1 to 16, not {value}"))
                .label("not such a number")
                .hint("write `connections: 4`")
        });
    }
    found
}

/// One of a few words.
fn choice<T: std::str::FromStr>(
    text: Option<&Text>,
    field: Field<'_>,
    words: &'static [&'static str],
    report: &mut Report,
) -> Option<T> {
    let text = text?;
    let found = text.value.parse().ok();
    if found.is_none() {
        report.add(|| {
            let value = shown(&text.value);
            Problem::new(&text.span, format!("{field} is one of {}, not {value}", words.join(", ")))
                .label("not one of them")
                .hint(suggest::hint(&text.value, words.iter().copied(), "the choices"))
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::is_dns_name;

    #[test]
    fn names_that_certificates_can_carry() {
        for name in ["a", "cel1-ser1", "a.b.example", "a_b", "1", "1a", "a.1b"] {
            let number = name == "1";
            assert_eq!(is_dns_name(name), !number, "{name}");
        }
        for name in ["10.0.0.1", "a..b", "a.", "a-", "a.-b", "a.7"] {
            assert!(!is_dns_name(name), "{name}");
        }
    }
}
