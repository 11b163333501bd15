//! One volume on one node, as a value.
//!
//! [`Volume`] is told what happened (a request completed, a chunk came, a child acknowledged, time
//! passed) and answers with requests on files ([`Volume::poll_io`]), computations
//! ([`Volume::poll_work`]) and [`Event`]s. It owns the save volume's index, the commit pipeline,
//! and, by role, the drain (primary) or the merge (replica). Nothing here blocks, sleeps, reads a
//! clock or touches a file.
//!
//! ```text
//! primary:  writes ─ capture ─ cut ─ drain ─► log ─ commit ─► consumers (children)
//! replica:  intake ─► log ─ commit ─► visible (layers) ─ merge ─► base
//!             │         └─► consumers (children), cut-through
//!             └ at rest ─► take_over ─► primary         primary ─► step_down ─► replica
//! relay:    intake ─► log ─► consumers
//! ```

mod adopt;
mod audit;
mod audit_places;
mod audit_work;
mod branches;
mod catch_up;
mod changes;
mod check;
mod coalesce;
mod commit;
mod compare;
mod consumers;
mod damage;
mod demands;
mod desk;
mod digest;
mod draft;
mod drain;
mod explain;
mod fold;
mod full;
mod growth;
mod held;
mod images;
mod intake;
mod keep;
mod lines;
mod merge;
mod mirror;
mod opened;
mod pass;
mod playback;
mod promote;
mod recover;
mod refetch;
mod retention;
mod rewind;
mod scrub;
mod seed_in;
mod seed_out;
mod seed_proof;
mod staging;
mod stalls;
mod status;
mod switch;
mod unproven;
mod waits;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rcp::proto::clock::{Mono, Wall};
use rcp::proto::delta::{Chunk, Compression, StepId};
use rcp::proto::ids::{ChunkNumber, Generation, NodeName, SetNumber, StateId, VolumeId};

use crate::capture::Capture;
use crate::io::{Io, Outcome, Tag};
use crate::mailbox::Mailbox;
use crate::save::{Budget, Log, Readback};
use crate::snapshots::{PinId, SnapshotStore};
use crate::units::{BlockCount, BlockSize};
use crate::view::PinBoard;

pub use audit_places::Place;
pub use branches::BranchInfo;
pub use changes::MIN_CHANGES;
pub use coalesce::{Coalesced, Queue};
pub use compare::Question;
pub use consumers::{Attached, Outgoing, Seeding};
pub use demands::Demand;
pub use desk::{OpenChunk, Work, WorkDone};
pub use explain::{BadBody, ChangesContent, SaveContent};
pub use full::{FullCounts, Suspension};
pub use intake::IntakeError;
pub use keep::KeepError;
pub use opened::Opened;
pub use playback::Ending;
pub use recover::{ReadFile, RecoverError};
pub use retention::{Backlog, FullPolicy, Limits, Passed, STOPPED_AFTER, Verdict};
pub use rewind::MAX_UNDO_RUNS;
pub use scrub::{ScrubPolicy, Scrubbed};
pub use seed_out::SeedProgress;
pub use status::{Played, SetRow, VolumeStatus};
pub use waits::Waits;

use changes::{Changes, Reader};
use coalesce::Coalescing;
use commit::Committer;
use consumers::Consumers;
use demands::Demands;
use desk::{Desk, Purpose};
use digest::Digest;
use drain::Drain;
use full::Full;
use growth::Growth;
use images::Images;
use intake::Intake;
use merge::Merge;
use playback::Playback;
use rewind::Undo;
use seed_in::SeedIn;
use seed_out::SeedOuts;
use staging::Staging;
use stalls::Stalls;
use switch::Switch;

/// When a new delta set is made (CAP-05).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutPolicy {
    /// Modified bytes beyond which a set is made.
    pub hwm: u64,
    /// Time after the last cut beyond which a set is made.
    pub timeout: Duration,
}

