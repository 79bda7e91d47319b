//! What the listeners of a node count.

use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(any(feature = "tls", feature = "quic"))]
use ltq_transport::{HandshakeFailures, ServerTrust};
use parking_lot::Mutex;

/// What the listeners of a node count, and what their transports do.
#[derive(Debug, Default)]
pub(crate) struct ListenFigures {
    pub(super) reopened: AtomicU64,
    pub(super) by_scheme: Mutex<Vec<(String, u64)>>,
    #[cfg(feature = "tls")]
    pub(super) tls: ltq_transport::Tls,
    #[cfg(feature = "quic")]
    pub(super) quic: ltq_transport::Quic,
    #[cfg(any(feature = "tls", feature = "quic"))]
    pub(super) trust: Option<ServerTrust>,
}

impl ListenFigures {
    /// How often a listener was opened again.
    pub(crate) fn reopened(&self) -> u64 {
        self.reopened.load(Ordering::Relaxed)
    }

    /// Connections that came in, by scheme; one that is listened on and had none is there too.
    pub(crate) fn by_scheme(&self) -> Vec<(String, u64)> {
        self.by_scheme.lock().clone()
    }

    /// Handshakes that failed: scheme, reason, how many.
    #[cfg(any(feature = "tls", feature = "quic"))]
    pub(crate) fn handshakes_failed(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut all = Vec::new();
        #[cfg(feature = "tls")]
        all.extend(of("tls", self.tls.handshake_failures()));
        #[cfg(feature = "quic")]
        {
            let failures = self.quic.handshake_failures();
            all.extend(of("quic", failures));
            all.push(("quic", "retried", failures.retried));
            all.push(("quic", "ignored", failures.ignored));
        }
        all
    }

    /// Bytes of windows over QUIC.
    #[cfg(feature = "quic")]
    pub(crate) fn quic_window_bytes(&self) -> u64 {
        self.quic.window_bytes()
    }

    /// Connections over QUIC whose windows are smaller than set up.
    #[cfg(feature = "quic")]
    pub(crate) fn quic_windows_narrowed(&self) -> u64 {
        self.quic.windows_narrowed()
    }

    /// Certificates that had changed: taken up, and not usable.
    #[cfg(any(feature = "tls", feature = "quic"))]
    pub(crate) fn certificate_reloads(&self) -> (u64, u64) {
        let reloads = self.trust.as_ref().map(ServerTrust::reloads).unwrap_or_default();
        (reloads.done, reloads.failed)
    }

    /// The second since 1970 until which the certificate in use is good.
    #[cfg(any(feature = "tls", feature = "quic"))]
    pub(crate) fn certificate_expires(&self) -> Option<u64> {
        self.trust.as_ref()?.expires()
    }

    pub(super) fn count(&self, scheme: &str, more: u64) {
        let mut by_scheme = self.by_scheme.lock();
        match by_scheme.iter_mut().find(|(known, _)| known == scheme) {
            Some((_, count)) => *count += more,
            None => by_scheme.push((scheme.to_owned(), more)),
        }
    }

    pub(super) fn count_reopened(&self) {
        self.reopened.fetch_add(1, Ordering::Relaxed);
    }
}

/// Those that there are for every scheme.
#[cfg(any(feature = "tls", feature = "quic"))]
fn of(scheme: &'static str, failures: HandshakeFailures) -> [(&'static str, &'static str, u64); 5] {
    let HandshakeFailures { refused, lost, timed_out, crowded_out, too_fast, .. } = failures;
    [
        (scheme, "refused", refused),
        (scheme, "lost", lost),
        (scheme, "timed_out", timed_out),
        (scheme, "crowded_out", crowded_out),
        (scheme, "too_fast", too_fast),
    ]
}
