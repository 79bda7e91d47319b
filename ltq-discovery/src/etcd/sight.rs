//! What is seen of etcd, over losses of sight and of etcd's own memory.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use super::{
    json::{EventKind, Header, KeyValue},
    view::{Skipped, View},
};
use crate::{NodeId, NodeInfo, NodeSet};

/// What was read last, and what was known before etcd lost its data.
pub(super) struct Sight {
    /// `None` before all is known that there is.
    view: Option<View>,
    /// Of which data that is: of which cluster, and how far that had come.
    cluster: Value,
    revision: i64,
    /// Nodes that stood in data which is no more, and not in what there is now, and until when they count.
    earlier: BTreeMap<NodeId, NodeInfo>,
    until: Option<Instant>,
}

impl Sight {
    pub(super) const fn new() -> Self {
        Self {
            view: None,
            cluster: Value::Null,
            revision: 0,
            earlier: BTreeMap::new(),
            until: None,
        }
    }

    pub(super) const fn is_known(&self) -> bool {
        self.view.is_some()
    }

    /// All that there is has been read, as of a revision.
    ///
    /// Revisions of one cluster only grow. Where they did not, its data was lost, or is that of a backup, and the
    /// nodes that are well write themselves again: until they have had the time to, they count as suspected.
    pub(super) fn read(&mut self, view: View, header: Header, now: Instant) {
        let Header { cluster_id, revision } = header;
        let is_other = self.cluster != cluster_id || revision < self.revision;
        if let Some(before) = &mut self.view
            && is_other
        {
            let nodes = before.nodes();
            let nodes = nodes.iter().map(|node| (node.id().clone(), node.clone()));
            self.earlier.extend(nodes);
        }
        if !self.earlier.is_empty() && (is_other || self.until.is_none()) {
            self.until = Some(now + RETURN);
        }
        self.earlier.retain(|id, _| !view.has(id));
        (self.view, self.cluster, self.revision) = (Some(view), cluster_id, revision);
    }

    /// A key is as told now.
    ///
    /// # Errors
    /// It is left aside.
    pub(super) fn follow(&mut self, kind: &EventKind, of: &KeyValue) -> Result<(), Skipped> {
        self.revision = self.revision.max(of.mod_revision);
        let Some(view) = &mut self.view else { return Ok(()) };
        if let Some(id) = view.node_of(&of.key) {
            self.earlier.remove(&id);
        }
        match kind {
            EventKind::Put => view.put(&of.key, &of.value, of.lease),
            EventKind::Delete => {
                view.delete(&of.key);
                Ok(())
            }
        }
    }

    /// No member is heard any more.
    pub(super) fn lost(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until <= now) {
            self.earlier.clear();
        }
        // They have their time once it is heard again.
        self.until = None;
    }

    /// When what counts is another by time alone.
    pub(super) fn next_timeout(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now && !self.earlier.is_empty())
    }

    /// The nodes that count; `None` before all is known that there is.
    pub(super) fn nodes(&mut self, now: Instant) -> Option<NodeSet> {
        let nodes = self.view.as_mut()?.nodes();
        if self.until.is_some_and(|until| until <= now) {
            (self.earlier, self.until) = (BTreeMap::new(), None);
        }
        if self.earlier.is_empty() {
            return Some(nodes);
        }
        let earlier = self.earlier.values().map(|node| node.clone().with_suspicion(true));
        // What is there now comes last, and counts.
        Some(earlier.chain(nodes.iter().cloned()).collect())
    }
}

