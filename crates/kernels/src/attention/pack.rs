//! Rows of activations as operands of tile products. Rows and columns that are missing become zeros.

use super::product::{Product, block_mut};
use crate::lanes::{Elem, L, Simd};

/// One head of `rows` consecutive rows: row `i` is `x[start + i · stride..][..d]`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, E> {
    pub x: &'a [E],
    pub start: usize,
    pub stride: usize,
    pub rows: usize,
    pub d: usize,
}

impl<'a, E: Elem> Rows<'a, E> {
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [E] {
        let at = self.start + i * self.stride;
        &self.x[at..at + self.d]
    }

    /// Calls `f(j, vector)` for the vectors of row `i`.
    #[inline(always)]
    pub fn each_vector<S: Simd>(&self, s: S, i: usize, mut f: impl FnMut(usize, S::V)) {
        if i >= self.rows {
            return (0..self.d.div_ceil(L)).for_each(
                #[inline(always)]
                |j| f(j, s.splat(0.0)),
            );
        }
        let (whole, tail) = self.row(i).as_chunks::<L>();
        for (j, x) in whole.iter().enumerate() {
            f(j, E::load(s, x));
        }
        if !tail.is_empty() {
            f(whole.len(), E::load_part(s, tail));
        }
    }

    /// Vector `j` of row `i`.
    #[inline(always)]
    pub fn load<S: Simd>(&self, s: S, i: usize, j: usize) -> S::V {
        if i >= self.rows {
            return s.splat(0.0);
        }
        let row = self.row(i);
        let part = &row[j * L..row.len().min((j + 1) * L)];
        match part.try_into() {
            Ok(whole) => E::load(s, whole),
            Err(_) => E::load_part(s, part),
        }
    }
}

/// `out[i, k]`: row `i` as units along the head dimension, `count` rows.
#[inline(always)]
pub(super) fn along<P: Product, E: Elem>(p: P, out: &mut [f32], x: Rows<E>, count: usize) {
    let vectors = x.d.div_ceil(L);
    let width = L / P::STEP;
    for (i, out) in out.chunks_exact_mut(vectors * width).take(count).enumerate() {
        x.each_vector(
            p.lanes(),
            i,
            #[inline(always)]
            |j, v| p.store(&mut out[j * width..], v),
        );
    }
}

/// `out[k, i]`: as [`along`], transposed; rows of `out` have `count` columns, a multiple of sixteen.
#[inline(always)]
pub(super) fn across<P: Product, E: Elem>(p: P, out: &mut [f32], x: Rows<E>, count: usize) {
    let width = L / P::STEP;
    for j in 0..x.d.div_ceil(L) {
        let out = &mut out[j * width * count..(j + 1) * width * count];
        for i in 0..count {
            let mut units = [0.0; L];
            p.store(&mut units, x.load(p.lanes(), i, j));
            for k in 0..width {
                out[k * count + i] = units[k];
            }
        }
    }
}

/// `out[i / STEP, c]`: units along the rows, for sums over `count` rows (a multiple of two).
#[inline(always)]
pub(super) fn down<P: Product, E: Elem>(p: P, out: &mut [f32], x: Rows<E>, count: usize) {
    let vectors = x.d.div_ceil(L);
    for u in 0..count / P::STEP {
        for j in 0..vectors {
            let (i, s) = (u * P::STEP, p.lanes());
            let unit = if P::STEP == 2 { p.zip(x.load(s, i, j), x.load(s, i + 1, j)) } else { x.load(s, i, j) };
            s.store(block_mut(out, (u * vectors + j) * L), unit);
        }
    }
}
