//! Names, help and units of every metric, and how a node's status becomes Prometheus text.
//!
//! There are two sources. What the process counts as it goes (through the `metrics` macros) lives
//! in one recorder for its whole life. What a [`NodeStatus`] says is written into a fresh recorder
//! at every scrape, so that a volume or child that is gone leaves no line behind. Labels carry
//! only names that are bounded by configuration (volumes, nodes, groups) or fixed lists; reasons
//! in words are not labels.

use std::sync::Arc;

use metrics::{Label, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use parking_lot::RwLock;

use crate::api::{GroupStatus, LinkStatus, NodeStatus, VolumeInfo};

/// Upper bounds of histogram buckets, in seconds.
const BUCKETS: [f64; 12] =
    [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0];

/// States of a volume that have a series of their own; any other is `other`.
const VOLUME_STATES: [&str; 10] = [
    "writable",
    "readable",
    "mirroring",
    "seeding",
    "catching up",
    "proving",
    "fetching again",
    "forwarding",
    "failed",
    "other",
];
/// What a copy that is behind waits for.
const DELAY_CAUSES: [&str; 8] =
    ["none", "disk", "link", "child", "readers", "playback", "parent", "other"];
/// States of a link.
const LINK_STATES: [&str; 5] = ["connected", "connecting", "waiting", "refused", "other"];
/// States of a child that takes a volume.
const CHILD_STATES: [&str; 8] =
    ["resuming", "streaming", "waiting", "seeding", "catching up", "detached", "offline", "other"];

/// A metric: its name, unit and help.
#[derive(Debug)]
struct Def(&'static str, Unit, &'static str);

macro_rules! defs {
    ($list:ident, $kind:literal: $($const:ident = $name:literal, $unit:ident, $help:literal;)*) => {
        $(const $const: Def = Def($name, Unit::$unit, $help);)*
        #[doc = concat!("Every ", $kind, " that a status gives.")]
        const $list: &[Def] = &[$($const),*];
    };
}

defs! { GAUGES, "gauge":
    NODE_INFO = "rcp_node_info", Count, "Always 1; the labels name the node and its version.";
    NODE_START = "rcp_node_start_time_seconds", Seconds, "When the process started, since 1970.";
    STATUS_TIME = "rcp_node_status_time_seconds", Seconds, "When this status was true, since 1970.";
    PLAINTEXT = "rcp_insecure_plaintext", Count, "1 if sessions without certificates are taken from anywhere.";
    CERTIFICATE_END = "rcp_certificate_end_time_seconds", Seconds, "Until when the node's own certificate is valid, since 1970; absent without one.";
    CERTIFICATE_PROBLEM = "rcp_certificate_problem", Count, "1 if certificates on disk are not the ones in use; rcpctl status says why.";
    CURRENT_SET = "rcp_current_delta_set", Count, "Newest finished set (primary) or newest visible set (replica).";
    SAVED_SET = "rcp_saved_delta_set", Count, "Newest set that is complete in the save volume.";
    MERGED_SET = "rcp_merged_delta_set", Count, "Newest set that the volume's content holds in full.";
    KNOWN_SET = "rcp_newest_known_delta_set", Count, "Newest set that the sender is known to have.";
    OUTSTANDING = "rcp_outstanding_delta_sets", Count, "Sets that are known but not visible.";
    CUT_TIME = "rcp_current_cut_time_seconds", Seconds, "When the visible state was cut at the primary, since 1970.";
    LAG_SECONDS = "rcp_lag_seconds", Seconds, "By how much the visible state is older than what the primary has; absent while unknown.";
    LAG_KNOWN = "rcp_lag_known", Count, "1 if the lag is known, 0 if the replica has not heard how far the primary is.";
    DELAY = "rcp_delay_cause", Count, "1 for what the copy here waits for while it is behind, 0 for the others; `none` where it does not wait.";
    LAG_BYTES = "rcp_lag_bytes", Bytes, "Bytes on their way: in save volumes above or here, not yet visible.";
    TRANSFER = "rcp_transfer_blocks_per_second", CountPerSecond, "Blocks sent per second, now.";
    TRANSFER_AVG = "rcp_transfer_average_blocks_per_second", CountPerSecond, "Blocks sent per second, on average.";
    SAVE_USED = "rcp_save_volume_used_bytes", Bytes, "Bytes of the save volume in use.";
    SAVE_CAPACITY = "rcp_save_volume_capacity_bytes", Bytes, "Capacity of the save volume.";
    SAVE_POSITION = "rcp_save_volume_write_position", Bytes, "Write position in the save volume.";
    SAVE_FULL_IN = "rcp_save_volume_full_in_seconds", Seconds, "Time until the save volume is full at the present rate; absent while it is not filling.";
    SUSPENDED = "rcp_source_suspended", Count, "1 while the save volume is full and who holds its room is waited for: at the primary writes wait.";
    SIZE = "rcp_volume_size_bytes", Bytes, "Size of the volume.";
    DIRTY = "rcp_volume_modified_bytes", Bytes, "Bytes modified since the last cut.";
    PAUSE = "rcp_cut_longest_pause_seconds", Seconds, "Longest pause of writers by a cut.";
    KEPT = "rcp_kept_states", Count, "States that are kept and can be read.";
    VOLUME_STATE = "rcp_volume_state", Count, "1 for the state that the volume is in, 0 for the others.";
    DAMAGED = "rcp_damaged_blocks", Count, "Blocks of the content that turned out damaged since the node was started; they are fetched again from the parent; at a writer that took over, they are to be written again.";
    SCRUBBED = "rcp_scrub_complete_time_seconds", Seconds, "When the content was last looked through in full, since 1970; absent before.";
    SCRUB_PROGRESS = "rcp_scrub_progress_ratio", Percent, "Part of the content that was looked through in this round, from 0 to 1, at a replica; absent where it is off.";
    SCRUB_RATE = "rcp_scrub_rate_bytes_per_second", Count, "Bytes per second at which a replica looks through its content; 0 if it does not.";
    DIGEST_KNOWN = "rcp_digest_known", Count, "1 if the digest of the visible state is known here, 0 while it is being found out.";
    DIFFERS = "rcp_volume_differs", Count, "1 if the content was found to differ from the primary's: reads are refused.";
    VOLUME_BLOCKED = "rcp_volume_blocked", Count, "1 if the volume cannot advance or be read; rcpctl status says why.";
    REPLICATING = "rcp_replicating", Count, "0 if replication was stopped here by command, or did not start by itself.";
    GENERATION = "rcp_generation", Count, "Number of the volume's newest writer that this node follows or is: 1, and 1 more with each takeover.";
    FENCED = "rcp_writer_fenced", Count, "1 if this writer lets nobody write: a newer one may exist, or it was handed over.";
    SPLIT = "rcp_writer_split", Count, "1 if two writers that did not know of each other were heard of.";
    MEMBER_ACKED = "rcp_member_last_acked_set", Count, "Last set that is durable at a child.";
    MEMBER_BEHIND = "rcp_member_behind_bytes", Bytes, "Bytes of the save volume that a child has still to acknowledge.";
    MEMBER_STATE = "rcp_member_state", Count, "1 for the state that a child is in with a volume, 0 for the others.";
    MEMBER_SEED = "rcp_member_seed_ratio", Percent, "Part of a seed or catch-up that was sent, from 0 to 1; absent without one.";
    SUBTREE_NODES = "rcp_subtree_replicas", Count, "Replicas in the subtree below.";
    SUBTREE_OLDEST = "rcp_subtree_oldest_visible_set", Count, "Oldest visible set of the subtree below.";
    SUBTREE_NEWEST = "rcp_subtree_newest_visible_set", Count, "Newest visible set of the subtree below.";
    SUBTREE_SAVED = "rcp_subtree_oldest_saved_set", Count, "Oldest saved set of the subtree below.";
    LINK_STATE = "rcp_link_state", Count, "1 for the state that the link to a neighbour is in, 0 for the others.";
    LINK_SINCE = "rcp_link_change_time_seconds", Seconds, "When the link was connected or lost, since 1970.";
    LINK_LIMIT = "rcp_link_limit_bytes_per_second", Count, "Bytes per second that may be sent to a child now; absent while that is not limited.";
    BYPASS = "rcp_bypass_active", Count, "1 if next hops of a child are fed from here in its place, because it is away or has not caught up.";
    ROUTE_REVISION = "rcp_route_revision", Count, "Revision of the stored routing table.";
    ROUTE_DRIFT = "rcp_route_drift", Count, "Ways in which stored routes differ from the topology file.";
}

defs! { COUNTERS, "counter":
    LINK_BYTES = "rcp_link_bytes_total", Bytes, "Bytes of chunks and set headers sent to a child or received from the parent.";
    SEED_BYTES = "rcp_seed_sent_bytes_total", Bytes, "Bytes of extents sent to children by seeds.";
    CATCH_UP_BYTES = "rcp_catch_up_sent_bytes_total", Bytes, "Bytes of extents sent to children by catch-ups: blocks that changed while they were away.";
    COALESCED = "rcp_steps_coalesced_total", Count, "Queues of sets that a child got as one step, each block once.";
    COALESCED_SAVED = "rcp_coalesced_saved_bytes_total", Bytes, "Bytes that those sets had and the steps have not.";
    SUSPENDED_FOR = "rcp_source_suspended_seconds_total", Seconds, "For how long writes have waited for receivers that hold the room of the save volume.";
    RECEIVERS_DETACHED = "rcp_receivers_detached_total", Count, "Receivers that lost their place in the save volume, by why: it was full, they were beyond a limit, an operator let go of them.";
    LINK_SESSIONS = "rcp_link_sessions_total", Count, "Sessions set up with a neighbour.";
}

defs! { PROCESS, "counter of the process":
    HTTP_REQUESTS = "rcp_http_requests_total", Count, "HTTP requests by path and status.";
    HTTP_OPENED = "rcp_http_connections_opened_total", Count, "HTTP connections begun.";
    NBD_REFUSED = "rcp_nbd_refused_total", Count, "NBD clients turned away, by reason.";
    PORT_CONNECTIONS = "rcp_port_connections_total", Count, "Connections of the shared port, by what their first bytes said.";
    HTTP_CLOSED = "rcp_http_connections_closed_total", Count, "HTTP connections ended, by how.";
}

/// The name of everything that a status gives.
pub fn names() -> impl Iterator<Item = &'static str> {
    GAUGES.iter().chain(COUNTERS).map(|d| d.0)
}

