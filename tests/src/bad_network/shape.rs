use std::time::Duration;

/// What one way of a line does to packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// How long each takes: half a round trip.
    pub delay: Duration,
    /// So much longer at most, drawn for each of them. They stay in order.
    pub jitter: Duration,
    /// The share that is lost, 0 to 1.
    pub loss: f64,
    /// The share that overtakes, 0 to 1: half the delay is enough for it.
    pub reorder: f64,
    /// How many bytes a second it carries at most.
    pub bytes_per_second: Option<u64>,
    /// How many bytes wait for their turn at most, where it is narrow; more are lost.
    pub queue_bytes: u64,
    /// Nothing arrives at all.
    pub is_down: bool,
}

impl Shape {
    /// A round trip of so many milliseconds, of whose packets so many in a hundred are lost on
    /// either way.
    #[must_use]
    pub fn new(round_trip_ms: u64, loss_percent: f64) -> Self {
        Self {
            delay: Duration::from_millis(round_trip_ms) / 2,
            loss: loss_percent / 100.0,
            ..Self::default()
        }
    }

    /// The same, down.
    #[must_use]
    pub const fn down(self) -> Self {
        Self { is_down: true, ..self }
    }
}

impl Default for Shape {
    /// As good as none.
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            bytes_per_second: None,
            queue_bytes: 1 << 20,
            is_down: false,
        }
    }
}
