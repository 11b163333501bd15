//! Every cell of the tables of states in `PROTOCOL.md`, walked: each event in each state, against
//! the session itself. What is sent, and where it ends, is read from the document.

mod support;

use std::time::Duration;

use rcp::proto::clock::Mono;
use rcp::proto::frame::*;
use rcp::proto::limits::{HANDSHAKE_DEADLINE, IDLE_KEEPALIVES, MAX_SESSION_QUEUE};
use rcp::proto::session::*;
use support::*;

const DOC: &str = include_str!("../PROTOCOL.md");
const NOW: Mono = Mono(5_000_000);
const KEEPALIVE: Duration = Duration::from_secs(1);

/// The rows of the first table below a heading, with its head, without its rule.
fn table(heading: &str) -> Vec<Vec<String>> {
    let (_, below) = DOC.split_once(&format!("\n### {heading}\n")).expect(heading);
    let rows = below.lines().skip_while(|l| !l.starts_with('|'));
    let cells = |l: &str| l.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect();
    let mut all: Vec<Vec<String>> = rows.take_while(|l| l.starts_with('|')).map(cells).collect();
    all.remove(1);
    all
}

fn state(name: &str) -> SessionState {
    *SessionState::ALL.iter().find(|s| s.name() == name).unwrap_or_else(|| panic!("state {name}"))
}

fn golden() -> Vec<Frame> {
    let all = sections(include_str!("vectors/frames.hex"));
    all.iter().map(|(_, b)| parse_frame(b).expect("a golden frame")).collect()
}

/// What came out: frames sent as words (`Refuse 10`, `Goodbye 2`, else the type), and events.
fn out(s: &mut Session) -> (Vec<String>, Vec<Event>) {
    let word = |f: Frame| match f {
        Frame::Refuse { code, text } => {
            assert!(!text.is_empty(), "a refusal has words");
            format!("Refuse {}", code.number())
        }
        Frame::Goodbye { code, text } => {
            assert!(!text.is_empty(), "a goodbye has words");
            format!("Goodbye {}", code.number())
        }
        other => other.frame_type().name().to_owned(),
    };
    let sent = std::iter::from_fn(|| s.poll_transmit()).map(word).collect();
    (sent, std::iter::from_fn(|| s.poll_event()).collect())
}

/// A session stands where a cell says, and sent what it says.
#[track_caller]
fn holds(cell: &str, before: SessionState, s: &mut Session, what: &str) {
    let (sent, events) = out(s);
    let (said, then): (Option<String>, &str) = match cell {
        "same" | "ignored" => (None, "same"),
        "Closed" => (None, "Closed"),
        "Ping" => (Some("Ping".to_owned()), "same"),
        c if c.starts_with(['R', 'G']) && c[1..].parse::<u16>().is_ok() => {
            let name = if c.starts_with('R') { "Refuse" } else { "Goodbye" };
            (Some(format!("{name} {}", &c[1..])), "Closed")
        }
        c => {
            let (said, then) = c.split_once(", ").unwrap_or_else(|| panic!("the cell {c:?}"));
            (Some(said.to_owned()), then)
        }
    };
    let then = if then == "same" { before } else { state(then) };
    assert_eq!(sent, said.into_iter().collect::<Vec<_>>(), "{what} in {}", before.name());
    assert_eq!(s.state(), then, "{what} in {}", before.name());
    let ends = events.iter().filter(|e| matches!(e, Event::Closed(_))).count();
    let ended = before != SessionState::Closed && then == SessionState::Closed;
    assert_eq!(ends, usize::from(ended), "{what} in {}: {events:?}", before.name());
    assert_eq!(s.poll_timeout().is_none(), then == SessionState::Closed);
}

/// In which of the states the event of a row is walked.
fn walk_row(row: &[String], head: &[String], mut event: impl FnMut(&mut Session)) -> usize {
    for (cell, name) in row[1..].iter().zip(&head[1..]) {
        let before = state(name);
        let mut s = in_state(before, NOW);
        event(&mut s);
        holds(cell, before, &mut s, &row[0]);
    }
    row.len() - 1
}

#[test]
fn the_states_are_those_of_the_code() {
    let listed: Vec<String> = table("States")[1..].iter().map(|r| r[0].clone()).collect();
    let names: Vec<&str> = SessionState::ALL.iter().map(|s| s.name()).collect();
    assert_eq!(listed, names);
    for heading in ["Frames in states", "Other events"] {
        assert_eq!(table(heading)[0][1..], names, "{heading}");
    }
}

