//! What goes wrong in a cluster.

use std::{fmt, time::Duration};

use ltq_transport::Route;
use tokio::time::Instant;

use super::{
    disks::Ill,
    partitions::CUT,
    world::{Mend, World},
};
use crate::{
    chance::Seeded, history::What, plan::Part, stores::Stores, torment::weather, world::End,
};

/// Something that goes wrong, and is mended after a while; the next thing may go wrong before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// A node's process is killed, or its machine loses its power, at any point.
    NodeDies,
    /// A node is stopped as an operator does.
    NodeStops,
    /// A node is to take in nothing more.
    NodeDrains,
    /// A node is drained, and stopped for good if it comes to have nothing left.
    NodeLeaves,
    /// A registry is killed, and will know nobody.
    RegistryDies,
    /// All of them are.
    AllRegistriesDie,
    /// A host is cut off from all others, in one direction or both.
    HostIsCutOff,
    /// Two hosts, or a host and all of a kind, do not reach each other, in one direction or both.
    WayIsCut,
    /// All that goes to and from a host takes longer.
    HostIsSlow,
    /// The network is bad for everybody.
    BadWeather,
    /// A node's clock jumps.
    ClockJumps,
    /// The process on a host is stopped, and goes on later.
    StandsStill,
    /// A node's disk is full, fails or is slow.
    DiskIs(Ill),
    /// A registry comes back wanting a token that nobody knows.
    WrongToken,
    /// Somebody announces himself under the id of a node.
    Stranger,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NodeDies => "a node dies",
            Self::NodeStops => "a node is stopped",
            Self::NodeDrains => "a node is to drain",
            Self::NodeLeaves => "a node is to leave",
            Self::RegistryDies => "a registry dies",
            Self::AllRegistriesDie => "all registries die",
            Self::HostIsCutOff => "a host is cut off",
            Self::WayIsCut => "a way is cut",
            Self::HostIsSlow => "a host is slow",
            Self::BadWeather => "the network is bad",
            Self::ClockJumps => "a clock jumps",
            Self::StandsStill => "a process is stopped",
            Self::DiskIs(Ill::Full) => "a disk is full",
            Self::DiskIs(Ill::Fails) => "a disk fails",
            Self::DiskIs(Ill::Slow) => "a disk is slow",
            Self::WrongToken => "a registry wants another token",
            Self::Stranger => "somebody has the id of a node",
        })
    }
}

pub(super) fn kind(chance: &Seeded) -> Trouble {
    chance.pick(&[
        Trouble::NodeDies,
        Trouble::NodeDies,
        Trouble::NodeDies,
        Trouble::NodeStops,
        Trouble::NodeDrains,
        Trouble::NodeLeaves,
        Trouble::RegistryDies,
        Trouble::RegistryDies,
        Trouble::AllRegistriesDie,
        Trouble::HostIsCutOff,
        Trouble::HostIsCutOff,
        Trouble::WayIsCut,
        Trouble::WayIsCut,
        Trouble::WayIsCut,
        Trouble::HostIsSlow,
        Trouble::BadWeather,
        Trouble::ClockJumps,
        Trouble::StandsStill,
        Trouble::StandsStill,
        Trouble::StandsStill,
        Trouble::StandsStill,
        Trouble::DiskIs(Ill::Full),
        Trouble::DiskIs(Ill::Fails),
        Trouble::DiskIs(Ill::Slow),
        Trouble::WrongToken,
        Trouble::Stranger,
    ])
}

