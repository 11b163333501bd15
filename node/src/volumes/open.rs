//! Making and opening a volume's files, and the machine over them (CAP-15: before anybody is let in).

use std::path::Path;
use std::sync::Arc;

use rcp::proto::clock::{Mono, Wall};
use rcp::proto::delta::Compression;
use rcp::proto::ids::{NodeName, StateId};
use volmcast::activity::{ActivityLog, ExtentSize, Geometry, SharedLog};
use volmcast::capture::{Capture, CaptureLimits};
use volmcast::digest::table_head;
use volmcast::io::{FileId, Outcome};
use volmcast::mailbox::{Mailbox, SLOT_LEN, Settings};
use volmcast::save::ring::MIN_CAPACITY;
use volmcast::save::{Budget, Ring};
use volmcast::snapshots::layout::AreaLayout;
use volmcast::snapshots::{PinId, SnapshotStore};
use volmcast::storage::{Files, Identity, Sizes, Standing, Storage, StorageError};
use volmcast::units::{BlockCount, BlockIndex};
use volmcast::volume::{
    CutPolicy, FullPolicy, PlaybackPolicy, RecoverError, Role, ScrubPolicy, Volume, VolumeConfig,
};

use super::owner;
use super::primary::PrimaryVolume;
use super::replica::ReplicaVolume;
use crate::limits;

/// How a volume is to be run.
#[derive(Clone, Debug)]
pub struct OpenPlan {
    /// This node.
    pub node: NodeName,
    /// Replication of a new primary goes on by itself after a restart (CAP-16).
    pub persistent: bool,
    /// When sets are made, at a primary.
    pub cut: CutPolicy,
    /// When steps are played, at a replica.
    pub playback: PlaybackPolicy,
    /// Whether payloads are compressed.
    pub compression: Compression,
    /// The content is already there and must become the first state (import).
    pub import: bool,
    /// What all volumes of the node may keep of what they read back from their save volumes.
    pub budget: Arc<Budget>,
    /// How gently stored content is looked through, at a replica.
    pub scrub: ScrubPolicy,
    /// What happens when receivers take nothing and room runs out.
    pub full: FullPolicy,
}

/// Sizes that a node takes from its limits, and a simulation makes small.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Payload bytes of one chunk.
    pub chunk_bytes: u64,
    /// Most bytes a receiver grants ahead of what is durable.
    pub window: u64,
    /// Bytes of recent chunks kept in memory.
    pub cache: u64,
    /// Bytes of chunks kept in memory that were read back from the save volume.
    pub readback: u64,
    /// Bytes of copies that writers keep for a draining set.
    pub held: u64,
    /// Extents of the activity log.
    pub extent: ExtentSize,
    /// Bytes of the list of changed blocks.
    pub changes: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            chunk_bytes: limits::CHUNK_BYTES,
            window: limits::WINDOW_BYTES,
            cache: limits::CACHE_BYTES,
            readback: limits::READBACK_BYTES,
            held: limits::HELD_BYTES,
            extent: ExtentSize::DEFAULT,
            changes: limits::CHANGES_BYTES,
        }
    }
}

/// What an operator should know of an opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it was found in.
    pub file: FileId,
    /// In words.
    pub text: String,
    /// Nothing is lost by it, and nobody has to do anything.
    pub heals: bool,
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// The machine of a volume, and what it found.
#[derive(Debug)]
pub struct Machine {
    /// The machine.
    pub volume: Volume,
    /// The primary's activity log.
    pub activity: Option<Arc<SharedLog>>,
    /// Arithmetic of the save area.
    pub ring: Ring,
    /// What an operator should know of the opening.
    pub notes: Vec<Note>,
}

/// An open volume.
#[derive(Debug)]
pub struct Opened {
    /// Who it is.
    pub identity: Identity,
    /// The machine.
    pub volume: Volume,
    /// Its files.
    pub files: Arc<Files>,
    /// The writable side.
    pub primary: Option<Arc<PrimaryVolume>>,
    /// The readable side.
    pub states: Option<Arc<ReplicaVolume>>,
    /// What an operator should know of the opening.
    pub notes: Vec<Note>,
}

