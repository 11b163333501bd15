//! Every bound of this crate, in one place. Those of the wire are `rcp::proto::limits`.

use std::time::Duration;

use rcp::proto::limits;

/// Most next hops of a node in one group: what a route report can say.
pub const MAX_NEXT_HOPS: usize = limits::MAX_ROUTE_HOPS;
/// Most groups in a table.
pub const MAX_GROUPS: usize = 4096;
/// Most node names that a table keeps about the tree below, in one group: it bounds memory, and is
/// three times what 10,000 leaves need.
pub const MAX_NAMES_BELOW: usize = 32_768;
/// Most of them in all groups together.
pub const MAX_NAMES_BELOW_TOTAL: usize = 262_144;
/// Longest stored table; more than the other bounds allow for.
pub const MAX_TABLE_FILE: usize = 128 << 20;

/// A feeder that was not heard for this long may be replaced by another.
pub const FEEDER_SILENCE: Duration = Duration::from_secs(10);
/// A child that did not report for this long is named as silent in what goes up.
pub const REPORT_SILENCE: Duration = Duration::from_secs(30);

/// A child that does not answer for this long is bypassed: its next hops are fed from here.
pub const BYPASS_PATIENCE: Duration = Duration::from_millis(700);
/// The same for a child that was not heard of since this node was started.
pub const BYPASS_PATIENCE_AT_START: Duration = Duration::from_secs(10);
/// A child that is back has to be up for this long before anything is handed back to it; doubled
/// with each return that did not last.
pub const BYPASS_HOLD: Duration = Duration::from_secs(1);
/// The longest that becomes.
pub const BYPASS_HOLD_MAX: Duration = Duration::from_secs(60);
/// A return that lasted this long makes the next hold the shortest again.
pub const BYPASS_CALM: Duration = Duration::from_secs(300);
/// A next hop of a child that is away, and that is fed by another, is asked again after this time;
/// doubled each time.
pub const BYPASS_ASK_AGAIN: Duration = Duration::from_secs(1);
/// The longest that becomes.
pub const BYPASS_ASK_AGAIN_MAX: Duration = Duration::from_secs(60);
