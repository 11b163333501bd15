//! Sends a file to every member of a group and compares what arrived.

fn main() -> std::process::ExitCode {
    node::cli::filetest::main()
}
