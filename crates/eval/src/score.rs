//! Right or wrong: compares what a model generated with a reference. Knows no model and no file.

use serde_json::{Map, Value};

/// How a task is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The whole answer, after [`normalize`].
    ExactMatch,
    /// The first JSON object of the answer, field by field.
    JsonFields,
    /// The most likely of given choices.
    MultipleChoice,
}

impl Metric {
    /// The name that users type: `exact`, `json`, `choice`.
    pub fn from_name(name: &str) -> Option<Metric> {
        Some(match name {
            "exact" | "exact_match" => Metric::ExactMatch,
            "json" | "json_fields" => Metric::JsonFields,
            "choice" | "multiple_choice" => Metric::MultipleChoice,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Metric::ExactMatch => "exact",
            Metric::JsonFields => "json",
            Metric::MultipleChoice => "choice",
        }
    }
}

/// Exact match after [`normalize`] of both sides.
pub fn exact_match(answer: &str, reference: &str) -> bool {
    normalize(answer) == normalize(reference)
}

/// White space at the ends is removed, runs of it inside become one space. Case and punctuation count.
pub fn normalize(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// One record of a JSON task. Nested objects are compared by their leaves (`patient.age`); an array is one leaf.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonScore {
    /// Whether the answer holds a JSON object at all.
    pub parsed: bool,
    /// (path, whether the answer has the reference's value there), in the order of the reference.
    pub fields: Vec<(String, bool)>,
    /// Paths that the answer has and the reference does not.
    pub extra: Vec<String>,
}

impl JsonScore {
    /// Every field right and none invented.
    pub fn record(&self) -> bool {
        self.parsed && self.extra.is_empty() && self.fields.iter().all(|f| f.1)
    }

    /// Share of the reference's fields that are right; 1 for an empty reference that was parsed.
    pub fn share(&self) -> f64 {
        match self.fields.len() {
            0 => f64::from(u8::from(self.parsed)),
            n => self.fields.iter().filter(|f| f.1).count() as f64 / n as f64,
        }
    }
}

/// Compares the first JSON object in `answer` with `reference`.
///
/// Values are equal when they have the same type and: numbers the same value (`1` = `1.0`), texts the same after
/// [`normalize`], arrays the same elements in the same order, objects the same leaves. `null` and an absent field differ.
pub fn json_fields(answer: &str, reference: &Map<String, Value>) -> JsonScore {
    let expected = leaves(reference);
    let Some(found) = first_json_object(answer) else {
        let fields = expected.into_iter().map(|(path, _)| (path, false)).collect();
        return JsonScore { parsed: false, fields, extra: Vec::new() };
    };
    let found = leaves(&found);
    let extra = found.iter().filter(|(p, _)| !expected.iter().any(|(e, _)| e == p)).map(|(p, _)| p.clone()).collect();
    let fields = expected
        .into_iter()
        .map(|(path, value)| {
            let right = found.iter().any(|(p, v)| *p == path && same(v, value));
            (path, right)
        })
        .collect();
    JsonScore { parsed: true, fields, extra }
}

/// The first complete JSON object in a text, whatever stands around it: prose, code fences, a second object.
pub fn first_json_object(text: &str) -> Option<Map<String, Value>> {
    text.match_indices('{').find_map(|(at, _)| {
        serde_json::Deserializer::from_str(&text[at..]).into_iter::<Map<String, Value>>().next()?.ok()
    })
}

/// The leaves of an object with their paths. An empty object is a leaf too: it differs from an absent one.
fn leaves(object: &Map<String, Value>) -> Vec<(String, &Value)> {
    fn walk<'a>(prefix: &str, object: &'a Map<String, Value>, out: &mut Vec<(String, &'a Value)>) {
        for (key, value) in object {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                Value::Object(inner) if !inner.is_empty() => walk(&path, inner, out),
                _ => out.push((path, value)),
            }
        }
    }
    let mut out = Vec::new();
    walk("", object, &mut out);
    out
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::String(a), Value::String(b)) => normalize(a) == normalize(b),
        // Whole numbers are compared as such: f64 would merge neighbours above 2⁵³.
        (Value::Number(a), Value::Number(b)) => a == b || (a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        _ => a == b,
    }
}

/// How likely one choice is after the question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChoiceLikelihood {
    /// Sum of `ln p` over the choice's tokens.
    pub logprob_sum: f64,
    pub tokens: usize,
    /// Length of the choice's text.
    pub bytes: usize,
}

/// The choice that each rule picks (index); of equals the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picks {
    /// Largest sum: lm-eval's `acc`.
    pub by_sum: usize,
    /// Largest mean per token.
    pub by_token: usize,
    /// Largest mean per byte: lm-eval's `acc_norm`; does not depend on how the text was cut into tokens.
    pub by_byte: usize,
}

