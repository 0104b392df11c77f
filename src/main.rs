//! The `elaoms` program.

fn main() -> std::process::ExitCode {
    elaoms::cli::run()
}
