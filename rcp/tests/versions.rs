//! Versions of the protocol: the list in `PROTOCOL.md`, vectors of each, and mixed pairs.

mod support;

use proptest::prelude::*;
use rcp::proto::clock::Mono;
use rcp::proto::delta::{SetFlags, SetHeader};
use rcp::proto::frame::*;
use rcp::proto::session::*;
use support::*;

const DOC: &str = include_str!("../PROTOCOL.md");
const ALL: &str = include_str!("vectors/frames.hex");
const NEW_IN_1_1: &str = include_str!("vectors/frames_1_1.hex");
const NEW_IN_1_2: &str = include_str!("vectors/frames_1_2.hex");
const NEW_IN_1_3: &str = include_str!("vectors/frames_1_3.hex");
const NEW_IN_1_4: &str = include_str!("vectors/frames_1_4.hex");
const NOW: Mono = Mono(7);

/// Two sessions that are up, with these newest versions: the sender's and the receiver's.
fn pair(newest: [u16; 2]) -> [Session; 2] {
    let of = |name: &str, newest| SessionConfig { versions: (VERSIONS.0, newest), ..config(name) };
    let mut ends = [
        Session::new(of("parent", newest[0]), Side::Dialer(Role::Sender), NOW),
        Session::new(of("child", newest[1]), Side::Acceptor, NOW),
    ];
    for (from, to) in [(0, 1), (1, 0)] {
        let f = ends[from].poll_transmit().expect("a hello or welcome");
        ends[to].handle_frame(NOW, f);
    }
    for s in &mut ends {
        assert!(s.state().is_up());
        while s.poll_event().is_some() {}
    }
    ends
}

fn golden() -> Vec<(String, Frame)> {
    let all = [ALL, NEW_IN_1_1, NEW_IN_1_2, NEW_IN_1_3, NEW_IN_1_4].into_iter().flat_map(sections);
    all.map(|(name, b)| (name, parse_frame(&b).expect("a golden frame"))).collect()
}

/// The version that added a frame as it is, as the document lists it.
fn since(f: &Frame) -> u16 {
    let in_1_1 = match f {
        Frame::SetEnd { body, .. } => {
            return if SetHeader::parse(body).is_ok_and(|h| h.digest_sum().is_some()) {
                3
            } else {
                1
            };
        }
        Frame::Doubt { .. } | Frame::Clock { .. } => return 3,
        Frame::Compare { .. } | Frame::Sums { .. } => return 4,
        Frame::Join(_) | Frame::Joined { .. } | Frame::Place { .. } | Frame::Placed { .. } => {
            return 4;
        }
        Frame::Welcome(w) => return w.version,
        Frame::Attach(a) if a.stages.is_some() => return 5,
        Frame::Attach(a) => a.over.is_some(),
        Frame::Start(s) => matches!(s.mode, StartMode::CatchUp { .. }),
        f => matches!(f, Frame::Fence { .. }),
    };
    1 + u16::from(in_1_1)
}

#[test]
fn the_list_of_versions() {
    let (_, below) = DOC.split_once("\n## 11. Versions\n").expect("the section");
    let rows: Vec<(String, String)> = below
        .lines()
        .skip_while(|l| !l.starts_with("|---"))
        .skip(1)
        .take_while(|l| l.starts_with('|'))
        .map(|l| {
            let mut cells = l.trim_matches('|').split('|').map(|c| c.trim().to_owned());
            (cells.next().unwrap_or_default(), cells.next().unwrap_or_default())
        })
        .collect();
    let mut listed = rows;
    listed.dedup();
    let ours: Vec<_> =
        ABILITIES.iter().map(|a| (a.version.to_string(), a.name.to_owned())).collect();
    assert_eq!(listed, ours);
    assert_eq!((ABILITIES[0].version, ABILITIES[ABILITIES.len() - 1].version), VERSIONS);
    for a in ABILITIES {
        assert_eq!(version_named(a.name), Some(a.version));
        assert_eq!(abilities(a.version), a);
        assert_eq!(a.lacks.is_empty(), a.version == VERSIONS.1, "an older one says what it lacks");
    }
    assert_eq!(version_named("0.9"), None);
}

#[test]
fn vectors_of_later_versions_are_what_the_code_writes() {
    for (version, text) in [(2, NEW_IN_1_1), (3, NEW_IN_1_2), (4, NEW_IN_1_3), (5, NEW_IN_1_4)] {
        for (name, bytes) in sections(text) {
            let f = parse_frame(&bytes).expect("a golden frame");
            assert_eq!(since(&f), version, "{name}");
            assert_eq!(frame_bytes(&f), bytes, "{name}");
        }
    }
}

/// Each vector, sent raw into sessions of each version, which refuses exactly what later ones added.
#[test]
fn a_version_takes_its_own_vectors() {
    let mut refused = 0;
    for newest in VERSIONS.0..=VERSIONS.1 {
        for (name, f) in golden() {
            for to in 0..2 {
                let mut ends = pair([newest, VERSIONS.1]);
                let t = f.frame_type();
                if action(ends[to].state(), t) != Action::Pass {
                    continue;
                }
                ends[to].handle_frame(NOW, f.clone());
                if since(&f) > newest {
                    refused += 1;
                    let last = ends[to].poll_transmit();
                    let wanted = GoodbyeCode::Protocol;
                    assert!(
                        matches!(last, Some(Frame::Goodbye { code, .. }) if code == wanted),
                        "{name}: {last:?}"
                    );
                } else {
                    assert_eq!(ends[to].poll_event(), Some(Event::Frame(f.clone())), "{name}");
                }
            }
        }
    }
    assert!(refused >= 9, "{refused}");
}

