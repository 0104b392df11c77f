//! The `elaoms` program.

// musl's own allocator has one lock for all threads: with it half as many calls
// a second are learned.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    elaoms::cli::run()
}
