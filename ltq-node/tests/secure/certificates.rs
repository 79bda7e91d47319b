//! Certificates in files.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};

/// Signs certificates, and stands in a file.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(crate) file: PathBuf,
}

impl Authority {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let mut asked = CertificateParams::default();
        asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        asked.distinguished_name = DistinguishedName::new();
        asked.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(asked, KeyPair::generate().unwrap()).unwrap();
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, issuer.pem()).unwrap();
        Self { issuer, file }
    }

    /// Signs a certificate for this host or person, and puts it and its key in these files.
    pub(crate) fn signs_to(&self, name: &str, certificate: &Path, key: &Path) {
        let mut asked = CertificateParams::new(vec![name.to_owned()]).unwrap();
        asked.distinguished_name = DistinguishedName::new();
        asked.distinguished_name.push(DnType::CommonName, name);
        let made = KeyPair::generate().unwrap();
        let signed = asked.signed_by(&made, &self.issuer).unwrap();
        put(key, &made.serialize_pem());
        put(certificate, &signed.pem());
    }

    /// The same to new files: the certificate's, the key's.
    pub(crate) fn signs(&self, folder: &Path, name: &str) -> (String, String) {
        let files = ["pem", "key"].map(|ending| folder.join(format!("{name}-of.{ending}")));
        self.signs_to(name, &files[0], &files[1]);
        let [certificate, key] = files.map(|file| file.to_str().unwrap().to_owned());
        (certificate, key)
    }

    pub(crate) fn path(&self) -> &str {
        self.file.to_str().unwrap()
    }
}

/// As a tool that renews certificates does it.
fn put(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, file).unwrap();
}
