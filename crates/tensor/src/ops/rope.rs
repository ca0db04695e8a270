//! Rotary position embedding (Su et al. 2021), half-split layout, in place: column `i` of a head turns with `i + rot/2` by
//! the angle `position · frequency_i`. The gradient is turned back.

use std::sync::Arc;

use super::{Op, Rule};
use crate::graph::{Context, Graph, Var};
use crate::tape::Backward;
use crate::{Cost, Tensor};

/// Cosines and sines of all positions.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// `[positions, rot/2]`.
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
    /// Columns of a head that turn (all of them in most models).
    pub rot: usize,
}

impl RopeTable {
    /// Angles `position · frequencies[i]`; cosines and sines are multiplied by `factor` (YaRN).
    pub fn new(frequencies: &[f32], positions: usize, factor: f32) -> RopeTable {
        let mut table = RopeTable { cos: Vec::new(), sin: Vec::new(), rot: 2 * frequencies.len() };
        for position in 0..positions {
            for f in frequencies {
                // f32 angles: what transformers computes.
                let angle = position as f32 * f;
                table.cos.push(angle.cos() * factor);
                table.sin.push(angle.sin() * factor);
            }
        }
        table
    }

    pub fn positions(&self) -> usize {
        self.cos.len() / (self.rot / 2).max(1)
    }
}

pub(crate) struct Rope {
    x: Var,
    table: Arc<RopeTable>,
    positions: Arc<[u32]>,
    head_dim: usize,
}

impl Graph<'_> {
    /// `[t, h·d] -> [t, h·d]`. `x` is consumed.
    pub fn rope(&mut self, x: Var, table: &Arc<RopeTable>, positions: &Arc<[u32]>, head_dim: usize) -> Var {
        self.apply1(Op::Rope(Rope { x, table: table.clone(), positions: positions.clone(), head_dim }))
    }
}

impl Rope {
    fn run(&self, device: &crate::Device, x: &mut Tensor, inverse: bool) {
        let heads = x.cols() / self.head_dim;
        device.run(Cost::elementwise(x.len(), 2 * x.elem().bytes()), |cpu| {
            let t = &self.table;
            cpu.rope_inplace(x.output(), &t.cos, &t.sin, &self.positions, heads, self.head_dim, t.rot, inverse)
        });
    }
}

impl Rule for Rope {
    fn operands(&self) -> Vec<Var> {
        vec![self.x]
    }
    fn consumes(&self, _: usize) -> bool {
        true
    }
    fn forward(&mut self, cx: &Context, mut inputs: Vec<Tensor>, _: bool) -> Vec<Tensor> {
        let mut x = inputs.pop().expect("one operand").into_unique(cx.device);
        self.run(cx.device, &mut x, false);
        vec![x]
    }
    fn backward(&self, walk: &mut Backward, outputs: &[Var]) {
        let Some(dy) = walk.take_grad(outputs[0]) else { return };
        let mut dx = dy.into_unique(walk.device);
        self.run(walk.device, &mut dx, true);
        walk.add(self.x, dx);
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use super::RopeTable;
    use crate::conformance::{M, Sample};
    use std::sync::Arc;

    pub fn samples() -> Vec<Sample> {
        let positions: Vec<u32> = vec![0, 1, 2, 7, 3];
        [(8, 8), (8, 4)]
            .into_iter()
            .map(|(d, rot)| {
                let frequencies: Vec<f32> = (0..rot / 2).map(|i| 100f32.powf(-2.0 * i as f32 / rot as f32)).collect();
                let table = Arc::new(RopeTable::new(&frequencies, 8, 1.0));
                let (at, again): (Arc<[u32]>, _) = (positions.clone().into(), positions.clone());
                Sample::new(
                    &format!("rope {rot} of {d}"),
                    &[(5, 2 * d)],
                    &[],
                    move |g, x, _| vec![g.rope(x[0], &table, &at, d)],
                    move |x, _| {
                        vec![M::from_fn(5, 2 * d, |i, j| {
                            let (head, c) = (j / d * d, j % d);
                            if c >= rot {
                                return x[0].at(i, j);
                            }
                            let f = (100f64).powf(-2.0 * (c % (rot / 2)) as f64 / rot as f64);
                            let (sin, cos) = (again[i] as f64 * f).sin_cos();
                            if c < rot / 2 {
                                x[0].at(i, j) * cos - x[0].at(i, j + rot / 2) * sin
                            } else {
                                x[0].at(i, head + c) * cos + x[0].at(i, head + c - rot / 2) * sin
                            }
                        })]
                    },
                )
            })
            .collect()
    }
}
