//! Readers of replicas and kept states: what they see must be one state, however long they take.

use std::sync::Arc;

use node::volumes::replica::ReadFailure;
use rcp::proto::ids::SetNumber;
use volmcast::snapshots::PinId;
use volmcast::units::LogPos;
use volmcast::view::{Pin, ViewState};

use super::world::{Event, World};

/// Somebody who holds a state and reads it again and again.
#[derive(Debug)]
pub struct Reader {
    /// Its number.
    pub id: u64,
    pin: Arc<Pin>,
    /// A request under way: its view and the next block.
    request: Option<(Arc<ViewState>, u64)>,
    /// Requests until it leaves.
    left: u64,
}

impl World {
    /// The first record that a request of a reader is led to.
    pub(super) fn records_read(&self, n: usize) -> Option<LogPos> {
        let held = self.nodes[n].readers.iter().filter(|r| !r.pin.is_lost());
        let views = held.filter_map(|r| r.request.as_ref()).map(|(view, _)| view);
        views.flat_map(|v| v.layers.iter()).map(|l| l.first).min()
    }

    /// Reads everything that node `n` shows now.
    pub fn look(&mut self, n: usize) {
        let node = &self.nodes[n];
        let Some(states) = node.states.clone() else { return };
        let kept: Vec<_> = node.kept.keys().copied().collect();
        if self.rng.percent(30) {
            self.smear(n);
        }
        if self.nodes[n].kind != super::options::Kind::Primary {
            match states.board().pin_visible() {
                Ok(pin) => {
                    self.counters.hit("replica read");
                    self.read_whole(n, &pin, "visible");
                    if self.nodes[n].readers.len() < 3 && self.rng.percent(30) {
                        self.begin_reader(n, pin);
                    }
                }
                Err(_) => self.counters.hit("read refused"),
            }
        }
        self.look_at_branches(n);
        for set in kept {
            let Some(pin) = states.board().pin_kept(set) else {
                if states.board().view().refused.is_some() {
                    // A seed has begun; the mailbox that lists no kept state is on its way to disk.
                    self.counters.hit("kept state given up");
                    continue;
                }
                let pins = states.board().store().pins();
                if self.broken_pins(n) {
                    self.nodes[n].kept.remove(&set);
                    continue;
                }
                self.fail(format!("n{n}: kept state {set} cannot be opened; pins: {pins:?}"));
                return;
            };
            self.counters.hit("kept state read");
            if self.nodes[n].kept.get(&set).is_some_and(|life| *life < self.nodes[n].life) {
                self.counters.hit("kept state read after a restart");
            }
            self.read_whole(n, &pin, "kept");
            if self.nodes[n].readers.len() < 3 && self.rng.percent(10) {
                self.begin_reader(n, pin);
            }
        }
    }

    /// What a node keeps of lines that ended is exactly what they were.
    fn look_at_branches(&mut self, n: usize) {
        let Some(states) = self.nodes[n].states.clone() else { return };
        let Some(v) = self.nodes[n].volume() else { return };
        let all: Vec<_> = v.branches().collect();
        let (hidden, undoes) = (v.refusal().is_some(), v.undoes().is_some());
        for b in all {
            let k = b.branch;
            if b.broken && self.broken_pins(n) {
                self.counters.hit("branch broken by a full area or a damaged table");
                continue;
            }
            let Some(pin) = states.board().pin_branch(PinId(k.pin), k.set, k.blocks) else {
                return self.fail(format!("n{n}: branch {} cannot be opened", k.name()));
            };
            let len = usize::try_from(k.blocks.0 * self.opt.block_size.bytes()).unwrap_or(0);
            let mut buf = vec![0; len];
            self.counters.2.operations += 1;
            match states.read(&pin, 0, &mut buf) {
                Ok(()) => {
                    self.counters.hit("branch read");
                    if undoes {
                        self.counters.hit("branch read while its content is taken back");
                    } else if hidden {
                        self.counters.hit("branch read at a hidden replica");
                    }
                    if let Err(e) = self.model.check((k.line, k.set), 0, &buf) {
                        // While the table of hashes is gone nothing tells what has rotted, nor
                        // later in images that were saved meanwhile.
                        let gone = states.board().view().proven.is_none();
                        if self.nodes[n].spoilt.is_some() && (gone || self.is_blind(n, false)) {
                            self.counters.hit("damage in a branch that nothing can tell");
                            continue;
                        }
                        self.fail(format!("n{n}: branch {}: {e}", k.name()));
                    }
                    self.block_status(n, &pin, &buf);
                }
                Err(ReadFailure::Rotten { .. } | ReadFailure::Damaged(_))
                    if self.nodes[n].spoilt.is_some() =>
                {
                    self.counters.hit("damage found in a branch");
                }
                Err(e) => self.fail(format!("n{n}: branch {}: {e}", k.name())),
            }
        }
    }

