//! Choices over a model of ten blocks that can be reckoned in one's head.

use super::*;
use ounce_tensor::{Counter, Kernel, MemoryUse, Purpose};

fn facts(activations: Activations, limit_bytes: usize) -> Facts {
    Facts {
        blocks: 10,
        activations,
        limit_bytes,
        program_bytes: 5,
        mapped_bytes: 20,
        unstreamable_bytes: None,
        disk_free_bytes: None,
        optimizer_bytes: 4,
        tiered: None,
        scratch_bytes: 1,
        rehearsed: 1,
        batches: 6,
        steps: 3,
        tokens: 60,
    }
}

/// Ten bytes for every block that keeps, `input_bytes` for one that recomputes, two for what is on its way to or from disk, four
/// for streamed weights; the work of the recomputed; a byte of reading for weights, four each way for a block's activations on
/// disk, one for its inputs.
fn rehearse_with(input_bytes: usize, activations: &[Policy], weights: Residency) -> Rehearsal {
    let count = |policy: Policy| activations.iter().filter(|p| **p == policy).count();
    let (again, away, inputs) = (count(Policy::Recompute), count(Policy::Offload), count(Policy::OffloadInputs));
    let mut memory = MemoryUse::default();
    memory.at_peak_bytes[Purpose::Activations as usize] =
        10 * count(Policy::Keep) + input_bytes * again + 2 * away.min(1);
    let mut counter = Counter::default();
    counter.bytes[Kernel::Elementwise as usize] = (20 + again + inputs) as f64;
    let offloaded_bytes = 4 * away + inputs;
    (counter.write_bytes, counter.read_bytes) = (offloaded_bytes as f64, offloaded_bytes as f64);
    if weights == Residency::Streamed {
        memory.at_peak_bytes[Purpose::Weights as usize] = 4;
        counter.read_bytes += 1.0;
    }
    memory.peak_bytes = memory.at_peak_bytes.iter().sum();
    Rehearsal { memory, counter, offloaded_bytes }
}

fn rehearse(activations: &[Policy], weights: Residency) -> Rehearsal {
    rehearse_with(0, activations, weights)
}

fn kept(plan: &Plan) -> usize {
    plan.activations.iter().filter(|policy| **policy == Policy::Keep).count()
}

/// One second for each byte of work, `read_s` for one of reading.
fn calibration(read_s: f64) -> Calibration {
    let mut found = Calibration::with_rate(Kernel::Elementwise, 1.0);
    found.read_bytes_s = 1.0 / read_s;
    found
}

#[test]
fn weights_are_streamed_where_that_is_faster_or_the_only_way() {
    let chosen = |limit: usize, read_s: f64| {
        let facts = Facts { unstreamable_bytes: Some(1), ..facts(Activations::Auto, limit) };
        choose(&facts, &calibration(read_s), &mut rehearse)
            .map(|plan| (plan.weights, kept(&plan), plan.memory.total_bytes, plan.time.step_s))
    };
    use Residency::{Mapped, Streamed};
    // Two batches a step. Everything fits mapped; a fast disk; a slow one; too little for mapped weights; for any.
    assert_eq!(chosen(130, 1.0).unwrap(), (Mapped, 10, 130, 40.0));
    assert_eq!(chosen(129, 1.0).unwrap(), (Streamed, 10, 115, 40.0));
    assert_eq!(chosen(129, 30.0).unwrap(), (Mapped, 9, 120, 42.0));
    assert_eq!(chosen(29, 32.0).unwrap(), (Streamed, 1, 25, 64.0));
    assert_eq!(chosen(14, 1.0).unwrap_err().plan.memory.total_bytes, 15);
}

#[test]
fn a_step_over_two_batches_updates_once() {
    let calibration = Calibration::with_rate(Kernel::Update, 1.0);
    let mut updating = |activations: &[Policy], weights| {
        let mut rehearsal = rehearse(activations, weights);
        rehearsal.counter.bytes[Kernel::Update as usize] = 8.0;
        rehearsal
    };
    let plan = choose(&facts(Activations::Keep, 1000), &calibration, &mut updating).unwrap();
    assert_eq!(plan.time.step_s, 8.0);
}

#[test]
fn a_streamed_plan_says_what_is_read() {
    let facts = Facts { unstreamable_bytes: Some(1), ..facts(Activations::Auto, 29) };
    let plan = choose(&facts, &calibration(1.0), &mut rehearse).unwrap();
    assert!(plan.reasons.iter().any(|r| r.contains("read from disk") && r.contains("hides")), "{:?}", plan.reasons);
    let plan = choose(&facts, &calibration(290.0), &mut rehearse).unwrap();
    assert!(plan.reasons.iter().any(|r| r.contains("10.0 times as long")), "{:?}", plan.reasons);
    assert_eq!(plan.time.step_read_bytes, 2.0);
}

#[test]
fn as_many_blocks_keep_their_activations_as_fit() {
    for (limit, want) in [(1000, 10), (130, 10), (129, 9), (71, 4), (30, 0)] {
        let plan = choose(&facts(Activations::Auto, limit), &Calibration::default(), &mut rehearse).unwrap();
        assert_eq!(kept(&plan), want, "limit {limit}");
        assert!(plan.memory.total_bytes <= limit);
    }
}

#[test]
fn what_cannot_fit_is_refused_with_the_least_it_needs() {
    let refused = choose(&facts(Activations::Auto, 29), &Calibration::default(), &mut rehearse).unwrap_err();
    assert_eq!(refused.plan.memory.total_bytes, 30);
    let keeping = choose(&facts(Activations::Keep, 100), &Calibration::default(), &mut rehearse).unwrap_err();
    assert_eq!(keeping.plan.memory.total_bytes, 130);
}

