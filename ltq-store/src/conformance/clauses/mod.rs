//! The cases, by the part of the contract that they test.

pub(super) mod appending;
pub(super) mod closing;
pub(super) mod concurrency;
pub(super) mod discarding;
pub(super) mod durability;
pub(super) mod limits;
pub(super) mod logs;
pub(super) mod random;
pub(super) mod reading;
pub(super) mod rules;
pub(super) mod truncating;
pub(super) mod values;
