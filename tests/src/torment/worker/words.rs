use std::{
    io::{self, Write as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Says a word to whoever started this program.
pub(in crate::torment) fn say(word: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{word}")?;
    output.flush()
}

/// Says what time it is here, in milliseconds since 1970.
pub(in crate::torment) fn say_time() -> io::Result<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    say(&format!("time {}", since.as_millis()))
}
