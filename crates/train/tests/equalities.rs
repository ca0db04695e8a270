//! Ways to compute the same step that must not differ: in bits where only the schedule of the work differs, within f32
//! rounding where sums are grouped in another way. And a step that cannot be computed is refused by name.

use std::sync::atomic::AtomicBool;

use ounce_data::{Batch, Batches, Settings, Tokenized};
use ounce_spec::recipe::StateType;
use ounce_tensor::{Device, Weight};
use ounce_train::checkpoint;
use ounce_train::vfs::Disk;
use ounce_train::{Run, TrainError, Trainer};
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
        Case::full().state(StateType::Block8, "full, 8-bit moments"),
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
        let recomputing = Case { recompute: true, ..case.clone() };
        left(&recomputing, &device).assert_equal(&left(&case, &device), case.name);
    }
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
        trainer.model.make_dense(&device);
        let Weight::Dense(table) = &mut trainer.model.params[embedding].weight else { panic!("it is dense now") };
        table.f32_mut()[rare as usize * width + 3] = f32::NAN;
        let batches = Batches::new(items.clone(), settings.clone()).unwrap();
        let (recipe, vfs, recipe_hash) = (&case.recipe, &Disk, HASH.to_string());
        let mut run = Run {
            recipe,
            trainer,
            batches,
            valid: Vec::<Tokenized>::new(),
            dir: dir.path(),
            vfs,
            recipe_hash,
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
