//! The backward pass over tiles of 64 queries and 64 keys: scores are computed again from the forward's `lse`.
//!
//! A unit of work is one key/value head of one *pair* of a part of the queries and a part of the keys of a span. Pairs of
//! one phase share neither queries nor keys (key part = query part + phase, round robin), so a phase's units may add to
//! the sums of `dq`, `dk` and `dv` at the same time, and every sum is made in the order of the phases: the same bits for
//! any number of threads, without a second computation of the scores and without a private `dq` per thread.

use super::mask::Mask;
use super::pack::{Rows, across, along, down};
use super::product::{Left, MR, Product, V, block, block_mut, product, product_fn};
use super::{AttnShape, KEYS, QUERIES, Span, Unit, floats, units};
use crate::Cpu;
use crate::lanes::{Elem, L, Simd, Split, map1, math, simd_fn};
use crate::scratch::{Slot, with};

/// Queries, and keys, of a part: packed operands of a part's queries fill about half of a second-level cache.
fn part_len(shape: &AttnShape) -> usize {
    if shape.group() * shape.head_dim <= 256 { 4 * QUERIES } else { 2 * QUERIES }
}

/// The sum of a gradient in f32, one head after the other, padded to whole vectors: `[heads, rows, wide]`.
struct Sum<'a> {
    sum: Split<'a, f32>,
    rows: usize,
    wide: usize,
}

impl Sum<'_> {
    /// # Safety
    /// No two ranges of rows of a head that live at the same time overlap.
    #[allow(clippy::mut_from_ref)]
    unsafe fn rows(&self, head: usize, rows: std::ops::Range<usize>) -> &mut [f32] {
        assert!(rows.end <= self.rows);
        let at = head * self.rows;
        // SAFETY: this function's contract.
        unsafe { self.sum.part((at + rows.start) * self.wide..(at + rows.end) * self.wide) }
    }
}

struct Sums<'a> {
    dq: Sum<'a>,
    dk: Sum<'a>,
    dv: Sum<'a>,
}

#[derive(Clone, Copy)]
struct Inputs<'a, E> {
    dout: &'a [E],
    out: &'a [E],
    lse: &'a [f32],
    q: &'a [E],
    k: &'a [E],
    v: &'a [E],
}

/// Queries `q0..q1` and keys `k0..k1` of a span, for one key/value head.
struct Pair<'a> {
    span: &'a Span,
    kv: usize,
    q0: usize,
    q1: usize,
    k0: usize,
    k1: usize,
}

pub(super) fn backward<E: Elem>(
    cpu: &Cpu,
    dq: &mut [E],
    dk: &mut [E],
    dv: &mut [E],
    dout: &[E],
    out: &[E],
    lse: &[f32],
    q: &[E],
    k: &[E],
    v: &[E],
    spans: &[Span],
    shape: &AttnShape,
) {
    let (d, hk) = (shape.head_dim, shape.kv_heads);
    let wide = d.next_multiple_of(L);
    let inputs = Inputs { dout, out, lse, q, k, v };
    let sizes = [dq.len() / d * wide, dk.len() / d * wide, dv.len() / d * wide];
    with(Slot::Shared, 4 * sizes.iter().sum::<usize>(), |memory| {
        // SAFETY: the buffer has this many bytes and is this call's alone.
        let [sq, sk, sv] = unsafe { floats(memory, sizes) };
        for sum in [&mut *sq, &mut *sk, &mut *sv] {
            let (n, sum) = (sum.len(), Split::new(sum));
            // SAFETY: ranges of different chunks do not overlap.
            cpu.each_range(n, |r| unsafe { sum.part(r) }.fill(0.0));
        }
        let (q_rows, kv_rows) = (dq.len() / d / shape.heads, dk.len() / d / hk);
        let sums = Sums {
            dq: Sum { sum: Split::new(sq), rows: q_rows, wide },
            dk: Sum { sum: Split::new(sk), rows: kv_rows, wide },
            dv: Sum { sum: Split::new(sv), rows: kv_rows, wide },
        };
        let part = part_len(shape);
        let parts = |span: &Span| span.q_len.div_ceil(part).max(span.kv_len.div_ceil(part));
        for phase in 0..spans.iter().map(parts).max().unwrap_or(0) {
            let count = |span: &Span| if phase < parts(span) { parts(span) * hk } else { 0 };
            cpu.pool.run(spans.iter().map(count).sum(), |chunk, _| {
                let Unit { span, index } = units(spans, count, chunk);
                let (i, kv) = (index / hk, index % hk);
                let j = (i + phase) % parts(span);
                let ends = |i: usize, n: usize| ((i * part).min(n), ((i + 1) * part).min(n));
                let ((q0, q1), (k0, k1)) = (ends(i, span.q_len), ends(j, span.kv_len));
                if q0 == q1 || k0 == k1 || !Mask::new(span, shape).any(q0, q1, k0, k1) {
                    return;
                }
                let pair = Pair { span, kv, q0, q1, k0, k1 };
                let sizes = scratch(q1 - q0, shape);
                with(Slot::Local, 4 * sizes.iter().sum::<usize>(), |memory| {
                    // SAFETY: the buffer has this many bytes and is this call's alone.
                    let memory = unsafe { floats(memory, sizes) };
                    unit::<E>(cpu.isa, &sums, inputs, memory, &pair, shape);
                })
            });
        }
        for (to, from, heads) in [(dq, &*sq, shape.heads), (dk, &*sk, hk), (dv, &*sv, hk)] {
            let rows = to.len() / (heads * d);
            let to = Split::new(to);
            cpu.each_row(rows, heads * d, |row| {
                // SAFETY: every row belongs to one call.
                let to = unsafe { to.part(row * heads * d..(row + 1) * heads * d) };
                narrow::<E>(cpu.isa, to, from, row, rows, d);
            });
        }
    })
}

