//! Queued sets that rewrite the same blocks come as one step, beside what is shown: each block once.
//! Nothing is ever hidden for it, and what is given up of it is taken from the sets.

use rcp::proto::delta::Chunk;
use volmcast::save::RecordKind;
use volmcast::volume::{Attached, FullPolicy, Limits, Seeding};

use super::tables::drive_for;
use super::*;

const BLOCK: u64 = 4096;
/// A queue of less is not looked at: a sixteenth of the save volume.
const FLOOR: u64 = 1 << 20;
/// Blocks that each set of a hot queue rewrites.
const HOT: u64 = 64;

/// A writer, a replica that it feeds, and what went from one to the other.
struct Pair {
    p: Opened,
    r: Opened,
    child: NodeName,
    /// What the stream was answered with; none while it does not run.
    running: Option<Attached>,
    /// Since it was attached, and in all; of extents, in all.
    sent: u64,
    records: u64,
    extents: u64,
    /// How often the child was called to attach again, and in which words.
    calls: Vec<String>,
    /// So many records go from the writer's save volume, and no more.
    may_send: u64,
    /// So many extents reach the replica.
    may_come: u64,
    now: Mono,
}

impl Pair {
    /// Both at set 2, and the replica away.
    fn new(dir: &Path) -> Self {
        Self::within(dir, FullPolicy::default())
    }

    /// The same with limits to what the replica may hold back.
    fn within(dir: &Path, full: FullPolicy) -> Self {
        let at = OpenPlan { full, ..plan() };
        let p = open::create(&dir.join("p"), &identity("primary"), &at, NOW, Wall(1));
        let mut p = p.expect("created");
        p.volume.open_generation(LINE, Wall(1));
        drive(&mut p);
        writable(&p).gate().set(&Gate::Open);
        let plan = plan();
        let r = open::create(&dir.join("r"), &identity("replica"), &plan, NOW, Wall(1));
        let mut r = r.expect("created");
        r.volume.adopt_history(p.volume.history().to_vec());
        let mut pair = Self {
            p,
            r,
            child: NodeName::new("child").expect("valid"),
            running: None,
            sent: 0,
            records: 0,
            extents: 0,
            calls: Vec::new(),
            may_send: u64::MAX,
            may_come: u64::MAX,
            now: NOW,
        };
        pair.write(0..HOT, 1);
        pair.write(10..HOT, 2);
        pair.attach();
        pair.go();
        assert_eq!(pair.shown(), (SetNumber(2), 2));
        (pair.records, pair.extents) = (0, 0);
        pair.leave();
        pair
    }

    fn leave(&mut self) {
        self.running = None;
        self.r.volume.intake_runs(false);
        self.p.volume.consumer_leave(&self.child);
    }

    /// A set of the writer.
    fn write(&mut self, blocks: std::ops::Range<u64>, byte: u8) {
        for b in blocks {
            writable(&self.p).write(b * BLOCK, &[byte; BLOCK as usize]).expect("written");
        }
        self.p.volume.demand_cut(false);
        self.step();
    }

    /// Twenty sets that write the same blocks.
    fn write_hot(&mut self) {
        for byte in 10..30 {
            self.write(0..HOT, byte);
        }
    }

    fn attach(&mut self) -> Attached {
        self.attach_as(true)
    }

    /// As the movers of both do it; an old version says nothing of what it could stage.
    fn attach_as(&mut self, new: bool) -> Attached {
        let r = &mut self.r.volume;
        r.intake_attached();
        let ((state, open), seed) = (r.stream_position(), r.seed_position());
        let offer = if seed.is_none() { r.stage_offer() } else { 0 };
        let over = r.catch_up_base();
        let p = &mut self.p.volume;
        p.consumer_stages(&self.child, new.then_some(offer));
        let next = open.map_or(ChunkNumber(0), |(_, next)| next);
        self.sent = 0;
        let answer = match seed {
            Some((0, folded)) => p.consumer_seed(&self.child, folded, over, "it asked".to_owned()),
            Some((block, folded)) => {
                let s = Seeding { block, folded, over, passing: false };
                p.consumer_attach(&self.child, state, ChunkNumber(0), None, Some(s))
            }
            None => p.consumer_attach(&self.child, state, next, over, None),
        };
        self.start(answer.clone());
        answer
    }

