//! Reads `Range` and tells one version of a file from another.

use actix_web::http::header::{HeaderMap, IF_NONE_MATCH, IF_RANGE, RANGE};
use types::FileEntry;

/// A part of a file as a client asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// From this byte on, to the other one at most.
    From(u64, Option<u64>),
    /// The last so many bytes.
    Last(u64),
}

/// The part that a request asks for. What is malformed, in other units or of several parts is not
/// looked at, as HTTP allows; so is one with `If-Range`, which only a strong tag could satisfy.
pub(crate) fn asked(headers: &HeaderMap) -> Option<Asked> {
    if headers.contains_key(IF_RANGE) {
        return None;
    }
    let spec = headers.get(RANGE)?.to_str().ok()?.trim().strip_prefix("bytes=")?;
    let (first, last) = spec.split_once('-')?;
    match (number(first), number(last)) {
        (Some(first), None) if last.trim().is_empty() => Some(Asked::From(first, None)),
        (Some(first), Some(last)) if first <= last => Some(Asked::From(first, Some(last))),
        (None, Some(count)) if first.trim().is_empty() => Some(Asked::Last(count)),
        _ => None,
    }
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A weak tag: two versions of one size within one millisecond look alike.
pub(crate) fn entity_tag(entry: &FileEntry) -> String {
    format!("W/\"{:x}-{:x}\"", entry.size, entry.modified.0)
}

/// Whether the client already has what bears this tag.
pub(crate) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let bare = tag.trim_start_matches("W/");
    headers.get_all(IF_NONE_MATCH).filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == bare)
    })
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderMap, HeaderValue, RANGE};

    use super::{Asked, asked};

    #[test]
    fn ranges_are_read_or_not_looked_at() {
        for (text, expected) in [
            ("bytes=0-9", Some(Asked::From(0, Some(9)))),
            ("bytes=5-", Some(Asked::From(5, None))),
            ("bytes=-7", Some(Asked::Last(7))),
            ("bytes=9-5", None),
            ("bytes=a-b", None),
            ("bytes=+1-2", None),
            ("bytes=-", None),
            ("bytes=0-1,3-4", None),
            ("lines=0-1", None),
            ("bytes=99999999999999999999-", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, HeaderValue::from_str(text).unwrap());
            assert_eq!(asked(&headers), expected, "{text}");
        }
    }
}
