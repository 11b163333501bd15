//! What operators are told, and what flows up the tree.

use std::collections::BTreeMap;
use std::time::Duration;

use forwarder::aggregate::Position;
use rcp::proto::clock::Mono;
use rcp::proto::frame::{Frame, StreamId};
use rcp::proto::ids::{GroupName, NodeName, SetNumber, VolumeId};
use rcp::proto::session::abilities;
use rcp::proto::transport::Hop;
use volmcast::digest::Sum;
use volmcast::volume::{Role, SetRow};

use super::history::is_primary;
use super::links::Group;
use super::receiving::InStage;
use super::sending::Stage;
use super::{ConnId, Held, Level, Mover, history};
use crate::api::{
    ChildProgress, GroupStatus, LinkStatus, NodeStatus, SecurityStatus, SetInfo, StateDigest,
    SubtreeStatus, VolumeInfo,
};

/// `tls`, `tls via http://proxy:80/rcp`.
fn way_in_words(hop: &Hop) -> String {
    let via = hop.via.as_ref().map(|v| format!(" via {v}")).unwrap_or_default();
    format!("{}{via}", hop.transport.unwrap_or_default())
}

/// How fast a save volume fills, from two looks at it.
#[derive(Debug, Default)]
pub(super) struct Fill {
    at: Mono,
    used: u64,
    /// Bytes per second, smoothed; negative while it empties.
    rate: f64,
    /// Bytes sent to children since the start, and at the last look.
    pub(super) sent: u64,
    sent_before: u64,
    since: Mono,
    /// Bytes per second sent, smoothed.
    sending: f64,
}

impl Fill {
    fn look(&mut self, now: Mono, used: u64) {
        let dt = now.since(self.at).as_secs_f64();
        if dt < 0.25 {
            return;
        }
        #[allow(clippy::cast_precision_loss)]
        let rate = (used as f64 - self.used as f64) / dt;
        self.rate = if self.at == Mono(0) { 0.0 } else { self.rate * 0.7 + rate * 0.3 };
        #[allow(clippy::cast_precision_loss)]
        let sending = (self.sent - self.sent_before) as f64 / dt;
        self.sending = if self.at == Mono(0) { 0.0 } else { self.sending * 0.5 + sending * 0.5 };
        self.sent_before = self.sent;
        if self.at == Mono(0) {
            self.since = now;
        }
        self.at = now;
        self.used = used;
    }

    /// Blocks per second sent, now and on average.
    #[allow(clippy::cast_precision_loss)]
    fn blocks_per_second(&self, block: u64) -> (f64, f64) {
        let whole = self.at.since(self.since).as_secs_f64().max(1.0);
        let now = self.sending / block as f64;
        // It halves for ever.
        let now = if now < 0.01 { 0.0 } else { now };
        (now, self.sent as f64 / whole / block as f64)
    }

    #[allow(clippy::cast_precision_loss)]
    fn full_in(&self, free: u64) -> Option<f64> {
        (self.rate > 1024.0).then(|| free as f64 / self.rate)
    }
}

impl Mover {
    /// Sends reports up and heartbeats down.
    pub(super) fn report(&mut self) {
        self.look_at_delays();
        let ids: Vec<_> = self.volumes.keys().copied().collect();
        for id in &ids {
            let now = self.now;
            if let Some(h) = self.volumes.get_mut(id) {
                h.volume.look();
                let used = h.volume.save_used();
                h.fill.look(now, used);
            }
            self.judge_age(*id);
            self.settle(*id);
            self.tell_stall(*id);
            self.report_volume(*id);
        }
        self.heartbeats();
        self.look_for_writers();
    }

    /// What stands still by itself at a replica is said once in the log, and that all goes on.
    fn tell_stall(&mut self, id: VolumeId) {
        let Some(h) = self.volumes.get_mut(&id) else { return };
        if matches!(h.volume.config().role, Role::Primary { .. }) {
            return;
        }
        let label = h.label.clone();
        let now: BTreeMap<&'static str, String> =
            h.volume.stalls().map(|(part, why)| (part, why.to_owned())).collect();
        let was = std::mem::replace(&mut h.stalls, now.keys().copied().collect());
        for why in now.iter().filter(|(part, _)| !was.contains(*part)).map(|(_, why)| why) {
            self.note(Level::Warn, format!("volume {label}: {why}"));
        }
        if now.is_empty() && !was.is_empty() {
            self.note(Level::Info, format!("volume {label} goes on"));
        }
    }

