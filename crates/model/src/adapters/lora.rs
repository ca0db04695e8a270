//! LoRA (Hu et al. 2021): `y += scale · dropout(x) Aᵀ Bᵀ` on linear layers, `scale = alpha / r`, or `alpha / √r` for rsLoRA
//! (Kalajdzievski 2023). Names on disk are PEFT's.

use std::collections::BTreeSet;

use ounce_formats::Tensors;
use ounce_formats::peft::AdapterConfig;
use ounce_spec::recipe::LoraRecipe;
use ounce_tensor::{Device, Elem, Graph, ParamId, Params, Purpose, Rows, Tensor, Var, Weight};

use super::adapter::{Layers, Part};
use crate::error::LoadError;
use crate::linear::Linear;
use crate::model::Model;

/// The adapter of one linear layer.
#[derive(Clone, Debug)]
pub struct Lora {
    /// `[r, k]`
    pub a: ParamId,
    /// `[n, r]`
    pub b: ParamId,
    pub rank: usize,
    pub alpha: f32,
    pub scale: f32,
    pub dropout: f32,
}

impl Lora {
    pub(crate) fn forward(&self, g: &mut Graph, y: Var, x: Var, rows: &Rows) -> Var {
        let x = g.dropout(x, self.dropout, rows.first_row);
        g.low_rank(y, x, self.a, self.b, self.scale)
    }
}

fn scale_of(rank: usize, alpha: f32, rslora: bool) -> f32 {
    if rslora { alpha / (rank as f32).sqrt() } else { alpha / rank as f32 }
}

/// Whether `target` (`all-linear`, a module's last name, or an end of its path) names `linear`.
fn names(target: &str, linear: &Linear) -> bool {
    target == "all-linear" || linear.short_name() == target || linear.module.ends_with(&format!(".{target}"))
}

/// Puts fresh adapters on the layers that `recipe` targets: A uniform in ±k^-1/2 (Kaiming, as PEFT has it), B zero. Returns the
/// trained parameters.
pub fn attach(model: &mut Model, device: &Device, recipe: &LoraRecipe, seed: u64) -> Result<Vec<ParamId>, LoadError> {
    let missing = |t: &&String| !model.family.linears().iter().any(|l| names(t, l));
    let lost: Vec<String> = recipe.target.iter().filter(missing).cloned().collect();
    if !lost.is_empty() {
        let known: BTreeSet<String> = model.family.linears().iter().map(|l| l.short_name().to_string()).collect();
        return Err(LoadError::NoSuchLayer { names: lost, known: known.into_iter().collect() });
    }
    let Model { family, params, .. } = model;
    let mut trained = Vec::new();
    for linear in family.linears_mut() {
        if !recipe.target.iter().any(|t| names(t, linear)) {
            continue;
        }
        let (n, k) = params.weight(linear.weight).shape();
        let bound = (k as f32).powf(-0.5);
        let mut a = Tensor::empty(device, Elem::F32, recipe.rank, k, Purpose::Adapters);
        if !device.is_dry() {
            let mut random = Uniform::new(seed, &linear.module);
            a.f32_mut().fill_with(|| (2.0 * random.next() - 1.0) * bound);
        }
        let b = Tensor::zeros(device, Elem::F32, n, recipe.rank, Purpose::Adapters);
        let (alpha, rank) = (recipe.alpha, recipe.rank);
        let lora = insert(params, linear, a, b, rank, alpha, scale_of(rank, alpha, recipe.rslora), recipe.dropout);
        trained.extend([lora.a, lora.b]);
        linear.lora = Some(lora);
    }
    Ok(trained)
}

/// Puts a PEFT adapter's matrices on the model. All that does not fit is reported.
pub fn attach_saved(
    model: &mut Model,
    device: &Device,
    path: &str,
    config: &AdapterConfig,
    tensors: &Tensors,
) -> Result<Vec<ParamId>, LoadError> {
    let adapter = Layers::of(model, device).read(path, config, tensors)?;
    let Model { family, params, .. } = model;
    let mut trained = Vec::new();
    let mut linears = family.linears_mut();
    for Part { layer, a, b, alpha, scale, dropout } in adapter.parts {
        let rank = a.rows();
        let lora = insert(params, &*linears[layer], a, b, rank, alpha, scale, dropout);
        trained.extend([lora.a, lora.b]);
        linears[layer].lora = Some(lora);
    }
    Ok(trained)
}

/// Takes the adapters off again. Their parameters stay allocated until the model is dropped or others take their names.
pub fn detach(model: &mut Model) {
    for linear in model.family.linears_mut() {
        linear.lora = None;
    }
}

fn insert(
    params: &mut Params,
    linear: &Linear,
    a: Tensor,
    b: Tensor,
    rank: usize,
    alpha: f32,
    scale: f32,
    dropout: f32,
) -> Lora {
    let mut put = |part: &str, tensor: Tensor| {
        let name = format!("{}.{part}.weight", linear.module);
        let id = match params.id(&name) {
            Some(id) => {
                params[id].weight = Weight::Dense(tensor);
                id
            }
            None => params.add(&name, Weight::Dense(tensor)),
        };
        params.used_in(id, linear.segment);
        id
    };
    let (a, b) = (put("lora_A", a), put("lora_B", b));
    Lora { a, b, rank, alpha, scale, dropout }
}

/// What `write_adapter` stores: PEFT's names, shapes and f32 values.
pub fn saved_tensors(model: &Model) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut out = Vec::new();
    for linear in model.family.linears() {
        let Some(lora) = &linear.lora else { continue };
        for (part, id) in [("lora_A", lora.a), ("lora_B", lora.b)] {
            let Weight::Dense(t) = model.params.weight(id) else { unreachable!("adapters are dense") };
            let name = format!("base_model.model.{}.{part}.weight", linear.module);
            out.push((name, vec![t.rows(), t.cols()], t.f32().to_vec()));
        }
    }
    out
}

/// `W + scale · B A` of a layer as f32 `[n, k]`, for `ounce merge`.
pub fn merged(model: &Model, device: &Device, linear: &Linear) -> Tensor {
    let mut w = model.params.weight(linear.weight).to_f32(device, Purpose::Workspace);
    let Some(lora) = &linear.lora else { return w };
    let (n, k) = (w.rows(), w.cols());
    let a = model.params.weight(lora.a);
    let Weight::Dense(b) = model.params.weight(lora.b) else { unreachable!("adapters are dense") };
    let mut scaled = Tensor::empty(device, Elem::F32, n, lora.rank, Purpose::Workspace);
    device.run(ounce_tensor::Cost::elementwise(b.len(), 8), |cpu| {
        cpu.scale(scaled.output(), b.input(), lora.scale);
    });
    // (scale·B) A: `A [r, k]` as the weight of dy·W.
    a.apply_t(device, &mut w, &scaled, true);
    debug_assert_eq!((w.rows(), w.cols()), (n, k));
    w
}

/// Uniform numbers in [0, 1), a function of (seed, module): SplitMix64 (Steele et al. 2014).
struct Uniform {
    state: u64,
}

impl Uniform {
    fn new(seed: u64, module: &str) -> Uniform {
        // FNV-1a over the name, so that layers differ.
        let hash = module.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3));
        Uniform { state: hash ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) }
    }

    fn next(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f32 / (1u64 << 24) as f32
    }
}
