//! The search for the fastest plan that fits, with the weights in one place: how many blocks give up keeping their activations in
//! memory, and what they do instead. It dry-runs every plan that it compares.

use ounce_spec::Plan;
use ounce_spec::plan::{Policy, Residency};
use ounce_spec::recipe::Activations;

use super::forecast::{Candidate, forecast};
use super::{DoesNotFit, Facts, Rehearse, reasons};
use crate::calibrate::Calibration;

/// A disk is used where a step becomes shorter by at least this factor: less is not worth its wear.
const WORTH_THE_DISK: f64 = 0.95;

pub(super) struct Search<'a, 'b> {
    pub facts: &'a Facts,
    pub calibration: &'a Calibration,
    pub weights: Residency,
    pub rehearse: &'a mut Rehearse<'b>,
}

impl Search<'_, '_> {
    pub fn best(mut self) -> Result<Plan, DoesNotFit> {
        use Policy::{Keep, Offload, OffloadInputs, Recompute};
        let blocks = self.facts.blocks;
        let forced = match self.facts.activations {
            Activations::Keep => Some(Keep),
            Activations::Recompute => Some(Recompute),
            Activations::Offload => Some(Offload),
            Activations::Auto => None,
        };
        if let Some(policy) = forced {
            let found = self.plan(vec![policy; blocks]);
            return self.done(found, "the recipe says what becomes of activations".into());
        }
        let all = self.plan(vec![Keep; blocks]);
        if self.fits(&all) {
            return self.done(all, "all activations fit: nothing is computed twice".into());
        }
        let recomputed = self.fewest(&|n| first(blocks, n, Recompute, Keep));
        if self.facts.disk_free_bytes.is_none() {
            return match recomputed {
                Ok((_, found)) => {
                    let why = reasons::given_up(&found.plan);
                    self.done(found, why)
                }
                Err(least) => Err(DoesNotFit { plan: least.plan }),
            };
        }
        let offloaded = self.fewest(&|n| first(blocks, n, Offload, Keep));
        let mut on_disk = Vec::new();
        let mut least = None;
        match &recomputed {
            Ok(again) => {
                if let Ok(away) = &offloaded {
                    on_disk.extend(self.mixed(again, away));
                }
            }
            // Nothing takes less memory than one block's activations at a time, made from an input that comes from disk.
            Err(_) => match self.fewest(&|n| first(blocks, n, OffloadInputs, Recompute)) {
                Ok((_, found)) => on_disk.push(found),
                Err(found) => least = Some(found),
            },
        }
        on_disk.extend(offloaded.ok().map(|(_, found)| found));
        on_disk.retain(|found| self.fits(found) && self.has_room(found));
        let fastest = on_disk.into_iter().min_by(|a, b| a.plan.time.step_s.total_cmp(&b.plan.time.step_s));
        let (found, other) = match (recomputed, fastest) {
            (Ok((_, again)), Some(disk)) if disk.plan.time.step_s < WORTH_THE_DISK * again.plan.time.step_s => {
                (disk, Some(again))
            }
            (Ok((_, again)), disk) => (again, disk),
            (Err(_), Some(disk)) => (disk, None),
            (Err(again), None) => {
                return Err(DoesNotFit { plan: least.unwrap_or(again).plan });
            }
        };
        let mut why = reasons::given_up(&found.plan);
        if let Some(other) = other {
            why += &reasons::instead(&found.plan, &other.plan);
        }
        self.done(found, why)
    }

    fn plan(&mut self, activations: Vec<Policy>) -> Candidate {
        forecast(self.facts, self.calibration, activations, self.weights, self.rehearse)
    }

    fn fits(&self, found: &Candidate) -> bool {
        found.plan.memory.total_bytes <= self.facts.limit_bytes
    }

    fn has_room(&self, found: &Candidate) -> bool {
        self.facts.disk_free_bytes.is_some_and(|free| found.plan.offloaded_bytes as u64 <= free)
    }

    fn done(&self, found: Candidate, why: String) -> Result<Plan, DoesNotFit> {
        let fits = self.fits(&found);
        let on_disk = reasons::on_disk(&found, self.calibration);
        let mut plan = found.plan;
        plan.reasons.push(why);
        plan.reasons.extend(on_disk);
        if fits { Ok(*plan) } else { Err(DoesNotFit { plan }) }
    }

    /// The least `n` whose plan fits, where that of 0 does not; or the plan of all blocks, if not even that fits.
    fn fewest(&mut self, make: &dyn Fn(usize) -> Vec<Policy>) -> Result<(usize, Candidate), Candidate> {
        let (mut too_few, mut enough) = (0, self.facts.blocks);
        let mut found = self.plan(make(enough));
        if !self.fits(&found) {
            return Err(found);
        }
        while enough - too_few > 1 {
            let middle = (too_few + enough) / 2;
            let candidate = self.plan(make(middle));
            if self.fits(&candidate) {
                (enough, found) = (middle, candidate);
            } else {
                too_few = middle;
            }
        }
        Ok((enough, found))
    }

    /// Some blocks computed twice and some on disk, so that neither the processor nor the disk waits for the other. Blocks are
    /// alike, so two plans say where that is; the dry run then says what it costs.
    fn mixed(&mut self, again: &(usize, Candidate), away: &(usize, Candidate)) -> Option<Candidate> {
        let blocks = self.facts.blocks;
        let given_up = again.0.max(away.0);
        let work_each_s = (again.1.work_s - away.1.work_s) / again.0 as f64;
        let disk_each_s = (away.1.disk_s - again.1.disk_s) / away.0 as f64;
        let expected = |n: usize| {
            let work_s = away.1.work_s + (given_up - n) as f64 * work_each_s;
            work_s.max(again.1.disk_s + n as f64 * disk_each_s)
        };
        let on_disk = (1..given_up).min_by(|&a, &b| expected(a).total_cmp(&expected(b)))?;
        for given_up in given_up..=blocks.min(given_up + 2) {
            let mut mix = first(blocks, given_up, Policy::Offload, Policy::Keep);
            mix[..given_up - on_disk].fill(Policy::Recompute);
            let found = self.plan(mix);
            if self.fits(&found) {
                return Some(found);
            }
        }
        None
    }
}

/// Early blocks are walked back when everything after them has been let go: they are the ones to give up first.
fn first(blocks: usize, n: usize, given_up: Policy, rest: Policy) -> Vec<Policy> {
    (0..blocks).map(|i| if i < n { given_up } else { rest }).collect()
}
