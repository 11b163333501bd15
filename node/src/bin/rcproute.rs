//! The routing table of a node.

fn main() -> std::process::ExitCode {
    node::cli::rcproute::main()
}
