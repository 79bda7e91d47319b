use std::ops::Range;

/// What a host is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Registry,
    Node,
    Client,
    /// A bridge from all nodes to the destination.
    Bridge,
    /// A node that no registry knows.
    Destination,
    /// A program of a mesh.
    Program,
}

/// All hosts, by what they are for.
#[derive(Clone, Debug)]
pub(super) struct Roles(&'static [(Role, Range<usize>)]);

impl Roles {
    /// Two registries, three nodes, two clients, and a bridge to a fourth node.
    pub(super) const CLUSTER: Self = Self(&[
        (Role::Registry, 0..2),
        (Role::Node, 2..5),
        (Role::Client, 5..7),
        (Role::Bridge, 7..8),
        (Role::Destination, 8..9),
    ]);
    /// Three programs.
    pub(super) const MESH: Self = Self(&[(Role::Program, 0..3)]);

    pub(super) fn count(&self) -> usize {
        self.0.iter().map(|(_, hosts)| hosts.len()).sum()
    }

    /// The hosts of a role.
    pub(super) fn hosts(&self, role: Role) -> Range<usize> {
        self.0.iter().find(|(of, _)| *of == role).map_or(0..0, |(_, hosts)| hosts.clone())
    }

    /// What a host is for. Every number below the count is one.
    pub(super) fn of(&self, host: usize) -> Role {
        let found = self.0.iter().find(|(_, hosts)| hosts.contains(&host));
        found.map_or(Role::Client, |(role, _)| *role)
    }

    /// The host of a node whose device can refuse writes.
    pub(super) fn with_disk(&self) -> Option<usize> {
        self.hosts(Role::Node).next_back()
    }

    pub(super) fn name(&self, host: usize) -> String {
        let role = self.of(host);
        format!("{}{}", role.letter(), host - self.hosts(role).start + 1)
    }
}

impl Role {
    /// Whether a cut between two such hosts is felt.
    pub(super) fn talks_to(self, other: Self) -> bool {
        let one_way = |one, other| {
            matches!(
                (one, other),
                (Self::Registry | Self::Node, Self::Client | Self::Bridge)
                    | (Self::Registry, Self::Node)
                    | (Self::Bridge, Self::Destination)
                    | (Self::Program, Self::Program)
            )
        };
        one_way(self, other) || one_way(other, self)
    }

    const fn letter(self) -> char {
        match self {
            Self::Registry => 'r',
            Self::Node => 'n',
            Self::Client => 'c',
            Self::Bridge => 'b',
            Self::Destination => 'd',
            Self::Program => 'p',
        }
    }
}
