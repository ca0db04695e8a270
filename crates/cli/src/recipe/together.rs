//! What is wrong with settings that are each in order: checks over the whole recipe, once all of its sources are in.

use ounce_spec::Recipe;
use ounce_spec::recipe::{Activations, Compute, Gradients, MasterWeights, Method, Offload};

use super::Fault;

/// Every contradiction.
pub fn faults(recipe: &Recipe) -> Vec<Fault> {
    let mut faults = Vec::new();
    if recipe.lora.target.is_empty() {
        let help = Some("all-linear, or names of modules: q_proj, v_proj, …".into());
        faults.push(Fault { at: "lora.target".into(), what: "it names no layer".into(), help });
    }
    let mut fault = |what: String, help: &str| {
        faults.push(Fault { at: "recipe".into(), what, help: Some(help.into()) });
    };
    if recipe.gradients == Gradients::UpdateNow {
        if recipe.gradient_accumulation > 1 {
            let n = recipe.gradient_accumulation;
            fault(
                format!("gradients: update_now keeps no gradients, so {n} batches cannot be added up"),
                "set gradient_accumulation: 1 (and a larger batch_size if memory allows), or gradients: accumulate",
            );
        }
        if recipe.compute == Compute::F16 {
            fault(
                "gradients: update_now cannot take back what it has updated, and a step with compute: f16 may have to be \
                 skipped"
                    .into(),
                "set compute: bf16, whose range is that of f32, or gradients: accumulate",
            );
        }
        if recipe.max_grad_norm > 0.0 {
            let limit = recipe.max_grad_norm;
            fault(
                format!(
                    "gradients: update_now changes weights before all gradients are known, so their norm cannot be limited \
                     to {limit}"
                ),
                "set max_grad_norm: 0 to train without clipping, or gradients: accumulate",
            );
        }
    }
    if recipe.master_weights == MasterWeights::None && recipe.method == Method::Lora {
        fault(
            "master_weights: none is for method: full; adapters are f32, and the base model stays as it is stored"
                .into(),
            "remove master_weights, or set method: full",
        );
    }
    if recipe.offload == Offload::None && recipe.activations == Activations::Offload {
        fault(
            "activations: offload puts them on disk, and offload: none keeps everything off it".into(),
            "set activations: auto or recompute, or offload: disk",
        );
    }
    faults
}
