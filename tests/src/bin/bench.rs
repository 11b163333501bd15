//! Measurements beside other programs: `cargo run --release -p tests --bin bench -- all`.

fn main() -> std::process::ExitCode {
    tests::bench::main()
}
