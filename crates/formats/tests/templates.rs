//! Seventy-one chat templates of real models, rendered by us and by Hugging Face (templates.json, made by
//! xtask/golden/make_templates.py). Texts must be identical; every exception is listed here with its reason.

mod assets;

use ounce_formats::template::{ChatTemplate, RenderOptions, TemplateError};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Renders that differ, and why.
const DIFFERENT: &[(&str, &str, &str)] = &[
    ("meetkai-functionary-medium-v3.1", "tools offered", SAFE_PLUS),
    ("meetkai-functionary-medium-v3.1", "tool called", SAFE_PLUS),
];
/// In Python, text marked `|safe` escapes every text that is added to it (`"` becomes `&#34;`); the template's author can
/// hardly have meant that, and the engine has no such operator to override.
const SAFE_PLUS: &str = "safe text escapes what is added to it";

/// Renders that Python refuses and we do not, and why.
const LENIENT: &[(&str, &str, &str)] = &[
    ("CohereForAI-c4ai-command-r-plus-tool_use", "one question", NONE_LOOP),
    ("CohereForAI-c4ai-command-r-plus-tool_use", "system and history", NONE_LOOP),
    ("CohereForAI-c4ai-command-r-plus-tool_use", "training example", NONE_LOOP),
    ("CohereForAI-c4ai-command-r-plus-tool_use", "thoughts", NONE_LOOP),
    ("CohereForAI-c4ai-command-r-plus-tool_use", "odd text", NONE_LOOP),
    ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "one question", NONE_LOOP),
    ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "system and history", NONE_LOOP),
    ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "training example", NONE_LOOP),
    ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "thoughts", NONE_LOOP),
    ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "one question", NONE_LOOP),
    ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "system and history", NONE_LOOP),
    ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "training example", NONE_LOOP),
    ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "thoughts", NONE_LOOP),
    ("llama-cpp-deepseek-r1", "tools offered", GENERATOR),
    ("llama-cpp-deepseek-r1", "tool called", GENERATOR),
];
/// The template loops over `tools` where there are none: an error in Python, an empty loop here.
const NONE_LOOP: &str = "a loop over none is empty";
/// The template writes the result of `map` as JSON: Python has no JSON for a generator, here it is a list.
const GENERATOR: &str = "a generator is written as a list";

fn render(source: &str, golden: &Value, conversation: &Map<String, Value>) -> Result<String, TemplateError> {
    let mut extra = conversation.clone();
    let messages = extra.shift_remove("messages").unwrap();
    let options = RenderOptions {
        tools: extra.shift_remove("tools"),
        documents: None,
        add_generation_prompt: extra.shift_remove("add_generation_prompt") == Some(true.into()),
        extra,
        now: golden["now"].as_i64(),
    };
    ChatTemplate::new(source, golden["bos_token"].as_str(), golden["eos_token"].as_str())?.render(&messages, &options)
}

#[test]
fn real_templates_render_as_in_hugging_face() {
    let golden: Value = serde_json::from_str(include_str!("templates.json")).unwrap();
    let (mut same, mut refused, mut wrong) = (0, 0, Vec::new());
    let mut unused: Vec<_> =
        DIFFERENT.iter().chain(LENIENT).map(|(name, conversation, _)| (*name, *conversation)).collect();
    for (name, hashes) in golden["expected"].as_object().unwrap() {
        let path = assets::path(&format!("templates/{name}.jinja"));
        let source = std::fs::read_to_string(path).unwrap();
        for ((title, conversation), want) in
            golden["conversations"].as_object().unwrap().iter().zip(hashes.as_array().unwrap())
        {
            let got = render(&source, &golden, conversation.as_object().unwrap());
            let hash = |text: &str| Sha256::digest(text).iter().take(8).map(|b| format!("{b:02x}")).collect::<String>();
            match (&got, want.as_str().unwrap()) {
                (Ok(text), want) if hash(text) == want => same += 1,
                (Err(_), "error") => refused += 1,
                (got, want) => {
                    let list = if want == "error" { LENIENT } else { DIFFERENT };
                    if list.iter().any(|(n, c, _)| n == name && c == title) {
                        unused.retain(|listed| *listed != (name.as_str(), title.as_str()));
                    } else {
                        wrong.push(format!(
                            "{name}, {title}: want {want}, got {}",
                            got.as_ref().map_or_else(|e| e.to_string(), |text| hash(text))
                        ));
                    }
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{same} the same, {refused} refused by both, {} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(unused.is_empty(), "listed as different, but they are not: {unused:?}");
    assert!(same > 400, "{same}");
}

/// Where the assistant's turns cannot be told, and why.
const NO_SPANS: &[(&str, &str)] = &[];

#[test]
fn answers_are_found_in_real_templates() {
    let golden: Value = serde_json::from_str(include_str!("templates.json")).unwrap();
    let conversation = &golden["conversations"]["training example"];
    let (mut found, mut wrong) = (0, Vec::new());
    for (name, hashes) in golden["expected"].as_object().unwrap() {
        let source = std::fs::read_to_string(assets::path(&format!("templates/{name}.jinja"))).unwrap();
        let template = ChatTemplate::new(&source, Some("<s>"), Some("</s>")).unwrap();
        let options = RenderOptions { now: golden["now"].as_i64(), ..Default::default() };
        let listed = NO_SPANS.iter().any(|(n, _)| n == name);
        match template.render_with_answer_spans(&conversation["messages"], &options) {
            Err(_) if hashes[2] == "error" => {}
            Err(TemplateError::NoSpan { .. }) if listed => {}
            Ok((text, spans)) if !listed => {
                let answers: Vec<&str> = spans.iter().map(|span| &text[span.clone()]).collect();
                let plain = template.render(&conversation["messages"], &options).unwrap();
                let good = text == plain
                    && answers.len() == 2
                    && answers[0].contains("Hello!")
                    && answers[1].contains("See you.")
                    && !answers.iter().any(|a| a.contains("Bye") || a.contains("Hi\n") || a.contains("kind"));
                if good {
                    found += 1
                } else {
                    wrong.push(format!("{name}: {answers:?}"))
                }
                if std::env::var_os("SHOW").is_some() {
                    eprintln!("{name}: {answers:?}");
                }
            }
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{found} right, {} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(found > 50, "{found}");
}
