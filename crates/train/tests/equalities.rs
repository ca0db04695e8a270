//! Ways to compute the same step that must not differ: in bits where only the schedule of the work differs, within f32
//! rounding where sums are grouped in another way. And a step that cannot be computed is refused by name.

use std::sync::atomic::AtomicBool;

use ounce_data::{Batch, Batches, Settings, Tokenized};
use ounce_spec::recipe::StateType;
use ounce_tensor::{Device, Elem, Policy, Purpose, Weight};
use ounce_train::checkpoint;
use ounce_train::vfs::Disk;
use ounce_train::{Run, StepError, TrainError, Trainer};
use tiny::{Case, HASH, Left, MAX_LENGTH, VOCABULARY, device, run_dir, sequences};

#[allow(dead_code)]
mod tiny;

fn left(case: &Case, device: &Device) -> Left {
    let dir = run_dir();
    case.train(device, dir.path(), &Disk, false, None).unwrap().1
}

fn cases() -> Vec<Case> {
    vec![
        Case::lora(),
        Case::lora().bf16("lora, bf16"),
        Case::full(),
        Case::full().bf16("full, bf16"),
        Case::full().state(StateType::Bf16, "full, bf16 moments"),
        Case::lora().wide().state(StateType::Block8, "lora, 8-bit moments"),
        Case::full().pure_bf16("full, pure bf16"),
    ]
}

#[test]
fn one_two_and_three_threads_give_the_same_bits() {
    for case in cases() {
        let one = left(&case, &device(1));
        for threads in [2, 3] {
            left(&case, &device(threads)).assert_equal(&one, &format!("{}, {threads} threads", case.name));
        }
    }
}

#[test]
fn recomputed_activations_give_the_bits_of_kept_ones() {
    let device = device(2);
    for case in cases() {
        let recomputing = Case { activations: Policy::Recompute, ..case.clone() };
        left(&recomputing, &device).assert_equal(&left(&case, &device), case.name);
    }
}

/// Without clipping a weight may change as soon as its gradient is whole: the same updates by the same gradients. With tied
/// embeddings the first and the last segment share one.
#[test]
fn updates_during_the_backward_pass_give_the_bits_of_updates_after_it() {
    let device = device(2);
    let mut tied = Case::full().named("full, tied");
    tied.golden = "qwen3";
    let recomputing = Case { activations: Policy::Recompute, ..Case::full().bf16("full, bf16, recomputing") };
    for case in cases().into_iter().chain([tied, recomputing, Case::full().sgd().named("sgd")]) {
        let now = case.clone().update_now(case.name);
        let mut after = case;
        after.recipe.max_grad_norm = 0.0;
        let (now, after) = (left(&now, &device), left(&after, &device));
        now.assert_equal(&after, "update now");
        assert_eq!(now.norms, after.norms);
    }
}

/// All gradients at once are as large as the weights; those of one segment are not, and the dry run knows it.
#[test]
fn updates_during_the_backward_pass_need_no_gradient_buffer() {
    let batch = Batch::of(&sequences(4, 3));
    let peak = |case: &Case, device: &Device| {
        let mut trainer = case.trainer(device);
        trainer.rehearse(std::slice::from_ref(&batch)).unwrap().memory.at_peak_bytes[Purpose::Gradients as usize]
    };
    let [accumulate, now] = [Case::full(), Case::full().update_now("update now")];
    for device in [device(1), Device::dry()] {
        let (all, few) = (peak(&accumulate, &device), peak(&now, &device));
        assert!(few > 0 && 2 * few < all, "{few} of {all} bytes of gradients");
    }
    // A rehearsal on a real device is no step.
    let device = device(1);
    let mut trainer = now.trainer(&device);
    let before: Vec<Vec<f32>> = trainer.trained.iter().map(|&p| trainer.tensor(p).to_f32_vec()).collect();
    trainer.rehearse(std::slice::from_ref(&batch)).unwrap();
    let after: Vec<Vec<f32>> = trainer.trained.iter().map(|&p| trainer.tensor(p).to_f32_vec()).collect();
    assert_eq!(before, after);
}

