//! What can be set.

use std::{fmt, sync::Arc, time::Duration};

use ltq_core::{Address, Entropy, SystemEntropy, Transport};
use thiserror::Error;

use super::{Config, Etcd, Figures, keys::Keys, view::Bounds};

/// Sets [`Etcd`] up.
#[derive(Clone)]
pub struct EtcdBuilder {
    endpoints: Vec<String>,
    transport: Arc<dyn Transport>,
    user: Option<(String, String)>,
    prefix: String,
    suspected_after: Duration,
    forgotten_after: Duration,
    timeout: Duration,
    patience: Duration,
    retry: (Duration, Duration),
    probe: Duration,
    bounds: Bounds,
    entropy: Arc<dyn Entropy>,
}

/// Why etcd cannot be asked so.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EtcdError {
    /// No endpoint was named.
    #[error("no endpoint of etcd is named")]
    None,
    /// One is no address.
    #[error("{0:?} is no endpoint of etcd; it looks like http://HOST:PORT")]
    Endpoint(String),
    /// One is named twice.
    #[error("etcd's endpoint {0} is named twice")]
    Twice(Address),
    /// A setting is out of its bounds.
    #[error("{setting} is {value}; {allowed} is allowed")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        allowed: String,
    },
}

impl Etcd {
    /// Sets one up that is reached over this transport: TCP, or TLS that speaks `http/1.1`.
    #[must_use]
    pub fn builder(transport: impl Transport) -> EtcdBuilder {
        EtcdBuilder {
            endpoints: Vec::new(),
            transport: Arc::new(transport),
            user: None,
            prefix: "/ltq".to_owned(),
            suspected_after: Duration::from_secs(3),
            forgotten_after: Duration::from_secs(30),
            timeout: Duration::from_secs(3),
            patience: Duration::from_secs(5),
            retry: (Duration::from_millis(100), Duration::from_secs(5)),
            probe: Duration::from_secs(5),
            bounds: Bounds { nodes_max: 10_000, bytes_max: 1 << 30 },
            entropy: Arc::new(SystemEntropy),
        }
    }
}

impl EtcdBuilder {
    /// One more member: `http://HOST:PORT` or `tcp://HOST:PORT`, or over TLS `https://HOST:PORT` or
    /// `tls://HOST:PORT`. They are members of one etcd, of which one at a time is asked.
    #[must_use]
    pub fn endpoint(mut self, address: impl Into<String>) -> Self {
        self.endpoints.push(address.into());
        self
    }

    /// Whose permissions are used, where etcd asks who is there. Default: nobody's.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// What the keys begin with: 1 to 200 bytes, without white space and control characters. Default `/ltq`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long a node may not be heard until it is suspected: 1 s to 1 h, in whole seconds, rounded up. etcd
    /// takes longer where its own elections do, by default 2 s at least. A node is heard three times as often.
    /// Default 3 s.
    #[must_use]
    pub const fn suspected_after(mut self, after: Duration) -> Self {
        self.suspected_after = after;
        self
    }

    /// How long until it is forgotten: longer than [`suspected_after`](Self::suspected_after), at most a day,
    /// in whole seconds, rounded up. Default 30 s.
    #[must_use]
    pub const fn forgotten_after(mut self, after: Duration) -> Self {
        self.forgotten_after = after;
        self
    }

    /// How long one request may take, or one attempt to connect: 10 ms to 1 min. Default 3 s.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long a call waits until etcd has answered, all of its members tried. Default 5 s.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How long to wait, when no member answers, before they are tried again: at first, and at most. Default
    /// 100 ms and 5 s.
    #[must_use]
    pub const fn retry(mut self, min: Duration, max: Duration) -> Self {
        self.retry = (min, max);
        self
    }

    /// How often it is looked whether a member still answers that tells of no changes: 100 ms to 1 h. A member
    /// that stands still is noticed after this and a [`timeout`](Self::timeout). Default 5 s.
    #[must_use]
    pub const fn probe(mut self, every: Duration) -> Self {
        self.probe = every;
        self
    }

    /// The most nodes that a watch keeps; at least 1. Default 10,000.
    #[must_use]
    pub const fn nodes_max(mut self, nodes: usize) -> Self {
        self.bounds.nodes_max = nodes;
        self
    }

    /// The most that a watch keeps, counted as it stands in etcd, in bytes; at least 1. In memory it is some
    /// times as much. Default 1 GiB.
    #[must_use]
    pub const fn bytes_max(mut self, bytes: usize) -> Self {
        self.bounds.bytes_max = bytes;
        self
    }