    /// The snapshot area was full once, so that pins may have been broken.
    pub fn broken_pins(&mut self, n: usize) -> bool {
        let Some(states) = &self.nodes[n].states else { return false };
        let broken = self.nodes[n].area_full || states.board().store().has_broken();
        if broken {
            self.counters.hit("kept state broken by a full area");
        }
        broken
    }

    fn read_whole(&mut self, n: usize, pin: &Pin, what: &str) {
        let Some(states) = self.nodes[n].states.clone() else { return };
        let len = pin.blocks().0 * self.opt.block_size.bytes();
        if what == "visible"
            && let Err(e) = self.model.check_size(self.state_at(n, pin.state()), pin.blocks().0)
        {
            self.fail(format!("n{n}: {e}"));
        }
        let mut buf = vec![0; usize::try_from(len).unwrap_or(0)];
        self.counters.2.operations += 1;
        match states.read(pin, 0, &mut buf) {
            Ok(()) => {
                if let Err(e) = self.model.check(self.state_at(n, pin.state()), 0, &buf) {
                    if self.is_blind(n, what == "visible") {
                        self.counters.hit("damage that nothing can tell");
                        return;
                    }
                    self.fail(format!("n{n}: {what} state {}: {e}", pin.state()));
                }
                self.block_status(n, pin, &buf);
            }
            Err(ReadFailure::Pin(_) | ReadFailure::Lost) => {
                self.counters.hit("reader lost its state");
            }
            Err(ReadFailure::Rotten { .. }) if self.nodes[n].spoilt.is_some() => {
                self.counters.hit("damaged block not handed out");
            }
            Err(ReadFailure::Differs(_)) if self.nodes[n].damaged() => {
                self.counters.hit("state of a replica that differs not handed out");
            }
            Err(ReadFailure::Damaged(_)) if self.nodes[n].damaged() => {
                self.counters.hit("damage found by a reader");
            }
            Err(e) => self.fail(format!("n{n}: {what} state {}: {e}", pin.state())),
        }
    }

    /// A table of hashes that was lost is made anew of what has rotted meanwhile, and images are saved
    /// without it; of the newest state the sum tells, in the end. While there is none, nothing tells.
    fn is_blind(&self, n: usize, newest: bool) -> bool {
        let node = &self.nodes[n];
        let summed = node.volume().is_some_and(|v| v.digest().is_some());
        let view = node.states.as_ref().map(|s| s.board().view());
        let untold =
            view.is_some_and(|v| v.hashed.is_none() && v.proven.is_none() && v.writer.is_none());
        node.spoilt.is_some() && (node.blind || untold) && !(newest && summed)
    }

