//! The help of every verb, word for word: the frozen list of flags. After a wanted change: INSTA_UPDATE=always.

mod common;

use common::Place;

#[test]
fn help_is_what_it_was() {
    let place = Place::new();
    let verbs: [&[&str]; 22] = [
        &[],
        &["doctor"],
        &["plan"],
        &["plan", "tune"],
        &["pull"],
        &["data"],
        &["data", "check"],
        &["tune"],
        &["eval"],
        &["bench"],
        &["bench", "serve"],
        &["chat"],
        &["generate"],
        &["serve"],
        &["merge"],
        &["convert"],
        &["runs"],
        &["runs", "list"],
        &["runs", "diff"],
        &["schema"],
        &["completions"],
        &["runs", "export"],
    ];
    for verb in verbs {
        let args: Vec<&str> = verb.iter().copied().chain(["--help"]).collect();
        let name = format!("help_{}", if verb.is_empty() { "ounce".into() } else { verb.join("_") });
        insta::assert_snapshot!(name, place.transcript(&args));
    }
}

#[test]
fn every_verb_of_work_teaches_by_example() {
    let place = Place::new();
    for verb in [
        "doctor",
        "pull",
        "tune",
        "eval",
        "bench",
        "chat",
        "generate",
        "serve",
        "merge",
        "convert",
        "runs",
        "schema",
        "completions",
    ] {
        let help = place.ok(&[verb, "--help"]).stdout;
        assert!(help.contains("Examples:\n  ounce "), "{verb}");
    }
}

#[test]
fn completions_and_schemas_are_whole() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(place.ok(&["completions", shell]).stdout.contains("max-length"), "{shell}");
    }
    let schema: serde_json::Value = serde_json::from_str(&place.ok(&["schema", "recipe"]).stdout).unwrap();
    assert_eq!(schema["properties"]["batch_size"]["default"], 4);
    insta::assert_snapshot!("errors_table", place.ok(&["schema", "errors"]).stdout);
}
