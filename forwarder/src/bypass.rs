//! A parent feeds the next hops of a child that is away (FWD-06), until that child has caught up.
//!
//! ```text
//!              lost                patience over           answers            caught up
//! up ─────────────────► away ─────────────────────► bypassed ───────► back ─────────────► up
//!  ▲                     │                              ▲               │ lost
//!  └──── answers ────────┘                              └───────────────┘
//! ```
//!
//! One value per group. It says whom to feed in whose place and whom to let go; whoever drives it
//! does that and tells what came of it. A node that is fed in another's place is watched like a
//! child: if it is away as well, its own next hops are fed (and so on down). Only a node that does
//! not answer is bypassed: one that refuses is alive, and feeds its next hops itself. A next hop
//! that refuses because it is fed by another is left to that one: it is asked again, ever less
//! often, as long as the child is away from here.
//!
//! A child that comes back has to be up for a while before anything is handed back to it; that time
//! doubles with each return that did not last. This module keeps no time and no session.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use rcp::proto::clock::Mono;
use rcp::proto::ids::NodeName;

use crate::limits::{
    BYPASS_ASK_AGAIN, BYPASS_ASK_AGAIN_MAX, BYPASS_CALM, BYPASS_HOLD, BYPASS_HOLD_MAX,
    BYPASS_PATIENCE, BYPASS_PATIENCE_AT_START,
};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Feed `node` in the place of `of`.
    Feed {
        /// Whom.
        node: NodeName,
        /// Who is away.
        of: NodeName,
        /// It refused before.
        again: bool,
    },
    /// Let `node` go: `of` feeds it again, or it is no longer this node's concern.
    Release {
        /// Whom.
        node: NodeName,
        /// Whose place was taken.
        of: NodeName,
    },
}

/// What is known outside of this value.
pub trait Surroundings {
    /// The next hops of a node that is fed from here, as they were told last. `root` is the next hop
    /// of this node that the node is below, or is.
    fn next_hops(&self, root: &NodeName, node: &NodeName) -> Vec<NodeName>;

    /// Whether the node is fed from here anyway, by a route.
    fn is_next_hop(&self, node: &NodeName) -> bool;

    /// Whether `of`, which is up again, is as far as `node`, which is fed in its place.
    ///
    /// # Errors
    /// Why not, in words.
    fn has_caught_up(&self, of: &NodeName, node: &NodeName) -> Result<(), String>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// It is fed from here, or that is being tried.
    Taken,
    /// It is fed by another: when to ask again (`None`: it is being asked), after how many times.
    Refused { until: Option<Mono>, times: u32, why: String },
}

#[derive(Clone, Debug)]
struct Watched {
    /// The next hop of this node that it is below, or is.
    root: NodeName,
    /// Since when it does not answer, and after what time that counts.
    away: Option<(Mono, Duration)>,
    /// Since when it is up.
    back: Option<Mono>,
    /// It refused because another feeds it.
    elsewhere: bool,
    /// Returns that did not last, lately.
    strikes: u32,
    /// When something was handed back to it last.
    handed: Option<Mono>,
    /// Who is fed in its place.
    places: BTreeMap<NodeName, Place>,
    /// Who is not to be fed in its place until it has been up again.
    left: BTreeSet<NodeName>,
    /// Why it is not handed back yet.
    waits: Option<String>,
}

/// The bypasses of one group at one node.
#[derive(Clone, Debug)]
pub struct Bypass {
    on: bool,
    patience: Duration,
    watched: BTreeMap<NodeName, Watched>,
}

impl Default for Bypass {
    fn default() -> Self {
        Self::new(BYPASS_PATIENCE)
    }
}

