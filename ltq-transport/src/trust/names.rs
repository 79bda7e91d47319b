//! The name in a certificate.
//!
//! Only certificates whose signatures were checked come here; still nothing is taken on trust that
//! a length or a tag says. The layout is RFC 5280's, the encoding DER (X.690).

use std::net::{Ipv4Addr, Ipv6Addr};

use rustls::pki_types::CertificateDer;

use super::Fingerprint;

/// Who a peer with this certificate is: the first common name of its subject, or else the first
/// alternative name (DNS name, mail address, URI or IP address), or else its fingerprint. A name
/// is passed over that is longer than 256 bytes, holds control characters, or looks like an
/// identity of another kind.
pub(crate) fn identity_of(certificate: &CertificateDer<'_>) -> String {
    let names = subject_and_extensions(certificate);
    let common = names.and_then(|(subject, _)| common_name(subject));
    common
        .or_else(|| names.and_then(|(_, extensions)| alternative_name(extensions?)))
        .unwrap_or_else(|| Fingerprint::of_der(certificate).to_string())
}

/// A row of values, each with a tag and a length before it.
#[derive(Clone, Copy)]
pub(super) struct Der<'a>(pub(super) &'a [u8]);

impl<'a> Der<'a> {
    pub(super) fn next(&mut self) -> Option<(u8, Self)> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first >= 0x80 {
            let (digits, behind) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if digits.is_empty() || digits.len() > 4 {
                return None;
            }
            length = digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit));
            rest = behind;
        }
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, Self(value)))
    }

    /// The next value, which must have this tag.
    pub(super) fn take(&mut self, tag: u8) -> Option<Self> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, value)| value)
    }

    /// Passes the next value over if it has this tag.
    pub(super) fn skip(&mut self, tag: u8) {
        if self.0.first() == Some(&tag) {
            let _passed = self.next();
        }
    }
}

fn subject_and_extensions<'a>(certificate: &'a [u8]) -> Option<(Der<'a>, Option<Der<'a>>)> {
    let mut signed = Der(certificate).take(SEQUENCE)?.take(SEQUENCE)?;
    signed.skip(VERSION);
    signed.take(INTEGER)?;
    for _algorithm_issuer_validity in 0..3 {
        signed.take(SEQUENCE)?;
    }
    let subject = signed.take(SEQUENCE)?;
    signed.take(SEQUENCE)?;
    signed.skip(ISSUER_ID);
    signed.skip(SUBJECT_ID);
    let extensions = signed.take(EXTENSIONS).and_then(|mut all| all.take(SEQUENCE));
    Some((subject, extensions))
}

fn common_name(mut subject: Der<'_>) -> Option<String> {
    while let Some(mut set) = subject.take(SET) {
        while let Some(mut attribute) = set.take(SEQUENCE) {
            if attribute.take(OBJECT_ID)?.0 != COMMON_NAME {
                continue;
            }
            let (tag, value) = attribute.next()?;
            if let Some(name) = usable(value.0)
                && [UTF8_STRING, PRINTABLE_STRING, IA5_STRING].contains(&tag)
            {
                return Some(name);
            }
        }
    }
    None
}

fn alternative_name(mut extensions: Der<'_>) -> Option<String> {
    while let Some(mut extension) = extensions.take(SEQUENCE) {
        if extension.take(OBJECT_ID)?.0 != ALTERNATIVE_NAMES {
            continue;
        }
        extension.skip(BOOLEAN);
        let mut names = extension.take(OCTET_STRING)?.take(SEQUENCE)?;
        while let Some((tag, Der(value))) = names.next() {
            let name = match tag {
                MAIL_ADDRESS | DNS_NAME | URI => usable(value),
                IP_ADDRESS => match <[u8; 4]>::try_from(value) {
                    Ok(four) => Some(Ipv4Addr::from(four).to_string()),
                    Err(_) => {
                        <[u8; 16]>::try_from(value).ok().map(|all| Ipv6Addr::from(all).to_string())
                    }
                },
                _ => None,
            };
            if name.is_some() {
                return name;
            }
        }
    }
    None
}

fn usable(name: &[u8]) -> Option<String> {
    let name =
        str::from_utf8(name).ok().filter(|name| (1..=NAME_BYTES_MAX).contains(&name.len()))?;
    let foreign = OTHER_KINDS.iter().any(|prefix| name.starts_with(prefix));
    let plain = name.trim() == name && !name.chars().any(char::is_control);
    (plain && !foreign).then(|| name.to_owned())
}

const NAME_BYTES_MAX: usize = 256;
/// What identities begin with that no authority may give away: users of this machine, and
/// certificates without a name.
const OTHER_KINDS: [&str; 2] = ["uid:", super::fingerprint::PREFIX];

const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
pub(super) const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
pub(super) const VERSION: u8 = 0xa0;
const ISSUER_ID: u8 = 0x81;
const SUBJECT_ID: u8 = 0x82;
const EXTENSIONS: u8 = 0xa3;
const MAIL_ADDRESS: u8 = 0x81;
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;
const IP_ADDRESS: u8 = 0x87;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
/// 2.5.29.17
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];
