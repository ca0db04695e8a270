//! Grammars of calls whose arguments stand one by one between tags, in the notation of Lark: each argument that the schema has, in
//! its order, and those that are required in any case. They know no text that has been written.

use ounce_grammar::{GrammarError, json_rule};
use serde_json::{Map, Value};

use super::parts::Tags;
use super::values::Written;
use crate::tools::Function;

/// Keys of a schema of arguments that a list of them keeps to, or that say nothing of values.
const KEPT: [&str; 13] = [
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "additionalProperties",
    "default",
    "definitions",
    "description",
    "examples",
    "properties",
    "required",
    "title",
    "type",
];

/// The rules of a call of `function`, `f` and those that it needs, told from others by `at`. Where neither `strict` nor the
/// function says so, its arguments are any.
///
/// # Errors
/// A schema that is none, or that asks for more than types of arguments.
pub fn rules(tags: &Tags, at: &str, function: &Function, strict: bool) -> Result<String, GrammarError> {
    let mut body = format!("{}{}{}", tags.name, function.name, tags.named);
    // A tag's own line, as templates have it.
    let line = if tags.lines { "\n" } else { "" };
    body += line;
    let mut rule = format!("f{at}: {}", quoted(&body));
    let mut rest = String::new();
    let root = &function.parameters;
    let space = if tags.lines { "" } else { " SPACE?" };
    rule += space;
    let properties = root.get("properties").and_then(Value::as_object).filter(|all| !all.is_empty());
    match properties.filter(|_| strict || function.strict) {
        Some(properties) => {
            let required = known(root, properties)?;
            for (n, (key, schema)) in properties.iter().enumerate() {
                if key.contains(['<', '>', '\n']) || key.trim() != key || key.is_empty() {
                    return Err(GrammarError::Invalid(format!("an argument cannot be called {key:?}")));
                }
                let head = quoted(&format!("{}{key}{}", tags.key, tags.value[0]));
                let head = if tags.lines {
                    format!("{head} \"\\n\"")
                } else {
                    format!("{head} SPACE? {}", quoted(tags.value[1]))
                };
                let (value, more) = value(tags, &format!("{at}_{n}"), schema, root, function.strict)?;
                let many = if required.contains(&key.as_str()) { "" } else { "?" };
                rule += &format!(" p{at}_{n}{many}");
                rest += &format!("p{at}_{n}: {head} {value}{space}\n{more}");
            }
        }
        // Whoever has no arguments gets none.
        None if root.get("additionalProperties") == Some(&Value::Bool(false)) && properties.is_none() => {}
        None if strict && function.strict => {
            return Err(GrammarError::Invalid("its arguments have to be properties".into()));
        }
        None => {
            let head = match tags.lines {
                true => format!("{} KEY \">\\n\"", quoted(tags.key)),
                false => format!("{} KEY {} SPACE? {}", quoted(tags.key), quoted(tags.value[0]), quoted(tags.value[1])),
            };
            rule += &format!(" p{at}*");
            rest += &format!("p{at}: {head} t{at}{space}\n{}", text(tags, at));
        }
    }
    if !tags.end.is_empty() {
        rule += &format!(" {}", quoted(tags.end));
    }
    Ok(format!("{rule}\n{rest}"))
}

/// The keys that a schema requires, where nothing but its properties has a say.
fn known<'a>(root: &'a Value, properties: &Map<String, Value>) -> Result<Vec<&'a str>, GrammarError> {
    let refuse = |what: String| Err(GrammarError::Invalid(what));
    if let Some(key) = root.as_object().into_iter().flat_map(Map::keys).find(|key| !KEPT.contains(&key.as_str())) {
        return refuse(format!("{key} beside the properties of arguments is not kept to"));
    }
    let required: Vec<&str> = root["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match required.iter().find(|key| !properties.contains_key(**key)) {
        Some(key) => refuse(format!("{key} is required and no property")),
        None => Ok(required),
    }
}

/// What a value is up to the end of its closing tag, and the rules that this needs.
fn value(tags: &Tags, at: &str, schema: &Value, root: &Value, strict: bool) -> Result<(String, String), GrammarError> {
    let end = quoted(&after(tags));
    Ok(match Written::of(schema, root, strict) {
        Written::Text | Written::Either(_) => (format!("t{at}"), text(tags, at)),
        Written::Boolean => (format!("/[Tt]rue|[Ff]alse/ {end}"), String::new()),
        Written::Choice(list) => {
            let list: Vec<String> = list.iter().map(|text| quoted(text)).collect();
            (format!("({}) {end}", list.join(" | ")), String::new())
        }
        Written::Json => {
            let mut schema = schema.clone();
            // What it refers to is beside the properties.
            for key in ["$defs", "definitions"] {
                if let (Some(of), Some(inner)) = (root.get(key), schema.as_object_mut()) {
                    inner.insert(key.into(), of.clone());
                }
            }
            (format!("j{at} {end}"), format!("j{at}: {}\n", json_rule(&schema)?))
        }
    })
}

/// A rule for any text up to the closing tag of a value.
fn text(tags: &Tags, at: &str) -> String {
    format!("t{at}[lazy]: TEXT {}\n", quoted(&after(tags)))
}

/// What follows a value.
fn after(tags: &Tags) -> String {
    if tags.lines { format!("\n{}\n", tags.valued) } else { tags.valued.into() }
}

/// A text in Lark's notation, which writes texts as JSON does.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
