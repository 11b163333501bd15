//! Which blocks changed in which step, kept long after the data: written with the commits that make
//! a state durable, read for catch-ups, made smaller when there is too much of it.
//!
//! ```text
//! primary: set finished ─┐
//! replica: chunk merged ─┼─► pending ─► commit: entries, sync, slot ─► … more than half full ─►
//! catch-up: extent came ─┘        read, made smaller beside the commits ─► next commit: other place
//! ```
//!
//! A slot says that everything that changed after `base`, up to the state that it calls merged, is
//! in the entries it names. Nothing is ever dropped for want of room: older entries are merged and
//! made coarser, and a commit waits until there is room. `docs/catch-up.md`.

use std::collections::BTreeMap;

use bytes::Bytes;
use rcp::proto::ids::{NodeName, SetNumber};

use super::desk::{Purpose, Work};
use super::{Event, Role, Volume};
use crate::bitmap::BlockSet;
use crate::bitmap::changes::{ENTRY_HEAD, Entry, MAX_RUNS, RegionError};
use crate::io::{FileId, Op, Outcome};
use crate::mailbox::{ChangesMark, Mailbox};
use crate::units::{BlockCount, BlockIndex};

/// Bytes of the file that are enough for anything: it has two places.
pub const MIN_CHANGES: u64 = 8 << 10;

/// Who a region is read for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// It is to be made smaller.
    Squeeze,
    /// A child's catch-up in this session.
    Child(NodeName, u64),
    /// What waits for a child, to be sent as one step if that is less.
    Queue,
    /// This node takes its own content back.
    Undo,
    /// The content differs, and nobody knows where: what changed is fetched again.
    Differs,
}

#[derive(Debug, Default)]
enum Squeeze {
    #[default]
    Idle,
    /// Read or computed, of this epoch.
    Running(u64),
    Done(u64, Vec<Entry>),
}

/// What changed and is not written yet, and the way to less.
#[derive(Debug)]
pub(super) struct Changes {
    /// Bytes of each of the two places of the file.
    place: u64,
    pending: BTreeMap<SetNumber, BlockSet>,
    squeeze: Squeeze,
    /// Written since the region was read to be made smaller.
    recent: Vec<Entry>,
    /// The disk had no room for it, which was said.
    no_space: bool,
}

impl Changes {
    pub(super) fn new(capacity: u64) -> Self {
        Self {
            place: capacity.max(MIN_CHANGES) / 2 / 4096 * 4096,
            pending: BTreeMap::new(),
            squeeze: Squeeze::Idle,
            recent: Vec::new(),
            no_space: false,
        }
    }

    /// The step that leads to `to` changes these blocks.
    pub(super) fn note(&mut self, to: SetNumber, first: u64, count: u64) {
        let set = self.pending.entry(to).or_default();
        set.insert_range(BlockIndex(first), BlockCount(count));
        if set.run_count() > 2 * MAX_RUNS {
            *set = set.coarser(MAX_RUNS);
        }
    }

    /// What the step to this state changed, while that is not written.
    pub(super) fn noted(&self, to: SetNumber) -> Option<&BlockSet> {
        self.pending.get(&to)
    }

    fn forget(&mut self) {
        self.pending.clear();
        self.recent.clear();
        self.squeeze = Squeeze::Idle;
    }

    /// Where the next region is written: not where the present one is.
    fn next_offset(&self, now: &ChangesMark) -> u64 {
        if now.offset == 0 { self.place.max(now.bytes.next_multiple_of(4096)) } else { 0 }
    }

    /// Takes what is due as entries: few enough that they always find room.
    fn take_due(&mut self, all: bool, through: SetNumber) -> Vec<Entry> {
        let later = if all { BTreeMap::new() } else { self.pending.split_off(&through.next()) };
        let due = std::mem::replace(&mut self.pending, later);
        let most = usize::try_from(self.place / 8).unwrap_or(usize::MAX);
        let each = most - ENTRY_HEAD;
        let entries: Vec<_> = due.iter().map(|(to, set)| Entry::new(*to, set, each)).collect();
        if entries.iter().map(Entry::stored_len).sum::<usize>() <= most {
            return entries;
        }
        let mut union = BlockSet::new();
        let mut last = SetNumber::ZERO;
        for (to, set) in &due {
            union.union(set);
            last = last.max(*to);
        }
        vec![Entry::new(last, &union, each)]
    }
}