/// A gradient that overflows where the loss does not: its parameter is not touched, nothing after it either, and the error
/// names it.
#[test]
fn a_gradient_that_is_not_finite_stops_the_updates() {
    let device = device(2);
    let mut case = Case::full().update_now("overflow");
    case.recipe.optimizer.weight_decay = 0.0;
    let mut trainer = case.trainer(&device);
    let id = |t: &Trainer, name: &str| t.model.params.ids().find(|&p| t.model.params[p].name.contains(name)).unwrap();
    // Scores of zero by keys of 1e18: the loss is finite, the norm of the gradient of the queries' matrix is not.
    let norm = id(&trainer, "layers.0.input_layernorm");
    trainer.tensor_mut(norm).f32_mut().fill(1e18);
    let attention = id(&trainer, "layers.0.self_attn.q_proj");
    trainer.tensor_mut(attention).f32_mut().fill(0.0);
    let untouched: Vec<_> = ["layers.0.mlp.down_proj", "embed_tokens"].map(|name| id(&trainer, name)).to_vec();
    let before: Vec<Vec<f32>> = untouched.iter().map(|&p| trainer.tensor(p).f32().to_vec()).collect();
    let error = trainer.step(&[Batch::of(&sequences(3, 3))], 1, 0, 1e-2, 0.0).unwrap_err();
    let StepError::NonFinite(error) = error else { panic!("{error}") };
    assert!(error.what.starts_with("gradient norm of model.layers.0.") && !error.examples.is_empty(), "{error}");
    let after: Vec<Vec<f32>> = untouched.iter().map(|&p| trainer.tensor(p).f32().to_vec()).collect();
    assert!(before == after, "updated after the gradient that is not finite");
    assert!(trainer.trained.iter().all(|&p| trainer.tensor(p).f32().iter().all(|x| x.is_finite())));
}

/// Rate of the steps below: a power of two that makes an update large beside the rounding of the parameters.
const RATE: f64 = 64.0;

type Step = (f64, Vec<(String, Vec<f64>)>);

/// The loss and the gradients (as updates by plain SGD, over [`RATE`]) of one step over `batches`.
fn gradients(trainer: &mut Trainer, batches: &[Batch]) -> Step {
    let all = |t: &Trainer| -> Vec<Vec<f32>> { t.trained.iter().map(|&p| t.tensor(p).f32().to_vec()).collect() };
    let before = all(trainer);
    let loss = trainer.step(batches, 1, 0, RATE, 0.0).unwrap().loss;
    let after = all(trainer);
    let moved = |(b, a): (&Vec<f32>, &Vec<f32>)| {
        b.iter().zip(a).map(|(b, a)| (f64::from(*b) - f64::from(*a)) / RATE).collect::<Vec<_>>()
    };
    let names = trainer.trained.iter().map(|&p| trainer.model.params[p].name.clone());
    (loss, names.zip(before.iter().zip(&after).map(moved)).collect())
}

fn assert_close(case: &Case, device: &Device, one: &[Batch], other: &[Batch], what: &str) {
    let run = |batches| gradients(&mut case.trainer(device), batches);
    close(&run(one), &run(other), what);
}

fn close((loss, grads): &Step, (other_loss, others): &Step, what: &str) {
    assert!((loss / other_loss - 1.0).abs() < 1e-6, "{what}: losses {loss} and {other_loss}");
    let mut nonzero = 0;
    for ((name, a), (_, b)) in grads.iter().zip(others) {
        let scale = a.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst <= 2e-5 * scale + 1e-8, "{what}: gradient of {name} differs by {worst:e} of {scale:e}");
        nonzero += usize::from(scale > 1e-6);
    }
    // At the start B is zero, so A has no gradient: half of an adapter's.
    assert!(2 * nonzero >= grads.len(), "{what}: {nonzero} of {} gradients are not zero", grads.len());
}

#[test]
fn sequences_side_by_side_are_sequences_one_by_one() {
    let device = device(2);
    let items = sequences(5, 3);
    // Without dropout, whose masks follow the rows.
    let mut lora = Case::lora().sgd();
    lora.recipe.lora.dropout = 0.0;
    for case in [lora, Case::full().sgd()] {
        let packed = [Batch::of(&items)];
        let alone: Vec<Batch> = items.iter().map(|item| Batch::of([item])).collect();
        assert_close(&case, &device, &packed, &alone, "packed and alone");
        let reversed = [Batch::of(items.iter().rev())];
        assert_close(&case, &device, &packed, &reversed, "packed in another order");
    }
}