/// The name of everything else that `/metrics` shows: what the process and its NBD server count.
pub fn names_of_process() -> impl Iterator<Item = String> {
    let nbd = crate::nbd::Metrics::default();
    let nbd: Vec<String> = nbd.each().map(|(name, _)| total(NBD, name)).collect();
    PROCESS.iter().map(|d| d.0.to_owned()).chain(nbd)
}

/// Before the names of what the NBD server counts.
pub(crate) const NBD: &str = "rcp_nbd";

fn total(prefix: &str, name: &str) -> String {
    format!("{prefix}_{name}_total")
}

/// Adds what another part of the node counts, at every scrape.
type Source = Box<dyn Fn() + Send + Sync>;

/// Everything that `/metrics` shows.
pub struct Metrics {
    process: Option<PrometheusHandle>,
    sources: RwLock<Vec<Source>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics")
            .field("installed", &self.process.is_some())
            .finish_non_exhaustive()
    }
}

/// A recorder is installed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process has a metrics recorder already: Metrics::install is called once, in main")]
pub struct AlreadyInstalled;

impl Metrics {
    /// Installs the process's recorder. It has no listener and no task of its own: call
    /// [`Metrics::upkeep`] every few seconds.
    ///
    /// # Errors
    /// [`AlreadyInstalled`] the second time.
    pub fn install() -> Result<Arc<Self>, AlreadyInstalled> {
        let recorder = recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|_| AlreadyInstalled)?;
        for Def(name, unit, help) in PROCESS {
            metrics::describe_counter!(*name, *unit, *help);
        }
        Ok(Arc::new(Self { process: Some(handle), sources: RwLock::default() }))
    }

    /// Without what the process counts: for tests, and for nodes that share one process.
    #[must_use]
    pub fn detached() -> Arc<Self> {
        Arc::new(Self { process: None, sources: RwLock::default() })
    }

    /// Moves the samples of histograms into their buckets. Without it they pile up between
    /// scrapes.
    pub fn upkeep(&self) {
        if let Some(process) = &self.process {
            process.run_upkeep();
        }
    }

    /// Calls `source` at every scrape; it writes through the `metrics` macros, or with
    /// [`counters`], and what it does not write any more is gone.
    pub fn on_scrape(&self, source: impl Fn() + Send + Sync + 'static) {
        self.sources.write().push(Box::new(source));
    }

    /// The Prometheus text of this moment.
    #[must_use]
    pub fn render(&self, status: &NodeStatus) -> String {
        let fresh = recorder();
        metrics::with_local_recorder(&fresh, || {
            export(status);
            for source in self.sources.read().iter() {
                source();
            }
        });
        let mut text = fresh.handle().render();
        if let Some(process) = &self.process {
            process.run_upkeep();
            text.push_str(&process.render());
        }
        text
    }
}

