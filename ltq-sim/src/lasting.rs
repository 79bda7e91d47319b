//! What goes on being wrong with the disk for a while, whatever else goes wrong meanwhile.

use std::{future::pending, pin::pin, time::Duration};

use ltq_store::simulation::Faults;
use tokio::time::{Instant, timeout_at};

use crate::{chance::Seeded, history::What, stores::Stores, world::World};

/// What is wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Condition {
    /// There is room for so much and no more.
    Full,
    /// The process may have so many files open and no more.
    NoDescriptors,
    /// Some of what is asked of it fails.
    Fails(Faults),
    /// It may take so long for whatever is asked of it.
    Slow(Duration),
}

/// Something that is wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lasting {
    until: Instant,
    condition: Condition,
}

impl<S: Stores> World<S> {
    /// This goes on for a while: until then nothing else happens, or the next things do.
    pub(crate) async fn goes_on(&mut self, chance: &Seeded, condition: Condition) {
        let (alone, long) = (chance.one_in(2), chance.millis(3_000));
        let long = if alone { long } else { long * 2 };
        // There is one limit of each.
        match condition {
            Condition::Full => self.lasting.retain(|it| !matches!(it.condition, Condition::Full)),
            Condition::NoDescriptors => {
                self.lasting.retain(|it| !matches!(it.condition, Condition::NoDescriptors));
            }
            Condition::Fails(_) | Condition::Slow(_) => {}
        }
        self.lasting.push(Lasting { until: Instant::now() + long, condition });
        self.disk_fails();
        if alone {
            self.pass(long).await;
        }
    }

    /// Lets time pass.
    pub(crate) async fn pass(&mut self, time: Duration) {
        self.pass_until(time, pending()).await;
    }

    /// Lets time pass, until something happens.
    pub(crate) async fn pass_until(&mut self, time: Duration, event: impl Future<Output = ()>) {
        let until = Instant::now() + time;
        let mut event = pin!(event);
        loop {
            let ends = self.lasting.iter().map(|it| it.until).min();
            let next = ends.map_or(until, |at| at.min(until));
            let happened = timeout_at(next, event.as_mut()).await.is_ok();
            self.end_lasting();
            if happened || next == until {
                return;
            }
        }
    }

    fn end_lasting(&mut self) {
        let now = Instant::now();
        let over = self.lasting.extract_if(.., |it| it.until <= now);
        let over: Vec<_> = over.map(|it| it.condition).collect();
        if over.is_empty() {
            return;
        }
        if over.iter().any(|condition| matches!(condition, Condition::Full)) {
            self.node.disk.set_capacity(None);
            self.history.add("world", What::DiskFine);
        }
        if over.iter().any(|condition| matches!(condition, Condition::NoDescriptors)) {
            self.node.disk.set_descriptors(None, false);
            self.history.note("world", "there are descriptors again");
        }
        self.disk_fails();
    }

    /// As all do together that are wrong now.
    pub(crate) fn disk_fails(&self) {
        let mut all = Faults::default();
        let mut latency = self.usual_latency;
        for it in &self.lasting {
            let faults = match it.condition {
                Condition::Fails(faults) => faults,
                Condition::Slow(most) => {
                    latency = latency.max(most);
                    continue;
                }
                Condition::Full | Condition::NoDescriptors => continue,
            };
            // The more often, the worse; 0 is never.
            let worse = |a: u64, b: u64| if a == 0 || b == 0 { a.max(b) } else { a.min(b) };
            all = Faults {
                reads: worse(all.reads, faults.reads),
                writes: worse(all.writes, faults.writes),
                syncs: worse(all.syncs, faults.syncs),
                names: worse(all.names, faults.names),
            };
        }
        if self.node.disk.latency_max() != latency {
            self.node.disk.set_latency_max(latency);
            self.history.add("world", What::DiskTakes(latency));
        }
        self.node.disk.set_faults(all, &self.node.chance.chance());
    }
}
