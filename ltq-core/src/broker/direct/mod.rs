//! Publishing and subscribing from within the program: no socket, no frame, the same rules.

mod link;
mod publisher;
mod subscription;

pub use link::DirectError;
pub use publisher::{Publisher, PublisherOptions, Receipt};
pub use subscription::{Received, SubscribeOptions, Subscription};

pub(super) use link::bad_name;