#[test]
fn early_blocks_are_given_up_first() {
    let plan = choose(&facts(Activations::Auto, 100), &Calibration::default(), &mut rehearse).unwrap();
    assert_eq!(plan.activations, [vec![Policy::Recompute; 3], vec![Policy::Keep; 7]].concat());
}

/// With a disk of so many bytes a second each way, and so many free. A list of inputs takes a byte.
fn beside_a_disk(limit: usize, bytes_s: f64, free: u64) -> Result<Plan, DoesNotFit> {
    let facts = Facts { disk_free_bytes: Some(free), ..facts(Activations::Auto, limit) };
    let mut calibration = calibration(1.0 / bytes_s);
    calibration.write_bytes_s = bytes_s;
    choose(&facts, &calibration, &mut |activations, weights| rehearse_with(1, activations, weights))
}

#[test]
fn activations_go_to_disk_as_far_as_that_is_faster() {
    use Policy::{Keep, Offload, OffloadInputs, Recompute};
    let chosen = |limit, bytes_s, free| {
        let plan = beside_a_disk(limit, bytes_s, free).unwrap();
        assert!(plan.memory.total_bytes <= limit && plan.offloaded_bytes as u64 <= free);
        (plan.activations, plan.time.step_s)
    };
    // Everything fits; a fast disk hides behind the work; a slower one for two blocks of six; a slow one is not worth its wear.
    assert_eq!(chosen(130, 10.0, 1000), (vec![Keep; 10], 40.0));
    assert_eq!(chosen(82, 10.0, 1000), ([vec![Offload; 5], vec![Keep; 5]].concat(), 40.0));
    let mix = [vec![Recompute; 4], vec![Offload; 2], vec![Keep; 4]].concat();
    assert_eq!(chosen(82, 1.0, 1000), (mix, 48.0));
    assert_eq!(chosen(82, 0.5, 1000), ([vec![Recompute; 6], vec![Keep; 4]].concat(), 52.0));
    // The inputs of all blocks do not fit; nor does everything fit on the disk.
    assert_eq!(chosen(38, 10.0, 1000), (vec![Offload; 10], 40.0));
    let inputs = [vec![OffloadInputs; 2], vec![Recompute; 8]].concat();
    assert_eq!(chosen(38, 1.0, 1000), (inputs.clone(), 60.0));
    assert_eq!(chosen(38, 10.0, 39), (inputs, 60.0));
    assert_eq!(beside_a_disk(29, 10.0, 1000).unwrap_err().plan.memory.total_bytes, 30);
    // Ten bytes of inputs are one too many for this disk.
    assert_eq!(beside_a_disk(30, 10.0, 9).unwrap_err().plan.memory.total_bytes, 40);
}

#[test]
fn a_plan_says_what_goes_to_disk_and_what_another_would_cost() {
    let said = |bytes_s: f64| beside_a_disk(82, bytes_s, 1000).unwrap().reasons.join("\n");
    assert!(said(10.0).contains("5 of 10 blocks wait on disk") && said(10.0).contains("hides"), "{}", said(10.0));
    assert!(said(10.0).contains("with no disk a step would take +30 %"), "{}", said(10.0));
    assert!(said(1.0).contains("4 are computed twice and the activations of 2 wait on disk"), "{}", said(1.0));
    assert!(said(0.5).contains("with activations on disk a step would take -4 %"), "{}", said(0.5));
    let forced = Facts { disk_free_bytes: Some(1000), ..facts(Activations::Offload, 40) };
    let plan = choose(&forced, &calibration(1.0), &mut rehearse).unwrap();
    assert_eq!((plan.activations.clone(), plan.offloaded_bytes), (vec![Policy::Offload; 10], 40));
    assert_eq!((plan.time.step_write_bytes, plan.time.step_read_bytes), (80.0, 80.0));
}

/// Ten bytes of memory for every weight that is trained, or two on disk.
#[test]
fn what_is_trained_goes_to_disk_only_if_nothing_else_fits() {
    let mut trained = |activations: &[Policy], weights: Residency| {
        let mut found = rehearse(activations, Residency::Mapped);
        let on_disk = weights == Residency::Tiered;
        found.memory.at_peak_bytes[Purpose::Weights as usize] = if on_disk { 2 } else { 10 };
        if on_disk {
            (found.counter.read_bytes, found.counter.write_bytes) = (300.0, 200.0);
        }
        found
    };
    let tiered = Some(Tiered { disk_bytes: 3 << 30, optimizer_bytes: 1 });
    let mut chosen = |limit: usize, tiered: Option<Tiered>| {
        let facts = Facts { mapped_bytes: 0, tiered, ..facts(Activations::Auto, limit) };
        let mut calibration = calibration(1.0);
        calibration.write_bytes_s = 0.5;
        choose(&facts, &calibration, &mut trained)
    };
    // 5 of the program, 1 of kernels, 4 of the optimizer, 10 of weights: 20 with all blocks computed twice.
    assert_eq!(chosen(20, tiered).unwrap().weights, Residency::Mapped);
    let plan = chosen(19, tiered).unwrap();
    assert_eq!((plan.weights, plan.memory.total_bytes, kept(&plan)), (Residency::Tiered, 19, 1));
    // Two batches a step, 300 bytes at one a second and 200 at half of one.
    assert_eq!(plan.time.step_s, 2.0 * 700.0);
    let reasons = plan.reasons.join("; ");
    assert!(reasons.contains("(3.00 GiB) are on disk") && reasons.contains("times as long"), "{reasons}");
    assert_eq!(chosen(8, tiered).unwrap_err().plan.memory.total_bytes, 9);
    assert_eq!(chosen(19, None).unwrap_err().plan.memory.total_bytes, 20);
}
