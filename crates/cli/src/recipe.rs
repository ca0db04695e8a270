//! Recipes: a YAML file, `--set key=value` and flags become one checked `spec::Recipe`. Every fault is reported, with its
//! line. It reads no file and prints nothing.

mod aliases;
mod decides;
mod keys;
mod suggest;
mod together;
mod tree;

use std::collections::BTreeMap;

use ounce_spec::Recipe;
use serde_json::Value as Json;

use aliases::How;
pub use decides::texts;
pub use keys::{KEYS, Kind};
pub use suggest::nearest;
pub use tree::{Node, Value};

/// One thing that is wrong with a recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `recipe.yaml:7`, or the flag.
    pub at: String,
    pub what: String,
    pub help: Option<String>,
}

/// Settings from a file and from flags, the later ones winning; becomes a [`Recipe`] in [`Draft::finish`].
#[derive(Debug)]
pub struct Draft {
    json: Json,
    /// Where each path was set in the current source: two spellings of one key in the same file contradict each other.
    set: BTreeMap<&'static str, String>,
    faults: Vec<Fault>,
    notes: Vec<String>,
}

/// A recipe that passed every check.
#[derive(Debug)]
pub struct Resolved {
    pub recipe: Recipe,
    /// What the user should know: keys of other programs that change nothing here.
    pub notes: Vec<String>,
}

impl Default for Draft {
    fn default() -> Draft {
        Draft::from(&Recipe::default())
    }
}

impl From<&Recipe> for Draft {
    /// Starts from a recipe that was resolved before, such as the one of a run to resume.
    fn from(recipe: &Recipe) -> Draft {
        let json = serde_json::to_value(recipe).expect("a recipe is plain data with text keys");
        Draft { json, set: BTreeMap::new(), faults: Vec::new(), notes: Vec::new() }
    }
}

impl Draft {
    /// Adds a whole file. `name` is how messages call it.
    pub fn file(&mut self, name: &str, text: &str) {
        self.set.clear();
        match tree::parse(text) {
            Ok(entries) => self.entries(name, "", entries),
            Err(e) => {
                let at = e.line.map_or(name.to_owned(), |line| format!("{name}:{line}"));
                self.faults.push(Fault { at, what: e.what, help: None });
            }
        }
        self.set.clear();
    }

    /// Adds one `key=value` of `--set`; the value is YAML.
    pub fn assignment(&mut self, text: &str) {
        let at = format!("--set {text}");
        let Some((key, value)) = text.split_once('=') else {
            let help = Some("write --set key=value, for example --set lora.rank=16".into());
            return self.faults.push(Fault { at, what: "there is no '='".into(), help });
        };
        let node = tree::parse_value(value).unwrap_or_else(|_| Node { line: 0, value: Value::Text(value.to_owned()) });
        self.set.clear();
        self.entry(&at, "", key.trim(), &node);
    }

    /// Adds the value of a flag under the path of its key.
    pub fn flag(&mut self, flag: &str, path: &'static str, value: Value) {
        self.set.clear();
        self.put(flag, path, &Node { line: 0, value });
    }

    /// Checks what only makes sense together, and hands the recipe over; or every fault that was found.
    pub fn finish(mut self) -> Result<Resolved, Vec<Fault>> {
        if !self.faults.is_empty() {
            return Err(self.faults);
        }
        match serde_json::from_value::<Recipe>(self.json) {
            Ok(recipe) => match together::faults(&recipe) {
                faults if faults.is_empty() => Ok(Resolved { recipe, notes: std::mem::take(&mut self.notes) }),
                faults => Err(faults),
            },
            Err(e) => Err(vec![Fault { at: "recipe".into(), what: e.to_string(), help: None }]),
        }
    }

    fn entries(&mut self, source: &str, section: &str, entries: Vec<(tree::Key, Node)>) {
        for (key, node) in entries {
            let at = format!("{source}:{}", key.line);
            let path = if section.is_empty() { key.name.clone() } else { format!("{section}.{}", key.name) };
            match node.value {
                Value::Map(inner) if keys::SECTIONS.iter().any(|s| s.0 == path) => self.entries(source, &path, inner),
                value => self.entry(&at, section, &path, &Node { line: node.line, value }),
            }
        }
    }

