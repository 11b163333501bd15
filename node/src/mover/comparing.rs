//! Comparing a copy with the parent's by sums of block hashes (`rcp/PROTOCOL.md`, section 7), and
//! whether content is kept for that when a parent begins a seed.
//!
//! A node without content has no sums: it asks its parent what a child asks it, one question at a time,
//! and hands the answer on.

use std::collections::VecDeque;
use std::time::Duration;

use rcp::proto::clock::Mono;
use rcp::proto::frame::{Frame, StreamId};
use rcp::proto::ids::{NodeName, SetNumber, VolumeId};
use volmcast::volume::{Question, Role};

use super::links::Conn;
use super::{ConnId, Effect, Level, Mover};

/// An answer that takes longer was lost with its session; whoever waits for it asks again.
const LOST: Duration = Duration::from_secs(10);

/// Questions of children that a node without content hands on: one of each child at most.
#[derive(Debug, Default)]
pub(super) struct Passing {
    waiting: VecDeque<(NodeName, Question)>,
    /// The parent is asked, since then.
    asked: Option<(NodeName, Question, Mono)>,
}

impl Passing {
    fn ask(&mut self, child: &NodeName, question: Question) {
        self.waiting.retain(|(c, _)| c != child);
        self.waiting.push_back((child.clone(), question));
        // Who asks again waits for nothing else.
        self.asked.take_if(|(c, ..)| c == child);
    }

    /// What the parent is to be asked now.
    fn next(&mut self, now: Mono) -> Option<Question> {
        self.asked.take_if(|(.., since)| now.since(*since) > LOST);
        if self.asked.is_some() {
            return None;
        }
        let (child, question) = self.waiting.pop_front()?;
        self.asked = Some((child, question, now));
        Some(question)
    }

    /// Whose question an answer belongs to.
    fn answered(&mut self, first: u64, each: u64) -> Option<(NodeName, Question)> {
        let of = |q: &Question| (q.first, q.each) == (first, each);
        self.asked.take_if(|(_, q, _)| of(q)).map(|(child, q, _)| (child, q))
    }
}

impl Mover {
    /// A parent begins a seed at `from`: content that was kept from before stays, if the parent can be
    /// asked for sums. False: everything comes.
    pub(super) fn keeps_content(&mut self, conn: ConnId, id: VolumeId, from: SetNumber) -> bool {
        let compares = self.conns.get(&conn).is_some_and(Conn::compares);
        let label = self.label_of(id);
        let Some(h) = self.volumes.get_mut(&id).filter(|_| compares) else { return false };
        if !h.volume.seed_goes_on(from, h.offered) {
            return false;
        }
        let text = format!(
            "volume {label}: what is here is kept, and compared with its parent's content: only what \
             differs is sent, and the sets after {from}"
        );
        self.note(Level::Warn, text);
        true
    }

    pub(super) fn needs_seed(&mut self, id: VolumeId, why: &str) {
        if let Some(i) = self.volumes.get_mut(&id).and_then(|h| h.inbound.as_mut()) {
            i.wants_seed = true;
        }
        self.reattach(id, why);
    }

    /// A parent begins a seed, and everything comes.
    pub(super) fn seed_begins(&mut self, id: VolumeId, from: SetNumber, reason: &str) {
        let label = self.label_of(id);
        let Some(h) = self.volumes.get_mut(&id) else { return };
        h.volume.seed_begin(from, h.offered);
        self.note(Level::Warn, format!("volume {label}: a seed begins at set {from}: {reason}"));
        self.effect(Effect::Exports { volume: id });
    }

    /// A comparison of content that was kept is over: the parent is told what is wanted, or asked of
    /// which sets its own content was.
    pub(super) fn compared(&mut self, id: VolumeId, text: &str) {
        let label = self.label_of(id);
        self.note(Level::Info, format!("volume {label}: {text}"));
        self.reattach(id, "what was kept here was compared with the parent's content");
    }

