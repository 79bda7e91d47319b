//! What a run measured, as a table or as JSON.

use comfy_table::{Table, presets};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    args::Mode, operators::OnNode, plan::Plan, process::RssBytes, run::Outcome, target::Target,
};

/// What a run measured. All figures are of verified messages.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    mode: &'static str,
    server: String,
    topics: usize,
    channels: usize,
    producers: usize,
    consumers: usize,
    one_connection: bool,
    stalled: usize,
    size: usize,
    batch: usize,
    in_flight: usize,
    wait_each: bool,
    spin: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
    /// The least of all receipts.
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<ltq_core::Durability>,
    /// Deliveries where the run consumes, else confirmed messages.
    messages: u64,
    published: u64,
    delivered: u64,
    /// Deliveries of what the broker had delivered before, beside those.
    redelivered: u64,
    /// Copies of messages that are stored more than once, beside those: what a cluster's nodes may have where a
    /// connection was lost.
    stored_again: u64,
    seconds: f64,
    messages_per_second: f64,
    /// Of bodies.
    bytes_per_second: f64,
    /// To the consumer where the run consumes, else to the receipt.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_us: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt_latency_us: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_latency_us: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_cpu_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages_per_server_cpu_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_rss_bytes: Option<RssBytes>,
    /// Of this process, producers, consumers and verification together.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_cpu_seconds: Option<f64>,
    /// Where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<OnNode>,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Latency {
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

impl Latency {
    pub(super) fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile);
        (!histogram.is_empty()).then(|| Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max(),
        })
    }

    pub(super) fn line(&self) -> String {
        let Self { p50, p90, p99, p999, max } = *self;
        format!("p50 {p50} · p90 {p90} · p99 {p99} · p99.9 {p999} · max {max} µs")
    }
}

impl Report {
    pub(super) fn new(target: &Target, plan: &Plan, outcome: &Outcome) -> Self {
        let messages = if plan.mode.consumes() { outcome.delivered } else { outcome.published };
        let seconds = outcome.seconds.max(f64::MIN_POSITIVE);
        // Of a backlog each message was due before the clock of the run began.
        let measured = plan.mode != Mode::Sub;
        let receipts = Latency::of(&outcome.receipts).filter(|_| measured);
        let deliveries = Latency::of(&outcome.deliveries).filter(|_| measured);
        let own = outcome.own_usage.map(|(before, after)| after.cpu_seconds - before.cpu_seconds);
        let cpu = outcome.usage.map(|(before, after)| after.cpu_seconds - before.cpu_seconds);
        Self {
            mode: plan.mode.word(),
            server: target.name().to_owned(),
            topics: plan.topics.len(),
            channels: plan.channels.len(),
            producers: plan.producers,
            consumers: if plan.mode.consumes() { plan.consumers } else { 0 },
            one_connection: plan.one_connection,
            stalled: plan.stalled.len(),
            size: plan.size,
            batch: if plan.wait_each { 1 } else { plan.batch },
            in_flight: if plan.wait_each { 1 } else { plan.in_flight },
            wait_each: plan.wait_each,
            spin: plan.spin,
            rate: plan.rate,
            durability: outcome.durability,
            messages,
            published: outcome.published,
            delivered: outcome.delivered,
            redelivered: outcome.redelivered,
            stored_again: outcome.stored_again,
            seconds: outcome.seconds,
            messages_per_second: messages as f64 / seconds,
            bytes_per_second: messages as f64 * plan.size as f64 / seconds,
            latency_us: if plan.mode.consumes() { deliveries } else { receipts },
            receipt_latency_us: receipts,
            delivery_latency_us: deliveries,
            server_cpu_seconds: cpu,
            messages_per_server_cpu_second: cpu
                .filter(|cpu| *cpu > 0.0)
                .map(|cpu| messages as f64 / cpu),
            server_rss_bytes: outcome.usage.map(|(before, after)| RssBytes {
                before: before.rss_bytes,
                after: after.rss_bytes,
            }),
            client_cpu_seconds: own,
            nodes: outcome.nodes.clone(),
        }
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let what = format!(
            "{} against {}: {} topics, {} channels each, {} producers, {} consumers each channel, \
             {} bytes, batches of {}",
            self.mode,
            self.server,
            self.topics,
            self.channels,
            self.producers,
            self.consumers,
            self.size,
            self.batch
        );
        let mut rows = vec![
            (
                "messages",
                format!("{} in {:.3} s, all verified", grouped(self.messages as f64), self.seconds),
            ),
            (
                "rate",
                format!(
                    "{} messages/s, {} MB/s",
                    grouped(self.messages_per_second),
                    grouped(self.bytes_per_second / 1e6)
                ),
            ),
        ];
        if self.redelivered > 0 {
            let again = grouped(self.redelivered as f64);
            rows.push(("delivered again", format!("{again}, which is none of that")));
        }
        if self.stored_again > 0 {
            let again = grouped(self.stored_again as f64);
            let words = "a node was given up that had them unsaid; none of that";
            rows.push(("stored again", format!("{again}: {words}")));
        }
        if let Some(durability) = self.durability {
            rows.push(("durability", durability.to_string()));
        }
        if let Some(latency) = &self.receipt_latency_us {
            rows.push(("to the receipt", latency.line()));
        }
        if let Some(latency) = &self.delivery_latency_us {
            rows.push(("to the consumer", latency.line()));
        }
        if let (Some(cpu), Some(rate)) =
            (self.server_cpu_seconds, self.messages_per_server_cpu_second)
        {
            rows.push((
                "server cpu",
                format!("{cpu:.2} s, {} messages per second of it", grouped(rate)),
            ));
        }
        if let Some(cpu) = self.client_cpu_seconds {
            let each = cpu * 1e6 / (self.messages.max(1) as f64);
            rows.push(("client cpu", format!("{cpu:.2} s, {each:.2} µs a message")));
        }
        for OnNode { node, published, acked } in &self.nodes {
            let (published, acked) = (grouped(*published as f64), grouped(*acked as f64));
            rows.push((node, format!("{published} published, {acked} acked")));
        }
        if let Some(RssBytes { before, after }) = self.server_rss_bytes {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            rows.push((
                "server memory",
                format!("{:.1} MiB before, {:.1} MiB after", mib(before), mib(after)),
            ));
        }
        format!("{what}\n{}", facts(&rows))
    }
}

/// Names and what they are, one a line.
pub(super) fn facts(rows: &[(&str, String)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in rows {
        table.add_row([*name, value]);
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Without a fraction, digits in groups of three.
pub(super) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_can_be_read() {
        for (number, text) in
            [(0.0, "0"), (999.4, "999"), (1000.0, "1,000"), (1_234_567.0, "1,234,567")]
        {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn latencies_are_quantiles() {
        let mut histogram = super::super::run::histogram();
        assert!(Latency::of(&histogram).is_none());
        for micros in 1..=1000 {
            histogram.record(micros).unwrap();
        }
        let latency = Latency::of(&histogram).unwrap();
        assert_eq!((latency.p50, latency.p90, latency.max), (500, 900, 1000));
    }
}
