//! The mailbox: two alternating slots that are the one commit point of a volume on a node.
//!
//! A slot names the valid version of everything else: which part of the save volume is live, which
//! state is visible and which is merged into the base, where a seed stands, how far each consumer
//! is, which states are kept. A commit writes the *other* slot and syncs; a crash in between leaves
//! the one before. Nothing is acknowledged that the newest valid slot does not say.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rcp::proto::clock::Wall;
pub use rcp::proto::frame::Branch;
use rcp::proto::ids::{Attempt, Generation, NodeName, SetNumber, VolumeId};

use crate::digest::Sum;
use crate::units::{BlockCount, BlockSize, LogPos};

mod under_way;

use under_way::{UnderWay, get_held, get_seed, put_under_way};

/// Bytes of one slot in the file; slot 0 at offset 0, slot 1 behind it.
pub const SLOT_LEN: usize = 64 << 10;
const MAGIC: [u8; 4] = *b"RCPM";
const VERSION: u16 = 8;
/// Version 7 knew of no catch-ups under which what was visible stays so.
const HELD_SINCE: u16 = 8;
/// Version 6 knew neither of catch-ups that are staged nor of what extents have left.
const STAGED_SINCE: u16 = 7;
/// Version 5 knew of no mirrors.
const MIRRORS_SINCE: u16 = 6;
/// Version 4 knew of no undoing and of no branches.
const BRANCHES_SINCE: u16 = 5;
/// Version 3 had no digest.
const DIGESTS_SINCE: u16 = 4;
/// Version 2 did not say which states the extents of a seed or catch-up may hold.
const VIEWS_SINCE: u16 = 3;
/// Version 1 had neither catch-ups nor the sets of changed blocks.
const FIRST_VERSION: u16 = 1;
const HEAD: usize = 32;
/// Most consumers, branches and kept states one slot can name; `limits` above it are lower.
pub const MAX_ENTRIES: usize = 512;

/// How far one consumer (a child, by name) is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerMark {
    /// The child.
    pub name: NodeName,
    /// Everything before this position is durable there.
    pub acked: LogPos,
}

/// A seed or catch-up that is coming in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeedMark {
    /// A catch-up: but for what came since, the base holds this state. `None`: a seed, which began
    /// with an empty base.
    pub over: Option<SetNumber>,
    /// State the live stream was joined at.
    pub from: SetNumber,
    /// Blocks before this one are in the base, durably.
    pub next_block: u64,
    /// Readable once this set is folded in; unknown until the seed's end has come.
    pub need: Option<SetNumber>,
    /// Newest state that anything of an extent in the base may be of, in any session.
    pub view: SetNumber,
    /// The catch-up also undoes: what the list of changes names after `over` is to come again,
    /// because the content is that of a line that ended there.
    pub undo: bool,
    /// Of a catch-up: what readers see meanwhile.
    pub held: Option<Held>,
}

/// What readers see while a catch-up is applied to the content: the kept state of the number
/// [`Mailbox::visible`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Size of the volume in it.
    pub blocks: BlockCount,
    /// It is listed for this alone, and goes with the mark.
    pub lent: bool,
}

/// A catch-up that is staged: what comes goes into the save volume, as one step, and the content stays
/// what it is until that step is whole and can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageMark {
    /// The state over which the parent was asked for what changed.
    pub over: SetNumber,
    /// State the live stream was joined at: the staged step leads there.
    pub from: SetNumber,
    /// Blocks before this one are in the save volume, durably.
    pub next_block: u64,
    /// Readable from this set on, and no state between it and the one before the step; unknown until
    /// all blocks have come.
    pub need: Option<SetNumber>,
    /// Newest state that anything of it may be of.
    pub view: SetNumber,
}

impl SeedMark {
    /// The base holds nothing that counts: it is to be cleared before the first extent.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.over.is_none() && self.next_block == 0 && self.need.is_none()
    }
}

/// Which part of the file of changed blocks is valid, and what it covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangesMark {
    /// Where its entries begin in the file.
    pub offset: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Rises whenever they are written anew; every entry repeats it.
    pub epoch: u64,
    /// What changed after this state, or a later one, up to `merged`, is known.
    pub base: SetNumber,
}

/// A kept state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptState {
    /// Its entry in the snapshot queue; 0 while the base has not reached the state.
    pub pin: u64,
    /// The state.
    pub set: SetNumber,
}

/// A state of a line that ended for others, kept when the content was taken back: a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptBranch {
    /// Its entry in the snapshot queue.
    pub pin: u64,
    /// The state, and the line that it is on.
    pub set: SetNumber,
    /// The line.
    pub line: Generation,
    /// Last state that the line has in common with the one that is followed since.
    pub fork: SetNumber,
    /// Blocks of the volume in that state.
    pub blocks: BlockCount,
    /// When it was kept.
    pub at: Wall,
}

impl KeptBranch {
    /// What it is called: `2-9a0bc1d2-41`, the counter of its line, the beginning of the line's id,
    /// the state.
    #[must_use]
    pub fn name(&self) -> String {
        let id: String = self.line.id[..4].iter().map(|b| format!("{b:02x}")).collect();
        format!("{}-{id}-{}", self.line.counter, self.set)
    }
}

/// What the table of block hashes is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TableMark {
    /// Nothing: it is to be made.
    #[default]
    Absent,
    /// It has the hashes of the content, and follows it; their sum is not known.
    Kept,
    /// As `Kept`, and this is the sum in the state `visible`.
    Known(Sum),
}

