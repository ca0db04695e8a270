//! The choice: which blocks keep their activations under a memory limit, whether weights are streamed from their file, and what
//! the run will then cost. Nothing here is estimated that the dry run can count.

use ounce_spec::Plan;
use ounce_spec::plan::{MemoryForecast, Residency, TimeForecast};
use ounce_spec::recipe::Activations;
use ounce_tensor::{Counter, Kernel, Purpose, Rehearsal};

use crate::calibrate::Calibration;

/// What the choice is made from.
#[derive(Clone, Debug)]
pub struct Facts {
    pub blocks: usize,
    pub activations: Activations,
    /// Bytes that the process may use.
    pub limit_bytes: usize,
    /// Resident now: the program, its tokenizer and data.
    pub program_bytes: usize,
    /// Weights read in place from their file.
    pub mapped_bytes: usize,
    /// What of them stays in memory when the rest is streamed; `None`: they cannot be.
    pub unstreamable_bytes: Option<usize>,
    pub optimizer_bytes: usize,
    /// Scratch that the kernels keep.
    pub scratch_bytes: usize,
    /// Batches in the rehearsal, and in the whole run.
    pub rehearsed: usize,
    pub batches: usize,
    /// Optimizer steps and tokens of the whole run.
    pub steps: usize,
    pub tokens: usize,
}

/// A run that cannot fit: the least it needs, by what it is for.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the run needs at least {} of memory, but only {} may be used", gib(plan.memory.total_bytes), gib(plan.memory.limit_bytes))]
pub struct DoesNotFit {
    /// The plan that needs least.
    pub plan: Box<Plan>,
}

fn gib(bytes: usize) -> String {
    format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64)
}

/// Runs the step on the dry device with these blocks keeping their activations and the weights there.
pub type Rehearse<'a> = dyn FnMut(&[bool], Residency) -> Rehearsal + 'a;

/// Chooses, with as few dry runs as a search by halves needs. Kept activations are given up first and mapped weights next;
/// where both ways fit, the one that is forecast to be faster is taken.
pub fn choose(facts: &Facts, calibration: &Calibration, rehearse: &mut Rehearse) -> Result<Plan, DoesNotFit> {
    let mapped = with_weights(facts, calibration, Residency::Mapped, rehearse);
    let whole = matches!(&mapped, Ok(plan) if plan.keep.iter().all(|kept| *kept));
    if whole || facts.unstreamable_bytes.is_none() {
        return mapped;
    }
    let streamed = with_weights(facts, calibration, Residency::Streamed, rehearse);
    match (mapped, streamed) {
        (Ok(mapped), Ok(mut streamed)) if streamed.time.step_s < mapped.time.step_s => {
            streamed.reasons.push("streaming costs less time here than computing more activations twice".into());
            Ok(streamed)
        }
        (Ok(mapped), _) => Ok(mapped),
        (Err(_), streamed) => streamed,
    }
}

/// The plan that computes least twice, with the weights in one place.
fn with_weights(
    facts: &Facts,
    calibration: &Calibration,
    weights: Residency,
    rehearse: &mut Rehearse,
) -> Result<Plan, DoesNotFit> {
    // Early blocks are recomputed when everything after them has been let go: they are the ones to give up first.
    let keep = |recomputed: usize| -> Vec<bool> { (0..facts.blocks).map(|i| i >= recomputed).collect() };
    let mut plan = |recomputed: usize| forecast(facts, calibration, keep(recomputed), weights, rehearse);
    let fits = |plan: &Plan| plan.memory.total_bytes <= facts.limit_bytes;
    let forced = match facts.activations {
        Activations::Keep => Some(0),
        Activations::Recompute => Some(facts.blocks),
        Activations::Auto => None,
    };
    if let Some(recomputed) = forced {
        let mut chosen = plan(recomputed);
        chosen.reasons.push("the recipe says which activations are kept".into());
        return if fits(&chosen) { Ok(chosen) } else { Err(DoesNotFit { plan: Box::new(chosen) }) };
    }
    let mut chosen = plan(0);
    if fits(&chosen) {
        chosen.reasons.push("all activations fit: nothing is computed twice".into());
        return Ok(chosen);
    }
    let least = plan(facts.blocks);
    if !fits(&least) {
        return Err(DoesNotFit { plan: Box::new(least) });
    }
    let (mut too_few, mut enough, mut found) = (0, facts.blocks, least);
    while enough - too_few > 1 {
        let middle = (too_few + enough) / 2;
        let candidate = plan(middle);
        if fits(&candidate) {
            (enough, found) = (middle, candidate);
        } else {
            too_few = middle;
        }
    }
    let blocks = facts.blocks;
    found.reasons.push(format!("{enough} of {blocks} blocks are computed twice, the fewest that fit into the limit"));
    Ok(found)
}

