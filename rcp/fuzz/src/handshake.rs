//! One end of a handshake, any configuration, against any frames.
//!
//! Held: a session comes up only with a peer that breaks no rule; a refusal has a code of the table
//! and words, and is sent; the deadline ends what does not come up; nothing is sent after the end.

use std::time::Duration;

use rcp::proto::clock::Mono;
use rcp::proto::frame::{Frame, GoodbyeCode, RefuseCode, Role};
use rcp::proto::limits::{HANDSHAKE_DEADLINE, MAX_KEEPALIVE, MIN_KEEPALIVE};
use rcp::proto::session::{CloseReason, Event, Peer, Session, SessionConfig, SessionState, Side};

use super::feed::Feed;

const START: Mono = Mono(1_000_000);

pub fn run(data: &[u8]) {
    let mut feed = Feed::new(data);
    let cfg = feed.config();
    let side = match feed.byte() % 4 {
        0 => Some(Side::Dialer(feed.role())),
        1 => None,
        _ => Some(Side::Acceptor),
    };
    let mut s = match side {
        Some(side) => Session::new(cfg.clone(), side, START),
        None => Session::new_probe(cfg.clone(), vec![], START),
    };
    let mut now = START;
    for _ in 0..8 {
        if s.state() == SessionState::Closed || s.state().is_up() {
            break;
        }
        now = now.after(Duration::from_millis(u64::from(feed.byte())));
        match feed.byte() % 8 {
            0 => s.accept(now, u32::from(feed.byte())),
            1 => s.refuse(RefuseCode::Fed, "fed by another"),
            2 => s.handle_timeout(now),
            _ => {
                if let Some(f) = feed.frame() {
                    s.handle_frame(now, f);
                }
            }
        }
        look(&mut s, &cfg, side);
    }
    if !s.state().is_up() {
        s.handle_timeout(START.after(HANDSHAKE_DEADLINE));
        look(&mut s, &cfg, side);
        assert_eq!(s.state(), SessionState::Closed, "the deadline ends it");
    }
}

/// What came out of it so far.
fn look(s: &mut Session, cfg: &SessionConfig, side: Option<Side>) {
    let sent: Vec<Frame> = std::iter::from_fn(|| s.poll_transmit()).collect();
    while let Some(event) = s.poll_event() {
        match event {
            Event::Up(peer) => {
                fits(&peer, cfg);
                if side == Some(Side::Acceptor) {
                    assert!(sent.iter().any(|f| matches!(f, Frame::Welcome(_))));
                }
            }
            Event::Closed(reason) => {
                assert!(!reason.to_string().is_empty());
                match reason {
                    CloseReason::Rejected { code, text } => {
                        assert!(RefuseCode::ALL.contains(&code) && !text.is_empty());
                        let last = Frame::Refuse { code, text };
                        assert_eq!(sent.last(), Some(&last), "a refusal is said");
                    }
                    CloseReason::Protocol { .. } => assert!(
                        matches!(
                            sent.last(),
                            Some(
                                Frame::Refuse { code: RefuseCode::Protocol, .. }
                                    | Frame::Goodbye { code: GoodbyeCode::Protocol, .. }
                            )
                        ),
                        "{sent:?}"
                    ),
                    _ => {}
                }
                assert_eq!(s.poll_event(), None, "nothing after the end");
                assert_eq!(s.poll_timeout(), None);
            }
            Event::Asked(_) => assert!(cfg.ask),
            Event::Joins(_) | Event::Joined => panic!("nobody was told what to join with"),
            Event::Frame(f) => assert!(matches!(f, Frame::Probe { .. } | Frame::ProbeReply { .. })),
        }
    }
}

/// The rules for a peer.
fn fits(peer: &Peer, cfg: &SessionConfig) {
    assert!((cfg.versions.0..=cfg.versions.1).contains(&peer.version));
    assert_ne!(peer.node, cfg.node);
    assert!((MIN_KEEPALIVE..=MAX_KEEPALIVE).contains(&peer.keepalive));
    match peer.role {
        Role::Sender => {
            assert!(cfg.feeders.allows(&peer.node) && !peer.path.contains(&cfg.node));
        }
        Role::Receiver => {
            assert!(cfg.children.allows(&peer.node) && peer.path.is_empty());
            assert!(!cfg.path.contains(&peer.node));
        }
    }
}
