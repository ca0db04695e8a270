//! The products as plain loops: the specification, and the table for processors without vectors that we know.

use crate::{In, Mat, Out, Pool, bf16};

pub(super) fn nt(pool: &Pool, out: Out, x: In, w: Mat, accumulate: bool, m: usize, n: usize, k: usize) {
    let (x, w) = (x.to_f32(), w.to_f32());
    rows(pool, out, accumulate, m, n, |i, row| {
        for (j, o) in row.iter_mut().enumerate() {
            *o = x[i * k..][..k].iter().zip(&w[j * k..][..k]).map(|(a, b)| a * b).sum();
        }
    });
}

pub(super) fn nn(pool: &Pool, out: Out, dy: In, w: Mat, accumulate: bool, m: usize, n: usize, k: usize) {
    let (dy, w) = (dy.to_f32(), w.to_f32());
    rows(pool, out, accumulate, m, k, |i, row| {
        for j in 0..n {
            row.iter_mut().zip(&w[j * k..][..k]).for_each(|(o, b)| *o += dy[i * n + j] * b);
        }
    });
}

pub(super) fn tn(pool: &Pool, out: &mut [f32], dy: In, x: In, accumulate: bool, m: usize, n: usize, k: usize) {
    let (dy, x) = (dy.to_f32(), x.to_f32());
    rows(pool, Out::F32(out), accumulate, n, k, |j, row| {
        for i in 0..m {
            row.iter_mut().zip(&x[i * k..][..k]).for_each(|(o, b)| *o += dy[i * n + j] * b);
        }
    });
}

/// Computes each row of `out` from zeros by `row(i, values)`.
fn rows(pool: &Pool, out: Out, accumulate: bool, m: usize, n: usize, row: impl Fn(usize, &mut [f32]) + Sync) {
    let out = std::sync::Mutex::new(out);
    pool.run(m, |i, _| {
        let mut values = vec![0f32; n];
        row(i, &mut values);
        match &mut *out.lock().unwrap_or_else(|e| e.into_inner()) {
            Out::F32(out) => {
                out[i * n..][..n].iter_mut().zip(&values).for_each(|(o, v)| *o = if accumulate { *o + v } else { *v })
            }
            Out::Bf16(out) => out[i * n..][..n]
                .iter_mut()
                .zip(&values)
                .for_each(|(o, v)| *o = bf16::from_f32(if accumulate { o.to_f32() + v } else { *v })),
        }
    });
}

impl In<'_> {
    fn to_f32(self) -> Vec<f32> {
        match self {
            In::F32(x) => x.to_vec(),
            In::Bf16(x) => x.iter().map(|v| v.to_f32()).collect(),
        }
    }
}

impl Mat<'_> {
    fn to_f32(self) -> Vec<f32> {
        let mut out = vec![0f32; self.len()];
        self.read(&mut out, 0);
        out
    }

    /// `out` = the weights from number `at` on, converted. Quantised weights: whole blocks.
    pub(super) fn read(&self, out: &mut [f32], at: usize) {
        let len = out.len();
        match self {
            Mat::F32(w) => out.copy_from_slice(&w[at..][..len]),
            Mat::Bf16(w) => out.iter_mut().zip(&w[at..][..len]).for_each(|(o, v)| *o = v.to_f32()),
            Mat::F16(w) => out.iter_mut().zip(&w[at..][..len]).for_each(|(o, v)| *o = v.to_f32()),
            Mat::Quant(format, blocks) => {
                crate::quant::dequantize(out, *format, &blocks[format.row_bytes(at)..][..format.row_bytes(len)])
            }
        }
    }
}
