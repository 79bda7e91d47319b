//! Things go wrong in a world, are mended, and go wrong no more.

use std::time::Duration;

use ltq_store::simulation::Faults;
use ltq_transport::Weather;
use tokio::time::sleep;

use crate::{
    chance::Seeded,
    history::What,
    node::NODE,
    plan::Part,
    stores::Stores,
    trouble::Trouble,
    violation::Rule,
    world::{End, World, broken},
};

impl<S: Stores> World<S> {
    /// Something goes wrong, and what it leaves broken is mended.
    pub(crate) async fn goes_wrong(&mut self, part: &Part, trouble: Trouble) -> Result<(), End> {
        let chance = &part.chance;
        sleep(chance.millis(3_000)).await;
        self.history.note(&part.name, trouble);
        match trouble {
            Trouble::BadWeather => {
                let weather = weather(chance);
                self.history.add(&part.name, What::Weather(weather));
                self.node.network.set_weather(weather);
            }
            Trouble::Kill => self.node.kill(false),
            Trouble::PowerCut => self.node.kill(true),
            Trouble::DiskStops => {
                let after = self.node.disk.operations() + 1 + chance.below(200);
                self.node.disk.crash_at(after);
                self.history.add(&part.name, What::DiskFails("it stops soon".to_owned()));
                sleep(chance.millis(2_000)).await;
                self.node.kill(true);
            }
            Trouble::Stop => self.node.stop(chance.millis(10_000)).await,
            Trouble::ClockJumps => {
                let millis = i64::try_from(chance.below(20_000)).unwrap_or(0) - 10_000;
                self.history.add(&part.name, What::ClockJumps { millis });
                self.clock.jump(millis);
            }
            Trouble::DiskFull => {
                let room = chance.below(300 << 10);
                self.history.add(&part.name, What::Room(room));
                self.node.disk.set_capacity(Some(self.node.disk.used() + room));
                sleep(chance.millis(3_000)).await;
                self.node.disk.set_capacity(None);
                self.history.add(&part.name, What::DiskFine);
            }
            Trouble::SyncFails => {
                let syncs = chance.below(20);
                self.history.add(&part.name, What::DiskFails(format!("sync {syncs} from now")));
                self.node.disk.fail_sync_in(syncs);
            }
            Trouble::ReadsFail => {
                self.history.add(&part.name, What::ReadsFail);
                let faults = Faults { reads: 1 + chance.below(20), ..Faults::default() };
                self.node.disk.set_faults(faults, &chance.chance());
                sleep(chance.millis(3_000)).await;
                self.node.disk.set_faults(Faults::default(), &chance.chance());
            }
            Trouble::WritesFail => {
                let one_in = |most| if chance.one_in(2) { 1 + chance.below(most) } else { 0 };
                let faults = Faults {
                    writes: one_in(100),
                    syncs: one_in(50),
                    names: one_in(20),
                    ..Faults::default()
                };
                self.history.add(&part.name, What::DiskFails(format!("{faults:?}")));
                self.node.disk.set_faults(faults, &chance.chance());
                sleep(chance.millis(3_000)).await;
                self.node.disk.set_faults(Faults::default(), &chance.chance());
            }
            Trouble::Damage => {
                self.node.stop(Duration::from_secs(5)).await;
                let (file, what) = self.node.disk.damage(&mut chance.chance());
                self.damaged = true;
                let what = format!("{what} of {}", file.display());
                self.history.add(&part.name, What::Damaged(what));
            }
        }
        sleep(chance.millis(1_000)).await;
        self.look().await;
        self.mend().await
    }

    /// What the node has in memory just now.
    async fn look(&self) {
        if let Some(broker) = &self.node.running {
            let memory_bytes = broker.stats().await.store.memory_bytes;
            let most = self.node.stores.memory_bytes_max();
            self.history.add(NODE, What::AtWork { memory_bytes, most });
        }
    }

    /// Does what an operator does, or whoever watches the node for him.
    pub(crate) async fn mend(&mut self) -> Result<(), End> {
        // A device that has stopped taking changes is noticed by whoever watches it, if not by a node
        // that had none to make.
        if self.node.store_failed() || self.node.disk.has_stopped() {
            self.node.stop(Duration::from_secs(1)).await;
            // What lies on a device that failed is what it has, not what memory had of it.
            if self.node.disk.has_stopped() {
                let mut chance = self.node.chance.chance();
                self.node.disk = self.node.disk.after_power_cut(&mut chance);
            }
        }
        if self.node.running.is_none() {
            self.start().await?;
        }
        Ok(())
    }

    pub(crate) async fn start(&mut self) -> Result<(), End> {
        match self.node.start().await {
            Ok(()) => Ok(()),
            Err(why) if self.damaged => {
                // An operator would repair it. Nothing more can be asked of it here.
                self.history.note(NODE, format!("does not start any more: {why}"));
                Err(End::GivenUp)
            }
            Err(why) => Err(broken(Rule::Start, format!("the node does not start: {why}"))),
        }
    }

    /// Nothing goes wrong any more.
    pub(crate) async fn heal(&mut self) -> Result<(), End> {
        self.node.network.set_weather(Weather::default());
        self.history.add("world", What::Weather(Weather::default()));
        self.node.disk.set_capacity(None);
        self.node.disk.fail_sync_in(u64::MAX);
        self.node.disk.set_faults(Faults::default(), &self.node.chance.chance());
        self.mend().await?;
        self.history.add("world", What::DiskFine);
        self.history.note("world", "nothing goes wrong from now on");
        Ok(())
    }
}

fn weather(chance: &Seeded) -> Weather {
    let one_in = |most: u64| if chance.one_in(2) { 0 } else { 20 + chance.below(most) };
    Weather {
        delay_max: chance.millis(if chance.one_in(3) { 100 } else { 5 }),
        stall_one_in: one_in(200),
        stall_max: chance.millis(4_000),
        cut_one_in: one_in(400),
        silence_one_in: one_in(600),
        refuse_one_in: if chance.one_in(2) { 0 } else { 2 + chance.below(10) },
        pieces: chance.one_in(2),
        window: 1 << (6 + chance.below(12)),
        ..Weather::default()
    }
}
