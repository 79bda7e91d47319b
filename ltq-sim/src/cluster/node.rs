//! A node of a cluster: one that announces itself, drains, leaves and comes back.

use std::time::Duration;

use ltq_core::{Address, AdminRequest, DrainOptions, DrainWishes, Entropy as _, WallClock as _};
use ltq_discovery::{Epoch, NodeInfo, NodeState};
use tokio::time::timeout;

use super::{
    announcing::{Announcing, Registrars},
    topics,
};
use crate::{
    node::{Doom, Node, NotStarted},
    stores::Stores,
};

/// A node, and how registries hear of it.
pub(super) struct Member<S: Stores> {
    pub(super) node: Node<S>,
    /// The addresses of all registries.
    pub(super) registries: Vec<String>,
    pub(super) announcing: Option<Announcing>,
    /// As long as somebody holds this, a drain can be asked for.
    pub(super) wishes: Option<DrainWishes>,
    /// Whether it was stopped for good.
    pub(super) has_left: bool,
    /// Whether something is the matter with its disk.
    pub(super) is_disk_ill: bool,
    /// How long its disk takes at most when nothing is.
    pub(super) usual_latency: Duration,
    /// What registries want to hear.
    pub(super) token: Option<String>,
}

impl<S: Stores> Member<S> {
    pub(super) fn name(&self) -> &str {
        &self.node.name
    }

    pub(super) const fn is_up(&self) -> bool {
        self.node.running.is_some()
    }

    /// Whether its process is stopped for a while.
    pub(super) fn stands_still(&self) -> bool {
        self.node.process.is_stopped()
    }

    /// Starts it if it is not there and has not left, makes the topics, and announces it.
    ///
    /// # Errors
    /// Why it does not start, in words.
    pub(super) async fn start(&mut self) -> Result<(), String> {
        if self.is_up() || self.has_left {
            return Ok(());
        }
        match self.node.start(None).await {
            Ok(()) => {}
            Err(NotStarted::Killed) => return Err("it was killed meanwhile".to_owned()),
            Err(NotStarted::Failed(why)) => return Err(why),
        }
        let Some(broker) = self.node.running.clone() else { return Ok(()) };
        match timeout(MADE_WITHIN, self.node.process.run(topics::make(&broker))).await {
            Ok(made) => made?,
            Err(_) => return Err(format!("no topics were made within {MADE_WITHIN:?}")),
        }
        let transport = self.node.transport();
        let started = self.node.clock.now().0;
        let epoch = Epoch { started, instance: self.node.chance.next() };
        let address = Address::new(transport.scheme(), self.name());
        let id = self.name().parse().map_err(|error| format!("its name: {error}"))?;
        let info = NodeInfo::new(id, [address]).map_err(|error| error.to_string())?;
        let info = info.with_epoch(epoch);
        let to = Registrars {
            addresses: &self.registries,
            token: self.token.as_deref(),
            transport: &transport,
            process: &self.node.process,
        };
        let (chance, history) = (&self.node.chance, &self.node.history);
        self.announcing = Some(Announcing::start(&broker, &info, &to, chance, history));
        self.wishes = Some(broker.drain_wishes());
        Ok(())
    }

    /// It is killed, or its machine loses its power. If it was struck at a point it is buried.
    pub(super) fn kill(&mut self, power: bool) {
        self.node.kill(power);
        // Nothing that they say reaches anybody.
        self.announcing = None;
        self.wishes = None;
    }

    /// It will be killed at the point behind so many others.
    pub(super) fn doom(&mut self, after: u64, power: bool) {
        self.node.doom(Doom::Killed { after, power });
    }

    /// Stops it as an operator does: registries are told first.
    pub(super) async fn stop(&mut self, deadline: Duration) {
        self.node.process.go_on();
        if let Some(announcing) = self.announcing.take() {
            announcing.withdraw(&self.node.name, &self.node.history).await;
        }
        self.wishes = None;
        self.node.stop(deadline).await;
    }

    /// It is to take in nothing more, or to take in again.
    pub(super) async fn drain(&self, drains: bool) {
        let (Some(broker), Some(announcing)) = (&self.node.running, &self.announcing) else {
            return;
        };
        let request = match drains {
            true => AdminRequest::Drain { options: DrainOptions::default() },
            false => AdminRequest::EndDrain,
        };
        let asked = broker.admin(request).await;
        let is_wanted = self.wishes.as_ref().and_then(DrainWishes::wanted).is_some();
        // Registries hear of it first, as the program around a broker sees to.
        announcing.say(if is_wanted { NodeState::Draining } else { NodeState::Ready });
        broker.set_draining(is_wanted);
        self.node.history.note(self.name(), format!("drains: {is_wanted} ({asked:?})"));
    }
}

/// At most so long a node that is well takes until it has topics.
const MADE_WITHIN: Duration = Duration::from_secs(20);
