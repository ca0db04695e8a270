//! `rank_pattern` and `alpha_pattern`: values for the modules that keys name, in the order of the file, because the first
//! key that fits decides. It knows nothing of what the values mean.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};

/// Keys with their values.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern<T>(pub Vec<(String, T)>);

impl<T> Default for Pattern<T> {
    fn default() -> Self {
        Pattern(Vec::new())
    }
}

impl<T: Copy> Pattern<T> {
    /// The value for `module` (a full name, such as `model.layers.0.self_attn.q_proj`): that of the first key which is its
    /// name, or the end of its name after a dot. A key that begins with `^` is the whole name.
    pub fn of(&self, module: &str) -> Option<T> {
        let names = |key: &str| match key.strip_prefix('^') {
            Some(whole) => module == whole,
            None => module.strip_suffix(key).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
        };
        self.0.iter().find(|(key, _)| names(key)).map(|(_, value)| *value)
    }
}

impl<T: Serialize> Serialize for Pattern<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pattern<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Pattern<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of module names, or null")
            }

            fn visit_unit<E>(self) -> Result<Pattern<T>, E> {
                Ok(Pattern::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pattern<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Pattern(entries))
            }
        }
        deserializer.deserialize_any(Entries(PhantomData))
    }
}
