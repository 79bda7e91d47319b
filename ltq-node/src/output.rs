//! The one place that writes to standard output and standard error.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what the commands say is said here; everywhere else printing is a mistake"
)]

use std::{
    fmt::Display,
    io::{self, Write},
};

/// Writes a line to standard output and flushes it.
///
/// # Errors
/// Those of writing, [`io::ErrorKind::BrokenPipe`] among them when nobody reads any more.
pub fn line(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Tells people something on standard error. That nobody reads it is no error.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
