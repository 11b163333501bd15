//! A session through a sequence of operations: two ends and the link between them, or one end
//! against frames that nobody meant.
//!
//! Held: queues are bounded; there is one end, and nothing after it; it is said on the wire, with a
//! code of the table, unless the connection is gone; a timer runs as long as the session does; two
//! ends of ours never break the protocol to one another.

use std::collections::VecDeque;
use std::time::Duration;

use rcp::proto::clock::Mono;
use rcp::proto::frame::{Frame, FrameType, GoodbyeCode, JoinKey, RefuseCode, Role};
use rcp::proto::limits::MAX_SESSION_QUEUE;
use rcp::proto::session::{
    CloseReason, Event, Peer, Session, SessionConfig, SessionState, Side, VERSIONS,
};

use super::feed::Feed;

/// Most operations of one input.
const MOST: usize = 2000;

struct End {
    s: Session,
    /// On the way to it.
    inbox: VecDeque<Frame>,
    ended: bool,
}

impl End {
    fn new(s: Session) -> Self {
        Self { s, inbox: VecDeque::new(), ended: false }
    }

    /// Takes what the session wants sent; the last frame of it.
    fn sent(&mut self) -> Vec<Frame> {
        let out: Vec<Frame> = std::iter::from_fn(|| self.s.poll_transmit()).collect();
        // one place beyond the queue for each of: an answer to a probe, the last word, a ping
        assert!(out.len() <= MAX_SESSION_QUEUE + 2, "{} frames are queued", out.len());
        out
    }

    fn check(&mut self, sent: &[Frame], own: bool) {
        while let Some(e) = self.s.poll_event() {
            assert!(!self.ended, "{e:?} after the end");
            if let Event::Closed(reason) = &e {
                self.ended = true;
                said(reason, sent.last());
                let ours = matches!(reason, CloseReason::Protocol { .. });
                assert!(!own || !ours, "our own end broke the protocol: {reason}");
            }
        }
        assert_eq!(self.ended, self.s.state() == SessionState::Closed);
        assert_eq!(self.ended, self.s.poll_timeout().is_none());
    }
}

/// Whoever ends a session says why, with a code.
fn said(reason: &CloseReason, last: Option<&Frame>) {
    assert!(!reason.to_string().is_empty());
    let ok = match reason {
        CloseReason::Rejected { code, .. } => {
            matches!(last, Some(Frame::Refuse { code: c, .. }) if c == code)
        }
        CloseReason::Local { code, .. } => {
            matches!(last, Some(Frame::Goodbye { code: c, .. }) if c == code)
        }
        CloseReason::Idle => {
            matches!(last, Some(Frame::Goodbye { code: GoodbyeCode::Idle, .. }))
        }
        CloseReason::Protocol { .. } => matches!(
            last,
            Some(
                Frame::Refuse { code: RefuseCode::Protocol, .. }
                    | Frame::Goodbye { code: GoodbyeCode::Protocol, .. }
            )
        ),
        _ => true,
    };
    assert!(ok, "{reason}, but the last frame was {last:?}");
}

/// What further connections join with.
const KEY: JoinKey = JoinKey { session: 7, secret: [7; 16] };

/// The peer of a session that a further connection joins.
fn peer(feed: &mut Feed) -> Peer {
    Peer {
        node: feed.node(),
        instance: [1; 16],
        version: VERSIONS.1,
        role: feed.role(),
        path: Vec::new(),
        feeder: 1,
        keepalive: Duration::from_secs(1),
        join: None,
    }
}

pub fn run(data: &[u8]) {
    let mut feed = Feed::new(data);
    let mode = feed.byte();
    // both ends are ours, and frames come as they were sent
    let own = mode & 1 == 0;
    let mut now = Mono(1_000_000);
    // what the near end is in the session that it joins
    let mut joins = None;
    let near = match mode >> 1 & 3 {
        0 => Session::new_probe(feed.config(), vec![], now),
        1 => {
            let config = feed.config();
            let far = peer(&mut feed);
            joins = Some(far.role.other()).filter(|_| own);
            Session::new_join(config, KEY, far, now)
        }
        _ => Session::new(feed.config(), Side::Dialer(feed.role()), now),
    };
    let join = Some(KEY).filter(|_| mode >> 1 & 3 == 1);
    let cfg = SessionConfig { join, ..feed.config() };
    let far = Session::new(cfg, Side::Acceptor, now);
    let mut ends = [End::new(near), End::new(far)];
    for _ in 0..MOST {
        if feed.is_empty() || ends.iter().all(|e| e.ended) {
            return;
        }
        let op = feed.byte();
        let at = usize::from(op >> 7);
        step(&mut ends, at, op & 15, &mut feed, &mut now, (own, joins));
        for i in 0..2 {
            let sent = ends[i].sent();
            ends[i].check(&sent, own);
            ends[1 - i].inbox.extend(sent);
            // answers to made-up frames need not all arrive
            if !own {
                ends[1 - i].inbox.truncate(MAX_SESSION_QUEUE);
            }
        }
    }
}

fn step(
    ends: &mut [End; 2],
    at: usize,
    op: u8,
    feed: &mut Feed,
    now: &mut Mono,
    (own, joins): (bool, Option<Role>),
) {
    let end = &mut ends[at];
    match op {
        0..=4 => {
            if let Some(f) = end.inbox.pop_front() {
                end.s.handle_frame(*now, f);
            }
        }
        5 | 6 => {
            let Some(f) = feed.frame() else { return };
            if own {
                let may = end.s.check_send(f.frame_type()).is_ok();
                assert_eq!(may, end.s.send(f).is_ok());
            } else {
                end.s.handle_frame(*now, f);
            }
        }
        7 => {
            *now = now.after(Duration::from_millis(u64::from(feed.u16())));
            ends.iter_mut().for_each(|e| e.s.handle_timeout(*now));
        }
        8 => {
            end.s.accept(*now, u32::from(feed.byte()));
            let peer = peer(feed);
            // a node of ours knows what its peer is
            let peer = Peer { role: joins.unwrap_or(peer.role), ..peer };
            end.s.take_in(*now, peer, KEY.session);
        }
        9 => end.s.refuse(RefuseCode::Busy, "too many"),
        10 => end.s.close(GoodbyeCode::Reconfigured, "changed"),
        11 => end.s.handle_broken("reset"),
        12 => end.s.handle_untrusted("no certificate"),
        13 => end.s.note_received(*now),
        14 if !own => {
            let t = FrameType::ALL[usize::from(feed.byte()) % FrameType::ALL.len()];
            end.s.admit(*now, t);
        }
        // a burst: more than a queue holds
        _ => {
            for nonce in 0..u64::from(feed.u16() % 2048) {
                if !own {
                    end.s.handle_frame(*now, Frame::Ping { nonce });
                } else if let Some(f) = end.inbox.pop_front() {
                    end.s.handle_frame(*now, f);
                }
            }
        }
    }
}
