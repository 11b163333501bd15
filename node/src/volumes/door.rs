//! Who may open which export over NBD (DESIGN "Trust").
//!
//! | who | no list is given for the export | there is a list (`nbd_allow`) |
//! |---|---|---|
//! | at the Unix socket | everything | everything |
//! | TCP, plain text (only where the topology lets it be) | everything | whose address is on it |
//! | TLS, certificate of a user | everything | whose address or name is on it |
//! | TLS, certificate of a node | what is read-only, as over HTTP | whose address or name is on it |
//! | TLS, no certificate | nothing; with `insecure_plaintext` as in plain text | so too |
//!
//! Whether a name exists is not told to whoever may not open it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use config::Allow;
use rcp::proto::ids::NodeName;

use super::Names;
use crate::nbd::{Export, ExportInfo, ExportName, Exports, OpenError, OpenErrorKind, Peer};

/// What the topology says about who may open exports of this node.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Over TCP, nobody without a certificate gets anything.
    pub secured: bool,
    /// The nodes of the topology.
    pub nodes: BTreeSet<NodeName>,
    /// For volumes without a list of their own.
    pub node: Option<Vec<Allow>>,
    /// By label of the volume.
    pub volumes: BTreeMap<String, Vec<Allow>>,
}

/// Somebody who was turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// From where.
    pub from: SocketAddr,
    /// The kind of reason; one of few.
    pub kind: &'static str,
    /// Why, in words.
    pub why: String,
}

/// Takes refusals for log, status and metrics. Called on connections' threads: it must not wait.
pub type Tell = Arc<dyn Fn(Refusal) + Send + Sync>;

/// The exports of a node behind its rules.
pub struct Door {
    names: Arc<Names>,
    rules: Rules,
    tell: Tell,
}

/// Somebody at the door.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Caller {
    from: SocketAddr,
    kind: Kind,
    /// The names that were proven.
    names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing is known but the address, and that is enough here.
    Address,
    /// A certificate of a node.
    Node,
    /// Another certificate of the authority.
    User,
    /// No certificate where one is needed.
    Nobody,
}

/// What somebody may do with an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Open,
    ReadOnly,
    No,
}

impl Caller {
    fn new(peer: &Peer, rules: &Rules) -> Option<Self> {
        let (from, kind, names) = match peer {
            Peer::Local => return None,
            Peer::Plain(from) => (*from, Kind::Address, Vec::new()),
            Peer::Tls(from, p) if p.chain.is_empty() => {
                (*from, if rules.secured { Kind::Nobody } else { Kind::Address }, Vec::new())
            }
            Peer::Tls(from, p) => {
                let node = p.names.iter().any(|n| rules.nodes.contains(n));
                let names = p.users.iter().cloned().chain(p.names.iter().map(ToString::to_string));
                (*from, if node { Kind::Node } else { Kind::User }, names.collect())
            }
        };
        Some(Self { from, kind, names })
    }

    fn address(&self) -> IpAddr {
        self.from.ip()
    }

    /// For the caller itself: how it was seen.
    fn shown(&self) -> String {
        let address = self.address().to_canonical();
        match self.names.as_slice() {
            [] => address.to_string(),
            names => format!("{} at {address}", names.join(", ")),
        }
    }
}