fn forecast(
    facts: &Facts,
    calibration: &Calibration,
    keep: Vec<bool>,
    weights: Residency,
    rehearse: &mut Rehearse,
) -> Plan {
    let Rehearsal { memory, counter } = rehearse(&keep, weights);
    let in_place_bytes = match weights {
        Residency::Mapped => facts.mapped_bytes,
        Residency::Streamed => facts.unstreamable_bytes.unwrap_or(0),
    };
    let at_peak = |purpose: Purpose| memory.at_peak_bytes[purpose as usize];
    // What the arena caches beyond its peak is workspace too.
    let cached = memory.peak_reserved_bytes.saturating_sub(memory.peak_bytes);
    let mut m = MemoryForecast {
        weights_bytes: in_place_bytes + at_peak(Purpose::Weights),
        adapters_bytes: at_peak(Purpose::Adapters),
        gradients_bytes: at_peak(Purpose::Gradients),
        optimizer_bytes: facts.optimizer_bytes + at_peak(Purpose::Optimizer),
        activations_bytes: at_peak(Purpose::Activations),
        workspace_bytes: at_peak(Purpose::Workspace) + facts.scratch_bytes + cached,
        program_bytes: facts.program_bytes,
        total_bytes: 0,
        limit_bytes: facts.limit_bytes,
    };
    m.total_bytes = m.weights_bytes
        + m.adapters_bytes
        + m.gradients_bytes
        + m.optimizer_bytes
        + m.activations_bytes
        + m.workspace_bytes
        + m.program_bytes;
    let per_batch = 1.0 / facts.rehearsed.max(1) as f64;
    let batches_per_step = facts.batches as f64 / facts.steps.max(1) as f64;
    let step_s = calibration.seconds(&counter) * per_batch * batches_per_step;
    let total_s = step_s * facts.steps as f64;
    let time = TimeForecast {
        step_s,
        steps: facts.steps,
        total_s,
        tokens_per_s: if total_s > 0.0 { facts.tokens as f64 / total_s } else { 0.0 },
        step_flops: counter.total_flops() * per_batch * batches_per_step,
        step_read_bytes: counter.read_bytes * per_batch * batches_per_step,
    };
    let mut reasons = Vec::new();
    if let Some(rate) = [Kernel::MatmulBf16, Kernel::MatmulF32].into_iter().find_map(|k| calibration.rate(k)) {
        reasons.push(format!("this machine multiplies the model's matrices at {:.0} GFLOP/s", rate / 1e9));
    }
    if weights == Residency::Streamed {
        reasons.push(streaming(&time, facts.mapped_bytes, calibration, &counter));
    }
    Plan { keep, weights, memory: m, time, reasons }
}

/// Why weights are streamed, and what of it is felt.
fn streaming(time: &TimeForecast, mapped_bytes: usize, calibration: &Calibration, counter: &Counter) -> String {
    let (read, work) = (calibration.read_seconds(counter), calibration.work_seconds(counter));
    let rate = match calibration.read_bytes_s {
        rate if rate > 0.0 => format!(" at {:.2} GB/s", rate / 1e9),
        _ => String::new(),
    };
    let felt = match read <= work {
        true => "which the computation hides".to_owned(),
        false => format!("which takes {:.1} times as long as the computation", read / work.max(1e-9)),
    };
    format!(
        "the weights ({}) are read from disk a block ahead: {:.2} GB per step{rate}, {felt}",
        gib(mapped_bytes),
        time.step_read_bytes / 1e9
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use ounce_tensor::MemoryUse;

    fn facts(activations: Activations, limit_bytes: usize) -> Facts {
        Facts {
            blocks: 10,
            activations,
            limit_bytes,
            program_bytes: 5,
            mapped_bytes: 20,
            unstreamable_bytes: None,
            optimizer_bytes: 4,
            scratch_bytes: 1,
            rehearsed: 1,
            batches: 6,
            steps: 3,
            tokens: 60,
        }
    }

    /// Ten bytes for every block that keeps, four for streamed weights; one byte of reading and the work of the recomputed.
    fn rehearse(keep: &[bool], weights: Residency) -> Rehearsal {
        let mut memory = MemoryUse::default();
        let kept = keep.iter().filter(|k| **k).count();
        memory.at_peak_bytes[Purpose::Activations as usize] = 10 * kept;
        let mut counter = Counter::default();
        counter.bytes[Kernel::Elementwise as usize] = (20 + keep.len() - kept) as f64;
        if weights == Residency::Streamed {
            memory.at_peak_bytes[Purpose::Weights as usize] = 4;
            counter.read_bytes = 1.0;
        }
        memory.peak_bytes = memory.at_peak_bytes.iter().sum();
        Rehearsal { memory, counter }
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
            choose(&facts, &calibration(read_s), &mut rehearse).map(|plan| {
                let kept = plan.keep.iter().filter(|k| **k).count();
                (plan.weights, kept, plan.memory.total_bytes, plan.time.step_s)
            })
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
        for (limit, kept) in [(1000, 10), (130, 10), (129, 9), (71, 4), (30, 0)] {
            let plan = choose(&facts(Activations::Auto, limit), &Calibration::default(), &mut rehearse).unwrap();
            assert_eq!(plan.keep.iter().filter(|k| **k).count(), kept, "limit {limit}");
            assert!(plan.memory.total_bytes <= limit);
        }
    }

    #[test]
    fn what_cannot_fit_is_refused_with_the_least_it_needs() {
        let refused = choose(&facts(Activations::Auto, 29), &Calibration::default(), &mut rehearse).unwrap_err();
        assert_eq!(refused.plan.memory.total_bytes, 30);
        let kept = choose(&facts(Activations::Keep, 100), &Calibration::default(), &mut rehearse).unwrap_err();
        assert_eq!(kept.plan.memory.total_bytes, 130);
    }

    #[test]
    fn early_blocks_are_given_up_first() {
        let plan = choose(&facts(Activations::Auto, 100), &Calibration::default(), &mut rehearse).unwrap();
        assert_eq!(plan.keep, [false, false, false, true, true, true, true, true, true, true]);
    }
}
