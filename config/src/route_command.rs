//! The grammar of `rcproute`: `add group=G nexthop=N`, `display`, `delete`.
//!
//! The printed form of the source texts is read too: a leading `cel1-ser2:` says on which data
//! mover the command runs, the word `rcproute` may follow, and `cellN-serM` means `celN-serM`.

use crate::limits::MAX_PATH;
use crate::suggest;
use crate::value::shown;
use rcp::proto::ids::{GroupName, NodeName};
use rcp::proto::transport::{Hop, Transport};
use std::fmt;
use std::str::FromStr;

/// The three forms, for `--help` and for errors.
pub const USAGE: &str = "\
usage: rcproute [NODE:] add group=GROUP nexthop=NODE [transport=tcp|tls|quic]
                [congestion=cubic|bbr|reno] [via=URL [ca=FILE]] [limit=LIMIT]
                [connections=N]
       rcproute [NODE:] display [group=GROUP]
       rcproute [NODE:] delete [group=GROUP] [nexthop=NODE]";

/// Longest command, in words.
const MAX_WORDS: usize = 16;

/// A command, and the node that it is for when one was written before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteCommand {
    /// The `NODE:` before the command.
    pub node: Option<NodeName>,
    /// What to do.
    pub action: RouteAction,
}

/// What an `rcproute` command does (ROUTE-01, ROUTE-03).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAction {
    /// Append a next hop to the entry of a group.
    Add {
        /// Which group.
        group: GroupName,
        /// To whom the node shall send.
        next_hop: NodeName,
        /// How it is reached, where that differs from what the topology says.
        by: Hop,
    },
    /// List the next hops, of one group or of all.
    Display {
        /// Which group; all if none.
        group: Option<GroupName>,
    },
    /// Remove next hops: of one group or of all, one of them or all.
    Delete {
        /// Which group; all if none.
        group: Option<GroupName>,
        /// Which next hop; all if none.
        next_hop: Option<NodeName>,
    },
}

/// A command that cannot be read. `Display` names the word and ends with the usage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rcproute: {message}\n{USAGE}")]
pub struct RouteCommandError {
    /// What is wrong, naming the word.
    pub message: String,
}

fn error(message: impl Into<String>) -> RouteCommandError {
    RouteCommandError { message: message.into() }
}

impl RouteCommand {
    /// Reads the words of a command line, without the program's name.
    ///
    /// # Errors
    /// [`RouteCommandError`] names the word that is wrong and shows the usage.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<Self, RouteCommandError> {
        let words: Vec<&str> =
            words.iter().flat_map(|w| w.as_ref().split_whitespace()).take(MAX_WORDS + 1).collect();
        if words.len() > MAX_WORDS {
            return Err(error("too many words"));
        }
        let mut rest = words.as_slice();
        let mut node = None;
        if let Some((first, after)) = rest.split_first()
            && let Some(name) = first.strip_suffix(':')
        {
            node = Some(node_name(name, first)?);
            rest = after;
        }
        if let Some((&"rcproute", after)) = rest.split_first() {
            rest = after;
        }
        let Some((verb, rest)) = rest.split_first() else {
            return Err(error("add, display or delete is missing"));
        };
        let action = match *verb {
            "add" => {
                let keys = [
                    "group",
                    "nexthop",
                    "transport",
                    "congestion",
                    "via",
                    "ca",
                    "limit",
                    "connections",
                ];
                let found = arguments(verb, rest, &keys)?;
                RouteAction::Add {
                    group: found.group.ok_or_else(|| error("add needs `group=GROUP`"))?,
                    next_hop: found.next_hop.ok_or_else(|| error("add needs `nexthop=NODE`"))?,
                    by: way(found.by)?,
                }
            }
            "display" => RouteAction::Display { group: arguments(verb, rest, &["group"])?.group },
            "delete" => {
                let found = arguments(verb, rest, &["group", "nexthop"])?;
                RouteAction::Delete { group: found.group, next_hop: found.next_hop }
            }
            other => {
                let known = ["add", "display", "delete"];
                return Err(error(format!(
                    "{} is not a command; {}",
                    shown(other),
                    suggest::hint(other, known, "the commands")
                )));
            }
        };
        Ok(Self { node, action })
    }
}

impl FromStr for RouteCommand {
    type Err = RouteCommandError;

    fn from_str(line: &str) -> Result<Self, RouteCommandError> {
        Self::parse(&[line])
    }
}

/// What `key=value` words say.
#[derive(Default)]
struct Arguments {
    group: Option<GroupName>,
    next_hop: Option<NodeName>,
    by: Hop,
}