    /// One key with its value: ours, a section's short form, an alias, a foreign key, or unknown.
    fn entry(&mut self, at: &str, section: &str, path: &str, node: &Node) {
        if let Some(key) = keys::find(path) {
            let how = aliases::of_own_key(path);
            return self.convert(at, key.path, how, node);
        }
        if section.is_empty() {
            if let Some(alias) = aliases::find(path) {
                return self.convert(at, alias.to, alias.how, node);
            }
            if let Some((_, Some(to))) = keys::SECTIONS.iter().find(|s| s.0 == path) {
                return self.put(at, to, node);
            }
            if let Some((name, _)) = keys::SECTIONS.iter().find(|s| s.0 == path) {
                let what = format!("{name} is {}, it must be a mapping of keys", node.value.kind());
                return self.faults.push(Fault { at: at.into(), what, help: None });
            }
            if let Some(foreign) = aliases::find_foreign(path) {
                return self.foreign(at, foreign, node);
            }
        }
        let known = KEYS.iter().map(|k| k.path).chain(aliases::ALIASES.iter().map(|a| a.name));
        let help = match nearest(path.strip_prefix(&format!("{section}.")).unwrap_or(path), known)[..] {
            [] => "all keys: ounce schema recipe".into(),
            ref all => format!("did you mean {}?", all.join(" or ")),
        };
        self.faults.push(Fault { at: at.into(), what: format!("unknown key {path:?}"), help: Some(help) });
    }

    fn foreign(&mut self, at: &str, foreign: &aliases::Foreign, node: &Node) {
        let value = plain(&node.value);
        if foreign.fine.is_empty() || value.as_deref().is_some_and(|v| foreign.fine.contains(&v)) {
            self.notes.push(format!("{at}: {} changes nothing: {}", foreign.name, foreign.why));
        } else {
            let what = format!("{} is {}, which is not possible here", foreign.name, node.value.kind());
            self.faults.push(Fault { at: at.into(), what, help: Some(foreign.why.into()) });
        }
    }

    fn convert(&mut self, at: &str, to: &'static str, how: How, node: &Node) {
        let value = match (how, &node.value) {
            (How::Words(_), Value::Text(word)) => match aliases::translate(how, to, word) {
                Some(ours) => Value::Text(ours.into()),
                None => node.value.clone(),
            },
            (How::Optimizer(words), Value::Text(word)) => match words.iter().find(|(theirs, ..)| theirs == word) {
                Some((_, ours, state)) => {
                    if let Some(state) = state {
                        self.put(at, "optimizer.state", &Node { line: node.line, value: Value::Text((*state).into()) });
                    }
                    Value::Text((*ours).into())
                }
                None => node.value.clone(),
            },
            (How::Switch(yes, no), Value::Bool(b)) => Value::Text(if *b { yes } else { no }.into()),
            (How::Switch(yes, _), Value::Text(word)) if word == "auto" => Value::Text(yes.into()),
            (How::Not, Value::Bool(b)) => Value::Bool(!b),
            (How::NegativeIsNone, Value::Int(n)) if *n < 0 => Value::Null,
            (How::List, Value::Text(text)) => Value::List(
                text.split(',')
                    .map(str::trim)
                    .filter(|word| !word.is_empty())
                    .map(|word| Value::Text(aliases::translate(how, to, word).unwrap_or(word).into()))
                    .map(|value| Node { line: node.line, value })
                    .collect(),
            ),
            (How::List, Value::List(items)) => Value::List(items.iter().map(path_of).collect()),
            (How::Share, Value::Int(n)) if *n >= 1 => {
                let what = format!("{n} is a number of examples, here it is a share of the data, 0 to 0.9");
                return self.faults.push(Fault { at: at.into(), what, help: Some("for example 0.05".into()) });
            }
            _ => node.value.clone(),
        };
        self.put(at, to, &Node { line: node.line, value });
    }