impl Rules {
    fn decide(&self, label: &str, caller: &Caller) -> Verdict {
        if caller.kind == Kind::Nobody {
            return Verdict::No;
        }
        match (self.volumes.get(label).or(self.node.as_ref()), caller.kind) {
            (Some(list), _) => {
                let meant = list.iter().any(|a| a.admits(caller.address(), &caller.names));
                if meant { Verdict::Open } else { Verdict::No }
            }
            (None, Kind::Node) => Verdict::ReadOnly,
            (None, _) => Verdict::Open,
        }
    }
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Door {
    /// A door to `names`.
    #[must_use]
    pub fn new(names: Arc<Names>, rules: Rules, tell: Tell) -> Self {
        Self { names, rules, tell }
    }
}

impl Exports for Door {
    fn list(&self) -> Vec<ExportName> {
        self.names.list()
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Export>, OpenError> {
        self.names.open(name)
    }

    fn seen_by(&self, peer: &Peer) -> Option<Arc<dyn Exports>> {
        let caller = Caller::new(peer, &self.rules)?;
        let (names, tell) = (self.names.clone(), self.tell.clone());
        Some(Arc::new(Seen { names, rules: self.rules.clone(), tell, caller }))
    }

    fn turned_away(&self, peer: &Peer, kind: &'static str, why: &str) {
        let Some(caller) = Caller::new(peer, &self.rules) else { return };
        let why = format!("NBD: {why}");
        (self.tell)(Refusal { from: caller.from, kind, why });
    }
}

/// The exports as one caller sees them.
struct Seen {
    names: Arc<Names>,
    rules: Rules,
    tell: Tell,
    caller: Caller,
}

/// The volume in the name of an export.
fn label(name: &str) -> &str {
    name.split_once('@').map_or(name, |(label, _)| label)
}

impl Seen {
    fn refuse(&self, kind: OpenErrorKind, text: String) -> OpenError {
        self.tell("nbd-refused", &text);
        OpenError { kind, text }
    }

    fn tell(&self, kind: &'static str, text: &str) {
        let why = format!("NBD: {text}");
        (self.tell)(Refusal { from: self.caller.from, kind, why });
    }

    fn no_certificate(&self) -> Result<(), OpenError> {
        if self.caller.kind != Kind::Nobody {
            return Ok(());
        }
        let text = format!(
            "{} showed no certificate, or none of this tree's authority: `rcpctl pki issue \
             --client NAME` makes one for the client to use",
            self.caller.shown()
        );
        self.tell("nbd-no-certificate", &text);
        Err(OpenError { kind: OpenErrorKind::Policy, text })
    }

    /// The same words, whether there is no such export or only not for this caller.
    fn unknown(&self, name: &str) -> OpenError {
        let all = self.list();
        let mut e = OpenError::unknown(name, &all);
        if self.rules.node.is_none() && self.rules.volumes.is_empty() {
            return e;
        }
        let more = format!(
            " for {}: `nbd_allow` in the topology says who may open what",
            self.caller.shown()
        );
        e.text.push_str(&more);
        e
    }
}

impl Exports for Seen {
    fn list(&self) -> Vec<ExportName> {
        let mut all = self.names.list();
        all.retain(|e| self.rules.decide(label(&e.name), &self.caller) != Verdict::No);
        all
    }

