//! [`Adapter`]: a LoRA adapter from its files, held against a model's layers. It is read and checked anywhere, then put on the
//! model: for all rows to be trained or merged ([`super::lora`]), or beside others, for the rows that ask for it. It does not
//! know how its product is computed.

use std::collections::BTreeSet;
use std::sync::Arc;

use ounce_formats::peft::{self, AdapterConfig, Side};
use ounce_formats::{TensorData, Tensors};
use ounce_tensor::{AdapterId, Device, Purpose, Tensor, Weight};

use crate::error::LoadError;
use crate::linear::Beside;
use crate::model::Model;

/// The linear layers of a model as an adapter sees them. Cheap to clone, so that adapters can be read while the model runs.
#[derive(Clone)]
pub struct Layers {
    device: Device,
    list: Arc<[Layer]>,
}

struct Layer {
    module: String,
    /// `[n, k]` of its weight.
    shape: (usize, usize),
}

/// An adapter whose every matrix fits a layer.
pub struct Adapter {
    pub(super) parts: Vec<Part>,
}

/// The adapter of one layer.
pub(super) struct Part {
    /// Its place among the model's linear layers.
    pub layer: usize,
    /// `[r, k]`
    pub a: Tensor,
    /// `[n, r]`
    pub b: Tensor,
    pub alpha: f32,
    pub scale: f32,
    pub dropout: f32,
}

impl Layers {
    pub fn of(model: &Model, device: &Device) -> Layers {
        let layer =
            |l: &&crate::Linear| Layer { module: l.module.clone(), shape: model.params.weight(l.weight).shape() };
        Layers { device: device.clone(), list: model.family.linears().iter().map(layer).collect() }
    }

    /// An adapter's matrices as f32, in memory of their own. `path` is for messages.
    ///
    /// # Errors
    /// Everything that does not fit.
    pub fn read(&self, path: &str, config: &AdapterConfig, tensors: &Tensors) -> Result<Adapter, LoadError> {
        let (mut problems, mut used, mut parts) = (Vec::new(), BTreeSet::new(), Vec::new());
        for (index, layer) in self.list.iter().enumerate() {
            let (a_name, b_name) = (peft::key(&layer.module, Side::A), peft::key(&layer.module, Side::B));
            let (a, b) = match (tensors.get(&a_name), tensors.get(&b_name)) {
                (None, None) => continue,
                (Some(_), None) => {
                    problems.push(format!("{b_name}: missing, but its lora_A is there"));
                    continue;
                }
                (None, Some(_)) => {
                    problems.push(format!("{a_name}: missing, but its lora_B is there"));
                    continue;
                }
                (Some(a), Some(b)) => (a, b),
            };
            used.extend([a_name.clone(), b_name.clone()]);
            let ((n, k), rank) = (layer.shape, config.rank_of(&layer.module));
            let mut fits = true;
            for (name, data, want) in [(&a_name, a, [rank, k]), (&b_name, b, [n, rank])] {
                if data.shape != want {
                    fits = false;
                    problems.push(format!("{name}: file has {:?}, the model needs {want:?}", data.shape));
                }
            }
            match (a.to_f32(), b.to_f32()) {
                (Some(a), Some(b)) if a.iter().chain(&b).any(|v| !v.is_finite()) => {
                    problems.push(format!("{}: lora_A or lora_B holds values that are not finite", layer.module));
                }
                (Some(a), Some(b)) if fits => {
                    let tensor =
                        |v: &[f32], rows, cols| Tensor::from_f32(&self.device, v, rows, cols, Purpose::Adapters);
                    parts.push(Part {
                        layer: index,
                        a: tensor(&a, rank, k),
                        b: tensor(&b, n, rank),
                        alpha: config.alpha_of(&layer.module),
                        scale: config.scaling_of(&layer.module),
                        dropout: config.lora_dropout,
                    });
                }
                (Some(_), Some(_)) => {}
                _ => problems.push(format!("{a_name}: adapters are read as f32, bf16 or f16")),
            }
        }
        problems.extend(
            tensors
                .iter()
                .filter(|(name, _)| !used.contains(*name))
                .map(|(name, _)| format!("{name}: the model has no such layer")),
        );
        if parts.is_empty() && problems.is_empty() {
            problems.push("no lora_A / lora_B tensors".into());
        }
        if problems.is_empty() {
            return Ok(Adapter { parts });
        }
        let hint = match &config.base_model_name_or_path {
            Some(base) if !base.is_empty() => format!("the adapter was made for {base}"),
            _ => String::new(),
        };
        Err(LoadError::Mismatch { path: path.into(), problems, hint })
    }
}

impl Adapter {
    /// Bytes that the tensors of a file take as an adapter.
    pub fn bytes_of(tensors: &Tensors) -> usize {
        let elements = |t: &TensorData| t.shape.iter().product::<usize>();
        tensors.iter().map(|(_, t)| elements(t).saturating_mul(size_of::<f32>())).fold(0, usize::saturating_add)
    }

    /// Puts it on a model, for the rows that name `id`.
    pub fn put_beside(self, model: &mut Model, id: AdapterId) {
        let mut linears = model.family.linears_mut();
        for Part { layer, a, b, scale, .. } in self.parts {
            linears[layer].beside.insert(id, Beside { a: Weight::Dense(a), b: Weight::Dense(b), scale });
        }
    }
}

/// Takes an adapter off again, and frees its memory.
pub fn take_from_beside(model: &mut Model, id: AdapterId) {
    for linear in model.family.linears_mut() {
        linear.beside.remove(&id);
    }
}
