//! What a node has in etcd: its leases, and its keys.
//!
//! A node's topics are written first, under the number of its lease, where nobody looks yet; then the node
//! itself, by a transaction that finds the key as it was judged; and from then on changes, by transactions that
//! find it still going with that lease. So neither an earlier run of the node nor a connection that was given up
//! can undo what a later one wrote, and nobody is told of half a node.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    announcing::{End, Shared},
    gateway::{Gateway, GatewayError, If, Op},
    json::KeyValue,
    keys::Part,
    value::{self, ValueError},
};
use crate::{
    Epoch, Load, NodeId, NodeInfo,
    registry::{LOADS_EVERY, NodeChange},
};

/// Why a node is not taken in.
#[derive(Debug, Error)]
pub(super) enum NotTaken {
    #[error(
        "node {node} of epoch {epoch} is not taken in: one of epoch {known} was started after it and is there"
    )]
    Superseded { node: NodeId, epoch: Epoch, known: Epoch },
    #[error("the node cannot be written down: {0}")]
    Value(#[from] ValueError),
    #[error("node {0} is not taken in: others write under its id all the time")]
    Contended(NodeId),
}

pub(super) struct Holding {
    pub(super) shared: Arc<Shared>,
    /// The lease of the node and its topics. It may not have come to be, or be gone.
    lease: Option<i64>,
    /// The shorter one, while the node is heard.
    heard: Option<i64>,
    /// The lease before.
    past: Option<i64>,
    /// Whether the node was taken in once.
    was_taken: bool,
    /// The node whose topics are written under its lease, and which parts of them there are.
    written: Option<Arc<NodeInfo>>,
    parts: BTreeSet<Part>,
    /// The value that stands for the node, and the load in it.
    value: Vec<u8>,
    load: Load,
    /// When another load was told last.
    load_told: Option<Instant>,
}

