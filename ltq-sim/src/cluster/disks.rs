//! Disks of nodes that are full, fail or take their time, and what an operator does about it.

use std::time::Duration;

use ltq_store::simulation::Faults;

use super::{node::Member, world::World};
use crate::{
    chance::Seeded,
    history::What,
    stores::Stores,
    violation::Rule,
    world::{End, broken},
};

/// What is the matter with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ill {
    /// There is room for so much and no more.
    Full,
    /// Some of what is asked of it fails.
    Fails,
    /// It may take some seconds for whatever is asked of it.
    Slow,
}

impl<S: Stores> World<S> {
    /// A node's disk is in trouble from now on, until [`mend_disk`](Self::mend_disk).
    pub(super) fn disk_is(&mut self, chance: &Seeded, number: usize, ill: Ill) {
        let Some(member) = self.members.get_mut(number) else { return };
        let (disk, name) = (&member.node.disk, member.node.name.as_str());
        member.is_disk_ill = true;
        match ill {
            Ill::Full => {
                let room = chance.below(100 << 10);
                disk.set_capacity(Some(disk.used() + room));
                self.history.add(name, What::Room(room));
            }
            Ill::Fails => {
                let one_in = |most| if chance.one_in(2) { 1 + chance.below(most) } else { 0 };
                let faults = Faults {
                    reads: one_in(40),
                    writes: one_in(100),
                    syncs: one_in(50),
                    names: one_in(20),
                };
                disk.set_faults(faults, &chance.chance());
                self.history.add(name, What::DiskFails(format!("{faults:?}")));
            }
            Ill::Slow => {
                let latency = chance.millis(2_000);
                disk.set_latency_max(latency);
                self.history.add(name, What::DiskTakes(latency));
            }
        }
    }

    /// A node's disk is well again, and the node is started anew if it cannot go on by itself.
    ///
    /// # Errors
    /// It does not start on what its disk has.
    pub(super) async fn mend_disk(&mut self, number: usize) -> Result<(), End> {
        let Some(member) = self.members.get_mut(number).filter(|it| it.is_disk_ill) else {
            return Ok(());
        };
        member.disk_is_well();
        // One that has stopped taking changes is noticed even where the node had none to make.
        if !member.node.store_failed() && !member.node.disk.has_stopped() {
            return Ok(());
        }
        let is_up = member.is_up();
        member.stop(Duration::from_secs(1)).await;
        if member.node.disk.has_stopped() {
            member.kill(true);
        }
        if is_up { self.start_node(number).await } else { Ok(()) }
    }

    /// Starts a node, if it is not there and has not left.
    ///
    /// # Errors
    /// It does not start, though its disk is well.
    pub(super) async fn start_node(&mut self, number: usize) -> Result<(), End> {
        let Some(member) = self.members.get_mut(number) else { return Ok(()) };
        let Err(why) = member.start().await else { return Ok(()) };
        let name = member.name().to_owned();
        self.history.note(&name, format!("does not start: {why}"));
        if !member.is_disk_ill {
            return Err(broken(Rule::Start, format!("{name} does not start: {why}")));
        }
        // Nobody would go on with such a disk.
        member.disk_is_well();
        member.kill(member.node.disk.has_stopped());
        let started = member.start().await;
        started.map_err(|why| broken(Rule::Start, format!("{name} does not start: {why}")))
    }
}

impl<S: Stores> Member<S> {
    fn disk_is_well(&mut self) {
        self.is_disk_ill = false;
        let disk = &self.node.disk;
        disk.set_capacity(None);
        disk.set_faults(Faults::default(), &self.node.chance.chance());
        disk.set_latency_max(self.usual_latency);
        self.node.history.add(&self.node.name, What::DiskFine);
    }
}