    /// The replica is told how its stream starts.
    fn start(&mut self, answer: Attached) {
        match &answer {
            Attached::CatchUp { from, blocks, .. } => {
                let staged = self.r.volume.catch_up_stage(*from, BlockCount(BLOCKS), *blocks);
                assert!(staged, "it is never applied in place");
            }
            Attached::Resume => {
                if self.r.volume.seed_position().is_some() {
                    self.r.volume.seed_resume();
                }
            }
            Attached::Planning => {}
            other => panic!("{other:?}"),
        }
        self.r.volume.intake_runs(answer != Attached::Planning);
        self.running = Some(answer);
    }

    /// Carries out what both want, and what one sends the other; true if something went on.
    fn step(&mut self) -> bool {
        let now = self.now;
        let mut more = false;
        for e in drive_at(&mut self.p, now, &|_| None) {
            more = true;
            match e {
                Event::Planned { answer, .. } => self.start(answer),
                Event::SeedChunk { next_block, view, chunk, .. }
                    if self.may_come > 0 && self.running.is_some() =>
                {
                    self.may_come -= 1;
                    self.extents += chunk.bytes().len() as u64;
                    self.r.volume.receive_seed(next_block, view, &chunk);
                }
                Event::SeedEnd { need, .. } if self.running.is_some() && self.may_come > 0 => {
                    self.r.volume.receive_seed_end(need, true);
                }
                Event::Again { reason, .. } => {
                    self.calls.push(reason);
                    self.attach();
                }
                Event::Failed { text } | Event::Damage { text } => panic!("{text}"),
                Event::Detached { reason, .. } => panic!("{reason}"),
                _ => {}
            }
        }
        for e in drive_at(&mut self.r, now, &|_| None) {
            more = true;
            match e {
                Event::Saved { state, next } if self.running.is_some() => {
                    self.p.volume.consumer_ack(&self.child, state, next);
                }
                Event::Staged { text } => {
                    assert!(text.contains("begins anew"), "{text}");
                    self.attach();
                }
                Event::Failed { text } | Event::Damage { text } => panic!("{text}"),
                _ => {}
            }
        }
        assert_eq!(self.r.volume.refusal(), None, "it is never hidden");
        more | self.pass_on()
    }

    /// What the writer's save volume has for the replica, as credit allows.
    fn pass_on(&mut self) -> bool {
        let mut any = false;
        if !matches!(self.running, None | Some(Attached::Planning)) {
            self.p.volume.seed_out_credit(&self.child, self.r.volume.seed_credit());
            while self.may_send > 0 {
                let room = self.r.volume.intake_credit().saturating_sub(self.sent);
                let Some(record) = self.p.volume.consumer_next(&self.child, room) else { break };
                self.may_send -= 1;
                any = true;
                self.sent += record.body.len() as u64;
                self.records += record.body.len() as u64;
                let taken = match record.kind {
                    RecordKind::SetEnd => {
                        let header = SetHeader::parse(&record.body).expect("sound");
                        self.r.volume.receive_set_end(&header)
                    }
                    _ => {
                        let chunk = Chunk::parse(record.body).expect("sound");
                        self.r.volume.receive_chunk(&chunk)
                    }
                };
                taken.expect("taken");
            }
        }
        any
    }

    fn go(&mut self) {
        // What a request leads to may be asked for by the other one only.
        let mut idle = 0;
        while idle < 4 {
            idle = if self.step() { 0 } else { idle + 1 };
        }
    }