simd_fn! {
    /// Collects the heads of a row.
    fn narrow[E: Elem](s, to: &mut [E], from: &[f32], row: usize, rows: usize, d: usize) {
        let wide = d.next_multiple_of(L);
        for (head, to) in to.chunks_exact_mut(d).enumerate() {
            let at = (head * rows + row) * wide;
            map1(s, to, &from[at..at + d], #[inline(always)] |x| x);
        }
    }
}

/// Scratch memory that gradients of attention over this many rows keep, at most, over all threads. The forward pass keeps less.
pub(super) fn scratch_bytes(threads: usize, rows: usize, shape: &AttnShape) -> usize {
    let wide = shape.head_dim.next_multiple_of(L);
    let sums = rows * (shape.heads + 2 * shape.kv_heads) * wide;
    let local: usize = scratch(part_len(shape).min(rows), shape).iter().sum();
    4 * (sums + if rows > 0 { threads * local } else { 0 })
}

/// Lengths of the scratch slices of `unit` with this many queries, for units of one value.
fn scratch(queries: usize, shape: &AttnShape) -> [usize; 12] {
    let tiles = shape.group() * queries.div_ceil(QUERIES);
    let wide = shape.head_dim.next_multiple_of(L);
    let (queries, keys, scores) = (tiles * QUERIES * wide, KEYS * wide, KEYS * QUERIES);
    let each = tiles * QUERIES;
    [queries, queries, queries, queries, each, each, keys, keys, keys, scores, scores, scores]
}

product_fn! {
    fn unit[E](p, sums: &Sums, x: Inputs<E>, memory: [&mut [f32]; 12], pair: &Pair, shape: &AttnShape) {
        let (d, group, h, hk) = (shape.head_dim, shape.group(), shape.heads, shape.kv_heads);
        let (vectors, wide) = (d.div_ceil(L), d.next_multiple_of(L));
        let (depth, size) = (wide / P::STEP, wide / P::STEP * QUERIES);
        let (span, mask, s) = (pair.span, Mask::new(pair.span, shape), p.lanes());
        let tiles = group * (pair.q1 - pair.q0).div_ceil(QUERIES);
        // Queries and output gradients across and down; lse and Σ dout·out of each query; keys and values along, keys
        // down; scores (then probabilities), gradients of probabilities (then of scores), those as units along keys.
        let [qa, ga, qd, gd, lse, base, ka, va, kd, scores, dscores, zipped] = memory;
        let queries = |tile: usize| {
            let start = pair.q0 + tile / group * QUERIES;
            (start, (start + QUERIES).min(pair.q1), pair.kv * group + tile % group)
        };
        for tile in 0..tiles {
            let (start, end, head) = queries(tile);
            let at = ((span.q_start + start) * h + head) * d;
            let rows = |x| Rows { x, start: at, stride: h * d, rows: end - start, d };
            let at = tile * size;
            across(p, &mut qa[at..at + size], rows(x.q), QUERIES);
            across(p, &mut ga[at..at + size], rows(x.dout), QUERIES);
            down(p, &mut qd[at..at + size], rows(x.q), QUERIES);
            down(p, &mut gd[at..at + size], rows(x.dout), QUERIES);
            let (out, dout) = (rows(x.out), rows(x.dout));
            for i in 0..QUERIES {
                let mut sum = s.splat(0.0);
                for j in 0..vectors {
                    sum = s.fma(out.load(s, i, j), dout.load(s, i, j), sum);
                }
                base[tile * QUERIES + i] = s.sum(sum);
                // Infinity makes every probability zero: of a query that saw no key, and of one that is not there.
                let row = (span.q_start + start + i) * h + head;
                let seen = i < end - start && x.lse[row] != f32::NEG_INFINITY;
                lse[tile * QUERIES + i] = if seen { x.lse[row] } else { f32::INFINITY };
            }
        }

        let mut k0 = pair.k0;
        while k0 < pair.k1 {
            let k1 = (k0 + KEYS).min(pair.k1);
            let count = (k1 - k0).next_multiple_of(MR);
            let row = (span.kv_start + k0) * hk + pair.kv;
            let rows = |x| Rows { x, start: row * d, stride: hk * d, rows: k1 - k0, d };
            let mut packed = false;
            for tile in 0..tiles {
                let (start, end, head) = queries(tile);
                if !mask.any(start, end, k0, k1) {
                    continue;
                }
                if !packed {
                    along(p, ka, rows(x.k), count);
                    along(p, va, rows(x.v), count);
                    down(p, kd, rows(x.k), count);
                    packed = true;
                }
                let width = (end - start).next_multiple_of(L);
                let (at, nv) = (tile * size, width / L);
                let left = Left { at: ka, row: depth, unit: 1 };
                product(p, scores, QUERIES, left, &qa[at..at + size], QUERIES, count, nv, depth, false);
                let left = Left { at: va, row: depth, unit: 1 };
                product(p, dscores, QUERIES, left, &ga[at..at + size], QUERIES, count, nv, depth, false);
                let mask = (count != k1 - k0 || !mask.all(start, end, k0, k1)).then_some(&mask);
                for b in 0..nv {
                    let at = tile * QUERIES + b * L;
                    let (lse, base) = (s.load(block(lse, at)), s.load(block(base, at)));
                    let out = (&mut *scores, &mut *dscores, &mut *zipped);
                    gradients(p, out, lse, base, b * L, count, shape.scale, mask, start + b * L, k0);
                }

                // dv[key] += Σ_queries P · dout and dk[key] += Σ_queries dS · q: keys of probabilities are rows, of
                // units along the queries.
                let (right, depth) = (at..at + size, width / P::STEP);
                // SAFETY: in a phase, keys and queries of a pair belong to one unit.
                let (dk, dv) = unsafe {
                    let at = span.kv_start;
                    (sums.dk.rows(pair.kv, at + k0..at + k1), sums.dv.rows(pair.kv, at + k0..at + k1))
                };
                let p_left = Left { at: scores, row: QUERIES, unit: 1 };
                product(p, dv, wide, p_left, &gd[right.clone()], wide, k1 - k0, vectors, depth, true);
                let ds_left = Left { at: dscores, row: QUERIES, unit: 1 };
                product(p, dk, wide, ds_left, &qd[right], wide, k1 - k0, vectors, depth, true);
                // dq[query] += Σ_keys dS · k: units along the keys.
                // SAFETY: as above.
                let dq = unsafe { sums.dq.rows(head, span.q_start + start..span.q_start + end) };
                let ds_left = Left { at: if P::STEP == 2 { zipped } else { dscores }, row: 1, unit: QUERIES };
                product(p, dq, wide, ds_left, kd, wide, end - start, vectors, count / P::STEP, true);
            }
            k0 = k1;
        }
    }
}

/// For sixteen queries, columns `col..col + 16`: `P = exp(scores - lse)` and `dS = scale · P · (dP - base)`. Replaces scores
/// by P and dP (`dscores`) by dS, rows of units along the queries, and where units are pairs writes dS as units along the
/// keys too.
#[inline(always)]
fn gradients<P: Product>(
    p: P,
    out: (&mut [f32], &mut [f32], &mut [f32]),
    lse: V<P>,
    base: V<P>,
    col: usize,
    count: usize,
    scale: f32,
    mask: Option<&Mask>,
    query: usize,
    key: usize,
) {
    let (s, (scores, dscores, zipped)) = (p.lanes(), out);
    let unit = s.splat(scale * std::f32::consts::LOG2_E);
    let shift = s.mul(lse, s.splat(-std::f32::consts::LOG2_E));
    let scale = s.splat(scale);
    for r in (0..count).step_by(2) {
        let mut ds = [scale; 2];
        for i in 0..2 {
            let at = (r + i) * QUERIES;
            let mut x = s.load(block(scores, at + col));
            if let Some(mask) = mask {
                x = mask.apply(s, x, query, key + r + i);
            }
            let probability = math::exp2(s, s.fma(x, unit, shift));
            ds[i] = s.mul(s.mul(probability, scale), s.sub(s.load(block(dscores, at + col)), base));
            // In place: the units end before the values that are still to be read, because columns come in order.
            p.store(&mut scores[at + col / P::STEP..], probability);
            p.store(&mut dscores[at + col / P::STEP..], ds[i]);
        }
        if P::STEP == 2 {
            s.store(block_mut(zipped, r / 2 * QUERIES + col), p.zip(ds[0], ds[1]));
        }
    }
}