    /// Where chance comes from: it spreads attempts over time, and numbers leases.
    #[must_use]
    pub fn entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.entropy = entropy;
        self
    }

    /// Checks what was set. Nobody is connected to before something is asked.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub fn build(self) -> Result<Etcd, EtcdError> {
        let mut endpoints: Vec<Address> = Vec::new();
        for text in self.endpoints {
            let Some(address) = endpoint(&text) else { return Err(EtcdError::Endpoint(text)) };
            if endpoints.contains(&address) {
                return Err(EtcdError::Twice(address));
            }
            endpoints.push(address);
        }
        if endpoints.is_empty() {
            return Err(EtcdError::None);
        }
        let prefix = self.prefix.trim_end_matches('/');
        let is_odd = |c: char| c.is_whitespace() || c.is_control();
        if !(1..=PREFIX_BYTES_MAX).contains(&prefix.len()) || prefix.contains(is_odd) {
            let allowed =
                format!("1 to {PREFIX_BYTES_MAX} bytes without white space and control characters");
            return bad("prefix", &self.prefix, allowed);
        }
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3_600));
        let suspected_after = whole("suspected_after", self.suspected_after, second, hour)?;
        let longer = suspected_after + second;
        let forgotten_after = whole("forgotten_after", self.forgotten_after, longer, hour * 24)?;
        let millis = Duration::from_millis;
        within("timeout", self.timeout, millis(10), second * 60)?;
        within("probe", self.probe, millis(100), hour)?;
        within("patience", self.patience, millis(1), hour)?;
        within("retry", self.retry.0, millis(1), hour)?;
        within("retry", self.retry.1, self.retry.0, hour)?;
        let Bounds { nodes_max, bytes_max } = self.bounds;
        for (setting, count) in [("nodes_max", nodes_max), ("bytes_max", bytes_max)] {
            if count == 0 {
                return bad(setting, &count, "at least 1".to_owned());
            }
        }
        Ok(Etcd(Arc::new(Config {
            endpoints,
            transport: self.transport,
            user: self.user,
            keys: Keys::new(prefix.to_owned()),
            suspected_after,
            forgotten_after,
            timeout: self.timeout,
            patience: self.patience,
            retry: self.retry,
            probe: self.probe,
            bounds: self.bounds,
            entropy: self.entropy,
            figures: Figures::default(),
        })))
    }
}

impl fmt::Debug for EtcdBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdBuilder").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

/// An endpoint as etcd writes it, or as LTQ does.
fn endpoint(text: &str) -> Option<Address> {
    let address: Address = text.strip_suffix('/').unwrap_or(text).parse().ok()?;
    let is_plain = |c: char| c.is_ascii_graphic() && c != '/';
    if !address.rest().chars().all(is_plain) {
        return None;
    }
    Some(match address.scheme() {
        "http" => Address::new("tcp", address.rest()),
        "https" => Address::new("tls", address.rest()),
        _ => address,
    })
}

/// A time as etcd counts it.
fn whole(
    setting: &'static str,
    time: Duration,
    least: Duration,
    most: Duration,
) -> Result<Duration, EtcdError> {
    within(setting, time, least, most)?;
    Ok(Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0)))
}

fn within(
    setting: &'static str,
    time: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), EtcdError> {
    if (least..=most).contains(&time) {
        return Ok(());
    }
    bad(setting, &time, format!("{least:?} to {most:?}"))
}

fn bad<T>(setting: &'static str, value: &dyn fmt::Debug, allowed: String) -> Result<T, EtcdError> {
    Err(EtcdError::Setting { setting, value: format!("{value:?}"), allowed })
}

const PREFIX_BYTES_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use ltq_transport::InProcess;

    use super::*;

    fn one() -> EtcdBuilder {
        Etcd::builder(InProcess::new()).endpoint("http://a:2379")
    }

    #[test]
    fn endpoints_are_read_as_etcd_writes_them() {
        let many = one().endpoint("https://b:1/").endpoint("tls://c:2").endpoint("d:3");
        let etcd = many.prefix("shop/").build().unwrap();
        let shown: Vec<_> = etcd.endpoints().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["tcp://a:2379", "tls://b:1", "tls://c:2", "tcp://d:3"]);
        assert_eq!(etcd.0.keys.all(), "shop/");
        assert_eq!((etcd.is_announced(), etcd.skipped()), (false, 0));
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
        for (builder, why) in [
            (Etcd::builder(InProcess::new()), "no endpoint"),
            (one().endpoint("http://"), "\"http://\" is no endpoint"),
            (one().endpoint("http://b:1/v3"), "is no endpoint"),
            (one().endpoint("http://b b:1"), "is no endpoint"),
            (one().endpoint("tcp://a:2379"), "twice"),
            (one().prefix("/"), "prefix is \"/\""),
            (one().prefix("a b"), "prefix is \"a b\""),
            (one().prefix("x".repeat(201)), "1 to 200 bytes"),
            (one().suspected_after(millis(999)), "suspected_after is 999ms; 1s to 3600s"),
            (one().forgotten_after(seconds(3)), "forgotten_after is 3s; 4s to 86400s"),
            (one().timeout(seconds(61)), "timeout is 61s; 10ms to 60s"),
            (one().probe(millis(99)), "probe is 99ms"),
            (one().patience(Duration::ZERO), "patience is 0ns"),
            (one().retry(Duration::ZERO, seconds(1)), "retry is 0ns"),
            (one().retry(seconds(2), seconds(1)), "retry is 1s; 2s to"),
            (one().nodes_max(0), "nodes_max is 0; at least 1"),
            (one().bytes_max(0), "bytes_max is 0; at least 1"),
        ] {
            let error = builder.build().expect_err(why).to_string();
            assert!(error.contains(why), "{error} is not {why}");
        }
        let odd = one().suspected_after(millis(2_001)).build().unwrap();
        assert_eq!(odd.0.suspected_after, seconds(3));
    }
}