    /// What readers see: the state, and what block 20 holds.
    fn shown(&self) -> (SetNumber, u8) {
        let states = self.r.states.as_ref().expect("readable");
        let pin = states.board().pin_visible().expect("readable");
        let mut buf = [0; BLOCK as usize];
        states.read(&pin, 20 * BLOCK, &mut buf).expect("read");
        (self.r.volume.durable().visible, buf[0])
    }

    fn is_the_same(&self) {
        let newest = self.p.volume.durable().visible;
        assert_eq!(self.r.volume.durable().visible, newest);
        assert_eq!(self.r.volume.durable().merged, newest);
        let (ours, theirs) = (self.p.volume.digest(), self.r.volume.digest());
        assert!(ours.is_some() && ours == theirs, "{ours:?} and {theirs:?}");
        for b in 0..BLOCKS {
            let mut wanted = [0; BLOCK as usize];
            writable(&self.p).read(b * BLOCK, &mut wanted).expect("read");
            let states = self.r.states.as_ref().expect("readable");
            let pin = states.board().pin_visible().expect("readable");
            let mut buf = [0; BLOCK as usize];
            states.read(&pin, b * BLOCK, &mut buf).expect("read");
            assert_eq!(buf[0], wanted[0], "block {b}");
        }
    }

    /// Each hot block came once, and of the sets only what came after.
    fn came_as_one_step(&self) {
        let union = HOT * BLOCK;
        let came = self.records + self.extents;
        assert!(came <= union + union / 20, "{came} bytes for {union}");
        assert!(came >= union);
    }
}

#[test]
fn a_receiver_that_was_away_gets_each_block_once() {
    let dir = tempfile::tempdir().expect("temp");
    let mut pair = Pair::new(dir.path());
    pair.write_hot();
    assert_eq!(pair.attach(), Attached::Planning);
    // Nothing of it comes before the connection is lost.
    pair.may_come = 0;
    pair.go();
    assert_eq!(pair.shown(), (SetNumber(2), 2));
    let Some(Attached::CatchUp { from, reason, blocks, .. }) = pair.running.clone() else {
        panic!("{:?}", pair.running)
    };
    assert_eq!((from, blocks), (SetNumber(22), HOT));
    assert!(
        reason
            .ends_with("MiB in 20 sets that it lacked when it came are sent as 256 KiB of blocks"),
        "{reason}"
    );
    pair.leave();
    pair.may_come = u64::MAX;
    pair.attach();
    pair.go();
    assert_eq!(pair.shown(), (SetNumber(22), 29));
    pair.is_the_same();
    pair.came_as_one_step();
    let done = pair.p.volume.coalesced();
    assert_eq!(done.steps, 1);
    assert!(done.saved > 19 * HOT * BLOCK, "{done:?}");
    // It goes on as ever.
    pair.write(0..3, 40);
    pair.go();
    pair.is_the_same();
    assert!(pair.calls.is_empty());
}

#[test]
fn a_receiver_behind_a_slow_link_is_called_for_its_queue() {
    let dir = tempfile::tempdir().expect("temp");
    let mut pair = Pair::new(dir.path());
    assert_eq!(pair.attach(), Attached::Resume);
    pair.may_send = 0;
    pair.write_hot();
    assert_eq!(pair.calls.len(), 1, "{:?}", pair.calls);
    assert!(pair.calls[0].starts_with("its queue is sent as one step: 1."), "{:?}", pair.calls);
    pair.may_send = u64::MAX;
    pair.go();
    pair.is_the_same();
    assert_eq!(pair.p.volume.coalesced().steps, 1);
    // It was called when there were few sets; the others came in the stream.
    assert!(pair.records + pair.extents < 20 * HOT * BLOCK);
    // Nothing waits, and nobody is called.
    pair.write(0..HOT, 50);
    pair.go();
    pair.is_the_same();
    assert_eq!(pair.calls.len(), 1);
    // Once more, and not before: what it lacks is less as a step again.
    pair.may_send = 0;
    for byte in 60..70 {
        pair.write(0..HOT, byte);
    }
    assert_eq!(pair.calls.len(), 2);
    pair.may_send = u64::MAX;
    pair.go();
    pair.is_the_same();
    assert_eq!(pair.p.volume.coalesced().steps, 2);
}

