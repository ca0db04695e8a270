//! The choice: which blocks keep their activations under a memory limit, and what the run will then cost. Nothing here is
//! estimated that the dry run can count.

use ounce_spec::Plan;
use ounce_spec::plan::{MemoryForecast, TimeForecast};
use ounce_spec::recipe::Activations;
use ounce_tensor::{Kernel, Purpose, Rehearsal};

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

/// Chooses with as few dry runs as a search by halves needs. `rehearse(keep)` runs the step with these blocks keeping their
/// activations.
pub fn choose(
    facts: &Facts,
    calibration: &Calibration,
    rehearse: &mut dyn FnMut(&[bool]) -> Rehearsal,
) -> Result<Plan, DoesNotFit> {
    // Early blocks are recomputed when everything after them has been let go: they are the ones to give up first.
    let keep = |recomputed: usize| -> Vec<bool> { (0..facts.blocks).map(|i| i >= recomputed).collect() };
    let mut plan = |recomputed: usize| forecast(facts, calibration, keep(recomputed), rehearse);
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
    rehearse: &mut dyn FnMut(&[bool]) -> Rehearsal,
) -> Plan {
    let Rehearsal { memory, counter } = rehearse(&keep);
    let at_peak = |purpose: Purpose| memory.at_peak_bytes[purpose as usize];
    // What the arena caches beyond its peak is workspace too.
    let cached = memory.peak_reserved_bytes.saturating_sub(memory.peak_bytes);
    let mut m = MemoryForecast {
        weights_bytes: facts.mapped_bytes + at_peak(Purpose::Weights),
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
    };
    let mut reasons = Vec::new();
    if let Some(rate) = [Kernel::MatmulBf16, Kernel::MatmulF32].into_iter().find_map(|k| calibration.rate(k)) {
        reasons.push(format!("this machine multiplies the model's matrices at {:.0} GFLOP/s", rate / 1e9));
    }
    Plan { keep, memory: m, time, reasons }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ounce_tensor::{Counter, MemoryUse};

    fn facts(activations: Activations, limit_bytes: usize) -> Facts {
        Facts {
            blocks: 10,
            activations,
            limit_bytes,
            program_bytes: 5,
            mapped_bytes: 20,
            optimizer_bytes: 4,
            scratch_bytes: 1,
            rehearsed: 1,
            batches: 6,
            steps: 3,
            tokens: 60,
        }
    }

    /// Ten bytes for every block that keeps.
    fn rehearse(keep: &[bool]) -> Rehearsal {
        let mut memory = MemoryUse::default();
        memory.at_peak_bytes[Purpose::Activations as usize] = 10 * keep.iter().filter(|k| **k).count();
        memory.peak_bytes = memory.at_peak_bytes.iter().sum();
        Rehearsal { memory, counter: Counter::default() }
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
