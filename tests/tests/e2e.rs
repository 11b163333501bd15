//! The product from outside: real processes, real sockets, clients that are not ours.

#[path = "e2e/tree.rs"]
mod tree;
