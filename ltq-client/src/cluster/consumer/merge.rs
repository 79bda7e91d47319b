//! One stream of what comes from many nodes.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;
use ltq_discovery::NodeId;
use parking_lot::Mutex;

use super::ClusterConsumeError;
use crate::{ConsumeError, Consumer};

/// The consumers on the nodes, and whose turn it is: one that has something has it again behind all others
/// that have. What has nothing costs nothing until it wakes.
pub(super) struct Merge {
    sources: BTreeMap<u64, Source>,
    /// Those that may have something, each once.
    ready: VecDeque<u64>,
    woken: Arc<Woken>,
    /// Lent to `woken`.
    taken: Vec<u64>,
    end: Option<End>,
    /// Of sources that are gone.
    past: BTreeMap<NodeId, Past>,
}

pub(super) struct Source {
    pub(super) node: NodeId,
    pub(super) consumer: Consumer,
    /// Messages that were taken from it.
    pub(super) taken: u64,
    pub(super) is_leaving: bool,
    is_ready: bool,
    state: Arc<SourceWaker>,
    waker: Waker,
}

/// What was of a node before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Past {
    pub(super) taken: u64,
    pub(super) stale: u64,
}

/// Why nothing more comes.
pub(super) enum End {
    /// It was wished.
    Closed,
    /// Told once, when all that came was taken.
    Failed(Option<ClusterConsumeError>),
}

/// What one look at a consumer gives.
pub(super) type Taken<T> = Poll<Option<Result<T, ConsumeError>>>;

impl Merge {
    pub(super) fn new() -> Self {
        Self {
            sources: BTreeMap::new(),
            ready: VecDeque::new(),
            woken: Arc::default(),
            taken: Vec::new(),
            end: None,
            past: BTreeMap::new(),
        }
    }

    /// Takes from this consumer too, unless nothing more is taken.
    pub(super) fn add(
        &mut self,
        number: u64,
        node: NodeId,
        consumer: Consumer,
    ) -> Option<Consumer> {
        if self.end.is_some() {
            return Some(consumer);
        }
        let is_woken = AtomicBool::new(false);
        let state = Arc::new(SourceWaker { number, is_woken, woken: self.woken.clone() });
        let waker = Waker::from(state.clone());
        let source =
            Source { node, consumer, taken: 0, is_leaving: false, is_ready: false, state, waker };
        // It is to be looked at once, so that it knows its waker.
        source.waker.wake_by_ref();
        self.sources.insert(number, source);
        None
    }

    /// Takes no more from a consumer. Dropping it ends its subscription.
    pub(super) fn remove(&mut self, number: u64) -> Option<Consumer> {
        let Source { node, consumer, taken, .. } = self.sources.remove(&number)?;
        let past = self.past.entry(node).or_default();
        past.taken += taken;
        past.stale += consumer.stale();
        Some(consumer)
    }

    /// Nothing more is taken from now on, whatever came. Returns what there was.
    pub(super) fn close(&mut self) -> Vec<(NodeId, Consumer)> {
        self.end = Some(End::Closed);
        self.ready.clear();
        self.woken.waker.wake();
        let sources = mem::take(&mut self.sources).into_values();
        sources.map(|source| (source.node, source.consumer)).collect()
    }

    /// It ends with this error, behind what came.
    pub(super) fn fail(&mut self, error: ClusterConsumeError) {
        self.end.get_or_insert(End::Failed(Some(error)));
        self.woken.waker.wake();
    }

    pub(super) const fn is_ended(&self) -> bool {
        self.end.is_some()
    }

    pub(super) fn sources(&mut self) -> impl Iterator<Item = &mut Source> {
        self.sources.values_mut()
    }

    pub(super) fn set_leaving(&mut self, number: u64, is_leaving: bool) {
        if let Some(source) = self.sources.get_mut(&number) {
            source.is_leaving = is_leaving;
        }
    }

