//! The choice: what each block does with its activations under a memory limit, whether weights are streamed from their file, and
//! what the run will then cost. Nothing here is estimated that the dry run can count.

mod forecast;
mod reasons;
mod search;

use ounce_spec::Plan;
use ounce_spec::plan::{Policy, Residency};
use ounce_spec::recipe::Activations;
use ounce_tensor::Rehearsal;

use crate::calibrate::Calibration;
use reasons::gib;
use search::Search;

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
    /// Free on the disk that activations may be written to; `None`: they may not.
    pub disk_free_bytes: Option<u64>,
    pub optimizer_bytes: usize,
    /// Trained weights and their optimizer state, where they may be on disk.
    pub tiered: Option<Tiered>,
    /// Scratch that the kernels keep.
    pub scratch_bytes: usize,
    /// Batches in the rehearsal, and in the whole run.
    pub rehearsed: usize,
    pub batches: usize,
    /// Optimizer steps and tokens of the whole run.
    pub steps: usize,
    pub tokens: usize,
}

/// What is trained, on disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tiered {
    /// Room on disk.
    pub disk_bytes: usize,
    /// Optimizer state that stays in memory.
    pub optimizer_bytes: usize,
}

/// A run that cannot fit: the least it needs, by what it is for.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the run needs at least {} of memory, but only {} may be used", gib(plan.memory.total_bytes), gib(plan.memory.limit_bytes))]
pub struct DoesNotFit {
    /// The plan that needs least.
    pub plan: Box<Plan>,
}

/// Runs the step on the dry device with these activations of each block and the weights there.
pub type Rehearse<'a> = dyn FnMut(&[Policy], Residency) -> Rehearsal + 'a;

/// Chooses, with as few dry runs as searches by halves need. Activations in memory are given up first and mapped weights next;
/// where several ways fit, the one that is forecast to be fastest is taken. What is trained goes to disk only if nothing else
/// fits: every step writes all of it there.
pub fn choose(facts: &Facts, calibration: &Calibration, rehearse: &mut Rehearse) -> Result<Plan, DoesNotFit> {
    let mapped = Search { facts, calibration, weights: Residency::Mapped, rehearse }.best();
    let whole = matches!(&mapped, Ok(plan) if plan.activations.iter().all(|policy| *policy == Policy::Keep));
    if mapped.is_err() && facts.tiered.is_some() {
        return Search { facts, calibration, weights: Residency::Tiered, rehearse }.best();
    }
    if whole || facts.unstreamable_bytes.is_none() {
        return mapped;
    }
    let streamed = Search { facts, calibration, weights: Residency::Streamed, rehearse }.best();
    match (mapped, streamed) {
        (Ok(mapped), Ok(mut streamed)) if streamed.time.step_s < mapped.time.step_s => {
            streamed.reasons.push("streaming the weights costs less time here than giving up more activations".into());
            Ok(streamed)
        }
        (Ok(mapped), _) => Ok(mapped),
        // Two blocks at a time may be more than all of a small model.
        (Err(mapped), Err(streamed)) if mapped.plan.memory.total_bytes < streamed.plan.memory.total_bytes => {
            Err(mapped)
        }
        (Err(_), streamed) => streamed,
    }
}

#[cfg(test)]
mod tests;
