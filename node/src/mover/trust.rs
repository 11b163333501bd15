//! Whom this node believes to be who they say they are.
//!
//! The runtime tells with each connection what the other side has proven; here it is held against
//! the name in its hello. Peers that were turned away before they could say anything are kept in a
//! short list for the operator, and where one of them is a neighbour, the reason is the link's.

use std::time::Duration;

use rcp::proto::clock::{Mono, Wall};
use rcp::proto::frame::{GoodbyeCode, RefuseCode};
use rcp::proto::ids::NodeName;

use super::{ConnId, Level, Mover};
use crate::api::Stranger;

/// Peers turned away that are remembered.
const MAX_STRANGERS: usize = 16;

/// Peers turned away that are noted in a while.
const MOST_NOTED: u32 = 16;
const LAST_NOTED: u32 = MOST_NOTED + 1;
const A_WHILE: Duration = Duration::from_secs(60);

/// What the other side of a connection has proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A certificate with these names.
    Names(Vec<NodeName>),
    /// Nothing, and that is allowed here: plain text on loopback, or `insecure_plaintext`.
    Nothing,
    /// Nothing, and that is not allowed; why.
    Missing(String),
}

impl Proof {
    /// Whether a peer may go by this name.
    pub(super) fn check(&self, us: &NodeName, name: &NodeName) -> Result<(), String> {
        match self {
            Self::Nothing => Ok(()),
            Self::Missing(why) => Err(why.clone()),
            Self::Names(names) if names.contains(name) => Ok(()),
            Self::Names(names) => {
                let names: Vec<_> = names.iter().map(ToString::to_string).collect();
                let names = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
                Err(format!("{us} was shown a certificate of {names} by who says to be {name}"))
            }
        }
    }
}

/// A peer that was turned away before a session began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnedAway {
    /// Its address, without the port.
    pub from: String,
    /// Who it claims to be, as far as it said.
    pub claims: Option<NodeName>,
    /// Why, in words.
    pub why: String,
    /// The kind of reason: bounded in number.
    pub kind: &'static str,
}

impl Mover {
    /// A peer was turned away before it could say for which group it came.
    pub fn turned_away(&mut self, now: Mono, wall: Wall, who: TurnedAway) {
        self.time(now, wall);
        let claims = who.claims.as_ref().map(ToString::to_string).unwrap_or_default();
        if let Some(name) = &who.claims {
            for g in self.groups.values_mut() {
                if let Some(f) = g.feeder.as_mut().filter(|f| f.node == *name && f.conn.is_none()) {
                    f.reason = Some(format!("refused here: {}", who.why));
                }
            }
        }
        let same = |s: &Stranger| s.from == who.from && s.kind == who.kind && s.claims == claims;
        if let Some(s) = self.strangers.iter_mut().find(|s| same(s)) {
            s.times += 1;
            s.last_us = wall.0;
            s.why = who.why;
            return;
        }
        // Once per kind and peer, and not often under ever new names: nobody fills the log by
        // knocking.
        if now.since(self.knocks.0) > A_WHILE {
            self.knocks = (now, 0);
        }
        self.knocks.1 = self.knocks.1.saturating_add(1);
        match self.knocks.1 {
            0..=MOST_NOTED => {
                self.note(Level::Warn, format!("refused a peer at {}: {}", who.from, who.why));
            }
            LAST_NOTED => {
                let text = "more peers are refused than are noted: status names the last of them";
                self.note(Level::Warn, text.to_owned());
            }
            _ => {}
        }
        if self.strangers.len() >= MAX_STRANGERS {
            self.strangers.pop_front();
        }
        self.strangers.push_back(Stranger {
            from: who.from,
            claims,
            kind: who.kind.to_owned(),
            why: who.why,
            times: 1,
            last_us: wall.0,
        });
    }

    /// There is no connection, because one side does not trust the other.
    pub fn distrusted(&mut self, now: Mono, wall: Wall, conn: ConnId, reason: &str) {
        self.time(now, wall);
        if let Some(c) = self.conns.get_mut(&conn) {
            c.session.handle_untrusted(reason);
        }
        self.drive(conn);
        self.conns.remove(&conn);
    }

    /// The certificate of a peer is no longer good: its session ends.
    pub fn no_longer_trusted(&mut self, now: Mono, wall: Wall, conn: ConnId, why: &str) {
        self.time(now, wall);
        self.close(conn, GoodbyeCode::Untrusted, why);
    }

    /// Whether the peer of a connection may go by `name`; refuses the session if not.
    pub(super) fn trusts(&mut self, id: ConnId, name: &NodeName) -> bool {
        let us = self.cfg.node.clone();
        let Some(c) = self.conns.get_mut(&id) else { return false };
        let Err(text) = c.proof.check(&us, name) else { return true };
        c.session.refuse(RefuseCode::Untrusted, &text);
        let from = c.from.clone();
        let (now, wall) = (self.now, self.wall);
        let kind = "session";
        self.turned_away(
            now,
            wall,
            TurnedAway { from, claims: Some(name.clone()), why: text, kind },
        );
        false
    }
}
