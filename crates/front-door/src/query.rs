//! Reads a query string: form-decoded, and refused where it is not UTF-8 rather than repaired, since
//! a repaired path is another path.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};
use types::limits::PATH_BYTES_MAX;
use types::{ErrorCode, Status, WarrenError};

use crate::limits::{CURSOR_BYTES_MAX, NAME_BYTES_MAX, PAGE_MAX};
use crate::operations::{Consistency, ListFilter};
use crate::values;

/// Every character but the unreserved ones.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The parameters of a query, in their order.
pub(crate) struct Query<'a> {
    raw: &'a str,
}

impl<'a> Query<'a> {
    pub(crate) fn new(raw: &'a str) -> Self {
        Self { raw }
    }

    fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.raw.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    /// All values of a parameter.
    fn all(&self, name: &str) -> Result<Vec<String>, WarrenError> {
        self.pairs()
            .filter(|(key, _)| decoded(key).as_deref() == Some(name))
            .map(|(_, value)| decoded(value).ok_or_else(|| WarrenError::field(name, "must be UTF-8")))
            .collect()
    }

    /// The first value of a parameter; the empty one means absent.
    fn first(&self, name: &str) -> Result<Option<String>, WarrenError> {
        Ok(self.all(name)?.into_iter().next().filter(|value| !value.is_empty()))
    }

    /// The path of a file.
    pub(crate) fn path(&self) -> Result<String, WarrenError> {
        match self.first("path")? {
            None => Err(path_error("path query parameter is required")),
            Some(path) => checked_path(path),
        }
    }

    /// The path of a directory to show; absent is the root.
    pub(crate) fn path_or_root(&self) -> Result<String, WarrenError> {
        self.first("path")?.map_or_else(|| Ok("/".to_owned()), checked_path)
    }

    pub(crate) fn consistency(&self) -> Result<Consistency, WarrenError> {
        match self.first("stale")?.as_deref() {
            None | Some("false" | "0") => Ok(Consistency::Barrier),
            Some("true" | "1") => Ok(Consistency::Stale),
            Some(_) => Err(WarrenError::field("stale", "must be true or false")),
        }
    }

    pub(crate) fn list_filter(&self) -> Result<ListFilter, WarrenError> {
        let bounded = |name: &str, bytes_max| -> Result<Option<String>, WarrenError> {
            let value = self.first(name)?;
            match value.as_deref().map(|value| values::printable(value, bytes_max)) {
                Some(Err(why)) => Err(WarrenError::field(name, why)),
                _ => Ok(value),
            }
        };
        let labels = self.all("label")?.into_iter().map(|label| match label.split_once(':') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(WarrenError::field("label", "must be key:value")),
        });
        Ok(ListFilter {
            status: self.first("status")?.map(|name| status(&name)).transpose()?,
            labels: labels.collect::<Result<_, _>>()?,
            node: bounded("node", NAME_BYTES_MAX)?,
            limit: self.first("limit")?.map(|text| limit(&text)).transpose()?,
            cursor: bounded("cursor", CURSOR_BYTES_MAX)?,
        })
    }

    /// This query with another cursor.
    pub(crate) fn with_cursor(&self, cursor: &str) -> String {
        let kept = self.raw.split('&').filter(|pair| {
            !pair.is_empty() && decoded(pair.split_once('=').map_or(*pair, |(key, _)| key)).as_deref() != Some("cursor")
        });
        let cursor = format!("cursor={}", utf8_percent_encode(cursor, ENCODED));
        kept.chain([cursor.as_str()]).collect::<Vec<_>>().join("&")
    }
}

/// Percent-encodes a text for a header parameter or a query.
pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

fn decoded(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    String::from_utf8(percent_decode(spaced.as_bytes()).collect()).ok()
}

/// A path that a file operation can take.
pub(crate) fn checked_path(path: String) -> Result<String, WarrenError> {
    if !path.starts_with('/') {
        Err(path_error("absolute path required"))
    } else if path.contains('\0') {
        Err(path_error("path contains null byte"))
    } else if path.len() > PATH_BYTES_MAX {
        Err(WarrenError::field("path", format_args!("must be at most {PATH_BYTES_MAX} bytes long")))
    } else {
        Ok(path)
    }
}

/// These sentences are older than the form `<field>: <why>`, and clients know them.
pub(crate) fn path_error(message: &str) -> WarrenError {
    WarrenError::new(ErrorCode::BadRequest, message).with("field", "path")
}

fn status(name: &str) -> Result<Status, WarrenError> {
    [Status::Creating, Status::Running, Status::Paused, Status::Stopped, Status::Error, Status::Unreachable]
        .into_iter()
        .find(|status| status.as_str() == name)
        .ok_or_else(|| WarrenError::field("status", "must be creating, running, paused, stopped, error or unreachable"))
}

fn limit(text: &str) -> Result<usize, WarrenError> {
    let wrong = || WarrenError::field("limit", format_args!("must be from 1 to {PAGE_MAX}"));
    let limit = text.parse::<u64>().ok().filter(|limit| (1..=PAGE_MAX).contains(limit)).ok_or_else(wrong)?;
    usize::try_from(limit).map_err(|_| wrong())
}
