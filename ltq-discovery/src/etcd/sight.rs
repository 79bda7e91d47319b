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
    /// Nodes that stood in what was read before, and not in what there is now, though they were not withdrawn, and
    /// until when they count.
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
    /// nodes that are well write themselves again: until they have had the time to, they count as suspected. So do
    /// those whose leases ended out of sight: they may be well, and have been out of etcd's sight, too.
    pub(super) fn read(&mut self, view: View, header: Header, now: Instant) {
        let Header { cluster_id, revision } = header;
        let is_other = self.cluster != cluster_id || revision < self.revision;
        let mut is_more = is_other;
        if let Some(before) = &mut self.view {
            for node in before.nodes().iter() {
                let is_gone = view.is_withdrawn(node.id(), node.epoch());
                is_more |= !is_gone && !view.has(node.id());
                self.earlier.insert(node.id().clone(), node.clone());
            }
        }
        self.earlier.retain(|id, node| !view.has(id) && !view.is_withdrawn(id, node.epoch()));
        if !self.earlier.is_empty() && (is_more || self.until.is_none()) {
            self.until = Some(now + RETURN);
        }
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
        let followed = match kind {
            EventKind::Put => view.put(&of.key, &of.value, of.lease),
            EventKind::Delete => {
                view.delete(&of.key);
                Ok(())
            }
        };
        self.earlier.retain(|id, node| !view.is_withdrawn(id, node.epoch()));
        followed
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
        let view = self.view.as_mut()?;
        let (nodes, withdrawn) = (view.nodes(), view.withdrawn());
        if self.until.is_some_and(|until| until <= now) {
            (self.earlier, self.until) = (BTreeMap::new(), None);
        }
        if self.earlier.is_empty() {
            return Some(nodes);
        }
        let earlier = self.earlier.values().map(|node| node.clone().with_suspicion(true));
        // What is there now comes last, and counts.
        let all: NodeSet = earlier.chain(nodes.iter().cloned()).collect();
        Some(all.with_withdrawals(withdrawn))
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
    fn what_ended_out_of_sight_stays_suspected_for_a_while_and_is_lost_then() {
        let (mut sight, now) = (Sight::new(), Instant::now());
        sight.read(view(&["a", "b", "c", "d"]), header("1", 5), now);
        sight.lost(now);
        let mut after = view(&["b"]);
        let withdrawn = |id: &str| keys().withdrawn(&id.parse().unwrap()).into_bytes();
        after.put(&withdrawn("a"), b"0-0", 9).unwrap();
        sight.read(after, header("1", 9), now);
        assert_eq!(standing(&mut sight, now), named(&[("b", false), ("c", true), ("d", true)]));
        // One is told of late.
        let told =
            KeyValue { key: withdrawn("d"), value: b"0-0".to_vec(), mod_revision: 10, lease: 9 };
        sight.follow(&EventKind::Put, &told).unwrap();
        assert_eq!(standing(&mut sight, now), named(&[("b", false), ("c", true)]));
        let due = sight.next_timeout(now).unwrap();
        assert_eq!(standing(&mut sight, due), named(&[("b", false)]));
        let nodes = sight.nodes(due).unwrap();
        let is_lost = |id: &str| {
            let address = "tcp://a:1".parse().unwrap();
            nodes.has_lost(&NodeInfo::new(id.parse().unwrap(), [address]).unwrap())
        };
        assert_eq!(["a", "b", "c", "d"].map(is_lost), [false, false, true, false]);
    }

    #[test]
    fn what_went_in_sight_does_not_come_back_with_what_is_read_next() {
        let (mut sight, now) = (Sight::new(), Instant::now());
        sight.read(view(&["a", "b"]), header("1", 5), now);
        sight.follow(&EventKind::Delete, &key_value("a")).unwrap();
        sight.lost(now);
        sight.read(view(&["b"]), header("1", 9), now);
        assert_eq!(standing(&mut sight, now), named(&[("b", false)]));
        assert_eq!(sight.next_timeout(now), None);
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

    #[test]
    fn data_that_is_lost_once_more_before_sight_is_gives_those_in_it_their_time_anew() {
        let (mut sight, start) = (Sight::new(), Instant::now());
        sight.read(view(&["a", "b"]), header("1", 5), start);
        sight.read(view(&["b"]), header("1", 2), start);
        let later = start + RETURN / 2;
        sight.read(view(&[]), header("2", 9), later);
        let soon = later + RETURN - Duration::from_millis(1);
        assert_eq!(standing(&mut sight, soon), named(&[("a", true), ("b", true)]));
        assert!(standing(&mut sight, later + RETURN).is_empty());
    }

    #[test]
    fn who_did_not_write_itself_again_before_sight_was_lost_has_its_time_after_that() {
        let (mut sight, start) = (Sight::new(), Instant::now());
        sight.read(view(&["a"]), header("1", 5), start);
        sight.read(view(&[]), header("1", 2), start);
        sight.lost(start);
        let later = start + RETURN * 9;
        sight.read(view(&[]), header("1", 2), later);
        assert_eq!(standing(&mut sight, later), named(&[("a", true)]));
        assert_eq!(sight.next_timeout(later), Some(later + RETURN));
        assert!(standing(&mut sight, later + RETURN).is_empty());
    }
}
