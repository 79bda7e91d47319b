//! Things go wrong in a world, are mended, and go wrong no more.

use std::time::Duration;

use ltq_store::simulation::Faults;
use ltq_transport::Weather;

use crate::{
    chance::Seeded,
    checks::SILENT_MAX,
    history::What,
    lasting::Condition,
    node::{Doom, NODE, NotStarted},
    plan::Part,
    stores::Stores,
    trouble::Trouble,
    violation::Rule,
    world::{End, World, broken},
};

impl<S: Stores> World<S> {
    /// Something goes wrong, and what it leaves broken is mended; but for what goes on for a while, which
    /// may be there still when the next thing goes wrong.
    pub(crate) async fn goes_wrong(&mut self, part: &Part, trouble: Trouble) -> Result<(), End> {
        let chance = &part.chance;
        let calm = chance.millis(3_000);
        self.pass(if self.lasting.is_empty() { calm } else { calm / 4 }).await;
        self.history.note(&part.name, trouble);
        match trouble {
            Trouble::BadWeather => {
                let weather = weather(chance);
                self.history.add(&part.name, What::Weather(weather));
                self.node.network.set_weather(weather);
                if chance.one_in(2) {
                    self.pass(chance.millis(4_000)).await;
                    self.clears_up(&part.name);
                    // Until whoever is gone is noticed, and then for as long as much can happen.
                    self.pass(SILENT_MAX + chance.millis(5_000)).await;
                }
            }
            Trouble::Kill => self.strike(chance, false).await,
            Trouble::PowerCut => self.strike(chance, true).await,
            Trouble::DiskStops => {
                self.node.doom(Doom::DiskStops { after: chance.below(200) });
                self.history.add(&part.name, What::DiskFails("it stops soon".to_owned()));
                self.pass(chance.millis(2_000)).await;
                self.node.kill(true);
            }
            Trouble::DiesStarting => self.dies_starting(part).await?,
            Trouble::Stop => {
                if chance.one_in(3) && self.may(Trouble::Kill) {
                    // Whoever stops it has no patience.
                    self.node.doom(Doom::Killed { after: points(chance), power: false });
                }
                self.node.stop(chance.millis(10_000)).await;
            }
            Trouble::ClockJumps => {
                let millis = i64::try_from(chance.below(20_000)).unwrap_or(0) - 10_000;
                if chance.one_in(3) && self.may(Trouble::Stop) {
                    // A node that is away does not see it jump.
                    self.node.stop(chance.millis(10_000)).await;
                }
                self.history.add(&part.name, What::ClockJumps { millis });
                self.clock.jump(millis);
            }
            Trouble::DiskFull => {
                let room = chance.below(300 << 10);
                if room.is_multiple_of(3) {
                    // It is the process that is full: of connections, say.
                    let (more, taken) = (room % 16, room.is_multiple_of(2));
                    self.history.add(&part.name, What::Descriptors(more));
                    self.node.disk.set_descriptors(Some(more), taken);
                    self.goes_on(chance, Condition::NoDescriptors).await;
                } else {
                    self.history.add(&part.name, What::Room(room));
                    self.node.disk.set_capacity(Some(self.node.disk.used() + room));
                    self.goes_on(chance, Condition::Full).await;
                }
            }
            Trouble::SyncFails => {
                let syncs = chance.below(20);
                self.history.add(&part.name, What::DiskFails(format!("sync {syncs} from now")));
                self.node.disk.fail_sync_in(syncs);
            }
            Trouble::ReadsFail => {
                self.history.add(&part.name, What::ReadsFail);
                if chance.one_in(4) {
                    self.spoil(part);
                } else if chance.one_in(2) && self.may(Trouble::Kill) {
                    self.starts_without(chance).await?;
                } else {
                    let faults = Faults { reads: 1 + chance.below(20), ..Faults::default() };
                    self.goes_on(chance, Condition::Fails(faults)).await;
                }
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
                self.goes_on(chance, Condition::Fails(faults)).await;
            }
            Trouble::DiskSlow => {
                let latency = chance.millis(2_000);
                self.goes_on(chance, Condition::Slow(latency)).await;
            }
            Trouble::Damage => {
                if chance.one_in(2) {
                    self.node.stop(Duration::from_secs(5)).await;
                }
                let (file, what) = self.node.disk.damage(&mut chance.chance());
                self.damaged = true;
                let what = format!("{what} of {}", file.display());
                self.history.add(&part.name, What::Damaged(what));
            }
        }
        self.pass(chance.millis(1_000)).await;
        self.look().await;
        self.mend().await
    }

    /// A sector of some file cannot be read until it is written, or the disk is fine again.
    fn spoil(&self, part: &Part) {
        let disk = &self.node.disk;
        let files: Vec<_> = disk.files().into_iter().filter(|(_, len)| *len > 0).collect();
        let Some((path, len)) = files.get(part.chance.below(files.len().max(1) as u64) as usize)
        else {
            return;
        };
        let at = part.chance.below(*len as u64);
        disk.spoil(path, at);
        self.history.note(&part.name, format!("{} cannot be read at {at}", path.display()));
    }

