//! Parity with transformers and PEFT on tiny random models: hidden states layer by layer, logits, loss, every gradient, ten
//! AdamW losses. The golden files are written by `cargo xtask golden`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ounce_data::Batch;
use ounce_model::{Model, Training, adapters::lora};
use ounce_optim::from_recipe;
use ounce_spec::recipe::{Gradients, OptimizerRecipe};
use ounce_tensor::kernels::{Cpu, Isa};
use ounce_tensor::{Accumulate, Device, Elem, Loss, Offload, Policy, Purpose, Rows, Stage, Tensor};
use ounce_train::{Scratch, Trainer};

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

struct Golden {
    tensors: HashMap<String, (Vec<usize>, Vec<f64>)>,
    json: serde_json::Value,
}

impl Golden {
    fn read(dir: &Path) -> Golden {
        let bytes = std::fs::read(dir.join("golden.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let number = |t: &safetensors::tensor::TensorView| -> Vec<f64> {
            match t.dtype() {
                safetensors::Dtype::F32 => {
                    t.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()) as f64).collect()
                }
                safetensors::Dtype::I64 => {
                    t.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect()
                }
                other => panic!("{other:?}"),
            }
        };
        let tensors = file.tensors().iter().map(|(n, t)| (n.clone(), (t.shape().to_vec(), number(t)))).collect();
        let json = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
        Golden { tensors, json }
    }

    fn ids(&self, i: usize) -> Vec<u32> {
        self.tensors[&format!("ids.{i}")].1.iter().map(|&v| v as u32).collect()
    }

    fn losses(&self) -> Vec<f64> {
        let at = if self.json["adamw"].is_object() { &self.json["adamw"]["losses"] } else { &self.json["losses"] };
        at.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    }
}

/// Largest difference over the largest value.
fn relative(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1e-12f64, |m, v| m.max(v.abs()));
    got.iter().zip(want).map(|(g, w)| (*g as f64 - w).abs()).fold(0.0, f64::max) / scale
}

/// Both sequences side by side, as one batch of next-token targets.
fn batch(golden: &Golden) -> Batch {
    let mut batch = Batch { bounds: vec![0], ..Batch::default() };
    for i in 0..2 {
        let ids = golden.ids(i);
        let n = ids.len();
        batch.targets.extend(ids[1..].iter().chain([&ids[n - 1]]));
        batch.weights.extend((0..n).map(|t| if t + 1 < n { 1.0 } else { 0.0 }));
        batch.positions.extend(0..n as u32);
        batch.ids.extend(ids);
        batch.bounds.push(batch.ids.len());
        batch.examples.push(i as u32);
    }
    batch
}

fn load(device: &Device, dir: &Path) -> Model {
    let checkpoint = ounce_formats::open(dir).unwrap();
    Model::load(device, &checkpoint, 4096).unwrap_or_else(|e| panic!("{e}"))
}

fn families() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(golden_dir())
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| e.path().is_dir())
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() >= 7, "{names:?}");
    names
}

#[test]
fn hidden_states_and_logits_match_transformers_layer_by_layer() {
    for family in families() {
        let dir = golden_dir().join(&family);
        let golden = Golden::read(&dir);
        for isa in Isa::available() {
            let device = Device::cpu(Cpu::with_isa(2, isa));
            let model = load(&device, &dir);
            for i in 0..2 {
                let ids = golden.ids(i);
                let bounds = [0, ids.len()];
                let (hidden, logits) = model.trace(&device, &Rows::whole(ids, &bounds), Elem::F32);
                for (layer, h) in hidden.iter().enumerate() {
                    let (_, want) = &golden.tensors[&format!("hidden.{i}.{layer}")];
                    let error = relative(h.f32(), want);
                    assert!(error < 1e-5, "{family} {isa:?}: sequence {i}, layer {layer} differs by {error:e}");
                }
                let error = relative(logits.f32(), &golden.tensors[&format!("logits.{i}")].1);
                assert!(error < 1e-5, "{family} {isa:?}: logits of sequence {i} differ by {error:e}");
            }
        }
    }
}

