//! Splits the columns of `x` into equal parts: GPT-2's joint projection of q, k and v.

use super::{Op, Rule};
use crate::graph::{Context, Graph, Var};
use crate::tape::Backward;
use crate::{Cost, Device, Elem, Purpose, Tensor};

pub(crate) struct Split {
    x: Var,
    parts: usize,
}

impl Graph<'_> {
    /// `[t, parts·c] -> parts × [t, c]`.
    pub fn split(&mut self, x: Var, parts: usize) -> Vec<Var> {
        self.apply(Op::Split(Split { x, parts }))
    }
}

/// Copies `c` columns of each row of `from` (starting at column `from_col`) to `to` (at `to_col`).
fn copy_cols(device: &Device, to: &mut Tensor, to_col: usize, from: &Tensor, from_col: usize, c: usize) {
    let (to_cols, from_cols) = (to.cols(), from.cols());
    device.run(Cost::elementwise(from.rows() * c, 2 * from.elem().bytes()), |_| match from.elem() {
        Elem::F32 => copy(to.f32_mut(), to_cols, to_col, from.f32(), from_cols, from_col, c),
        Elem::Bf16 => copy(to.bf16_mut(), to_cols, to_col, from.bf16(), from_cols, from_col, c),
        Elem::F16 => copy(to.f16_mut(), to_cols, to_col, from.f16(), from_cols, from_col, c),
    });
}

fn copy<T: Copy>(to: &mut [T], to_cols: usize, to_col: usize, from: &[T], from_cols: usize, from_col: usize, c: usize) {
    for (to, from) in to.chunks_exact_mut(to_cols).zip(from.chunks_exact(from_cols)) {
        to[to_col..to_col + c].copy_from_slice(&from[from_col..from_col + c]);
    }
}

impl Rule for Split {
    fn operands(&self) -> Vec<Var> {
        vec![self.x]
    }
    fn forward(&mut self, cx: &Context, inputs: Vec<Tensor>, _: bool) -> Vec<Tensor> {
        let x = &inputs[0];
        let c = x.cols() / self.parts;
        assert_eq!(c * self.parts, x.cols(), "split {x:?} in {}", self.parts);
        (0..self.parts)
            .map(|i| {
                let mut out = cx.empty(x.elem(), x.rows(), c);
                copy_cols(cx.device, &mut out, 0, x, i * c, c);
                out
            })
            .collect()
    }
    fn backward(&self, walk: &mut Backward, outputs: &[Var]) {
        let grads: Vec<Option<Tensor>> = outputs.iter().map(|v| walk.take_grad(*v)).collect();
        let Some(some) = grads.iter().flatten().next() else { return };
        let (rows, c, elem) = (some.rows(), some.cols(), some.elem());
        let mut dx = match grads.iter().all(Option::is_some) {
            true => Tensor::empty(walk.device, elem, rows, c * self.parts, Purpose::Activations),
            false => Tensor::zeros(walk.device, elem, rows, c * self.parts, Purpose::Activations),
        };
        for (i, grad) in grads.iter().enumerate() {
            if let Some(grad) = grad {
                copy_cols(walk.device, &mut dx, i * c, grad, 0, c);
            }
        }
        walk.add(self.x, dx);
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use crate::conformance::{M, Sample};

    pub fn samples() -> Vec<Sample> {
        vec![Sample::new(
            "split",
            &[(4, 15)],
            &[],
            |g, x, _| g.split(x[0], 3),
            |x, _| (0..3).map(|part| M::from_fn(4, 5, |i, j| x[0].at(i, part * 5 + j))).collect(),
        )]
    }
}