impl Holding {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            lease: None,
            heard: None,
            past: None,
            was_taken: false,
            written: None,
            parts: BTreeSet::new(),
            value: Vec::new(),
            load: Load(0),
            load_told: None,
        }
    }

    /// Sees to it that the node is there, by a connection that is new or after it was lost.
    pub(super) async fn take(&mut self, gateway: &mut Gateway) -> Result<(), End> {
        let shared = Arc::clone(&self.shared);
        let (config, node) = (&shared.config, shared.current());
        // It is written as a whole: who knows what became of it meanwhile.
        self.written = None;
        if let Some(lease) = self.lease
            && !gateway.keep(lease).await?
        {
            self.forget();
        }
        if let Some(heard) = self.heard
            && !gateway.keep(heard).await?
        {
            self.heard = None;
        }
        let lease = match self.lease {
            Some(lease) => lease,
            None => {
                // Known before it is asked for: what is written with it can be taken back in any case.
                let lease = self.number();
                self.lease = Some(lease);
                gateway.grant(lease, config.forgotten_after).await?;
                lease
            }
        };
        let heard = match self.heard {
            Some(heard) => heard,
            None => self.grant_heard(gateway).await?,
        };
        self.write_topics(gateway, &node, lease, None).await?;
        let key = config.keys.node(node.id());
        let value = value::of_node(&node, node.load()).map_err(NotTaken::from)?;
        let ops = [
            Op::Put { key: key.clone(), value: value.clone(), lease },
            Op::Put {
                key: config.keys.heard(node.id()),
                value: format!("{lease:x}").into_bytes(),
                lease: heard,
            },
            Op::Delete { key: config.keys.withdrawn(node.id()) },
        ];
        for _ in 0..ATTEMPTS {
            let there = gateway.get(&key).await?;
            let condition = match &there {
                None => If::Absent,
                Some(there) => {
                    if let Err(refused) = self.judge(&node, lease, there)
                        && is_heard(gateway, &config.keys.heard(node.id()), there.lease).await?
                    {
                        // Nothing of it is to be left.
                        self.release(gateway).await?;
                        return Err(refused.into());
                    }
                    If::UnchangedSince(there.mod_revision)
                }
            };
            if gateway.when(&key, Some(condition), &ops).await? {
                (self.was_taken, self.value, self.load) = (true, value, node.load());
                return Ok(());
            }
        }
        self.release(gateway).await?;
        Err(NotTaken::Contended(node.id().clone()).into())
    }

    /// Whether the node may take the place of what stands under its key, if that is heard.
    fn judge(&self, node: &NodeInfo, lease: i64, there: &KeyValue) -> Result<(), NotTaken> {
        if there.lease == lease || Some(there.lease) == self.past {
            return Ok(());
        }
        // What is no node, or is kept by nobody, is none that could be heard of.
        let Ok(known) = value::node(node.id(), &there.value) else { return Ok(()) };
        if there.lease == 0 {
            return Ok(());
        }
        let (epoch, known) = (node.epoch(), known.epoch());
        // Of two announcements of one run the later one counts, and the earlier one does not come back.
        if known > epoch || (known == epoch && self.was_taken) {
            return Err(NotTaken::Superseded { node: node.id().clone(), epoch, known });
        }
        Ok(())
    }

    /// Keeps the node there, and tells what changes of it, until it is not there any more. Says why.
    pub(super) async fn keep(
        &mut self,
        gateway: &mut Gateway,
        newest: &mut watch::Receiver<u64>,
    ) -> Result<&'static str, GatewayError> {
        const GONE: &str =
            "its lease is gone: etcd did not hear of it for too long, or was told so";
        const TAKEN_OVER: &str = "its key is another's, or gone";
        let shared = Arc::clone(&self.shared);
        let config = &shared.config;
        let Some(lease) = self.lease else { return Ok(GONE) };
        let key = config.keys.node(shared.current().id());
        let beat = config.suspected_after / BEATS;
        let mut beats = interval_at(Instant::now() + beat, beat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut kept = Instant::now();
        loop {
            tokio::select! {
                _ = beats.tick() => {
                    if !self.beat(gateway, lease).await? {
                        return Ok(TAKEN_OVER);
                    }
                    if kept.elapsed() >= config.forgotten_after / BEATS {
                        kept = Instant::now();
                        if !gateway.keep(lease).await? {
                            self.forget();
                            return Ok(GONE);
                        }
                        if !gateway.when(&key, Some(If::GoesWith(lease)), &[]).await? {
                            return Ok(TAKEN_OVER);
                        }
                    }
                }
                _ = newest.changed() => {
                    if !self.tell(gateway, lease).await? {
                        return Ok(TAKEN_OVER);
                    }
                }
            }
        }
    }

    /// Keeps the shorter lease, or makes it anew, and tells a load that is worth it. `false` if the node is not
    /// there any more.
    async fn beat(&mut self, gateway: &mut Gateway, lease: i64) -> Result<bool, GatewayError> {
        let shared = Arc::clone(&self.shared);
        let node = shared.current();
        let is_kept = match self.heard {
            Some(heard) => gateway.keep(heard).await?,
            None => false,
        };
        if !is_kept {
            let heard = self.grant_heard(gateway).await?;
            let keys = &shared.config.keys;
            let value = format!("{lease:x}").into_bytes();
            let op = Op::Put { key: keys.heard(node.id()), value, lease: heard };
            let condition = Some(If::GoesWith(lease));
            if !gateway.when(&keys.node(node.id()), condition, &[op]).await? {
                return Ok(false);
            }
        }
        // All who watch hear of it, and etcd writes it down: not at each beat.
        let is_time = self.load_told.is_none_or(|at| at.elapsed() >= LOADS_EVERY);
        if !is_time || !self.load.is_old_beside(node.load()) {
            return Ok(true);
        }
        self.load_told = Some(Instant::now());
        self.tell(gateway, lease).await
    }

    /// Writes what is different. `false` if the node is not there any more.
    async fn tell(&mut self, gateway: &mut Gateway, lease: i64) -> Result<bool, GatewayError> {
        let shared = Arc::clone(&self.shared);
        let node = shared.current();
        let condition = Some(If::GoesWith(lease));
        if !self.write_topics(gateway, &node, lease, condition).await? {
            return Ok(false);
        }
        // A load that hardly differs is not worth that all who watch hear of it.
        let is_old = self.load.is_old_beside(node.load());
        let load = if is_old { node.load() } else { self.load };
        let value = value::of_node(&node, load).or_else(|_| value::of_node(&node, node.load()));
        // With its own load it was looked at when it was announced.
        let Ok(value) = value else { return Ok(true) };
        if value == self.value {
            return Ok(true);
        }
        let key = shared.config.keys.node(node.id());
        let op = Op::Put { key: key.clone(), value: value.clone(), lease };
        let is_there = gateway.when(&key, condition, &[op]).await?;
        if is_there {
            (self.value, self.load) = (value, load);
        }
        Ok(is_there)
    }

    /// Writes the parts of topics that differ from what is written, in as many transactions as they need.
    async fn write_topics(
        &mut self,
        gateway: &mut Gateway,
        node: &Arc<NodeInfo>,
        lease: i64,
        condition: Option<If>,
    ) -> Result<bool, GatewayError> {
        let shared = Arc::clone(&self.shared);
        let keys = &shared.config.keys;
        let key = keys.node(node.id());
        let differs = self.different(node);
        // A node has been checked when it was announced: its parts can be written.
        let values = value::of_topics(node, |part| differs.contains(&part)).unwrap_or_default();
        let mut ops = Vec::new();
        for part in &differs {
            let key = keys.topics(node.id(), lease, *part);
            match values.get(part) {
                Some(value) => ops.push(Op::Put { key, value: value.clone(), lease }),
                None if self.parts.contains(part) => ops.push(Op::Delete { key }),
                None => {}
            }
        }
        // Whatever is interrupted here is written again as a whole.
        self.written = None;
        self.parts.extend(values.keys());
        let mut rest = &*ops;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(OPS_MAX).take_while(|op| {
                bytes += op.bytes();
                bytes <= REQUEST_BYTES
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            if !gateway.when(&key, condition, now).await? {
                return Ok(false);
            }
            rest = later;
        }
        self.parts.retain(|part| values.contains_key(part) || !differs.contains(part));
        self.written = Some(Arc::clone(node));
        Ok(true)
    }

    /// The parts in which topics differ from what is written.
    fn different(&self, node: &NodeInfo) -> BTreeSet<Part> {
        let Some(written) = &self.written else { return Part::all().collect() };
        // Whether its addresses differ or its topics are known is of no matter here.
        let Some(NodeChange { has, lacks, .. }) = NodeChange::between(written, node) else {
            return Part::all().collect();
        };
        has.iter().map(|(topic, _)| topic).chain(&lacks).map(Part::of).collect()
    }

    /// Says for a while that the node is no more, so that nobody takes it for one that is lost, and takes back what
    /// is written.
    pub(super) async fn withdraw(&mut self, gateway: &mut Gateway) -> Result<(), GatewayError> {
        if let Some(lease) = self.lease.filter(|_| self.was_taken) {
            let shared = Arc::clone(&self.shared);
            let (keys, node) = (&shared.config.keys, shared.current());
            let told = self.number();
            gateway.grant(told, WITHDRAWN_TOLD).await?;
            let value = node.epoch().to_string().into_bytes();
            let op = Op::Put { key: keys.withdrawn(node.id()), value, lease: told };
            // What another one wrote under its id meanwhile is not withdrawn.
            gateway.when(&keys.node(node.id()), Some(If::GoesWith(lease)), &[op]).await?;
        }
        self.release(gateway).await
    }

    /// Ends the leases, and everything that goes with them.
    pub(super) async fn release(&mut self, gateway: &mut Gateway) -> Result<(), GatewayError> {
        if let Some(lease) = self.lease {
            gateway.revoke(lease).await?;
        }
        if let Some(heard) = self.heard {
            gateway.revoke(heard).await?;
        }
        self.heard = None;
        self.forget();
        Ok(())
    }

    /// The lease is gone, and with it what was written.
    fn forget(&mut self) {
        self.past = self.lease.take().or(self.past);
        self.written = None;
        self.parts.clear();
        self.value.clear();
        self.shared.config.figures.is_announced.store(false, Ordering::Relaxed);
    }

    async fn grant_heard(&mut self, gateway: &mut Gateway) -> Result<i64, GatewayError> {
        let heard = self.number();
        self.heard = Some(heard);
        gateway.grant(heard, self.shared.config.suspected_after).await?;
        Ok(heard)
    }

    /// A number for a lease: positive, and by chance no other's.
    fn number(&self) -> i64 {
        (self.shared.config.entropy.next() >> 1).max(1) as i64
    }
}

/// Whether the run of a node that goes with this lease is heard.
async fn is_heard(gateway: &mut Gateway, key: &str, lease: i64) -> Result<bool, GatewayError> {
    let heard = gateway.get(key).await?;
    Ok(heard.is_some_and(|heard| heard.value == format!("{lease:x}").into_bytes()))
}

/// How long it is said that a node was withdrawn: who was out of sight for longer takes it for lost.
const WITHDRAWN_TOLD: Duration = Duration::from_secs(3_600);
/// How often a lease is kept before it would end.
const BEATS: u32 = 3;
/// How often a node tries to take its key while others write there.
const ATTEMPTS: u32 = 8;
/// Of a transaction; etcd takes 128 by default.
const OPS_MAX: usize = 100;
/// Of a transaction; etcd takes 1.5 MiB by default. One operation may have so many alone.
const REQUEST_BYTES: usize = 1 << 20;