#[test]
fn nobody_is_called_for_a_queue_that_is_no_less_as_a_step() {
    let dir = tempfile::tempdir().expect("temp");
    let mut pair = Pair::new(dir.path());
    pair.attach();
    pair.may_send = 0;
    // Each set has blocks of its own: the union is as large as the queue.
    for i in 0..8 {
        pair.write(i * 32..(i + 1) * 32, 9);
    }
    assert!(pair.calls.is_empty(), "{:?}", pair.calls);
    pair.leave();
    assert_eq!(pair.attach(), Attached::Planning, "it is looked");
    pair.may_send = u64::MAX;
    pair.go();
    assert_eq!(pair.running, Some(Attached::Resume));
    pair.is_the_same();
    assert_eq!((pair.extents, pair.p.volume.coalesced().steps), (0, 0));
}

#[test]
fn a_short_queue_comes_as_sets() {
    let dir = tempfile::tempdir().expect("temp");
    let mut pair = Pair::new(dir.path());
    for byte in 10..13 {
        pair.write(0..HOT, byte);
    }
    const { assert!(3 * HOT * BLOCK < FLOOR) };
    assert_eq!(pair.attach(), Attached::Resume);
    pair.go();
    pair.is_the_same();
    assert_eq!(pair.extents, 0);
}

/// All sets come, whatever is done to the pair before.
fn comes_as_sets(before: impl Fn(&mut Pair), new: bool, what: &str) -> Pair {
    let dir = tempfile::tempdir().expect("temp");
    let mut pair = Pair::new(dir.path());
    before(&mut pair);
    assert_eq!(pair.attach_as(new), Attached::Resume, "{what}");
    pair.go();
    pair.is_the_same();
    assert_eq!((pair.extents, pair.p.volume.coalesced().steps), (0, 0), "{what}");
    pair
}

#[test]
fn no_state_that_somebody_wants_is_led_past() {
    let to_come = |pair: &mut Pair| {
        pair.r.volume.keep_state(SetNumber(7)).expect("to come");
        pair.write_hot();
    };
    let pair = comes_as_sets(to_come, true, "a state is to be kept at the replica");
    assert_eq!(pair.r.volume.kept().collect::<Vec<_>>(), [SetNumber(7)]);
    let kept = |pair: &mut Pair| {
        pair.write(0..HOT, 5);
        pair.write(0..HOT, 6);
        writable(&pair.p).write(0, &[7; BLOCK as usize]).expect("written");
        pair.p.volume.demand_cut(true);
        pair.write_hot();
    };
    comes_as_sets(kept, true, "the writer keeps one");
}

#[test]
fn whoever_cannot_stage_takes_the_sets() {
    comes_as_sets(Pair::write_hot, false, "it is of an older version");
    let feeds = |pair: &mut Pair| {
        pair.write_hot();
        let below = NodeName::new("below").expect("valid");
        let a = pair.r.volume.consumer_attach(&below, SetNumber(2), ChunkNumber(0), None, None);
        assert_eq!(a, Attached::Resume);
        assert_eq!(pair.r.volume.stage_offer(), 0);
    };
    comes_as_sets(feeds, true, "it feeds somebody, who would have to be caught up");
}

#[test]
fn what_is_given_up_of_the_step_is_taken_from_the_sets() {
    let dir = tempfile::tempdir().expect("temp");
    let mut pair = Pair::at_the_end_of_the_step(dir.path(), FullPolicy::default());
    let e = pair.r.volume.keep_state(SetNumber(9)).expect_err("it is led past");
    assert!(matches!(e, KeepError::Passing { until, .. } if until > SetNumber(22)), "{e}");
    // The set that is needed does not come.
    pair.now = Mono(pair.now.0 + 11_000_000);
    pair.may_send = u64::MAX;
    pair.go();
    assert_eq!(pair.running, Some(Attached::Resume));
    pair.is_the_same();
    assert!(pair.records > 20 * HOT * BLOCK, "all sets came");
    // Not staged again before it shows something newer; now it does.
    assert!(pair.r.volume.stage_offer() > 0);
}

