//! Names and values beside a message's body, as they stand in its encoding.

use std::{fmt, str};

use bytes::{Bytes, BytesMut};

use crate::varint::{bytes_len, put_bytes, take_bytes};

/// Names and values beside a message's body, in the order given; names may repeat.
///
/// They are kept as they are encoded, one after another, and read when somebody looks: of a message that was
/// consumed they are a slice of what came, which was checked when the message was read.
///
/// ```
/// use ltq_core::Headers;
/// let mut headers = Headers::new();
/// headers.push("trace", "a1");
/// headers.push("hop", "east");
/// headers.push("hop", "west");
/// assert_eq!(headers.get("trace"), Some(&b"a1"[..]));
/// let hops = headers.iter().filter(|(name, _)| *name == "hop");
/// assert_eq!(hops.map(|(_, value)| value).collect::<Vec<_>>(), [&b"east"[..], b"west"]);
/// ```
#[derive(Clone, Default)]
pub struct Headers {
    /// Of each the length of the name, the name, the length of the value, and the value. `None` without any: most
    /// messages have none, and are cloned and dropped for less then.
    encoded: Option<Bytes>,
}

impl Headers {
    /// No headers.
    #[must_use]
    pub const fn new() -> Self {
        Self { encoded: None }
    }

    /// How many there are, which is counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().raw().count()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.encoded.is_none()
    }

    /// Adds one behind the others.
    pub fn push(&mut self, name: impl AsRef<str>, value: impl AsRef<[u8]>) {
        let (name, value) = (name.as_ref().as_bytes(), value.as_ref());
        let more = bytes_len(name) + bytes_len(value);
        // What nobody else has grows where it is.
        let mut encoded = match self.encoded.take().unwrap_or_default().try_into_mut() {
            Ok(mut own) => {
                own.reserve(more);
                own
            }
            Err(shared) => {
                let mut own = BytesMut::with_capacity(shared.len() + more);
                own.extend_from_slice(&shared);
                own
            }
        };
        put_bytes(&mut encoded, name);
        put_bytes(&mut encoded, value);
        self.encoded = Some(encoded.freeze());
    }

    /// The value of the first with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().raw().find(|(own, _)| *own == name.as_bytes()).map(|(_, value)| value)
    }

    /// Names and values, in the order given.
    #[must_use]
    pub fn iter(&self) -> HeaderIter<'_> {
        HeaderIter { rest: self.encoded() }
    }

    /// The names and values as they stand in a message's encoding.
    pub(crate) fn encoded(&self) -> &[u8] {
        self.encoded.as_deref().unwrap_or_default()
    }

    /// So many of them, off the front of `from`; `None` when they do not stand there.
    pub(crate) fn check(from: &[u8], count: u64) -> Option<&[u8]> {
        let mut rest = from;
        // Each takes two bytes at least, so that no count makes this longer than the bytes do.
        for _ in 0..count {
            str::from_utf8(take_bytes(&mut rest)?).ok()?;
            take_bytes(&mut rest)?;
        }
        from.get(..from.len() - rest.len())
    }

    /// Those, at least one, that [`check`](Self::check) found.
    pub(crate) const fn checked(encoded: Bytes) -> Self {
        Self { encoded: Some(encoded) }
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        // A foreign encoder may write the same in more bytes.
        self.encoded == other.encoded || self.iter().eq(other.iter())
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.iter().map(|(name, value)| (name, value.escape_ascii().to_string()));
        f.debug_list().entries(shown).finish()
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> Extend<(N, V)> for Headers {
    fn extend<I: IntoIterator<Item = (N, V)>>(&mut self, headers: I) {
        headers.into_iter().for_each(|(name, value)| self.push(name, value));
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(headers: I) -> Self {
        let mut all = Self::new();
        all.extend(headers);
        all
    }
}

impl<'a> IntoIterator for &'a Headers {
    type Item = (&'a str, &'a [u8]);
    type IntoIter = HeaderIter<'a>;

    fn into_iter(self) -> HeaderIter<'a> {
        self.iter()
    }
}

/// The names and values of [`Headers`], which it borrows.
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    rest: &'a [u8],
}

impl<'a> HeaderIter<'a> {
    /// The same without a look at whether the names are text.
    fn raw(mut self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        std::iter::from_fn(move || self.next_raw())
    }

    fn next_raw(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        Some((take_bytes(&mut self.rest)?, take_bytes(&mut self.rest)?))
    }
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.next_raw()?;
        // All names were text when they came in.
        Some((str::from_utf8(name).ok()?, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(headers: &Headers) -> Vec<(&str, &[u8])> {
        headers.iter().collect()
    }

    #[test]
    fn headers_are_in_the_order_given_and_names_repeat() {
        let mut headers = Headers::new();
        assert!(headers.is_empty() && headers.get("a").is_none());
        let given = [("a", "1"), ("", ""), ("a", "2"), ("ä", "\0")];
        for (count, (name, value)) in (1..).zip(given) {
            headers.push(name, value);
            assert_eq!((headers.len(), headers.is_empty()), (count, false));
        }
        assert_eq!(list(&headers), given.map(|(name, value)| (name, value.as_bytes())));
        assert_eq!(headers.get("a"), Some(&b"1"[..]));
        assert_eq!(headers.get(""), Some(&b""[..]));
        assert_eq!(headers.get("b"), None);
        assert_eq!(headers, given.into_iter().collect());
        assert_eq!(format!("{headers:?}"), r#"[("a", "1"), ("", ""), ("a", "2"), ("ä", "\\x00")]"#);
    }

    #[test]
    fn a_clone_keeps_what_it_had() {
        let mut headers: Headers = [("a", "1")].into_iter().collect();
        let before = headers.clone();
        headers.push("b", [0; 200]);
        let longer = headers.clone();
        drop(before.clone());
        headers.push("c", "");
        assert_eq!(list(&before), [("a", &b"1"[..])]);
        assert_eq!(list(&longer), [("a", &b"1"[..]), ("b", &[0; 200])]);
        assert_eq!(headers.len(), 3);
        assert_ne!(headers, longer);
    }

    #[test]
    fn the_same_in_more_bytes_is_the_same() {
        let plain: Headers = [("a", "1")].into_iter().collect();
        let long = Headers::checked(Bytes::from_static(b"\x81\0a\x81\x80\0\x31"));
        assert_eq!(list(&long), list(&plain));
        assert_eq!(long, plain);
        assert_ne!(long, [("a", "2")].into_iter().collect());
        assert_ne!(plain, [("a", "1"), ("a", "1")].into_iter().collect());
    }
}