/// When complete steps become visible (PLAY-06, 07).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaybackPolicy {
    /// Stored bytes from which on a group is played at once.
    pub hwm: u64,
    /// Time for which steps are gathered into a group; zero plays each step as it comes.
    pub timeout: Duration,
    /// Nobody reads the replica before a version of it is wanted: it mirrors (VMC-08).
    pub on_demand: bool,
}

/// What this node does with the volume.
#[derive(Clone, Debug)]
pub enum Role {
    /// It owns the writable copy.
    Primary {
        /// Where writers mark what they change.
        capture: Arc<Capture>,
        /// When sets are made.
        policy: CutPolicy,
    },
    /// It keeps a readable copy, and passes the stream on to its children if it has any.
    Replica {
        /// When steps are played.
        policy: PlaybackPolicy,
    },
    /// It only passes the stream on.
    Relay,
}

/// What a volume is and what it may use.
#[derive(Clone, Debug)]
pub struct VolumeConfig {
    /// Which volume.
    pub volume: VolumeId,
    /// This node's name: it is written into the history it opens.
    pub node: NodeName,
    /// Block size.
    pub block_size: BlockSize,
    /// Size when it was made; afterwards the mailbox knows.
    pub blocks: BlockCount,
    /// Capacity of the chunk area, in bytes.
    pub save_capacity: u64,
    /// Bytes of the file that lists which blocks changed in which step, at least [`MIN_CHANGES`].
    pub changes: u64,
    /// How gently stored content is looked through.
    pub scrub: ScrubPolicy,
    /// Bytes of recent chunks kept in memory for children near the head.
    pub cache: u64,
    /// Bytes of chunks kept in memory that were read back from the save volume.
    pub readback: u64,
    /// What all volumes of the node may keep of those together.
    pub budget: Arc<Budget>,
    /// Payload bytes of one chunk.
    pub chunk_bytes: u64,
    /// Most bytes a receiver grants ahead of what is durable.
    pub window: u64,
    /// Whether payloads are compressed.
    pub compression: Compression,
    /// Before images of pinned states.
    pub snapshots: Arc<SnapshotStore>,
    /// What happens when receivers take nothing and room runs out.
    pub full: FullPolicy,
    /// Role and its policy.
    pub role: Role,
    /// The line that a writer was to open when its node ended: its identity says so, and the mailbox
    /// perhaps not yet.
    pub opens: Option<Generation>,
}

