//! [`Tape`]: what a segment's forward pass left behind, and the walk back over it.
//!
//! Only what some backward rule reads is kept. A value that is cheap to make again from others that are kept (a norm, a
//! gated activation) is dropped and rebuilt when it is asked for.

use crate::device::Device;
use crate::graph::{Context, Mode, Slot, Var};
use crate::ops::{Op, Rule};
use crate::params::{ParamId, Params};
use crate::sink::GradSink;
use crate::tensor::{Elem, Tensor};
use crate::{Cost, Purpose};

pub(crate) struct Node {
    pub op: Op,
    pub outputs: Vec<Var>,
    pub needs_grad: bool,
}

pub struct Tape {
    slots: Vec<Slot>,
    nodes: Vec<Option<Node>>,
    inputs: Vec<Var>,
    outputs: Vec<Var>,
}

impl Tape {
    pub(crate) fn new(
        mut slots: Vec<Slot>,
        nodes: Vec<Option<Node>>,
        inputs: Vec<Var>,
        outputs: Vec<Var>,
        wanted: &[bool],
    ) -> Tape {
        let question = Question { wanted };
        let mut read = vec![false; slots.len()];
        for node in nodes.iter().flatten().filter(|n| n.needs_grad) {
            for v in node.op.reads(&question, &node.outputs) {
                read[v.0] = true;
            }
        }
        // Later values first: what a dropped value is rebuilt from must be kept itself.
        let mut keep = read;
        for v in (0..slots.len()).rev() {
            if !keep[v] {
                continue;
            }
            let Some((n, output)) = slots[v].made_by else { continue };
            let node = nodes[n].as_ref().expect("kept values exist only when recording");
            if let Some(sources) = node.op.rebuilt_from(output, &node.outputs)
                && sources.iter().all(|s| slots[s.0].tensor.is_some())
            {
                keep[v] = false;
                for s in sources {
                    keep[s.0] = true;
                }
            }
        }
        for (slot, keep) in slots.iter_mut().zip(&keep) {
            if !keep {
                slot.tensor = None;
            }
        }
        Tape { slots, nodes, inputs, outputs }
    }

    /// Where it holds its values.
    pub(crate) fn values(&mut self) -> impl Iterator<Item = &mut Option<Tensor>> {
        let saved = self.nodes.iter_mut().flatten().flat_map(|node| node.op.saved());
        self.slots.iter_mut().map(|slot| &mut slot.tensor).chain(saved)
    }

    /// Walks back from the gradients of the outputs (`None`: no gradient comes from there); parameter gradients go to
    /// `sink`. Returns the gradients of the graph's inputs, in order.
    pub fn backward(
        mut self,
        device: &Device,
        params: &Params,
        sink: &mut dyn GradSink,
        output_grads: Vec<Option<Tensor>>,
    ) -> Vec<Option<Tensor>> {
        assert_eq!(output_grads.len(), self.outputs.len());
        let mut grads: Vec<Option<Tensor>> = (0..self.slots.len()).map(|_| None).collect();
        for (v, grad) in self.outputs.iter().zip(output_grads) {
            if self.slots[v.0].needs_grad {
                grads[v.0] = grad;
            }
        }
        let mut walk = Backward { device, params, sink, slots: &mut self.slots, nodes: &mut self.nodes, grads };
        for i in (0..walk.nodes.len()).rev() {
            let Some(node) = walk.nodes[i].take() else { continue };
            if node.needs_grad && node.outputs.iter().any(|v| walk.grads[v.0].is_some()) {
                node.op.backward(&mut walk, &node.outputs);
            }
            for v in &node.outputs {
                walk.slots[v.0].tensor = None;
                walk.grads[v.0] = None;
            }
        }
        let mut grads = walk.grads;
        self.inputs.iter().map(|v| grads[v.0].take()).collect()
    }
}

/// What [`Rule::reads`] may ask.
pub(crate) struct Question<'a> {
    wanted: &'a [bool],
}

impl Question<'_> {
    pub fn wants(&self, p: ParamId) -> bool {
        self.wanted.get(p.0 as usize).copied().unwrap_or(false)
    }
}

/// The state of a backward walk, as a rule sees it.
pub(crate) struct Backward<'a> {
    pub device: &'a Device,
    pub params: &'a Params,
    pub sink: &'a mut dyn GradSink,
    slots: &'a mut Vec<Slot>,
    nodes: &'a mut Vec<Option<Node>>,
    grads: Vec<Option<Tensor>>,
}

impl Backward<'_> {
    /// A value of the forward pass: kept, or rebuilt now.
    pub fn value(&mut self, v: Var) -> Tensor {
        if let Some(t) = &self.slots[v.0].tensor {
            return t.clone();
        }
        let (n, output) = self.slots[v.0].made_by.expect("an input that a rule reads is kept");
        let node = self.nodes[n].take().expect("a value is read after its node was walked over");
        let sources = node.op.rebuilt_from(output, &node.outputs).expect("a value that a rule reads is kept");
        let inputs: Vec<Tensor> = sources.into_iter().map(|s| self.value(s)).collect();
        let context = Context { device: self.device, params: self.params, mode: Mode::Record };
        let tensor = node.op.rebuild(&context, output, &inputs);
        self.nodes[n] = Some(node);
        self.slots[v.0].tensor = Some(tensor.clone());
        tensor
    }

    /// The gradient of an output, whole by now; `None` if nothing depends on it.
    pub fn take_grad(&mut self, v: Var) -> Option<Tensor> {
        self.grads[v.0].take()
    }

    pub fn needs(&self, v: Var) -> bool {
        self.slots[v.0].needs_grad
    }

    pub fn elem(&self, v: Var) -> Elem {
        self.slots[v.0].elem
    }

    pub fn rows(&self, v: Var) -> usize {
        self.slots[v.0].shape.0
    }

    pub fn wants(&self, p: ParamId) -> bool {
        self.sink.wants(p)
    }

    pub fn empty(&self, like: &Tensor) -> Tensor {
        Tensor::empty(self.device, like.elem(), like.rows(), like.cols(), Purpose::Activations)
    }

    /// Adds to the gradient of `v`: `write(grad, accumulate)` overwrites, or adds if `accumulate`.
    pub fn accumulate(&mut self, v: Var, write: impl FnOnce(&Device, &mut Tensor, bool)) {
        let slot = &self.slots[v.0];
        let (mut grad, accumulate) = match self.grads[v.0].take() {
            Some(grad) => (grad.into_unique(self.device), true),
            None => (Tensor::empty(self.device, slot.elem, slot.shape.0, slot.shape.1, Purpose::Activations), false),
        };
        write(self.device, &mut grad, accumulate);
        self.grads[v.0] = Some(grad);
    }

    /// Adds `d` to the gradient of `v`, taking it over where it is the first.
    pub fn add(&mut self, v: Var, d: Tensor) {
        if !self.needs(v) {
            return;
        }
        match self.grads[v.0].take() {
            None => self.grads[v.0] = Some(d),
            Some(grad) => {
                let mut grad = grad.into_unique(self.device);
                let cost = Cost::elementwise(d.len(), 3 * d.elem().bytes());
                self.device.run(cost, |cpu| cpu.add_scaled(grad.output(), d.input(), 1.0));
                self.grads[v.0] = Some(grad);
            }
        }
    }
}