impl<S: Stores> World<S> {
    /// Something goes wrong.
    ///
    /// # Errors
    /// What was mended meanwhile may not come back.
    pub(super) async fn goes_wrong(&mut self, part: &Part, trouble: Trouble) -> Result<(), End> {
        let chance = &part.chance;
        self.pass(chance.millis(4_000)).await?;
        self.history.note(&part.name, trouble);
        let long = long(chance);
        let until = Instant::now() + long;
        let node = chance.below(self.members.len() as u64) as usize;
        match trouble {
            Trouble::NodeDies => {
                self.strike(chance, node).await?;
                self.mends.push((Instant::now() + long, Mend::Start(node)));
            }
            Trouble::NodeStops => {
                let deadline = chance.millis(5_000);
                if let Some(member) = self.members.get_mut(node).filter(|it| it.is_up()) {
                    member.stop(deadline).await;
                    self.mends.push((Instant::now() + long, Mend::Start(node)));
                }
            }
            Trouble::NodeDrains => {
                if let Some(member) = self.members.get(node).filter(|it| !it.stands_still()) {
                    member.drain(true).await;
                    self.mends.push((until, Mend::EndDrain(node)));
                }
            }
            Trouble::NodeLeaves => self.leaves(chance, node).await?,
            Trouble::RegistryDies | Trouble::AllRegistriesDie => {
                let all = trouble == Trouble::AllRegistriesDie;
                let one = chance.below(self.registries.len() as u64) as usize;
                for number in (0..self.registries.len()).filter(|&it| all || it == one) {
                    if let Some(registry) = self.registries.get_mut(number) {
                        registry.kill(chance.one_in(2));
                    }
                    let later = if chance.one_in(2) { until } else { until + chance.millis(3_000) };
                    self.mends.push((later, Mend::StartRegistry(number)));
                }
            }
            Trouble::HostIsCutOff => {
                let (one, others) = (self.any_host(chance), self.hosts());
                self.cut(part, chance, &one, &others, until);
            }
            Trouble::WayIsCut => {
                let one = self.any_host(chance);
                let other = match chance.below(4) {
                    0 => self.hosts_of(|kind| kind == 'n'),
                    1 => self.hosts_of(|kind| kind == 'r'),
                    2 => self.hosts_of(|kind| !matches!(kind, 'n' | 'r')),
                    _ => self.any_host(chance),
                };
                self.cut(part, chance, &one, &other, until);
            }
            Trouble::HostIsSlow => {
                let (one, others) = (self.any_host(chance), self.hosts());
                let route = Route { delay: chance.millis(700), ..Route::default() };
                self.history.note(&part.name, format!("{one:?}: {route:?}"));
                let network = &self.network;
                self.partitions.add(network, [&one, &others], route, Some(until));
                self.partitions.add(network, [&others, &one], route, Some(until));
            }
            Trouble::BadWeather => {
                let weather = weather(chance);
                self.history.add(&part.name, What::Weather(weather));
                self.network.set_weather(weather);
                self.mends.push((until, Mend::Weather));
            }
            Trouble::StandsStill => {
                for host in self.any_host(chance) {
                    if self.stand_still(&host) {
                        self.mends.push((until, Mend::GoOn(host)));
                    }
                }
            }
            Trouble::DiskIs(ill) => {
                self.disk_is(chance, node, ill);
                self.mends.push((until, Mend::Disk(node)));
            }
            Trouble::WrongToken => {
                let number = chance.below(self.registries.len() as u64) as usize;
                self.registry_wants(number, Some("changed".to_owned())).await?;
                self.mends.push((until, Mend::Token(number)));
            }
            Trouble::Stranger => {
                if let Some(host) = self.stranger_comes(chance, node) {
                    self.mends.push((until, Mend::StrangerGoes(host, chance.one_in(2))));
                }
            }
            Trouble::ClockJumps => {
                let millis = i64::try_from(chance.below(20_000)).unwrap_or(0) - 10_000;
                if let Some(member) = self.members.get(node) {
                    self.history.add(member.name(), What::ClockJumps { millis });
                    member.node.clock.jump(millis);
                }
            }
        }
        Ok(())
    }

    /// A node dies, at once or at one of the next points.
    async fn strike(&mut self, chance: &Seeded, node: usize) -> Result<(), End> {
        let power = chance.one_in(2);
        let Some(member) = self.members.get_mut(node).filter(|it| it.is_up()) else {
            return Ok(());
        };
        if !chance.one_in(4) {
            member.doom(chance.below(1 << (2 + chance.below(11))), power);
            let struck = member.node.struck();
            self.pass_until(Duration::from_secs(2), struck).await?;
        }
        if let Some(member) = self.members.get_mut(node) {
            member.kill(power);
        }
        Ok(())
    }

    /// A node is drained, and goes if it has nothing left soon; else it takes in again.
    async fn leaves(&mut self, chance: &Seeded, node: usize) -> Result<(), End> {
        let others = self.members.iter().filter(|it| it.is_up()).count();
        let is_up = self.members.get(node).is_some_and(|it| it.is_up() && !it.stands_still());
        if others < 2 || !is_up {
            return Ok(());
        }
        if let Some(member) = self.members.get(node) {
            member.drain(true).await;
        }
        // What is not consumed by anybody keeps no node here.
        for _ in 0..1 + chance.below(10) {
            self.pass(Duration::from_secs(1)).await?;
            if self.is_empty(node).await && self.is_empty(node).await {
                let name = match self.members.get_mut(node) {
                    Some(member) if member.is_up() => {
                        member.stop(Duration::from_secs(5)).await;
                        member.has_left = true;
                        member.name().to_owned()
                    }
                    _ => return Ok(()),
                };
                self.history.add("world", What::Cluster(super::Scene::Left { node: name }));
                return Ok(());
            }
        }
        if let Some(member) = self.members.get(node) {
            member.drain(false).await;
        }
        Ok(())
    }

    /// Cuts the ways between these, in one direction or both.
    fn cut(
        &mut self,
        part: &Part,
        chance: &Seeded,
        one: &[String],
        other: &[String],
        until: Instant,
    ) {
        let ways = chance.below(3);
        let how = ["both ways", "to them", "from them"].get(ways as usize).copied();
        self.history.note(&part.name, format!("{one:?} and {other:?}, {}", how.unwrap_or("")));
        if ways != 2 {
            self.partitions.add(&self.network, [one, other], CUT, Some(until));
        }
        if ways != 1 {
            self.partitions.add(&self.network, [other, one], CUT, Some(until));
        }
    }

    fn any_host(&self, chance: &Seeded) -> Vec<String> {
        let hosts = self.hosts();
        let at = chance.below(hosts.len() as u64) as usize;
        hosts.get(at).into_iter().cloned().collect()
    }
}

/// How long something is wrong: mostly some seconds, now and then so long that nodes are forgotten.
fn long(chance: &Seeded) -> Duration {
    match chance.below(8) {
        0 => Duration::from_secs(30) + chance.millis(15_000),
        1 => chance.millis(500),
        _ => chance.millis(12_000),
    }
}
