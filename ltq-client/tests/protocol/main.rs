//! The protocol from the client's side: what it sends, and what it makes of what a broker says,
//! right or wrong. The broker here does as the test tells it.

#[cfg(test)]
#[path = "../broker/board.rs"]
mod board;
#[cfg(test)]
mod cancelling;
#[cfg(test)]
mod closing;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod cluster_consuming;
#[cfg(test)]
mod cluster_leaving;
#[cfg(test)]
mod cluster_many;
#[cfg(test)]
mod cluster_silence;
#[cfg(test)]
mod connecting;
#[cfg(test)]
mod consuming;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod for_each;
#[cfg(test)]
mod hostile;
mod limits;
#[cfg(test)]
mod members;
#[cfg(test)]
mod publishing;
#[cfg(test)]
mod reconnecting;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod streams;