    /// Sends the report of one volume to the parent.
    pub(super) fn report_volume(&mut self, id: VolumeId) {
        let Some(h) = self.volumes.get(&id) else { return };
        let Some((conn, stream)) = h.inbound.as_ref().map(|i| (i.conn, i.stream)) else { return };
        let own = matches!(h.volume.config().role, Role::Replica { .. }).then(|| {
            let s = h.volume.status();
            let lag = self.lag(h, &s).unwrap_or(0.0);
            Position {
                visible: s.visible,
                saved: s.saved,
                lag: Duration::try_from_secs_f64(lag).unwrap_or_default(),
                text: s.reason.or_else(|| self.delayed(h).map(|d| d.text)).unwrap_or_default(),
            }
        });
        let now = self.now;
        let Some(h) = self.volumes.get_mut(&id) else { return };
        h.below.set_own(own);
        let report = h.below.report(stream, now);
        h.below.set_own(None);
        if let Some(r) = report {
            self.send(conn, Frame::Report(r));
        }
    }

    /// The whole node.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            moved: Vec::new(),
            arriving: Vec::new(),
            node: self.cfg.node.to_string(),
            at_us: self.wall.0,
            started_us: self.started.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            listen: String::new(),
            nbd: Vec::new(),
            security: SecurityStatus {
                strangers: self.strangers.iter().cloned().collect(),
                ..SecurityStatus::default()
            },
            groups: self.groups.iter().map(|(n, g)| self.group_status(n.as_str(), g)).collect(),
            volumes: self
                .volumes
                .iter()
                .map(|(id, h)| self.volume_info(*id, h))
                .chain(self.closed.iter().map(|(id, c)| VolumeInfo {
                    label: c.label.to_string(),
                    id: id.to_string(),
                    group: c.group.to_string(),
                    role: c.role.clone(),
                    state: "failed".to_owned(),
                    reason: Some(c.why.clone()),
                    ..VolumeInfo::default()
                }))
                .collect(),
        }
    }

    /// What the session on a connection speaks.
    fn version_of(&self, conn: Option<ConnId>) -> String {
        let found = conn.and_then(|id| self.conns.get(&id)).filter(|c| c.peer.is_some());
        found.map(|c| abilities(c.version).name.to_owned()).unwrap_or_default()
    }

    fn group_status(&self, name: &str, g: &Group) -> GroupStatus {
        // Whoever took over is the primary, whatever the topology says.
        let has_volumes = self.volumes.values().any(|h| h.group.as_str() == name);
        let writes = || self.groups.keys().any(|n| n.as_str() == name && self.writes_in(n));
        let primary = if has_volumes { writes() } else { g.plan.primary };
        let replica = g.plan.replica || g.plan.primary;
        let role = match (primary, g.links.is_empty(), replica) {
            (true, ..) => "primary",
            (false, true, _) => "leaf",
            (false, false, true) => "forwarder",
            (false, false, false) => "relay",
        };
        let parent = g.feeder.as_ref().map(|f| LinkStatus {
            node: f.node.to_string(),
            addr: self.cfg.addresses.get(&f.node).cloned().unwrap_or_default(),
            state: if f.conn.is_some() { "connected" } else { "waiting" }.to_owned(),
            reason: g.up.reason.clone().filter(|_| f.conn.is_none()).or(f.reason.clone()),
            since_us: f.since.0,
            bytes: f.bytes,
            sessions: f.sessions,
            version: self.version_of(f.conn),
            connections: self.connections_in_words(f.conn),
            ..LinkStatus::default()
        });
        let parent = parent.or_else(|| {
            let (node, hop) = g.plan.dial_up.as_ref()?;
            Some(LinkStatus {
                node: node.to_string(),
                addr: self.cfg.addresses.get(node).cloned().unwrap_or_default(),
                state: "waiting".to_owned(),
                reason: g.up.reason.clone(),
                transport: way_in_words(hop),
                ..LinkStatus::default()
            })
        });
        // Nobody has to feed a node that is the writer of all there is.
        let mut here = self.volumes.values().filter(|h| h.group.as_str() == name);
        let fed = !has_volumes || here.any(|h| !is_primary(h) || h.writer.is_fenced());
        let parent = parent.filter(|p| fed || p.state == "connected");
        let children = g
            .links
            .iter()
            .map(|(n, l)| LinkStatus {
                node: n.to_string(),
                addr: self.cfg.addresses.get(n).cloned().unwrap_or_default(),
                state: match (l.up, l.conn, l.refused) {
                    (true, ..) => "connected",
                    (false, Some(_), _) => "connecting",
                    (false, None, true) => "refused",
                    (false, None, false) => "waiting",
                }
                .to_owned(),
                reason: l.reason.clone(),
                since_us: l.since.0,
                bytes: l.bytes,
                sessions: l.sessions,
                transport: way_in_words(&l.by.or(&g.plan.hop)),
                limit: l.by.limit.as_ref().and_then(|limit| limit.at(self.wall)),
                limit_in_words: l.by.limit.as_ref().and_then(|limit| limit.in_words(self.wall)),
                version: self.version_of(l.conn.filter(|_| l.up)),
                connections: self.connections_in_words(l.conn.filter(|_| l.up)),
                bypass: g.bypass.words(n, self.now),
                in_place_of: l.in_place_of.as_ref().map(ToString::to_string),
            })
            .collect();
        GroupStatus {
            group: name.to_owned(),
            role: role.to_owned(),
            parent,
            children,
            route_revision: self.table.revision(),
            routes: self
                .routes(Some(name))
                .map(|t| t.entries.into_iter().map(|e| (e.node, e.next_hops)).collect())
                .unwrap_or_default(),
            drift: self.drift(name, g),
            added: None,
        }
    }

    /// How the stored routes differ from the topology file.
    fn drift(&self, name: &str, g: &Group) -> Vec<String> {
        let all: std::collections::BTreeMap<_, _> =
            self.groups.iter().map(|(n, g)| (n.clone(), g.plan.planned.clone())).collect();
        let of_group = format!("group `{name}`:");
        let mut out = self.table.drift(&all);
        out.retain(|text| text.starts_with(&of_group));
        let Some((group, hops)) = all.iter().find(|(n, _)| n.as_str() == name) else { return out };
        let have = self.table.next_hops(group).unwrap_or_default();
        for hop in hops.iter().filter(|h| have.contains(h)) {
            let stored = self.table.hop(group, hop).or(&g.plan.hop);
            let file = g.plan.planned_ways.get(hop).cloned().unwrap_or_default();
            let file = file.or(&g.plan.hop);
            if stored != file {
                out.push(format!(
                    "{of_group} the topology file has `{hop}` by {file}, the table of `{}` by \
                     {stored}; delete and add the route to change it",
                    self.cfg.node
                ));
            }
        }
        match self.after_failover(group, g) {
            Some(told) if !out.is_empty() => vec![told],
            _ => out,
        }
    }

    /// Another node than the topology's primary is the writer: the file is behind, not the table.
    fn after_failover(&self, group: &GroupName, g: &Group) -> Option<String> {
        let planned = g.plan.writer.as_ref()?;
        let opened = |h: &Held| Some(h.volume.history().last()?.opened_by.clone());
        let mut writers = self.volumes.values().filter(|h| h.group == *group).filter_map(opened);
        let writer = writers.find(|w| w != planned)?;
        let lines = self.table.display(Some(group)).unwrap_or_default();
        let routes: Vec<String> = lines
            .iter()
            .flat_map(|g| &g.lines)
            .filter(|(_, hops)| !hops.is_empty())
            .map(|(node, hops)| {
                let hops: Vec<&str> = hops.iter().map(NodeName::as_str).collect();
                format!("{node}: [{}]", hops.join(", "))
            })
            .collect();
        let routes = routes.join(", ");
        let part = if writer == self.cfg.node { "" } else { " (from this node down)" };
        Some(format!(
            "group `{group}`: {writer} took over from {planned}: write `primary: {writer}` and \
             `routes: {{{routes}}}`{part} into the topology file, then `rcpctl topology apply FILE`; \
             the routes of the nodes are as they should be"
        ))
    }

    fn volume_info(&self, id: VolumeId, h: &Held) -> VolumeInfo {
        let s = h.volume.status();
        let m = h.volume.durable();
        let newest = h.newest.max(s.visible);
        let state_id = h.volume.state_id(s.visible).map(|s| s.to_string()).unwrap_or_default();
        let reason = s.reason.clone().or_else(|| self.stream_reason(h));
        let lag_seconds = self.lag(h, &s);
        let children = self.children(id, h);
        let subtree = h.below.report(StreamId(0), self.now).map(|r| SubtreeStatus {
            nodes: r.nodes,
            played: (r.played_min.0, r.played_max.0),
            saved_min: r.saved_min.0,
            by_state: r.by_state.iter().map(|(s, n)| (s.0, *n)).collect(),
            worst: r
                .worst
                .iter()
                .map(|l| {
                    let lag = std::time::Duration::from_micros(l.lag_us).as_secs_f64();
                    (l.node.to_string(), l.state.0, lag, l.text.clone())
                })
                .collect(),
        });
        let mut info = VolumeInfo {
            label: h.label.to_string(),
            source: if h.source == h.label { String::new() } else { h.source.to_string() },
            id: id.to_string(),
            group: h.group.to_string(),
            role: s.role.to_owned(),
            state: s.state,
            reason,
            mirror: s.mirror,
            stalled: h.volume.stalled(),
            delayed: self.delayed(h),
            replicating: h.volume.is_replicating(),
            persistent: !m.settings.transient,
            size: m.block_size.offset(volmcast::units::BlockIndex(m.blocks.0)),
            block_size: m.block_size.bytes(),
            generation: m.generation().map(|g| g.to_string()).unwrap_or_default(),
            state_id,
            current_set: s.visible.0,
            saved_set: s.saved.0,
            merged_set: s.merged.0,
            newest_known_set: newest.0,
            current_cut_us: s.visible_cut_time.map(|t| t.0),
            lag_seconds,
            lag_bytes: h.volume.lag_bytes(),
            outstanding_sets: newest.0.saturating_sub(s.visible.0),
            save_used: s.save_used,
            save_capacity: s.save_capacity,
            save_position: s.save_position,
            save_full_in_seconds: h
                .fill
                .full_in(s.save_capacity - s.save_used.min(s.save_capacity)),
            dirty_bytes: s.dirty_bytes,
            transfer_rate: h.fill.blocks_per_second(m.block_size.bytes()),
            seed_sent: h.volume.extents_sent().0,
            catch_up_sent: h.volume.extents_sent().1,
            coalesced: h.volume.coalesced().steps,
            coalesced_saved: h.volume.coalesced().saved,
            longest_pause_us: u64::try_from(s.longest_pause.as_micros()).unwrap_or(u64::MAX),
            kept: m.keeps().map(|k| k.set.0).collect(),
            children,
            subtree,
            sets: s.sets.iter().map(set_info).collect(),
            ..VolumeInfo::default()
        };
        history::describe(h, &mut info);
        self.describe_full(h, &mut info);
        self.roles.describe(id, &mut info);
        proof(h, &mut info);
        if let (Some(damage), Some(why)) = (&mut info.damage, self.incurable(h)) {
            damage.push_str(&format!("; {why}"));
        }
        info
    }

    /// Why the stream from the parent does not advance, if so.
    fn stream_reason(&self, h: &Held) -> Option<String> {
        if matches!(h.volume.config().role, Role::Primary { .. }) {
            return None;
        }
        match &h.inbound {
            None => {
                let g = self.groups.get(&h.group)?;
                Some(match &g.feeder {
                    Some(f) if f.conn.is_some() => format!(
                        "the parent {} is connected and does not offer this volume: it was deleted \
                         there, or is not there yet",
                        f.node
                    ),
                    Some(f) => format!(
                        "the parent {} is not connected{}",
                        f.node,
                        f.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default()
                    ),
                    None => "no parent has connected since the node was started".to_owned(),
                })
            }
            Some(i) => match i.stage {
                InStage::Running => self.silence(h, i.conn),
                InStage::Attaching => Some("waiting for the parent's answer".to_owned()),
                // It is ahead of its parent, and lacks nothing that it knows of.
                InStage::Waiting if h.volume.saved_position().0 >= h.newest => None,
                InStage::Waiting | InStage::Retry(_) | InStage::Stopped => i.reason.clone(),
            },
        }
    }

    fn children(&self, id: VolumeId, h: &Held) -> Vec<ChildProgress> {
        let Some(g) = self.groups.get(&h.group) else { return Vec::new() };
        let blocks = h.volume.durable().blocks.0.max(1);
        g.links
            .iter()
            .map(|(n, l)| {
                let of_conn = |conn: &ConnId| self.conns.get(conn).map(|c| c.streams_out.iter());
                let found = l.conn.as_ref().and_then(of_conn);
                let found = found.and_then(|mut all| all.find(|(_, o)| o.volume == id));
                let out = found.map(|(_, o)| o);
                let (state, mut reason) = match out {
                    None => ("offline", l.reason.clone()),
                    Some(o) => (
                        match o.stage {
                            Stage::Offered | Stage::Planning => "resuming",
                            Stage::Streaming => "streaming",
                            Stage::Waiting => "waiting",
                            Stage::Seeding => "seeding",
                            Stage::CatchingUp => "catching up",
                            Stage::Stopped => "stopped",
                        },
                        o.reason.clone(),
                    ),
                };
                // Why it is behind, if nothing worse is.
                let held =
                    l.conn.and_then(|c| self.conns.get(&c)).is_some_and(|c| !c.held.is_empty());
                if out.is_some_and(|o| o.stage != Stage::Stopped)
                    && l.waits
                    && (held || h.volume.consumer_behind(n).is_some_and(|b| b > 0))
                    && let Some(limit) = l.by.limit.as_ref().and_then(|l| l.in_words(self.wall))
                {
                    reason = Some(match reason {
                        Some(why) => format!("{why}; {limit}"),
                        None => limit,
                    });
                }
                let mut state = state.to_owned();
                if let Some(why) = h.detached.get(n) {
                    "detached".clone_into(&mut state);
                    reason = Some(why.clone());
                }
                #[allow(clippy::cast_precision_loss)]
                let seed_percent = h
                    .volume
                    .seed_out_progress(n)
                    .map(|p| (p.done, p.of.max(1)))
                    .or_else(|| h.relaying.progress(n).map(|b| (b, blocks)))
                    .map(|(done, of)| done as f64 * 100.0 / of as f64);
                ChildProgress {
                    node: n.to_string(),
                    state,
                    reason,
                    saved_set: out.map_or(0, |o| o.saved.0),
                    behind_bytes: h.volume.consumer_behind(n).unwrap_or(0),
                    seed_percent,
                    delayed: l
                        .conn
                        .zip(found)
                        .and_then(|(conn, (stream, _))| self.child_delayed(h, n, conn, *stream)),
                }
            })
            .collect()
    }

    /// Nodes this one feeds or is fed by, for the runtime's metrics.
    pub fn neighbours(&self) -> impl Iterator<Item = &NodeName> {
        self.groups.values().flat_map(|g| g.links.keys())
    }
}

