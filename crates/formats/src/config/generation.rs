//! `generation_config.json`: how a model's makers sample it.

use ounce_spec::{ModelConfig, model::GenerationConfig};
use serde_json::{Map, Value};

use super::fields::Fields;

/// Reads the text of a `generation_config.json`; fields of other tools are let be. On failure, all that is wrong.
pub fn parse_generation(text: &str) -> Result<GenerationConfig, Vec<String>> {
    let json: Value = serde_json::from_str(text).map_err(|error| vec![error.to_string()])?;
    let Value::Object(object) = json else { return Err(vec!["it is not a JSON object".into()]) };
    let mut fields = Fields { object: &object, problems: vec![] };
    // 0 is legal here: it turns top-k off.
    let top_k = match fields.get("top_k") {
        None => None,
        Some(_) => fields.token("top_k"),
    };
    let config = GenerationConfig {
        temperature: fields.number("temperature"),
        top_p: fields.number("top_p"),
        top_k,
        min_p: fields.number("min_p"),
        repetition_penalty: fields.positive("repetition_penalty"),
        max_new_tokens: fields.size("max_new_tokens"),
        do_sample: fields.bool("do_sample"),
        eos_token_id: fields.tokens("eos_token_id"),
    };
    if fields.problems.is_empty() { Ok(config) } else { Err(fields.problems) }
}

/// The text of a `generation_config.json`; transformers looks there, not in `config.json`, for the tokens that begin and pad.
pub fn write_generation(config: &GenerationConfig, model: &ModelConfig) -> String {
    let mut object = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            object.insert(key.into(), value);
        }
    };
    put("do_sample", config.do_sample.map(Value::from));
    put("temperature", config.temperature.map(decimal));
    put("top_p", config.top_p.map(decimal));
    put("top_k", config.top_k.map(Value::from));
    put("min_p", config.min_p.map(decimal));
    put("repetition_penalty", config.repetition_penalty.map(decimal));
    put("max_new_tokens", config.max_new_tokens.map(Value::from));
    put("bos_token_id", model.bos_token_id.map(Value::from));
    put("eos_token_id", super::write::tokens(&config.eos_token_id));
    put("pad_token_id", model.pad_token_id.map(Value::from));
    format!("{:#}\n", Value::Object(object))
}

/// A float as its shortest decimals: 0.7, not the 0.699999988… that it is as a double.
pub(super) fn decimal(value: f32) -> Value {
    value.to_string().parse::<f64>().ok().and_then(serde_json::Number::from_f64).map_or(Value::Null, Value::Number)
}
