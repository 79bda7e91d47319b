//! `ltq-node bridge`: forwarding topics from one node or cluster to another.
//!
//! The engine is [`Forwarder`]: one topic of one node, brought to a [`Destination`], each message at least
//! once. A [`Bridge`] has one for each topic of each node of its source that a [`Route`] takes.

mod at_once;
mod brokers;
mod budget;
mod config;
mod figures;
mod flags;
mod forwarder;
mod given;
mod http;
mod ledger;
mod memory;
mod names;
mod origin;
mod outlet;
mod route;
mod running;
mod side;
mod sight;
mod source;
#[cfg(test)]
mod tests;

use brokers::Brokers;
pub use budget::{Budget, Share};
pub use config::{BridgeConfig, BridgeLimits, RouteSettings};
pub use figures::{Board, RouteCounts, RouteFigures, Status, TopicFigures, TopicOnNode};
pub use flags::BridgeFlags;
pub use forwarder::{Ended, Forwarder, REFUSED_HEADER};
pub use given::{Rules, Source};
pub use memory::{Memories, Memory};
pub use names::Names;
pub use origin::{
    Garbled, HOPS_LIMIT, ORIGIN_HEADER, ORIGIN_ID_HEADER, Passage, Place, Site, SiteError, Sites,
    Stamp,
};
pub use outlet::{Destination, Failure, Order};
pub use route::{HeaderFilter, HeaderFilterError, Refused, Route, Target, check_prefix};
pub use running::{Bridge, BridgeError, run};
pub use side::{SideError, SideSettings};