/// A row of the delta-set table.
fn set_info(r: &SetRow) -> SetInfo {
    SetInfo {
        set: r.set.0,
        created_us: r.cut_time.0,
        made_in: r.made_in.map(|d| d.as_secs_f64()),
        blocks: r.blocks,
        played_us: r.played.map(|p| p.at.0),
        group: r.played.map(|p| p.sets),
        played_in: r.played.and_then(|p| p.took).map(|t| t.as_secs_f64()),
        played_blocks: r.played.map(|p| p.blocks),
    }
}

/// What is known of the content: its digests, and how it is looked after.
fn proof(h: &Held, info: &mut VolumeInfo) {
    let digest = |(set, sum): (SetNumber, Sum)| StateDigest { set: set.0, digest: sum.to_string() };
    let scrub = h.volume.scrub_progress();
    info.digests = h.volume.digests().map(digest).collect();
    info.digest_missing = h.volume.digest_words();
    info.differs = h.volume.differs().map(|s| s.0);
    info.damaged_blocks = h.volume.damaged_blocks();
    info.damage = h.volume.damage().or_else(|| h.volume.doubts_words());
    info.took_damage = h.writer.damaged.clone().filter(|_| is_primary(h));
    info.scrub_percent = scrub.map(|(percent, _)| percent);
    info.scrubbed_us = scrub.map(|(_, at)| at.0).filter(|at| *at > 0);
    let policy = h.volume.scrub_policy();
    let replica = matches!(h.volume.config().role, Role::Replica { .. });
    info.scrub_rate = replica.then_some(policy.rate);
    info.scrub_every_s = replica.then_some(policy.every.as_secs());
    info.scrub_asked = h.volume.scrub_words();
}