#[test]
fn loss_and_every_gradient_match_transformers() {
    for family in families() {
        let dir = golden_dir().join(&family);
        let golden = Golden::read(&dir);
        let device = Device::cpu(Cpu::new(2));
        let dir_of_scratch = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(dir_of_scratch.path(), 0).unwrap();
        let offload = Offload::new(&device, Arc::new(scratch)).unwrap();
        let offload = Some(&offload);
        for policy in [Policy::Keep, Policy::Recompute, Policy::Offload, Policy::OffloadInputs] {
            let mut model = load(&device, &dir);
            let trained = model.make_dense(&device, Elem::F32);
            let mut sink = Accumulate::new(&device, &model.params, &trained);
            let batch = batch(&golden);
            let mut rows = Rows::whole(batch.ids.clone(), &batch.bounds);
            let weights = batch.weights.iter().map(|w| w / batch.loss_tokens() as f32).collect();
            rows.loss = Some(Loss { targets: batch.targets.as_slice().into(), weights });
            let wanted = vec![true; model.params.len()];
            let policies = vec![policy; model.segments()];
            let training = Training { family: &*model.family, elem: Elem::F32 };
            let range = 0..model.segments();
            let stage = Stage { model: &training, range, policies: &policies, wanted: &wanted, random: None, offload };
            let pass = stage.forward(&device, &model.params, &rows, Vec::new()).unwrap();
            let loss = pass.outputs[0].f32()[0] as f64;
            let want = golden.json["loss"].as_f64().unwrap();
            assert!((loss / want - 1.0).abs() < 1e-5, "{family}: loss {loss}, transformers {want}");
            let one = Tensor::from_f32(&device, &[1.0], 1, 1, Purpose::Activations);
            stage.backward(&device, &mut model.params, &mut sink, &rows, pass, vec![Some(one), None]).unwrap();
            for &p in &trained {
                let name = &model.params[p].name;
                let (shape, want) = golden
                    .tensors
                    .get(&format!("grad.{name}"))
                    .unwrap_or_else(|| panic!("{family}: no golden gradient of {name}"));
                let got = sink.grad(p).unwrap();
                let transposed =
                    shape.len() == 2 && shape[..] != [got.rows(), got.cols()] || family == "gpt2" && is_conv1d(name);
                let got = if transposed { transpose(got) } else { got.f32().to_vec() };
                let error = relative(&got, want);
                assert!(error < 2e-5, "{family} ({policy:?}): gradient of {name} differs by {error:e}");
            }
        }
    }
}

fn is_conv1d(name: &str) -> bool {
    ["c_attn.weight", "c_proj.weight", "c_fc.weight"].iter().any(|end| name.ends_with(end))
}

fn transpose(t: &Tensor) -> Vec<f32> {
    let (n, k) = (t.rows(), t.cols());
    (0..n * k).map(|i| t.f32()[(i % n) * k + i / n]).collect()
}

fn ten_losses(
    device: &Device,
    model: Model,
    trained: Vec<ounce_tensor::ParamId>,
    golden: &Golden,
    recipe: &OptimizerRecipe,
    elem: Elem,
    activations: &[Policy],
) -> Vec<f64> {
    let mut trainer =
        Trainer::new(device, model, trained, from_recipe(recipe), Gradients::Accumulate, elem, activations, 0);
    let batch = batch(golden);
    (1..=10)
        .map(|step| trainer.step(std::slice::from_ref(&batch), step, 0, recipe.learning_rate, 0.0).unwrap().loss)
        .collect()
}

fn close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(
            (g / w - 1.0).abs() < tolerance,
            "{what}: loss {i} is {g}, the peer's {w}\nours {got:?}\npeer {want:?}"
        );
    }
}

