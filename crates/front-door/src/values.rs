//! Checks of values that several bodies share. Each says why a value is wrong; the caller names the field.

use std::collections::BTreeMap;

use types::WarrenError;
use types::limits::{LABEL_BYTES_MAX, LABELS_MAX, PATH_BYTES_MAX};

use crate::fields::{Fields, quoted};

/// An absolute path without null bytes.
pub(crate) fn absolute_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') { Err("must be an absolute path".to_owned()) } else { bounded(path, PATH_BYTES_MAX) }
}

/// A text that can be an argument of a program: free of null bytes.
pub(crate) fn free_of_null(text: &str) -> Result<(), String> {
    match text.contains('\0') {
        true => Err("must not contain a null byte".to_owned()),
        false => Ok(()),
    }
}

/// A text without null bytes, of at most `bytes_max` bytes.
pub(crate) fn bounded(text: &str, bytes_max: usize) -> Result<(), String> {
    match text.len() > bytes_max {
        true => Err(format!("must be at most {bytes_max} bytes long")),
        false => free_of_null(text),
    }
}

/// A bounded text for people, without control characters.
pub(crate) fn printable(text: &str, bytes_max: usize) -> Result<(), String> {
    bounded(text, bytes_max)?;
    match text.chars().any(char::is_control) {
        true => Err("must not contain control characters".to_owned()),
        false => Ok(()),
    }
}

/// The absolute path in a field; the empty one means absent.
pub(crate) fn path_field(fields: &mut Fields, name: &str) -> Result<Option<String>, WarrenError> {
    let path = fields.filled_text(name)?;
    match path.as_deref().map(absolute_path) {
        Some(Err(why)) => Err(fields.wrong(name, why)),
        _ => Ok(path),
    }
}

/// The printable text in a field; the empty one means absent.
pub(crate) fn name_field(fields: &mut Fields, name: &str, bytes_max: usize) -> Result<Option<String>, WarrenError> {
    let text = fields.filled_text(name)?;
    match text.as_deref().map(|text| printable(text, bytes_max)) {
        Some(Err(why)) => Err(fields.wrong(name, why)),
        _ => Ok(text),
    }
}

/// Arguments of a program.
pub(crate) fn argv_field(fields: &mut Fields, name: &str) -> Result<Vec<String>, WarrenError> {
    let argv = fields.texts(name)?;
    for (index, argument) in argv.iter().enumerate() {
        free_of_null(argument).map_err(|why| fields.wrong(&format!("{name}[{index}]"), why))?;
    }
    Ok(argv)
}

/// Variables of an environment. Values are secret and never repeated.
pub(crate) fn env_field(fields: &mut Fields, name: &str) -> Result<BTreeMap<String, String>, WarrenError> {
    let env = fields.text_map(name)?;
    for (key, value) in &env {
        let checked = match () {
            () if key.is_empty() => Err("a name must not be empty".to_owned()),
            () if key.contains('=') => Err("a name must not contain =".to_owned()),
            () => free_of_null(key).and_then(|()| free_of_null(value)),
        };
        checked.map_err(|why| fields.wrong(&format!("{name}.{}", quoted(key)), why))?;
    }
    Ok(env)
}

/// Labels. A key has no colon, since a list is filtered by `label=key:value`.
pub(crate) fn labels_field(fields: &mut Fields, name: &str) -> Result<BTreeMap<String, String>, WarrenError> {
    let labels = fields.text_map(name)?;
    if labels.len() > LABELS_MAX {
        return Err(fields.wrong(name, format_args!("must have at most {LABELS_MAX} entries")));
    }
    for (key, value) in &labels {
        let checked = match () {
            () if key.is_empty() => Err("a key must not be empty".to_owned()),
            () if key.contains(':') => Err("a key must not contain a colon".to_owned()),
            () => printable(key, LABEL_BYTES_MAX).and_then(|()| printable(value, LABEL_BYTES_MAX)),
        };
        checked.map_err(|why| fields.wrong(&format!("{name}.{}", quoted(key)), why))?;
    }
    Ok(labels)
}
