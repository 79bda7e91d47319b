//! A client that follows the nodes below a prefix.

use std::{convert::Infallible, mem, sync::Arc};

use async_trait::async_trait;
use ltq_core::Address;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, warn};

use super::{
    Config,
    gateway::{Changes, Gateway, GatewayError, Range},
    json::{Header, KeyValue},
    keys::end_of,
    sight::Sight,
    view::View,
};
use crate::{DiscoveryError, Interest, NodeSet, Watch};

/// The nodes that are of interest.
pub(super) struct Watching {
    shared: Arc<Shared>,
    news: watch::Receiver<Standing>,
    given: Option<NodeSet>,
    /// Whether the caller knows that etcd is not heard.
    is_loss_told: bool,
    _task: JoinSet<()>,
}

struct Shared {
    config: Arc<Config>,
    interest: Interest,
    sight: Mutex<Sight>,
    standing: watch::Sender<Standing>,
}

/// How it stands with etcd.
#[derive(Clone, Debug, Default)]
struct Standing {
    is_heard: bool,
    /// Why a member was not heard, the last time that one was not.
    why: Option<(Address, String)>,
    /// How many members in a row will not answer, however often they are asked.
    refused: usize,
}

impl Watching {
    /// Begins, and waits until all is known that there is.
    pub(super) async fn start(
        config: Arc<Config>,
        interest: Interest,
    ) -> Result<Self, DiscoveryError> {
        let (standing, mut news) = watch::channel(Standing::default());
        let sight = Mutex::new(Sight::new());
        let shared = Arc::new(Shared { config: Arc::clone(&config), interest, sight, standing });
        let mut task = JoinSet::new();
        task.spawn(Arc::clone(&shared).run());
        let all = config.endpoints.len();
        let known = |standing: &Standing| standing.is_heard || standing.refused >= all;
        let _ = timeout(config.patience, news.wait_for(known)).await;
        if !shared.sight.lock().is_known() {
            return Err(shared.lost());
        }
        Ok(Self { shared, news, given: None, is_loss_told: false, _task: task })
    }
}

#[async_trait]
impl Watch for Watching {
    async fn changed(&mut self) -> Result<NodeSet, DiscoveryError> {
        loop {
            let is_heard = self.news.borrow_and_update().is_heard;
            self.is_loss_told &= !is_heard;
            let now = Instant::now();
            let (nodes, next) = {
                let mut sight = self.shared.sight.lock();
                (sight.nodes(now), sight.next_timeout(now))
            };
            if let Some(nodes) = nodes
                && self.given.as_ref() != Some(&nodes)
            {
                self.given = Some(nodes.clone());
                return Ok(nodes);
            }
            if !is_heard && !mem::replace(&mut self.is_loss_told, true) {
                return Err(self.shared.lost());
            }
            let later = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The task lives as long as this does.
                _ = self.news.changed() => {}
                () = later => {}
            }
        }
    }
}

impl Shared {
    /// Why nothing is known, or no more is heard.
    fn lost(&self) -> DiscoveryError {
        let Standing { why, refused, .. } = self.standing.borrow().clone();
        let nobody = || ("etcd".to_owned(), "no answer yet".to_owned());
        let (backend, why) =
            why.map_or_else(nobody, |(address, why)| (format!("etcd at {address}"), why));
        match refused >= self.config.endpoints.len() {
            true => DiscoveryError::Refused { backend, why },
            false => DiscoveryError::Unreachable { backend, source: why.into() },
        }
    }

    /// Listens to one member after another, for ever. One that is not heard is a loss once all others were
    /// tried.
    async fn run(self: Arc<Self>) {
        let config = &self.config;
        let (mut failures, mut rounds, mut short) = (0, 0, 0);
        for address in config.endpoints_from_any() {
            let mut heard = None;
            let Err(error) = self.listen(address, &mut heard).await;
            if let Some(heard) = heard {
                failures = 0;
                short += 1;
                if heard.elapsed() > STABLE {
                    (rounds, short) = (0, 0);
                }
            }
            failures += 1;
            let (is_round, refuses) = (failures >= config.endpoints.len(), error.is_final());
            warn!(endpoint = %address, %error, "etcd is not heard");
            if is_round {
                self.sight.lock().lost(Instant::now());
            }
            self.standing.send_modify(|standing| {
                standing.why = Some((address.clone(), error.to_string()));
                standing.is_heard &= !is_round;
                standing.refused = if refuses { standing.refused + 1 } else { 0 };
            });
            if is_round {
                failures = 0;
                sleep(if refuses { config.retry.1 } else { config.wait(rounds) }).await;
                rounds = rounds.saturating_add(1);
            } else if short >= config.endpoints.len() {
                // Those that are heard and lost again at once are no better than none.
                short = 0;
                sleep(config.wait(rounds)).await;
                rounds = rounds.saturating_add(1);
            }
        }
    }