impl Pair {
    /// All extents have come, of which one shows a write of a set that does not come yet.
    fn at_the_end_of_the_step(dir: &Path, full: FullPolicy) -> Self {
        let mut pair = Self::within(dir, full);
        pair.write_hot();
        pair.attach();
        pair.may_send = 0;
        writable(&pair.p).write(HOT * BLOCK, &[99; BLOCK as usize]).expect("written");
        pair.go();
        let held = pair.r.volume.stream_position().0;
        assert_eq!((pair.shown().0, held), (SetNumber(2), SetNumber(22)));
        assert_eq!(pair.p.volume.durable().visible, SetNumber(23));
        pair
    }

    /// What is missing comes, and none of the sets that the step stands for.
    fn goes_on_with_the_step(&mut self) {
        self.may_send = u64::MAX;
        self.go();
        self.is_the_same();
        assert!(self.records < 2 * HOT * BLOCK, "{}", self.records);
    }
}

#[test]
fn a_writer_that_was_restarted_still_has_the_sets() {
    let dir = tempfile::tempdir().expect("temp");
    let mut pair = Pair::at_the_end_of_the_step(dir.path(), FullPolicy::default());
    pair.leave();
    drop(std::mem::replace(&mut pair.p, replica(&dir.path().join("other"))));
    pair.p = open_at(&dir.path().join("p"));
    writable(&pair.p).gate().set(&Gate::Open);
    pair.attach();
    pair.now = Mono(pair.now.0 + 11_000_000);
    pair.may_send = 0;
    pair.go();
    pair.may_send = u64::MAX;
    pair.go();
    pair.is_the_same();
}

#[test]
fn the_sets_are_not_kept_when_room_runs_short() {
    let dir = tempfile::tempdir().expect("temp");
    let mut pair = Pair::at_the_end_of_the_step(dir.path(), FullPolicy::default());
    let before = pair.p.volume.save_used();
    assert!(before > 20 * HOT * BLOCK);
    for byte in 30..70 {
        pair.write(0..HOT, byte);
    }
    // It has its place after the step, and nobody let go of it.
    assert!(pair.p.volume.consumer_behind(&pair.child).is_some());
    assert_eq!(pair.p.volume.full_counts(NOW).full, 0);
    pair.may_send = u64::MAX;
    pair.go();
    pair.is_the_same();
}

/// The replica is killed after so many requests; false if all had been done.
fn comes_to_the_same_state(requests: usize) -> bool {
    let dir = tempfile::tempdir().expect("temp");
    let mut pair = Pair::new(dir.path());
    pair.write_hot();
    pair.attach();
    // As far as the answer.
    for e in drive_at(&mut pair.p, NOW, &|_| None) {
        if let Event::Planned { answer, .. } = e {
            pair.start(answer);
        }
    }
    assert!(matches!(pair.running, Some(Attached::CatchUp { .. })), "{:?}", pair.running);
    let mut left = requests;
    let mut done = drive_for(&mut pair.r, left);
    left = left.saturating_sub(4);
    pair.pass_on();
    for e in drive_at(&mut pair.p, NOW, &|_| None) {
        match e {
            Event::SeedChunk { next_block, view, chunk, .. } => {
                pair.r.volume.receive_seed(next_block, view, &chunk);
            }
            Event::SeedEnd { need, .. } => pair.r.volume.receive_seed_end(need, true),
            _ => {}
        }
    }
    done &= drive_for(&mut pair.r, left);
    let saved = pair.r.volume.saved_position().0;
    pair.leave();
    let folder = dir.path().join("r");
    drop(std::mem::replace(&mut pair.r, replica(&dir.path().join("other"))));
    pair.r = open_at(&folder);
    pair.step();
    assert!(pair.r.volume.saved_position().0 >= saved, "killed after {requests} requests");
    pair.attach();
    pair.go();
    pair.is_the_same();
    assert!(pair.records < 2 * HOT * BLOCK, "killed after {requests} requests");
    !done
}

