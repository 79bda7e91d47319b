//! Programs of a mesh as real processes, killed under load.
//!
//! They are by themselves, as a process that is just being started has for a moment the files of who starts it, and
//! with them the locks of stores that other tests open again at that moment.

#[cfg(test)]
mod killing;
#[cfg(test)]
mod part;
