//! How long a constraint takes for a step, with a real vocabulary: `bench_masks MODEL.gguf`. Tokens are drawn at random among those
//! that are allowed, so answers go to places that a model rarely visits. It knows no model.

use std::time::Instant;

use ounce_engine::allows;
use ounce_engine::sampler::philox2x64;
use ounce_formats::tokenizer::{GgufVocab, Tokenizer};
use ounce_grammar::{Form, Grammars};
use serde_json::json;

const ANSWERS: u64 = 20;
const STEPS: u64 = 100;

fn main() {
    let path = std::env::args().nth(1).expect("the path of a GGUF file");
    let checkpoint = ounce_formats::open(path.as_ref()).unwrap_or_else(|e| panic!("{e}"));
    let metadata = checkpoint.gguf.as_ref().expect("a GGUF file");
    let vocab = GgufVocab::from_metadata(metadata).unwrap_or_else(|e| panic!("{e}"));
    let tokenizer = Tokenizer::from_gguf(&vocab).unwrap_or_else(|e| panic!("{e}"));
    let started = Instant::now();
    let grammars = Grammars::new(&tokenizer).unwrap_or_else(|e| panic!("{e}"));
    println!("{} tokens sorted in {:.0} ms", tokenizer.vocab_size(), started.elapsed().as_secs_f64() * 1e3);
    let person = json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0},
        "mail": {"type": "string", "format": "email"}, "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}}},
        "required": ["name", "age", "mail", "tags"], "additionalProperties": false});
    let free = "start: (head object \"</tool_call>\")* tail\nhead[lazy]: TEXT \"<tool_call>\"\ntail: TEXT\n\
                TEXT: /(.|\\n)*/\nobject: %json {\"type\": \"object\"}";
    for (name, form) in [
        ("a schema", Form::JsonSchema(person)),
        ("any object", Form::json_object()),
        ("an expression", Form::Regex("[A-Z][a-z]+( [A-Z][a-z]+)*: [0-9]{1,5}\\.[0-9]{2}".into())),
        ("text and calls", Form::Lark(free.into())),
    ] {
        let started = Instant::now();
        let grammar = grammars.compile(&form).unwrap_or_else(|e| panic!("{e}"));
        let compiled_ms = started.elapsed().as_secs_f64() * 1e3;
        let (mut steps_us, mut looks_us) = (Vec::new(), Vec::new());
        for answer in 0..ANSWERS {
            let mut constraint = grammar.constraint();
            for step in 0..STEPS {
                let started = Instant::now();
                constraint.foresee(31);
                looks_us.push(started.elapsed().as_secs_f64() * 1e6);
                let started = Instant::now();
                let allowed = constraint.allowed().unwrap_or_else(|e| panic!("{e}"));
                let asked = started.elapsed();
                let may: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(|&id| allows(allowed, id)).collect();
                let token = may[(philox2x64([answer, step], 1)[0] % may.len() as u64) as usize];
                let started = Instant::now();
                constraint.accept(token).unwrap_or_else(|e| panic!("{e}"));
                steps_us.push((asked + started.elapsed()).as_secs_f64() * 1e6);
                if constraint.is_complete() {
                    break;
                }
            }
        }
        let spread = |mut times: Vec<f64>| {
            times.sort_by(f64::total_cmp);
            let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
            format!(
                "{:.0} µs (median), {:.0} (99 of 100), {:.0} (slowest of {})",
                at(0.5),
                at(0.99),
                at(1.0),
                times.len()
            )
        };
        println!(
            "{name}: compiled in {compiled_ms:.1} ms; a step takes {}; a look ahead {}",
            spread(steps_us),
            spread(looks_us)
        );
    }
}