#[test]
fn every_frame_in_every_state() {
    let all = table("Frames in states");
    let mut cells = 0;
    for frame in golden() {
        let t = frame.frame_type();
        let row = all.iter().find(|r| r[0] == t.name()).unwrap_or_else(|| panic!("no row of {t}"));
        for (cell, name) in row[1..].iter().zip(&all[0][1..]) {
            cells += 1;
            let before = state(name);
            let mut s = in_state(before, NOW);
            s.handle_frame(NOW, frame.clone());
            match cell.as_str() {
                "pass" => {
                    let (sent, events) = out(&mut s);
                    assert_eq!((sent, s.state()), (vec![], before), "{t} in {name}");
                    assert_eq!(events, [Event::Frame(frame.clone())], "{t} in {name}");
                }
                "own" => {
                    let rows = own_rows(before, t);
                    assert!(rows > 0, "{t} in {name} is own, and no row says what is done");
                }
                cell => {
                    holds(cell, before, &mut s, t.name());
                    let mut s = in_state(before, NOW);
                    // the driver that hands content on by itself gets the same answer
                    assert!(!s.admit(NOW, t));
                    holds(cell, before, &mut s, t.name());
                }
            }
        }
    }
    assert!(cells >= FrameType::ALL.len() * SessionState::ALL.len());
    println!("{cells} cells of frames and states");
}

/// Rows of the table of own frames that are about a frame in a state.
fn own_rows(s: SessionState, t: FrameType) -> usize {
    let rows = table("Own frames");
    rows[1..].iter().filter(|r| r[0].split(", ").any(|n| n == s.name()) && r[1] == t.name()).count()
}

fn hello_of(cfg: SessionConfig, role: Role) -> Frame {
    Session::new(cfg, Side::Dialer(role), NOW).poll_transmit().expect("a hello")
}

fn welcome_of(cfg: SessionConfig, role: Role) -> Welcome {
    let mut s = Session::new(cfg, Side::Acceptor, NOW);
    s.handle_frame(NOW, hello_of(config("here"), role.other()));
    let Some(Frame::Welcome(w)) = s.poll_transmit() else { panic!("a welcome") };
    w
}

fn frame_of(t: &str) -> Frame {
    golden().into_iter().find(|f| f.frame_type().name() == t).expect("a golden frame")
}

/// The sessions in which a condition of an own frame holds, each with the frame.
fn conditions(before: SessionState, frame: &str, cond: &str) -> Vec<(Session, Frame)> {
    let acceptor = |ask| {
        let cfg = SessionConfig { ask, ..config("here") };
        Session::new(cfg, Side::Acceptor, NOW)
    };
    let both = [Role::Sender, Role::Receiver];
    match (frame, cond) {
        ("Welcome", "no check fails") => both
            .map(|r| {
                let mut s = Session::new(config("here"), Side::Dialer(r), NOW);
                s.poll_transmit().expect("a hello");
                (s, Frame::Welcome(welcome_of(config("peer"), r.other())))
            })
            .into(),
        ("Welcome", "a check fails") => {
            vec![(
                in_state(before, NOW),
                Frame::Welcome(Welcome {
                    group: group("g2"),
                    ..welcome_of(config("peer"), Role::Receiver)
                }),
            )]
        }
        ("Hello", "a check fails") => {
            let cfg = SessionConfig { group: group("g2"), ..config("peer") };
            vec![(acceptor(false), hello_of(cfg, Role::Sender))]
        }
        ("Hello", c) => {
            let ask = match c {
                "no check fails, and the node need not be asked" => false,
                "no check fails, and the node is to be asked" => true,
                c => panic!("the condition {c:?} is not walked"),
            };
            both.map(|r| (acceptor(ask), hello_of(config("peer"), r))).into()
        }
        ("Probe", c) => {
            let g = match c {
                "it is for the group of the opening line" => group("g1"),
                "it is for another group" => group("g2"),
                c => panic!("the condition {c:?} is not walked"),
            };
            vec![(acceptor(false), Frame::Probe { group: g, path: vec![], volumes: vec![] })]
        }
        ("Join", c) => {
            let join = match c {
                "the node has told somebody what to join with" => Some(JOIN_KEY),
                "it has told nobody" => None,
                c => panic!("the condition {c:?} is not walked"),
            };
            let cfg = SessionConfig { join, ..config("here") };
            let f = Frame::Join(Join { node: node("peer"), key: JOIN_KEY });
            vec![(Session::new(cfg, Side::Acceptor, NOW), f)]
        }
        ("Ping", c) => {
            use SessionState::{FurtherReceiver, FurtherSender};
            let mut s = in_state(before, NOW);
            if c == "as many as that wait" && matches!(before, FurtherSender | FurtherReceiver) {
                (0..MAX_SESSION_QUEUE as u64)
                    .for_each(|nonce| s.handle_frame(NOW, Frame::Ping { nonce }));
            } else if c == "as many as that wait" {
                let f = if before == SessionState::UpSender { "Heartbeat" } else { "Credit" };
                while s.send(frame_of(f)).is_ok() {}
            }
            vec![(s, Frame::Ping { nonce: 7 })]
        }
        (t, c) if c.starts_with("always") => vec![(in_state(before, NOW), frame_of(t))],
        (t, c) => panic!("{t}, {c:?}: not walked"),
    }
}

