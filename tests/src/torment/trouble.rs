//! What the trouble that there was excuses.

use super::{
    account::{Excuse, Excused},
    fault::Fault,
    role::{Role, Roles},
};

/// A fault, and from when to when it was there.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) fault: Fault,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// When messages may come over the bridge in another order than they lie on their nodes, as `docs/bridge.md` has it.
pub(super) fn excuses(troubles: &[Trouble], roles: &Roles) -> Vec<Excuse> {
    let mut excuses = Vec::new();
    for trouble in troubles {
        match trouble.fault {
            // What the destination refuses comes behind what was under way with it.
            Fault::Full(host) if roles.of(host) == Role::Destination => excuses.push(Excuse {
                node: None,
                of: Excused::All,
                from: trouble.from,
                to: trouble.to,
            }),
            // It forgets who published to it what needs not outlast it.
            Fault::Killed(host) | Fault::Drained(host) if roles.of(host) == Role::Destination => {
                excuses.push(Excuse {
                    node: None,
                    of: Excused::Fleeting,
                    from: trouble.from,
                    to: trouble.to,
                });
            }
            // What it had not synced is gone, and its places are those of others.
            Fault::Refusing(host) => excuses.push(Excuse {
                node: Some(roles.name(host)),
                of: Excused::Unsynced,
                from: trouble.from,
                to: trouble.to,
            }),
            // A bridge that is gone with its network is not known to be, for those nodes that it was cut off from.
            Fault::Killed(host) | Fault::Drained(host) if roles.of(host) == Role::Bridge => {
                let is_there = |other: &&Trouble| (other.from..=other.to).contains(&trouble.from);
                for node in roles.hosts(Role::Node) {
                    if troubles.iter().filter(is_there).any(|it| it.fault.parts(node, host)) {
                        excuses.push(Excuse {
                            node: Some(roles.name(node)),
                            of: Excused::All,
                            from: trouble.from,
                            to: trouble.from,
                        });
                    }
                }
            }
            _ => {}
        }
    }
    excuses
}

impl Fault {
    /// Whether one host may not hear now what the other one says, or not do anything about it.
    fn parts(&self, node: usize, bridge: usize) -> bool {
        match *self {
            Self::Isolated(host) | Self::Slow(host) => host == node || host == bridge,
            Self::OneWay(from, to) => (from, to) == (bridge, node) || (to, from) == (bridge, node),
            Self::Apart(one, other) => [(one, other), (other, one)].contains(&(bridge, node)),
            Self::Paused(host) => host == node,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_that_ends_is_an_excuse_only_for_nodes_that_it_is_cut_off_from_then() {
        let roles = Roles::CLUSTER;
        let [node, other] = [2, 3];
        let [bridge, destination] = [7, 8];
        let killed = Trouble { fault: Fault::Killed(bridge), from: 1_000, to: 3_000 };
        let excused = |fault: Fault, from: u64| {
            let troubles = [killed.clone(), Trouble { fault, from, to: from + 2_000 }];
            let excuses = excuses(&troubles, &roles);
            excuses
                .into_iter()
                .map(|it| (it.node.expect("one"), it.from, it.to))
                .collect::<Vec<_>>()
        };
        let first = vec![("n1".to_owned(), 1_000, 1_000)];
        assert_eq!(excused(Fault::Isolated(node), 500), first);
        assert_eq!(excused(Fault::Apart(bridge, node), 500), first);
        assert_eq!(excused(Fault::OneWay(node, bridge), 500), first);
        assert_eq!(excused(Fault::Paused(node), 500), first);
        assert_eq!(excused(Fault::Isolated(bridge), 500).len(), 3);
        // Later, over, or about others.
        assert_eq!(excused(Fault::Isolated(node), 1_500), []);
        assert_eq!(excused(Fault::Isolated(node), 3_500), []);
        assert_eq!(excused(Fault::Apart(node, other), 500), []);
        assert_eq!(excused(Fault::Paused(bridge), 500), []);
        assert_eq!(excused(Fault::Isolated(destination), 500), []);
        let full = Trouble { fault: Fault::Full(destination), from: 5, to: 9 };
        let excuse = Excuse { node: None, of: Excused::All, from: 5, to: 9 };
        assert_eq!(super::excuses(&[full], &roles), [excuse]);
        let killed = Trouble { fault: Fault::Killed(destination), from: 5, to: 9 };
        let excuse = Excuse { node: None, of: Excused::Fleeting, from: 5, to: 9 };
        assert_eq!(super::excuses(&[killed], &roles), [excuse]);
        let refusing = Trouble { fault: Fault::Refusing(node), from: 5, to: 9 };
        let node_1 = Some("n1".to_owned());
        let excuse = Excuse { node: node_1, of: Excused::Unsynced, from: 5, to: 9 };
        assert_eq!(super::excuses(&[refusing], &roles), [excuse]);
        let full = Trouble { fault: Fault::Full(node), from: 5, to: 9 };
        assert_eq!(super::excuses(&[full], &roles), []);
    }
}
