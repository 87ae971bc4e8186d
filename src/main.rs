//! The `trunkline` binary: parse, run, exit code.

fn main() -> std::process::ExitCode {
    trunkline::cli::main()
}
