//! Reads the fields of a JSON object with their types and ranges, and collects every fault. `null` is absent. Fields that are
//! not asked for are left alone, as clients send many that only some servers know. It knows no endpoint.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::error::ApiError;

pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// What stands before a field's name: `options.` within `options`.
    under: String,
    faults: Vec<(String, String)>,
}

#[cfg(test)]
thread_local! {
    /// Every name that a parser has asked for on this thread: what the API's description is held against.
    pub static SEEN: std::cell::RefCell<std::collections::BTreeSet<String>> = Default::default();
}

impl<'a> Fields<'a> {
    /// # Errors
    /// 400 if the body is no object.
    pub fn of(body: &'a Value) -> Result<Fields<'a>, ApiError> {
        match body.as_object() {
            Some(object) => Ok(Fields { object, under: String::new(), faults: Vec::new() }),
            None => Err(ApiError::invalid(format!("the body must be a JSON object, it is {}", kind(body)))),
        }
    }

    /// 400 with all faults; `param` is the first.
    pub fn finish(self) -> Result<(), ApiError> {
        let Some((first, _)) = self.faults.first() else { return Ok(()) };
        let all: Vec<String> = self.faults.iter().map(|(name, what)| format!("{name} {what}")).collect();
        Err(ApiError::field(first, all.join("; ")))
    }

    /// Notes that a field cannot be used; `what` goes on from its name.
    pub fn fault(&mut self, name: &str, what: impl Into<String>) {
        self.faults.push((format!("{}{name}", self.under), what.into()));
    }

    /// The value of a field that is there.
    pub fn value(&self, name: &str) -> Option<&'a Value> {
        #[cfg(test)]
        SEEN.with_borrow_mut(|seen| seen.insert(format!("{}{name}", self.under)));
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// Reads the fields of an object that is a field itself, an empty one where it is absent; faults get its name.
    pub fn within<T>(&mut self, name: &str, read: impl FnOnce(&mut Fields<'a>) -> T) -> T {
        static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
        let object = match self.value(name) {
            Some(Value::Object(object)) => object,
            None => &EMPTY,
            Some(other) => {
                self.fault(name, format!("must be an object, it is {}", kind(other)));
                &EMPTY
            }
        };
        let mut inner = Fields { object, under: format!("{}{name}.", self.under), faults: Vec::new() };
        let out = read(&mut inner);
        self.faults.extend(inner.faults);
        out
    }

    /// A number within `range`, which is also the text of the complaint: `0 to 2`.
    pub fn number(&mut self, name: &str, range: std::ops::RangeInclusive<f64>) -> Option<f64> {
        let value = self.value(name)?;
        match value.as_f64() {
            Some(number) if range.contains(&number) => return Some(number),
            Some(number) => self.fault(name, format!("is {number:?}, it must be {} to {}", range.start(), range.end())),
            None => self.fault(name, format!("must be a number, it is {}", kind(value))),
        }
        None
    }

    /// A number above 0, at most `most`.
    pub fn positive(&mut self, name: &str, most: f64) -> Option<f64> {
        let number = self.number(name, 0.0..=most)?;
        // What is 0 in the type of the computation is 0.
        if number as f32 > 0.0 {
            return Some(number);
        }
        self.fault(name, format!("is {number:?}, it must be above 0, at most {most}"));
        None
    }

    /// A whole number within `range`; `3.0` is one.
    pub fn integer(&mut self, name: &str, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let value = self.value(name)?;
        match whole(value) {
            Some(number) if range.contains(&number) => return Some(number),
            _ if value.is_number() => {
                self.fault(
                    name,
                    format!("is {value}, it must be a whole number, {} to {}", range.start(), range.end()),
                );
            }
            _ => self.fault(name, format!("must be a whole number, it is {}", kind(value))),
        }
        None
    }

    pub fn flag(&mut self, name: &str) -> Option<bool> {
        let value = self.value(name)?;
        if !value.is_boolean() {
            self.fault(name, format!("must be true or false, it is {}", kind(value)));
        }
        value.as_bool()
    }

    pub fn text(&mut self, name: &str) -> Option<&'a str> {
        let value = self.value(name)?;
        if !value.is_string() {
            self.fault(name, format!("must be a string, it is {}", kind(value)));
        }
        value.as_str()
    }

    /// A list of token ids.
    pub fn token_ids(&mut self, name: &str) -> Option<Vec<u32>> {
        let ids = self.value(name).map(token_ids)?;
        if ids.is_none() {
            self.fault(name, "must be a list of token ids");
        }
        ids
    }
}

/// The ids of a list of token ids.
pub fn token_ids(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(|id| whole(id).and_then(|id| u32::try_from(id).ok())).collect()
}

fn whole(value: &Value) -> Option<i64> {
    // Above 2^53 a float does not know which whole number it is.
    let float = |f: f64| (f.fract() == 0.0 && f.abs() <= 9e15).then_some(f as i64);
    value.as_i64().or_else(|| value.as_f64().filter(|_| value.is_f64()).and_then(float))
}

/// What a value is, in words.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_fault_is_told_and_the_first_is_named() {
        let body = json!({"a": "x", "b": 3.5, "c": 7, "d": null, "e": 1e300, "f": 2.0, "g": 0, "h": [1, -1]});
        let mut fields = Fields::of(&body).unwrap();
        assert_eq!(fields.number("a", 0.0..=1.0), None);
        assert_eq!(fields.integer("b", 0..=9), None);
        assert_eq!(fields.integer("c", 0..=9), Some(7));
        assert_eq!(fields.flag("d"), None);
        assert_eq!(fields.integer("e", 0..=9), None);
        assert_eq!(fields.integer("f", 0..=9), Some(2));
        assert_eq!(fields.positive("g", 1.0), None);
        assert_eq!(fields.token_ids("h"), None);
        assert_eq!(fields.text("nothing"), None);
        let error = fields.finish().unwrap_err();
        assert_eq!(error.param.as_deref(), Some("a"));
        assert_eq!(
            error.message,
            "a must be a number, it is a string; b is 3.5, it must be a whole number, 0 to 9; e is 1e+300, it must be a \
             whole number, 0 to 9; g is 0.0, it must be above 0, at most 1; h must be a list of token ids"
        );
    }
}
