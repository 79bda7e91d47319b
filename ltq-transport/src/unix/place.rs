//! The file of a listening socket: taken, given its permissions, and given up.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::{Instant, sleep};

use super::UnixOptions;

/// The file of a socket that listens. Dropping it removes the file, if it is still this one.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    device: u64,
    number: u64,
}

impl Place {
    /// Listens at a path.
    ///
    /// All of this happens while the folder is locked. Else two that start at once could each take
    /// the other's file, which does not answer yet, for one that was left behind.
    pub(super) async fn take(
        path: PathBuf,
        options: &UnixOptions,
    ) -> io::Result<(UnixListener, Self)> {
        if options.mode > 0o777 {
            let why = format!("the mode {:o} is beyond 777", options.mode);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let _locked = lock(path.parent().unwrap_or_else(|| Path::new("/"))).await?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let address = SockAddr::unix(&path)?;
        match socket.bind(&address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_if_left_behind(&path)?;
                socket.bind(&address)?;
            }
            bound => bound?,
        }
        let found = fs::symlink_metadata(&path)?;
        let place = Self { path, device: found.dev(), number: found.ino() };
        // Before it listens nobody can connect, whatever the permissions are.
        fs::set_permissions(&place.path, Permissions::from_mode(options.mode))?;
        socket.listen(options.backlog.try_into().unwrap_or(i32::MAX))?;
        Ok((socket.into(), place))
    }

    /// Resolves when the file is not there any more, or is another's. Cancel safe.
    pub(super) async fn lost(&self) {
        while self.is_ours() {
            sleep(LOOK_AGAIN).await;
        }
    }

    fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.dev() == self.device && found.ino() == self.number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_ours()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "a socket's file stays behind");
        }
    }
}

/// Removes the file of a socket at which nobody answers.
///
/// # Errors
/// `AddrInUse` when somebody does, or when it is no socket.
fn remove_if_left_behind(path: &Path) -> io::Result<()> {
    let in_use = |why| io::Error::new(io::ErrorKind::AddrInUse, why);
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(in_use("there is a file that is no socket"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "a socket that nobody listens on is removed");
            fs::remove_file(path)
        }
        Ok(_) => Err(in_use("somebody listens there")),
        Err(error) => Err(error),
    }
}

async fn lock(folder: &Path) -> io::Result<File> {
    let folder = File::open(folder)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(folder),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                let why = "another process keeps the folder locked";
                return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
            }
            Err(TryLockError::WouldBlock) => sleep(LOCK_PAUSE).await,
        }
    }
}

/// A lock of ours is held for less than a millisecond; whoever holds it longer is somebody else.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// How often a listener looks whether its file is there.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(2);
