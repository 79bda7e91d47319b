//! What is decided without a clock, a task or a stream: plain data, and tested as such.

mod arrivals;
mod contest;
mod window;

pub(crate) use arrivals::{Arrivals, Misbehaviour};
pub(crate) use contest::{Call, ConnectionId, Decision, Objection, Standing, decide};
pub(crate) use window::{Grant, NeverSent, Ticket, Window};
