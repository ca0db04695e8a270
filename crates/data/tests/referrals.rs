//! The shipped data set: its files are what the generator writes, and they keep their promises.

#[path = "../examples/make_referrals/generate.rs"]
mod generate;
#[path = "../examples/make_referrals/note.rs"]
mod note;
#[path = "../examples/make_referrals/numbers.rs"]
mod numbers;
#[path = "../examples/make_referrals/phrases.rs"]
mod phrases;
#[path = "../examples/make_referrals/words.rs"]
mod words;

use std::{collections::BTreeMap, path::PathBuf};

use ounce_data::{Part, check, load};
use ounce_spec::recipe::DataRecipe;
use serde_json::Value;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/referral")
}

fn rows(text: &str) -> Vec<(String, Value, bool)> {
    text.lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).expect("a row");
            let content = |i: usize| row["messages"][i]["content"].as_str().expect("content").to_owned();
            let answer = serde_json::from_str(&content(2)).expect("the answer is JSON");
            (content(1), answer, row["held_out"] == true)
        })
        .collect()
}

#[test]
fn the_committed_files_are_what_seed_1_writes() {
    for (name, text) in generate::files(1) {
        let committed = std::fs::read_to_string(directory().join(name)).expect("a committed file");
        assert!(committed == text, "{name} differs: run `make_referrals 1 examples/referral` and commit the result");
    }
    let [(_, train), ..] = generate::files(2);
    assert_ne!(train, generate::files(1)[0].1, "another seed writes other notes");
}

#[test]
fn the_files_are_usable_and_nothing_leaks() {
    let directory = directory().to_str().expect("a path in UTF-8").to_owned();
    let test = load(std::slice::from_ref(&directory), "auto", Part::Test).expect("test.jsonl");
    assert_eq!(test.examples.len(), 200);
    let recipe = DataRecipe { train: vec![directory], ..DataRecipe::default() };
    let report = check(&recipe, None, None).expect("check");
    assert!(report.usable());
    assert_eq!((report.examples, report.valid_examples), (2000, 100));
    assert_eq!((report.duplicates.len(), report.leaked.len(), report.empty_answers.len()), (0, 0, 0));
    let train = load(&recipe.train, "auto", Part::Train).expect("train.jsonl");
    assert!(test.examples.iter().all(|t| train.examples.iter().all(|e| e.turns != t.turns)));
}

#[test]
fn answers_have_the_same_fields_and_every_field_is_sometimes_missing() {
    let [(_, train), (_, valid), (_, test)] = generate::files(1);
    let mut missing: BTreeMap<String, usize> = BTreeMap::new();
    let fields =
        ["name", "age", "sex", "problem", "specialty", "urgency", "medications", "allergies", "weight_kg", "date"];
    for (note, answer, _) in rows(&(train + &valid + &test)) {
        let answer = answer.as_object().expect("an object");
        assert_eq!(answer.keys().collect::<Vec<_>>(), fields, "{note}");
        for (field, value) in answer {
            *missing.entry(field.clone()).or_default() += usize::from(value.is_null());
        }
        assert!(note.len() <= 480);
    }
    for field in ["name", "age", "sex", "urgency", "medications", "allergies", "weight_kg", "date"] {
        assert!((100..1000).contains(&missing[field]), "{field}: {}", missing[field]);
    }
}

#[test]
fn held_out_wordings_are_in_no_other_row() {
    let [(_, train), (_, valid), (_, test)] = generate::files(1);
    let test = rows(&test);
    assert_eq!(test.iter().filter(|(.., held_out)| *held_out).count(), 60);
    // A wording without its slots: its longest fixed part, where that is long enough to be telling.
    let telling = |wording: &str| {
        let parts =
            wording.split('{').map(|p| p.split_once('}').map_or(p, |(_, rest)| rest).trim_matches([' ', '.', ',']));
        parts.max_by_key(|p| p.len()).filter(|p| p.len() >= 8).map(str::to_owned)
    };
    let pools = [
        &phrases::OPENING,
        &phrases::WHO,
        &phrases::WHAT,
        &phrases::COURSE,
        &phrases::MEDS,
        &phrases::NO_MEDS,
        &phrases::OTHER_MEDS,
        &phrases::ALLERGY,
        &phrases::NO_ALLERGY,
        &phrases::OTHER_ALLERGY,
        &phrases::WEIGHT,
        &phrases::OBSERVATIONS,
        &phrases::HISTORY,
        &phrases::ROUTINE,
        &phrases::URGENT,
        &phrases::EMERGENCY,
        &phrases::DEAR,
        &phrases::DEAR_ANYONE,
        &phrases::DATED,
        &phrases::SIGNED,
    ];
    let mut wordings: Vec<String> = pools.iter().flat_map(|pool| pool.held_out).filter_map(|w| telling(w)).collect();
    assert!(wordings.len() > 30);
    wordings.extend(words::PROBLEMS.iter().map(|p| p.held_out.to_owned()));
    wordings.extend(words::HELD_OUT_SURNAMES.iter().map(|s| (*s).to_owned()));
    let others = train + &valid;
    let found: Vec<&String> = wordings.iter().filter(|w| others.contains(w.as_str())).collect();
    assert!(found.is_empty(), "held-out wordings in train or valid: {found:?}");
    let notes: String = test.iter().filter(|(.., held_out)| *held_out).map(|(note, ..)| note.as_str()).collect();
    let used = wordings.iter().filter(|w| notes.contains(w.as_str())).count();
    assert!(used * 3 > wordings.len() * 2, "only {used} of {} held-out wordings are tested", wordings.len());
}

#[test]
fn conversions_and_dates_are_right() {
    use generate::Weight;
    assert_eq!([Weight::Kg(72).kg(), Weight::Stone(11).kg(), Weight::Pounds(160).kg()], [72, 70, 73]);
    let date = numbers::Date { year: 2024, month: 3, day: 22 };
    let written: Vec<String> = (0..numbers::Date::WAYS).map(|way| date.written(way)).collect();
    assert_eq!(
        written,
        [
            "22 March 2024",
            "22/03/2024",
            "22nd March 2024",
            "22.3.24",
            "2024-03-22",
            "22 Mar 24",
            "22/3/24",
            "March 22, 2024",
            "22-MAR-2024"
        ]
    );
    assert_eq!(date.spoken(), "the twenty-second of March twenty twenty four");
    assert_eq!((numbers::words(54, "-"), numbers::article(82)), ("fifty-four".into(), "an"));
}