impl Bypass {
    /// Nobody is watched yet. A child that does not answer for `patience` is bypassed.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self { on: true, patience, watched: BTreeMap::new() }
    }

    /// Switches it on or off (on at first). Off, nobody is taken over any more; who is fed in
    /// another's place stays so until that one is back.
    pub fn set_on(&mut self, on: bool) {
        self.on = on;
    }

    /// A next hop of this node that has not been heard of since the start; it has more time than
    /// others, since perhaps the whole tree is being started, unless others were fed in its place
    /// before the start.
    pub fn starts(&mut self, child: &NodeName, was_bypassed: bool, now: Mono) {
        let patience = match was_bypassed {
            true => self.patience,
            false => self.patience.max(BYPASS_PATIENCE_AT_START),
        };
        self.watched.entry(child.clone()).or_insert_with(|| Watched {
            away: Some((now, patience)),
            ..Watched::of(child.clone())
        });
    }

    /// There is no session with a node any more, or none came about because it did not answer.
    pub fn lost(&mut self, node: &NodeName, now: Mono) {
        let patience = self.patience;
        let Some(w) = self.watched.get_mut(node) else { return };
        w.away.get_or_insert((now, patience));
        (w.back, w.elsewhere, w.waits) = (None, false, None);
        let place = self.watched.values_mut().find_map(|w| w.places.get_mut(node));
        if let Some(place) = place.filter(|p| matches!(p, Place::Refused { until: None, .. })) {
            // It is dialled until it answers.
            *place = Place::Taken;
        }
    }

    /// A node refused a session: it is alive. `fed` says that it did so because another feeds it.
    pub fn refused(&mut self, node: &NodeName, fed: bool, why: &str, now: Mono) {
        if let Some(w) = self.watched.get_mut(node) {
            (w.away, w.back, w.elsewhere) = (None, None, fed);
        }
        if !fed {
            return;
        }
        let places = self.watched.values_mut().find_map(|w| w.places.get_mut(node));
        let Some(place) = places else { return };
        let times = match place {
            Place::Refused { times, .. } => times.saturating_add(1),
            Place::Taken => 0,
        };
        let wait = BYPASS_ASK_AGAIN.saturating_mul(1 << times.min(16)).min(BYPASS_ASK_AGAIN_MAX);
        *place = Place::Refused { until: Some(now.after(wait)), times, why: why.to_owned() };
    }

    /// A session with a node is up.
    pub fn up(&mut self, node: &NodeName, now: Mono) {
        let w = self.watched.entry(node.clone()).or_insert_with(|| Watched::of(node.clone()));
        (w.away, w.elsewhere) = (None, false);
        w.back.get_or_insert(now);
        w.left.clear();
        let place = self.watched.values_mut().find_map(|w| w.places.get_mut(node));
        if let Some(place) = place {
            *place = Place::Taken;
        }
    }

    /// A node is no next hop any more, or is not fed in another's place any more: gives those that
    /// were fed in its own, at any depth; they are forgotten with it.
    pub fn forget(&mut self, node: &NodeName) -> Vec<NodeName> {
        let mut gone = Vec::new();
        for w in self.watched.values_mut() {
            w.places.remove(node);
        }
        let mut queue = vec![node.clone()];
        while let Some(next) = queue.pop() {
            let Some(w) = self.watched.remove(&next) else { continue };
            queue.extend(w.places.keys().cloned());
            gone.extend(w.places.into_keys());
        }
        gone
    }

    /// A node is not to be fed in another's place any more, before that one has been up again.
    pub fn leave(&mut self, node: &NodeName) {
        for w in self.watched.values_mut() {
            if w.places.remove(node).is_some() && w.back.is_none() {
                w.left.insert(node.clone());
            }
        }
    }

    /// In whose place a node is fed from here, be it only tried.
    #[must_use]
    pub fn place_of(&self, node: &NodeName) -> Option<&NodeName> {
        let takes = |w: &Watched| matches!(w.places.get(node), Some(Place::Taken));
        self.watched.iter().find(|(_, w)| takes(w)).map(|(of, _)| of)
    }

    /// The next hop of this node that a node is below, or is.
    #[must_use]
    pub fn root(&self, node: &NodeName) -> Option<&NodeName> {
        self.watched.get(node).map(|w| &w.root)
    }

    /// What is to be done now.
    pub fn steps(&mut self, now: Mono, around: &dyn Surroundings) -> Vec<Step> {
        let mut out = Vec::new();
        let names: Vec<_> = self.watched.keys().cloned().collect();
        for of in names {
            let Some(w) = self.watched.get(&of) else { continue };
            match (w.away, w.back) {
                (Some((since, patience)), _) if now.since(since) >= patience => {
                    out.extend(self.take_over(&of, now, around));
                }
                (None, Some(since)) if !w.places.is_empty() => {
                    out.extend(self.hand_back(&of, since, now, around));
                }
                // Another feeds it, and knows how far it is.
                (None, None) if w.elsewhere && !w.places.is_empty() => {
                    let places = w.places.keys().cloned().collect();
                    out.extend(self.release(&of, places));
                }
                _ => {}
            }
        }
        out
    }

    fn take_over(&mut self, of: &NodeName, now: Mono, around: &dyn Surroundings) -> Vec<Step> {
        let Some(w) = self.watched.get(of).filter(|_| self.on) else { return Vec::new() };
        let root = w.root.clone();
        let wanted: Vec<_> = around
            .next_hops(&root, of)
            .into_iter()
            .filter(|n| !around.is_next_hop(n) && !w.left.contains(n))
            .filter(|n| match w.places.get(n) {
                None => !self.watched.contains_key(n),
                Some(Place::Taken) => false,
                Some(Place::Refused { until, .. }) => until.is_some_and(|t| t <= now),
            })
            .collect();
        if wanted.is_empty() {
            return Vec::new();
        }
        let patience = self.patience;
        if let Some(w) = self.watched.get_mut(of) {
            if let Some(handed) = w.handed.take() {
                let lasted = now.since(handed) >= BYPASS_CALM;
                w.strikes = if lasted { 0 } else { w.strikes.saturating_add(1) };
            }
            for node in &wanted {
                // What it was refused before still counts.
                let again = matches!(w.places.get(node), Some(Place::Refused { .. }));
                if let Some(Place::Refused { until, .. }) = w.places.get_mut(node) {
                    *until = None;
                }
                if !again {
                    w.places.insert(node.clone(), Place::Taken);
                }
            }
        }
        let mut out = Vec::new();
        for node in wanted {
            let watched = Watched { away: Some((now, patience)), ..Watched::of(root.clone()) };
            let again = self.watched.insert(node.clone(), watched).is_some();
            out.push(Step::Feed { node, of: of.clone(), again });
        }
        out
    }

    fn hand_back(
        &mut self,
        of: &NodeName,
        since: Mono,
        now: Mono,
        around: &dyn Surroundings,
    ) -> Vec<Step> {
        let Some(w) = self.watched.get_mut(of) else { return Vec::new() };
        let hold = BYPASS_HOLD.saturating_mul(1 << w.strikes.min(16)).min(BYPASS_HOLD_MAX);
        if now.since(since) < hold {
            w.waits = Some(match w.strikes {
                0 => "it is back for a moment only".to_owned(),
                n => format!("it was back {n} times and did not stay: {} s", hold.as_secs()),
            });
            return Vec::new();
        }
        let (mut done, mut waits) = (Vec::new(), None);
        let places = w.places.clone();
        let hops = around.next_hops(&w.root, of);
        for (node, place) in &places {
            let bypassed = self.watched.get(node).is_some_and(|w| !w.places.is_empty());
            let may = match place {
                Place::Refused { .. } => Ok(()),
                // Perhaps its parent does not know what is below it.
                Place::Taken if bypassed => Err(format!("{node} is away as well")),
                Place::Taken if !hops.contains(node) => Err(format!(
                    "it has no route to {node} any more: `rcproute delete` it here, then `rcproute \
                     add` it at {of}"
                )),
                Place::Taken => around.has_caught_up(of, node),
            };
            match may {
                Ok(()) => done.push(node.clone()),
                Err(why) => waits = Some(why),
            }
        }
        let Some(w) = self.watched.get_mut(of) else { return Vec::new() };
        w.waits = waits;
        if done.iter().any(|n| places.get(n) == Some(&Place::Taken)) {
            w.handed = Some(now);
        }
        self.release(of, done)
    }

    fn release(&mut self, of: &NodeName, nodes: Vec<NodeName>) -> Vec<Step> {
        let mut out = Vec::new();
        for node in nodes {
            for below in self.forget(&node) {
                out.push(Step::Release { node: below, of: node.clone() });
            }
            out.push(Step::Release { node, of: of.clone() });
        }
        out
    }

    /// When, after `now`, [`Bypass::steps`] has something to look at next, as far as time decides it.
    #[must_use]
    pub fn timeout(&self, now: Mono) -> Option<Mono> {
        let one = |w: &Watched| {
            let taken = !w.places.is_empty();
            let away = w.away.map(|(since, patience)| since.after(patience)).filter(|_| !taken);
            let hold = BYPASS_HOLD.saturating_mul(1 << w.strikes.min(16)).min(BYPASS_HOLD_MAX);
            let back = w.back.map(|since| since.after(hold)).filter(|_| taken);
            let again = w.places.values().filter_map(|p| match p {
                Place::Refused { until, .. } if w.away.is_some() => *until,
                _ => None,
            });
            away.into_iter().chain(back).chain(again).filter(|t| *t > now).min()
        };
        self.watched.values().filter_map(one).min()
    }

    /// Whether anybody is fed in a node's place.
    #[must_use]
    pub fn is_active(&self, node: &NodeName) -> bool {
        self.watched.get(node).is_some_and(|w| w.places.values().any(|p| *p == Place::Taken))
    }

    /// What a node's bypass is about, in words; `None` if there is none.
    #[must_use]
    pub fn words(&self, node: &NodeName, now: Mono) -> Option<String> {
        let w = self.watched.get(node).filter(|w| !w.places.is_empty())?;
        let fed: Vec<&str> =
            w.places.iter().filter(|(_, p)| **p == Place::Taken).map(|(n, _)| n.as_str()).collect();
        let mut text = match (w.away, w.back) {
            (Some((since, _)), _) => {
                format!("{node} is away since {} s", now.since(since).as_secs())
            }
            (None, Some(_)) => format!("{node} is back"),
            (None, None) => format!("{node} answers, and refuses"),
        };
        if !fed.is_empty() {
            // Writing to a string does not fail.
            let _ = write!(text, ": feeding {} in its place", list(&fed));
            if w.back.is_some() {
                text.push_str(" until it has caught up");
            }
        }
        if let Some(why) = &w.waits {
            let _ = write!(text, " ({why})");
        }
        for (name, place) in &w.places {
            if let Place::Refused { why, .. } = place {
                let _ = write!(text, "; {name} is left to who feeds it: {why}");
            }
        }
        Some(text)
    }
}

impl Watched {
    fn of(root: NodeName) -> Self {
        Self {
            root,
            away: None,
            back: None,
            elsewhere: false,
            strikes: 0,
            handed: None,
            places: BTreeMap::new(),
            left: BTreeSet::new(),
            waits: None,
        }
    }
}

/// `a`, `a and b`, `a, b and c`.
fn list(names: &[&str]) -> String {
    match names {
        [] => "nobody".to_owned(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}