/// What happened that the node, a peer or an operator should know.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Everything up to `state`, and the chunks before `next` of the step after it, is durable.
    Saved {
        /// Last complete step.
        state: SetNumber,
        /// First chunk of the following step that is not durable.
        next: ChunkNumber,
    },
    /// A set is finished and may leave (primary).
    SetReady {
        /// Its number.
        set: SetNumber,
        /// Blocks in it.
        blocks: u64,
        /// When it was cut.
        cut_time: Wall,
    },
    /// The cut that was demanded led to this state; `fresh` is false when nothing had changed.
    CutDone {
        /// Answered are this demand and those before it.
        demand: Demand,
        /// Newest state.
        state: SetNumber,
        /// A new set was made.
        fresh: bool,
    },
    /// Readers now see this state.
    Visible {
        /// The state.
        state: SetNumber,
    },
    /// The volume's history changed and is durable: it may be offered.
    History,
    /// A consumer has something to send (records appended, read or acknowledged room).
    Sendable,
    /// An extent of a seed is ready for a child.
    SeedChunk {
        /// The child.
        child: NodeName,
        /// First block behind it.
        next_block: u64,
        /// Newest state its content may include.
        view: SetNumber,
        /// The extent.
        chunk: Chunk,
    },
    /// What a child lacks that attached is known ([`Attached::Planning`]).
    Planned {
        /// The child.
        child: NodeName,
        /// [`Attached::CatchUp`], or [`Attached::Seed`] if what changed could not be found out.
        answer: Attached,
    },
    /// A child's seed is complete once it has folded `need`.
    SeedEnd {
        /// The child.
        child: NodeName,
        /// The set.
        need: SetNumber,
    },
    /// An incoming seed is durable up to this block.
    SeedSaved {
        /// First block not yet durable.
        next_block: u64,
    },
    /// The volume has another size, durably; at a replica since the state that is visible.
    Resized {
        /// Blocks it has now.
        blocks: BlockCount,
    },
    /// What an operator set is durable.
    Settings,
    /// What this node has to take back is known: [`Volume::undo_list`] tells.
    UndoKnown,
    /// Which states are kept has changed, durably.
    Kept,
    /// What readers saw while a catch-up is applied to the content is hidden from them.
    Hidden {
        /// In words: which state, and why.
        text: String,
    },
    /// States that were kept, or were to be, are given up, and nobody has released them.
    NotKept {
        /// Which.
        states: Vec<SetNumber>,
        /// In words: why, and what to do.
        text: String,
    },
    /// Room was freed: more credit may be granted.
    Room,
    /// A consumer gave up its place: the save volume was full, it held back more than it may, or an
    /// operator let go of it. It will need another way back.
    Detached {
        /// The child.
        child: NodeName,
        /// Why, in words.
        reason: String,
    },
    /// A child that is connected gets what waits for it as one step, once it has attached again.
    Again {
        /// The child.
        child: NodeName,
        /// Why, in words.
        reason: String,
    },
    /// The replica cannot go on from what it is sent: it needs a seed.
    NeedsSeed {
        /// Why, in words.
        reason: String,
    },
    /// Blocks of the content turned out damaged: the stream must be attached again, which names
    /// them.
    Doubts {
        /// In words.
        text: String,
    },
    /// What was staged of a catch-up was given up: the stream must be attached again.
    Staged {
        /// Why, in words.
        text: String,
    },
    /// A comparison of content that was kept from before is over: the stream must be attached again,
    /// which names what differs.
    Lacks {
        /// In words.
        text: String,
    },
    /// The parent is to be asked for sums of its block hashes; [`Volume::sums_told`] takes the answer.
    Compare {
        /// What is asked.
        question: Question,
    },
    /// The answer to [`Volume::sums_asked`].
    Sums {
        /// The child.
        child: NodeName,
        /// None of them is of an earlier state.
        state: SetNumber,
        /// What was asked.
        question: Question,
        /// None if they cannot be told.
        sums: Vec<u128>,
        /// Why they cannot be told, in words.
        text: String,
    },
    /// What the primary tells of its digest is not that of what it holds.
    Suspect {
        /// In words.
        text: String,
    },
    /// A round through the content that somebody asked for has ended.
    Scrubbed(Scrubbed),
    /// The content was found to differ from the primary's; reads are refused.
    Differs {
        /// In words.
        text: String,
    },
    /// Content that differed from the primary's is right again.
    Healed {
        /// In words.
        text: String,
    },
    /// Stored data turned out damaged; what was done about it.
    Damage {
        /// In words, naming the place.
        text: String,
    },
    /// The volume has stopped; nothing more is acknowledged until it is opened again.
    Failed {
        /// In words, with the remedy.
        text: String,
    },
}

