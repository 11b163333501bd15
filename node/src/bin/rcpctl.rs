//! The operator's command.

fn main() -> std::process::ExitCode {
    node::cli::rcpctl::main()
}