fn recorder() -> PrometheusRecorder {
    // BUCKETS is not empty, which is all that can be wrong with it.
    PrometheusBuilder::new()
        .set_buckets(&BUCKETS)
        .unwrap_or_else(|_| PrometheusBuilder::new())
        .build_recorder()
}

/// A request was answered; `path` is a pattern of the router, not what the client sent.
pub(crate) fn http_request(path: &str, status: u16) {
    metrics::counter!(HTTP_REQUESTS.0, "path" => path.to_owned(), "status" => status.to_string())
        .increment(1);
}

/// A connection began.
pub(crate) fn http_opened() {
    metrics::counter!(HTTP_OPENED.0).increment(1);
}

/// An NBD client was turned away.
pub(crate) fn nbd_refused(kind: &'static str) {
    metrics::counter!(NBD_REFUSED.0, "reason" => kind).increment(1);
}

/// A connection of the shared port was classified.
pub(crate) fn port_connection(verdict: &'static str) {
    metrics::counter!(PORT_CONNECTIONS.0, "verdict" => verdict).increment(1);
}

/// A connection ended.
pub(crate) fn http_closed(end: &'static str) {
    metrics::counter!(HTTP_CLOSED.0, "end" => end).increment(1);
}

/// Writes a list of counters as `PREFIX_NAME_total`, for [`Metrics::on_scrape`].
pub fn counters(prefix: &str, help: &str, list: impl IntoIterator<Item = (&'static str, u64)>) {
    for (name, value) in list {
        let full = total(prefix, name);
        let words = name.replace('_', " ");
        metrics::describe_counter!(full.clone(), Unit::Count, format!("{help}: {words}."));
        metrics::counter!(full).absolute(value);
    }
}

/// Writes a status into the recorder in use.
pub fn export(status: &NodeStatus) {
    for Def(name, unit, help) in GAUGES {
        metrics::describe_gauge!(*name, *unit, *help);
    }
    for Def(name, unit, help) in COUNTERS {
        metrics::describe_counter!(*name, *unit, *help);
    }
    gauge(&NODE_INFO, &[("node", &status.node), ("version", &status.version)], 1.0);
    gauge(&NODE_START, &[], seconds(status.started_us));
    gauge(&STATUS_TIME, &[], seconds(status.at_us));
    let security = &status.security;
    gauge(&PLAINTEXT, &[], flag(security.plaintext));
    gauge(&CERTIFICATE_PROBLEM, &[], flag(security.problem.is_some()));
    if let Some(us) = security.certificate_until_us {
        gauge(&CERTIFICATE_END, &[], seconds(us));
    }
    for group in &status.groups {
        export_group(group);
    }
    for volume in &status.volumes {
        export_volume(volume);
    }
}

fn export_group(g: &GroupStatus) {
    gauge(&ROUTE_REVISION, &[("group", &g.group)], count(g.route_revision));
    gauge(&ROUTE_DRIFT, &[("group", &g.group)], count(g.drift.len() as u64));
    let parent = g.parent.iter().map(|link| ("parent", link));
    for (side, link) in parent.chain(g.children.iter().map(|link| ("child", link))) {
        export_link(&g.group, side, link);
    }
}

fn export_link(group: &str, side: &str, link: &LinkStatus) {
    let labels = [("group", group), ("side", side), ("peer", link.node.as_str())];
    states(&LINK_STATE, &labels, &LINK_STATES, &link.state);
    gauge(&LINK_SINCE, &labels, seconds(link.since_us));
    if side == "child" {
        gauge(&BYPASS, &labels, flag(link.bypass.is_some()));
    }
    if let Some(limit) = link.limit {
        gauge(&LINK_LIMIT, &labels, count(limit) / 8.0);
    }
    metrics::counter!(LINK_BYTES.0, owned(&labels)).absolute(link.bytes);
    metrics::counter!(LINK_SESSIONS.0, owned(&labels)).absolute(link.sessions);
}

/// What children got beside sets, and instead of them.
fn export_extents(v: &VolumeInfo, of: &[(&'static str, &str)]) {
    metrics::counter!(SEED_BYTES.0, owned(of)).absolute(v.seed_sent);
    metrics::counter!(CATCH_UP_BYTES.0, owned(of)).absolute(v.catch_up_sent);
    metrics::counter!(COALESCED.0, owned(of)).absolute(v.coalesced);
    metrics::counter!(COALESCED_SAVED.0, owned(of)).absolute(v.coalesced_saved);
}

fn export_full(v: &VolumeInfo, of: &[(&'static str, &str)]) {
    gauge(&SUSPENDED, of, flag(v.suspended.is_some()));
    metrics::counter!(SUSPENDED_FOR.0, owned(of)).absolute(v.suspended_ms / 1000);
    let d = v.detached;
    for (why, n) in [("full", d.full), ("limit", d.limits), ("operator", d.by_hand)] {
        let mut labels = owned(of);
        labels.push(Label::from_static_parts("why", why));
        metrics::counter!(RECEIVERS_DETACHED.0, labels).absolute(n);
    }
}

fn export_volume(v: &VolumeInfo) {
    let labels =
        [("volume", v.label.as_str()), ("group", v.group.as_str()), ("role", v.role.as_str())];
    let set = |def: &Def, value: f64| gauge(def, &labels, value);
    set(&CURRENT_SET, count(v.current_set));
    set(&SAVED_SET, count(v.saved_set));
    set(&MERGED_SET, count(v.merged_set));
    set(&KNOWN_SET, count(v.newest_known_set));
    set(&OUTSTANDING, count(v.outstanding_sets));
    set(&LAG_KNOWN, flag(v.lag_seconds.is_some()));
    set(&LAG_BYTES, count(v.lag_bytes));
    set(&TRANSFER, v.transfer_rate.0);
    set(&TRANSFER_AVG, v.transfer_rate.1);
    set(&SAVE_USED, count(v.save_used));
    set(&SAVE_CAPACITY, count(v.save_capacity));
    set(&SAVE_POSITION, count(v.save_position));
    set(&SIZE, count(v.size));
    set(&DIRTY, count(v.dirty_bytes));
    set(&PAUSE, seconds(v.longest_pause_us));
    export_full(v, &labels);
    export_extents(v, &labels);
    set(&KEPT, count(v.kept.len() as u64));
    let known = v.digests.first().is_some_and(|d| d.set == v.current_set);
    if v.role != "relay" {
        set(&DIGEST_KNOWN, flag(known));
        set(&DAMAGED, count(v.damaged_blocks));
        if let Some(at) = v.scrubbed_us {
            set(&SCRUBBED, seconds(at));
        }
        if let Some(percent) = v.scrub_percent {
            set(&SCRUB_PROGRESS, count(percent) / 100.0);
        }
        if let Some(rate) = v.scrub_rate {
            set(&SCRUB_RATE, count(rate));
        }
        set(&DIFFERS, flag(v.differs.is_some()));
    }
    set(&VOLUME_BLOCKED, flag(v.reason.is_some()));
    set(&REPLICATING, flag(v.replicating));
    // `COUNTER-ID`
    if let Some(n) = v.generation.split('-').next().and_then(|n| n.parse::<u32>().ok()) {
        set(&GENERATION, f64::from(n));
    }
    set(&FENCED, flag(v.fenced.is_some()));
    set(&SPLIT, flag(v.split.is_some()));
    if let Some(us) = v.current_cut_us {
        set(&CUT_TIME, seconds(us));
    }
    if let Some(lag) = v.lag_seconds {
        set(&LAG_SECONDS, lag);
    }
    if let Some(full_in) = v.save_full_in_seconds {
        set(&SAVE_FULL_IN, full_in);
    }
    // `readable, 3 sets to merge` is `readable` with details.
    let state = v.state.split(',').next().unwrap_or_default();
    states(&VOLUME_STATE, &labels, &VOLUME_STATES, state);
    let cause = v.delayed.as_ref().map_or("none", |d| d.cause.as_str());
    states(&DELAY, &labels, &DELAY_CAUSES, cause);
    if let Some(below) = &v.subtree {
        set(&SUBTREE_NODES, f64::from(below.nodes));
        set(&SUBTREE_OLDEST, count(below.played.0));
        set(&SUBTREE_NEWEST, count(below.played.1));
        set(&SUBTREE_SAVED, count(below.saved_min));
    }
    for child in &v.children {
        let labels = [
            ("volume", v.label.as_str()),
            ("group", v.group.as_str()),
            ("member", child.node.as_str()),
        ];
        gauge(&MEMBER_ACKED, &labels, count(child.saved_set));
        gauge(&MEMBER_BEHIND, &labels, count(child.behind_bytes));
        states(&MEMBER_STATE, &labels, &CHILD_STATES, &child.state);
        if let Some(percent) = child.seed_percent {
            gauge(&MEMBER_SEED, &labels, percent / 100.0);
        }
    }
}

/// One series per state of a fixed list that ends with `other`; exactly one is 1.
fn states(def: &Def, labels: &[(&'static str, &str)], list: &[&'static str], now: &str) {
    let now = list.iter().find(|s| **s == now).copied().unwrap_or("other");
    for state in list {
        let mut labels = owned(labels);
        labels.push(Label::from_static_parts("state", state));
        metrics::gauge!(def.0, labels).set(flag(*state == now));
    }
}

fn gauge(def: &Def, labels: &[(&'static str, &str)], value: f64) {
    metrics::gauge!(def.0, owned(labels)).set(value);
}

fn owned(labels: &[(&'static str, &str)]) -> Vec<Label> {
    labels.iter().map(|(key, value)| Label::new(*key, (*value).to_owned())).collect()
}

fn flag(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

/// Prometheus numbers are f64: exact to 2^53.
#[allow(clippy::cast_precision_loss)]
fn count(n: u64) -> f64 {
    n as f64
}

fn seconds(us: u64) -> f64 {
    count(us) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::fake;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn full() -> NodeStatus {
        let mut status = fake::status();
        status.groups[0].parent = Some(LinkStatus { node: "up".into(), ..LinkStatus::default() });
        status.volumes[0].children[0].seed_percent = Some(42.0);
        status.groups[0].children[0].limit = Some(20_000_000);
        status.security.certificate_until_us = Some(1);
        status.volumes[0].scrubbed_us = Some(1);
        status.volumes[0].suspended = Some(crate::api::SuspendedInfo::default());
        status.volumes[0].suspended_ms = 1500;
        status.volumes[0].detached.limits = 2;
        status.volumes[0].scrub_percent = Some(40);
        status.volumes[0].scrub_rate = Some(1 << 20);
        status
    }

    #[test]
    fn every_metric_is_written() {
        let text = Metrics::detached().render(&full());
        for Def(name, _, help) in GAUGES.iter().chain(COUNTERS) {
            assert!(text.contains(&format!("# HELP {name} {help}\n")), "{name}");
            assert!(text.lines().any(|l| l.starts_with(name) && !l.starts_with('#')), "{name}");
        }
        for line in [
            "rcp_current_delta_set{volume=\"db\",group=\"g1\",role=\"primary\"} 16",
            "rcp_member_last_acked_set{volume=\"db\",group=\"g1\",member=\"cel9-ser1\"} 11",
            "rcp_volume_state{volume=\"db\",group=\"g1\",role=\"primary\",state=\"writable\"} 1",
            "rcp_volume_state{volume=\"db\",group=\"g1\",role=\"primary\",state=\"failed\"} 0",
            "rcp_member_state{volume=\"db\",group=\"g1\",member=\"cel9-ser1\",state=\"offline\"} 1",
            "rcp_receivers_detached_total{volume=\"db\",group=\"g1\",role=\"primary\",why=\"limit\"} 2",
            "rcp_source_suspended_seconds_total{volume=\"db\",group=\"g1\",role=\"primary\"} 1",
            "rcp_source_suspended{volume=\"db\",group=\"g1\",role=\"primary\"} 1",
            "rcp_scrub_progress_ratio{volume=\"db\",group=\"g1\",role=\"primary\"} 0.4",
            "rcp_scrub_rate_bytes_per_second{volume=\"db\",group=\"g1\",role=\"primary\"} 1048576",
            "rcp_member_seed_ratio{volume=\"db\",group=\"g1\",member=\"cel2-ser2\"} 0.42",
            "rcp_link_bytes_total{group=\"g1\",side=\"child\",peer=\"cel2-ser2\"} 5242880",
            "rcp_link_limit_bytes_per_second{group=\"g1\",side=\"child\",peer=\"cel2-ser2\"} 2500000",
            "rcp_link_state{group=\"g1\",side=\"parent\",peer=\"up\",state=\"other\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn what_is_unknown_has_no_line() {
        let mut status = full();
        let v = &mut status.volumes[0];
        (v.lag_seconds, v.save_full_in_seconds, v.current_cut_us) = (None, None, None);
        let text = Metrics::detached().render(&status);
        assert!(!text.contains("rcp_lag_seconds{") && !text.contains("full_in_seconds{"));
        assert!(text.contains("rcp_lag_known{volume=\"db\",group=\"g1\",role=\"primary\"} 0"));
    }

    #[test]
    fn other_parts_are_asked_at_every_scrape() {
        let metrics = Metrics::detached();
        metrics.on_scrape(|| counters("rcp_nbd", "NBD server", [("bytes_read", 7)]));
        let text = metrics.render(&full());
        assert!(text.contains("# HELP rcp_nbd_bytes_read_total NBD server: bytes read."), "{text}");
        assert!(text.contains("\nrcp_nbd_bytes_read_total 7\n"), "{text}");
    }

    #[tokio::test]
    async fn the_process_counts_requests() {
        let metrics = Metrics::install().expect("first");
        assert_eq!(Metrics::install().map(|_| ()), Err(AlreadyInstalled));
        port_connection("http");
        nbd_refused("nbd-plain");
        crate::http::tests::one_request().await;
        // The connection is counted as closed when its task has seen the end.
        let closed = || metrics.render(&full()).contains("connections_closed_total{");
        for _ in 0..1_000 {
            if closed() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        metrics.upkeep();
        let text = metrics.render(&full());
        for Def(name, _, help) in PROCESS {
            assert!(text.contains(&format!("# HELP {name} {help}\n")), "{name} in {text}");
        }
        assert!(text.contains("requests_total{path=\"/healthz\",status=\"200\"}"), "{text}");
        promtool(&text);
    }

    fn promtool(text: &str) {
        let child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("SKIPPED: promtool is not installed");
            return;
        };
        child.stdin.take().expect("stdin").write_all(text.as_bytes()).expect("write");
        let out = child.wait_with_output().expect("promtool");
        let said = format!("{out:?}");
        assert!(out.status.success(), "{said}\n{text}");
    }
}
