//! Reading fields of a JSON object with every problem collected, none thrown. It knows no field's meaning.

use serde_json::{Map, Value};

use super::MAX_SIZE;

/// A JSON object and what was wrong with the fields read from it so far.
pub(super) struct Fields<'a> {
    pub object: &'a Map<String, Value>,
    pub problems: Vec<String>,
}

impl<'a> Fields<'a> {
    /// The field's value; `null` counts as absent.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(&mut self, key: &str, expected: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.get(key)?;
        let typed = read(value);
        if typed.is_none() {
            self.problems.push(format!("{key} is {}, expected {expected}", short(value)));
        }
        typed
    }

    /// A size between 1 and [`MAX_SIZE`].
    pub fn size(&mut self, key: &str) -> Option<usize> {
        self.typed(key, "a whole number between 1 and 2^31", |value| {
            // Some writers print whole numbers as floats.
            let number = value.as_u64().or_else(|| value.as_f64().filter(|f| f.fract() == 0.0).map(|f| f as u64))?;
            usize::try_from(number).ok().filter(|size| (1..=MAX_SIZE).contains(size))
        })
    }

    /// A size that must be there.
    pub fn needed(&mut self, key: &str) -> usize {
        let size = self.size(key);
        self.complain_if_absent(key);
        size.unwrap_or(1)
    }

    /// A number above 0 that must be there.
    pub fn needed_number(&mut self, key: &str) -> f32 {
        let number = self.positive(key);
        self.complain_if_absent(key);
        number.unwrap_or(1.0)
    }

    fn complain_if_absent(&mut self, key: &str) {
        if self.get(key).is_none() {
            self.problems.push(format!("{key} is missing"));
        }
    }

    /// A finite number.
    pub fn number(&mut self, key: &str) -> Option<f32> {
        self.typed(key, "a finite number", |value| value.as_f64().map(|f| f as f32).filter(|f| f.is_finite()))
    }

    /// A finite number above 0.
    pub fn positive(&mut self, key: &str) -> Option<f32> {
        self.typed(key, "a number above 0", |value| {
            value.as_f64().map(|f| f as f32).filter(|f| f.is_finite() && *f > 0.0)
        })
    }

    pub fn bool(&mut self, key: &str) -> Option<bool> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub fn str(&mut self, key: &str) -> Option<&'a str> {
        self.typed(key, "a string", Value::as_str)
    }

    pub fn object(&mut self, key: &str) -> Option<&'a Map<String, Value>> {
        self.typed(key, "an object", Value::as_object)
    }

    pub fn strings(&mut self, key: &str) -> Option<Vec<String>> {
        self.typed(key, "a list of strings", |value| {
            value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        })
    }

    pub fn token(&mut self, key: &str) -> Option<u32> {
        self.typed(key, "a token id", token_id)
    }

    /// One token id or a list of them; absent is none.
    pub fn tokens(&mut self, key: &str) -> Vec<u32> {
        self.typed(key, "a token id or a list of them", |value| match value {
            Value::Array(items) => items.iter().map(token_id).collect(),
            one => token_id(one).map(|id| vec![id]),
        })
        .unwrap_or_default()
    }
}

fn token_id(value: &Value) -> Option<u32> {
    value.as_u64()?.try_into().ok()
}

/// A value in at most some forty characters.
pub(super) fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
