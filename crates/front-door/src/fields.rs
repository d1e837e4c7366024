//! Reads the fields of a JSON object one by one, and names the one that is wrong.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};
use types::WarrenError;

use crate::limits::QUOTED_CHARS_MAX;

/// The fields of one object. Reading takes a value out, so that texts are moved, not copied. An
/// absent field and one that is null are the same, except where [`Fields::raw`] is used.
pub(crate) struct Fields {
    map: Map<String, Value>,
    /// Where this object lies in the body, with its dot; empty for the body itself.
    at: String,
}

impl Fields {
    /// The fields of a whole body.
    pub(crate) fn of_body(body: Value) -> Result<Self, WarrenError> {
        match body {
            Value::Object(map) => Ok(Self { map, at: String::new() }),
            other => Err(WarrenError::field("body", format_args!("must be an object, not {}", kind(&other)))),
        }
    }

    /// How a field of this object is called in an error.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{}", self.at, quoted(name))
    }

    /// A wrong field.
    pub(crate) fn wrong(&self, name: &str, why: impl std::fmt::Display) -> WarrenError {
        WarrenError::field(&self.path(name), why)
    }

    fn mistyped(&self, name: &str, wanted: &str, value: &Value) -> WarrenError {
        self.wrong(name, format_args!("must be {wanted}, not {}", kind(value)))
    }

    /// The value as it stands; null is a value.
    pub(crate) fn raw(&mut self, name: &str) -> Option<Value> {
        self.map.get_mut(name).map(Value::take)
    }

    fn value(&mut self, name: &str) -> Option<Value> {
        self.raw(name).filter(|value| !value.is_null())
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, WarrenError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.mistyped(name, "a string", &other)),
        }
    }

    /// A text of which the empty one means absent.
    pub(crate) fn filled_text(&mut self, name: &str) -> Result<Option<String>, WarrenError> {
        Ok(self.text(name)?.filter(|text| !text.is_empty()))
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>, WarrenError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(self.mistyped(name, "true or false", &other)),
        }
    }

    pub(crate) fn number(&mut self, name: &str) -> Result<Option<Number>, WarrenError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(Some(number)),
            Some(other) => Err(self.mistyped(name, "a number", &other)),
        }
    }

    /// A whole number from 0 to `max`.
    pub(crate) fn unsigned(&mut self, name: &str, max: u64) -> Result<Option<u64>, WarrenError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Number(number)) => self.unsigned_of(name, &number, max).map(Some),
            Some(other) => Err(self.mistyped(name, "a whole number", &other)),
        }
    }

    /// Reads a number that was already taken out.
    pub(crate) fn unsigned_of(&self, name: &str, number: &Number, max: u64) -> Result<u64, WarrenError> {
        if number.as_f64().is_some_and(|value| value < 0.0) {
            return Err(self.wrong(name, "must not be negative"));
        }
        if number.as_f64().is_some_and(|value| value > max as f64) {
            return Err(self.wrong(name, format_args!("must be at most {max}")));
        }
        match whole(number) {
            Some(value) => u64::try_from(value)
                .ok()
                .filter(|value| *value <= max)
                .ok_or_else(|| self.wrong(name, format_args!("must be at most {max}"))),
            None => Err(self.wrong(name, "must be a whole number")),
        }
    }

    pub(crate) fn texts(&mut self, name: &str) -> Result<Vec<String>, WarrenError> {
        let items = match self.value(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(other) => return Err(self.mistyped(name, "an array of strings", &other)),
        };
        items
            .into_iter()
            .enumerate()
            .map(|(index, item)| match item {
                Value::String(text) => Ok(text),
                other => Err(self.mistyped(&format!("{name}[{index}]"), "a string", &other)),
            })
            .collect()
    }

    pub(crate) fn text_map(&mut self, name: &str) -> Result<BTreeMap<String, String>, WarrenError> {
        let entries = match self.value(name) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(entries)) => entries,
            Some(other) => return Err(self.mistyped(name, "an object of strings", &other)),
        };
        entries
            .into_iter()
            .map(|(key, value)| match value {
                Value::String(text) => Ok((key, text)),
                other => Err(self.mistyped(&format!("{name}.{}", quoted(&key)), "a string", &other)),
            })
            .collect()
    }

    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Fields>, WarrenError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields { map, at: format!("{}.", self.path(name)) })),
            Some(other) => Err(self.mistyped(name, "an object", &other)),
        }
    }

    pub(crate) fn objects(&mut self, name: &str, count_max: usize) -> Result<Vec<Fields>, WarrenError> {
        let items = match self.value(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(other) => return Err(self.mistyped(name, "an array of objects", &other)),
        };
        if items.len() > count_max {
            return Err(self.wrong(name, format_args!("must have at most {count_max} entries")));
        }
        items
            .into_iter()
            .enumerate()
            .map(|(index, item)| {
                let name = format!("{name}[{index}]");
                match item {
                    Value::Object(map) => Ok(Fields { map, at: format!("{}.", self.path(&name)) }),
                    other => Err(self.mistyped(&name, "an object", &other)),
                }
            })
            .collect()
    }
}

/// The whole number that a JSON number is, however it is written: 1, 1.0 and 1e0 are one value.
pub(crate) fn whole(number: &Number) -> Option<i128> {
    if let Some(value) = number.as_u64() {
        return Some(i128::from(value));
    }
    if let Some(value) = number.as_i64() {
        return Some(i128::from(value));
    }
    // Beyond 2^100 a float is still whole, but no field of ours reaches so far.
    let value = number.as_f64()?;
    (value.fract() == 0.0 && value.abs() < (1_u128 << 100) as f64).then_some(value as i128)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A client's own text, short enough to be repeated to it.
pub(crate) fn quoted(text: &str) -> std::borrow::Cow<'_, str> {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]).into(),
        None => text.into(),
    }
}
