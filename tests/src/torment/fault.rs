use rand::{RngExt as _, rngs::SmallRng, seq::SliceRandom as _};

use super::{
    TormentError,
    field::Field,
    role::{Role, Roles},
};
use crate::bad_network::Shape;

/// One thing that goes wrong for a while. Hosts are numbered as in [`Roles`].
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fault {
    /// Nobody hears it, and it hears nobody.
    Isolated(usize),
    /// What the first says does not reach the second; the other way is open.
    OneWay(usize, usize),
    /// Two do not reach each other, and all others do.
    Apart(usize, usize),
    /// All of its ways are long and lose packets.
    Slow(usize),
    /// Its program is killed, and started again at the end.
    Killed(usize),
    /// Its program stands still.
    Paused(usize),
    /// A node is drained, or a bridge stopped in order, and started again at the end.
    Drained(usize),
    /// A node is drained, killed before it has ended, and started again at the end.
    DrainedAndKilled(usize),
    /// A node is drained while a registry does not hear it, so that only others are told that it goes; at the end it
    /// is heard again, and started again.
    DrainedUnheard { node: usize, registry: usize },
    /// All registries are killed, and started again at the end.
    NoRegistry,
    /// Its wall clock steps by so many seconds from what is right; at the end it steps back, or stays so until
    /// the next step.
    Clock { host: usize, offset: i64, stays: bool },
    /// The device of a node has no room.
    Full(usize),
    /// The device of a node refuses writes. At the end it is mended, and the node started again.
    Refusing(usize),
    /// Somebody on its host tries to come in by wrong tokens everywhere, until the host is turned away.
    WrongTokens(usize),
}

/// What may be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Isolated,
    OneWay,
    Apart,
    Slow,
    Killed(Role),
    Paused,
    PausedOf(Role),
    Drained(Role),
    DrainedAndKilled,
    DrainedUnheard,
    NoRegistry,
    Clock(Role),
    Full(Role),
    Refusing,
    WrongTokens,
}

/// What can be made to go wrong on this machine beside what always can.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Can {
    /// Clocks can be stepped.
    pub(super) step_clocks: bool,
    /// Devices can be full.
    pub(super) fill: bool,
    /// A device can refuse writes.
    pub(super) refuse_writes: bool,
}

/// What is to go wrong: every kind has its turn before the first one has it again.
pub(super) struct Deck {
    all: Vec<Kind>,
    left: Vec<Kind>,
    roles: Roles,
}

impl Deck {
    /// All that may befall such hosts, and can.
    pub(super) fn new(roles: &Roles, can: Can) -> Self {
        let mut all = vec![Kind::Isolated, Kind::Isolated, Kind::OneWay, Kind::Apart];
        all.extend([Kind::Slow, Kind::Paused]);
        let is_there = |role: &Role| !roles.hosts(*role).is_empty();
        let every = [
            Role::Registry,
            Role::Node,
            Role::Client,
            Role::Bridge,
            Role::Destination,
            Role::Program,
        ];
        for role in every.into_iter().filter(is_there) {
            all.push(Kind::Killed(role));
            if can.step_clocks {
                all.push(Kind::Clock(role));
            }
            match role {
                Role::Registry => all.push(Kind::NoRegistry),
                // What it is all about has its turn more often.
                Role::Node => all.extend([
                    Kind::Killed(role),
                    Kind::Drained(role),
                    Kind::DrainedAndKilled,
                    Kind::DrainedUnheard,
                ]),
                Role::Client => {
                    all.extend([Kind::Killed(role), Kind::PausedOf(role), Kind::WrongTokens]);
                }
                Role::Program => all.push(Kind::Killed(role)),
                Role::Bridge => all.push(Kind::Drained(role)),
                Role::Destination => {}
            }
            if can.fill && matches!(role, Role::Node | Role::Destination) {
                all.push(Kind::Full(role));
            }
        }
        if can.refuse_writes && roles.with_disk().is_some() {
            all.push(Kind::Refusing);
        }
        Self { all, left: Vec::new(), roles: roles.clone() }
    }

