//! What the served model is, in numbers, for whoever asks about it. It knows no endpoint.

use std::collections::BTreeMap;

use ounce_engine::Engine;
use ounce_spec::dtype::DType;
use ounce_spec::model::ModelConfig;

pub struct Facts {
    pub config: ModelConfig,
    pub parameters: usize,
    /// Of its weights, as they are stored.
    pub bytes: usize,
    /// What most of its parameters are stored as.
    pub storage: DType,
}

impl Facts {
    pub fn of(engine: &Engine) -> Facts {
        let model = engine.model();
        let (mut parameters, mut bytes, mut by_type) = (0, 0, BTreeMap::new());
        for (_, param) in model.params.iter() {
            let (rows, cols) = param.weight.shape();
            parameters += rows * cols;
            bytes += param.weight.bytes_len();
            let dtype = param.weight.dtype();
            by_type.entry(format!("{dtype:?}")).or_insert((0, dtype)).0 += rows * cols;
        }
        let most = by_type.into_values().max_by_key(|(count, _)| *count);
        Facts { config: model.config.clone(), parameters, bytes, storage: most.map_or(DType::F32, |(_, dtype)| dtype) }
    }
}
