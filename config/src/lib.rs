//! The topology: YAML text in, a checked [`Topology`] or a list of [`Diagnostics`] out.
//!
//! Pure: no file is read and no name resolved here; the caller brings the text. A topology goes
//! from text to a tree with positions (`yaml`), to fields (`raw`), to a checked plan (`compile`,
//! [`plan`]), and two plans to a [`diff`]. [`spec`] is the way back to text, and the way to write
//! a topology in a program. [`added`] is what commands say beside a file. `docs/topology.md` describes every field.

pub mod added;
pub mod address;
pub mod allow;
mod compile;
pub mod diagnostics;
pub mod diff;
pub mod graph;
pub mod limits;
pub mod plan;
mod raw;
pub mod route_command;
pub mod spec;
mod suggest;
pub mod units;
mod value;
mod yaml;

pub use added::{Added, AddedGroup};
pub use address::{Host, HostPort};
pub use allow::Allow;
pub use diagnostics::{Diagnostic, Diagnostics};
pub use diff::{Change, NodeDiff, RouteDiff};
pub use plan::{
    Confirm, Door, GroupPlan, Keep, NodePlan, OnFull, Override, Playback, Policy, Role, RouteTable,
    Topology, UnknownName, Views, VolumePlan,
};
pub use route_command::{RouteAction, RouteCommand, RouteCommandError};
pub use spec::TopologySpec;
pub use value::ValueError;