/// Why a volume cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenFailure {
    /// Its files.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What is in them.
    #[error("volume {label}: {source}")]
    Recover {
        /// Which volume.
        label: String,
        /// Why.
        source: RecoverError,
    },
    /// Its snapshot or activity area.
    #[error("volume {label}: {text}")]
    Area {
        /// Which volume.
        label: String,
        /// What and why.
        text: String,
    },
}

/// Makes the files of a new volume in `folder` and opens it.
///
/// # Errors
/// [`OpenFailure`].
pub fn create(
    folder: &Path,
    identity: &Identity,
    plan: &OpenPlan,
    now: Mono,
    wall: Wall,
) -> Result<Opened, OpenFailure> {
    if folder.join("identity").exists() {
        let text = format!("{} holds a volume already; it is left as it is", folder.display());
        return Err(OpenFailure::Area { label: identity.label.to_string(), text });
    }
    if let Some(base) = &identity.base {
        let nobodys = owner::check(base, identity.volume, &identity.node);
        let label = identity.label.to_string();
        nobodys.map_err(|text| OpenFailure::Area { label, text })?;
    }
    // What a crash leaves is told from a volume that has lost its name.
    Identity::begin(folder)?;
    let files = Files::create(folder, identity, sizes(identity))?;
    claim(folder, identity)?;
    format(identity, plan, &Tuning::default(), &files)?;
    drop(files);
    // With its name the folder becomes a volume.
    identity.store(folder)?;
    Identity::finished(folder)?;
    open(folder, plan, now, wall)
}

/// Content outside the folder, which is locked, is this volume's alone.
fn claim(folder: &Path, identity: &Identity) -> Result<(), OpenFailure> {
    let Some(base) = &identity.base else { return Ok(()) };
    let claimed = owner::claim(base, identity.volume, &identity.node, folder);
    claimed.map_err(|text| OpenFailure::Area { label: identity.label.to_string(), text })
}

/// Bytes of each area of a volume.
#[must_use]
pub fn sizes(identity: &Identity) -> Sizes {
    Sizes {
        base: identity.block_size.offset(BlockIndex(identity.blocks.0)),
        save: identity.save,
        snapshots: area(identity).file_len(),
    }
}

/// Writes what the files of a new volume begin with; the mailbox comes last.
///
/// # Errors
/// [`OpenFailure`].
pub fn format(
    identity: &Identity,
    plan: &OpenPlan,
    tuning: &Tuning,
    files: &dyn Storage,
) -> Result<(), OpenFailure> {
    let failed = |what: &str| OpenFailure::Area {
        label: identity.label.to_string(),
        text: format!("the {what} could not be written"),
    };
    for (offset, bytes) in area(identity).format() {
        write(files, FileId::Snapshots, offset, &bytes).map_err(|()| failed("snapshot area"))?;
    }
    sync(files, FileId::Snapshots).map_err(|()| failed("snapshot area"))?;
    if identity.role != "relay" {
        let head = table_head(identity.volume, identity.block_size.shift());
        write(files, FileId::Hashes, 0, &head)
            .and_then(|()| sync(files, FileId::Hashes))
            .map_err(|()| failed("table of hashes"))?;
    }
    if identity.role == "primary" {
        // What is there already is changed since state 0, and must be so before the folder is a
        // volume: nothing else says that no set has it.
        let changed = if plan.import { identity.blocks } else { BlockCount(0) };
        new_log(geometry(identity, tuning), changed, files)
            .ok_or_else(|| failed("activity log"))?;
    }
    let first = Mailbox {
        sequence: 1,
        settings: Settings {
            stopped: false,
            transient: identity.role == "primary" && !plan.persistent,
            opened: false,
        },
        ..Mailbox::empty(identity.volume, identity.block_size, identity.blocks)
    };
    let slot = first.encode().map_err(|_| failed("mailbox"))?;
    write(files, FileId::Mailbox, Mailbox::slot_offset(1), &slot)
        .map_err(|()| failed("mailbox"))?;
    sync(files, FileId::Mailbox).map_err(|()| failed("mailbox"))
}

