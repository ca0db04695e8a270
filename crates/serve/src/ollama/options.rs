//! `options` of a request as Ollama names them → sampling parameters. What only says how Ollama runs a model (`num_ctx`,
//! `num_gpu`, `num_thread` …) is let be: that was settled when the server started. It knows no endpoint.

use ounce_engine::sampler::SamplingParams;
use ounce_spec::model::GenerationConfig;

use crate::app;
use crate::fields::Fields;
use crate::sampling::{MAX_TOKENS, defaults, stop};

/// An answer has `room` tokens at most.
pub fn read(fields: &mut Fields, model: &GenerationConfig, room: usize) -> SamplingParams {
    fields.within("options", |options| {
        let defaults = defaults(model);
        let number = |value: Option<f64>| value.map(|v| v as f32);
        // Negative or 0 is "as many as there is room for".
        let max_tokens = options.integer("num_predict", -2..=MAX_TOKENS).filter(|n| *n > 0);
        let seed = options.integer("seed", i64::MIN..=i64::MAX).filter(|seed| *seed != -1);
        if options.integer("mirostat", 0..=2).is_some_and(|version| version > 0) {
            options.fault("mirostat", "is not supported");
        }
        SamplingParams {
            temperature: number(options.number("temperature", 0.0..=2.0)).unwrap_or(defaults.temperature),
            top_k: options.integer("top_k", -1..=i64::from(u32::MAX)).map_or(defaults.top_k, |k| k.max(0) as u32),
            top_p: number(options.positive("top_p", 1.0)).unwrap_or(defaults.top_p),
            min_p: number(options.number("min_p", 0.0..=1.0)).unwrap_or(defaults.min_p),
            typical_p: number(options.positive("typical_p", 1.0)).unwrap_or(defaults.typical_p),
            repetition_penalty: number(options.positive("repeat_penalty", 10.0)).unwrap_or(defaults.repetition_penalty),
            presence_penalty: number(options.number("presence_penalty", -2.0..=2.0)).unwrap_or(0.0),
            frequency_penalty: number(options.number("frequency_penalty", -2.0..=2.0)).unwrap_or(0.0),
            seed: seed.map_or_else(app::random, |seed| seed as u64),
            stop: stop(options),
            max_tokens: max_tokens.map_or(room, |n| n as usize),
            ..defaults
        }
    })
}
