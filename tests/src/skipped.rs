use std::{fmt::Display, io::Write as _};

/// Says loudly that a test shows nothing here, past the capture of what tests print; or fails it, where that has been
/// said to be no excuse: by a variable that `scripts/permitted.sh` and its like set where they have seen that
/// what is lacking here is there.
///
/// # Panics
/// When the variable is set.
pub fn skipped(variable: &str, what: &str, why: &dyn Display) {
    assert!(
        std::env::var_os(variable).is_none(),
        "{variable} is set, and {what} is skipped: {why}"
    );
    // Nobody is left to be told where standard error is gone.
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED {what}: {why}");
}

/// The variables, by what has to be permitted.
pub mod require {
    /// Hosts of their own: network namespaces and what belongs to them.
    pub const NAMESPACES: &str = "REQUIRE_NAMESPACES";
    /// To mount file systems.
    pub const MOUNTS: &str = "REQUIRE_MOUNTS";
    /// To make disks that refuse writes.
    pub const DISKS: &str = "REQUIRE_DISKS";
    /// To take sockets from other processes.
    pub const SOCKETS: &str = "REQUIRE_SOCKETS";
    /// Wall clocks that can be stepped.
    pub const FAKETIME: &str = "REQUIRE_FAKETIME";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_required_is_not_skipped() {
        skipped("REQUIRE_NOTHING_OF_THE_SORT", "this", &"nobody asked for it");
        // One that every test of cargo's has.
        let required = || skipped("CARGO_MANIFEST_DIR", "that", &"somebody asked for it");
        let panic = std::panic::catch_unwind(required).expect_err("it fails");
        let said = panic.downcast_ref::<String>().expect("words");
        assert!(said.contains("that is skipped: somebody asked for it"), "{said}");
    }
}
