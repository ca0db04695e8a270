//! Seventy-one chat templates of real models, rendered by us and by Hugging Face (templates.json, made by
//! xtask/golden/make_templates.py). Texts must be identical; every exception is listed here with its reason.

mod assets;

use ounce_formats::template::{ChatTemplate, RenderOptions, TemplateError};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Renders that differ, and why.
const DIFFERENT: &[(&str, &str, &str)] = &[];

/// Renders that Python refuses and we do not, and why.
const LENIENT: &[(&str, &str, &str)] = &[];

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
    let mut unused: Vec<_> = DIFFERENT.iter().chain(LENIENT).map(|(name, conversation, _)| (*name, *conversation)).collect();
    for (name, hashes) in golden["expected"].as_object().unwrap() {
        let path = assets::path(&format!("templates/{name}.jinja"));
        let source = std::fs::read_to_string(path).unwrap();
        for ((title, conversation), want) in golden["conversations"].as_object().unwrap().iter().zip(hashes.as_array().unwrap()) {
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
                        if let Ok(text) = got {
                            std::fs::write(format!("/tmp/tpl/{name}.{title}"), text).ok();
                        }
                        wrong.push(format!("{name}, {title}: want {want}, got {}", got.as_ref().map_or_else(|e| e.to_string(), |text| hash(text))));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{same} the same, {refused} refused by both, {} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(unused.is_empty(), "listed as different, but they are not: {unused:?}");
    assert!(same > 400, "{same}");
}