/// Opens the volume of `folder`.
///
/// # Errors
/// [`OpenFailure`] names the file and the remedy.
pub fn open(folder: &Path, plan: &OpenPlan, now: Mono, wall: Wall) -> Result<Opened, OpenFailure> {
    let identity = Identity::load(folder, &plan.node)?;
    let files = Arc::new(reach(folder, &identity, false)?);
    let label = identity.label.to_string();
    let m = assemble(&identity, plan, &Tuning::default(), &*files, now, wall)?;
    let primary = m.volume.capture().zip(m.activity).map(|(capture, activity)| {
        Arc::new(PrimaryVolume::new(
            files.clone(),
            capture.clone(),
            activity,
            m.volume.config().snapshots.clone(),
            identity.block_size,
            identity.block_size.offset(BlockIndex(m.volume.blocks().0)),
            format!("primary of volume {label}"),
        ))
    });
    let states = (identity.role != "relay").then(|| {
        let board = m.volume.board().clone();
        Arc::new(ReplicaVolume::new(files.clone(), board, m.ring, identity.block_size))
    });
    Ok(Opened { identity, volume: m.volume, files, primary, states, notes: m.notes })
}

/// The files of a volume, which are as long as they have to be; if somebody is only `looking`, for
/// reading.
///
/// # Errors
/// [`OpenFailure`] names the file and the remedy.
pub(crate) fn reach(
    folder: &Path,
    identity: &Identity,
    looking: bool,
) -> Result<Files, OpenFailure> {
    let label = identity.label.to_string();
    let recover = |source| OpenFailure::Recover { label: label.clone(), source };
    // The size may have changed since; the mailbox knows.
    let slots = std::fs::read(folder.join("mailbox")).unwrap_or_default();
    let mailbox = Mailbox::choose(&slots, identity.volume)
        .map_err(|source| recover(RecoverError::Mailbox { volume: identity.volume, source }))?;
    // A relay has no content.
    let size = match identity.role.as_str() {
        "relay" => 0,
        _ => identity.block_size.offset(BlockIndex(mailbox.blocks.0)),
    };
    let files = match looking {
        true => Files::look(folder, identity, size)?,
        false => {
            let files = Files::open(folder, identity, size)?;
            claim(folder, identity)?;
            files
        }
    };
    let found = files.save_len().unwrap_or(0);
    if found < identity.save {
        let text = format!(
            "{} has {found} bytes instead of {}: it was truncated; delete the volume here and let \
             it be seeded again, or, at the primary, restore the file's size with `truncate -s {}`: \
             what is missing is then detected and given up",
            folder.join("save").display(),
            identity.save,
            identity.save
        );
        return Err(OpenFailure::Area { label, text });
    }
    if identity.save < MIN_CAPACITY {
        return Err(recover(RecoverError::TooSmall(identity.save)));
    }
    Ok(files)
}

/// Why a volume stays closed, and what can be done.
pub(crate) fn closed(identity: &Identity, why: &OpenFailure) -> String {
    let remedy = match identity.role.as_str() {
        "primary" => format!(
            "restore it from a backup, or let a replica take over (`rcpctl failover {} --plan`)",
            identity.label
        ),
        _ => format!(
            "or give up what is here, and it is seeded again: `rcpctl volume delete {} --yes` at \
             this node",
            identity.label
        ),
    };
    format!("{why}; {remedy}")
}

