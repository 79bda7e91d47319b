//! Whole meshes: several programs' parts in one process, over in-process links and over a network that cuts.

#[cfg(test)]
mod announcing;
#[cfg(test)]
mod closing;
#[cfg(test)]
mod connecting;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod finding;
#[cfg(test)]
mod handling;
#[cfg(test)]
mod logging;
#[cfg(test)]
mod panics;
#[cfg(test)]
mod restarts;
#[cfg(test)]
mod room;
#[cfg(test)]
mod secure;
#[cfg(test)]
mod sending;
#[cfg(test)]
mod support;
#[cfg(test)]
mod watching;
