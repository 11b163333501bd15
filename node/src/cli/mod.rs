//! The operator's commands: what `rcpctl` and `rcproute` say, ask and print.
//!
//! They speak HTTP with running nodes: over the Unix socket in the data folder of one on this
//! machine, and with a token, over TLS, with one elsewhere. Nothing here opens a volume or a save
//! volume (`fsck` reads those of a stopped node). What is printed is made by pure functions from what the nodes
//! answered (`status`, `rcproute::shown`), so that tests can compare it letter by letter.
//!
//! Exit status: 0 done, 1 refused or failed (the reason is on standard error), 2 wrong usage, 130
//! interrupted; that of `fsck` says how bad it is. With `--json` there is one document on standard
//! output in any case: the answer, or `error` with a word for programs, the reason and the status.

mod block;
mod branch;
pub mod client;
mod columns;
mod commands;
mod decommission;
mod failover;
pub mod filetest;
mod fsck;
mod groups;
mod image;
mod membership;
mod mount;
mod output;
mod pki;
mod pull;
pub mod rcpctl;
pub mod rcproute;
mod spellings;
pub mod status;
pub mod target;
#[cfg(test)]
mod tests;
mod text;
mod token;
mod topology;
mod up;
mod verify;
mod volumes;
pub mod way;
mod why;

pub use client::{Client, ClientError};
pub use output::{Failed, print, print_json};
