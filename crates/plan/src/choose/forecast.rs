//! What one plan costs: the dry run's counts over the measured rates.

use ounce_spec::Plan;
use ounce_spec::plan::{MemoryForecast, Policy, Residency, TimeForecast};
use ounce_tensor::{Kernel, Purpose, Rehearsal};

use super::{Facts, Rehearse, reasons};
use crate::calibrate::Calibration;

/// A plan, and the two times of a step of which the longer is felt.
pub(super) struct Candidate {
    pub plan: Box<Plan>,
    pub work_s: f64,
    pub disk_s: f64,
}

/// What a run costs with these activations of each block and the weights there.
pub(super) fn forecast(
    facts: &Facts,
    calibration: &Calibration,
    activations: Vec<Policy>,
    weights: Residency,
    rehearse: &mut Rehearse,
) -> Candidate {
    let Rehearsal { memory, counter, offloaded_bytes } = rehearse(&activations, weights);
    let batches_per_step = facts.batches as f64 / facts.steps.max(1) as f64;
    // Each batch was rehearsed as a step, and a step over several of them updates once.
    let counter = counter.scaled(Kernel::Update, 1.0 / batches_per_step.max(1.0));
    let in_place_bytes = match weights {
        Residency::Mapped => facts.mapped_bytes,
        Residency::Streamed => facts.unstreamable_bytes.unwrap_or(0),
        Residency::Tiered => 0,
    };
    let tiered = facts.tiered.filter(|_| weights == Residency::Tiered);
    let optimizer_bytes = tiered.map_or(facts.optimizer_bytes, |tiered| tiered.optimizer_bytes);
    let at_peak = |purpose: Purpose| memory.at_peak_bytes[purpose as usize];
    // What the arena caches beyond its peak is workspace too.
    let cached = memory.peak_reserved_bytes.saturating_sub(memory.peak_bytes);
    let mut m = MemoryForecast {
        weights_bytes: in_place_bytes + at_peak(Purpose::Weights),
        adapters_bytes: at_peak(Purpose::Adapters),
        gradients_bytes: at_peak(Purpose::Gradients),
        optimizer_bytes: optimizer_bytes + at_peak(Purpose::Optimizer),
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
    let scale = per_batch * batches_per_step;
    let step_s = calibration.seconds(&counter) * scale;
    let total_s = step_s * facts.steps as f64;
    let time = TimeForecast {
        step_s,
        steps: facts.steps,
        total_s,
        tokens_per_s: if total_s > 0.0 { facts.tokens as f64 / total_s } else { 0.0 },
        step_flops: counter.total_flops() * scale,
        step_read_bytes: counter.read_bytes * scale,
        step_write_bytes: counter.write_bytes * scale,
    };
    let mut because = Vec::new();
    if let Some(rate) = [Kernel::MatmulBf16, Kernel::MatmulF32].into_iter().find_map(|k| calibration.rate(k)) {
        because.push(format!("this machine multiplies the model's matrices at {:.0} GFLOP/s", rate / 1e9));
    }
    if weights == Residency::Streamed {
        because.push(reasons::streaming(&time, facts.mapped_bytes, calibration, &counter));
    }
    if let Some(tiered) = tiered {
        because.push(reasons::tiered(&time, tiered.disk_bytes, calibration, &counter));
    }
    Candidate {
        plan: Box::new(Plan { activations, offloaded_bytes, weights, memory: m, time, reasons: because }),
        work_s: calibration.work_seconds(&counter) * scale,
        disk_s: calibration.disk_seconds(&counter) * scale,
    }
}