    /// A replica looks for the blocks in which it differs from its parent.
    pub(super) fn compare(&mut self, id: VolumeId, question: Question) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Some(inbound) = &h.inbound else { return };
        let (conn, stream) = (inbound.conn, inbound.stream);
        if !self.conns.get(&conn).is_some_and(Conn::compares) {
            return h.volume.compare_hopeless();
        }
        let Question { first, each, sums } = question;
        self.send(conn, Frame::Compare { stream, first, each, sums });
    }

    /// A child does.
    pub(super) fn child_compares(&mut self, conn: ConnId, stream: StreamId, question: Question) {
        let Some(c) = self.conns.get(&conn) else { return };
        let Some(id) = c.streams_out.get(&stream).map(|o| o.volume) else { return };
        let Some(child) = c.peer.clone() else { return };
        let Some(h) = self.volumes.get_mut(&id) else { return };
        if matches!(h.volume.config().role, Role::Relay) {
            self.pass_question(id, &child, question);
        } else {
            h.volume.sums_asked(&child, question);
        }
        self.settle(id);
    }

    /// At a node without content: the parent is asked, if it can be.
    fn pass_question(&mut self, id: VolumeId, child: &NodeName, question: Question) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let parent = h.inbound.as_ref().and_then(|i| self.conns.get(&i.conn));
        let why = match parent {
            None => "is not connected",
            Some(c) if !c.compares() => "speaks a version without sums",
            Some(_) => {
                h.comparing.ask(child, question);
                return self.ask_next(id);
            }
        };
        let text = format!("{} keeps no content, and its parent {why}", self.cfg.node);
        self.tell_sums(id, child, SetNumber::ZERO, question, (Vec::new(), text));
    }

    fn ask_next(&mut self, id: VolumeId) {
        let now = self.now;
        let Some(h) = self.volumes.get_mut(&id) else { return };
        let Some(i) = &h.inbound else { return };
        if let Some(Question { first, each, sums }) = h.comparing.next(now) {
            let (conn, stream) = (i.conn, i.stream);
            self.send(conn, Frame::Compare { stream, first, each, sums });
        }
    }

    /// The parent's answer.
    pub(super) fn sums_told(
        &mut self,
        id: VolumeId,
        state: SetNumber,
        (first, each): (u64, u64),
        sums: Vec<u128>,
        text: String,
    ) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        if let Some((child, question)) = h.comparing.answered(first, each) {
            self.tell_sums(id, &child, state, question, (sums, text));
            self.ask_next(id);
        } else {
            h.volume.sums_told(state, (first, each), &sums, &text);
        }
        self.settle(id);
    }

    pub(super) fn tell_sums(
        &mut self,
        id: VolumeId,
        child: &NodeName,
        state: SetNumber,
        question: Question,
        (sums, text): (Vec<u128>, String),
    ) {
        let Some((conn, stream, _)) = self.stream_to(id, child) else { return };
        let Question { first, each, .. } = question;
        self.send(conn, Frame::Sums { stream, state, first, each, sums, text });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: &str) -> NodeName {
        n.parse().expect("a name")
    }

    fn q(first: u64) -> Question {
        Question { first, each: 1, sums: 4 }
    }

    #[test]
    fn children_ask_in_turn_and_an_answer_goes_to_who_asked() {
        let mut p = Passing::default();
        p.ask(&name("a"), q(0));
        p.ask(&name("b"), q(4));
        assert_eq!(p.next(Mono(0)), Some(q(0)));
        assert_eq!(p.next(Mono(1)), None, "one at a time");
        assert_eq!(p.answered(4, 1), None, "it was not asked yet");
        assert_eq!(p.answered(0, 1), Some((name("a"), q(0))));
        assert_eq!(p.answered(0, 1), None, "once");
        assert_eq!(p.next(Mono(2)), Some(q(4)));
        assert_eq!(p.answered(4, 1), Some((name("b"), q(4))));
        assert_eq!(p.next(Mono(3)), None);
    }

    #[test]
    fn who_asks_again_and_what_was_lost_hold_up_nobody() {
        let mut p = Passing::default();
        p.ask(&name("a"), q(0));
        assert_eq!(p.next(Mono(0)), Some(q(0)));
        p.ask(&name("a"), q(8));
        assert_eq!(p.next(Mono(1)), Some(q(8)), "it does not wait for the answer to its first");
        p.ask(&name("b"), q(4));
        assert_eq!(p.next(Mono(2)), None);
        let late = Mono(1).after(LOST).after(Duration::from_micros(1));
        assert_eq!(p.next(late), Some(q(4)), "the session was lost with the answer");
        for n in 0..1000 {
            p.ask(&name("a"), q(n));
        }
        assert_eq!(p.waiting.len(), 1, "one of each child");
    }
}
