use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use rustls::pki_types::CertificateDer;

use super::*;

fn certificate(common: &[&str], alternatives: Vec<SanType>) -> CertificateDer<'static> {
    let mut asked = CertificateParams::default();
    asked.distinguished_name = DistinguishedName::new();
    asked.distinguished_name.push(DnType::OrganizationName, "LTQ");
    for name in common {
        asked.distinguished_name.push(DnType::CommonName, *name);
    }
    asked.subject_alt_names = alternatives;
    let key = KeyPair::generate().unwrap();
    asked.self_signed(&key).unwrap().der().clone().into_owned()
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

#[test]
fn a_peer_is_its_common_name_or_its_first_alternative_name_or_its_fingerprint() {
    let alternatives = || vec![dns("a.example"), dns("b.example")];
    assert_eq!(identity_of(&certificate(&["alice"], alternatives())), "alice");
    assert_eq!(identity_of(&certificate(&[], alternatives())), "a.example");
    let mail = SanType::Rfc822Name("a@example".try_into().unwrap());
    assert_eq!(identity_of(&certificate(&[], vec![mail, dns("b.example")])), "a@example");
    let uri = SanType::URI("spiffe://example/a".try_into().unwrap());
    assert_eq!(identity_of(&certificate(&[], vec![uri])), "spiffe://example/a");
    for (address, text) in [([127, 0, 0, 1].into(), "127.0.0.1"), ("::1".parse().unwrap(), "::1")] {
        let address: std::net::IpAddr = address;
        assert_eq!(identity_of(&certificate(&[], vec![SanType::IpAddress(address)])), text);
    }
    let nameless = certificate(&[], vec![]);
    assert_eq!(identity_of(&nameless), Fingerprint::of_der(&nameless).to_string());
}

#[test]
fn names_that_pose_as_something_else_are_passed_over() {
    let long = "x".repeat(257);
    for bad in ["uid:0", "sha256:00", "a\nb", " a", &long] {
        assert_eq!(identity_of(&certificate(&[bad], vec![dns("a.example")])), "a.example", "{bad}");
    }
}

#[test]
fn promise_10_a_certificate_cut_or_changed_anywhere_breaks_nothing() {
    let whole = certificate(&["alice"], vec![dns("a.example")]);
    for length in 0..whole.len() {
        let _any = identity_of(&CertificateDer::from(whole[..length].to_vec()));
    }
    for place in 0..whole.len() {
        for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
            let mut changed = whole.to_vec();
            changed[place] = byte;
            let _any = identity_of(&CertificateDer::from(changed));
        }
    }
}

#[test]
fn fingerprints_are_written_and_read() {
    let certificate = certificate(&["a"], vec![]);
    let fingerprint = Fingerprint::of_der(&certificate);
    let text = fingerprint.to_string();
    assert_eq!(text.parse::<Fingerprint>().unwrap(), fingerprint);
    let digits = text.strip_prefix("sha256:").unwrap().to_uppercase();
    assert_eq!(digits.parse::<Fingerprint>().unwrap(), fingerprint);
    let pairs: Vec<_> =
        digits.as_bytes().chunks(2).map(|two| str::from_utf8(two).unwrap()).collect();
    assert_eq!(pairs.join(":").parse::<Fingerprint>().unwrap(), fingerprint);
    for bad in ["", "sha256:", &digits[1..], &format!("{digits}0"), "sha1:00", "é"] {
        assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
    }
}

#[test]
fn what_cannot_be_used_says_what_and_where() {
    let made = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
    let certificate = || Pem::text(made.cert.pem());
    let key = || Pem::text(made.signing_key.serialize_pem());
    assert!(ServerTrust::new(certificate(), key()).is_ok());

    let missing = ServerTrust::new(Pem::file("/no/such.pem"), key()).unwrap_err().to_string();
    assert!(missing.starts_with("reading /no/such.pem failed: "), "{missing}");
    let swapped = ServerTrust::new(key(), certificate()).unwrap_err();
    assert!(matches!(swapped, TrustError::Malformed { what: "private key", .. }), "{swapped}");
    let foreign = Pem::text(other.signing_key.serialize_pem());
    let foreign = ServerTrust::new(certificate(), foreign).unwrap_err();
    assert!(matches!(foreign, TrustError::Unusable { .. }), "{foreign}");
    let empty = ClientTrust::authorities(Pem::text("nothing")).unwrap_err();
    assert!(matches!(empty, TrustError::Malformed { what: "certificate", .. }), "{empty}");
    let large = ClientTrust::authorities(Pem::text("x".repeat(2 << 20))).unwrap_err();
    assert!(matches!(large, TrustError::TooLarge { .. }), "{large}");
    assert!(!format!("{:?}", key()).contains("PRIVATE"));
}