    fn may(&self, trouble: Trouble) -> bool {
        !self.not.contains(&trouble)
    }

    /// The node is killed at once, or at one of the next points.
    async fn strike(&mut self, chance: &Seeded, power: bool) {
        if !chance.one_in(4) {
            self.node.doom(Doom::Killed { after: points(chance), power });
            let struck = self.node.struck();
            self.pass_until(Duration::from_secs(2), struck).await;
        }
        self.node.kill(power);
    }

    /// The node is to start while one of the first reads fails.
    async fn starts_without(&mut self, chance: &Seeded) -> Result<(), End> {
        self.strike(chance, false).await;
        self.pass(chance.millis(300)).await;
        self.node.disk.fail_read_in(Some(chance.below(40)));
        self.mend().await?;
        self.node.disk.fail_read_in(None);
        Ok(())
    }

    /// The node goes, and each time that it starts it goes again, before or soon after it is there.
    pub(crate) async fn dies_starting(&mut self, part: &Part) -> Result<(), End> {
        let chance = &part.chance;
        self.node.kill(chance.one_in(2));
        for _ in 0..1 + chance.below(5) {
            self.pass(chance.millis(300)).await;
            let disk_stops = chance.one_in(3);
            let (after, power) = (chance.below(1 << (1 + chance.below(7))), chance.one_in(2));
            let doom = match disk_stops {
                true => Doom::DiskStops { after },
                false => Doom::Killed { after, power },
            };
            self.history.note(&part.name, format!("the node is to start, and {doom:?}"));
            match self.node.start(Some(doom)).await {
                Ok(()) => {
                    let struck = self.node.struck();
                    self.pass_until(chance.millis(500), struck).await;
                }
                Err(NotStarted::Killed) => {}
                Err(NotStarted::Failed(why)) => self.may_fail(&why)?,
            }
            self.node.kill(disk_stops || power);
        }
        Ok(())
    }

    /// A node did not start, as it may if its disk failed it.
    fn may_fail(&self, why: &str) -> Result<(), End> {
        self.history.note(NODE, format!("does not start: {why}"));
        if self.damaged {
            // An operator would repair it. Nothing more can be asked of it here.
            return Err(End::GivenUp);
        }
        if self.node.disk_failed() {
            return Ok(());
        }
        Err(broken(Rule::Start, format!("the node does not start: {why}")))
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
            self.restart_machine();
        }
        if self.node.running.is_none() {
            self.start().await?;
        }
        Ok(())
    }

    /// What lies on a device that has stopped is what it has, not what memory had of it.
    fn restart_machine(&mut self) {
        if self.node.disk.has_stopped() {
            self.node.kill(true);
        }
    }

    pub(crate) async fn start(&mut self) -> Result<(), End> {
        for _ in 0..STARTS_MAX {
            let Err(NotStarted::Failed(why)) = self.node.start(None).await else { return Ok(()) };
            self.may_fail(&why)?;
            // Nobody would go on with such a disk.
            self.disk_is_fine();
            self.restart_machine();
        }
        Err(broken(Rule::Start, format!("the node does not start, {STARTS_MAX} times")))
    }

    /// The weather is fine from now on.
    fn clears_up(&self, who: &str) {
        self.node.network.set_weather(Weather::default());
        self.history.add(who, What::Weather(Weather::default()));
    }

    /// Nothing is wrong with the disk any more.
    fn disk_is_fine(&mut self) {
        self.lasting.clear();
        self.node.disk.set_capacity(None);
        self.node.disk.set_descriptors(None, false);
        self.node.disk.fail_sync_in(u64::MAX);
        self.node.disk.fail_read_in(None);
        self.node.disk.mend_sectors();
        self.disk_fails();
        self.history.add("world", What::DiskFine);
    }

    /// Nothing goes wrong any more.
    pub(crate) async fn heal(&mut self) -> Result<(), End> {
        self.clears_up("world");
        self.disk_is_fine();
        self.mend().await?;
        self.history.add("world", What::Healed);
        Ok(())
    }
}

/// How many points the node lives for still: a few, or as many as it has in about a second.
fn points(chance: &Seeded) -> u64 {
    chance.below(1 << (2 + chance.below(11)))
}

pub(crate) fn weather(chance: &Seeded) -> Weather {
    let one_in = |most: u64| if chance.one_in(2) { 0 } else { 20 + chance.below(most) };
    Weather {
        delay_max: chance.millis(if chance.one_in(3) { 100 } else { 5 }),
        stall_one_in: one_in(200),
        stall_max: chance.millis(4_000),
        cut_one_in: one_in(400),
        silence_one_in: one_in(600),
        reset_one_in: one_in(600),
        half_close_one_in: one_in(600),
        refuse_one_in: if chance.one_in(2) { 0 } else { 2 + chance.below(10) },
        hang_one_in: if chance.one_in(2) { 0 } else { 2 + chance.below(10) },
        pieces: chance.one_in(2),
        window: 1 << (6 + chance.below(12)),
        ..Weather::default()
    }
}

/// As often an operator tries. The first one that fails is the last one on a disk that fails.
const STARTS_MAX: usize = 3;