#[test]
fn every_row_of_own_frames() {
    let mut walked = 0;
    for row in &table("Own frames")[1..] {
        let [states, frame, cond, sends, then] = &row[..] else { panic!("{row:?}") };
        for before in states.split(", ").map(state) {
            let t = frame_of(frame).frame_type();
            assert_eq!(action(before, t), Action::Own, "{t} in {}", before.name());
            for (mut s, f) in conditions(before, frame, cond) {
                walked += 1;
                assert_eq!(s.state(), before);
                let full = cond == "as many as that wait";
                s.handle_frame(NOW, f.clone());
                let (sent, events) = out(&mut s);
                let what = format!("{frame} in {} ({cond})", before.name());
                match sends.as_str() {
                    "nothing" if full => assert_eq!(sent.len(), MAX_SESSION_QUEUE, "{what}"),
                    "nothing" => assert_eq!(sent, [""; 0], "{what}"),
                    // the code of each check is walked by itself
                    "Refuse with its code" => assert_eq!(sent, ["Refuse 2"], "{what}"),
                    said => assert_eq!(sent, [said], "{what}"),
                }
                match then.as_str() {
                    "same" => assert_eq!(s.state(), before, "{what}"),
                    "UpSender or UpReceiver" => {
                        assert!(s.state().is_up(), "{what}");
                        assert!(matches!(events[..], [Event::Up(_)]), "{what}");
                    }
                    "FurtherSender or FurtherReceiver" => {
                        assert_eq!(s.state(), SessionState::FurtherSender, "{what}");
                        assert_eq!(events, [Event::Joined], "{what}");
                    }
                    then => assert_eq!(s.state(), state(then), "{what}"),
                }
                let passed = events.contains(&Event::Frame(f));
                let node = cond.contains("passed to the node") || then == "Answering";
                assert_eq!(passed, node, "{what}");
            }
        }
    }
    println!("{walked} own frames");
}

/// A peer that fails one check and no earlier one: what it says, and our configuration.
fn failing(check: &str) -> (SessionConfig, SessionConfig, Role) {
    let (mut here, mut peer, mut role) = (config("here"), config("peer"), Role::Sender);
    match check.split_once(": ").expect("a check") {
        ("version", _) => peer.versions = (900, 901),
        ("role", _) => {}
        ("group", _) => peer.group = group("g2"),
        ("name", _) => peer.node = node("here"),
        ("path", _) => role = Role::Receiver,
        ("receiver", c) => {
            role = Role::Receiver;
            if c.contains("not on the path") {
                here.path = vec![node("peer"), node("here")];
            } else {
                here.children = Peers::Only(vec![node("other")]);
            }
        }
        ("sender", c) => {
            if c.contains("not on the path") {
                peer.path = vec![node("here"), node("peer")];
            } else {
                here.feeders = Peers::Only(vec![node("other")]);
            }
        }
        (c, _) => panic!("the check {c:?} is not walked"),
    }
    (here, peer, role)
}

#[test]
fn every_check_of_a_handshake() {
    let mut walked = 0;
    for row in &table("Checks")[1..] {
        let [check, of_hello, of_welcome, code] = &row[..] else { panic!("{row:?}") };
        let (here, peer, role) = failing(check);
        let with_path = check.starts_with("path");
        if of_hello == "yes" {
            let mut f = hello_of(peer.clone(), role);
            if let (Frame::Hello(h), true) = (&mut f, with_path) {
                h.path = vec![node("x")];
            }
            let mut s = Session::new(here.clone(), Side::Acceptor, NOW);
            s.handle_frame(NOW, f);
            holds(code, SessionState::AwaitHello, &mut s, check);
            walked += 1;
        }
        if of_welcome == "yes" {
            let mut w = welcome_of(config("peer"), role);
            w.node = peer.node.clone();
            w.group = peer.group.clone();
            w.version = if check.starts_with("version") { 900 } else { w.version };
            w.role = if check.starts_with("role") { role.other() } else { role };
            w.path = match (role, with_path) {
                (Role::Sender, _) => peer.path.clone(),
                (Role::Receiver, true) => vec![node("x")],
                (Role::Receiver, false) => vec![],
            };
            let mut s = Session::new(here, Side::Dialer(role.other()), NOW);
            s.poll_transmit().expect("a hello");
            s.handle_frame(NOW, Frame::Welcome(w));
            holds(code, SessionState::HelloSent, &mut s, check);
            walked += 1;
        }
    }
    println!("{walked} checks");
}

