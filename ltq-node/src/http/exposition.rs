//! Figures as Prometheus text (version 0.0.4): what nodes and registries have in common.

use std::fmt::Write as _;

use crate::{bench::Usage, listening::ListenFigures};

/// A figure without labels.
pub(crate) fn figure(text: &mut String, name: &str, help: &str, value: impl std::fmt::Display) {
    head(text, name, help);
    let _ = writeln!(text, "{name} {value}");
}

/// What stands above figures of one name.
pub(crate) fn head(text: &mut String, name: &str, help: &str) {
    let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Labels, escaped.
pub(crate) fn labels(pairs: &[(&str, &str)]) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<_> =
        pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

/// How the configuration was read again.
pub(crate) fn reloads(text: &mut String, done: u64, has_failed: bool) {
    let help = "Times that tokens and identities were read again.";
    figure(text, "ltq_config_reloads_total", help, done);
    let help = "1 while the newest configuration file is not in force because it is broken.";
    figure(text, "ltq_config_reload_failed", help, u64::from(has_failed));
}

/// How often they came back.
pub(crate) fn reopened(text: &mut String, figures: &ListenFigures) {
    let help = "Times that a listener which had failed was opened again.";
    figure(text, "ltq_listener_reopened_total", help, figures.reopened());
}

/// What listeners count.
pub(crate) fn listening(text: &mut String, figures: &ListenFigures) {
    let name = "ltq_listener_connections_total";
    head(text, name, "Connections that came in, by the scheme of the address that they came to.");
    for (scheme, count) in figures.by_scheme() {
        let _ = writeln!(text, "{name}{} {count}", labels(&[("scheme", &scheme)]));
    }
    reopened(text, figures);
    #[cfg(any(feature = "tls", feature = "quic"))]
    {
        let name = "ltq_handshakes_failed_total";
        head(text, name, "Handshakes that came to nothing, by scheme and reason.");
        for (scheme, reason, count) in figures.handshakes_failed() {
            let labels = labels(&[("scheme", scheme), ("reason", reason)]);
            let _ = writeln!(text, "{name}{labels} {count}");
        }
        #[cfg(feature = "quic")]
        {
            let help = "Bytes that connections over QUIC may hold by their windows, of which there is a limit.";
            figure(text, "ltq_quic_window_bytes", help, figures.quic_window_bytes());
            let help =
                "Connections over QUIC whose windows are smaller than set up, for want of room.";
            figure(text, "ltq_quic_windows_narrowed_total", help, figures.quic_windows_narrowed());
        }
        if let Some(expires) = figures.certificate_expires() {
            let name = "ltq_certificate_expires_timestamp_seconds";
            figure(text, name, "The second since 1970 until which it is good.", expires);
        }
        let (done, failed) = figures.certificate_reloads();
        let help = "Times that changed certificates were taken up.";
        figure(text, "ltq_certificate_reloads_total", help, done);
        let help = "Times that changed certificates could not be used; those before stayed.";
        figure(text, "ltq_certificate_reloads_failed_total", help, failed);
    }
}

/// The process, under the names that all exporters use; nothing where the system does not say.
pub(crate) fn process(text: &mut String) {
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let help = "Tasks that the runtime has: some for each connection, stream, topic and listener.";
    figure(text, "ltq_tasks", help, tasks as u64);
    if let Ok(usage) = Usage::of(std::process::id()) {
        let help = "Processor time of the process, user and system.";
        figure(text, "process_cpu_seconds_total", help, usage.cpu_seconds);
        let help = "Memory of the process.";
        figure(text, "process_resident_memory_bytes", help, usage.rss_bytes);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        figure(text, "process_open_fds", "Open files and connections.", open.count());
    }
    if let Some(max) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        figure(text, "process_max_fds", "The most that may be open.", max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(labels(&[("a", "x\\y\"z\n")]), r#"{a="x\\y\"z\n"}"#);
        assert_eq!(labels(&[("a", "1"), ("b", "#")]), r##"{a="1",b="#"}"##);
    }
}