/// Opens the machine of a volume over its files.
///
/// # Errors
/// [`OpenFailure`].
pub fn assemble(
    identity: &Identity,
    plan: &OpenPlan,
    tuning: &Tuning,
    files: &dyn Storage,
    now: Mono,
    wall: Wall,
) -> Result<Machine, OpenFailure> {
    let label = identity.label.to_string();
    let fail = |text: String| OpenFailure::Area { label: label.clone(), text };
    let recover = |source| OpenFailure::Recover { label: label.clone(), source };
    let mut notes = Vec::new();
    for file in FileId::ALL {
        files.settle(file).map_err(|e| {
            fail(format!("`{}` cannot be synced: {e}; look at the disk below it", file.name()))
        })?;
    }
    let slots = files
        .read(FileId::Mailbox, 0, MAILBOX_LEN)
        .map_err(|e| fail(format!("the mailbox cannot be read: {e}")))?;
    let mut mailbox = Mailbox::choose(&slots, identity.volume)
        .map_err(|source| recover(RecoverError::Mailbox { volume: identity.volume, source }))?;
    seal_again(files, &mailbox).map_err(&fail)?;
    if mailbox.before(&slots).is_some_and(|m| mailbox.gives_up_pins_of(&m)) {
        // The node ended when only one slot said so. Should that be lost, the other one must not bring
        // back states of which nothing is kept from here on.
        mailbox.sequence += 1;
        seal_again(files, &mailbox).map_err(&fail)?;
    }
    let snapshots = Arc::new(open_snapshots(identity, &mailbox, files, &mut notes).map_err(&fail)?);
    let role = match identity.role.as_str() {
        "primary" => {
            let limits = CaptureLimits { held_bytes: tuning.held };
            let capture = Arc::new(Capture::new(identity.block_size, mailbox.blocks, limits));
            Role::Primary { capture, policy: plan.cut }
        }
        "relay" => Role::Relay,
        _ => Role::Replica { policy: plan.playback },
    };
    let cfg = VolumeConfig {
        volume: identity.volume,
        node: plan.node.clone(),
        block_size: identity.block_size,
        blocks: mailbox.blocks,
        save_capacity: identity.save,
        changes: tuning.changes,
        scrub: plan.scrub,
        cache: tuning.cache.min(identity.save / 4),
        readback: tuning.readback,
        budget: plan.budget.clone(),
        chunk_bytes: tuning.chunk_bytes,
        window: tuning.window,
        compression: plan.compression,
        snapshots,
        full: plan.full.clone(),
        role,
        opens: identity.standing.opens.map(|o| o.generation),
    };
    let ring = Ring::new(cfg.save_capacity)
        .ok_or_else(|| recover(RecoverError::TooSmall(cfg.save_capacity)))?;
    let mut volume =
        Volume::open(cfg, now, wall, &mut |file, offset, len| files.read(file, offset, len))
            .map_err(recover)?;
    go_on_with_role(identity, &mut volume, wall);
    // Sets that only the save volume knew of may have made it larger.
    let blocks = volume.next_blocks();
    if let Some(capture) = volume.capture().filter(|_| blocks > mailbox.blocks) {
        capture.close_gate();
        let grown = capture.grow(blocks);
        capture.open_gate();
        grown.map_err(|e| fail(format!("the capture tables cannot grow: {e}")))?;
    }
    let activity = volume
        .capture()
        .map(|capture| open_activity(identity, blocks, files, capture, tuning, &mut notes))
        .transpose()?;
    Ok(Machine { volume, activity, ring, notes })
}

/// What a change of role had left to do when the node ended.
fn go_on_with_role(identity: &Identity, volume: &mut Volume, wall: Wall) {
    let standing = &identity.standing;
    let primary = matches!(volume.config().role, Role::Primary { .. });
    if let Some(opens) = standing.opens.filter(|_| primary) {
        let open = volume.history().iter().any(|b| b.generation == opens.generation);
        if !open {
            volume.drop_unshown();
            volume.open_generation(opens.generation, wall);
        }
    }
    if standing.discards && !primary {
        let known = volume.history().to_vec();
        volume.discard("its parent gives its content up", known);
    }
}

/// Makes the writable side of a volume that is a replica at rest. It is one from the moment on when
/// its new role is stored ([`takes_over`]).
///
/// # Errors
/// [`OpenFailure`]; nothing was changed.
pub fn make_writable(
    identity: &Identity,
    files: &Arc<Files>,
    snapshots: Arc<SnapshotStore>,
    blocks: BlockCount,
) -> Result<PrimaryVolume, OpenFailure> {
    let (capture, activity) = writable(identity, &Tuning::default(), &**files, blocks)?;
    Ok(PrimaryVolume::new(
        files.clone(),
        capture,
        activity,
        snapshots,
        identity.block_size,
        identity.block_size.offset(BlockIndex(blocks.0)),
        format!("primary of volume {}", identity.label),
    ))
}

