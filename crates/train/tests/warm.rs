//! A warm step: every buffer that it needs lies in memory that an earlier step let go. The kernels' own scratch is another matter,
//! which each thread keeps by construction.

use ounce_data::Batch;
use ounce_spec::recipe::StateType;
use ounce_tensor::Policy;
use tiny::{Case, device, sequences};

#[allow(dead_code)]
mod tiny;

/// So many that the buffers are megabytes: memory comes from the system in large pages.
const SEQUENCES: usize = 600;

#[test]
fn a_warm_step_takes_no_buffer_from_the_system() {
    let eight = "full, bf16, updated at once, states of 8 bits";
    let cases = [
        (Case::lora(), 0),
        (Case::lora().f16("lora, f16"), 0),
        (Case::lora().bf16("lora, batch cut"), 5000),
        (Case { activations: Policy::Recompute, ..Case::lora().bf16("lora, recomputed") }, 0),
        (Case { activations: Policy::Offload, ..Case::lora().bf16("lora, offloaded") }, 0),
        (Case::full(), 0),
        (Case::full().pure_bf16("").update_now("").state(StateType::Block8, eight), 0),
    ];
    let batches = [Batch::of(&sequences(SEQUENCES, 3))];
    for (case, micro_batch_tokens) in cases {
        let device = device(2);
        let mut trainer = case.trainer(&device);
        trainer.set_micro_batch(micro_batch_tokens);
        let mut step = |n: usize| {
            trainer.step(&batches, n, 0, 1e-3, case.recipe.max_grad_norm).unwrap();
            device.arena().taken()
        };
        let cold = step(1);
        let warm = step(2).max(step(3));
        assert!(cold > 1, "{}: {cold}", case.name);
        assert_eq!((4..8).map(&mut step).last(), Some(warm), "{}", case.name);
        let memory = device.memory();
        assert!(memory.peak_bytes > 4 << 20, "{}: a few pages would hold all", case.name);
        let over = memory.peak_reserved_bytes - memory.peak_bytes;
        assert!(over <= memory.peak_bytes / 8 + (2 << 20), "{}: {over} over {}", case.name, memory.peak_bytes);
    }
}
