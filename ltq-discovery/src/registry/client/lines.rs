//! Which watches go over which connection to a registry.

use std::{collections::BTreeMap, sync::Arc};

use ltq_core::process::inherit;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Config, line::Line, watching::Shared};

/// All connections to one registry over which somebody watches: one, unless there are more watches than a
/// connection may have.
#[derive(Default)]
pub(super) struct Lines(Mutex<Table>);

#[derive(Default)]
struct Table {
    lines: BTreeMap<LineId, Kept>,
    /// Over which of them each watch goes.
    of: BTreeMap<WatchId, LineId>,
    names: u64,
}

/// Tells a line from the others to the same registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LineId(u64);

/// Tells a watch from all others of the same registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WatchId(u64);

struct Kept {
    watches: BTreeMap<WatchId, Arc<Shared>>,
    /// Those that its task does not know of yet, and those that it does not know to be gone.
    joined: Vec<WatchId>,
    left: Vec<WatchId>,
    /// The most watches, as far as is known.
    max: usize,
    changed: Arc<Notify>,
}

/// What is new of a line.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) joined: Vec<(WatchId, Arc<Shared>)>,
    pub(super) left: Vec<WatchId>,
}

impl Table {
    fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    /// Puts a watch on a line that has room. Returns that line if it is a new one.
    fn put(&mut self, id: WatchId, watch: Arc<Shared>) -> Option<(LineId, Arc<Notify>)> {
        let with_room = self.lines.iter_mut().find(|(_, line)| line.watches.len() < line.max);
        if let Some((of, line)) = with_room {
            self.of.insert(id, *of);
            line.watches.insert(id, watch);
            line.joined.push(id);
            line.changed.notify_one();
            return None;
        }
        let (of, changed) = (LineId(self.name()), Arc::new(Notify::new()));
        self.of.insert(id, of);
        let line = Kept {
            watches: BTreeMap::from([(id, watch)]),
            joined: vec![id],
            left: Vec::new(),
            max: WATCHES_MAX,
            changed: Arc::clone(&changed),
        };
        self.lines.insert(of, line);
        Some((of, changed))
    }
}

impl Lines {
    /// One more watch of a registry, over a connection that is there if one has room.
    pub(super) fn join(
        config: &Arc<Config>,
        registry: usize,
        watch: &Arc<Shared>,
    ) -> Option<WatchId> {
        let lines = config.lines.get(registry)?;
        let (id, new) = {
            let mut table = lines.0.lock();
            let id = WatchId(table.name());
            (id, table.put(id, Arc::clone(watch)))
        };
        start(config, registry, new);
        Some(id)
    }

    /// A watch for which its line has no room goes over another one. The line has room for `max`.
    pub(super) fn elsewhere(
        config: &Arc<Config>,
        registry: usize,
        line: LineId,
        id: WatchId,
        max: usize,
    ) {
        let Some(lines) = config.lines.get(registry) else { return };
        let new = {
            let mut table = lines.0.lock();
            let Some(kept) = table.lines.get_mut(&line) else { return };
            kept.max = max;
            // It may be gone meanwhile.
            let Some(watch) = kept.watches.remove(&id) else { return };
            table.put(id, watch)
        };
        start(config, registry, new);
    }

    /// A watch is no more.
    pub(super) fn leave(&self, id: WatchId) {
        let mut table = self.0.lock();
        if let Some(line) = table.of.remove(&id)
            && let Some(line) = table.lines.get_mut(&line)
            && line.watches.remove(&id).is_some()
        {
            line.left.push(id);
            line.changed.notify_one();
        }
    }

    /// Whether a watch goes over some line still.
    pub(super) fn has(&self, id: WatchId) -> bool {
        self.0.lock().of.contains_key(&id)
    }

    /// What is new of this line since that was asked last.
    pub(super) fn changes(&self, line: LineId) -> Changes {
        let mut table = self.0.lock();
        let Some(kept) = table.lines.get_mut(&line) else { return Changes::default() };
        let joined = std::mem::take(&mut kept.joined).into_iter();
        let joined = joined.filter_map(|id| Some((id, Arc::clone(kept.watches.get(&id)?))));
        Changes { joined: joined.collect(), left: std::mem::take(&mut kept.left) }
    }

    /// It is connected anew: how many watches it has room for is not known.
    pub(super) fn has_room(&self, line: LineId) {
        if let Some(kept) = self.0.lock().lines.get_mut(&line) {
            kept.max = WATCHES_MAX;
        }
    }

    /// Ends a line, if no watch goes over it.
    pub(super) fn end_if_unused(&self, line: LineId) -> bool {
        let mut table = self.0.lock();
        let is_unused = table.lines.get(&line).is_none_or(|kept| kept.watches.is_empty());
        if is_unused {
            table.lines.remove(&line);
        }
        is_unused
    }

    /// Ends a line, whose watches go over none then. Returns them.
    pub(super) fn end(&self, line: LineId) -> Vec<Arc<Shared>> {
        let mut table = self.0.lock();
        let Some(kept) = table.lines.remove(&line) else { return Vec::new() };
        table.of.retain(|_, of| *of != line);
        kept.watches.into_values().collect()
    }
}

/// Starts a line that is new.
fn start(config: &Arc<Config>, registry: usize, new: Option<(LineId, Arc<Notify>)>) {
    if let Some((id, changed)) = new
        && let Some(address) = config.addresses.get(registry)
    {
        let line = Line::new(Arc::clone(config), registry, address.clone(), id, changed);
        tokio::spawn(inherit(line.run()));
    }
}

/// What a registry allows a connection by default.
pub(super) const WATCHES_MAX: usize = 1_024;