/// What does not go together in one way.
fn way(by: Hop) -> Result<Hop, RouteCommandError> {
    if by.via.is_some() && by.transport == Some(Transport::Quic) {
        return Err(error("QUIC does not go through an HTTP proxy: write `transport=tls`"));
    }
    if by.transport == Some(Transport::Quic) && by.wanted_connections() > 1 {
        return Err(error(
            "`connections=` is not for QUIC, which has streams of its own: write `transport=tls`",
        ));
    }
    if by.ca.is_some() && by.via.as_ref().is_none_or(|v| !v.https) {
        return Err(error("`ca=` is for a proxy that is reached by https: write `via=https://…`"));
    }
    Ok(by)
}

/// The `key=value` words after a verb.
fn arguments(
    verb: &str,
    words: &[&str],
    keys: &[&'static str],
) -> Result<Arguments, RouteCommandError> {
    let mut found = Arguments::default();
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            return Err(error(format!(
                "{} is not `key=value`; {verb} takes {}",
                shown(word),
                keys.join("= and ") + "="
            )));
        };
        if !keys.contains(&key) {
            let hint = suggest::hint(key, keys.iter().copied(), "its keys");
            return Err(error(format!("{verb} has no key {}; {hint}", shown(key))));
        }
        let bad = |e: &dyn fmt::Display| error(format!("in {}: {e}", shown(word)));
        let by = &mut found.by;
        let twice = match key {
            "group" => {
                let name = GroupName::new(value)
                    .map_err(|e| error(format!("in {}: {e}{}", shown(word), lower(value))))?;
                found.group.replace(name).is_some()
            }
            "transport" => by.transport.replace(value.parse().map_err(|e| bad(&e))?).is_some(),
            "congestion" => by.congestion.replace(value.parse().map_err(|e| bad(&e))?).is_some(),
            "limit" => by.limit.replace(value.parse().map_err(|e| bad(&e))?).is_some(),
            "connections" => by.connections.replace(value.parse().map_err(|e| bad(&e))?).is_some(),
            "via" => by.via.replace(value.parse().map_err(|e| bad(&e))?).is_some(),
            "ca" if value.is_empty() || value.len() > MAX_PATH => {
                return Err(error(format!("in {}: not a path of a file", shown(word))));
            }
            "ca" => by.ca.replace(value.to_owned()).is_some(),
            _ => found.next_hop.replace(node_name(value, word)?).is_some(),
        };
        if twice {
            return Err(error(format!(
                "`{key}=` is written twice, the second time {}",
                shown(word)
            )));
        }
    }
    Ok(found)
}

/// A node name; `cell1-ser2` is read as `cel1-ser2`.
fn node_name(text: &str, word: &str) -> Result<NodeName, RouteCommandError> {
    let folded = text.strip_prefix("cell").and_then(|rest| {
        let (cell, server) = rest.split_once("-ser")?;
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        (digits(cell) && digits(server)).then(|| format!("cel{rest}"))
    });
    NodeName::new(folded.as_deref().unwrap_or(text))
        .map_err(|e| error(format!("in {}: {e}{}", shown(word), lower(text))))
}

fn lower(text: &str) -> String {
    let lower = text.to_lowercase();
    if lower != text && NodeName::new(&lower).is_ok() {
        format!(" (names are in lower case: `{lower}`)")
    } else {
        String::new()
    }
}

