//! The data mover's daemon.

use clap::Parser;

fn main() {
    std::process::exit(node::daemon::main(&node::daemon::Args::parse()));
}
