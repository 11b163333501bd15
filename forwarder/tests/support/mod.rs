//! Short ways to names and lines for the tests of this crate.

#![allow(dead_code, reason = "each test binary uses its part")]

use forwarder::table::Line;
use rcp::proto::ids::{GroupName, NodeName};

/// A node.
pub(crate) fn n(name: &str) -> NodeName {
    NodeName::new(name).expect(name)
}

/// Several nodes, divided by blanks.
pub(crate) fn ns(names: &str) -> Vec<NodeName> {
    names.split_whitespace().map(n).collect()
}

/// A group.
pub(crate) fn g(name: &str) -> GroupName {
    GroupName::new(name).expect(name)
}

/// A line of a route report.
pub(crate) fn line(node: &str, hops: &str) -> Line {
    (n(node), ns(hops))
}
