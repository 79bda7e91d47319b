//! How many files and connections the process may have open, and who has how many of them.

use std::borrow::Cow;

use ltq_core::Farewells;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::{
    config::{Config, StoreKind},
    registry::RegistryConfig,
};

/// Lets the process have as many descriptors as the system allows it: each connection is one.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "the limit of open files could not be raised");
    }
}

/// How many the process may have; `None` without a limit.
#[must_use]
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// What asks for descriptors, and can do with fewer.
pub(crate) trait Bounded: Clone {
    fn wanted(&self) -> Wanted;
    /// Its limits, to be lowered.
    fn bounds(&mut self) -> Bounds<'_>;
}

/// The limits of what has descriptors.
pub(crate) struct Bounds<'c> {
    connections_max: &'c mut usize,
    connections_per_address_max: &'c mut usize,
    http_connections_max: &'c mut usize,
    handshakes_max: &'c mut usize,
}

/// What a configuration asks descriptors for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Connections to addresses where each takes one: all but those over QUIC.
    connections: u64,
    http: u64,
    /// Handshakes of each address of TLS, and how many such addresses there are.
    handshakes: u64,
    secure: u64,
    store: u64,
}

impl Bounded for Config {
    fn wanted(&self) -> Wanted {
        let limits = &self.limits;
        let store = match self.store {
            StoreKind::Memory => 0,
            StoreKind::File => FILE_STORE,
            StoreKind::RocksDb => ROCKSDB_STORE,
        };
        let http = self.http_address().map_or(0, |_| limits.http_connections_max);
        let peers = [limits.connections_max, http, self.tls.handshakes_max];
        Wanted { store, ..Wanted::by(&self.listen, peers) }
    }

    fn bounds(&mut self) -> Bounds<'_> {
        let limits = &mut self.limits;
        Bounds {
            connections_max: &mut limits.connections_max,
            connections_per_address_max: &mut limits.connections_per_address_max,
            http_connections_max: &mut limits.http_connections_max,
            handshakes_max: &mut self.tls.handshakes_max,
        }
    }
}

impl Bounded for RegistryConfig {
    fn wanted(&self) -> Wanted {
        let limits = &self.limits;
        let http = self.http_address().map_or(0, |_| limits.http_connections_max);
        Wanted::by(&self.listen, [limits.connections_max, http, self.tls.handshakes_max])
    }

    fn bounds(&mut self) -> Bounds<'_> {
        let limits = &mut self.limits;
        Bounds {
            connections_max: &mut limits.connections_max,
            connections_per_address_max: &mut limits.connections_per_address_max,
            http_connections_max: &mut limits.http_connections_max,
            handshakes_max: &mut self.tls.handshakes_max,
        }
    }
}

impl Wanted {
    /// What those take who come to these addresses: connections, those of HTTP, and handshakes.
    fn by(listen: &[String], [connections, http, handshakes]: [usize; 3]) -> Self {
        let count = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
        let of = |scheme: &str| count(listen.iter().filter(|it| it.starts_with(scheme)).count());
        let by_quic_alone = of("quic://") == count(listen.len());
        Self {
            connections: if by_quic_alone { 0 } else { count(connections) },
            http: count(http),
            handshakes: count(handshakes),
            secure: of("tls://"),
            store: 0,
        }
    }

    const fn sum(self) -> u64 {
        self.connections
            .saturating_add(self.http)
            .saturating_add(self.handshakes.saturating_mul(self.secure))
            .saturating_add(self.store)
            .saturating_add(NODE)
    }

    /// The same for so many in all. The store comes first, as what it lacks is missing for everybody, and
    /// HTTP and handshakes keep a part.
    fn within(self, limit: u64) -> Self {
        let store = self.store.min(limit / 4);
        let rest = limit - store - NODE.min(limit / 4);
        let http = self.http.min((rest / 8).max(1));
        let handshakes = self.handshakes.min((rest / 8 / self.secure.max(1)).max(1));
        let rest = rest.saturating_sub(http).saturating_sub(handshakes * self.secure);
        Self { store, http, handshakes, connections: self.connections.min(rest.max(1)), ..self }
    }
}

