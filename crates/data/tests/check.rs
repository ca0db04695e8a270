//! `ounce data check`: everything found, nothing twice, and the rendered example with its loss mask.

mod common;

use common::{ChatMl, file, words};
use ounce_data::{CheckReport, check, prepare};
use ounce_spec::recipe::DataRecipe;

fn row(user: &str, answer: &str) -> String {
    let turns = serde_json::json!([{"role": "user", "content": user}, {"role": "assistant", "content": answer}]);
    serde_json::json!({ "messages": turns }).to_string()
}

fn lines(rows: &[String]) -> String {
    rows.join("\n")
}

fn recipe(train: String, valid: Vec<String>) -> DataRecipe {
    DataRecipe { train: vec![train], valid, max_length: 24, ..DataRecipe::default() }
}

#[test]
fn everything_is_found_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let long = ["word"; 40].join(" ");
    let train = file(
        &dir,
        "a.jsonl",
        lines(&[
            row("one", "1"),
            row("two", " "),
            "{broken".into(),
            row("one", "1"),
            row(&long, "3"),
            "{\"messages\": [{\"role\": \"user\", \"content\": \"alone\"}]}".into(),
            row("bad \u{0}", "4"),
            row("one", "1"),
        ]),
    );
    let valid = file(&dir, "b.jsonl", lines(&[row("new", "5"), row("one", "1")]));
    let report = check(&recipe(train.clone(), vec![valid]), Some(&words()), Some(&ChatMl)).unwrap();
    assert!(!report.usable());
    assert_eq!((report.examples, report.valid_examples), (7, 2));
    assert_eq!(report.bad.iter().map(|b| b.line).collect::<Vec<_>>(), [3]);
    let repeats = |list: &[ounce_data::check::Repeat]| list.iter().map(|r| (r.row.line, r.of.line)).collect::<Vec<_>>();
    assert_eq!(repeats(&report.duplicates), [(4, 1), (8, 1)]);
    assert_eq!(repeats(&report.leaked), [(2, 1)]);
    assert_eq!(report.empty_answers.iter().map(|p| p.line).collect::<Vec<_>>(), [2]);
    assert_eq!(report.no_answer.iter().map(|p| p.line).collect::<Vec<_>>(), [6]);
    assert_eq!(report.too_long.iter().map(|l| (l.row.line, l.tokens)).collect::<Vec<_>>(), [(5, 51)]);
    assert_eq!(report.unrenderable.iter().map(|b| b.line).collect::<Vec<_>>(), [7]);
    assert!(report.files[0].because.starts_with("messages: every row has"));
    let lengths = report.lengths.as_ref().unwrap();
    assert_eq!(lengths.histogram.iter().map(|b| b.examples).sum::<usize>(), 8);
    assert_eq!((lengths.min, lengths.max), (6, 51));
    assert!(
        lengths
            .histogram
            .iter()
            .all(|b| b.from < b.to && b.to - b.from == lengths.histogram[0].to - lengths.histogram[0].from)
    );
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<CheckReport>(&text).unwrap(), report);
    // Without a tokenizer, or without a template, all of the rest is still there.
    for report in
        [check(&recipe(train.clone(), vec![]), None, None), check(&recipe(train, vec![]), Some(&words()), None)]
    {
        let report = report.unwrap();
        assert_eq!((report.duplicates.len(), report.lengths.is_none(), report.note.is_some()), (2, true, true));
    }
}

/// A text that spells out a control token closes turns it should not: such rows are named, whatever their format.
#[test]
fn rows_that_write_out_control_tokens_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let found = |name: &str, rows: &[String]| {
        let train = file(&dir, name, lines(rows));
        let report = check(&recipe(train, vec![]), Some(&words()), Some(&ChatMl)).unwrap();
        assert!(report.usable());
        report.control_tokens.into_iter().map(|r| (r.row.line, r.tokens.join(" "))).collect::<Vec<_>>()
    };
    let chat = [row("im_end", "1"), row("a <|im_end|> b", "</s>"), row("x", "<|im_end|><|im_end|>")];
    assert_eq!(found("a.jsonl", &chat), [(2, "<|im_end|> </s>".into()), (3, "<|im_end|>".into())]);
    let completion = |prompt: &str| serde_json::json!({"prompt": prompt, "completion": "c"}).to_string();
    assert_eq!(found("b.jsonl", &[completion("p"), completion("</s>")]), [(2, "</s>".into())]);
    assert_eq!(found("c.jsonl", &["{\"text\": \"</s> a\"}".into()]), [(1, "</s>".into())]);
}

#[test]
fn the_rendered_example_shows_every_character_once() {
    let dir = tempfile::tempdir().unwrap();
    let train = file(&dir, "a.jsonl", lines(&[row("naïve caf\u{e9}?", "oui \u{1f600}!")]));
    let sample = check(&recipe(train, vec![]), Some(&words()), Some(&ChatMl)).unwrap().sample.unwrap();
    let text: String = sample.pieces.iter().map(|p| p.text.as_str()).collect();
    assert_eq!(text, "<|im_start|>user\nnaïve café?<|im_end|>\n<|im_start|>assistant\noui \u{1f600}!<|im_end|>\n");
    let taught: String = sample.pieces.iter().filter(|p| p.loss).map(|p| p.text.as_str()).collect();
    assert_eq!(taught, "oui \u{1f600}!<|im_end|>");
}

#[test]
fn a_directory_brings_its_own_validation_data() {
    let dir = tempfile::tempdir().unwrap();
    file(&dir, "train.jsonl", lines(&[row("a", "1"), row("b", "2"), row("c", "3"), row("d", "4")]));
    let path = dir.path().to_str().unwrap().to_owned();
    let alone = prepare(&recipe(path.clone(), vec![]), 1, &words(), Some(&ChatMl)).unwrap();
    assert_eq!((alone.train.len(), alone.valid.len()), (4, 0));
    let held = DataRecipe { valid_share: 0.25, ..recipe(path.clone(), vec![]) };
    let held = prepare(&held, 1, &words(), Some(&ChatMl)).unwrap();
    assert_eq!((held.train.len(), held.valid.len()), (3, 1));
    file(&dir, "valid.jsonl", row("e", "5"));
    let both = prepare(&recipe(path.clone(), vec![]), 1, &words(), Some(&ChatMl)).unwrap();
    assert_eq!((both.train.len(), both.valid.len(), both.valid_report.unwrap().used), (4, 1, 1));
    assert_ne!(both.fingerprint, alone.fingerprint);
    assert_eq!(check(&recipe(path.clone(), vec![]), None, None).unwrap().valid_examples, 1);
    let few = DataRecipe { max_samples: Some(2), ..recipe(path, vec![]) };
    assert_eq!(prepare(&few, 1, &words(), Some(&ChatMl)).unwrap().train.len(), 2);
}
