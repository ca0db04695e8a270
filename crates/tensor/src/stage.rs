//! [`Stage`]: forward and backward over a range of segments, each with its policy: keep the tape, or keep the input list and
//! record again.

use std::ops::Range;

use crate::device::Device;
use crate::graph::{Graph, Mode, Random, Var};
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

/// What a segment keeps for its backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Everything that the backward rules read.
    Keep,
    /// Its inputs only; the forward pass is run again (Chen et al. 2016).
    Recompute,
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
}

/// A forward pass that waits for its backward pass.
pub struct Pass {
    kept: Vec<Kept>,
    pub outputs: Vec<Tensor>,
}

enum Kept {
    Tape(Tape),
    Inputs(Vec<(Tensor, bool)>),
}

impl Stage<'_> {
    /// Runs the segments on `inputs` (with whether each needs a gradient). Fails where streamed weights cannot be read.
    pub fn forward(
        &self,
        device: &Device,
        params: &Params,
        rows: &Rows,
        inputs: Vec<(Tensor, bool)>,
    ) -> Result<Pass, ReadError> {
        let mut values = inputs;
        let mut kept = Vec::with_capacity(self.range.len());
        for segment in self.range.clone() {
            params.enter(segment, self.after(segment))?;
            let keep = self.policies[segment] == Policy::Keep;
            let mode = if keep { Mode::Record } else { Mode::Infer { int8: false } };
            let held = (!keep).then(|| values.clone());
            let (outputs, needs, tape) = self.record(device, params, rows, segment, values, mode);
            kept.push(match held {
                Some(inputs) => Kept::Inputs(inputs),
                None => Kept::Tape(tape),
            });
            values = outputs.into_iter().zip(needs).collect();
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
            let tape = match pass.kept.pop().expect("one entry per segment") {
                Kept::Tape(tape) => tape,
                Kept::Inputs(inputs) => self.record(device, params, rows, segment, inputs, Mode::Record).2,
            };
            grads = tape.backward(device, params, sink, grads);
            sink.segment_done(segment, params);
            if grads.iter().all(Option::is_none) {
                break;
            }
        }
        Ok(grads)
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