#[test]
fn ten_adamw_losses_of_full_tuning_match_transformers() {
    let recipe = OptimizerRecipe { learning_rate: 1e-3, weight_decay: 0.01, ..OptimizerRecipe::default() };
    for family in families() {
        let dir = golden_dir().join(&family);
        let golden = Golden::read(&dir);
        let device = Device::cpu(Cpu::new(2));
        let mut model = load(&device, &dir);
        let trained = model.make_dense(&device, Elem::F32);
        let kept = ten_losses(&device, model, trained, &golden, &recipe, Elem::F32, &[]);
        close(&family, &kept, &golden.losses(), 1e-4);
        let mut model = load(&device, &dir);
        let trained = model.make_dense(&device, Elem::F32);
        let recomputed = ten_losses(&device, model, trained, &golden, &recipe, Elem::F32, &[Policy::Recompute; 16]);
        assert_eq!(kept, recomputed, "{family}: recomputing changes bits");
    }
}

/// The same with f16 activations, forward and back, recomputed or kept. A hidden state has 11 bits, and so the losses three
/// digits; without the scaled loss gradients below 2^-24 would be lost, which ten losses of a tiny model do not show.
#[test]
fn f16_activations_stay_near_transformers() {
    let recipe = OptimizerRecipe { learning_rate: 1e-3, weight_decay: 0.01, ..OptimizerRecipe::default() };
    for family in families() {
        let dir = golden_dir().join(&family);
        let golden = Golden::read(&dir);
        let device = Device::cpu(Cpu::new(2));
        let mut model = load(&device, &dir);
        let ids = golden.ids(0);
        let bounds = [0, ids.len()];
        let (hidden, _) = model.trace(&device, &Rows::whole(ids, &bounds), Elem::F16);
        for (layer, h) in hidden.iter().enumerate() {
            let error = relative(&h.to_f32_vec(), &golden.tensors[&format!("hidden.0.{layer}")].1);
            assert!(error < 4e-3, "{family}: layer {layer} differs by {error:e}");
        }
        let trained = model.make_dense(&device, Elem::F32);
        let kept = ten_losses(&device, model, trained, &golden, &recipe, Elem::F16, &[]);
        close(&family, &kept, &golden.losses(), 1e-3);
        let mut model = load(&device, &dir);
        let trained = model.make_dense(&device, Elem::F32);
        let recomputed = ten_losses(&device, model, trained, &golden, &recipe, Elem::F16, &[Policy::Recompute; 16]);
        assert_eq!(kept, recomputed, "{family}: recomputing changes bits");
    }
}

#[test]
fn a_peft_adapter_gives_its_logits_and_ten_losses() {
    let dir = golden_dir().join("llama/lora");
    let golden = Golden::read(&dir);
    let base = Golden::read(&golden_dir().join("llama"));
    let device = Device::cpu(Cpu::new(2));
    let mut model = load(&device, &golden_dir().join("llama"));
    let (config, tensors) = ounce_formats::peft::read_adapter(&dir).unwrap();
    let trained =
        lora::attach_saved(&mut model, &device, "golden", &config, &tensors).unwrap_or_else(|e| panic!("{e}"));
    for i in 0..2 {
        let ids = base.ids(i);
        let bounds = [0, ids.len()];
        let (_, logits) = model.trace(&device, &Rows::whole(ids, &bounds), Elem::F32);
        let error = relative(logits.f32(), &golden.tensors[&format!("logits.{i}")].1);
        assert!(error < 1e-5, "logits {i} differ by {error:e}");
    }
    let adamw = &golden.json["adamw"];
    let recipe = OptimizerRecipe {
        learning_rate: adamw["lr"].as_f64().unwrap(),
        weight_decay: adamw["weight_decay"].as_f64().unwrap(),
        ..OptimizerRecipe::default()
    };
    let losses = ten_losses(&device, model, trained, &base, &recipe, Elem::F32, &[]);
    close("lora", &losses, &golden.losses(), 1e-4);
}