/// How long a node may take to write itself again: longer than the longest wait between two attempts by default,
/// and the attempt.
const RETURN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{
            keys::Keys,
            value,
            view::{Bounds, View},
        },
        *,
    };
    use crate::Interest;

    fn keys() -> Keys {
        Keys::new("/ltq".to_owned())
    }

    fn key_value(id: &str) -> KeyValue {
        let node = NodeInfo::new(id.parse().unwrap(), ["tcp://a:1".parse().unwrap()]).unwrap();
        let value = value::of_node(&node, node.load()).unwrap();
        let key = keys().node(node.id()).into_bytes();
        KeyValue { key, value, mod_revision: 1, lease: 7 }
    }

    fn heard(id: &str) -> KeyValue {
        let key = keys().heard(&id.parse().unwrap()).into_bytes();
        KeyValue { key, value: b"7".to_vec(), mod_revision: 1, lease: 8 }
    }

    fn view(ids: &[&str]) -> View {
        let bounds = Bounds { nodes_max: 10, bytes_max: 10_000 };
        let mut view = View::new(keys(), Interest::Nodes, bounds);
        for of in ids.iter().flat_map(|id| [key_value(id), heard(id)]) {
            view.put(&of.key, &of.value, of.lease).unwrap();
        }
        view
    }

    fn header(cluster: &str, revision: i64) -> Header {
        Header { cluster_id: json!(cluster), revision }
    }

    /// Who is there, and whether suspected.
    fn standing(sight: &mut Sight, now: Instant) -> Vec<(String, bool)> {
        let nodes = sight.nodes(now).unwrap();
        nodes.iter().map(|node| (node.id().to_string(), node.is_suspected())).collect()
    }

    fn named(names: &[(&str, bool)]) -> Vec<(String, bool)> {
        names.iter().map(|(name, is_suspected)| ((*name).to_owned(), *is_suspected)).collect()
    }

    #[test]
    fn data_that_is_gone_takes_no_node_away_until_time_is_up() {
        for after in [header("1", 4), header("2", 9)] {
            let (mut sight, start) = (Sight::new(), Instant::now());
            sight.read(view(&["a", "b", "c"]), header("1", 5), start);
            assert_eq!(sight.next_timeout(start), None);
            sight.lost(start);
            sight.read(view(&[]), after, start);
            let all = [("a", true), ("b", true), ("c", true)];
            assert_eq!(standing(&mut sight, start), named(&all));
            // One writes itself again, and another does and then withdraws.
            for of in [key_value("a"), heard("a"), key_value("b")] {
                sight.follow(&EventKind::Put, &of).unwrap();
            }
            sight.follow(&EventKind::Delete, &key_value("b")).unwrap();
            assert_eq!(standing(&mut sight, start), named(&[("a", false), ("c", true)]));
            let due = sight.next_timeout(start).unwrap();
            assert_eq!(standing(&mut sight, due), named(&[("a", false)]));
            assert_eq!(sight.next_timeout(due), None);
        }
    }

    #[test]
    fn what_is_gone_from_the_same_data_is_gone_at_once() {
        let (mut sight, now) = (Sight::new(), Instant::now());
        sight.read(view(&["a", "b"]), header("1", 5), now);
        sight.lost(now);
        sight.read(view(&["b"]), header("1", 5), now);
        assert_eq!(standing(&mut sight, now), named(&[("b", false)]));
    }

    #[test]
    fn an_etcd_that_loses_its_data_and_is_lost_again_and_again_takes_nobody_away() {
        let (mut sight, start) = (Sight::new(), Instant::now());
        sight.read(view(&["a", "b"]), header("1", 5), start);
        sight.read(view(&["b"]), header("1", 2), start);
        // While nobody is heard, time does not count.
        sight.lost(start + RETURN / 2);
        let later = start + RETURN * 9;
        assert_eq!(standing(&mut sight, later), named(&[("a", true), ("b", false)]));
        sight.read(view(&[]), header("1", 1), later);
        let soon = later + RETURN - Duration::from_millis(1);
        assert_eq!(standing(&mut sight, soon), named(&[("a", true), ("b", true)]));
        assert!(standing(&mut sight, later + RETURN).is_empty());
        // What is over does not come back.
        sight.lost(later + RETURN);
        assert!(standing(&mut sight, later + RETURN).is_empty());
    }

    #[test]
    fn how_far_the_data_had_come_is_known_from_changes_too() {
        let (mut sight, now) = (Sight::new(), Instant::now());
        sight.read(view(&["a"]), header("1", 5), now);
        let late = KeyValue { mod_revision: 90, ..key_value("b") };
        sight.follow(&EventKind::Put, &late).unwrap();
        sight.read(view(&["b"]), header("1", 50), now);
        assert_eq!(standing(&mut sight, now), named(&[("a", true), ("b", false)]));
    }
}
