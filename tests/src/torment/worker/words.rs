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

/// For how many milliseconds the machine has run, which is the same for all programs whatever their clocks say.
pub(in crate::torment) fn uptime_ms() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/uptime")?;
    let seconds = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    let none = || io::Error::other(format!("/proc/uptime says {text:?}"));
    Ok((seconds.ok_or_else(none)? * 1_000.0) as u64)
}
