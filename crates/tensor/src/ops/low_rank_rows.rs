//! `y[rows] += scale · (x[rows] Aᵀ) Bᵀ` with an A and a B for each range of rows: sequences of different adapters in one pass
//! (as in Punica, Chen et al. 2023). Works in place on `y`. For inference only: these adapters are nobody's parameters.

use std::ops::Range;

use super::{Op, Rule};
use crate::graph::{Context, Graph, Mode, Var};
use crate::tape::Backward;
use crate::{Tensor, Weight};

/// The update of some rows.
#[derive(Clone, Debug)]
pub struct LowRankRows {
    pub rows: Range<usize>,
    /// `[r, k]`
    pub a: Weight,
    /// `[n, r]`
    pub b: Weight,
    pub scale: f32,
}

pub(crate) struct Update {
    y: Var,
    x: Var,
    parts: Vec<LowRankRows>,
}

impl Graph<'_> {
    /// `y [t, n]`, `x [t, k] -> [t, n]`; rows of no part stay as they are. `y` is consumed.
    pub fn low_rank_rows(&mut self, y: Var, x: Var, parts: Vec<LowRankRows>) -> Var {
        self.apply1(Op::LowRankRows(Update { y, x, parts }))
    }
}

impl Rule for Update {
    fn operands(&self) -> Vec<Var> {
        vec![self.y, self.x]
    }
    fn consumes(&self, i: usize) -> bool {
        i == 0
    }
    fn forward(&mut self, cx: &Context, mut inputs: Vec<Tensor>, _: bool) -> Vec<Tensor> {
        assert!(matches!(cx.mode, Mode::Infer { .. }), "rows with adapters of their own cannot be trained on");
        let x = inputs.pop().expect("two operands");
        let mut y = inputs.pop().expect("two operands").into_unique(cx.device);
        for part in &self.parts {
            let x = x.view_rows(part.rows.start, part.rows.len());
            update(cx, &mut y, part.rows.start, &x, &part.a, &part.b, part.scale);
        }
        vec![y]
    }
    fn backward(&self, _: &mut Backward, _: &[Var]) {
        unreachable!("a graph that records does not run it")
    }
}

/// Adds the update of `x` to the rows of `y` from `at` on. A row's bits do not depend on the rows beside it, so that a sequence
/// answers alike alone and among others.
pub(super) fn update(cx: &Context, y: &mut Tensor, at: usize, x: &Tensor, a: &Weight, b: &Weight, scale: f32) {
    let mut u = cx.empty(x.elem(), x.rows(), a.shape().0);
    a.apply_by_rows(cx.device, &mut u, 0, x, false);
    let u = u.scaled(cx.device, scale);
    b.apply_by_rows(cx.device, y, at, &u, true);
}

#[cfg(test)]
mod tests {
    use ounce_kernels::Cpu;

    use super::*;
    use crate::{Device, Elem, Params, Purpose};

    const T: usize = 40;

    fn tensor(device: &Device, rows: usize, cols: usize, seed: u32) -> Tensor {
        let mix = |i: usize| (i as u32 + 1).wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) >> 8;
        let values: Vec<f32> = (0..rows * cols).map(|i| mix(i) as f32 / (1 << 23) as f32 - 1.0).collect();
        Tensor::from_f32(device, &values, rows, cols, Purpose::Activations)
    }

    /// Two adapters and bare rows in one pass, against each row by itself as the op for a whole batch computes it.
    #[test]
    fn rows_have_the_bits_that_they_have_alone() {
        let device = Device::cpu(Cpu::new(2));
        let (n, k) = (70, 33);
        let (y, x) = (tensor(&device, T, n, 1), tensor(&device, T, k, 2));
        let mut params = Params::default();
        let mut pair = |rank: usize, seed: u32| {
            let (a, b) = (tensor(&device, rank, k, seed), tensor(&device, n, rank, seed + 1));
            let mut add = |part: &str, t: Tensor| params.add(&format!("{part}.{seed}"), Weight::Dense(t));
            (add("a", a), add("b", b))
        };
        let pairs = [pair(4, 10), pair(19, 20)];
        let owner = |row: usize| [None, Some(0), Some(1), None, Some(0)][row / 8];
        let parts = [(8..16, 0), (16..24, 1), (32..40, 0)];
        let mode = Mode::Infer { int8: false };
        let graph = || Graph::new(&device, &params, &[], mode, None, 0);
        let weight = |p| params.weight(p).clone();
        let part = |(rows, which): (Range<usize>, usize)| {
            let (a, b) = pairs[which];
            LowRankRows { rows, a: weight(a), b: weight(b), scale: 0.5 + which as f32 }
        };
        let mut g = graph();
        let (vy, vx) = (g.input(y.clone(), false), g.input(x.clone(), false));
        let mixed = g.low_rank_rows(vy, vx, parts.into_iter().map(part).collect());
        let mixed = g.value(mixed).clone();
        for row in 0..T {
            let mut g = graph();
            let (vy, vx) = (g.input(y.view_rows(row, 1), false), g.input(x.view_rows(row, 1), false));
            let alone = match owner(row) {
                None => vy,
                Some(which) => g.low_rank(vy, vx, pairs[which].0, pairs[which].1, 0.5 + which as f32),
            };
            assert_eq!(g.value(alone).f32(), mixed.view_rows(row, 1).f32(), "row {row}");
            assert_eq!(owner(row).is_some(), g.value(alone).f32() != y.view_rows(row, 1).f32());
        }
        assert_eq!(mixed.elem(), Elem::F32);
    }
}
