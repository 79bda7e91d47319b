//! The client and a real broker on a memory store, over in-process links and TCP.

#[cfg(test)]
mod cuts;
#[cfg(test)]
mod node;
#[cfg(test)]
mod restarts;
#[cfg(test)]
mod round_trips;
