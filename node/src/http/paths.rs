//! Every path, once: the router, the list in a 404 and the commands all read it here.

use crate::access::{Need, Scope};

/// Prometheus text.
pub const METRICS: &str = "/metrics";
/// The process answers.
pub const HEALTHZ: &str = "/healthz";
/// Recovery is done and listeners are up.
pub const READYZ: &str = "/readyz";
/// Writers find it here.
pub const WRITES: &str = "/writer/{name}";
/// Readers find it here.
pub const SHOWS: &str = "/reader/{name}";
/// The page for browsers.
pub const DASHBOARD: &str = "/dashboard";
/// The whole node as JSON.
pub const STATUS: &str = "/api/v1/status";
/// Bytes of a volume.
pub const VOLUME: &str = "/v1/volumes/{name}";
/// A session through an HTTP proxy.
pub const RCP: &str = "/rcp/{group}";
/// The routing table.
pub const ROUTES: &str = "/api/v1/routes";
/// Cut a delta set now.
pub const CUT: &str = "/api/v1/cut";
/// Keep a state readable.
pub const KEEP: &str = "/api/v1/keep";
/// Give a kept state up.
pub const RELEASE: &str = "/api/v1/release";
/// Which blocks changed between two kept states.
pub const CHANGES: &str = "/api/v1/changes";
/// Create or import a volume.
pub const VOLUME_CREATE: &str = "/api/v1/volumes/create";
/// Change a volume's size.
pub const VOLUME_RESIZE: &str = "/api/v1/volumes/resize";
/// Change a volume's label.
pub const VOLUME_RENAME: &str = "/api/v1/volumes/rename";
/// Remove a volume.
pub const VOLUME_DELETE: &str = "/api/v1/volumes/delete";
/// One step of a volume's way to another node.
pub const VOLUME_MOVE: &str = "/api/v1/volumes/move";
/// Start or stop replication.
pub const REPLICATE: &str = "/api/v1/replicate";
/// Seed a child again.
pub const SEED: &str = "/api/v1/seed";
/// Let go of a child that takes nothing.
pub const DETACH: &str = "/api/v1/detach";
/// Change when sets are made or played.
pub const POLICY: &str = "/api/v1/policy";
/// Bring a mirror to a version, or have it mirror again.
pub const VIEWS: &str = "/api/v1/views";
/// Add a next hop.
pub const ROUTE_ADD: &str = "/api/v1/routes/add";
/// Make, change or forget a group beside the topology file.
pub const GROUP: &str = "/api/v1/groups";
/// Remove next hops.
pub const ROUTE_DELETE: &str = "/api/v1/routes/delete";
/// Change who the writer of a volume is.
pub const WRITER: &str = "/api/v1/writer";
/// Have every replica hash a volume.
pub const HASH: &str = "/api/v1/hash";
/// Have every member of a group execute a control block.
pub const BLOCK_SEND: &str = "/api/v1/blocks/send";
/// Out of service for good: end the process, and refuse to start again.
pub const RETIRE: &str = "/api/v1/retire";
/// Take a changed topology.
pub const TOPOLOGY: &str = "/api/v1/topology";
/// End the process in order.
pub const SHUTDOWN: &str = "/api/v1/shutdown";

/// A path, the method it takes (GET means HEAD too), and what is there.
pub(crate) type Entry = (&'static str, &'static str, &'static str);

/// Served everywhere.
pub(crate) const READS: &[Entry] = &[
    (METRICS, "GET", "Prometheus metrics"),
    (HEALTHZ, "GET", "200 while the process answers"),
    (READYZ, "GET", "200 when recovery is done and listeners are up"),
    (WRITES, "GET", "200 where the volume takes writes, 503 elsewhere"),
    (SHOWS, "GET", "200 where a replica of the volume can be read, 503 elsewhere"),
    (DASHBOARD, "GET", "the same as a page for browsers"),
    (STATUS, "GET", "the whole node as JSON"),
    (VOLUME, "GET", "bytes of a volume; Range, If-Match and ?state=SET are understood"),
    (RCP, "GET", "a session of a group, with `Upgrade: RCP/1.0`"),
];

/// Served to those who may change something.
pub(crate) const CONTROL: &[Entry] = &[
    (ROUTES, "GET", "the routing table; ?group=GROUP"),
    (ROUTE_ADD, "POST", "add a next hop"),
    (ROUTE_DELETE, "POST", "remove next hops"),
    (CUT, "POST", "cut a delta set now"),
    (CHANGES, "GET", "blocks that changed; ?volume=NAME&state=SET&since=SET"),
    (KEEP, "POST", "keep a state readable"),
    (RELEASE, "POST", "give a kept state up"),
    (REPLICATE, "POST", "start or stop replication of a volume"),
    (SEED, "POST", "seed a child again"),
    (DETACH, "POST", "let go of a child: what it lacks is kept for it no longer"),
    (POLICY, "POST", "change when sets are made or played"),
    (VIEWS, "POST", "bring a mirror to a version, or have it mirror again"),
    (VOLUME_CREATE, "POST", "create or import a volume"),
    (VOLUME_RESIZE, "POST", "change a volume's size"),
    (VOLUME_RENAME, "POST", "change a volume's label"),
    (VOLUME_DELETE, "POST", "remove a volume"),
    (VOLUME_MOVE, "POST", "one step of a volume's way to another node"),
    (WRITER, "POST", "change who the writer of a volume is"),
    (HASH, "POST", "have every replica hash the first bytes of a state"),
    (BLOCK_SEND, "POST", "have every member of a group execute a control block"),
    (TOPOLOGY, "POST", "take addresses and members from a changed topology"),
    (GROUP, "POST", "make, change or forget a group beside the topology file"),
    (RETIRE, "POST", "end the process, and never start again"),
    (SHUTDOWN, "POST", "end the process in order"),
];

/// What a path needs.
pub(crate) fn need(path: &str) -> Need {
    match path {
        // A session proves by itself who it is with.
        HEALTHZ | READYZ | WRITES | SHOWS | RCP => Need::Health,
        METRICS => Need::Metrics,
        // The page says nothing of the node; what it shows it asks for.
        DASHBOARD => Need::Nothing,
        STATUS | VOLUME | ROUTES | CHANGES => Need::Scope(Scope::Read),
        ROUTE_ADD | ROUTE_DELETE | CUT | KEEP | RELEASE | REPLICATE | SEED | DETACH | POLICY
        | VIEWS | HASH | BLOCK_SEND => Need::Scope(Scope::Operate),
        // What somebody adds and forgets to enter here is for administrators.
        _ => Need::Scope(Scope::Admin),
    }
}

/// Whether a request there may change something.
pub(crate) fn is_change(path: &str) -> bool {
    matches!(need(path), Need::Scope(Scope::Operate | Scope::Admin))
}

/// The list that a 404 ends with.
pub(crate) fn listing() -> String {
    let mut out = String::new();
    for (path, method, what) in READS.iter().chain(CONTROL) {
        out.push_str(&format!("  {method:4} {path:24} {what}\n"));
    }
    out
}

/// Paths of the API answer in JSON, all others in text.
pub(crate) fn is_api(path: &str) -> bool {
    path.starts_with("/api/")
}