    /// Until that ends, and why it does. `heard` is when all was known.
    async fn listen(
        &self,
        address: &Address,
        heard: &mut Option<Instant>,
    ) -> Result<Infallible, GatewayError> {
        let config = &self.config;
        let mut gateway = Gateway::connect(config, address).await?;
        let (view, header) = self.snapshot(&mut gateway).await?;
        let (watched, revision) = (view.watched(), header.revision);
        // What was changed after the revision that the snapshot is of: nothing is missed in between.
        let watching = Gateway::connect(config, address).await?;
        let changes = watching.watch(&watched, revision.saturating_add(1)).await?;
        let now = Instant::now();
        self.sight.lock().read(view, header, now);
        *heard = Some(now);
        debug!(endpoint = %address, revision, "watching etcd");
        self.standing.send_modify(|standing| {
            (standing.is_heard, standing.refused) = (true, 0);
        });
        tokio::select! {
            ended = self.probe(&mut gateway, &watched) => ended,
            ended = self.follow(changes) => ended,
        }
    }

    /// Looks again and again whether etcd answers: a member that is cut off from the others, or stands still,
    /// says nothing, as one does where nothing changes.
    async fn probe(&self, gateway: &mut Gateway, key: &str) -> Result<Infallible, GatewayError> {
        loop {
            sleep(self.config.probe).await;
            gateway.probe(key).await?;
        }
    }

    async fn follow(&self, mut changes: Changes) -> Result<Infallible, GatewayError> {
        loop {
            let events = changes.next().await?;
            if events.is_empty() {
                continue;
            }
            {
                let mut sight = self.sight.lock();
                for event in &events {
                    if let Err(skipped) = sight.follow(&event.kind, &event.kv) {
                        self.skip(&event.kv.key, &skipped);
                    }
                }
            }
            self.standing.send_modify(|_| {});
        }
    }

    fn put(&self, view: &mut View, of: &KeyValue) {
        if let Err(skipped) = view.put(&of.key, &of.value, of.lease) {
            self.skip(&of.key, &skipped);
        }
    }

    fn skip(&self, key: &[u8], why: &dyn std::fmt::Display) {
        let key = String::from_utf8_lossy(key.get(..KEY_BYTES_SHOWN).unwrap_or(key));
        self.config.figures.skip(&key, why);
    }

    /// All that is of interest, as of one revision.
    async fn snapshot(&self, gateway: &mut Gateway) -> Result<(View, Header), GatewayError> {
        let config = &self.config;
        let mut view = View::new(config.keys.clone(), self.interest.clone(), config.bounds);
        let (mut revision, mut header) = (0, Header::default());
        for range in view.ranges() {
            let (mut from, end) = (range.clone().into_bytes(), end_of(&range));
            let (mut limit, mut keys_only) = (PAGE, false);
            loop {
                let range = Range { from: &from, end: &end, limit, revision, keys_only };
                let page = match gateway.range(&range).await {
                    // What is too long for an answer is asked for with fewer others, and in the end is left
                    // aside.
                    Err(error) if error.is_too_long() && !keys_only => {
                        (limit, keys_only) = ((limit / 2).clamp(1, PAGE_OF_LONG), limit == 1);
                        // Of the rest of that answer nothing is to be read.
                        *gateway = Gateway::connect(config, &gateway.address()).await?;
                        continue;
                    }
                    page => page?,
                };
                if revision == 0 {
                    (revision, header) = (page.header.revision, page.header);
                }
                for of in &page.kvs {
                    match keys_only {
                        true => self.skip(&of.key, &"it is too long"),
                        false => self.put(&mut view, of),
                    }
                }
                (limit, keys_only) = ((limit * 2).min(PAGE), false);
                match page.kvs.last() {
                    // What goes backwards would never end.
                    Some(last) if page.more && last.key < from => {
                        let why = "its keys are out of order".to_owned();
                        return Err(GatewayError::Ended(why));
                    }
                    Some(last) if page.more => {
                        from.clone_from(&last.key);
                        from.push(0);
                    }
                    _ => break,
                }
            }
        }
        Ok((view, header))
    }
}

/// How many keys are asked for at once.
const PAGE: usize = 512;
/// How many of the longest parts of topics an answer has room for.
const PAGE_OF_LONG: usize = 8;
/// Of a key that is left aside.
const KEY_BYTES_SHOWN: usize = 512;
/// What was heard for so long is a success.
const STABLE: std::time::Duration = std::time::Duration::from_secs(5);
