//! `out[i] = x[rows[i]]`: the rows whose logits are asked for. Rows may not repeat.

use std::sync::Arc;

use super::{Op, Rule};
use crate::graph::{Context, Graph, Var};
use crate::tape::Backward;
use crate::{Cost, Tensor};

pub(crate) struct SelectRows {
    x: Var,
    rows: Arc<[u32]>,
}

impl Graph<'_> {
    /// `[t, c] -> [rows.len(), c]`.
    pub fn select_rows(&mut self, x: Var, rows: &Arc<[u32]>) -> Var {
        self.apply1(Op::SelectRows(SelectRows { x, rows: rows.clone() }))
    }
}

/// Copies rows `from[i]` of `x` into a new tensor.
pub(crate) fn gather(device: &crate::Device, x: &Tensor, rows: &[u32]) -> Tensor {
    let mut out = Tensor::empty(device, x.elem(), rows.len(), x.cols(), x.purpose());
    device.run(Cost::elementwise(out.len(), 2 * x.elem().bytes()), |_| {
        for (i, &row) in rows.iter().enumerate() {
            out.copy_rows(i, &x.view_rows(row as usize, 1));
        }
    });
    out
}

/// A tensor `like` of zeros with `d`'s rows at `rows`.
pub(crate) fn spread(device: &crate::Device, d: &Tensor, rows: &[u32], total: usize) -> Tensor {
    let mut out = Tensor::empty(device, d.elem(), total, d.cols(), d.purpose());
    device.run(Cost::elementwise(out.len(), d.elem().bytes()), |_| {
        out.fill_zero();
        for (i, &row) in rows.iter().enumerate() {
            out.copy_rows(row as usize, &d.view_rows(i, 1));
        }
    });
    out
}

impl Rule for SelectRows {
    fn operands(&self) -> Vec<Var> {
        vec![self.x]
    }
    fn forward(&mut self, cx: &Context, inputs: Vec<Tensor>, _: bool) -> Vec<Tensor> {
        vec![gather(cx.device, &inputs[0], &self.rows)]
    }
    fn backward(&self, walk: &mut Backward, outputs: &[Var]) {
        let Some(dy) = walk.take_grad(outputs[0]) else { return };
        let dx = spread(walk.device, &dy, &self.rows, walk.rows(self.x));
        walk.add(self.x, dx);
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use crate::conformance::{M, Sample};

    pub fn samples() -> Vec<Sample> {
        vec![Sample::new(
            "select_rows",
            &[(6, 9)],
            &[],
            |g, x, _| vec![g.select_rows(x[0], &vec![4, 0, 5].into())],
            |x, _| vec![M::from_fn(3, 9, |i, j| x[0].at([4, 0, 5][i], j))],
        )]
    }
}
