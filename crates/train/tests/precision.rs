//! Every storage of weights, moments and gradients still learns: a tiny model repeats the same few sequences, and each mode's
//! losses follow those of f32 masters with f32 moments. With `--nocapture` it prints the curves.

use ounce_spec::recipe::{OptimizerName, StateType};
use ounce_train::vfs::Disk;
use tiny::{Case, device, run_dir};

#[allow(dead_code)]
mod tiny;

/// Mean loss of the first and of the last ten of sixty steps.
fn losses(mut case: Case) -> (f64, f64) {
    case.recipe.max_steps = Some(60);
    (case.recipe.save_every, case.recipe.lora.dropout) = (0, 0.0);
    let dir = run_dir();
    let (_, left) = case.train(&device(2), dir.path(), &Disk, false, None).unwrap();
    let all: Vec<f64> = left.losses.iter().map(|(_, bits)| f64::from_bits(*bits)).collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    // With f16 a step or two may be skipped.
    let curve: Vec<String> = all.chunks(10).map(|ten| format!("{:.4}", mean(ten))).collect();
    eprintln!("| {} | {} |", case.name, curve.join(" | "));
    (mean(&all[..10]), mean(&all[all.len() - 10..]))
}

fn with_sgd(mut case: Case) -> Case {
    case.recipe.optimizer.name = OptimizerName::Sgd;
    (case.recipe.optimizer.learning_rate, case.recipe.optimizer.weight_decay) = (0.3, 0.0);
    case
}

#[test]
fn every_mode_learns_as_f32_masters_do() {
    let full = || Case::full().bf16("full");
    let lora = || Case::lora().wide();
    for (reference, others) in [
        (
            full(),
            vec![
                full().state(StateType::Bf16, "bf16 moments"),
                full().pure_bf16("pure bf16"),
                full().pure_bf16("").state(StateType::Bf16, "pure bf16, bf16 moments"),
                full().update_now("update now"),
                full().f16("f16"),
            ],
        ),
        (lora(), vec![lora().state(StateType::Block8, "8-bit"), lora().state(StateType::Bf16, "bf16 moments, lora")]),
        (
            with_sgd(full()),
            vec![with_sgd(full()).state(StateType::Bf16, "sgd, bf16"), with_sgd(full()).pure_bf16("sgd, pure bf16")],
        ),
        (with_sgd(lora()), vec![with_sgd(lora()).state(StateType::Block8, "sgd, 8-bit")]),
    ] {
        let name = reference.name;
        let (start, end) = losses(reference);
        assert!(end < start - 0.15, "{name}: from {start} to {end}");
        for other in others {
            let name = other.name;
            let (_, found) = losses(other);
            assert!((found - end).abs() < 0.15 * (start - end), "{name}: {found}, f32 masters from {start} to {end}");
        }
    }
}
