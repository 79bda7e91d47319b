//! What is looked at by itself, when nothing else is wrong.

use std::time::Duration;

use super::{history::Scene, partitions::CUT, plan::Act, world::World};
use crate::{chance::Seeded, history::What, plan::Part, stores::Stores, world::End};

impl<S: Stores> World<S> {
    /// Something happens by itself; then nothing is wrong again.
    ///
    /// # Errors
    /// What is gone does not come back.
    pub(super) async fn act(&mut self, part: &Part, act: Act) -> Result<(), End> {
        match act {
            Act::NoRegistry => self.no_registry(&part.chance).await?,
            Act::LosesNode => self.loses_node(&part.chance).await?,
        }
        self.calm().await
    }

    /// All registries go, for so long that they would have forgotten everybody.
    async fn no_registry(&mut self, chance: &Seeded) -> Result<(), End> {
        self.say(Scene::RegistriesGone);
        // Whoever stood still knows everybody still when it goes on, and has heard of nobody meanwhile.
        let stand_still = chance.one_in(2);
        let names: Vec<_> = self.registries.iter().map(|it| it.name.clone()).collect();
        for (registry, name) in names.iter().enumerate() {
            let silent = chance.one_in(2);
            if stand_still {
                self.stand_still(name);
            } else if let Some(registry) = self.registries.get_mut(registry) {
                registry.kill(silent);
            }
        }
        self.pass(Duration::from_secs(40)).await?;
        names.iter().for_each(|name| self.go_on(name));
        for registry in &mut self.registries {
            let started = registry.start().await;
            started.map_err(|why| {
                let why = format!("{}: {why}", registry.name);
                crate::world::broken(crate::violation::Rule::Start, why)
            })?;
        }
        self.say(Scene::RegistriesBack);
        Ok(())
    }

    /// A node's machine is gone, and answers nobody.
    async fn loses_node(&mut self, chance: &Seeded) -> Result<(), End> {
        let up: Vec<_> = self.members.iter_mut().filter(|it| it.is_up()).collect();
        if up.len() < 2 {
            return Ok(());
        }
        let one = chance.below(up.len() as u64) as usize;
        let Some(member) = up.into_iter().nth(one) else { return Ok(()) };
        let node = member.name().to_owned();
        if chance.one_in(3) {
            // Its process is there, and does nothing: connections to it stay, and new ones are taken in.
            self.say(Scene::Struck { node: node.clone() });
            self.stand_still(&node);
            self.pass(Duration::from_secs(15)).await?;
            self.say(Scene::Recovers);
            self.go_on(&node);
            return Ok(());
        }
        let (hosts, one) = (self.hosts(), [node.clone()]);
        self.partitions.add(&self.network, [&one, &hosts], CUT, None);
        self.partitions.add(&self.network, [&hosts, &one], CUT, None);
        self.say(Scene::Struck { node: node.clone() });
        let power = chance.one_in(2);
        for member in self.members.iter_mut().filter(|it| it.name() == node) {
            member.kill(power);
        }
        self.pass(Duration::from_secs(15)).await?;
        self.say(Scene::Recovers);
        self.partitions.clear(&self.network);
        for member in self.members.iter_mut().filter(|it| it.name() == node) {
            let started = member.start().await;
            started.map_err(|why| {
                let why = format!("{node} does not start: {why}");
                crate::world::broken(crate::violation::Rule::Start, why)
            })?;
        }
        Ok(())
    }

    fn say(&self, scene: Scene) {
        self.history.add("world", What::Cluster(scene));
    }
}