/// `None` without choices.
pub fn pick(choices: &[ChoiceLikelihood]) -> Option<Picks> {
    let best = |score: &dyn Fn(&ChoiceLikelihood) -> f64| {
        let mut best: Option<(usize, f64)> = None;
        for (index, choice) in choices.iter().enumerate() {
            let score = score(choice);
            if best.is_none_or(|(_, top)| score > top) {
                best = Some((index, score));
            }
        }
        best.map(|b| b.0)
    };
    Some(Picks {
        by_sum: best(&|c| c.logprob_sum)?,
        by_token: best(&|c| c.logprob_sum / c.tokens.max(1) as f64)?,
        by_byte: best(&|c| c.logprob_sum / c.bytes.max(1) as f64)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn exact_match_ignores_white_space_only() {
        assert!(exact_match("  Paris \n", "Paris"));
        assert!(exact_match("New\n  York", "New York"));
        assert!(!exact_match("paris", "Paris"));
        assert!(!exact_match("Paris.", "Paris"));
        assert!(exact_match("", "  "));
    }

    #[test]
    fn the_first_object_is_found_in_any_surroundings() {
        let expected = Some(object(r#"{"a":1}"#));
        for text in [
            r#"{"a":1}"#,
            "Here you are:\n```json\n{\"a\": 1}\n```\nDone.",
            r#"{"a":1} {"b":2}"#,
            r#"{oops {"a":1}"#,
            r#"[{"a":1}]"#,
            "\u{feff}é{\"a\":1}",
        ] {
            assert_eq!(first_json_object(text), expected, "{text}");
        }
        for text in ["", "{", r#"{"a":"#, "no braces", r#"{"a":1"#, "{{{{"] {
            assert_eq!(first_json_object(text), None, "{text}");
        }
        // A brace inside a text is not a beginning of its own while the outer object is complete.
        assert_eq!(first_json_object(r#"{"t":"{}"}"#), Some(object(r#"{"t":"{}"}"#)));
        // Depth bombs end in an error of the parser, not of the stack, and in little time.
        assert_eq!(first_json_object(&r#"{"a":"#.repeat(20_000)), None);
    }

    #[test]
    fn fields_are_scored_one_by_one() {
        let reference = object(r#"{"name":"Ann Lee","age":40,"tags":["a","b"],"addr":{"city":"Rome","zip":null}}"#);
        let right = json_fields(
            r#"Sure: {"addr":{"zip":null,"city":" Rome"},"tags":["a","b"],"age":40.0,"name":"Ann  Lee"}"#,
            &reference,
        );
        assert!(right.record());
        assert_eq!(right.share(), 1.0);

        let wrong =
            json_fields(r#"{"name":"Ann Lee","age":"40","tags":["b","a"],"addr":{"city":"Rome"},"x":1}"#, &reference);
        let expected = [("name", true), ("age", false), ("tags", false), ("addr.city", true), ("addr.zip", false)];
        assert_eq!(wrong.fields, expected.map(|(path, right)| (path.to_string(), right)));
        assert_eq!(wrong.extra, ["x"]);
        assert!(!wrong.record());
        assert_eq!(wrong.share(), 0.4);

        let none = json_fields("I cannot.", &reference);
        assert!(!none.parsed && !none.record());
        assert_eq!(none.share(), 0.0);
    }

    #[test]
    fn an_invented_field_spoils_the_record_but_not_the_fields() {
        let score = json_fields(r#"{"a":1,"b":2}"#, &object(r#"{"a":1}"#));
        assert_eq!((score.share(), score.record()), (1.0, false));
    }

    #[test]
    fn large_whole_numbers_keep_their_digits() {
        let reference = object(r#"{"id":9007199254740993}"#);
        assert!(!json_fields(r#"{"id":9007199254740992}"#, &reference).record());
        assert!(json_fields(r#"{"id":9007199254740993}"#, &reference).record());
    }

    #[test]
    fn each_rule_picks_its_choice() {
        // Sums -4, -6, -9; per token -4, -3, -3; per byte -1, -1.2, -0.9.
        let choices = [
            ChoiceLikelihood { logprob_sum: -4.0, tokens: 1, bytes: 4 },
            ChoiceLikelihood { logprob_sum: -6.0, tokens: 2, bytes: 5 },
            ChoiceLikelihood { logprob_sum: -9.0, tokens: 3, bytes: 10 },
        ];
        assert_eq!(pick(&choices), Some(Picks { by_sum: 0, by_token: 1, by_byte: 2 }));
        assert_eq!(pick(&[]), None);
    }
}