/// What is stored at the moment of a promotion (FAIL-03).
pub fn takes_over(identity: &mut Identity, opens: StateId) {
    "primary".clone_into(&mut identity.role);
    let damaged = identity.standing.damaged.take();
    identity.standing = Standing { opens: Some(opens), damaged, ..Standing::default() };
}

/// What is stored when a writer steps down, or a promotion did not come about.
pub fn steps_down(identity: &mut Identity, discards: bool) {
    "replica".clone_into(&mut identity.role);
    identity.standing = Standing { discards, ..Standing::default() };
}

/// Empty capture tables, and an activity log in which nothing was written yet.
///
/// # Errors
/// [`OpenFailure`].
pub fn writable(
    identity: &Identity,
    tuning: &Tuning,
    files: &dyn Storage,
    blocks: BlockCount,
) -> Result<(Arc<Capture>, Arc<SharedLog>), OpenFailure> {
    let limits = CaptureLimits { held_bytes: tuning.held };
    let capture = Arc::new(Capture::new(identity.block_size, blocks, limits));
    let g = Geometry { blocks, ..geometry(identity, tuning) };
    let log = new_log(g, BlockCount(0), files);
    let log = log.ok_or_else(|| OpenFailure::Area {
        label: identity.label.to_string(),
        text: "the activity log could not be written".to_owned(),
    })?;
    Ok((capture, Arc::new(SharedLog::new(log))))
}

/// A new log on disk, whose first blocks count as changed.
fn new_log(geometry: Geometry, changed: BlockCount, files: &dyn Storage) -> Option<ActivityLog> {
    let (mut log, _) = ActivityLog::create(geometry);
    if changed > BlockCount(0) {
        let _ = log.activate(BlockIndex(0), changed);
    }
    while let Some(io) = log.poll_io() {
        let outcome = files.perform(&io);
        log.complete(io.tag, &outcome);
    }
    log.failed().is_none().then_some(log)
}

/// What was read may be in the system's cache alone, after a killed process or a failed sync:
/// written again to where it stands and synced, before anything is acknowledged because of it. (The
/// other slot is untouched, so that a crash in between leaves the commit before.)
fn seal_again(files: &dyn Storage, mailbox: &Mailbox) -> Result<(), String> {
    let slot = mailbox.encode().map_err(|e| e.to_string())?;
    write(files, FileId::Mailbox, Mailbox::slot_offset(mailbox.sequence), &slot)
        .and_then(|()| sync(files, FileId::Mailbox))
        .map_err(|()| "the mailbox could not be written".to_owned())
}

fn area(identity: &Identity) -> AreaLayout {
    let bs = identity.block_size.bytes();
    let slots = (identity.snapshots / (bs + 32)).max(1);
    AreaLayout {
        volume: identity.volume,
        block: identity.block_size,
        slots: u32::try_from(slots).unwrap_or(u32::MAX),
    }
}

fn geometry(identity: &Identity, tuning: &Tuning) -> Geometry {
    Geometry {
        volume: identity.volume,
        extent: tuning.extent,
        block: identity.block_size,
        blocks: identity.blocks,
    }
}

