//! Errors as a person meets them: stdout, stderr and exit code, word for word.

mod common;

use common::Place;

#[test]
fn errors_say_what_where_why_and_what_to_do() {
    let place = Place::new();
    place.tiny_model();
    place.write("r.yaml", "model: tiny\nlora:\n  rnak: 8\nbatch_size: many\noptimizer:\n  learning_rate: -1\n");
    place.write("bad.yaml", "model: [\n");
    place.write("bad.jsonl", "{\"messages\":[]}\nnot json\n{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}\n");
    place.write("task.jsonl", "{\"prompt\":\"p\"}\n{\"question\":\"q\",\"choices\":[\"a\"],\"answer\":0}\n");
    place.echo_rows("d.jsonl", "abcdef");
    place.write("wrong-adapter/adapter_config.json", "{\"peft_type\":\"IA3\"}");
    place.write("used/recipe.yaml", "model: x\n");
    // The same with another letter in the place of one.
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        place.write(&format!("other/{file}"), "");
        std::fs::copy(place.path("tiny").join(file), place.path("other").join(file)).unwrap();
    }
    let tokenizer = std::fs::read_to_string(place.path("tiny/tokenizer.json")).unwrap();
    place.write("other/tokenizer.json", &tokenizer.replace("\"q\":", "\"~\":"));
    let cases: [(&str, &[&str]); 21] = [
        ("no_verb", &[]),
        ("unknown_verb", &["tone"]),
        ("unknown_flag", &["tune", "--rnak", "8"]),
        ("incomplete", &["tune"]),
        ("recipe", &["tune", "--config", "r.yaml", "--set", "sede=1", "--data", "d.jsonl"]),
        ("recipe_text", &["tune", "--config", "bad.yaml"]),
        ("no_recipe", &["tune", "--config", "nowhere.yaml"]),
        ("run_exists", &["tune", "tiny", "--data", "d.jsonl", "--out", "used"]),
        ("no_run", &["tune", "--resume", "nowhere"]),
        ("too_long", &["tune", "tiny", "--data", "d.jsonl", "--out", "o"]),
        ("no_data", &["tune", "tiny", "--data", "nowhere.jsonl", "--out", "o", "--max-length", "64"]),
        ("no_model", &["generate", "org/name", "hi"]),
        ("bad_adapter", &["generate", "tiny", "hi", "--adapter", "wrong-adapter"]),
        ("bad_draft", &["generate", "tiny", "hi", "--draft-model", "other"]),
        ("draft_without_guesses", &["generate", "tiny", "hi", "--draft-model", "tiny", "--speculate", "0"]),
        ("sampling", &["generate", "tiny", "hi", "--top-p", "0", "--temperature=-1"]),
        ("serve_open", &["serve", "tiny", "--host", "0.0.0.0"]),
        ("bad_task", &["eval", "tiny", "--task", "task.jsonl"]),
        ("offline", &["pull", "org/name", "--offline"]),
        ("bad_name", &["pull", "../name"]),
        ("convert_over", &["convert", "tiny", "--to", "gguf", "--out", "d.jsonl"]),
    ];
    for (name, args) in cases {
        let text = place.transcript(args);
        assert!(text.contains("error[O"), "{text}");
        assert!(text.contains("  help: "), "no help in\n{text}");
        insta::assert_snapshot!(format!("error_{name}"), text);
    }
    insta::assert_snapshot!("data_check_bad", place.transcript(&["data", "check", "bad.jsonl"]));
}

#[test]
fn with_json_errors_are_json_too() {
    let place = Place::new();
    let ran = place.run(&["generate", "org/name", "hi", "--json"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(error["error"]["code"], "O0204");
    assert!(!error["error"]["help"].as_array().unwrap().is_empty());
}

#[test]
fn colour_is_used_only_where_it_is_asked_for() {
    let place = Place::new();
    assert!(!place.run(&["tune"]).stderr.contains('\x1b'));
    assert!(place.run(&["tune", "--color", "always"]).stderr.contains("\x1b[1;31merror[O0102]"));
}
