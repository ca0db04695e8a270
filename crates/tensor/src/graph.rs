//! [`Graph`]: runs ops at once and records them. One graph is the forward pass of one segment.

use crate::device::Device;
use crate::memory::Purpose;
use crate::ops::{Op, Rule};
use crate::params::{ParamId, Params};
use crate::tape::{Node, Tape};
use crate::tensor::{Elem, Tensor};

/// A value on a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Var(pub(crate) usize);

/// What becomes of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Record what a backward pass needs.
    Record,
    /// The same, but leave out what is large and can be made again from the rest.
    RecordLean,
    /// Keep nothing: the values of [`Mode::Record`], bit for bit.
    Forward,
    /// Keep nothing, and give each row the same bits whatever rows are beside it. With `int8`, products round the activations: to
    /// int8 blocks with quantised weights, and to bf16 with bf16 weights that have been [laid out](Params::interleave).
    Infer { int8: bool },
}

impl Mode {
    pub(crate) fn records(self) -> bool {
        matches!(self, Mode::Record | Mode::RecordLean)
    }
}

/// Where random numbers come from: they are a function of (seed, step, segment, op, row), so that a segment recomputed
/// or a row moved elsewhere has the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Random {
    pub seed: u64,
    pub step: u64,
}

/// The stream of [`Random`] that no segment has.
const PARAMETERS: u64 = u64::MAX;

impl Random {
    /// A key for random numbers that belong to a parameter.
    pub fn parameter_key(&self, p: ParamId) -> u64 {
        self.key(PARAMETERS, u64::from(p.0))
    }

    fn key(&self, stream: u64, index: u64) -> u64 {
        let mut key = self.seed;
        for part in [self.step, stream, index] {
            key = mix(key ^ part.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        }
        key
    }
}

/// What an op's forward pass may use.
pub(crate) struct Context<'a> {
    pub device: &'a Device,
    pub params: &'a Params,
    pub mode: Mode,
}

impl Context<'_> {
    pub fn empty(&self, elem: Elem, rows: usize, cols: usize) -> Tensor {
        Tensor::empty(self.device, elem, rows, cols, Purpose::Activations)
    }
}

pub(crate) struct Slot {
    pub tensor: Option<Tensor>,
    pub needs_grad: bool,
    pub shape: (usize, usize),
    pub elem: Elem,
    /// The node that made it, and which of its outputs it is.
    pub made_by: Option<(usize, usize)>,
}

pub struct Graph<'a> {
    device: &'a Device,
    params: &'a Params,
    wanted: &'a [bool],
    mode: Mode,
    random: Option<Random>,
    segment: usize,
    slots: Vec<Slot>,
    nodes: Vec<Option<Node>>,
    inputs: Vec<Var>,
    drawn: u64,
}

impl<'a> Graph<'a> {
    /// `wanted[p]`: whether parameter `p` is trained (empty: none is). `random` is `None` outside training: dropout is off.
    pub fn new(
        device: &'a Device,
        params: &'a Params,
        wanted: &'a [bool],
        mode: Mode,
        random: Option<Random>,
        segment: usize,
    ) -> Graph<'a> {
        let (slots, nodes, inputs) = (Vec::new(), Vec::new(), Vec::new());
        Graph { device, params, wanted, mode, random, segment, slots, nodes, inputs, drawn: 0 }
    }

    /// A value from outside. Its gradient comes out of the backward pass if `needs_grad`.
    pub fn input(&mut self, tensor: Tensor, needs_grad: bool) -> Var {
        let var = self.push(tensor, needs_grad, None);
        self.inputs.push(var);
        var
    }

    /// The tensor behind `v`, sharing storage.
    pub fn value(&self, v: Var) -> &Tensor {
        self.slots[v.0].tensor.as_ref().expect("this value was consumed by an op that works in place")
    }

    pub fn device(&self) -> &'a Device {
        self.device
    }
    pub fn params(&self) -> &'a Params {
        self.params
    }
    pub fn needs_grad(&self, v: Var) -> bool {
        self.slots[v.0].needs_grad
    }
    /// Whether `p` is trained.
    pub fn wants(&self, p: ParamId) -> bool {
        self.wanted.get(p.0 as usize).copied().unwrap_or(false)
    }
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }
    pub fn is_training(&self) -> bool {
        self.random.is_some()
    }

    /// A key for the next random op of this segment; `None` outside training.
    pub(crate) fn next_key(&mut self) -> Option<u64> {
        let random = self.random?;
        self.drawn += 1;
        Some(random.key(self.segment as u64, self.drawn))
    }

    /// Runs `op` and returns its outputs.
    pub(crate) fn apply(&mut self, mut op: Op) -> Vec<Var> {
        let operands = op.operands();
        let needs_grad =
            operands.iter().any(|v| self.slots[v.0].needs_grad) || op.params().iter().any(|&p| self.wants(p));
        let inputs: Vec<Tensor> = operands
            .iter()
            .enumerate()
            .map(|(i, v)| if op.consumes(i) { self.take(*v) } else { self.value(*v).clone() })
            .collect();
        let context = Context { device: self.device, params: self.params, mode: self.mode };
        let outputs = op.forward(&context, inputs, needs_grad);
        let node = self.nodes.len();
        let vars: Vec<Var> =
            outputs.into_iter().enumerate().map(|(i, t)| self.push(t, needs_grad, Some((node, i)))).collect();
        if self.mode.records() {
            self.nodes.push(Some(Node { op, outputs: vars.clone(), needs_grad }));
        } else {
            self.nodes.push(None);
        }
        vars
    }

    pub(crate) fn apply1(&mut self, op: Op) -> Var {
        self.apply(op)[0]
    }

    /// Ends the forward pass: the values of `outputs`, whether each needs a gradient, and the tape.
    pub fn finish(self, outputs: &[Var]) -> (Vec<Tensor>, Vec<bool>, Tape) {
        let tensors = outputs.iter().map(|v| self.value(*v).clone()).collect();
        let needs = outputs.iter().map(|v| self.slots[v.0].needs_grad).collect();
        let tape = Tape::new(self.slots, self.nodes, self.inputs, outputs.to_vec(), self.wanted);
        (tensors, needs, tape)
    }

    fn push(&mut self, tensor: Tensor, needs_grad: bool, made_by: Option<(usize, usize)>) -> Var {
        let (shape, elem) = ((tensor.rows(), tensor.cols()), tensor.elem());
        self.slots.push(Slot { tensor: Some(tensor), needs_grad, shape, elem, made_by });
        Var(self.slots.len() - 1)
    }

    fn take(&mut self, v: Var) -> Tensor {
        self.slots[v.0].tensor.take().expect("this value was consumed by an op that works in place")
    }
}

/// A mixing step of SplitMix64 (Steele et al. 2014).
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
