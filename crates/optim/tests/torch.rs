//! Every optimizer against torch 2.15's, ten steps each, and against the promises of the trait.

use ounce_kernels::{Cpu, Isa, Out};
use ounce_optim::{Buffer, BufferMut, Optimizer, Rounding, State, StepContext, Unit, from_recipe};
use ounce_spec::recipe::{OptimizerName, OptimizerRecipe, StateType};

fn param(i: usize) -> f64 {
    (0.7 * i as f64 + 0.3).sin()
}

/// Gradient of element `i` at step `t`, counted from 1.
fn grad(i: usize, t: usize) -> f64 {
    (1.3 * i as f64 + 0.9 * t as f64).cos() * (0.1 + 0.05 * i as f64)
}

fn adam(name: OptimizerName, beta2: f64) -> OptimizerRecipe {
    OptimizerRecipe { name, weight_decay: 0.1, beta1: 0.9, beta2, eps: 1e-8, ..OptimizerRecipe::default() }
}

fn sgd(momentum: f64, nesterov: bool, weight_decay: f64) -> OptimizerRecipe {
    OptimizerRecipe { name: OptimizerName::Sgd, momentum, nesterov, weight_decay, ..OptimizerRecipe::default() }
}

/// Parameters after ten steps of torch.optim in f64 (the formulas of `param` and `grad`, seven elements).
fn cases() -> Vec<(OptimizerRecipe, f64, [f64; 7])> {
    vec![
        (
            adam(OptimizerName::Adamw, 0.999),
            0.01,
            [
                0.2923516552175648,
                0.8746646787959114,
                1.0001086641877044,
                0.6272254206317193,
                0.00997164417896318,
                -0.5974571539922835,
                -0.9282535043690617,
            ],
        ),
        (
            adam(OptimizerName::Adam, 0.95),
            0.01,
            [
                0.2609893403279083,
                0.8294724850960539,
                0.9592138852639813,
                0.6128629012793767,
                0.009321359976029989,
                -0.5840632849640531,
                -0.918656034267106,
            ],
        ),
        (
            sgd(0.0, false, 0.0),
            0.1,
            [
                0.3008101073910053,
                0.8751630304107834,
                1.005118562947106,
                0.6283069287953083,
                -0.008874147365499538,
                -0.5773312110303952,
                -0.8891465318011643,
            ],
        ),
        (
            sgd(0.9, false, 0.1),
            0.1,
            [
                0.1990393354785958,
                0.6240294498694353,
                0.6572448714764272,
                0.27814813363350666,
                -0.12694679522053945,
                -0.27745161149591674,
                -0.34071979717552675,
            ],
        ),
        (
            sgd(0.9, true, 0.1),
            0.1,
            [
                0.18946870427853815,
                0.6057126171521411,
                0.6255269705626834,
                0.2330426473319674,
                -0.15046663083027226,
                -0.24082605262645723,
                -0.2658863741987483,
            ],
        ),
    ]
}

/// Every case with every storage of the moments.
fn storages() -> Vec<(OptimizerRecipe, f64)> {
    let with = |(recipe, lr, _): (OptimizerRecipe, f64, _)| {
        [StateType::F32, StateType::Bf16, StateType::Block8]
            .map(|state| (OptimizerRecipe { state, ..recipe.clone() }, lr))
    };
    cases().into_iter().flat_map(with).collect()
}

fn at(step: usize, lr: f64) -> StepContext {
    StepContext { step, lr, grad_scale: 0.5, rounding: Rounding { key: step as u64, first: 0 } }
}

/// `steps` updates of `elements` elements; the gradients are doubled and halved again by the scale.
fn train(cpu: &Cpu, rule: &dyn Optimizer, lr: f64, elements: usize, steps: usize) -> (Vec<f32>, State) {
    let mut params: Vec<f32> = (0..elements).map(|i| param(i) as f32).collect();
    let mut state = rule.init(elements);
    for step in 1..=steps {
        let grads: Vec<f32> = (0..elements).map(|i| (2.0 * grad(i, step)) as f32).collect();
        rule.step(cpu, Out::F32(&mut params), &grads, state.view(), &at(step, lr));
    }
    (params, state)
}