    pub(super) const fn past(&self) -> &BTreeMap<NodeId, Past> {
        &self.past
    }

    /// Forgets what was of nodes that are gone.
    pub(super) fn retain_past(&mut self, keep: impl Fn(&NodeId) -> bool) {
        self.past.retain(|node, _| keep(node));
    }

    /// Looks at the consumers in turn until one has something, which `take` takes and `count` counts.
    pub(super) fn poll<T>(
        &mut self,
        context: &Context<'_>,
        mut take: impl FnMut(&mut Consumer, &mut Context<'_>) -> Taken<T>,
        count: impl Fn(&T) -> u64,
    ) -> Poll<Option<Result<(NodeId, T), ClusterConsumeError>>> {
        if matches!(self.end, Some(End::Closed)) {
            return Poll::Ready(None);
        }
        self.take_woken();
        let mut is_registered = false;
        loop {
            let Some(number) = self.ready.pop_front() else {
                if is_registered {
                    break;
                }
                // What wakes before this is seen now, and what wakes later wakes the task.
                self.woken.waker.register(context.waker());
                is_registered = true;
                self.take_woken();
                continue;
            };
            let Some(source) = self.sources.get_mut(&number) else { continue };
            source.state.rest();
            let mut own = Context::from_waker(&source.waker);
            match take(&mut source.consumer, &mut own) {
                Poll::Ready(Some(Ok(item))) => {
                    source.taken += count(&item);
                    self.ready.push_back(number);
                    return Poll::Ready(Some(Ok((source.node.clone(), item))));
                }
                Poll::Ready(Some(Err(error))) if !error.is_end() => {
                    self.ready.push_back(number);
                    let node = source.node.clone();
                    return Poll::Ready(Some(Err(ClusterConsumeError::Node { node, error })));
                }
                // Its end is the task's to judge.
                Poll::Ready(_) | Poll::Pending => source.is_ready = false,
            }
        }
        match &mut self.end {
            None => Poll::Pending,
            Some(End::Closed) => Poll::Ready(None),
            Some(End::Failed(error)) => Poll::Ready(error.take().map(Err)),
        }
    }

    fn take_woken(&mut self) {
        let mut taken = mem::take(&mut self.taken);
        self.woken.take(&mut taken);
        for number in taken.drain(..) {
            if let Some(source) = self.sources.get_mut(&number)
                && !mem::replace(&mut source.is_ready, true)
            {
                self.ready.push_back(number);
            }
        }
        self.taken = taken;
    }
}

/// The sources that were woken since somebody looked.
#[derive(Default)]
struct Woken {
    is_any: AtomicBool,
    numbers: Mutex<Vec<u64>>,
    /// Wakes whoever waits for a delivery.
    waker: AtomicWaker,
}

impl Woken {
    /// `into` is empty, and lends its memory.
    fn take(&self, into: &mut Vec<u64>) {
        // Mostly there is none, and looking costs less than taking: this is asked for each message. One that
        // is not seen yet wakes whoever waits.
        if self.is_any.load(Ordering::Acquire) && self.is_any.swap(false, Ordering::AcqRel) {
            mem::swap(&mut *self.numbers.lock(), into);
        }
    }
}

/// What wakes one source.
struct SourceWaker {
    number: u64,
    /// It stands among the woken ones, or was not looked at since.
    is_woken: AtomicBool,
    woken: Arc<Woken>,
}

impl SourceWaker {
    /// It is about to be looked at: what wakes it from here on is news.
    fn rest(&self) {
        // One that has more and more to give is woken once, and asked for each message.
        if self.is_woken.load(Ordering::Acquire) {
            self.is_woken.swap(false, Ordering::AcqRel);
        }
    }
}

impl Wake for SourceWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.woken.numbers.lock().push(self.number);
            self.woken.is_any.store(true, Ordering::Release);
            self.woken.waker.wake();
        }
    }
}