    pub(super) fn draw(&mut self, chance: &mut SmallRng) -> Fault {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
            self.left.shuffle(chance);
        }
        let kind = self.left.pop().unwrap_or(Kind::Isolated);
        self.fault(kind, chance)
    }

    /// One beside another one, of other hosts; `None` where the next would be of the same.
    pub(super) fn draw_beside(&mut self, first: &Fault, chance: &mut SmallRng) -> Option<Fault> {
        let kind = *self.left.last()?;
        let second = self.fault(kind, chance);
        if second.touches_what(first, &self.roles) {
            return None;
        }
        self.left.pop();
        Some(second)
    }

    fn fault(&self, kind: Kind, chance: &mut SmallRng) -> Fault {
        let roles = &self.roles;
        let any = |chance: &mut SmallRng| chance.random_range(0..roles.count());
        let of = |role, chance: &mut SmallRng| chance.random_range(roles.hosts(role));
        let two = |chance: &mut SmallRng| loop {
            let (one, other) = (any(chance), any(chance));
            if one != other && roles.of(one).talks_to(roles.of(other)) {
                break (one, other);
            }
        };
        match kind {
            Kind::Isolated => Fault::Isolated(any(chance)),
            Kind::OneWay => {
                let (from, to) = two(chance);
                Fault::OneWay(from, to)
            }
            Kind::Apart => {
                let (one, other) = two(chance);
                Fault::Apart(one, other)
            }
            Kind::Slow => Fault::Slow(any(chance)),
            Kind::Killed(role) => Fault::Killed(of(role, chance)),
            Kind::Paused => Fault::Paused(any(chance)),
            Kind::PausedOf(role) => Fault::Paused(of(role, chance)),
            Kind::Full(role) => Fault::Full(of(role, chance)),
            Kind::Refusing => roles.with_disk().map_or(Fault::NoRegistry, Fault::Refusing),
            Kind::WrongTokens => Fault::WrongTokens(of(Role::Client, chance)),
            Kind::Drained(role) => Fault::Drained(of(role, chance)),
            Kind::DrainedAndKilled => Fault::DrainedAndKilled(of(Role::Node, chance)),
            Kind::DrainedUnheard => Fault::DrainedUnheard {
                node: of(Role::Node, chance),
                registry: of(Role::Registry, chance),
            },
            Kind::NoRegistry => Fault::NoRegistry,
            Kind::Clock(role) => {
                let seconds = chance.random_range(STEP_S.0..=STEP_S.1);
                let offset = if chance.random_bool(0.5) { seconds } else { -seconds };
                Fault::Clock { host: of(role, chance), offset, stays: chance.random_bool(0.5) }
            }
        }
    }
}

impl Fault {
    /// Whether both are about the same host, so that the end of one would be no end.
    fn touches_what(&self, other: &Self, roles: &Roles) -> bool {
        let (own, others) = (self.hosts(roles), other.hosts(roles));
        own.iter().any(|host| others.contains(host))
    }

    fn hosts(&self, roles: &Roles) -> Vec<usize> {
        match *self {
            Self::Isolated(host) | Self::Slow(host) | Self::Clock { host, .. } => vec![host],
            Self::Killed(host) | Self::Paused(host) | Self::Drained(host) => vec![host],
            Self::Full(host) | Self::Refusing(host) | Self::WrongTokens(host) => vec![host],
            Self::DrainedAndKilled(host) => vec![host],
            Self::OneWay(one, other) | Self::Apart(one, other) => vec![one, other],
            Self::DrainedUnheard { node, registry } => vec![node, registry],
            Self::NoRegistry => roles.hosts(Role::Registry).collect(),
        }
    }

