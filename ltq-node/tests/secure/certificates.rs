//! Certificates in files.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, IsCa, KeyIdMethod, KeyPair, RevokedCertParams, date_time_ymd,
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
        self.signs_as(name, None, certificate, key);
    }

    fn signs_as(&self, name: &str, number: Option<u64>, certificate: &Path, key: &Path) {
        let mut asked = CertificateParams::new(vec![name.to_owned()]).unwrap();
        asked.distinguished_name = DistinguishedName::new();
        asked.distinguished_name.push(DnType::CommonName, name);
        asked.serial_number = number.map(Into::into);
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

    /// The same with a number, by which it can be revoked.
    pub(crate) fn signs_numbered(
        &self,
        folder: &Path,
        name: &str,
        number: u64,
    ) -> (String, String) {
        let files = ["pem", "key"].map(|ending| folder.join(format!("{name}-of.{ending}")));
        self.signs_as(name, Some(number), &files[0], &files[1]);
        let [certificate, key] = files.map(|file| file.to_str().unwrap().to_owned());
        (certificate, key)
    }

    /// Puts a list of those numbers in a file that are not to count any more.
    pub(crate) fn revokes(&self, numbers: &[u64], file: &Path) {
        let revoked = |number: &u64| RevokedCertParams {
            serial_number: (*number).into(),
            revocation_time: date_time_ymd(2001, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2001, 1, 1),
            next_update: date_time_ymd(2002, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: numbers.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        put(file, &list.signed_by(&self.issuer).unwrap().pem().unwrap());
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
