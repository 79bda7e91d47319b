//! x
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![allow(dead_code, unused_imports)]

mod name;
mod rules;
mod wire;
pub use name::{MeshName, MeshNameError};
