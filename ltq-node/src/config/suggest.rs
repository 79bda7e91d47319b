//! The nearest valid name to one that is not.

/// The candidate that looks most like `text`. `None` only when there are none.
pub(crate) fn nearest<'a>(
    text: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let text = text.to_ascii_lowercase();
    let likeness = |name: &str| strsim::jaro_winkler(&text, &name.to_ascii_lowercase());
    candidates
        .into_iter()
        .map(|name| (likeness(name), name))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

/// The nearest of dotted keys: one that ends in the same word counts as near wherever it stands.
pub(crate) fn nearest_key<'a>(
    key: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let word = last(key);
    let likeness =
        |name: &str| strsim::jaro_winkler(key, name).max(strsim::jaro_winkler(&word, &last(name)));
    candidates
        .into_iter()
        .map(|name| (likeness(name), name))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_found() {
        assert_eq!(nearest("Fil", ["file", "memory"]), Some("file"));
        assert_eq!(nearest("x", []), None);
        let keys = ["data_dir", "limits.message_bytes_max", "delivery.timeout"];
        assert_eq!(nearest_key("message_bytes_max", keys), Some("limits.message_bytes_max"));
        assert_eq!(nearest_key("datadir", keys), Some("data_dir"));
        assert_eq!(nearest_key("delivery.timout", keys), Some("delivery.timeout"));
    }
}