/// The digest of the volume here, and how the stored content is looked after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DigestMark {
    /// The table.
    pub table: TableMark,
    /// The state of which the table has the hashes; at a primary, but for what the steps after it in
    /// the save volume change. Elsewhere it is `merged`, or 0 while nothing is known of it.
    pub hashed: SetNumber,
    /// The content was found to differ from the primary's in this state: reads are refused. 0: it
    /// was not. [`UNPROVEN`](Self::UNPROVEN): nobody knows what it is.
    pub differs: SetNumber,
    /// Blocks before this one were looked at in the scrub under way.
    pub scrub_next: u64,
    /// When the last complete scrub ended; 0: there was none.
    pub scrubbed: Wall,
}

impl DigestMark {
    /// Instead of a state that differs: the content is of more than one line, or of unknown states. It
    /// is shown when a digest proves it, or a comparison with the parent's.
    pub const UNPROVEN: SetNumber = SetNumber(u64::MAX);

    /// The content is not of one state that is known.
    #[must_use]
    pub fn is_unproven(&self) -> bool {
        self.differs == Self::UNPROVEN
    }
}

/// What an operator has set; it survives restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// No sets are made (primary) or shown (replica).
    pub stopped: bool,
    /// After a restart it is stopped, whatever it was before (CAP-16).
    pub transient: bool,
    /// A replica that mirrors was brought to a version, and is read (VMC-08).
    pub opened: bool,
}

impl Settings {
    fn to_bits(self) -> u8 {
        let opened = if self.opened { OPENED } else { 0 };
        u8::from(self.stopped) | u8::from(self.transient) << 1 | opened
    }

    fn from_bits(bits: u8) -> Option<Self> {
        let is = |bit: u8| bits & bit != 0;
        (bits & !(3 | OPENED) == 0).then_some(Self {
            stopped: is(1),
            transient: is(2),
            opened: is(OPENED),
        })
    }
}

/// In the byte of the settings: [`Mailbox::had_children`].
const HAD_CHILDREN: u8 = 4;
/// The same: [`Settings::opened`].
const OPENED: u8 = 8;

/// What a slot says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    /// Rises by one with every commit; the valid slot with the higher number rules.
    pub sequence: u64,
    /// The volume this mailbox belongs to.
    pub volume: VolumeId,
    /// Block size of the volume.
    pub block_size: BlockSize,
    /// What an operator has set.
    pub settings: Settings,
    /// A child has attached here once: others know of this node's sets.
    pub had_children: bool,
    /// Its size.
    pub blocks: BlockCount,
    /// Oldest live position of the save volume.
    pub log_tail: LogPos,
    /// End of the durable part.
    pub log_head: LogPos,
    /// State before the oldest step in the log.
    pub log_base: SetNumber,
    /// State that readers see (replica), or newest finished set (primary).
    pub visible: SetNumber,
    /// State the base holds in full.
    pub merged: SetNumber,
    /// Reads are refused until the visible state has reached this one again (a damaged save volume
    /// made the node give up steps it had shown).
    pub hidden_until: SetNumber,
    /// Attempts at draining a set, counted over restarts.
    pub attempt: Attempt,
    /// A seed or catch-up under way.
    pub seed: Option<SeedMark>,
    /// A staged catch-up, until all of it is in the base; never beside a seed.
    pub staged: Option<StageMark>,
    /// At a primary: newest set of which an extent may have held something when it left, while that
    /// is not finished; 0: none. Whoever has the extent waits for that set, so that it must come, be
    /// it empty.
    pub outgoing: SetNumber,
    /// The sets of changed blocks.
    pub changes: ChangesMark,
    /// The digest of the volume.
    pub digest: DigestMark,
    /// The volume's lines, oldest first; the last is the present one.
    pub history: Vec<Branch>,
    /// Consumers that hold the log's tail back.
    pub consumers: Vec<ConsumerMark>,
    /// Kept states.
    pub kept: Vec<KeptState>,
    /// States of lines that ended.
    pub aside: Vec<KeptBranch>,
}

