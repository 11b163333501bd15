//! Between the mover and its volumes: results of what they asked for go in, what they have to say
//! comes out.

use rcp::proto::clock::{Mono, Wall};
use rcp::proto::ids::VolumeId;
use volmcast::capture::Notice;
use volmcast::io::{Outcome, Tag};
use volmcast::volume::{Event, WorkDone};

use super::{Effect, Level, Mover};

impl Mover {
    /// A request on a volume's file completed.
    pub fn io_done(&mut self, now: Mono, wall: Wall, volume: VolumeId, tag: Tag, outcome: Outcome) {
        self.time(now, wall);
        if let Some(h) = self.held(volume) {
            h.volume.io_done(now, tag, outcome);
        }
        self.settle(volume);
    }

    /// A computation for a volume finished.
    pub fn work_done(&mut self, now: Mono, wall: Wall, volume: VolumeId, tag: Tag, done: WorkDone) {
        self.time(now, wall);
        if let Some(h) = self.held(volume) {
            h.volume.work_done(now, tag, done);
        }
        self.settle(volume);
    }

    /// A primary's capture tables noticed something.
    pub fn notice(&mut self, now: Mono, wall: Wall, volume: VolumeId, notice: Notice) {
        self.time(now, wall);
        if let Some(h) = self.held(volume) {
            h.volume.notice(now, wall, notice);
        }
        self.settle(volume);
    }

    /// After [`Effect::SetFinished`]: the activity log has been looked through.
    pub fn forgotten(&mut self, now: Mono, wall: Wall, volume: VolumeId) {
        self.time(now, wall);
        if let Some(h) = self.held(volume) {
            h.volume.extents_forgotten();
        }
        self.settle(volume);
    }

    /// Carries on what a volume has to say: its requests, computations and events, and the streams
    /// that wait for it.
    pub(super) fn settle(&mut self, id: VolumeId) {
        loop {
            let Some(h) = self.volumes.get_mut(&id) else { return };
            h.volume.intake_runs(h.is_fed());
            while let Some(io) = h.volume.poll_io() {
                self.effects.push_back(Effect::Io { volume: id, io });
            }
            while let Some((tag, work)) = h.volume.poll_work() {
                self.effects.push_back(Effect::Work { volume: id, tag, work });
            }
            let Some(event) = h.volume.poll_event() else { return };
            self.volume_event(id, event);
        }
    }

    /// Something has changed of what readers see.
    fn tell_readers(&mut self, id: VolumeId, level: Level, text: &str) {
        let label = self.label_of(id);
        self.note(level, format!("volume {label}: {text}"));
        self.effect(Effect::Exports { volume: id });
    }

    fn volume_event(&mut self, id: VolumeId, event: Event) {
        use Event as E;
        match event {
            E::Saved { state, next } => self.saved_event(id, state, next),
            E::SetReady { set, .. } => {
                if let Some(h) = self.volumes.get_mut(&id) {
                    h.newest = h.newest.max(set);
                }
                self.effect(Effect::SetFinished { volume: id });
                self.notice_of_cut(id);
                self.effect(Effect::Exports { volume: id });
            }
            E::CutDone { demand, state, fresh } => self.cut_done(id, demand, state, fresh),
            E::Visible { .. } => {
                self.effect(Effect::Exports { volume: id });
                self.report_volume(id);
                self.notice_of_cut(id);
                self.tick_controls();
            }
            E::History => {
                self.offer_again(id);
                self.offer_to_children(id);
                self.effect(Effect::Exports { volume: id });
            }
            E::Resized { blocks } => self.resized(id, blocks),
            E::Settings => self.settings_stored(id),
            E::Kept => self.keeps_stored(id),
            E::Hidden { text } => self.tell_readers(id, Level::Warn, &text),
            E::NotKept { text, .. } => self.keeps_given_up(id, &text),
            E::Sendable => self.pump_children(id),
            E::SeedChunk { child, next_block, view, chunk } => {
                self.seed_chunk(id, &child, next_block, view, &chunk);
            }
            E::Planned { child, answer } => self.child_planned(id, &child, answer),
            E::SeedEnd { child, need } => self.seed_end(id, &child, need),
            E::SeedSaved { next_block } => self.seed_saved(id, next_block),
            E::Room => self.room_event(id),
            E::Detached { child, reason } => self.detached(id, &child, reason),
            E::Again { child, reason } => self.call_again(id, &child, reason),
            E::NeedsSeed { reason } => self.needs_seed(id, &reason),
            E::UndoKnown => self.attach(id),
            E::Damage { text } => {
                let label = self.label_of(id);
                self.note(Level::Error, format!("volume {label}: {text}"));
                self.effect(Effect::Exports { volume: id });
                self.reattach(id, "the save volume was damaged");
            }
            E::Scrubbed(done) => self.scrubbed(id, done),
            E::Compare { question } => self.compare(id, question),
            E::Sums { child, state, question, sums, text } => {
                self.tell_sums(id, &child, state, question, (sums, text));
            }
            E::Differs { text } | E::Suspect { text } => self.tell_readers(id, Level::Error, &text),
            E::Doubts { text } => self.doubts(id, &text),
            E::Staged { text } => self.reattach(id, &text),
            E::Lacks { text } => self.compared(id, &text),
            E::Healed { text } => self.tell_readers(id, Level::Info, &text),
            E::Failed { text } => {
                let label = self.label_of(id);
                self.note(Level::Error, format!("volume {label} has stopped: {text}"));
                self.effect(Effect::Exports { volume: id });
                self.growth_failed(id, &text);
                self.settings_failed(id, &text);
                self.keeps_failed(id, &text);
                self.scrubs_failed(id, &text);
                self.cuts_failed(id, &text);
                self.change_failed(id, &text);
            }
        }
    }
}
