//! Ways between hosts that are cut or slow for a while.

use std::time::Duration;

use ltq_transport::{Route, SimulatedNetwork};
use tokio::time::Instant;

/// All that is the matter with ways.
#[derive(Default)]
pub(super) struct Partitions(Vec<Line>);

/// What is the matter, from some hosts to some others.
struct Line {
    until: Option<Instant>,
    from: Vec<String>,
    to: Vec<String>,
    route: Route,
}

impl Partitions {
    /// From these hosts to those everything is so, until then or until all is well.
    pub(super) fn add(
        &mut self,
        network: &SimulatedNetwork,
        [from, to]: [&[String]; 2],
        route: Route,
        until: Option<Instant>,
    ) {
        self.0.push(Line { until, from: from.to_vec(), to: to.to_vec(), route });
        self.set(network);
    }

    /// When the next one is over.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().filter_map(|line| line.until).min()
    }

    /// Those are over that are to be by now.
    pub(super) fn end(&mut self, network: &SimulatedNetwork, now: Instant) {
        let before = self.0.len();
        self.0.retain(|line| line.until.is_none_or(|until| until > now));
        if self.0.len() < before {
            self.set(network);
        }
    }

    /// All are over.
    pub(super) fn clear(&mut self, network: &SimulatedNetwork) {
        self.0.clear();
        self.set(network);
    }

    fn set(&self, network: &SimulatedNetwork) {
        let mut routes = std::collections::BTreeMap::new();
        for line in &self.0 {
            for from in &line.from {
                for to in line.to.iter().filter(|to| *to != from) {
                    let way: &mut Route = routes.entry((from.clone(), to.clone())).or_default();
                    way.is_cut |= line.route.is_cut;
                    way.delay = way.delay.max(line.route.delay);
                }
            }
        }
        network.set_routes(routes.into_iter().map(|((from, to), route)| (from, to, route)));
    }
}

/// A way that is cut.
pub(super) const CUT: Route = Route { delay: Duration::ZERO, is_cut: true };
