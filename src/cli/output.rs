//! What commands print.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// Standard output. `println!` would panic when nobody reads it any more
/// (`| head`) or the disk behind it is full.
#[derive(Debug, Default)]
pub(super) struct Output {
    failed: Option<io::Error>,
}

impl Output {
    pub fn new() -> Self {
        Self::default()
    }

    /// What `writeln!` calls. After a failure nothing more is printed.
    pub fn write_fmt(&mut self, text: fmt::Arguments<'_>) {
        if self.failed.is_none() {
            self.failed = io::stdout().write_fmt(text).err();
        }
    }

    /// The status of a command that was `done` or not. Whoever stopped reading
    /// has what was wanted; a disk that is full has not.
    pub fn status(self, done: bool) -> ExitCode {
        let flushed = io::stdout().flush().err();
        match self.failed.or(flushed) {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                eprintln!(
                    "elaoms: the output cannot be written, but what it tells of was done: {error}"
                );
                ExitCode::FAILURE
            }
            _ if done => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }
}
