//! Folders whose files no device is behind.

use std::{io, path::Path};

use tempfile::TempDir;

/// A folder in memory where this system has a place for such, and else one on its device: for tests that judge how
/// long something takes, and not the syncs of whatever else uses the device.
///
/// # Errors
/// The operating system's.
pub fn folder_in_memory() -> io::Result<TempDir> {
    let place = Path::new("/dev/shm");
    if place.is_dir() { tempfile::tempdir_in(place) } else { tempfile::tempdir() }
}