#[test]
fn accumulating_two_batches_is_one_batch_of_both() {
    let device = device(2);
    let items = sequences(6, 4);
    // With dropout: a row has the same mask in both.
    for case in [Case::lora().sgd(), Case::full().sgd()] {
        let both = [Batch::of(&items)];
        // Unequal parts: a mean of two means would be wrong.
        let two = [Batch::of(&items[..2]), Batch::of(&items[2..])];
        assert_ne!(two[0].loss_tokens(), two[1].loss_tokens());
        assert_close(&case, &device, &both, &two, "accumulated");
    }
}

#[test]
fn a_batch_in_parts_is_the_batch_whole() {
    let device = device(2);
    let items = sequences(6, 4);
    for case in [Case::lora().sgd(), Case::full().sgd()] {
        let batch = [Batch::of(&items)];
        let whole = gradients(&mut case.trainer(&device), &batch);
        for tokens in [1, MAX_LENGTH + 3, 10 * MAX_LENGTH] {
            let mut trainer = case.trainer(&device);
            trainer.set_micro_batch(tokens);
            close(&whole, &gradients(&mut trainer, &batch), &format!("{}, parts of {tokens} tokens", case.name));
        }
    }
}

#[test]
fn dropout_matters_and_follows_the_seed() {
    let device = device(1);
    let mut others = [Case::lora(), Case::lora()];
    others[0].recipe.lora.dropout = 0.0;
    others[1].recipe.seed += 1;
    let want = left(&Case::lora(), &device);
    for other in others {
        assert!(left(&other, &device).params != want.params);
    }
}

/// A weight that is not a number is met only where its token is: the error names that step and that example, and every
/// checkpoint is from before it.
#[test]
fn a_weight_that_is_not_a_number_is_named_and_never_saved() {
    let device = device(2);
    let mut case = Case::lora();
    case.recipe.save_every = 1;
    let rare = VOCABULARY - 1;
    let mut items = sequences(9, 5);
    items[6].ids[1] = rare;
    let settings =
        Settings { seed: 0, batch_size: 1, max_length: MAX_LENGTH, packing: false, shuffle: false, weights: vec![] };
    let dir = run_dir();
    let stop = AtomicBool::new(false);
    let attempt = |resume: bool| {
        let mut trainer = case.trainer(&device);
        let embedding = trainer.model.params.ids().find(|&p| trainer.model.params[p].name.contains("embed")).unwrap();
        let width = trainer.model.params.weight(embedding).shape().1;
        trainer.model.make_dense(&device, Elem::F32);
        let Weight::Dense(table) = &mut trainer.model.params[embedding].weight else { panic!("it is dense now") };
        table.f32_mut()[rare as usize * width + 3] = f32::NAN;
        let batches = Batches::new(items.clone(), settings.clone()).unwrap();
        let (recipe, vfs, recipe_hashes) = (&case.recipe, &Disk, vec![HASH.to_string()]);
        let mut run = Run {
            recipe,
            trainer,
            batches,
            valid: Vec::<Tokenized>::new(),
            dir: dir.path(),
            vfs,
            recipe_hashes,
            stop: &stop,
        };
        run.train(resume, &mut |_| {}).unwrap_err()
    };
    // Once more from the checkpoint: the same step fails again, and nothing was lost.
    for resume in [false, true] {
        let TrainError::NonFinite(error) = attempt(resume) else { panic!("another error") };
        assert_eq!((error.step, error.examples.as_slice()), (7, &[6][..]), "{error}");
        assert!(error.to_string().contains("step 7") && error.to_string().contains("[6]"), "{error}");
        assert_eq!(checkpoint::steps(&Disk, dir.path()).unwrap(), [5, 6]);
        let loaded = checkpoint::load_latest(&Disk, dir.path()).unwrap().unwrap();
        let bytes = loaded.blob(&Disk, "params.safetensors").unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, tensor) in file.tensors() {
            let finite = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap()).is_finite();
            assert!(tensor.data().chunks_exact(4).all(finite), "{name}");
        }
    }
}