#[test]
fn a_crash_at_any_moment_leaves_what_is_shown_and_goes_on_with_the_step() {
    let all = (0..80).take_while(|n| comes_to_the_same_state(*n)).count();
    assert!(all > 6, "{all} requests");
}

#[test]
fn whoever_gets_the_step_is_not_let_go_for_taking_nothing() {
    let dir = tempfile::tempdir().expect("temp");
    let keep = Limits { time: Some(Duration::from_secs(1)), ..Limits::default() };
    let full = FullPolicy { keep, ..FullPolicy::default() };
    let mut pair = Pair::at_the_end_of_the_step(dir.path(), full);
    // It acknowledges none of what it is led past.
    for _ in 0..6 {
        pair.now = Mono(pair.now.0 + 1_000_000);
        pair.go();
    }
    assert_eq!(pair.shown().0, SetNumber(2));
    pair.goes_on_with_the_step();
}

#[test]
fn a_lost_connection_does_not_cost_the_step() {
    let dir = tempfile::tempdir().expect("temp");
    let mut pair = Pair::at_the_end_of_the_step(dir.path(), FullPolicy::default());
    pair.leave();
    pair.now = Mono(pair.now.0 + 3_600_000_000);
    pair.go();
    pair.attach();
    pair.goes_on_with_the_step();
}

#[test]
fn no_state_is_promised_while_it_is_not_known_what_is_led_past() {
    let dir = tempfile::tempdir().expect("temp");
    let mut pair = Pair::new(dir.path());
    pair.write_hot();
    pair.attach();
    pair.may_come = 0;
    pair.go();
    // All extents are to come; some may be of later sets than that at which they began.
    for set in [3, 22, 23, 400] {
        let e = pair.r.volume.keep_state(SetNumber(set)).expect_err("perhaps it is led past");
        assert!(matches!(e, KeepError::Coming { .. }), "{e}");
    }
    // What is shown can be kept all the same.
    pair.r.volume.keep_state(SetNumber(2)).expect("kept");
}

#[test]
fn who_is_being_filled_is_not_called_again_before_long() {
    let dir = tempfile::tempdir().expect("temp");
    let mut p = primary(&dir.path().join("p"));
    let child = NodeName::new("child").expect("valid");
    let write = |p: &mut Opened, byte: u8, now| {
        for b in 0..HOT {
            writable(p).write(b * BLOCK, &[byte; BLOCK as usize]).expect("written");
        }
        p.volume.demand_cut(false);
        drive_at(p, now, &|_| None)
    };
    write(&mut p, 1, NOW);
    p.volume.consumer_stages(&child, Some(0));
    let answer = p.volume.consumer_seed(&child, SetNumber(0), None, "it holds nothing".to_owned());
    assert!(matches!(answer, Attached::Seed { .. }), "{answer:?}");
    p.volume.seed_out_credit(&child, 1 << 30);
    let events = drive_at(&mut p, NOW, &|_| None);
    let need = events.iter().find_map(|e| match e {
        Event::SeedEnd { need, .. } => Some(*need),
        _ => None,
    });
    let called = |events: &[Event]| events.iter().any(|e| matches!(e, Event::Again { .. }));
    // It is hidden until it has the set that it needs: attached again it would need a later one.
    let mut later = NOW;
    for byte in 10..30 {
        assert!(!called(&write(&mut p, byte, later)));
    }
    p.volume.consumer_ack(&child, need.expect("all of it was sent"), ChunkNumber(0));
    assert!(!called(&write(&mut p, 30, later)), "it may not show it yet");
    later = Mono(later.0 + 700_000_000);
    assert!(called(&write(&mut p, 31, later)));
}
