//! Until when a certificate is good.

use super::names::{Der, INTEGER, SEQUENCE, VERSION};

/// The second since 1970 until which it is good; `None` where that cannot be read, or was before.
/// The layout is RFC 5280's (4.1.2.5).
pub(super) fn expires(certificate: &[u8]) -> Option<u64> {
    let mut signed = Der(certificate).take(SEQUENCE)?.take(SEQUENCE)?;
    signed.skip(VERSION);
    signed.take(INTEGER)?;
    for _algorithm_issuer in 0..2 {
        signed.take(SEQUENCE)?;
    }
    let mut validity = signed.take(SEQUENCE)?;
    let _not_before = validity.next()?;
    let (tag, Der(text)) = validity.next()?;
    let (text, zone) = str::from_utf8(text).ok()?.split_at_checked(text.len().checked_sub(1)?)?;
    if zone != "Z" || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    match tag {
        UTC_TIME if text.len() == 12 => {
            let year: u64 = text.get(..2)?.parse().ok()?;
            let century = if year < 50 { 2000 } else { 1900 };
            seconds(century + year, text.get(2..)?)
        }
        GENERALIZED_TIME if text.len() == 14 => {
            seconds(text.get(..4)?.parse().ok()?, text.get(4..)?)
        }
        _ => None,
    }
}

/// Of a year, and the digits of month, day, hour, minute and second.
fn seconds(year: u64, rest: &str) -> Option<u64> {
    let part = |at: usize| rest.get(2 * at..2 * at + 2)?.parse::<u64>().ok();
    let (month, day) = (part(0)?, part(1)?);
    let before = DAYS_BEFORE.get(usize::try_from(month.checked_sub(1)?).ok()?)?;
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let leap_day = u64::from(leap && month > 2);
    let days_to = |year: u64| 365 * year + year / 4 - year / 100 + year / 400;
    let years = days_to(year.checked_sub(1)?).checked_sub(days_to(1969))?;
    let days = years + before + leap_day + day.checked_sub(1)?;
    Some(((days * 24 + part(2)?) * 60 + part(3)?) * 60 + part(4)?)
}

/// Of a year that is no leap year, before each month.
const DAYS_BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn the_end_is_read_from_certificates() {
        let key = KeyPair::generate().unwrap();
        // As `date -u -d YYYY-MM-DD +%s` says.
        for (year, month, day, expected) in [
            (1970, 1, 1, 0),
            (1999, 12, 31, 946_598_400),
            (2000, 2, 29, 951_782_400),
            (2024, 3, 1, 1_709_251_200),
            (2049, 12, 31, 2_524_521_600),
            (2050, 1, 1, 2_524_608_000),
            (2100, 3, 1, 4_107_542_400),
            (4096, 1, 1, 67_090_118_400),
        ] {
            let mut asked = CertificateParams::new(vec!["a".to_owned()]).unwrap();
            asked.not_before = date_time_ymd(1970, 1, 1);
            asked.not_after = date_time_ymd(year, month, day);
            let made = asked.self_signed(&key).unwrap();
            assert_eq!(expires(made.der()), Some(expected), "{year}-{month}-{day}");
            // Cut anywhere, it says nothing rather than something else.
            for length in 0..made.der().len() {
                assert_eq!(expires(&made.der()[..length]), None);
            }
        }
        assert_eq!(seconds(2026, "1122071457"), Some(1_795_331_697));
        for bad in ["", "0011", "1301000000", "0100000000"] {
            assert_eq!(seconds(2026, bad), None, "{bad}");
        }
        assert_eq!(seconds(1969, "1231235959"), None);
    }
}