/// Frames that a node may not send in a state.
fn not_its_own(s: &Session) -> Vec<Frame> {
    let may = |f: &Frame| {
        let t = f.frame_type();
        let passes = |there| action(there, t) == Action::Pass;
        match s.state() {
            SessionState::Answering => t == FrameType::ProbeReply,
            SessionState::UpSender => passes(SessionState::UpReceiver),
            SessionState::UpReceiver => passes(SessionState::UpSender),
            SessionState::FurtherSender => passes(SessionState::FurtherReceiver),
            _ => false,
        }
    };
    golden().into_iter().filter(|f| !may(f)).collect()
}

#[test]
fn every_other_event_in_every_state() {
    let all = table("Other events");
    let mut cells = 0;
    for row in &all[1..] {
        let reply = || Frame::ProbeReply { ok: true, text: "yes".to_owned() };
        cells += walk_row(row, &all[0], |s| match row[0].as_str() {
            "time: `HANDSHAKE_DEADLINE` after the opening line" => {
                let before = s.state();
                let just = HANDSHAKE_DEADLINE.checked_sub(Duration::from_micros(1)).expect("long");
                if !before.is_up() {
                    s.handle_timeout(NOW.after(just));
                    assert_eq!((s.state(), s.poll_transmit()), (before, None), "not too early");
                }
                // in a session that is up, something comes all the time
                for ms in (500..=5000).step_by(500) {
                    let at = NOW.after(Duration::from_millis(ms));
                    s.note_received(at);
                    if ms == 5000 || before.is_up() {
                        s.handle_timeout(at);
                    }
                }
                if before.is_up() {
                    let (sent, _) = out(s);
                    assert!(sent.iter().all(|f| f == "Ping"), "{sent:?}");
                }
            }
            "time: one keep-alive interval after the last Ping, or after coming up" => {
                s.handle_timeout(NOW.after(KEEPALIVE));
            }
            "time: `IDLE_KEEPALIVES` intervals in which nothing came" => {
                s.handle_timeout(NOW.after(KEEPALIVE * IDLE_KEEPALIVES));
            }
            "part of a frame comes: silence begins anew" => {
                let later = NOW.after(KEEPALIVE * IDLE_KEEPALIVES);
                if s.state().is_up() {
                    s.note_received(later);
                    s.handle_timeout(later);
                    assert!(matches!(s.poll_transmit(), Some(Frame::Ping { .. })));
                } else {
                    s.note_received(NOW);
                }
            }
            "bytes come that are no sound frame" => s.handle_nonsense("a wrong checksum"),
            "the connection is lost" => s.handle_broken("reset"),
            "TLS: one side does not trust the other" => s.handle_untrusted("no certificate"),
            "the node says yes" => s.accept(NOW, 3),
            "the node says no, with code 5" => s.refuse(RefuseCode::Fed, "fed by another"),
            "the node takes it in" => s.take_in(NOW, peer_in(Role::Sender), 7),
            "the node sends ProbeReply" => {
                let may = matches!(s.state(), SessionState::Answering | SessionState::UpReceiver);
                assert_eq!(s.send(reply()).is_ok(), may);
            }
            "the node ends it, with code 1" => s.close(GoodbyeCode::Shutdown, "going home"),
            "the node sends a frame of the session, or one of the other direction" => {
                for f in not_its_own(s) {
                    let t = f.frame_type();
                    assert!(matches!(s.send(f), Err(SendError::Illegal { .. })), "{t}");
                }
            }
            event => panic!("{event:?} is not walked"),
        });
    }
    println!("{cells} cells of events and states");
}

/// A receiver's hello leads to the other view.
#[test]
fn yes_to_a_receiver() {
    let mut s = Session::new(SessionConfig { ask: true, ..config("here") }, Side::Acceptor, NOW);
    s.handle_frame(NOW, hello_of(config("peer"), Role::Receiver));
    assert_eq!(s.state(), SessionState::Deciding);
    s.accept(NOW, 0);
    assert_eq!(s.state(), SessionState::UpSender);
}