/// Why a slot, or both, cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MailboxError {
    /// Not a slot.
    #[error("no mailbox slot (wrong magic)")]
    Magic,
    /// Written by a newer program.
    #[error("mailbox version {0} is newer than this program; start a newer rcpd")]
    Version(u16),
    /// Checksum or a field is wrong.
    #[error("mailbox slot is damaged ({0})")]
    Damaged(&'static str),
    /// A mailbox of another volume.
    #[error("mailbox of another volume ({0})")]
    Foreign(VolumeId),
    /// The state does not fit a slot.
    #[error("too many {0} for one mailbox slot")]
    TooMany(&'static str),
}

impl Mailbox {
    /// A volume that holds nothing yet.
    #[must_use]
    pub fn empty(volume: VolumeId, block_size: BlockSize, blocks: BlockCount) -> Self {
        Self {
            sequence: 0,
            volume,
            block_size,
            settings: Settings::default(),
            had_children: false,
            blocks,
            log_tail: LogPos(0),
            log_head: LogPos(0),
            log_base: SetNumber::ZERO,
            visible: SetNumber::ZERO,
            merged: SetNumber::ZERO,
            hidden_until: SetNumber::ZERO,
            attempt: Attempt(0),
            seed: None,
            staged: None,
            outgoing: SetNumber::ZERO,
            changes: ChangesMark::default(),
            // A volume of zeroes.
            digest: DigestMark { table: TableMark::Known(Sum::default()), ..DigestMark::default() },
            history: Vec::new(),
            consumers: Vec::new(),
            kept: Vec::new(),
            aside: Vec::new(),
        }
    }

    /// The generation that is being written, if the history is known.
    #[must_use]
    pub fn generation(&self) -> Option<Generation> {
        self.history.last().map(|b| b.generation)
    }

    /// Offset in the mailbox file of the slot that a commit with this sequence number writes.
    #[must_use]
    pub fn slot_offset(sequence: u64) -> u64 {
        let slot = if rcp::planted!(SlotInPlace) { 0 } else { sequence % 2 };
        slot * SLOT_LEN as u64
    }

    /// The bytes of one slot: as many as needed, at most [`SLOT_LEN`].
    ///
    /// # Errors
    /// [`MailboxError::TooMany`] when a list does not fit.
    pub fn encode(&self) -> Result<Bytes, MailboxError> {
        let mut b = BytesMut::with_capacity(1024);
        b.put_bytes(0, HEAD);
        b.put_slice(&self.volume.0);
        b.put_u8(self.block_size.shift());
        b.put_u8(self.settings.to_bits() | if self.had_children { HAD_CHILDREN } else { 0 });
        b.put_bytes(0, 2);
        b.put_u32_le(self.attempt.0);
        b.put_u64_le(self.blocks.0);
        b.put_u64_le(self.log_tail.0);
        b.put_u64_le(self.log_head.0);
        b.put_u64_le(self.log_base.0);
        b.put_u64_le(self.visible.0);
        b.put_u64_le(self.merged.0);
        b.put_u64_le(self.hidden_until.0);
        put_under_way(&mut b, self);
        b.put_u64_le(self.changes.offset);
        b.put_u64_le(self.changes.bytes);
        b.put_u64_le(self.changes.epoch);
        b.put_u64_le(self.changes.base.0);
        put_digest(&mut b, &self.digest);
        put_len(&mut b, self.history.len(), "branches of history")?;
        for h in &self.history {
            b.put_u32_le(h.generation.counter);
            b.put_slice(&h.generation.id);
            b.put_u64_le(h.forked_from.0);
            put_name(&mut b, &h.opened_by);
            b.put_u64_le(h.opened_at.0);
        }
        put_len(&mut b, self.consumers.len(), "consumers")?;
        for c in &self.consumers {
            put_name(&mut b, &c.name);
            b.put_u64_le(c.acked.0);
        }
        put_len(&mut b, self.kept.len(), "kept states")?;
        for k in &self.kept {
            b.put_u64_le(k.pin);
            b.put_u64_le(k.set.0);
        }
        put_aside(&mut b, &self.aside)?;
        b.put_u64_le(self.held().map_or(0, |h| h.blocks.0));
        if b.len() > SLOT_LEN {
            return Err(MailboxError::TooMany("entries"));
        }
        let len = u32::try_from(b.len() - HEAD).unwrap_or(u32::MAX);
        let body_crc = crc32c::crc32c(&b[HEAD..]);
        b[0..4].copy_from_slice(&MAGIC);
        b[4..6].copy_from_slice(&VERSION.to_le_bytes());
        b[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        b[16..20].copy_from_slice(&len.to_le_bytes());
        b[20..24].copy_from_slice(&body_crc.to_le_bytes());
        let crc = crc32c::crc32c(&b[..28]);
        b[28..32].copy_from_slice(&crc.to_le_bytes());
        Ok(b.freeze())
    }

    /// Reads one slot.
    ///
    /// # Errors
    /// [`MailboxError`] says what is wrong with it.
    pub fn decode(slot: &[u8]) -> Result<Self, MailboxError> {
        let mut h = slot.get(..HEAD).ok_or(MailboxError::Damaged("length"))?;
        if h[0..4] != MAGIC {
            return Err(MailboxError::Magic);
        }
        if crc32c::crc32c(&slot[..28]).to_le_bytes() != slot[28..32] {
            return Err(MailboxError::Damaged("header checksum"));
        }
        h.advance(4);
        let version = h.get_u16_le();
        if !(FIRST_VERSION..=VERSION).contains(&version) {
            return Err(MailboxError::Version(version));
        }
        if h.get_u16_le() != 0 || slot[24..28] != [0; 4] {
            return Err(MailboxError::Damaged("reserved field"));
        }
        let sequence = h.get_u64_le();
        let len = h.get_u32_le() as usize;
        let crc = h.get_u32_le();
        let body = slot.get(HEAD..HEAD + len).ok_or(MailboxError::Damaged("body length"))?;
        if crc32c::crc32c(body) != crc {
            return Err(MailboxError::Damaged("body checksum"));
        }
        Self::decode_body(version, sequence, body).ok_or(MailboxError::Damaged("body"))?
    }

    fn decode_body(
        version: u16,
        sequence: u64,
        mut b: &[u8],
    ) -> Option<Result<Self, MailboxError>> {
        let mut id = [0u8; 16];
        b.try_copy_to_slice(&mut id).ok()?;
        let shift = b.try_get_u8().ok()?;
        let Some(block_size) = BlockSize::from_shift(shift) else {
            return Some(Err(MailboxError::Damaged("block size")));
        };
        let bits = b.try_get_u8().ok()?;
        let had_children = bits & HAD_CHILDREN != 0 && version >= VIEWS_SINCE;
        let known = if had_children { HAD_CHILDREN } else { 0 };
        let settings = Settings::from_bits(bits & !known);
        let Some(settings) = settings.filter(|s| !s.opened || version >= MIRRORS_SINCE) else {
            return Some(Err(MailboxError::Damaged("settings")));
        };
        let mut reserved = [0u8; 2];
        b.try_copy_to_slice(&mut reserved).ok()?;
        let attempt = Attempt(b.try_get_u32_le().ok()?);
        let mut u64s = [0u64; 7];
        for x in &mut u64s {
            *x = b.try_get_u64_le().ok()?;
        }
        let [blocks, tail, head, base, visible, merged, hidden] = u64s;
        let (UnderWay { mut seed, staged, outgoing }, changes) =
            get_seed(version, SetNumber(merged), &mut b)?;
        let digest = get_digest(version, &mut b)?;
        let mut history = Vec::new();
        for _ in 0..b.try_get_u16_le().ok()? {
            let counter = b.try_get_u32_le().ok()?;
            let mut id = [0u8; 16];
            b.try_copy_to_slice(&mut id).ok()?;
            history.push(Branch {
                generation: Generation { counter, id },
                forked_from: SetNumber(b.try_get_u64_le().ok()?),
                opened_by: get_name(&mut b)?,
                opened_at: Wall(b.try_get_u64_le().ok()?),
            });
        }
        let mut consumers = Vec::new();
        for _ in 0..b.try_get_u16_le().ok()? {
            let name = get_name(&mut b)?;
            consumers.push(ConsumerMark { name, acked: LogPos(b.try_get_u64_le().ok()?) });
        }
        let kept = get_kept(&mut b)?;
        let aside = get_aside(version, &mut b)?;
        get_held(version, seed.as_mut(), &mut b)?;
        if !b.is_empty() || tail > head || reserved != [0; 2] {
            return None;
        }
        Some(Ok(Self {
            sequence,
            volume: VolumeId(id),
            block_size,
            settings,
            had_children,
            blocks: BlockCount(blocks),
            log_tail: LogPos(tail),
            log_head: LogPos(head),
            log_base: SetNumber(base),
            visible: SetNumber(visible),
            merged: SetNumber(merged),
            hidden_until: SetNumber(hidden),
            attempt,
            seed,
            staged,
            outgoing,
            changes,
            digest,
            history,
            consumers,
            kept,
            aside,
        }))
    }

    /// The ruling slot of a mailbox file: the valid one with the higher sequence number.
    ///
    /// # Errors
    /// [`MailboxError::Version`] if either slot is a newer program's: what the other says is then out
    /// of date. Else the error of the slot that came closest when neither is valid, or
    /// [`MailboxError::Foreign`].
    pub fn choose(file: &[u8], volume: VolumeId) -> Result<Self, MailboxError> {
        let slot = |i: usize| {
            let from = (i * SLOT_LEN).min(file.len());
            Self::decode(&file[from..file.len().min(from + SLOT_LEN)])
        };
        let best = match (slot(0), slot(1)) {
            (Err(e @ MailboxError::Version(_)), _) | (_, Err(e @ MailboxError::Version(_))) => {
                return Err(e);
            }
            (Ok(a), Ok(b)) => {
                if a.sequence > b.sequence {
                    a
                } else {
                    b
                }
            }
            (Ok(a), Err(_)) | (Err(_), Ok(a)) => a,
            (Err(MailboxError::Magic), Err(e)) | (Err(e), Err(_)) => return Err(e),
        };
        if best.volume == volume { Ok(best) } else { Err(MailboxError::Foreign(best.volume)) }
    }

    /// What readers see while a catch-up is applied to the content.
    #[must_use]
    pub fn held(&self) -> Option<Held> {
        self.seed.and_then(|s| s.held)
    }

    /// The kept states that it lists, but for one that is only lent to readers.
    pub fn keeps(&self) -> impl Iterator<Item = KeptState> + '_ {
        let lent = self.held().is_some_and(|h| h.lent).then_some(self.visible);
        self.kept.iter().copied().filter(move |k| k.pin == 0 || Some(k.set) != lent)
    }

    /// The durable pins that it lists.
    fn pins(&self) -> impl Iterator<Item = u64> {
        let kept = self.kept.iter().map(|k| k.pin).filter(|p| *p > 0);
        kept.chain(self.aside.iter().map(|k| k.pin))
    }

    /// Neither slot may go on saying what the other commit said of kept states, of what is staged, or
    /// of what has left.
    #[must_use]
    pub fn is_for_both_slots(&self, other: &Self) -> bool {
        self.gives_up_pins_of(other)
            || self.stages_other_than(other)
            || self.outgoing > other.outgoing
    }

    /// A catch-up begins or ends to be staged, or has come whole: what a restart makes of the records in
    /// the save volume follows from that.
    #[must_use]
    pub fn stages_other_than(&self, other: &Self) -> bool {
        let of = |m: &Self| m.staged.map(|s| (s.from, s.need));
        self.staged.is_some() && of(self) != of(other)
    }

    /// The other commit lists a durable pin that this one does not.
    #[must_use]
    pub fn gives_up_pins_of(&self, other: &Self) -> bool {
        other.pins().any(|pin| self.pins().all(|p| p != pin))
    }

    /// The slot of a mailbox file that does not rule, if it can be used.
    #[must_use]
    pub fn before(&self, file: &[u8]) -> Option<Self> {
        let slots = file.chunks(SLOT_LEN).filter_map(|s| Self::decode(s).ok());
        slots.filter(|m| m.volume == self.volume).find(|m| m.sequence < self.sequence)
    }

    /// Whether exactly one slot can be used and the other is neither that nor untouched: it was
    /// torn by a crash, or it is damaged and was perhaps the newer one.
    #[must_use]
    pub fn one_damaged(file: &[u8]) -> bool {
        let slot = |i: usize| {
            let from = (i * SLOT_LEN).min(file.len());
            &file[from..file.len().min(from + SLOT_LEN)]
        };
        // The first commit leaves one slot as it was made: zeroes.
        let fresh = |i: usize, other: &Self| other.sequence == 1 && slot(i).iter().all(|b| *b == 0);
        match (Self::decode(slot(0)), Self::decode(slot(1))) {
            (Ok(m), Err(_)) => !fresh(1, &m),
            (Err(_), Ok(m)) => !fresh(0, &m),
            _ => false,
        }
    }
}

fn get_kept(b: &mut &[u8]) -> Option<Vec<KeptState>> {
    let mut kept = Vec::new();
    for _ in 0..b.try_get_u16_le().ok()? {
        let pin = b.try_get_u64_le().ok()?;
        kept.push(KeptState { pin, set: SetNumber(b.try_get_u64_le().ok()?) });
    }
    Some(kept)
}

fn put_aside(b: &mut BytesMut, aside: &[KeptBranch]) -> Result<(), MailboxError> {
    put_len(b, aside.len(), "kept branches")?;
    for k in aside {
        b.put_u64_le(k.pin);
        b.put_u64_le(k.set.0);
        b.put_u32_le(k.line.counter);
        b.put_slice(&k.line.id);
        b.put_u64_le(k.fork.0);
        b.put_u64_le(k.blocks.0);
        b.put_u64_le(k.at.0);
    }
    Ok(())
}

fn get_aside(version: u16, b: &mut &[u8]) -> Option<Vec<KeptBranch>> {
    let count = if version < BRANCHES_SINCE { 0 } else { b.try_get_u16_le().ok()? };
    let mut aside = Vec::new();
    for _ in 0..count {
        let (pin, set) = (b.try_get_u64_le().ok()?, SetNumber(b.try_get_u64_le().ok()?));
        let mut line = Generation { counter: b.try_get_u32_le().ok()?, id: [0; 16] };
        b.try_copy_to_slice(&mut line.id).ok()?;
        let fork = SetNumber(b.try_get_u64_le().ok()?);
        let blocks = BlockCount(b.try_get_u64_le().ok()?);
        aside.push(KeptBranch { pin, set, line, fork, blocks, at: Wall(b.try_get_u64_le().ok()?) });
    }
    Some(aside)
}

fn put_digest(b: &mut BytesMut, d: &DigestMark) {
    let (kind, sum) = match d.table {
        TableMark::Absent => (0, Sum::default()),
        TableMark::Kept => (1, Sum::default()),
        TableMark::Known(s) => (2, s),
    };
    b.put_u64_le(kind);
    b.put_u128_le(sum.0);
    b.put_u64_le(d.hashed.0);
    b.put_u64_le(d.differs.0);
    b.put_u64_le(d.scrub_next);
    b.put_u64_le(d.scrubbed.0);
}

fn get_digest(version: u16, b: &mut &[u8]) -> Option<DigestMark> {
    if version < DIGESTS_SINCE {
        return Some(DigestMark::default());
    }
    let kind = b.try_get_u64_le().ok()?;
    let sum = Sum(b.try_get_u128_le().ok()?);
    let table = match kind {
        0 | 1 if sum != Sum::default() => return None,
        0 => TableMark::Absent,
        1 => TableMark::Kept,
        2 => TableMark::Known(sum),
        _ => return None,
    };
    let mut u64s = [0u64; 4];
    for x in &mut u64s {
        *x = b.try_get_u64_le().ok()?;
    }
    let [hashed, differs, scrub_next, scrubbed] = u64s;
    Some(DigestMark {
        table,
        hashed: SetNumber(hashed),
        differs: SetNumber(differs),
        scrub_next,
        scrubbed: Wall(scrubbed),
    })
}

fn put_len(b: &mut BytesMut, n: usize, what: &'static str) -> Result<(), MailboxError> {
    if n > MAX_ENTRIES {
        return Err(MailboxError::TooMany(what));
    }
    b.put_u16_le(u16::try_from(n).map_err(|_| MailboxError::TooMany(what))?);
    Ok(())
}

fn put_name(b: &mut BytesMut, n: &NodeName) {
    let s = n.as_str().as_bytes();
    b.put_u8(u8::try_from(s.len()).unwrap_or(u8::MAX));
    b.put_slice(s);
}

fn get_name(b: &mut &[u8]) -> Option<NodeName> {
    let n = usize::from(b.try_get_u8().ok()?);
    let (name, rest) = b.split_at_checked(n)?;
    *b = rest;
    NodeName::new(std::str::from_utf8(name).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Mailbox {
        let node = NodeName::new("cel1-ser1").expect("valid");
        Mailbox {
            sequence: 5,
            log_tail: LogPos(64),
            log_head: LogPos(1 << 40),
            log_base: SetNumber(3),
            visible: SetNumber(9),
            merged: SetNumber(8),
            attempt: Attempt(2),
            seed: Some(SeedMark {
                over: Some(SetNumber(2)),
                from: SetNumber(4),
                next_block: 77,
                need: Some(SetNumber(6)),
                view: SetNumber(5),
                undo: true,
                held: None,
            }),
            changes: ChangesMark { offset: 4096, bytes: 300, epoch: 3, base: SetNumber(1) },
            digest: DigestMark {
                table: TableMark::Known(Sum(0x77)),
                hashed: SetNumber(8),
                differs: SetNumber(7),
                scrub_next: 5,
                scrubbed: Wall(6),
            },
            history: vec![Branch {
                generation: Generation { counter: 1, id: [0xcd; 16] },
                forked_from: SetNumber(0),
                opened_by: node.clone(),
                opened_at: Wall(1_700_000_000_000_000),
            }],
            consumers: vec![ConsumerMark { name: node, acked: LogPos(128) }],
            kept: vec![KeptState { pin: 1, set: SetNumber(8) }],
            aside: vec![KeptBranch {
                pin: 2,
                set: SetNumber(12),
                line: Generation { counter: 1, id: [0xcd; 16] },
                fork: SetNumber(2),
                blocks: BlockCount(65535),
                at: Wall(1_700_000_000_000_001),
            }],
            ..Mailbox::empty(VolumeId([9; 16]), BlockSize::DEFAULT, BlockCount(65536))
        }
    }

    fn file(slots: [&Mailbox; 2]) -> Vec<u8> {
        let mut f = vec![0u8; SLOT_LEN * 2];
        for m in slots {
            let at = usize::try_from(Mailbox::slot_offset(m.sequence)).expect("small");
            let b = m.encode().expect("fits");
            f[at..at + b.len()].copy_from_slice(&b);
        }
        f
    }

    #[test]
    fn the_newer_valid_slot_rules() {
        let (old, new) = (sample(), Mailbox { sequence: 6, ..sample() });
        let mut f = file([&old, &new]);
        assert_eq!(Mailbox::choose(&f, new.volume), Ok(new.clone()));
        let at = usize::try_from(Mailbox::slot_offset(6)).expect("small");
        f[at + 40] ^= 1; // a torn commit leaves the one before
        assert_eq!(Mailbox::choose(&f, new.volume), Ok(old));
        assert_eq!(
            Mailbox::choose(&f, VolumeId([1; 16])),
            Err(MailboxError::Foreign(VolumeId([9; 16])))
        );
    }

    #[test]
    fn a_slot_of_a_newer_program_is_not_passed_over() {
        let (old, new) = (sample(), Mailbox { sequence: 6, ..sample() });
        let mut f = file([&old, &new]);
        let at = usize::try_from(Mailbox::slot_offset(6)).expect("small");
        f[at + 4] = 9;
        let crc = crc32c::crc32c(&f[at..at + 28]);
        f[at + 28..at + 32].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Mailbox::choose(&f, old.volume), Err(MailboxError::Version(9)));
    }

    /// The bytes of this form may never change.
    #[test]
    fn golden_vector() {
        let hex: String =
            sample().encode().expect("fits").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "5243504d",                         // magic RCPM
                "0800",                             // version
                "0000",                             // reserved
                "0500000000000000",                 // sequence
                "74010000",                         // bytes of body
                "bd125136",                         // CRC32C of the body
                "00000000",                         // reserved
                "0c742892",                         // CRC32C of the 28 bytes before
                "09090909090909090909090909090909", // volume
                "0c",                               // block size 2^12
                "00",                               // settings: none
                "0000",                             // reserved
                "02000000",                         // attempt
                "0000010000000000",                 // blocks
                "4000000000000000",                 // log tail
                "0000000000010000",                 // log head
                "0300000000000000",                 // log base
                "0900000000000000",                 // visible
                "0800000000000000",                 // merged
                "0000000000000000",                 // hidden until
                "0800000000000000",                 // catch-up that undoes: its end is known
                "0400000000000000",                 // joined at
                "4d00000000000000",                 // next block
                "0600000000000000",                 // needed set
                "0200000000000000",                 // content held
                "0500000000000000",                 // extents of states up to
                "0010000000000000",                 // changes: offset
                "2c01000000000000",                 // bytes
                "0300000000000000",                 // epoch
                "0100000000000000",                 // base
                "0200000000000000",                 // digest: known
                "77000000000000000000000000000000", // sum
                "0800000000000000",                 // hashed
                "0700000000000000",                 // differs
                "0500000000000000",                 // scrub: next block
                "0600000000000000",                 // scrub: last complete
                "0100",                             // branches
                "01000000",                         // counter
                "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd", // id
                "0000000000000000",                 // forked from
                "0963656c312d73657231",             // cel1-ser1
                "00401e18240a0600",                 // opened at
                "0100",                             // consumers
                "0963656c312d73657231",             // cel1-ser1
                "8000000000000000",                 // acknowledged
                "0100",                             // kept states
                "0100000000000000",                 // pin
                "0800000000000000",                 // state
                "0100",                             // branches of lines that ended
                "0200000000000000",                 // pin
                "0c00000000000000",                 // state
                "01000000",                         // counter of its line
                "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd", // id
                "0200000000000000",                 // fork
                "ffff000000000000",                 // blocks
                "01401e18240a0600",                 // kept at
                "0000000000000000",                 // size of what readers see meanwhile
            )
        );
    }

    /// A slot as an earlier program wrote it.
    fn earlier(hex: &str) -> Mailbox {
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex"))
            .collect();
        Mailbox::decode(&bytes).expect("a sound slot")
    }

    /// Version 1 had neither catch-ups nor lists of changes.
    #[test]
    fn version_1_is_read() {
        let hex = concat!(
            "5243504d010000000500000000000000c6000000b5ca03f9000000005b8310c1",
            "090909090909090909090909090909090c000000020000000000010000000000",
            "4000000000000000000000000001000003000000000000000900000000000000",
            "0800000000000000000000000000000002000000000000000400000000000000",
            "4d000000000000000600000000000000010001000000cdcdcdcdcdcdcdcdcdcd",
            "cdcdcdcdcdcd00000000000000000963656c312d7365723100401e18240a0600",
            "01000963656c312d736572318000000000000000010001000000000000000800",
            "000000000000",
        );
        let m = sample();
        let changes = ChangesMark { base: m.merged, ..ChangesMark::default() };
        assert_eq!(earlier(hex), Mailbox { changes, ..without_states(m) });
    }

    /// Version 2 did not say of which states extents are.
    #[test]
    fn version_2_is_read() {
        let hex = concat!(
            "5243504d020000000500000000000000ee00000079d4d4fe00000000d0bb95a0",
            "090909090909090909090909090909090c000000020000000000010000000000",
            "4000000000000000000000000001000003000000000000000900000000000000",
            "0800000000000000000000000000000004000000000000000400000000000000",
            "4d00000000000000060000000000000002000000000000000010000000000000",
            "2c01000000000000030000000000000001000000000000000100010000",
            "00cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd00000000000000000963656c312d73",
            "65723100401e18240a060001000963656c312d73657231800000000000000001",
            "0001000000000000000800000000000000",
        );
        assert_eq!(earlier(hex), without_states(sample()));
    }

    /// A seed or catch-up is begun anew, as a seed; there is no digest.
    fn without_states(m: Mailbox) -> Mailbox {
        let anew = |s: SeedMark| SeedMark {
            over: None,
            next_block: 0,
            need: None,
            view: SetNumber::ZERO,
            undo: false,
            ..s
        };
        Mailbox { seed: m.seed.map(anew), digest: DigestMark::default(), aside: Vec::new(), ..m }
    }

    /// Version 3 had no digest.
    #[test]
    fn version_3_is_read() {
        let hex = concat!(
            "5243504d030000000500000000000000f6000000cc1d410a000000006aa5cd5d",
            "090909090909090909090909090909090c000000020000000000010000000000",
            "4000000000000000000000000001000003000000000000000900000000000000",
            "0800000000000000000000000000000004000000000000000400000000000000",
            "4d00000000000000060000000000000002000000000000000500000000000000",
            "00100000000000002c0100000000000003000000000000000100000000000000",
            "010001000000cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd00000000000000000963",
            "656c312d7365723100401e18240a060001000963656c312d7365723180000000",
            "00000000010001000000000000000800000000000000",
        );
        let m = without_branches(sample());
        assert_eq!(earlier(hex), Mailbox { digest: DigestMark::default(), ..m });
    }

    /// Version 4 knew of no undoing, and of no branches.
    #[test]
    fn version_4_is_read() {
        let hex = concat!(
            "5243504d0400000005000000000000002e0100008f132154000000008f2ac945",
            "090909090909090909090909090909090c000000020000000000010000000000",
            "4000000000000000000000000001000003000000000000000900000000000000",
            "0800000000000000000000000000000004000000000000000400000000000000",
            "4d00000000000000060000000000000002000000000000000500000000000000",
            "00100000000000002c0100000000000003000000000000000100000000000000",
            "0200000000000000770000000000000000000000000000000800000000000000",
            "070000000000000005000000000000000600000000000000010001000000cdcd",
            "cdcdcdcdcdcdcdcdcdcdcdcdcdcd00000000000000000963656c312d73657231",
            "00401e18240a060001000963656c312d73657231800000000000000001000100",
            "0000000000000800000000000000",
        );
        assert_eq!(earlier(hex), without_branches(sample()));
    }

    /// Version 5 knew of no mirrors.
    #[test]
    fn version_5_is_read() {
        let hex = concat!(
            "5243504d0500000005000000000000006c010000cbc524fa00000000075074d9",
            "090909090909090909090909090909090c000000020000000000010000000000",
            "4000000000000000000000000001000003000000000000000900000000000000",
            "0800000000000000000000000000000008000000000000000400000000000000",
            "4d00000000000000060000000000000002000000000000000500000000000000",
            "00100000000000002c0100000000000003000000000000000100000000000000",
            "0200000000000000770000000000000000000000000000000800000000000000",
            "070000000000000005000000000000000600000000000000010001000000cdcd",
            "cdcdcdcdcdcdcdcdcdcdcdcdcdcd00000000000000000963656c312d73657231",
            "00401e18240a060001000963656c312d73657231800000000000000001000100",
            "0000000000000800000000000000010002000000000000000c00000000000000",
            "01000000cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd0200000000000000ffff0000",
            "0000000001401e18240a0600",
        );
        assert_eq!(earlier(hex), sample());
    }

    /// Version 6 knew of no catch-ups that are staged.
    #[test]
    fn version_6_is_read() {
        let hex = concat!(
            "5243504d0600000005000000000000006c010000cbc524fa0000000064614812",
            "090909090909090909090909090909090c000000020000000000010000000000",
            "4000000000000000000000000001000003000000000000000900000000000000",
            "0800000000000000000000000000000008000000000000000400000000000000",
            "4d00000000000000060000000000000002000000000000000500000000000000",
            "00100000000000002c0100000000000003000000000000000100000000000000",
            "0200000000000000770000000000000000000000000000000800000000000000",
            "070000000000000005000000000000000600000000000000010001000000cdcd",
            "cdcdcdcdcdcdcdcdcdcdcdcdcdcd00000000000000000963656c312d73657231",
            "00401e18240a060001000963656c312d73657231800000000000000001000100",
            "0000000000000800000000000000010002000000000000000c00000000000000",
            "01000000cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd0200000000000000ffff0000",
            "0000000001401e18240a0600",
        );
        assert_eq!(earlier(hex), sample());
    }

    fn without_branches(m: Mailbox) -> Mailbox {
        let seed = m.seed.map(|s| SeedMark { undo: false, ..s });
        Mailbox { seed, aside: Vec::new(), ..m }
    }

    #[test]
    fn a_mirror_that_was_brought_to_a_version_is_of_version_6() {
        let settings = Settings { opened: true, transient: true, stopped: false };
        let m = Mailbox { settings, had_children: true, ..sample() };
        let mut slot = m.encode().expect("fits").to_vec();
        assert_eq!((slot[49], Mailbox::decode(&slot)), (2 + 4 + 8, Ok(m)));
        slot[4] = 5;
        let crc = crc32c::crc32c(&slot[..28]);
        slot[28..32].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Mailbox::decode(&slot), Err(MailboxError::Damaged("settings")));
    }

    #[test]
    fn a_state_that_is_shown_during_a_catch_up_is_of_version_8() {
        for (lent, kind) in [(false, 20), (true, 52)] {
            let held = Some(Held { blocks: BlockCount(65534), lent });
            let seed = sample().seed.map(|s| SeedMark { undo: false, held, ..s });
            let kept = vec![KeptState { pin: 1, set: SetNumber(9) }];
            let m = Mailbox { seed, kept, ..sample() };
            let mut slot = m.encode().expect("fits").to_vec();
            assert_eq!((slot[112], Mailbox::decode(&slot).as_ref()), (kind, Ok(&m)));
            assert_eq!(m.keeps().count(), usize::from(!lent));
            slot[4] = 7;
            let crc = crc32c::crc32c(&slot[..28]);
            slot[28..32].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(Mailbox::decode(&slot), Err(MailboxError::Damaged("body")));
        }
        let held = Some(Held { blocks: BlockCount(1), lent: false });
        // Under a seed, or while content is taken back, there is none.
        for (over, undo) in [(None, false), (Some(SetNumber(2)), true)] {
            let seed = sample().seed.map(|s| SeedMark { over, undo, held, ..s });
            let slot = Mailbox { seed, ..sample() }.encode().expect("fits");
            assert_eq!(Mailbox::decode(&slot), Err(MailboxError::Damaged("body")));
        }
    }

    #[test]
    fn a_catch_up_that_is_staged_is_of_version_7() {
        let mark = StageMark {
            over: SetNumber(2),
            from: SetNumber(4),
            next_block: 77,
            need: None,
            view: SetNumber(5),
        };
        for (need, kind) in [(None, 9), (Some(SetNumber(6)), 10)] {
            let staged = Some(StageMark { need, ..mark });
            let m = Mailbox { seed: None, staged, ..sample() };
            let mut slot = m.encode().expect("fits").to_vec();
            assert_eq!((slot[112], Mailbox::decode(&slot)), (kind, Ok(m.clone())));
            assert!(m.stages_other_than(&sample()) && !m.stages_other_than(&m));
            slot[4] = 6;
            let crc = crc32c::crc32c(&slot[..28]);
            slot[28..32].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(Mailbox::decode(&slot), Err(MailboxError::Damaged("body")));
        }
    }

    #[test]
    fn what_has_left_is_of_version_7() {
        let m = Mailbox { seed: None, outgoing: SetNumber(9), ..sample() };
        let mut slot = m.encode().expect("fits").to_vec();
        assert_eq!((slot[112], Mailbox::decode(&slot)), (11, Ok(m.clone())));
        let before = Mailbox { outgoing: SetNumber(8), ..m.clone() };
        assert!(m.is_for_both_slots(&before) && !before.is_for_both_slots(&m));
        slot[4] = 6;
        let crc = crc32c::crc32c(&slot[..28]);
        slot[28..32].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Mailbox::decode(&slot), Err(MailboxError::Damaged("body")));
    }

    #[test]
    fn every_bit_of_a_slot_counts_and_zeroes_are_no_slot() {
        let m = sample();
        let good = m.encode().expect("fits");
        assert_eq!(Mailbox::decode(&good), Ok(m));
        for bit in 0..good.len() * 8 {
            let mut b = good.to_vec();
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(Mailbox::decode(&b).is_err(), "bit {bit}");
        }
        for cut in 0..good.len() {
            assert!(Mailbox::decode(&good[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(
            Mailbox::choose(&vec![0; SLOT_LEN * 2], VolumeId([9; 16])),
            Err(MailboxError::Magic)
        );
    }
}
