//! How far a tool is, on standard error; nothing where that is no terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of bytes.
pub(super) fn bytes(total: u64, doing: &'static str) -> ProgressBar {
    bar(total, doing, "{msg} {wide_bar} {bytes} of {total_bytes}, {eta}")
}

/// A bar of messages.
pub(super) fn messages(total: u64, doing: &'static str) -> ProgressBar {
    bar(total, doing, "{msg} {wide_bar} {human_pos} of {human_len}, {eta}")
}

fn bar(total: u64, doing: &'static str, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_message(doing)
}
