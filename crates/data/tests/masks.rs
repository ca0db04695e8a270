//! Which tokens bear loss, checked by hand on ChatML; what is dropped, cut, split and counted.

mod common;

use common::{ChatMl, EOS, Words, file, marked, words};
use ounce_data::{DataError, Dataset, Part, Report, Tokenized, load, tokenize};
use ounce_spec::recipe::{DataRecipe, TooLong};

fn data(rows: &str) -> Dataset {
    let dir = tempfile::tempdir().unwrap();
    load(&[file(&dir, "a.jsonl", rows)], "auto", Part::Train).expect("load")
}

fn run(rows: &str, encoder: &Words, recipe: &DataRecipe) -> Result<(Vec<Tokenized>, Report), DataError> {
    tokenize(&data(rows), encoder, Some(&ChatMl), recipe)
}

const TWO_TURNS: &str = r#"{"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "say hi"},
 {"role": "assistant", "content": "hi you"}, {"role": "user", "content": "bye"}, {"role": "assistant", "content": "bye"}]}"#;

#[test]
fn chat_bears_loss_on_answers_and_their_end_of_turn() {
    let rows = TWO_TURNS.replace('\n', "");
    let (tokens, report) = run(&rows, &words(), &DataRecipe::default()).unwrap();
    let text = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nsay hi<|im_end|>\n\
                <|im_start|>assistant\nhi you<|im_end|>\n<|im_start|>user\nbye<|im_end|>\n\
                <|im_start|>assistant\nbye<|im_end|>\n";
    assert_eq!(
        marked(&words(), text, &tokens[0].loss),
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nsay hi<|im_end|>\n\
         <|im_start|>assistant\n[hi][ you][<|im_end|>]\n<|im_start|>user\nbye<|im_end|>\n\
         <|im_start|>assistant\n[bye][<|im_end|>]\n"
    );
    assert_eq!((report.loss_tokens, report.used, report.straddling), (5, 1, 0));
    let all = DataRecipe { loss_on_answers: false, ..DataRecipe::default() };
    assert!(run(&rows, &words(), &all).unwrap().0[0].loss.iter().all(|&l| l));
}

#[test]
fn answers_given_in_the_prompt_bear_no_loss() {
    let rows = r#"{"prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "given"}, {"role": "user", "content": "r"}], "completion": [{"role": "assistant", "content": "a"}]}"#;
    let (tokens, report) = run(rows, &words(), &DataRecipe::default()).unwrap();
    assert_eq!(report.loss_tokens, 2);
    let taught: Vec<usize> = (0..tokens[0].loss.len()).filter(|&i| tokens[0].loss[i]).collect();
    let n = tokens[0].loss.len();
    assert_eq!(taught, [n - 3, n - 2], "`a` and its end of turn, before the last line end");
}

#[test]
fn completions_bear_loss_with_their_end() {
    let encoder = Words { bos: Some(9), eos: Some(EOS) };
    let (tokens, report) =
        run(r#"{"prompt": "2 + 2 =", "completion": " 4"}"#, &encoder, &DataRecipe::default()).unwrap();
    assert_eq!((tokens[0].ids[0], tokens[0].ids.last()), (9, Some(&EOS)));
    // bos, 2, " ", +, " 2", " ", =, " 4", eos
    assert_eq!(tokens[0].loss, [false, false, false, false, false, false, false, true, true]);
    assert_eq!(report.straddling, 0);
    let (tokens, report) = run(r#"{"prompt": "2 = ", "completion": "4"}"#, &encoder, &DataRecipe::default()).unwrap();
    assert_eq!(report.straddling, 1, "the space of the prompt and the answer are one token");
    assert_eq!(tokens[0].loss, [false, false, false, false, true, true]);
}

#[test]
fn empty_and_missing_answers_are_left_out_and_counted() {
    let rows = "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}]}\n".to_owned() + &TWO_TURNS.replace('\n', "");
    let (tokens, report) = run(&rows, &words(), &DataRecipe::default()).unwrap();
    assert_eq!((tokens.len(), tokens[0].example, report.unteaching, report.used), (1, 1, 1, 1));
    let none = run(r#"{"prompt": "q", "completion": ""}"#, &words(), &DataRecipe::default());
    assert!(matches!(none, Err(DataError::NothingLeft { .. })), "{none:?}");
}

#[test]
fn long_examples_are_dropped_cut_or_refused() {
    let row = |p: &str| format!("{{\"prompt\": \"{p}\", \"completion\": \" x y\"}}\n");
    let rows = row("a") + &row("a b c d e f") + &row("a b c d e f g h");
    let recipe = |too_long| DataRecipe { max_length: 8, too_long, ..DataRecipe::default() };
    let (tokens, report) = run(&rows, &words(), &recipe(TooLong::Drop)).unwrap();
    assert_eq!((tokens.len(), report.too_long, report.longest), (1, 2, 11));
    let (tokens, report) = run(&rows, &words(), &recipe(TooLong::Truncate)).unwrap();
    // The third keeps no token of its answer.
    assert_eq!((tokens.len(), report.truncated, report.unteaching), (2, 2, 1));
    assert_eq!(tokens[1].ids.len(), 8);
    match run(&rows, &words(), &recipe(TooLong::Error)) {
        Err(DataError::TooLong { max_length: 8, bad }) => {
            assert_eq!(
                bad.iter().map(|b| (b.line, b.reason.as_str())).collect::<Vec<_>>(),
                [(2, "9 tokens"), (3, "11 tokens")]
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn documents_are_split_so_that_every_token_is_predicted_once() {
    let text: Vec<String> = (0..50).map(|i| i.to_string()).collect();
    let rows = format!("{{\"text\": \"{}\"}}", text.join(" "));
    let recipe = DataRecipe { max_length: 8, ..DataRecipe::default() };
    let (tokens, report) = run(&rows, &words(), &recipe).unwrap();
    assert_eq!((report.used, report.sequences, report.longest), (1, tokens.len(), 51));
    let mut whole = tokens[0].ids.clone();
    for piece in &tokens[1..] {
        assert_eq!(piece.ids[0], *whole.last().unwrap());
        whole.extend(&piece.ids[1..]);
    }
    assert_eq!((whole.len(), whole.last()), (51, Some(&EOS)));
    assert_eq!(report.loss_tokens, 50);
}

#[test]
fn a_large_document_is_tokenised_as_in_one_piece() {
    let text: String = (0..40_000).map(|i| format!("word{}{}", i % 97, [" ", "\n", "\n\n", ", "][i % 4])).collect();
    let rows = serde_json::json!({ "text": text }).to_string();
    let recipe = DataRecipe { max_length: 1 << 20, ..DataRecipe::default() };
    let (tokens, _) = run(&rows, &words(), &recipe).unwrap();
    let (mut whole, _) = ounce_data::TextEncoder::encode(&words(), &text).unwrap();
    whole.push(EOS);
    assert_eq!(tokens[0].ids, whole);
}

#[test]
fn every_example_that_cannot_be_tokenised_is_listed() {
    let rows = "{\"text\": \"a\\u0000\"}\n{\"text\": \"b\"}\n{\"text\": \"\\u0000\"}\n";
    match run(rows, &words(), &DataRecipe::default()) {
        Err(DataError::BadRows { bad }) => assert_eq!(bad.iter().map(|b| b.line).collect::<Vec<_>>(), [1, 3]),
        other => panic!("{other:?}"),
    }
    let chat = tokenize(&data(&TWO_TURNS.replace('\n', "")), &words(), None, &DataRecipe::default());
    assert!(matches!(chat, Err(DataError::NoTemplate)));
}