    /// Checks the value against its key's kind and sets it.
    fn put(&mut self, at: &str, path: &'static str, node: &Node) {
        let key = keys::find(path).expect("aliases and flags name keys of the table: a test holds them to it");
        if let Some(before) = self.set.insert(path, at.to_owned()) {
            let what = format!("{path} is set twice, first at {before}");
            return self.faults.push(Fault { at: at.into(), what, help: Some("keep one of the two".into()) });
        }
        match check(key.kind, &node.value) {
            Ok(json) => {
                *self.json.pointer_mut(&format!("/{}", path.replace('.', "/"))).expect("a path of Recipe") = json
            }
            Err(wanted) => {
                let what = format!("{path} is {}, it must be {wanted}", node.value.kind());
                let help = match (key.kind, &node.value) {
                    (Kind::Choice(words), Value::Text(word)) => {
                        nearest(word, words.iter().copied()).first().map(|w| format!("did you mean {w}?"))
                    }
                    _ => None,
                };
                self.faults.push(Fault { at: at.into(), what, help });
            }
        }
    }
}

/// The names of other programs and the key that each leads to.
pub fn aliases() -> impl Iterator<Item = (&'static str, &'static str)> {
    aliases::ALIASES.iter().map(|a| (a.name, a.to))
}

/// The recipe as YAML that [`Draft::file`] reads back to the same recipe.
pub fn to_yaml(recipe: &Recipe) -> String {
    serde_saphyr::to_string(recipe).expect("a recipe is plain data with text keys")
}

/// The value in the recipe's JSON form, or what it must be.
fn check(kind: Kind, value: &Value) -> Result<Json, String> {
    let whole = |value: &Value| match value {
        Value::Int(n) => u64::try_from(*n).ok(),
        // Some write `1e3`.
        Value::Float(x) if x.fract() == 0.0 && (0.0..9e15).contains(x) => Some(*x as u64),
        _ => None,
    };
    let count = |min: u64, optional: &str| {
        // usize and u64 are the same on every system we run on.
        whole(value).filter(|&n| n >= min).map(Json::from).ok_or(format!("a whole number of at least {min}{optional}"))
    };
    match (kind, value) {
        (Kind::Bool, Value::Bool(b)) => Ok(Json::from(*b)),
        (Kind::Bool, _) => Err("true or false".into()),
        (Kind::OptionalCount { .. } | Kind::OptionalText, Value::Null) => Ok(Json::Null),
        (Kind::Count { min }, _) => count(min, ""),
        (Kind::OptionalCount { min }, _) => count(min, ", or null"),
        (Kind::Number { min, max }, _) => match value {
            Value::Int(n) => Some(*n as f64),
            Value::Float(x) => Some(*x),
            _ => None,
        }
        .filter(|x| (min..=max).contains(x))
        .map(Json::from)
        .ok_or_else(|| match min {
            0.0 => format!("a number from 0 to {max}"),
            _ => format!("a number above 0, at most {max}"),
        }),
        (Kind::Text | Kind::Texts, Value::Null) => Err("a text".into()),
        (Kind::Text | Kind::OptionalText, _) => plain(value).map(Json::from).ok_or("a text".into()),
        (Kind::Texts, Value::List(items)) => items
            .iter()
            .map(|item| plain(&item.value).map(Json::from))
            .collect::<Option<Vec<Json>>>()
            .map(Json::from)
            .ok_or("a text or a list of texts".into()),
        (Kind::Texts, _) => plain(value).map(|text| Json::from(vec![text])).ok_or("a text or a list of texts".into()),
        (Kind::Choice(words), Value::Text(word)) if words.contains(&word.as_str()) => Ok(Json::from(word.as_str())),
        (Kind::Choice(words), _) => Err(format!("one of {}", words.join(", "))),
    }
}

/// A scalar as text: paths and names may look like numbers to YAML.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Int(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        Value::Null => Some("null".into()),
        Value::Float(_) | Value::List(_) | Value::Map(_) => None,
    }
}

/// axolotl writes data sets as `- path: file`.
fn path_of(node: &Node) -> Node {
    match &node.value {
        Value::Map(entries) => {
            entries.iter().find(|(key, _)| key.name == "path").map_or(node, |(_, value)| value).clone()
        }
        _ => node.clone(),
    }
}

#[cfg(test)]
mod tests;
