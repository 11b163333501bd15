//! What is wrong with a route, in words that name everything and say what to do.

use std::fmt::Display;

use rcp::proto::ids::{GroupName, NodeName};

/// Why a route cannot be added, deleted, shown or used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The group is not in the topology, or has no routes here (FWD-03).
    #[error(
        "`{node}` knows no group `{group}`{}; `rcproute display` lists the groups with routes, the \
         topology file declares new ones",
        did_you_mean(.near.as_ref())
    )]
    UnknownGroup {
        /// Where.
        node: NodeName,
        /// Which group.
        group: GroupName,
        /// A known name that is much like it.
        near: Option<GroupName>,
    },
    /// The next hop is not in the topology.
    #[error(
        "`{next_hop}` is not a node of group `{group}` as far as `{node}` knows{}; declare it in \
         the topology file and run `rcpctl topology apply FILE`",
        did_you_mean(.near.as_ref())
    )]
    UnknownNode {
        /// Where.
        node: NodeName,
        /// In which group.
        group: GroupName,
        /// Who is not known.
        next_hop: NodeName,
        /// A known name that is much like it.
        near: Option<NodeName>,
    },
    /// A node cannot forward to itself.
    #[error("`{node}` cannot be its own next hop in group `{group}`; name another node")]
    Itself {
        /// Where.
        node: NodeName,
        /// In which group.
        group: GroupName,
    },
    /// The route is there.
    #[error(
        "`{next_hop}` is already a next hop of `{node}` in group `{group}`; nothing needs to be done"
    )]
    Already {
        /// Where.
        node: NodeName,
        /// In which group.
        group: GroupName,
        /// Who.
        next_hop: NodeName,
    },
    /// The tree would become a ring (ROUTE-02).
    #[error(
        "`{next_hop}` as next hop of `{node}` in group `{group}` would close a ring: {}; choose a \
         node that is not above `{node}`, or delete one of these routes first",
        arrows(.cycle)
    )]
    Loop {
        /// Where.
        node: NodeName,
        /// In which group.
        group: GroupName,
        /// Who was to be added.
        next_hop: NodeName,
        /// The ring, beginning and ending with `node`.
        cycle: Vec<NodeName>,
    },
    /// Another node feeds it.
    #[error(
        "`{child}` is already fed by `{parent}` in group `{group}`, and `{node}` would become a \
         second feeder of it; first run `rcproute delete group={group} nexthop={child}` at \
         `{parent}`"
    )]
    SecondParent {
        /// Who would become the second feeder.
        node: NodeName,
        /// In which group.
        group: GroupName,
        /// Who would be fed twice.
        child: NodeName,
        /// Who feeds it now.
        parent: NodeName,
    },
    /// The node forwards to as many as it may.
    #[error(
        "`{node}` has {limit} next hops in group `{group}`, which is the limit; add `{next_hop}` \
         below one of them instead"
    )]
    Degree {
        /// Where.
        node: NodeName,
        /// In which group.
        group: GroupName,
        /// Who was to be added.
        next_hop: NodeName,
        /// The limit.
        limit: usize,
    },
    /// There is no such route to delete, or its subtree to learn of.
    #[error(
        "`{next_hop}` is not a next hop of `{node}`{}{}; it has {}",
        in_group(.group.as_ref()),
        did_you_mean(.near.as_ref()),
        names(.have)
    )]
    NoSuchHop {
        /// Where.
        node: NodeName,
        /// In which group; `None` for all of them.
        group: Option<GroupName>,
        /// Who is not there.
        next_hop: NodeName,
        /// A next hop that is much like it.
        near: Option<NodeName>,
        /// The first few next hops that are there.
        have: Vec<NodeName>,
    },
    /// More is below than the table may hold.
    #[error(
        "what `{child}` reports of the tree below it in group `{group}` is over the limit of \
         `{node}`, {limit} names; split the group"
    )]
    TooManyBelow {
        /// Where.
        node: NodeName,
        /// In which group.
        group: GroupName,
        /// Whose report it was.
        child: NodeName,
        /// The limit.
        limit: usize,
    },
    /// The table has as many groups as it may.
    #[error("the table of `{node}` has {limit} groups, which is the limit; `{group}` is one more")]
    TooManyGroups {
        /// Where.
        node: NodeName,
        /// The one too many.
        group: GroupName,
        /// The limit.
        limit: usize,
    },
}

impl RouteError {
    /// A short name for logs and metrics labels.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::UnknownGroup { .. } => "unknown-group",
            Self::UnknownNode { .. } => "unknown-node",
            Self::Itself { .. } => "itself",
            Self::Already { .. } => "already",
            Self::Loop { .. } => "loop",
            Self::SecondParent { .. } => "second-parent",
            Self::Degree { .. } => "degree",
            Self::NoSuchHop { .. } => "no-such-hop",
            Self::TooManyBelow { .. } => "too-many-below",
            Self::TooManyGroups { .. } => "too-many-groups",
        }
    }
}

fn did_you_mean<T: Display>(near: Option<&T>) -> String {
    near.map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default()
}

fn in_group(group: Option<&GroupName>) -> String {
    group.map_or_else(|| " in any group".to_owned(), |g| format!(" in group `{g}`"))
}

pub(super) fn arrows(nodes: &[NodeName]) -> String {
    nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(" -> ")
}

pub(super) fn names(nodes: &[NodeName]) -> String {
    if nodes.is_empty() {
        "none".to_owned()
    } else {
        nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
    }
}
