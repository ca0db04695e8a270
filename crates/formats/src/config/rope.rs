//! Rotary position settings in their three spellings: `rope_theta` + `rope_scaling` (transformers 4), `rope_parameters`
//! (transformers 5), and a dictionary of the latter by layer type (Gemma 3).

use ounce_spec::model::{Rope, RopeScaling};
use serde_json::{Map, Value};

use super::fields::Fields;

/// Reads whichever spelling is there: the rope of all layers, and that of sliding layers for families that have a
/// second one (`local_theta` is then its default base). `max_positions` stands in where
/// `original_max_position_embeddings` is missing.
pub(super) fn parse(
    fields: &mut Fields,
    theta: f32,
    local_theta: Option<f32>,
    max_positions: usize,
) -> (Rope, Option<Rope>) {
    let theta = fields.positive("rope_theta").unwrap_or(theta);
    let local_theta = local_theta.map(|default| fields.positive("rope_local_base_freq").unwrap_or(default));
    if let Some(share) = fields.number("partial_rotary_factor").filter(|share| *share != 1.0) {
        fields.problems.push(format!("partial_rotary_factor {share} is not supported (only 1 is)"));
    }
    let empty = Map::new();
    let key = if fields.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
    let parameters = fields.object(key).unwrap_or(&empty);
    let by_layer = |kind: &str| parameters.get(kind).and_then(Value::as_object);
    let (full, sliding) = (by_layer("full_attention"), by_layer("sliding_attention"));
    let nested = full.is_some() || sliding.is_some();
    let main = if nested { full.unwrap_or(&empty) } else { parameters };
    let main = parse_one(fields, key, main, theta, max_positions);
    let local = local_theta.map(|theta| parse_one(fields, key, sliding.unwrap_or(&empty), theta, max_positions));
    if local.is_none() && sliding.is_some_and(|other| parse_one(fields, key, other, theta, max_positions) != main) {
        fields.problems.push(format!("{key}: this family has one rope for all layers, the file gives two"));
    }
    (main, local)
}

fn parse_one(outer: &mut Fields, key: &str, object: &Map<String, Value>, theta: f32, max_positions: usize) -> Rope {
    let mut fields = Fields { object, problems: vec![] };
    let theta = fields.positive("rope_theta").unwrap_or(theta);
    if let Some(share) = fields.number("partial_rotary_factor").filter(|share| *share != 1.0) {
        fields.problems.push(format!("partial_rotary_factor {share} is not supported (only 1 is)"));
    }
    let kind = fields.str("rope_type").or_else(|| fields.str("type")).unwrap_or("default");
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: fields.needed_number("factor") },
        "llama3" => RopeScaling::Llama3 {
            factor: fields.needed_number("factor"),
            low_freq_factor: fields.needed_number("low_freq_factor"),
            high_freq_factor: fields.needed_number("high_freq_factor"),
            original_max_position_embeddings: fields.needed("original_max_position_embeddings"),
        },
        "yarn" => RopeScaling::Yarn {
            factor: fields.needed_number("factor"),
            original_max_position_embeddings: fields.size("original_max_position_embeddings").unwrap_or(max_positions),
            beta_fast: fields.positive("beta_fast").unwrap_or(32.0),
            beta_slow: fields.positive("beta_slow").unwrap_or(1.0),
            attention_factor: fields.positive("attention_factor"),
        },
        other => {
            fields.problems.push(format!("rope_type {other:?} is not supported (default, linear, llama3, yarn are)"));
            RopeScaling::None
        }
    };
    outer.problems.extend(fields.problems.into_iter().map(|problem| format!("{key}: {problem}")));
    Rope { theta, scaling }
}

/// A rope as transformers 5 writes it in `rope_parameters`; `None` for factors that no rope type describes.
pub(super) fn to_json(rope: &Rope, head_dim: usize) -> Option<Value> {
    let theta = rope.theta;
    Some(match &rope.scaling {
        RopeScaling::None => serde_json::json!({ "rope_theta": theta, "rope_type": "default" }),
        RopeScaling::Linear { factor } => {
            serde_json::json!({ "rope_theta": theta, "rope_type": "linear", "factor": factor })
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            serde_json::json!({
                "rope_theta": theta,
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            })
        }
        RopeScaling::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, attention_factor } => {
            let mut json = serde_json::json!({
                "rope_theta": theta,
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": original_max_position_embeddings,
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
            });
            if let Some(attention_factor) = attention_factor {
                json["attention_factor"] = (*attention_factor).into();
            }
            json
        }
        RopeScaling::Factors { factors } => {
            let scaling = recognize_llama3(factors, theta, head_dim)?;
            to_json(&Rope { theta, scaling }, head_dim)?
        }
    })
}

/// The divisors of each frequency that Llama 3.1's rule gives: 1 for short wavelengths, `factor` for long ones, and a
/// blend between. One for each pair of a head's dimensions.
pub fn llama3_factors(
    theta: f32,
    head_dim: usize,
    factor: f32,
    low_freq_factor: f32,
    high_freq_factor: f32,
    original_max_position_embeddings: usize,
) -> Vec<f32> {
    let original = original_max_position_embeddings as f64;
    let (factor, low, high) = (f64::from(factor), f64::from(low_freq_factor), f64::from(high_freq_factor));
    (0..head_dim / 2)
        .map(|pair| {
            let frequency = f64::from(theta).powf(-2.0 * pair as f64 / head_dim as f64);
            let turns = original * frequency / std::f64::consts::TAU;
            let divisor = if turns > high {
                1.0
            } else if turns < low {
                factor
            } else {
                let smooth = (turns - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            };
            divisor as f32
        })
        .collect()
}

/// The Llama 3 settings whose divisors these are, among those that released models use (factor 8 and 32 over 8,192
/// positions). A GGUF holds only the divisors, and `config.json` only the settings.
pub fn recognize_llama3(factors: &[f32], theta: f32, head_dim: usize) -> Option<RopeScaling> {
    [8.0, 32.0, 16.0, 4.0, 2.0].into_iter().find_map(|factor| {
        let candidate = llama3_factors(theta, head_dim, factor, 1.0, 4.0, 8192);
        let same = candidate.len() == factors.len()
            && candidate.iter().zip(factors).all(|(a, b)| (a - b).abs() <= 1e-4 * a.abs());
        same.then_some(RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_divisors_are_recognised_and_others_are_not() {
        let mut factors = llama3_factors(500_000.0, 64, 32.0, 1.0, 4.0, 8192);
        assert_eq!((factors[0], factors[31]), (1.0, 32.0));
        assert!(factors.windows(2).all(|pair| pair[0] <= pair[1]));
        let found = recognize_llama3(&factors, 500_000.0, 64);
        assert!(matches!(found, Some(RopeScaling::Llama3 { factor: 32.0, .. })), "{found:?}");
        factors[20] *= 1.01;
        assert_eq!(recognize_llama3(&factors, 500_000.0, 64), None);
    }
}
