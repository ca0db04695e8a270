//! `POST /v1/embeddings`: texts or token ids to vectors, as numbers or as base64. How a vector is made, it does not know.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use ounce_engine::{Embedding, Refusal};
use serde_json::{Value, json};

use crate::app::{App, model_field};
use crate::body;
use crate::completions::{Prompt, encode, prompts};
use crate::error::{ApiError, json_response};
use crate::fields::Fields;

/// Most inputs of a request, and most tokens of all of them, as the OpenAI API has it.
pub const MAX_INPUTS: usize = 2048;
const MAX_TOKENS: usize = 300_000;

pub async fn handle(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let wanted = body::read(&app, request, Wanted::read).await?;
    let inputs = encode(&app, "input", wanted.inputs).await?;
    let tokens: usize = inputs.iter().map(Vec::len).sum();
    if tokens > MAX_TOKENS {
        let what =
            format!("input has {tokens} tokens in {} parts, at most {MAX_TOKENS} are taken at once", inputs.len());
        return Err(ApiError::field("input", what));
    }
    for input in &inputs {
        Refusal::check_input(input, app.context, app.vocab).map_err(|refusal| match refusal {
            Refusal::InputTooLong { .. } => ApiError::too_long("input", refusal.to_string()),
            _ => ApiError::field("input", refusal.to_string().replace("prompt", "input")),
        })?;
    }
    let embedding = |input| Embedding {
        input,
        pooling: app.pooling,
        dimensions: wanted.dimensions,
        normalize: wanted.normalize,
        adapter: None,
    };
    let vectors = app.embed(&wanted.model, inputs.into_iter().map(embedding).collect()).await?;
    let one = |(index, vector): (usize, Vec<f32>)| {
        let embedding = if wanted.base64 { base64(&vector).into() } else { json!(vector) };
        json!({"object": "embedding", "index": index, "embedding": embedding})
    };
    let data: Vec<Value> = vectors.into_iter().enumerate().map(one).collect();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(json_response(&json!({"object": "list", "data": data, "model": &*wanted.model, "usage": usage})))
}

struct Wanted {
    model: Arc<str>,
    inputs: Vec<Prompt>,
    base64: bool,
    dimensions: Option<usize>,
    normalize: bool,
}

impl Wanted {
    fn read(app: &App, body: &Value) -> Result<Wanted, ApiError> {
        let mut fields = Fields::of(body)?;
        model_field(&mut fields);
        let inputs = prompts(fields.value("input"));
        match &inputs {
            None => {
                fields
                    .fault("input", "must be a string, a list of strings, a list of token ids or a list of such lists");
            }
            Some(inputs) if inputs.len() > MAX_INPUTS => {
                fields.fault("input", format!("has {} parts, at most {MAX_INPUTS} are taken at once", inputs.len()));
            }
            Some(_) => {}
        }
        let base64 = match fields.text("encoding_format") {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => {
                fields.fault("encoding_format", "must be \"float\" or \"base64\"");
                false
            }
        };
        let dimensions = fields.integer("dimensions", 1..=app.hidden as i64).map(|n| n as usize);
        let normalize = fields.flag("normalize").unwrap_or(true);
        fields.finish()?;
        let model = app.check_model(body)?;
        Ok(Wanted { model, inputs: inputs.unwrap_or_default(), base64, dimensions, normalize })
    }
}

/// The values as little-endian f32, in base64 (RFC 4648).
fn base64(vector: &[f32]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().enumerate().fold(0u32, |bits, (i, b)| bits | u32::from(*b) << (16 - 8 * i));
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i)) as usize & 63] as char;
            out.push(if i <= three.len() { letter } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        // 1.0 is 00 00 80 3f, -2.5 is 00 00 20 c0.
        assert_eq!(base64(&[1.0]), "AACAPw==");
        assert_eq!(base64(&[1.0, -2.5]), "AACAPwAAIMA=");
        assert_eq!(base64(&[1.0, -2.5, 0.0]), "AACAPwAAIMAAAAAA");
    }
}
