//! A certificate that the node makes itself, and keeps, so that clients know it again.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use ltq_core::Address;
use ltq_transport::{Fingerprint, Pem, ServerTrust, self_signed};
use tracing::info;

use super::CertificateError;

/// A certificate and its key, in one PEM text.
#[derive(Debug)]
pub(super) struct DevCertificate {
    pub(super) pem: Pem,
    pub(super) fingerprint: Fingerprint,
    file: PathBuf,
    /// Whether it was made just now and has still to be kept.
    new: bool,
}

impl DevCertificate {
    /// The one that is kept in the data directory, or a new one, which is not kept yet: a directory
    /// with a file in it is one that no store is made in.
    pub(super) fn of(data_dir: &Path, listen: &[String]) -> Result<Self, CertificateError> {
        let file = data_dir.join(FILE);
        let new = !file.exists();
        let pem = if new {
            let names = names(listen);
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let made = self_signed(&names)?;
            Pem::text(format!("{}{}", made.certificate, made.key))
        } else {
            Pem::file(&file)
        };
        let fingerprint = Fingerprint::of(&pem).map_err(CertificateError::Kept)?;
        ServerTrust::new(pem.clone(), pem.clone()).map_err(CertificateError::Kept)?;
        info!(file = %file.display(), new, %fingerprint, "a certificate for development is in use");
        Ok(Self { pem, fingerprint, file, new })
    }

    /// Keeps it, once the data directory is this node's.
    pub(super) fn keep(&self) -> Result<(), CertificateError> {
        let Pem::Text(text) = &self.pem else { return Ok(()) };
        let kept = if self.new { keep(&self.file, text) } else { Ok(()) };
        kept.map_err(|source| CertificateError::Keep { file: self.file.clone(), source })
    }
}

/// All of it or nothing, whatever happens meanwhile, and never in the place of another.
fn keep(file: &Path, text: &str) -> io::Result<()> {
    let data_dir = file.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(data_dir)?;
    let unfinished = data_dir.join(format!("{FILE}.{}", std::process::id()));
    let written = (|| {
        let mut options = OpenOptions::new();
        // For nobody else: the key is in it.
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut out = options.open(&unfinished)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        fs::hard_link(&unfinished, file)
    })();
    let _gone = fs::remove_file(&unfinished);
    written?;
    fs::File::open(data_dir)?.sync_all()
}

/// This machine, and the hosts that are listened on.
fn names(listen: &[String]) -> Vec<String> {
    let mut names: Vec<_> = THIS_MACHINE.iter().map(|name| (*name).to_owned()).collect();
    for address in listen.iter().filter_map(|text| text.parse::<Address>().ok()) {
        let secure = matches!(address.scheme(), "tls" | "quic");
        let Some((host, _)) = address.rest().rsplit_once(':') else { continue };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let everywhere = host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified());
        if secure && !everywhere && !names.iter().any(|name| name == host) {
            names.push(host.to_owned());
        }
    }
    names
}

const FILE: &str = "dev-tls.pem";
const THIS_MACHINE: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("data");
        let of = || DevCertificate::of(&dir, &["quic://0.0.0.0:1".to_owned()]);
        let first = of().unwrap();
        assert!(!dir.exists(), "a store may still be made there");
        let other = of().unwrap();
        first.keep().unwrap();
        let mode = fs::metadata(dir.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = of().unwrap();
        assert_eq!(again.fingerprint, first.fingerprint, "after a restart");
        again.keep().unwrap();
        // One that is there stays, and who has announced another one is told.
        let error = other.keep().unwrap_err().to_string();
        assert!(error.contains("dev-tls.pem"), "{error}");
        assert_eq!(of().unwrap().fingerprint, first.fingerprint);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing else is left");

        fs::write(dir.join(FILE), "damaged").unwrap();
        let error = of().unwrap_err().to_string();
        assert!(error.contains("dev-tls.pem") && error.contains("remove the file"), "{error}");
    }

    #[test]
    fn it_names_this_machine_and_where_the_node_listens() {
        let listen = ["tcp://a:1", "tls://b.example:1", "quic://0.0.0.0:1", "quic://[::1]:2"];
        let listen = listen.map(str::to_owned);
        assert_eq!(names(&listen), ["localhost", "127.0.0.1", "::1", "b.example"]);
    }
}
