//! Sessions, two at a time, in simulated time and over encoded bytes.

mod support;

use std::time::Duration;

use proptest::prelude::*;
use rcp::proto::clock::Mono;
use rcp::proto::frame::*;
use rcp::proto::ids::SetNumber;
use rcp::proto::limits::HANDSHAKE_DEADLINE;
use rcp::proto::session::*;
use support::*;

const STEP: Duration = Duration::from_millis(10);

/// Two sessions and the link between them.
struct Pair {
    now: Mono,
    ends: [Session; 2],
    events: [Vec<Event>; 2],
    /// Frames are lost from here on (a link that went silent).
    silent: bool,
}

impl Pair {
    fn new(dialer: SessionConfig, role: Role, acceptor: SessionConfig) -> Self {
        let now = Mono(1_000_000);
        let ends = [
            Session::new(dialer, Side::Dialer(role), now),
            Session::new(acceptor, Side::Acceptor, now),
        ];
        Self { now, ends, events: [vec![], vec![]], silent: false }
    }

    fn up() -> Self {
        let mut p = Self::new(config("parent"), Role::Sender, config("child"));
        p.settle();
        assert!(p.ends.iter().all(|s| s.state().is_up()));
        p.events = [vec![], vec![]];
        p
    }

    /// Carries frames both ways until nothing moves.
    fn settle(&mut self) {
        let mut moved = true;
        while moved {
            moved = false;
            for from in 0..2 {
                while let Some(f) = self.ends[from].poll_transmit() {
                    moved = true;
                    let again = parse_frame(&frame_bytes(&f)).expect("legal bytes");
                    if !self.silent {
                        self.ends[1 - from].handle_frame(self.now, again);
                    }
                }
                while let Some(e) = self.ends[from].poll_event() {
                    self.events[from].push(e);
                }
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.now < end {
            self.now = self.now.after(STEP);
            for s in &mut self.ends {
                if s.poll_timeout().is_some_and(|t| t <= self.now) {
                    s.handle_timeout(self.now);
                }
            }
            self.settle();
        }
    }

    fn closed(&self, end: usize) -> Option<&CloseReason> {
        match self.events[end].last() {
            Some(Event::Closed(r)) => Some(r),
            _ => None,
        }
    }
}

/// The code of a refusal, as (the one who refused, the one who was refused) see it.
fn refusal(p: &Pair, by: usize) -> RefuseCode {
    let (
        Some(CloseReason::Rejected { code, text }),
        Some(CloseReason::Refused { code: c, text: t }),
    ) = (p.closed(by), p.closed(1 - by))
    else {
        panic!("{:?}", p.events);
    };
    assert_eq!((code, text), (c, t));
    assert!(p.ends.iter().all(|s| s.state() == SessionState::Closed && s.poll_timeout().is_none()));
    *code
}

#[test]
fn either_side_may_dial() {
    for role in [Role::Sender, Role::Receiver] {
        let (dialer, acceptor) = match role {
            Role::Sender => ("parent", "child"),
            Role::Receiver => ("child", "parent"),
        };
        let mut d = config(dialer);
        d.keepalive = Duration::from_millis(500);
        let mut p = Pair::new(d, role, config(acceptor));
        p.settle();
        let [Event::Up(a)] = &p.events[0][..] else { panic!("{:?}", p.events) };
        let [Event::Up(b)] = &p.events[1][..] else { panic!("{:?}", p.events) };
        assert_eq!((a.node.as_str(), b.node.as_str()), (acceptor, dialer));
        assert_eq!((a.role, b.role), (role.other(), role));
        assert_eq!((a.version, b.version), (VERSIONS.1, VERSIONS.1));
        // one feeder number for both, given by the receiver; the shorter interval counts
        assert_eq!((a.feeder, b.feeder), (7, 7));
        assert_eq!((a.keepalive, b.keepalive), (Duration::from_millis(500), a.keepalive));
        let (sender_seen, receiver_seen) = if role == Role::Sender { (b, a) } else { (a, b) };
        assert_eq!(sender_seen.path, [node("parent")]);
        assert!(receiver_seen.path.is_empty());
    }
}

#[test]
fn refusals_of_the_acceptor() {
    let parent = || config("parent");
    let cases: Vec<(RefuseCode, SessionConfig, Role, SessionConfig)> = vec![
        (
            RefuseCode::Version,
            SessionConfig { versions: (900, 901), ..parent() },
            Role::Sender,
            config("child"),
        ),
        (
            RefuseCode::Group,
            SessionConfig { group: group("g2"), ..parent() },
            Role::Sender,
            config("child"),
        ),
        (
            RefuseCode::Loop,
            SessionConfig { path: vec![node("prim"), node("child"), node("parent")], ..parent() },
            Role::Sender,
            config("child"),
        ),
        (
            RefuseCode::Loop,
            config("child"),
            Role::Receiver,
            SessionConfig { path: vec![node("child"), node("parent")], ..parent() },
        ),
        (
            RefuseCode::Peer,
            parent(),
            Role::Sender,
            SessionConfig { feeders: Peers::Only(vec![node("other")]), ..config("child") },
        ),
        (
            RefuseCode::Peer,
            config("child"),
            Role::Receiver,
            SessionConfig { children: Peers::Only(vec![]), ..parent() },
        ),
        (RefuseCode::Name, parent(), Role::Sender, parent()),
    ];
    for (code, dialer, role, acceptor) in cases {
        let mut p = Pair::new(dialer, role, acceptor);
        p.settle();
        assert_eq!(refusal(&p, 1), code);
    }
}

#[test]
fn refusals_of_the_dialer() {
    let only = Peers::Only(vec![node("expected")]);
    let mut p = Pair::new(
        SessionConfig { children: only, ..config("parent") },
        Role::Sender,
        config("impostor"),
    );
    p.settle();
    assert_eq!(refusal(&p, 0), RefuseCode::Peer);
    let long = SessionConfig { path: vec![node("child"), node("parent")], ..config("parent") };
    // a parent that does not look at its own path is still found out by the child
    let mut p = Pair::new(config("child"), Role::Receiver, long);
    p.settle();
    assert_eq!(refusal(&p, 1), RefuseCode::Loop);
}

#[test]
fn a_receiver_with_a_path_and_a_welcome_for_nobody() {
    let now = Mono(0);
    let mut s = Session::new(config("parent"), Side::Acceptor, now);
    s.handle_frame(
        now,
        Frame::Hello(Hello {
            versions: (1, 9),
            node: node("child"),
            instance: [0; 16],
            group: group("g1"),
            role: Role::Receiver,
            path: vec![node("x")],
            feeder: 0,
            keepalive_ms: 1,
        }),
    );
    assert!(matches!(s.poll_transmit(), Some(Frame::Refuse { code: RefuseCode::Protocol, .. })));

    let welcome = |version, role| {
        Frame::Welcome(Welcome {
            version,
            node: node("child"),
            instance: [0; 16],
            group: group("g1"),
            role,
            path: vec![],
            feeder: 0,
            keepalive_ms: 1,
            join: None,
        })
    };
    for (w, want) in [
        (welcome(900, Role::Receiver), RefuseCode::Version),
        (welcome(1, Role::Sender), RefuseCode::Role),
    ] {
        let mut s = Session::new(config("parent"), Side::Dialer(Role::Sender), now);
        assert!(matches!(s.poll_transmit(), Some(Frame::Hello(_))));
        s.handle_frame(now, w);
        assert!(matches!(s.poll_transmit(), Some(Frame::Refuse { code, .. }) if code == want));
    }
}

#[test]
fn the_node_may_be_asked() {
    let ask = || SessionConfig { ask: true, feeder: 0, ..config("child") };
    let mut p = Pair::new(config("parent"), Role::Sender, ask());
    p.settle();
    assert!(matches!(&p.events[1][..], [Event::Asked(h)] if h.node == node("parent")));
    p.ends[1].accept(p.now, 12);
    p.settle();
    assert_eq!(p.ends.each_ref().map(|s| s.peer().map(|p| p.feeder)), [Some(12), Some(12)]);

    let mut p = Pair::new(config("parent"), Role::Sender, ask());
    p.settle();
    p.ends[1].refuse(RefuseCode::Fed, "fed by cel2-ser1");
    p.settle();
    assert_eq!(refusal(&p, 1), RefuseCode::Fed);

    let mut p = Pair::new(config("parent"), Role::Sender, ask());
    p.settle();
    p.run(HANDSHAKE_DEADLINE + STEP);
    assert_eq!(p.closed(1), Some(&CloseReason::HandshakeTimeout));
}

#[test]
fn silence_before_the_handshake_ends_it() {
    let mut p = Pair::new(config("parent"), Role::Sender, config("child"));
    p.silent = true;
    p.run(HANDSHAKE_DEADLINE.checked_sub(STEP).expect("long"));
    assert!(p.closed(0).is_none() && p.closed(1).is_none());
    p.run(2 * STEP);
    assert_eq!(p.closed(0), Some(&CloseReason::HandshakeTimeout));
    assert_eq!(p.closed(1), Some(&CloseReason::HandshakeTimeout));
}

#[test]
fn pings_keep_a_session_and_silence_ends_it() {
    let mut p = Pair::up();
    p.run(Duration::from_secs(60));
    assert!(p.events.iter().all(Vec::is_empty));
    assert_eq!(p.ends[0].rtt(), Some(Duration::ZERO));
    p.silent = true;
    p.run(Duration::from_secs(4));
    assert_eq!(p.closed(0), Some(&CloseReason::Idle));
    assert_eq!(p.closed(1), Some(&CloseReason::Idle));
}

#[test]
fn a_large_frame_in_flight_is_a_sign_of_life() {
    let mut p = Pair::up();
    p.silent = true;
    for _ in 0..20 {
        p.run(Duration::from_secs(1));
        let now = p.now;
        p.ends.iter_mut().for_each(|s| s.note_received(now));
    }
    assert!(p.closed(0).is_none());
}

#[test]
fn frames_flow_the_way_they_may() {
    let mut p = Pair::up();
    let beat = Frame::Heartbeat {
        stream: StreamId(1),
        state: SetNumber(1),
        as_of: rcp::proto::clock::Wall(1),
        newest: SetNumber(1),
    };
    p.ends[0].send(beat.clone()).expect("down");
    let credit = Frame::Credit { stream: StreamId(1), total: 1 };
    p.ends[1].send(credit.clone()).expect("up");
    assert!(matches!(p.ends[1].send(beat.clone()), Err(SendError::Illegal { .. })));
    assert!(matches!(p.ends[0].send(credit.clone()), Err(SendError::Illegal { .. })));
    p.settle();
    assert_eq!(p.events[1], [Event::Frame(beat.clone())]);
    assert_eq!(p.events[0], [Event::Frame(credit)]);
    // the driver hands it on itself
    assert!(p.ends[1].admit(p.now, FrameType::Chunk));
    assert!(!p.ends[0].admit(p.now, FrameType::Chunk));
    p.settle();
    let state = SessionState::UpSender;
    assert_eq!(p.closed(0), Some(&CloseReason::Protocol { state, frame: FrameType::Chunk }));
    assert!(matches!(
        p.closed(1),
        Some(CloseReason::Goodbye { code: GoodbyeCode::Protocol, text }) if text.contains("Chunk")
    ));
    assert!(p.ends[0].send(beat).is_err());
}

#[test]
fn goodbye() {
    let mut p = Pair::up();
    p.ends[0].close(GoodbyeCode::Shutdown, "going home");
    p.ends[0].close(GoodbyeCode::Shutdown, "going home");
    p.settle();
    let (code, text) = (GoodbyeCode::Shutdown, "going home".to_owned());
    assert_eq!(p.events[0], [Event::Closed(CloseReason::Local { code, text: text.clone() })]);
    assert_eq!(p.events[1], [Event::Closed(CloseReason::Goodbye { code, text })]);
    p.ends[0].handle_frame(p.now, Frame::Ping { nonce: 1 });
    p.settle();
    assert_eq!(p.events[0].len(), 1, "what comes late is ignored");
}

#[test]
fn a_probe_is_answered_and_that_is_all() {
    let now = Mono(0);
    let mut parent = Session::new_probe(config("parent"), vec![VOLUME], now);
    let mut child = Session::new(config("child"), Side::Acceptor, now);
    child.handle_frame(now, parent.poll_transmit().expect("a probe"));
    let Some(Event::Frame(Frame::Probe { path, volumes, .. })) = child.poll_event() else {
        panic!("a probe is passed up");
    };
    assert_eq!((path, volumes), (vec![node("parent")], vec![VOLUME]));
    assert!(child.send(Frame::Ping { nonce: 0 }).is_err());
    let reply = Frame::ProbeReply { ok: false, text: "fed by x".to_owned() };
    child.send(reply.clone()).expect("the answer");
    assert_eq!(child.poll_event(), Some(Event::Closed(CloseReason::Probed)));
    parent.handle_frame(now, child.poll_transmit().expect("the answer"));
    assert_eq!(parent.poll_event(), Some(Event::Frame(reply)));
    assert_eq!(parent.poll_event(), Some(Event::Closed(CloseReason::Probed)));

    let mut child =
        Session::new(SessionConfig { group: group("g2"), ..config("child") }, Side::Acceptor, now);
    let mut parent = Session::new_probe(config("parent"), vec![], now);
    child.handle_frame(now, parent.poll_transmit().expect("a probe"));
    parent.handle_frame(now, child.poll_transmit().expect("a refusal"));
    assert!(matches!(
        parent.poll_event(),
        Some(Event::Closed(CloseReason::Refused { code: RefuseCode::Group, .. }))
    ));
}

#[test]
fn a_flood_of_pings_costs_no_memory() {
    let mut p = Pair::up();
    for nonce in 0..100_000 {
        p.ends[0].handle_frame(p.now, Frame::Ping { nonce });
    }
    let queued = std::iter::from_fn(|| p.ends[0].poll_transmit()).count();
    assert_eq!(queued, rcp::proto::limits::MAX_SESSION_QUEUE);
    let beat = Frame::Credit { stream: StreamId(1), total: 1 };
    while p.ends[1].send(beat.clone()).is_ok() {}
    assert_eq!(p.ends[1].send(beat), Err(SendError::Full));
}

proptest! {
    /// Any frames at any time: no panic, one end, and nothing after it.
    #[test]
    fn any_frames_in_any_order(
        start in prop::sample::select(SessionState::ALL.to_vec()),
        frames in prop::collection::vec((any_frame(), 0u64..2_000_000), 0..30),
    ) {
        let mut now = Mono(0);
        let mut s = in_state(start, now);
        let mut ended = start == SessionState::Closed;
        for (f, later) in frames {
            now = now.after(Duration::from_micros(later));
            s.handle_frame(now, f);
            s.handle_timeout(now);
            while let Some(e) = s.poll_event() {
                prop_assert!(!ended, "{:?} after the end", e);
                ended = matches!(e, Event::Closed(_));
            }
            while s.poll_transmit().is_some() {}
            prop_assert_eq!(ended, s.state() == SessionState::Closed);
            prop_assert_eq!(ended, s.poll_timeout().is_none());
        }
    }
}
