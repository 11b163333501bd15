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