/// The configuration as it can be carried out with so many descriptors: where those that it asks for are
/// more, with fewer connections, and a warning that says how many.
#[must_use]
pub(crate) fn fitted<C: Bounded>(config: &C, limit: Option<u64>) -> Cow<'_, C> {
    let wanted = config.wanted();
    let Some(limit) = limit.filter(|limit| *limit < wanted.sum()) else {
        return Cow::Borrowed(config);
    };
    let fits = wanted.within(limit);
    let size = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let mut fitted = config.clone();
    let Bounds {
        connections_max,
        connections_per_address_max,
        http_connections_max,
        handshakes_max,
    } = fitted.bounds();
    if fits.connections < wanted.connections {
        let most = size(fits.connections);
        if *connections_per_address_max < *connections_max {
            // Nobody alone is to have them all, here neither.
            let part = (most / 4 * 3).max(1);
            *connections_per_address_max = (*connections_per_address_max).min(part);
        }
        *connections_max = most;
    }
    if wanted.http > 0 {
        *http_connections_max = size(fits.http);
    }
    if wanted.secure > 0 {
        *handshakes_max = size(fits.handshakes);
    }
    warn!(
        limit,
        needed = wanted.sum(),
        connections_max,
        connections_per_address_max,
        http_connections_max,
        handshakes_max,
        "the process may have fewer files and connections open than its settings need (ulimit -n); these limits \
         are in force instead"
    );
    Cow::Owned(fitted)
}

/// What the file store has open at most: 128 segments that are read, as many that are synced, and some
/// more. It goes on with ten.
const FILE_STORE: u64 = 288;
/// The same of RocksDB: 512 tables, and its logs.
const ROCKSDB_STORE: u64 = 544;
/// Listeners, the runtime, connections to registries, files that are looked at again, and goodbyes under way.
const NODE: u64 = 64 + Farewells::MAX as u64;

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: &[&str]) -> Config {
        let dev_tls = listen.iter().any(|it| it.starts_with("tls"));
        let listen = listen.iter().map(|it| (*it).to_owned()).collect();
        Config { listen, dev_tls, store: StoreKind::File, ..Config::default() }
    }

    #[test]
    fn a_limit_that_suffices_changes_nothing() {
        let config = config(&["tcp://127.0.0.1:0", "tls://127.0.0.1:0"]);
        let needed = 20_000 + 512 + 256 + 288 + NODE;
        assert!(matches!(fitted(&config, None), Cow::Borrowed(_)));
        assert!(matches!(fitted(&config, Some(needed)), Cow::Borrowed(_)));
        let fewer = fitted(&config, Some(needed - 1));
        assert_eq!(fewer.limits.connections_max, 19_999);
        assert_eq!(fewer.limits.connections_per_address_max, 1_000);
        assert_eq!((fewer.limits.http_connections_max, fewer.tls.handshakes_max), (512, 256));
    }

    #[test]
    fn all_that_is_in_force_fits_whatever_the_limit() {
        for listen in [
            &["tcp://127.0.0.1:0"][..],
            &["tcp://127.0.0.1:0", "tls://127.0.0.1:0", "tls://127.0.0.1:1", "quic://127.0.0.1:0"],
        ] {
            let config = config(listen);
            for limit in [64, 100, 256, 300, 1_024, 4_096, 20_000] {
                let fits = fitted(&config, Some(limit));
                let (limits, tls) = (&fits.limits, &fits.tls);
                fits.check().unwrap();
                let peers = limits.connections_max
                    + limits.http_connections_max
                    + tls.handshakes_max * config.wanted().secure as usize;
                let others = FILE_STORE.min(limit / 4) + NODE.min(limit / 4);
                assert!(peers as u64 + others <= limit, "{limit}: {limits:?}");
                assert!(limits.connections_max as u64 >= limit / 5, "{limit}: {limits:?}");
                assert!(limits.connections_per_address_max <= limits.connections_max);
            }
        }
    }

    #[test]
    fn connections_over_quic_take_no_descriptors() {
        let config = config(&["quic://127.0.0.1:0"]);
        let fits = fitted(&config, Some(600));
        assert_eq!(fits.limits.connections_max, 20_000);
        assert!(fits.limits.http_connections_max < 100);
    }

    #[test]
    fn a_registry_keeps_to_what_it_may_have() {
        let listen = vec!["tcp://127.0.0.1:0".to_owned(), "tls://127.0.0.1:0".to_owned()];
        let config = RegistryConfig { listen, ..RegistryConfig::default() };
        let needed = 20_000 + 512 + 256 + NODE;
        assert!(matches!(fitted(&config, Some(needed)), Cow::Borrowed(_)));
        for limit in [100, 300, 1_024, needed - 1] {
            let fits = fitted(&config, Some(limit));
            let (limits, tls) = (&fits.limits, &fits.tls);
            let peers = limits.connections_max + limits.http_connections_max + tls.handshakes_max;
            assert!(peers as u64 + NODE.min(limit / 4) <= limit, "{limit}: {limits:?}");
            assert!(limits.connections_max as u64 >= limit / 3, "{limit}: {limits:?}");
            assert!(limits.connections_per_address_max < limits.connections_max);
        }
        // Without HTTP it takes none of them.
        let config = RegistryConfig { http: "off".to_owned(), ..config };
        assert!(matches!(fitted(&config, Some(needed - 512)), Cow::Borrowed(_)));
    }
}
