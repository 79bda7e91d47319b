//! The reference broker.
fn main() {}
