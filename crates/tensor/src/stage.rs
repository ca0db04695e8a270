//! [`Stage`]: forward and backward over a range of segments, each with its policy: keep the tape, or keep the input list and
//! record again; and keep it in memory, or outside.

use std::ops::Range;
use std::sync::Arc;

use ounce_spec::plan::Policy;

use crate::device::Device;
use crate::graph::{Graph, Mode, Random, Var};
use crate::offload::{Offload, Stash, Value};
use crate::params::Params;
use crate::rows::Rows;
use crate::sink::GradSink;
use crate::stream::ReadError;
use crate::tape::Tape;
use crate::tensor::Tensor;

/// A model as the tape sees it: a row of segments, each a function of the list of values before it.
pub trait Segments {
    fn count(&self) -> usize;
    /// Runs `segment` on `inputs` (none for segment 0).
    fn forward(&self, g: &mut Graph, segment: usize, inputs: &[Var], rows: &Rows) -> Vec<Var>;
}

/// A range of segments to run.
pub struct Stage<'a> {
    pub model: &'a dyn Segments,
    pub range: Range<usize>,
    /// One entry per segment of the model.
    pub policies: &'a [Policy],
    /// Which parameters are trained.
    pub wanted: &'a [bool],
    pub random: Option<Random>,
    /// Where policies that offload bring values.
    pub offload: Option<&'a Offload>,
}

/// A forward pass that waits for its backward pass.
pub struct Pass {
    kept: Vec<Kept>,
    pub outputs: Vec<Tensor>,
}

/// What a segment left; what of it is outside memory.
struct Kept {
    left: Left,
    away: Option<Stash>,
}

enum Left {
    Tape(Tape),
    Inputs(Vec<(Option<Tensor>, bool)>),
}

impl Stage<'_> {
    /// Runs the segments on `inputs` (with whether each needs a gradient). Where nothing is trained, nothing is left for a
    /// backward pass but what [`Policy::Keep`] says. Fails where streamed weights cannot be read or values not be written.
    pub fn forward(
        &self,
        device: &Device,
        params: &Params,
        rows: &Rows,
        inputs: Vec<(Tensor, bool)>,
    ) -> Result<Pass, ReadError> {
        let mut values = inputs;
        let mut kept = Vec::with_capacity(self.range.len());
        let mut leaving: Vec<Arc<Value>> = Vec::new();
        for segment in self.range.clone() {
            params.enter(segment, self.after(segment))?;
            let policy = self.policy(segment);
            let again = self.runs_again(segment, policy);
            let mode = match policy {
                _ if again => Mode::Forward,
                Policy::Recompute => Mode::RecordLean,
                _ => Mode::Record,
            };
            let held = |(tensor, needs): &(Tensor, bool)| (Some(tensor.clone()), *needs);
            let mut inputs = Vec::new();
            if again && !self.wanted.is_empty() {
                inputs = values.iter().map(held).collect();
            }
            let mut away = None;
            if policy == Policy::OffloadInputs {
                away = Some(self.offload().stash(inputs.iter_mut().map(|input| &mut input.0), &mut leaving));
            }
            let (outputs, needs, mut tape) = self.record(device, params, rows, segment, values, mode);
            values = outputs.into_iter().zip(needs).collect();
            // These were written while the segment ran.
            let written = leaving.len();
            if policy == Policy::Offload {
                away = Some(self.offload().stash(tape.values(), &mut leaving));
            }
            let left = if again { Left::Inputs(inputs) } else { Left::Tape(tape) };
            kept.push(Kept { left, away });
            if let Some(offload) = self.offload {
                offload.let_go(leaving.drain(..written))?;
            }
        }
        Ok(Pass { kept, outputs: values.into_iter().map(|v| v.0).collect() })
    }

    /// Walks back from the gradients of the last segment's outputs; returns those of the first segment's inputs.
    pub fn backward(
        &self,
        device: &Device,
        params: &mut Params,
        sink: &mut dyn GradSink,
        rows: &Rows,
        mut pass: Pass,
        mut grads: Vec<Option<Tensor>>,
    ) -> Result<Vec<Option<Tensor>>, ReadError> {
        pass.outputs.clear();
        for segment in self.range.clone().rev() {
            params.enter(segment, segment.checked_sub(1).filter(|s| self.range.contains(s)))?;
            let kept = pass.kept.pop().expect("one entry per segment");
            // What this segment waits for comes first, what the next one will need while this one is walked back.
            for stash in [&kept].into_iter().chain(pass.kept.last()).filter_map(|kept| kept.away.as_ref()) {
                self.offload().ask(stash);
            }
            let tape = match self.back(kept)? {
                Left::Tape(tape) => tape,
                Left::Inputs(inputs) => {
                    let here = |(tensor, needs): (Option<Tensor>, bool)| (tensor.expect("brought back"), needs);
                    let inputs = inputs.into_iter().map(here).collect();
                    self.record(device, params, rows, segment, inputs, Mode::Record).2
                }
            };
            grads = tape.backward(device, params, sink, grads);
            sink.segment_done(segment, params);
            if grads.iter().all(Option::is_none) {
                break;
            }
        }
        Ok(grads)
    }

    /// What a segment left, all of it in memory.
    fn back(&self, mut kept: Kept) -> Result<Left, ReadError> {
        if let Some(stash) = kept.away.take() {
            match &mut kept.left {
                Left::Tape(tape) => self.offload().bring(stash, tape.values())?,
                Left::Inputs(inputs) => self.offload().bring(stash, inputs.iter_mut().map(|input| &mut input.0))?,
            }
        }
        Ok(kept.left)
    }

    /// The last two segments are walked back at once, while a value would still be on its way out.
    fn policy(&self, segment: usize) -> Policy {
        match self.policies[segment] {
            policy if segment + 2 < self.range.end => policy,
            Policy::Keep | Policy::Offload => Policy::Keep,
            Policy::Recompute | Policy::OffloadInputs => Policy::Recompute,
        }
    }

    /// Whether the forward pass of `segment` is run again. The last one is walked back at once, so that its tape would come
    /// back before anything is let go: there, only what its ops can make again is left out.
    fn runs_again(&self, segment: usize, policy: Policy) -> bool {
        let walked_back_at_once = segment + 1 == self.range.end && !self.wanted.is_empty();
        matches!(policy, Policy::Recompute | Policy::OffloadInputs) && !walked_back_at_once
    }

    fn offload(&self) -> &Offload {
        self.offload.expect("a stage whose policies offload has somewhere to bring values")
    }

    /// What follows `segment` on the way up: the turn at the last one leads back, where a gradient is wanted.
    fn after(&self, segment: usize) -> Option<usize> {
        let up = Some(segment + 1).filter(|s| self.range.contains(s));
        let back = || segment.checked_sub(1).filter(|s| !self.wanted.is_empty() && self.range.contains(s));
        up.or_else(back)
    }

    fn record(
        &self,
        device: &Device,
        params: &Params,
        rows: &Rows,
        segment: usize,
        inputs: Vec<(Tensor, bool)>,
        mode: Mode,
    ) -> (Vec<Tensor>, Vec<bool>, Tape) {
        let mut graph = Graph::new(device, params, self.wanted, mode, self.random, segment);
        let vars: Vec<Var> = inputs.into_iter().map(|(t, needs)| graph.input(t, needs)).collect();
        let outputs = self.model.forward(&mut graph, segment, &vars, rows);
        graph.finish(&outputs)
    }
}
