use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::Shape;

/// One way of a line, without a clock of its own: packets go in, and come out when it is time.
pub struct Pipe {
    shape: Shape,
    chance: SmallRng,
    /// By when they are due, and in the order in which they came where that is the same.
    under_way: BTreeMap<(Instant, u64), Vec<u8>>,
    under_way_bytes: usize,
    /// When the last one that keeps its place is due.
    last_due: Option<Instant>,
    /// Until when the line is busy with those that were sent before.
    busy_until: Option<Instant>,
    figures: Figures,
}

/// What went through a [`Pipe`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Packets that were sent.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Packets that were lost by chance, or as the line was down.
    pub lost: u64,
    /// Packets that found no room to wait.
    pub dropped: u64,
    /// Packets that overtook others.
    pub reordered: u64,
}

impl Pipe {
    /// An empty one.
    #[must_use]
    pub fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            chance: SmallRng::seed_from_u64(seed),
            under_way: BTreeMap::new(),
            under_way_bytes: 0,
            last_due: None,
            busy_until: None,
            figures: Figures::default(),
        }
    }

    /// It is so from now on.
    pub const fn reshape(&mut self, shape: Shape) {
        self.shape = shape;
    }

    /// What went through it.
    #[must_use]
    pub const fn figures(&self) -> Figures {
        self.figures
    }

    /// A packet is sent.
    pub fn send(&mut self, packet: &[u8], now: Instant) {
        let shape = self.shape;
        self.figures.sent += 1;
        self.figures.sent_bytes += packet.len() as u64;
        // Drawn in any case, so that what becomes of one says nothing of the next.
        let (lost, reordered) = (self.chance.random::<f64>(), self.chance.random::<f64>());
        let jitter = shape.jitter.mul_f64(self.chance.random::<f64>());
        if shape.is_down || lost < shape.loss {
            self.figures.lost += 1;
            return;
        }
        let mut sent_at = now;
        if let Some(rate) = shape.bytes_per_second {
            let starts = self.busy_until.map_or(now, |until| until.max(now));
            let waiting = starts.saturating_duration_since(now).as_secs_f64() * rate as f64;
            if waiting > shape.queue_bytes as f64 {
                self.figures.dropped += 1;
                return;
            }
            sent_at = starts + Duration::from_secs_f64(packet.len() as f64 / rate.max(1) as f64);
            self.busy_until = Some(sent_at);
        }
        if self.under_way_bytes + packet.len() > UNDER_WAY_BYTES_MAX {
            self.figures.dropped += 1;
            return;
        }
        let due = if reordered < shape.reorder {
            self.figures.reordered += 1;
            sent_at + shape.delay / 2
        } else {
            let due = sent_at + shape.delay + jitter;
            let due = self.last_due.map_or(due, |last| last.max(due));
            self.last_due = Some(due);
            due
        };
        self.under_way_bytes += packet.len();
        self.under_way.insert((due, self.figures.sent), packet.to_vec());
    }

    /// When the next packet arrives.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.under_way.first_key_value().map(|((due, _), _)| *due)
    }

    /// The next packet that has arrived by now.
    pub fn receive(&mut self, now: Instant) -> Option<Vec<u8>> {
        let first = self.under_way.first_entry().filter(|entry| entry.key().0 <= now)?;
        let packet = first.remove();
        self.under_way_bytes -= packet.len();
        Some(packet)
    }
}

/// More than any sender has under way that heeds what is lost.
const UNDER_WAY_BYTES_MAX: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(pipe: &mut Pipe, until: Instant) -> Vec<u32> {
        let number = |packet: Vec<u8>| u32::from_be_bytes(packet[..4].try_into().unwrap());
        std::iter::from_fn(|| pipe.receive(until).map(number)).collect()
    }

    fn send(pipe: &mut Pipe, count: u32, bytes: usize, now: Instant) {
        for number in 0..count {
            let mut packet = number.to_be_bytes().to_vec();
            packet.resize(bytes, 0);
            pipe.send(&packet, now);
        }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn packets_come_after_their_delay_and_in_order() {
        let now = Instant::now();
        let mut pipe = Pipe::new(Shape { jitter: 5 * MS, ..Shape::new(40, 0.0) }, 1);
        send(&mut pipe, 100, 100, now);
        assert!(pipe.next_due().unwrap() >= now + 20 * MS);
        assert!(pipe.receive(now + 20 * MS - Duration::from_nanos(1)).is_none());
        assert_eq!(numbers(&mut pipe, now + 25 * MS), (0..100).collect::<Vec<_>>());
        assert_eq!((pipe.next_due(), pipe.under_way_bytes), (None, 0));
    }

    #[test]
    fn as_many_are_lost_as_was_asked_for_and_the_same_by_the_same_seed() {
        let now = Instant::now();
        let left = |seed| {
            let mut pipe = Pipe::new(Shape::new(0, 5.0), seed);
            send(&mut pipe, 100_000, 4, now);
            let lost = pipe.figures().lost;
            assert!((4_700..5_300).contains(&lost), "{lost}");
            let left = numbers(&mut pipe, now);
            assert_eq!(left.len() as u64, 100_000 - lost);
            left
        };
        assert_eq!(left(1), left(1));
        assert_ne!(left(1), left(2));
    }

    #[test]
    fn some_overtake() {
        let now = Instant::now();
        let mut pipe = Pipe::new(Shape { reorder: 0.1, ..Shape::new(40, 0.0) }, 1);
        send(&mut pipe, 1_000, 4, now);
        let early = numbers(&mut pipe, now + 10 * MS);
        assert_eq!(early.len() as u64, pipe.figures().reordered);
        assert!((60..140).contains(&early.len()), "{}", early.len());
        let late = numbers(&mut pipe, now + 20 * MS);
        assert_eq!(early.len() + late.len(), 1_000);
        assert!(late.is_sorted());
    }

    #[test]
    fn a_narrow_line_takes_its_time_and_drops_what_finds_no_room() {
        let now = Instant::now();
        let shape =
            Shape { bytes_per_second: Some(1_000_000), queue_bytes: 10_000, ..Shape::new(0, 0.0) };
        let mut pipe = Pipe::new(shape, 1);
        send(&mut pipe, 20, 1_000, now);
        // One is being sent, ten wait, and one more begins to as the tenth leaves just enough room.
        let figures = pipe.figures();
        assert_eq!((figures.sent, figures.dropped), (20, 9));
        assert_eq!(numbers(&mut pipe, now + MS), [0]);
        assert_eq!(numbers(&mut pipe, now + 11 * MS), (1..11).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_comes_while_it_is_down_but_what_was_under_way() {
        let now = Instant::now();
        let mut pipe = Pipe::new(Shape::new(40, 0.0), 1);
        send(&mut pipe, 1, 4, now);
        pipe.reshape(Shape::new(40, 0.0).down());
        send(&mut pipe, 5, 4, now);
        assert_eq!(numbers(&mut pipe, now + 100 * MS), [0]);
        pipe.reshape(Shape::new(40, 0.0));
        send(&mut pipe, 2, 4, now + 100 * MS);
        assert_eq!(numbers(&mut pipe, now + 120 * MS), [0, 1]);
        assert_eq!(pipe.figures().lost, 5);
    }
}