    /// What it is called in an account.
    pub(super) fn kind(&self, roles: &Roles) -> &'static str {
        match *self {
            Self::Isolated(_) => "cut off",
            Self::OneWay(..) => "cut one way",
            Self::Apart(..) => "apart",
            Self::Slow(_) => "slow",
            Self::Paused(host) if roles.of(host) == Role::Client => "client paused",
            Self::Paused(_) => "paused",
            Self::Full(host) if roles.of(host) == Role::Node => "node full",
            Self::Full(_) => "destination full",
            Self::Refusing(_) => "node's writes refused",
            Self::WrongTokens(_) => "wrong tokens",
            Self::DrainedAndKilled(_) => "node killed in its drain",
            Self::DrainedUnheard { .. } => "node drained unheard by a registry",
            Self::NoRegistry => "no registry",
            Self::Killed(host) => match roles.of(host) {
                Role::Registry => "registry killed",
                Role::Node => "node killed",
                Role::Client => "client killed",
                Role::Bridge => "bridge killed",
                Role::Destination => "destination killed",
                Role::Program => "program killed",
            },
            Self::Drained(host) => match roles.of(host) {
                Role::Bridge => "bridge stopped",
                _ => "node drained",
            },
            Self::Clock { host, .. } => match roles.of(host) {
                Role::Registry => "clock of a registry",
                Role::Node => "clock of a node",
                Role::Client => "clock of a client",
                Role::Bridge => "clock of the bridge",
                Role::Destination => "clock of the destination",
                Role::Program => "clock of a program",
            },
        }
    }

    pub(super) async fn begin(&self, field: &mut Field) -> Result<(), TormentError> {
        match *self {
            Self::Isolated(host) => field.all_ways(host, Shape::default().down()),
            Self::OneWay(from, to) => field.way(from, to, Shape::default().down()),
            Self::Apart(one, other) => {
                field.way(one, other, Shape::default().down());
                field.way(other, one, Shape::default().down());
            }
            Self::Slow(host) => field.all_ways(host, Shape::new(200, 5.0)),
            Self::Killed(host) => field.kill(host).await?,
            Self::Paused(host) => field.pause(host, true)?,
            Self::Drained(host) => field.drain(host).await?,
            Self::DrainedAndKilled(host) => field.drain_and_kill(host).await?,
            Self::DrainedUnheard { node, registry } => {
                field.way(node, registry, Shape::default().down());
                field.way(registry, node, Shape::default().down());
                field.drain(node).await?;
            }
            Self::NoRegistry => {
                for host in field.roles().hosts(Role::Registry) {
                    field.kill(host).await?;
                }
            }
            Self::Clock { host, offset, .. } => field.step(host, offset).await?,
            Self::Full(host) => field.fill(host, true)?,
            Self::Refusing(host) => field.refuse_writes(host)?,
            Self::WrongTokens(host) => field.knock(host).await?,
        }
        Ok(())
    }

    pub(super) async fn end(&self, field: &mut Field) -> Result<(), TormentError> {
        match *self {
            Self::Isolated(host) | Self::Slow(host) => field.all_ways(host, Shape::default()),
            Self::OneWay(from, to) => field.way(from, to, Shape::default()),
            Self::Apart(one, other) => {
                field.way(one, other, Shape::default());
                field.way(other, one, Shape::default());
            }
            Self::Killed(host) | Self::Drained(host) | Self::DrainedAndKilled(host) => {
                field.start(host).await?;
            }
            Self::DrainedUnheard { node, registry } => {
                field.way(node, registry, Shape::default());
                field.way(registry, node, Shape::default());
                field.start(node).await?;
            }
            Self::Paused(host) => field.pause(host, false)?,
            Self::NoRegistry => {
                for host in field.roles().hosts(Role::Registry) {
                    field.start(host).await?;
                }
            }
            Self::Clock { stays: true, .. } | Self::WrongTokens(_) => {}
            Self::Full(host) => field.fill(host, false)?,
            Self::Refusing(host) => field.replace_device(host).await?,
            Self::Clock { host, .. } => field.step(host, 0).await?,
        }
        Ok(())
    }

    /// What it is in words.
    pub(super) fn told(&self, roles: &Roles) -> String {
        let name = |host| roles.name(host);
        match *self {
            Self::Isolated(host) => format!("{} is cut off", name(host)),
            Self::OneWay(from, to) => format!("{} does not reach {}", name(from), name(to)),
            Self::Apart(one, other) => {
                format!("{} and {} do not reach each other", name(one), name(other))
            }
            Self::Slow(host) => format!("{} is far away and loses packets", name(host)),
            Self::Killed(host) => format!("{} is killed", name(host)),
            Self::Paused(host) => format!("{} stands still", name(host)),
            Self::Drained(host) => format!("{} is stopped in order", name(host)),
            Self::DrainedAndKilled(host) => {
                format!("{} is stopped, and killed before it has ended", name(host))
            }
            Self::DrainedUnheard { node, registry } => {
                format!(
                    "{} is stopped in order, of which {} hears nothing",
                    name(node),
                    name(registry)
                )
            }
            Self::NoRegistry => "all registries are killed".to_owned(),
            Self::Full(host) => format!("the device of {} is full", name(host)),
            Self::Refusing(host) => format!("the device of {} refuses writes", name(host)),
            Self::WrongTokens(host) => format!("somebody on {} tries wrong tokens", name(host)),
            Self::Clock { host, offset, stays } => {
                let until = if stays { "until the next step" } else { "and back" };
                format!("the clock of {} steps to {offset:+} s, {until}", name(host))
            }
        }
    }
}

/// By how much clocks are wrong, in seconds.
const STEP_S: (i64, i64) = (90, 5_400);

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn every_kind_has_its_turn_and_steps_of_clocks_only_where_they_can_be() {
        for (roles, kinds) in [(Roles::CLUSTER, 25), (Roles::MESH, 7)] {
            for has_clocks in [true, false] {
                let mut chance = SmallRng::seed_from_u64(7);
                let can =
                    Can { step_clocks: has_clocks, fill: has_clocks, refuse_writes: has_clocks };
                let mut deck = Deck::new(&roles, can);
                let count = deck.all.len();
                let drawn: std::collections::BTreeSet<_> =
                    (0..count).map(|_| deck.draw(&mut chance).kind(&roles)).collect();
                let clocks = drawn.iter().filter(|kind| kind.starts_with("clock")).count();
                assert_eq!(clocks > 0, has_clocks, "{drawn:?}");
                let is_full = drawn.iter().any(|kind| kind.ends_with("full"));
                assert_eq!(is_full, has_clocks && roles.count() > 3, "{drawn:?}");
                let is_refused = drawn.iter().any(|kind| kind.ends_with("refused"));
                assert_eq!(is_refused, has_clocks && roles.count() > 3, "{drawn:?}");
                assert!(!has_clocks || drawn.len() == kinds, "{} {drawn:?}", drawn.len());
            }
        }
    }

    #[test]
    fn two_at_once_are_of_different_hosts() {
        let roles = Roles::CLUSTER;
        let mut chance = SmallRng::seed_from_u64(3);
        let mut deck =
            Deck::new(&roles, Can { step_clocks: true, fill: true, refuse_writes: true });
        for _ in 0..200 {
            let first = deck.draw(&mut chance);
            if let Some(second) = deck.draw_beside(&first, &mut chance) {
                let (one, other) = (first.hosts(&roles), second.hosts(&roles));
                assert!(one.iter().all(|host| !other.contains(host)), "{first:?}, {second:?}");
            }
        }
    }
}