impl fmt::Display for RouteCommand {
    /// The form that is read back: `cel1-ser2: rcproute add group=g1 nexthop=cel2-ser2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(node) = &self.node {
            write!(f, "{node}: ")?;
        }
        let (verb, group, next_hop, by) = match &self.action {
            RouteAction::Add { group, next_hop, by } => {
                ("add", Some(group), Some(next_hop), Some(by).filter(|by| !by.is_default()))
            }
            RouteAction::Display { group } => ("display", group.as_ref(), None, None),
            RouteAction::Delete { group, next_hop } => {
                ("delete", group.as_ref(), next_hop.as_ref(), None)
            }
        };
        write!(f, "rcproute {verb}")?;
        group.map_or(Ok(()), |g| write!(f, " group={g}"))?;
        next_hop.map_or(Ok(()), |n| write!(f, " nexthop={n}"))?;
        by.map_or(Ok(()), |by| write!(f, " {by}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_chain_of_the_digest() {
        for (line, node, hop) in [
            ("cel1-ser2: rcproute add group=g1 nexthop=cel2-ser2", "cel1-ser2", "cel2-ser2"),
            ("cel2-ser2: rcproute add group=g1 nexthop=cel2-ser3", "cel2-ser2", "cel2-ser3"),
            ("cell2-ser2: rcproute add group=g1 nexthop=cell2-ser4", "cel2-ser2", "cel2-ser4"),
        ] {
            let c: RouteCommand = line.parse().expect(line);
            assert_eq!(c.node, NodeName::new(node).ok());
            let expected = RouteAction::Add {
                group: GroupName::new("g1").expect("group"),
                next_hop: NodeName::new(hop).expect("node"),
                by: Hop::default(),
            };
            assert_eq!(c.action, expected);
        }
        let c = RouteCommand::parse(&["cel2-ser2:", "rcproute", "display"]).expect("display");
        assert_eq!(c.action, RouteAction::Display { group: None });
        let c = RouteCommand::parse(&["delete"]).expect("delete");
        assert_eq!(
            c,
            RouteCommand {
                node: None,
                action: RouteAction::Delete { group: None, next_hop: None }
            }
        );
    }

    #[test]
    fn the_double_l_is_folded_only_in_seed_names() {
        for name in ["cellar-ser1", "cell", "cell1", "cell-ser1", "cell1-serx"] {
            assert_eq!(node_name(name, name).map(|n| n.to_string()).as_deref(), Ok(name));
        }
    }

    #[test]
    fn errors_name_the_word() {
        for (line, text) in [
            ("", "add, display or delete is missing"),
            ("cel1-ser1:", "add, display or delete is missing"),
            ("ad group=g1", "`ad` is not a command; did you mean `add`?"),
            ("add group=g1", "add needs `nexthop=NODE`"),
            ("add nexthop=n", "add needs `group=GROUP`"),
            ("add g1 n", "`g1` is not `key=value`; add takes group= and nexthop="),
            ("add group=g nexthop=n transport=udp", "no transport: tcp, tls or quic"),
            ("add group=g nexthop=n transport=tls transport=tls", "`transport=` is written twice"),
            ("add group=g nexthop=n congestion=fast", "cubic, bbr or reno"),
            ("add group=g nexthop=n via=proxy", "write http://HOST:PORT/rcp"),
            ("add group=g nexthop=n via=http://p/ transport=quic", "write `transport=tls`"),
            ("add group=g nexthop=n via=http://p/ ca=x", "reached by https"),
            ("add group=g nexthop=n ca=", "not a path"),
            ("add group=g nexthop=n limit=20Mbps", "write 20Mbit/s"),
            ("add group=g nexthop=n limit=9Mbit/s limit=none", "`limit=` is written twice"),
            ("add group=g nexthop=n connections=0", "`0` is no number of connections: 1 to 16"),
            ("add group=g nexthop=n connections=17", "`17` is no number of connections: 1 to 16"),
            (
                "add group=g nexthop=n connections=2 connections=2",
                "`connections=` is written twice",
            ),
            ("add group=g nexthop=n connections=2 transport=quic", "not for QUIC"),
            ("delete group=g connections=2", "delete has no key `connections`"),
            ("delete group=g transport=tls", "delete has no key `transport`"),
            ("add group=g1 nexthob=n", "did you mean `nexthop`?"),
            ("display nexthop=n", "display has no key `nexthop`"),
            ("display --json", "`--json` is not `key=value`; display takes group="),
            ("add group=g1 group=g2 nexthop=n", "`group=` is written twice"),
            ("add group=GROUP1 nexthop=n", "names are in lower case: `group1`"),
            ("add group= nexthop=n", "`` is not a group name"),
            ("CEL1-SER1: display", "lower case: `cel1-ser1`"),
            ("a b c d e f g h i j k l m n o p q", "too many words"),
        ] {
            let e = line.parse::<RouteCommand>().expect_err(line).to_string();
            assert!(e.contains(text), "{line}: {e}");
            assert!(e.contains("usage: rcproute"), "{line}: {e}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics_and_good_ones_print_back(
            before in "(cell?1-ser2: )?(rcproute )?",
            after in "(add|display|delete|.)( group=[a-z]{1,3})?( nexthop=[a-z1-9-]{1,9})?( transport=(tls|quic|x))?( limit=[1-9]{2}Mbit/s(@sat)?)?( connections=[0-9]{1,2})?( via=https?://[a-z:1]{1,5})?.?",
        ) {
            let line = before + &after;
            if let Ok(c) = line.parse::<RouteCommand>() {
                prop_assert_eq!(c.to_string().parse(), Ok(c));
            }
        }
    }
}