/// One volume on one node.
#[derive(Debug)]
pub struct Volume {
    cfg: VolumeConfig,
    desk: Desk,
    log: Log,
    readback: Readback,
    /// What the newest valid slot says.
    durable: Mailbox,
    /// What the next commit will say.
    want: Mailbox,
    commit: Committer,
    consumers: Consumers,
    coalescing: Coalescing,
    full: Full,
    intake: Intake,
    playback: Playback,
    merge: Merge,
    drain: Drain,
    demands: Demands,
    growth: Growth,
    switch: Switch,
    seed_in: Option<SeedIn>,
    staging: Option<Staging>,
    /// No catch-up is staged before a newer state than this is shown: the last one could not be.
    stage_refused: Option<SetNumber>,
    /// The commit from which on a restart finds nothing of what was given up.
    discarded_by: u64,
    undo: Undo,
    images: Images,
    seed_outs: SeedOuts,
    changes: Changes,
    digest: Digest,
    /// Why no seed can pass through (relay).
    relay_refusal: Option<String>,
    /// The nodes above do not know which blocks changed (relay).
    relay_no_catch_up: bool,
    board: Arc<PinBoard>,
    history_table: status::SetTable,
    /// States to be kept once the base reaches them.
    keeps_waiting: BTreeSet<SetNumber>,
    /// A pin that was lent to readers is being given up for the room that it takes.
    hold_goes: bool,
    /// Durable pins that the mailbox does not list yet.
    unlisted: BTreeSet<PinId>,
    /// Pins to be released once the mailbox no longer lists them.
    releasing: Vec<PinId>,
    failed: Option<String>,
    /// The volume works, but not all of it: why, in words.
    stalls: Stalls,
    /// The replica is older than its readers may be given: why, in words.
    too_old: Option<String>,
}

impl Volume {
    /// What this volume is.
    #[must_use]
    pub fn config(&self) -> &VolumeConfig {
        &self.cfg
    }

    /// What is durable.
    #[must_use]
    pub fn durable(&self) -> &Mailbox {
        &self.durable
    }

    /// What the commit that is under way will make durable.
    #[must_use]
    pub fn being_written(&self) -> Option<&Mailbox> {
        self.commit.being_written()
    }

    /// The volume's lines as the next commit will say them, oldest first.
    #[must_use]
    pub fn history(&self) -> &[crate::mailbox::Branch] {
        &self.want.history
    }

    /// Where readers find the published view.
    #[must_use]
    pub fn board(&self) -> &Arc<PinBoard> {
        &self.board
    }

    /// The capture tables, at the primary.
    #[must_use]
    pub fn capture(&self) -> Option<&Arc<Capture>> {
        match &self.cfg.role {
            Role::Primary { capture, .. } => Some(capture),
            _ => None,
        }
    }

    /// Why the volume stopped, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// The full id of a state on the present line.
    #[must_use]
    pub fn state_id(&self, set: SetNumber) -> Option<StateId> {
        let generation = self.durable.generation()?;
        Some(StateId { volume: self.cfg.volume, generation, set })
    }

    /// The step that is still arriving: its identity and its first missing chunk.
    #[must_use]
    pub fn open_step(&self) -> Option<(StepId, ChunkNumber)> {
        self.log.open_step().map(|s| (s.id, ChunkNumber(s.chunks)))
    }

    /// Bytes of the save volume in use.
    #[must_use]
    pub fn save_used(&self) -> u64 {
        self.log.used()
    }

    /// The next request on a file.
    pub fn poll_io(&mut self) -> Option<Io> {
        self.desk.ios.pop_front()
    }

    /// The next computation; its result goes to [`Volume::work_done`].
    pub fn poll_work(&mut self) -> Option<(Tag, Work)> {
        self.desk.works.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.desk.events.pop_front()
    }

