//! What programs of a mesh say to each other.
//!
//! A stream carries frames both ways: four bytes of length, the least significant first, and so many bytes,
//! which are a [`Say`] in [postcard](https://postcard.jamesmunns.com/wire-format) and, of a message, its
//! body behind that.
//!
//! Who dials says [`Say::Hello`], and who is called [`Say::Welcome`] or [`Say::Goodbye`]. From then on both
//! are equal: each tells by [`Say::Resume`] what its inbox has of the other, and each that has heard so sends
//! its messages.

mod codec;
mod link;
mod says;

pub(crate) use codec::{WireError, decode, encode};
pub(crate) use link::{Ear, Link, LinkError, Mouth};
pub(crate) use says::{Farewell, MAGIC, NotStored, PROTOCOL, Say, shortened};
