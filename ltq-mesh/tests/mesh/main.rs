//! Whole meshes: several programs' parts in one process, over in-process links and over a network that cuts.

#[cfg(test)]
mod connecting;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod finding;
#[cfg(test)]
mod handling;
#[cfg(test)]
mod restarts;
#[cfg(test)]
mod sending;
#[cfg(test)]
mod support;
