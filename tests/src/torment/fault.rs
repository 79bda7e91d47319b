use std::fmt;

use rand::{RngExt as _, rngs::SmallRng};

use super::{TormentError, field::Field};
use crate::bad_network::Shape;

/// One thing that goes wrong for a while. Hosts are numbered as in [`Field`].
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Nobody hears it, and it hears nobody.
    Isolated(usize),
    /// What the first says does not reach the second; the other way is open.
    OneWay(usize, usize),
    /// Two do not reach each other, and all others do.
    Apart(usize, usize),
    /// All of its ways are long and lose packets.
    Slow(usize),
    /// Its program is killed, and started again at the end.
    Killed(usize),
    /// Its program stands still.
    Paused(usize),
    /// A node is drained, stopped in order, and started again at the end.
    Drained(usize),
    /// All registries are killed, and started again at the end.
    NoRegistry,
}

impl Fault {
    pub(super) fn draw(chance: &mut SmallRng) -> Self {
        let any = |chance: &mut SmallRng| chance.random_range(0..Field::HOSTS);
        let server = |chance: &mut SmallRng| chance.random_range(0..Field::CLIENTS.start);
        let node = |chance: &mut SmallRng| chance.random_range(Field::NODES);
        let two = |chance: &mut SmallRng| {
            let first = any(chance);
            (first, (first + chance.random_range(1..Field::HOSTS)) % Field::HOSTS)
        };
        match chance.random_range(0..10) {
            0 | 1 => Self::Isolated(any(chance)),
            2 => {
                let (from, to) = two(chance);
                Self::OneWay(from, to)
            }
            3 => {
                let (one, other) = two(chance);
                Self::Apart(one, other)
            }
            4 => Self::Slow(any(chance)),
            5 => Self::Killed(server(chance)),
            6 => Self::Killed(node(chance)),
            7 => Self::Paused(server(chance)),
            8 => Self::Drained(node(chance)),
            _ => Self::NoRegistry,
        }
    }

    /// Whether both are about the same host, so that the end of one would be no end.
    pub(super) fn touches_what(&self, other: &Self) -> bool {
        let (own, others) = (self.hosts(), other.hosts());
        own.iter().any(|host| others.contains(host))
    }

    fn hosts(&self) -> Vec<usize> {
        match *self {
            Self::Isolated(host) | Self::Slow(host) => vec![host],
            Self::Killed(host) | Self::Paused(host) | Self::Drained(host) => vec![host],
            Self::OneWay(one, other) | Self::Apart(one, other) => vec![one, other],
            Self::NoRegistry => Field::REGISTRIES.collect(),
        }
    }

    pub(super) async fn begin(&self, field: &mut Field) -> Result<(), TormentError> {
        match *self {
            Self::Isolated(host) => field.all_ways(host, Shape::default().down()),
            Self::OneWay(from, to) => field.way(from, to, Shape::default().down()),
            Self::Apart(one, other) => {
                field.way(one, other, Shape::default().down());
                field.way(other, one, Shape::default().down());
            }
            Self::Slow(host) => field.all_ways(host, Shape::new(200, 5.0)),
            Self::Killed(host) => field.kill(host).await?,
            Self::Paused(host) => field.pause(host, true)?,
            Self::Drained(host) => field.drain(host).await?,
            Self::NoRegistry => {
                for host in Field::REGISTRIES {
                    field.kill(host).await?;
                }
            }
        }
        Ok(())
    }

    pub(super) async fn end(&self, field: &mut Field) -> Result<(), TormentError> {
        match *self {
            Self::Isolated(host) | Self::Slow(host) => field.all_ways(host, Shape::default()),
            Self::OneWay(from, to) => field.way(from, to, Shape::default()),
            Self::Apart(one, other) => {
                field.way(one, other, Shape::default());
                field.way(other, one, Shape::default());
            }
            Self::Killed(host) | Self::Drained(host) => field.start(host).await?,
            Self::Paused(host) => field.pause(host, false)?,
            Self::NoRegistry => {
                for host in Field::REGISTRIES {
                    field.start(host).await?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Field::name;
        match *self {
            Self::Isolated(host) => write!(f, "{} is cut off", name(host)),
            Self::OneWay(from, to) => write!(f, "{} does not reach {}", name(from), name(to)),
            Self::Apart(one, other) => {
                write!(f, "{} and {} do not reach each other", name(one), name(other))
            }
            Self::Slow(host) => write!(f, "{} is far away and loses packets", name(host)),
            Self::Killed(host) => write!(f, "{} is killed", name(host)),
            Self::Paused(host) => write!(f, "{} stands still", name(host)),
            Self::Drained(host) => write!(f, "{} is drained", name(host)),
            Self::NoRegistry => f.write_str("all registries are killed"),
        }
    }
}
