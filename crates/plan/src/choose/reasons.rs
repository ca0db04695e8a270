//! Why a plan is as it is, in sentences.

use ounce_spec::Plan;
use ounce_spec::plan::{Policy, Residency, TimeForecast};
use ounce_tensor::Counter;

use super::forecast::Candidate;
use crate::calibrate::Calibration;

pub(super) fn gib(bytes: usize) -> String {
    format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64)
}

/// Why weights are streamed, and what of it is felt.
pub(super) fn streaming(
    time: &TimeForecast,
    mapped_bytes: usize,
    calibration: &Calibration,
    counter: &Counter,
) -> String {
    let felt = felt(calibration.disk_seconds(counter), calibration.work_seconds(counter));
    format!(
        "the weights ({}) are read from disk a block ahead: {:.2} GB per step{}, {felt}",
        gib(mapped_bytes),
        // What of activations was written comes back; the rest are weights.
        (time.step_read_bytes - time.step_write_bytes) / 1e9,
        rate(calibration.read_bytes_s)
    )
}

/// Why what is trained is on disk, and what of it is felt.
pub(super) fn tiered(time: &TimeForecast, disk_bytes: usize, calibration: &Calibration, counter: &Counter) -> String {
    let felt = felt(calibration.disk_seconds(counter), calibration.work_seconds(counter));
    format!(
        "trained weights and optimizer state ({}) are on disk, as they do not fit: per step {:.2} GB are read{} and {:.2} GB \
         written{}, {felt}",
        gib(disk_bytes),
        time.step_read_bytes / 1e9,
        rate(calibration.read_bytes_s),
        time.step_write_bytes / 1e9,
        rate(calibration.write_bytes_s)
    )
}

/// What of a plan's activations goes to disk, and what of it is felt.
pub(super) fn on_disk(found: &Candidate, calibration: &Calibration) -> Option<String> {
    let written = found.plan.time.step_write_bytes;
    if found.plan.weights == Residency::Tiered && found.plan.offloaded_bytes > 0 {
        // What moves has been told with the weights.
        return Some(format!("activations on disk take {} there", gib(found.plan.offloaded_bytes)));
    }
    (found.plan.offloaded_bytes > 0).then(|| {
        format!(
            "activations on disk take {} there: {:.2} GB per step are written{} and read{}, {}",
            gib(found.plan.offloaded_bytes),
            written / 1e9,
            rate(calibration.write_bytes_s),
            rate(calibration.read_bytes_s),
            felt(found.disk_s, found.work_s)
        )
    })
}

/// Which blocks do not keep their activations in memory.
pub(super) fn given_up(plan: &Plan) -> String {
    let blocks = plan.activations.len();
    let count = |policy: Policy| plan.activations.iter().filter(|p| **p == policy).count();
    let (again, away, inputs) = (count(Policy::Recompute), count(Policy::Offload), count(Policy::OffloadInputs));
    match (again, away, inputs) {
        (_, 0, 0) => format!("{again} of {blocks} blocks are computed twice, the fewest that fit into the limit"),
        (0, _, 0) => {
            format!("the activations of {away} of {blocks} blocks wait on disk, the fewest that fit into the limit")
        }
        (_, _, 0) => format!(
            "of {blocks} blocks {again} are computed twice and the activations of {away} wait on disk, so that neither the \
             processor nor the disk waits long for the other"
        ),
        _ => format!(
            "all {blocks} blocks are computed twice, {inputs} of them from inputs that wait on disk: no other way fits"
        ),
    }
}

/// What the other way would have cost.
pub(super) fn instead(plan: &Plan, other: &Plan) -> String {
    let used = other.activations.contains(&Policy::Offload);
    let what = if used { "activations on disk" } else { "no disk" };
    format!("; with {what} a step would take {:+.0} %", 100.0 * (other.time.step_s / plan.time.step_s - 1.0))
}

fn rate(bytes_s: f64) -> String {
    if bytes_s > 0.0 { format!(" at {:.2} GB/s", bytes_s / 1e9) } else { String::new() }
}

fn felt(disk_s: f64, work_s: f64) -> String {
    match disk_s <= work_s {
        true => "which the computation hides".to_owned(),
        false => format!("which takes {:.1} times as long as the computation", disk_s / work_s.max(1e-9)),
    }
}