    /// What is told to be zero is zero in the state, also while the content is replaced.
    fn block_status(&mut self, n: usize, pin: &Pin, content: &[u8]) {
        let Some(states) = self.nodes[n].states.clone() else { return };
        let disk = states.files().clone();
        let holes = |offset, len| disk.0.borrow().holes(offset, len);
        let Ok(found) = states.block_status(pin, 0, content.len() as u64, &holes) else {
            self.counters.hit("reader lost its state");
            return;
        };
        let mut at = 0;
        for e in found {
            let to = (at + usize::try_from(e.len).unwrap_or(0)).min(content.len());
            if e.zero && content[at..to].iter().any(|b| *b != 0) {
                let state = pin.state();
                self.fail(format!("n{n}: bytes {at} to {to} of state {state} are told to be zero"));
            }
            self.counters.hit("block status");
            at = to;
        }
    }

    fn begin_reader(&mut self, n: usize, pin: Arc<Pin>) {
        self.next_id += 1;
        let id = self.next_id;
        let left = self.rng.range(1, 6);
        self.nodes[n].readers.push(Reader { id, pin, request: None, left });
        let life = self.nodes[n].life;
        self.after(1, 20_000, Event::Read { node: n, life, id });
    }

    /// A reader takes a step.
    pub fn reader_step(&mut self, n: usize, id: u64) {
        let Some(i) = self.nodes[n].readers.iter().position(|r| r.id == id) else { return };
        let Some(states) = self.nodes[n].states.clone() else { return };
        if self.rng.percent(20) {
            self.smear(n);
        }
        let mut r = self.nodes[n].readers.swap_remove(i);
        let (view, first) = r.request.take().unwrap_or_else(|| (states.board().view(), 0));
        let bs = self.opt.block_size.bytes();
        let blocks = r.pin.blocks().0;
        let count = self.rng.range(1, self.opt.blocks / 4).min(blocks - first);
        let mut buf = vec![0; usize::try_from(count * bs).unwrap_or(0)];
        let state = r.pin.state();
        self.counters.2.operations += 1;
        match states.read_through(&view, &r.pin, first * bs, &mut buf) {
            Ok(()) => {
                self.counters.hit("reader step");
                if let Err(e) = self.model.check(self.state_at(n, state), first, &buf) {
                    if self.is_blind(n, state == view.visible) {
                        self.counters.hit("damage that nothing can tell");
                        return;
                    }
                    self.fail(format!(
                        "n{n}: reader {id} of state {state} (view {}, entry {:?}): {e}",
                        view.visible,
                        r.pin.entry()
                    ));
                    return;
                }
            }
            Err(ReadFailure::Pin(_) | ReadFailure::Lost) => {
                self.counters.hit("reader lost its state");
                return;
            }
            Err(ReadFailure::Rotten { .. }) if self.nodes[n].spoilt.is_some() => {
                self.counters.hit("damaged block not handed out");
                return;
            }
            Err(ReadFailure::Differs(_)) if self.nodes[n].damaged() => {
                self.counters.hit("reader of a replica that differs was stopped");
                return;
            }
            Err(ReadFailure::Damaged(_)) if self.nodes[n].damaged() => {
                self.counters.hit("damage found by a reader");
                return;
            }
            Err(e) => {
                self.fail(format!("n{n}: reader {id} of state {state}: {e}"));
                return;
            }
        }
        if first + count >= blocks {
            r.left -= 1;
            let mut whole = vec![0; usize::try_from(blocks * bs).unwrap_or(0)];
            if states.read(&r.pin, 0, &mut whole).is_ok() {
                self.block_status(n, &r.pin, &whole);
            }
            if r.left == 0 {
                self.counters.hit("reader done");
                return;
            }
        } else {
            r.request = Some((view, first + count));
        }
        self.nodes[n].readers.push(r);
        let life = self.nodes[n].life;
        self.after(1, 300_000, Event::Read { node: n, life, id });
    }

    /// Newest state shown on a node, if reads are let in.
    #[must_use]
    pub fn visible(&self, n: usize) -> Option<SetNumber> {
        let view = self.nodes[n].states.as_ref()?.board().view();
        view.refused.is_none().then_some(view.visible)
    }
}