    fn may_list(&self) -> Result<(), OpenError> {
        self.no_certificate()
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Export>, OpenError> {
        self.no_certificate()?;
        let only = if name.is_empty() { self.names.only() } else { None };
        // Resolved once: between two looks a volume may go or come.
        let found = only.as_deref().unwrap_or(name);
        let label = label(found);
        let verdict = self.rules.decide(label, &self.caller);
        if verdict == Verdict::No {
            let e = self.unknown(name);
            self.tell("nbd-refused", &e.text);
            return Err(e);
        }
        let open = self.names.open(found).map_err(|e| {
            let none = e.kind == OpenErrorKind::Unknown && self.names.get(label).is_none();
            if none { self.unknown(name) } else { e }
        })?;
        if verdict == Verdict::ReadOnly && !open.info().read_only {
            return Err(self.refuse(
                OpenErrorKind::Policy,
                format!(
                    "export {label:?} can be written to, and the certificate of node {} is good for \
                     reading: use one that `rcpctl pki issue --client NAME` makes, or write \
                     `nbd_allow: [name:{0}]`",
                    self.caller.names.first().map_or("?", String::as_str)
                ),
            ));
        }
        Ok(open)
    }

    fn describe(&self, name: &str) -> Result<ExportInfo, OpenError> {
        self.open(name).map(|e| e.info())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(node: Option<&[&str]>, volumes: &[(&str, &[&str])]) -> Rules {
        let list = |l: &[&str]| l.iter().map(|a| a.parse().unwrap()).collect::<Vec<Allow>>();
        Rules {
            secured: true,
            nodes: [NodeName::new("cel1-ser1").unwrap()].into(),
            node: node.map(list),
            volumes: volumes.iter().map(|(l, a)| ((*l).to_owned(), list(a))).collect(),
        }
    }

    fn caller(address: &str, kind: Kind, names: &[&str]) -> Caller {
        let from = SocketAddr::new(address.parse().unwrap(), 5000);
        Caller { from, kind, names: names.iter().map(|n| (*n).to_owned()).collect() }
    }

    #[test]
    fn without_a_list_users_write_nodes_read_and_strangers_get_nothing() {
        let r = rules(None, &[]);
        assert_eq!(r.decide("a", &caller("10.0.0.1", Kind::User, &["vm"])), Verdict::Open);
        assert_eq!(r.decide("a", &caller("10.0.0.1", Kind::Address, &[])), Verdict::Open);
        let node = caller("10.0.0.1", Kind::Node, &["cel1-ser1"]);
        assert_eq!(r.decide("a", &node), Verdict::ReadOnly);
        assert_eq!(r.decide("a", &caller("10.0.0.1", Kind::Nobody, &[])), Verdict::No);
    }

    #[test]
    fn a_list_rules_and_the_volumes_goes_before_the_nodes() {
        let r = rules(Some(&["10.0.0.0/8"]), &[("b", &["name:vm", "name:cel1-ser1"]), ("c", &[])]);
        let near = caller("10.9.9.9", Kind::User, &["other"]);
        let far = caller("192.0.2.1", Kind::User, &["vm"]);
        let node = caller("192.0.2.1", Kind::Node, &["cel1-ser1"]);
        let verdicts = |c: &Caller| ["a", "b", "c"].map(|l| r.decide(l, c));
        assert_eq!(verdicts(&near), [Verdict::Open, Verdict::No, Verdict::No]);
        assert_eq!(verdicts(&far), [Verdict::No, Verdict::Open, Verdict::No]);
        assert_eq!(verdicts(&node), [Verdict::No, Verdict::Open, Verdict::No]);
        // An address on the list does not make up for a certificate.
        let nobody = caller("10.9.9.9", Kind::Nobody, &[]);
        assert_eq!(verdicts(&nobody), [Verdict::No; 3]);
    }

    #[test]
    fn a_refusal_does_not_tell_what_exists() {
        let told = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let tell = {
            let told = told.clone();
            Arc::new(move |r: Refusal| told.lock().push(r))
        };
        let names = Arc::new(Names::default());
        names.set("secret", &entry());
        let rules = rules(None, &[("secret", &["name:vm"]), ("gone", &["name:vm"])]);
        let door = Door::new(names, rules, tell);
        let seen = door.seen_by(&Peer::Plain("10.0.0.7:1".parse().unwrap())).unwrap();
        assert!(seen.list().is_empty());
        let there = seen.open("secret").err().unwrap();
        let not = seen.open("gone").err().unwrap();
        assert_eq!(there.kind, not.kind);
        assert_eq!(there.text.replace("secret", "gone"), not.text);
        assert!(there.text.contains("10.0.0.7") && there.text.contains("nbd_allow"), "{there}");
        // Neither does the short name of the only volume, nor a state of it.
        assert_eq!(seen.open("").err().unwrap().text.replace("\"\"", "\"gone\""), not.text);
        assert_eq!(seen.open("secret@7").err().unwrap().kind, not.kind);
        let told = told.lock();
        assert_eq!(told.len(), 4);
        assert!(told.iter().all(|r| r.kind == "nbd-refused" && r.why.contains("10.0.0.7")));
        assert!(door.seen_by(&Peer::Local).is_none());
    }

    fn entry() -> super::super::names::Entry {
        super::super::names::Entry {
            id: rcp::proto::ids::VolumeId([7; 16]),
            generation: None,
            size: 4096,
            primary: None,
            states: None,
            visible: rcp::proto::ids::SetNumber(0),
            kept: Vec::new(),
            branches: Vec::new(),
        }
    }
}