#[test]
fn what_is_said_in_the_words_of_1_0() {
    let mut ends = pair([VERSIONS.1; 2]);
    let newest = ends[0].peer().expect("up").version;
    assert_eq!(newest, VERSIONS.1);
    for newest in [[VERSIONS.0, VERSIONS.1], [VERSIONS.1, VERSIONS.0]] {
        ends = pair(newest);
        assert!(ends.iter().all(|s| s.peer().is_some_and(|p| p.version == VERSIONS.0)));
        for (_, f) in golden() {
            match f.clone() {
                Frame::Fence { stream, text, .. } => {
                    ends[1].send(f).expect("as an error of the stream");
                    let code = stream_error::DIVERGED;
                    let said = Frame::StreamError { stream, code, text };
                    assert_eq!(ends[1].poll_transmit(), Some(said));
                }
                Frame::Attach(a) => {
                    ends[1].send(f).expect("without what it does not know");
                    let Some(Frame::Attach(b)) = ends[1].poll_transmit() else { panic!("attach") };
                    assert_eq!((b.over, b.stages), (None, None));
                    assert_eq!((b.state, b.folded), (a.state, a.folded));
                }
                _ => {}
            }
        }
    }
}

/// A set header says all but its digest to a receiver that knows no digests.
#[test]
fn a_digest_is_left_out_for_an_older_receiver() {
    let with = golden()
        .into_iter()
        .map(|(_, f)| f)
        .find(|f| matches!(f, Frame::SetEnd { .. }) && since(f) == 3);
    let Some(Frame::SetEnd { body, .. }) = with.clone() else { panic!("the first vector of 1.2") };
    let h = SetHeader::parse(&body).expect("sound");
    let bare = SetHeader { flags: h.flags.with(SetFlags::DIGEST_ABSENT), digest: [0; 32], ..h };
    for newest in VERSIONS.0..=VERSIONS.1 {
        let mut ends = pair([VERSIONS.1, newest]);
        ends[0].send(with.clone().expect("above")).expect("taken");
        let Some(Frame::SetEnd { body, .. }) = ends[0].poll_transmit() else { panic!("set end") };
        let wanted = if newest < 3 { bare } else { h };
        assert_eq!(SetHeader::parse(&body), Ok(wanted));
        let doubt = Frame::Doubt { stream: StreamId(1), runs: vec![(1, 1)] };
        let sent = ends[1].send(doubt);
        assert_eq!(sent.is_ok(), newest >= 3, "{sent:?}");
    }
}

/// A peer is told what to join with only in a session that can have several connections, and whoever
/// comes to another is refused.
#[test]
fn only_sessions_of_1_3_can_be_joined() {
    for newest in VERSIONS.0..=VERSIONS.1 {
        let cfg = SessionConfig { join: Some(JOIN_KEY), ..config("child") };
        let dialler = SessionConfig { versions: (VERSIONS.0, newest), ..config("parent") };
        let mut there = Session::new(cfg, Side::Acceptor, NOW);
        let mut here = Session::new(dialler, Side::Dialer(Role::Sender), NOW);
        there.handle_frame(NOW, here.poll_transmit().expect("a hello"));
        let welcome = there.poll_transmit().expect("a welcome");
        let again = parse_frame(&frame_bytes(&welcome)).expect("legal bytes");
        assert_eq!(again, welcome);
        here.handle_frame(NOW, again);
        let told = here.peer().expect("up").join;
        assert_eq!(told, (newest >= 4).then_some(JOIN_KEY), "{newest}");
    }
    let cfg = SessionConfig { versions: (1, 3), ..config("child") };
    let mut there = Session::new(cfg, Side::Acceptor, NOW);
    there.handle_frame(NOW, Frame::Join(Join { node: node("parent"), key: JOIN_KEY }));
    let said = there.poll_transmit();
    assert!(matches!(said, Some(Frame::Refuse { code: RefuseCode::Join, .. })), "{said:?}");
}

proptest! {
    /// Whatever a node sends to a peer of another version, the peer takes.
    #[test]
    fn mixed_pairs_understand_one_another(
        old in 0..2usize,
        version in VERSIONS.0..VERSIONS.1,
        frames in prop::collection::vec((any_frame(), 0..2usize), 0..20),
    ) {
        let mut newest = [VERSIONS.1; 2];
        newest[old] = version;
        let mut ends = pair(newest);
        for (f, from) in frames {
            // A sender answers no attachment with a catch-up that nobody asked for.
            if since(&f) > 1 && matches!(f, Frame::Start(_)) {
                continue;
            }
            let sent = ends[from].send(f).is_ok();
            let said = ends[from].poll_transmit();
            prop_assert_eq!(sent, said.is_some());
            if let Some(said) = said {
                let again = parse_frame(&frame_bytes(&said)).expect("legal bytes");
                ends[1 - from].handle_frame(NOW, again.clone());
                prop_assert_eq!(ends[1 - from].poll_event(), Some(Event::Frame(again)));
            }
        }
    }
}