impl Volume {
    /// Whether what changed after `over` is known here, durably.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn knows_changes(&self, over: SetNumber) -> Result<(), String> {
        if matches!(self.cfg.role, Role::Relay) {
            return if self.relay_no_catch_up {
                Err("the nodes above do not know which blocks changed".to_owned())
            } else {
                Ok(())
            };
        }
        let base = self.durable.changes.base.max(self.want.changes.base);
        if over < base {
            return Err(format!(
                "which blocks changed is known here only after set {base}, and the content there \
                 is that of set {over}"
            ));
        }
        Ok(())
    }

    /// At a relay, before a child attaches: the nodes above said that they do not know what changed.
    pub fn relay_cannot_catch_up(&mut self, no: bool) {
        self.relay_no_catch_up = no;
    }

    /// Everything that is known is void: the content becomes another one. What changes after `base`
    /// will be known.
    pub(super) fn changes_reset(&mut self, base: SetNumber) {
        self.changes.forget();
        let now = self.want.changes;
        let offset = self.changes.next_offset(&now);
        self.want.changes = ChangesMark { offset, bytes: 0, epoch: now.epoch + 1, base };
        self.commit.request();
    }

    /// The entries turned out damaged: catch-ups are possible again for those who hold what is
    /// here now.
    pub(super) fn changes_damaged(&mut self, e: &RegionError) {
        let base = self.changes_begin_anew();
        let text = format!(
            "the list of changed blocks is damaged ({e}); it was given up and begins anew after \
             set {base}: children that are further behind than the save volume are seeded"
        );
        self.desk.event(Event::Damage { text });
    }

    /// Gives up what is known, in the middle of anything; the state after which all will be known.
    fn changes_begin_anew(&mut self) -> SetNumber {
        let open = self.log.open_step().map_or(SetNumber::ZERO, |s| s.id.to);
        let noted = self.changes.pending.keys().next_back().copied().unwrap_or_default();
        let mut base = self.want.merged.max(self.log.state()).max(open).max(noted);
        if let Some(over) = self.undoes_after() {
            // What was to be taken back is no longer known.
            base = base.max(over.next());
        }
        self.changes_reset(base);
        base
    }

    /// What a commit wrote is durable.
    pub(super) fn changes_written(&mut self) {
        self.changes.no_space = false;
    }

    /// What a commit wrote found no room; the mark that its slot must have instead.
    pub(super) fn changes_without_room(&mut self) -> ChangesMark {
        let base = self.changes_begin_anew();
        if !std::mem::replace(&mut self.changes.no_space, true) {
            let text = format!(
                "no space left for the list of changed blocks: it was given up and begins anew \
                 after set {base}; until there is room, children that are further behind than the \
                 save volume are seeded"
            );
            self.desk.event(Event::Damage { text });
        }
        self.want.changes
    }

    /// What a commit writes of it, before its slot; `Err` if there is no room yet.
    pub(super) fn changes_for(&mut self, m: &mut Mailbox) -> Result<Option<Op>, ()> {
        if matches!(self.cfg.role, Role::Relay) {
            self.changes.pending.clear();
            return Ok(None);
        }
        let hidden = self.durable.seed.is_some() || m.seed.is_some();
        let c = &mut self.changes;
        let durable = self.durable.changes;
        if m.changes.epoch != durable.epoch && m.changes.bytes == 0 {
            // It begins anew, perhaps for the second time since the last commit: never where the
            // entries are that the durable slot names.
            m.changes.offset = c.next_offset(&durable);
        }
        let full = m.changes.bytes + c.place / 8 > c.place;
        if full && matches!(c.squeeze, Squeeze::Running(_) | Squeeze::Idle) {
            return Err(());
        }
        let mut entries = Vec::new();
        let squeezed = std::mem::take(&mut c.squeeze);
        let due = match squeezed {
            Squeeze::Done(epoch, smaller) if epoch == m.changes.epoch => {
                entries.extend(smaller);
                entries.append(&mut c.recent);
                let offset = c.next_offset(&m.changes);
                m.changes = ChangesMark { offset, bytes: 0, epoch: epoch + 1, ..m.changes };
                c.take_due(hidden, m.merged)
            }
            Squeeze::Running(epoch) => {
                c.squeeze = Squeeze::Running(epoch);
                let due = c.take_due(hidden, m.merged);
                c.recent.extend(due.iter().cloned());
                due
            }
            _ => c.take_due(hidden, m.merged),
        };
        entries.extend(due);
        if entries.is_empty() {
            return Ok(None);
        }
        let (volume, epoch) = (self.cfg.volume, m.changes.epoch);
        let data: Vec<Bytes> =
            entries.into_iter().flat_map(|e| [e.head(volume, epoch), e.set]).collect();
        let offset = m.changes.offset + m.changes.bytes;
        m.changes.bytes += data.iter().map(|d| d.len() as u64).sum::<u64>();
        Ok(Some(Op::Write { offset, data }))
    }

    /// Begins to make the region smaller when it fills more than half of its place.
    pub(super) fn pump_changes(&mut self) {
        let mark = self.durable.changes;
        let whole = mark == self.want.changes && !self.commit.is_writing();
        if !matches!(self.changes.squeeze, Squeeze::Idle)
            || !whole
            || mark.bytes <= self.changes.place / 2
        {
            return;
        }
        self.changes.squeeze = Squeeze::Running(mark.epoch);
        self.changes.recent.clear();
        self.changes_read(Reader::Squeeze);
    }

    /// Reads all entries that are durable.
    pub(super) fn changes_read(&mut self, reader: Reader) {
        let mark = self.durable.changes;
        if mark.bytes == 0 {
            self.changes_work(reader, mark.epoch, Bytes::new());
            return;
        }
        let len = usize::try_from(mark.bytes).unwrap_or(usize::MAX);
        let op = Op::Read { offset: mark.offset, len };
        self.desk.io(Purpose::ChangesRead { reader, epoch: mark.epoch }, FileId::Changes, op);
    }

    pub(super) fn changes_read_done(&mut self, reader: Reader, epoch: u64, outcome: Outcome) {
        match outcome {
            Outcome::Read(b) => self.changes_work(reader, epoch, b),
            other => self.fail_io("read from the list of changed blocks", &other),
        }
    }

    fn changes_work(&mut self, reader: Reader, epoch: u64, region: Bytes) {
        let volume = self.cfg.volume;
        let work = match &reader {
            Reader::Squeeze => {
                let most = usize::try_from(self.changes.place / 4).unwrap_or(usize::MAX);
                Work::Squeeze { region, volume, epoch, most }
            }
            Reader::Differs => {
                let (after, end) = (SetNumber::ZERO, self.want.blocks);
                Work::Changed { region, volume, epoch, after, end }
            }
            Reader::Undo => {
                let Some(after) = self.undoes_after() else { return };
                Work::Changed { region, volume, epoch, after, end: self.want.blocks }
            }
            Reader::Queue => {
                let Some(after) = self.coalescing.asks_after() else { return };
                Work::Changed { region, volume, epoch, after, end: self.want.blocks }
            }
            Reader::Child(child, session) => {
                let Some(after) = self.seed_outs.planning(child, *session) else { return };
                Work::Changed { region, volume, epoch, after, end: self.want.blocks }
            }
        };
        self.desk.work(Purpose::ChangesWork { reader, epoch }, work);
    }

    pub(super) fn changes_squeezed(&mut self, epoch: u64, done: Result<Vec<Entry>, RegionError>) {
        if !matches!(self.changes.squeeze, Squeeze::Running(e) if e == epoch) {
            return;
        }
        match done {
            Ok(entries) => {
                self.changes.squeeze = Squeeze::Done(epoch, entries);
                self.commit.request();
            }
            Err(e) => self.changes_damaged(&e),
        }
    }

    /// The blocks that a child lacks are known, or cannot be.
    pub(super) fn changes_found(
        &mut self,
        child: &NodeName,
        session: u64,
        epoch: u64,
        found: Result<BlockSet, RegionError>,
    ) {
        match found {
            Ok(blocks) => self.seed_out_planned(child, session, Ok(blocks)),
            // Written anew meanwhile: once more.
            Err(_) if epoch != self.durable.changes.epoch => {
                self.seed_out_plan_again(child, session);
            }
            Err(e) => {
                if self.want.changes.epoch == epoch {
                    self.changes_damaged(&e);
                }
                let why = format!("the list of changed blocks is damaged ({e})");
                self.seed_out_planned(child, session, Err(why));
            }
        }
    }
}