fn open_snapshots(
    identity: &Identity,
    mailbox: &Mailbox,
    files: &dyn Storage,
    notes: &mut Vec<Note>,
) -> Result<SnapshotStore, String> {
    let kept = mailbox.kept.iter().filter(|k| k.pin > 0).map(|k| (PinId(k.pin), k.set));
    let pins: Vec<_> = kept.chain(mailbox.aside.iter().map(|k| (PinId(k.pin), k.set))).collect();
    let read = |offset, len| {
        files.read(FileId::Snapshots, offset, len).map_err(|e| format!("snapshot area: {e}"))
    };
    let supers = read(0, 8192)?;
    let layout = area(identity);
    let table_at = layout.entry_offset(volmcast::snapshots::layout::Slot(0));
    let table = if pins.is_empty() {
        // No durable pin: whatever the table says is free.
        bytes::Bytes::new()
    } else {
        read(table_at, usize::try_from(layout.table_len()).unwrap_or(0))?
    };
    if pins.is_empty() {
        // Made anew, so that a damaged area never stops a volume that keeps nothing in it.
        for (offset, bytes) in layout.format() {
            write(files, FileId::Snapshots, offset, &bytes)
                .map_err(|()| "the snapshot area could not be written".to_owned())?;
        }
        sync(files, FileId::Snapshots).map_err(|()| "the snapshot area could not be synced")?;
        return Ok(SnapshotStore::new(layout));
    }
    let r = SnapshotStore::recover(identity.volume, identity.block_size, &supers, &table, &pins)
        .map_err(|e| e.to_string())?;
    if !r.damaged.is_empty() {
        let text = format!(
            "{} entries of the snapshot area are damaged: kept states can no longer be read",
            r.damaged.len()
        );
        notes.push(Note { file: FileId::Snapshots, text, heals: false });
    }
    let mut area = super::primary::Area { files, bs: identity.block_size, capture: None };
    let damaged = r
        .store
        .settle(&r.unproved, &mut area)
        .map_err(|e| format!("the snapshot area could not be written: {e}"))?;
    for u in damaged {
        let text = format!(
            "a before image of block {} is damaged: reads of it in kept states are refused",
            u.block.0
        );
        notes.push(Note { file: FileId::Snapshots, text, heals: false });
    }
    sync(files, FileId::Snapshots).map_err(|()| "the snapshot area could not be synced")?;
    Ok(r.store)
}

fn open_activity(
    identity: &Identity,
    blocks: BlockCount,
    files: &dyn Storage,
    capture: &Capture,
    tuning: &Tuning,
    notes: &mut Vec<Note>,
) -> Result<Arc<SharedLog>, OpenFailure> {
    let g = Geometry { blocks, ..geometry(identity, tuning) };
    let fail = |text: String| OpenFailure::Area { label: identity.label.to_string(), text };
    let len = usize::try_from(g.file_len()).unwrap_or(0);
    let bytes = files
        .read(FileId::Activity, 0, len)
        .map_err(|e| fail(format!("the activity log cannot be read: {e}")))?;
    let mut r = ActivityLog::recover(g, &bytes);
    // Written and synced anew: what was read may be in the page cache alone.
    while r.log.durable() < r.ready {
        let Some(io) = r.log.poll_io() else { break };
        let outcome = files.perform(&io);
        r.log.complete(io.tag, &outcome);
    }
    if !r.damaged.is_empty() {
        let text = format!(
            "{} cells of the activity log are damaged: their extents count as changed",
            r.damaged.len()
        );
        notes.push(Note { file: FileId::Activity, text, heals: true });
    }
    // What may have been written since the newest finished set is changed until shown otherwise.
    for (first, count) in &r.active {
        capture.mark_range(*first, *count);
    }
    Ok(Arc::new(SharedLog::new(r.log)))
}

fn write(files: &dyn Storage, file: FileId, offset: u64, bytes: &bytes::Bytes) -> Result<(), ()> {
    let op = volmcast::io::Op::Write { offset, data: vec![bytes.clone()] };
    run(files, file, op)
}

fn sync(files: &dyn Storage, file: FileId) -> Result<(), ()> {
    run(files, file, volmcast::io::Op::Sync)
}

fn run(files: &dyn Storage, file: FileId, op: volmcast::io::Op) -> Result<(), ()> {
    let io = volmcast::io::Io { tag: volmcast::io::Tag(0), file, op };
    match files.perform(&io) {
        Outcome::Done => Ok(()),
        _ => Err(()),
    }
}

/// Bytes of both mailbox slots, for callers that look at a folder without opening it.
pub const MAILBOX_LEN: usize = 2 * SLOT_LEN;