    /// Nothing is under way: no request, no computation, no commit that is due.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.desk.is_idle() && !self.commit.is_busy()
    }

    /// When [`Volume::timer`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        [
            self.playback.timeout(),
            self.drain.timeout(),
            self.merge.timeout(),
            self.consumers.timeout(),
            self.full_timeout(),
            self.growth.timeout(),
            self.scrub_timeout(),
            self.compare_timeout(),
            self.seed_in.as_ref().and_then(SeedIn::timeout),
            self.stage_timeout(),
            self.images.timeout(),
            self.digest.no_room.timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Tells the time without acting on it: called before any verb.
    pub fn set_time(&mut self, now: Mono, wall: Wall) {
        self.desk.now = self.desk.now.max(now);
        self.desk.wall = wall;
    }

    /// Time has passed.
    pub fn timer(&mut self, now: Mono, wall: Wall) {
        self.desk.now = now;
        self.desk.wall = wall;
        self.pump();
    }

    /// A request completed.
    pub fn io_done(&mut self, now: Mono, tag: Tag, outcome: Outcome) {
        self.desk.now = self.desk.now.max(now);
        let Some(purpose) = self.desk.purposes.remove(&tag) else { return };
        if self.failed.is_some() {
            return;
        }
        match purpose {
            Purpose::LogWrite { pos } => match outcome {
                Outcome::Done => {
                    let free = self.log.free();
                    self.log.note_written(pos);
                    if self.log.free() > free {
                        // A record that was given up held the room until now.
                        self.desk.event(Event::Room);
                    }
                    // At the primary chunks wait for their set header.
                    if self.capture().is_none() || self.log.open_step().is_none() {
                        self.commit.request();
                    }
                }
                other => self.fail_io("write to the save volume", &other),
            },
            Purpose::Commit(part) => self.commit_io_done(part, &outcome),
            Purpose::DrainRead { attempt, runs } => {
                if self.drain.is_on(attempt) {
                    self.drain_read_done(&runs, outcome);
                }
            }
            Purpose::DrainSync { attempt } => {
                if self.drain.is_on(attempt) {
                    self.drain_synced(&outcome);
                }
            }
            Purpose::RecordRead(read) => self.record_read_done(read, outcome),
            Purpose::Merge { job, step } => self.merge_io_done(job, step, outcome),
            Purpose::ExtendTable => self.table_extended(&outcome),
            Purpose::Extend => self.base_extended(&outcome),
            Purpose::SeedIn(step) => self.seed_in_io_done(step, &outcome),
            Purpose::SeedOutMap { child, session } => {
                self.seed_out_mapped(&child, session, outcome);
            }
            Purpose::SeedOutRead { child, session, runs } => {
                self.seed_out_read(&child, session, &runs, outcome);
            }
            Purpose::ChunkRead { pos } => self.chunk_read(pos, outcome),
            Purpose::CheckRead { run } => self.check_read(run, outcome),
            Purpose::Compare { run } => self.compare_read(run, &outcome),
            Purpose::Sums { child, question, state, edition } => {
                self.sums_entries(child, (question, state, edition), &outcome);
            }
            Purpose::DrainHashes { attempt, new } => {
                if self.drain.is_on(attempt) {
                    self.drain_hashes_read(new, &outcome);
                }
            }
            Purpose::Scrub { run, step } => self.scrub_io_done(run, step, outcome),
            Purpose::SeedOutProof { child, session, runs, content } => {
                self.seed_out_proof(&child, session, &runs, content, outcome);
            }
            Purpose::Fold { run, step } => self.fold_io_done(run, step, outcome),
            Purpose::Table { run, step } => self.table_io_done(run, step, outcome),
            Purpose::ChangesRead { reader, epoch } => {
                self.changes_read_done(reader, epoch, outcome);
            }
            Purpose::ChangesWork { .. }
            | Purpose::ChunkHash { .. }
            | Purpose::Encode { .. }
            | Purpose::SeedEncode { .. }
            | Purpose::Open { .. }
            | Purpose::SeedOpen => {}
        }
        self.pump();
    }

    /// A computation finished.
    pub fn work_done(&mut self, now: Mono, tag: Tag, done: WorkDone) {
        self.desk.now = self.desk.now.max(now);
        let Some(purpose) = self.desk.purposes.remove(&tag) else { return };
        if self.failed.is_some() {
            return;
        }
        match (purpose, done) {
            (Purpose::Encode { attempt, number }, WorkDone::Encoded(chunk)) => {
                if self.drain.is_on(attempt) {
                    self.drain_encoded(number, chunk);
                }
            }
            (
                Purpose::SeedEncode { child, session, next_block, blocks, view },
                WorkDone::Encoded(chunk),
            ) => {
                let chunk = chunk.map(|(c, _)| c);
                self.seed_out_encoded(child, session, (next_block, blocks), view, chunk);
            }
            (Purpose::Scrub { run, .. }, WorkDone::Hashed(Ok(h))) => self.scrub_hashed(run, h),
            (Purpose::ChunkHash { pos }, WorkDone::Hashed(h)) => self.chunk_hashed(pos, h),
            (Purpose::Fold { run, .. }, WorkDone::Hashed(h)) => self.fold_hashed(run, h),
            (Purpose::Table { run, .. }, WorkDone::Hashed(Ok(h))) => self.table_hashed(run, &h),
            (Purpose::ChangesWork { reader: Reader::Squeeze, epoch }, WorkDone::Squeezed(done)) => {
                self.changes_squeezed(epoch, done);
            }
            (
                Purpose::ChangesWork { reader: Reader::Child(child, session), epoch },
                WorkDone::Changed(found),
            ) => self.changes_found(&child, session, epoch, found),
            (Purpose::ChangesWork { reader: Reader::Differs, epoch }, WorkDone::Changed(found)) => {
                self.refetch_found(epoch, found)
            }
            (Purpose::ChangesWork { reader: Reader::Undo, epoch }, WorkDone::Changed(found)) => {
                self.undo_found(epoch, found);
            }
            (Purpose::ChangesWork { reader: Reader::Queue, epoch }, WorkDone::Changed(found)) => {
                self.coalesce_found(epoch, found);
            }
            (Purpose::Open { job }, WorkDone::Opened(opened)) => self.merge_opened(job, opened),
            (Purpose::SeedOpen, WorkDone::Opened(opened)) => self.seed_in_opened(opened),
            (p, _) => self.fail(format!("internal: result of the wrong kind for {p:?}")),
        }
        self.pump();
    }

    /// Goes on with what the volume was opened with: steps to merge, room to give back. Without room
    /// a receiver grants no credit, and nothing would come that sets this going.
    pub fn resume(&mut self) {
        self.pump();
    }

    /// Lets every machine take the steps that have become possible. Cheap when nothing has.
    fn pump(&mut self) {
        if self.failed.is_some() {
            return;
        }
        self.growth.look(self.desk.now);
        self.pins_broken();
        self.pump_waiting();
        self.pump_fold();
        self.pump_drain();
        self.pump_images();
        self.pump_seed_in();
        self.pump_staging();
        self.pump_check();
        self.pump_playback();
        self.pump_merge();
        self.pump_seed_outs();
        self.make_room();
        self.pump_table();
        self.pump_proof();
        if self.seed_waits_for_pass() {
            self.pump_seed_in();
        }
        self.pump_scrub();
        self.pump_compare();
        self.pump_refetch();
        self.pump_unproven();
        self.pump_coalescing();
        self.pump_changes();
        self.pump_patience();
        self.pump_commit();
        self.look_at_size();
    }

    fn fail(&mut self, text: String) {
        if self.failed.is_none() {
            self.desk.event(Event::Failed { text: text.clone() });
            self.failed = Some(text);
            if let Some(capture) = self.capture() {
                // Nobody cuts or drains any more: writers must not wait for it.
                capture.stop();
            }
            self.publish_view();
        }
    }

    fn fail_io(&mut self, what: &str, outcome: &Outcome) {
        let why = match outcome {
            Outcome::Failed(e) => e.to_string(),
            other => format!("unexpected {}", desk::outcome_name(other)),
        };
        self.fail(format!(
            "{what} failed: {why}; nothing more is acknowledged for this volume until rcpd is \
             restarted on a healthy disk"
        ));
    }

    /// Appends a record and asks for its writes; `false` when the save volume has no room.
    fn append(
        &mut self,
        kind: crate::save::RecordKind,
        to: SetNumber,
        chunk: ChunkNumber,
        body: &Bytes,
    ) -> Option<(crate::units::LogPos, crate::units::LogPos)> {
        let a = self.log.append(kind, to, chunk, body).ok()?;
        for (key, offset, data) in a.writes {
            let op = crate::io::Op::Write { offset, data };
            self.desk.io(Purpose::LogWrite { pos: key }, crate::io::FileId::Save, op);
        }
        Some((a.pos, a.end))
    }
}
