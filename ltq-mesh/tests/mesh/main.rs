//! Whole meshes: several programs' parts in one process, over in-process links and over a network that cuts.

mod connecting;
mod finding;
mod handling;
mod restarts;
mod sending;
mod support;