#[test]
fn ten_steps_are_those_of_torch() {
    for isa in Isa::available() {
        let cpu = Cpu::with_isa(2, isa);
        for (recipe, lr, expected) in cases() {
            let rule = from_recipe(&recipe);
            let (params, _) = train(&cpu, &*rule, lr, 7, 10);
            for (found, wanted) in params.iter().zip(expected) {
                // Ten f32 updates of values around 1: a few units in the last place (6e-8 each). torch's own f32 run is
                // within 2e-7 of its f64 run.
                assert!((f64::from(*found) - wanted).abs() < 5e-7, "{isa:?} {recipe:?}: {found} is not {wanted}");
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_on_the_cut_into_shards() {
    // More than one of the kernels' chunks, and no multiple of a vector width; the shard is a multiple of a block.
    let (elements, shard) = (150_001, 70_144);
    for (recipe, lr) in storages() {
        let rule = from_recipe(&recipe);
        let (alone, state) = train(&Cpu::new(1), &*rule, lr, elements, 3);
        let (together, _) = train(&Cpu::new(4), &*rule, lr, elements, 3);
        assert!(alone.iter().zip(&together).all(|(a, b)| a.to_bits() == b.to_bits()), "{recipe:?}: threads");
        let (part, _) = train(&Cpu::new(1), &*rule, lr, shard, 3);
        assert!(part.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()), "{recipe:?}: shards");
        assert!(matches!(rule.unit(), Unit::Element | Unit::Block(256)));
        assert_eq!(state.bytes(), rule.state_bytes(elements), "{recipe:?}");
    }
}

#[test]
fn a_restored_state_continues_with_the_same_bits() {
    let (cpu, n) = (Cpu::new(2), 5000);
    for (recipe, lr) in storages() {
        let rule = from_recipe(&recipe);
        let (mut params, saved) = train(&cpu, &*rule, lr, n, 5);
        let mut state = rule.init(n);
        for ((name, into), (saved_name, from)) in state.buffers_mut().into_iter().zip(saved.buffers()) {
            assert_eq!(name, saved_name);
            match (into, from) {
                (BufferMut::F32(into), Buffer::F32(from)) => into.copy_from_slice(from),
                (BufferMut::Bf16(into), Buffer::Bf16(from)) => into.copy_from_slice(from),
                (BufferMut::U8(into), Buffer::U8(from)) => into.copy_from_slice(from),
                other => panic!("{name}: {other:?}"),
            }
        }
        for step in 6..=10 {
            let grads: Vec<f32> = (0..n).map(|i| (2.0 * grad(i, step)) as f32).collect();
            rule.step(&cpu, Out::F32(&mut params), &grads, state.view(), &at(step, lr));
        }
        let (uninterrupted, end) = train(&cpu, &*rule, lr, n, 10);
        assert_eq!(params, uninterrupted, "{recipe:?}");
        assert_eq!(state, end, "{recipe:?}");
    }
}

/// Least squares in 8192 dimensions of unlike curvature: narrow moments get as far as f32 ones, within a tenth.
#[test]
fn narrow_moments_find_the_same_minimum() {
    let n = 8192;
    let target = |i: usize| (0.37 * i as f32).cos();
    let curvature = |i: usize| 10f32.powi(-((i % 3) as i32));
    let cpu = Cpu::new(2);
    for (recipe, rate) in [(adam(OptimizerName::Adamw, 0.999), 0.01), (sgd(0.9, false, 0.0), 0.02)] {
        let run = |state: StateType| -> f64 {
            let rule = from_recipe(&OptimizerRecipe { state, weight_decay: 0.0, ..recipe.clone() });
            let (mut params, mut moments) = (vec![0.0f32; n], rule.init(n));
            for step in 1..=150 {
                let grads: Vec<f32> = (0..n).map(|i| 2.0 * curvature(i) * (params[i] - target(i))).collect();
                rule.step(&cpu, Out::F32(&mut params), &grads, moments.view(), &at(step, rate));
            }
            (0..n).map(|i| f64::from(curvature(i) * (params[i] - target(i)).powi(2))).sum()
        };
        let start: f64 = (0..n).map(|i| f64::from(curvature(i) * target(i).powi(2))).sum();
        let exact = run(StateType::F32);
        assert!(exact < 0.2 * start, "{exact} of {start}");
        for state in [StateType::Bf16, StateType::Block8] {
            let narrow = run(state);
            assert!((narrow - exact).abs() < 0.1 * exact + 1e-3 * start, "{state:?}: {narrow}, f32 {exact}");
        }
    }
}
