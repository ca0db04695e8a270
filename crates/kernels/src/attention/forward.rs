//! The forward pass over tiles of 64 queries and 64 keys. A unit of work is one key/value head of one tile of queries,
//! with all query heads that share it, so that a tile of keys is packed once for all of them.
//!
//! Scores are computed transposed, keys by queries: maxima and sums of the softmax then run down the lanes, and keys are
//! the left operand, which needs no transposition.

use super::mask::Mask;
use super::pack::{Rows, across, along, down};
use super::product::{Left, MR, Product, block, block_mut, product, product_fn};
use super::{AttnShape, KEYS, QUERIES, Span, Unit, floats, units};
use crate::Cpu;
use crate::lanes::{Elem, L, Simd, Split, math};
use crate::scratch::{Slot, with};

/// Query tiles that share the packing of a key tile; with many query heads one is enough.
fn tiles_per_unit(shape: &AttnShape) -> usize {
    (3 / shape.group()).max(1)
}

pub(super) fn forward<E: Elem>(
    cpu: &Cpu,
    out: &mut [E],
    lse: &mut [f32],
    q: &[E],
    k: &[E],
    v: &[E],
    spans: &[Span],
    shape: &AttnShape,
) {
    let hk = shape.kv_heads;
    let queries = QUERIES * tiles_per_unit(shape);
    let count = |span: &Span| span.q_len.div_ceil(queries) * hk;
    let (out, lse) = (Split::new(out), Split::new(lse));
    cpu.pool.run(spans.iter().map(count).sum(), |chunk, _| {
        let Unit { span, index } = units(spans, count, chunk);
        // Late queries see the most keys: they come first, so that short units fill the end.
        let tile = span.q_len.div_ceil(queries) - 1 - index / hk;
        let start = tile * queries;
        let tile = Tile { span, kv: index % hk, start, end: (start + queries).min(span.q_len) };
        let sizes = scratch(&tile, shape);
        with(Slot::Local, 4 * sizes.iter().sum::<usize>(), |memory| {
            // SAFETY: the buffer has this many bytes and is this call's alone.
            let memory = unsafe { floats(memory, sizes) };
            unit::<E>(cpu.isa, &out, &lse, q, k, v, memory, &tile, shape);
        })
    });
}

/// Queries `start..end` of a span and one key/value head.
struct Tile<'a> {
    span: &'a Span,
    kv: usize,
    start: usize,
    end: usize,
}

/// Lengths of the scratch slices of `unit`, for units of one value.
fn scratch(tile: &Tile, shape: &AttnShape) -> [usize; 7] {
    let parts = shape.group() * (tile.end - tile.start).div_ceil(QUERIES);
    let (wide, each) = (shape.head_dim.next_multiple_of(L), parts * QUERIES);
    [each * wide, each * wide, each, each, KEYS * QUERIES, KEYS * wide, KEYS * wide]
}

product_fn! {
    fn unit[E](
        p, out: &Split<E>, lse: &Split<f32>, q: &[E], k: &[E], v: &[E], memory: [&mut [f32]; 7], tile: &Tile,
        shape: &AttnShape,
    ) {
        let (d, group) = (shape.head_dim, shape.group());
        let (h, hk) = (shape.heads, shape.kv_heads);
        let (vectors, wide) = (d.div_ceil(L), d.next_multiple_of(L));
        let depth = wide / P::STEP;
        let (s, mask, span) = (p.lanes(), Mask::new(tile.span, shape), tile.span);
        let subtiles = (tile.end - tile.start).div_ceil(QUERIES);
        let parts = group * subtiles;
        // Queries (transposed), sums of values, maxima and sums of each query, scores, keys, values.
        let [qt, o, top, total, scores, keys, values] = memory;
        let queries = |part: usize| {
            let start = tile.start + part / group * QUERIES;
            (start, (start + QUERIES).min(tile.end), tile.kv * group + part % group)
        };
        for part in 0..parts {
            let (start, end, head) = queries(part);
            let rows = Rows { x: q, start: ((span.q_start + start) * h + head) * d, stride: h * d, rows: end - start, d };
            across(p, &mut qt[part * depth * QUERIES..], rows, QUERIES);
        }
        top.fill(f32::NEG_INFINITY);
        total.fill(0.0);
        o.fill(0.0);

        let seen = mask.seen_by(tile.start, tile.end);
        let mut j = seen.start / KEYS * KEYS;
        while j < seen.end {
            let j_end = (j + KEYS).min(seen.end);
            let count = (j_end - j).next_multiple_of(MR);
            let at = ((span.kv_start + j) * hk + tile.kv) * d;
            let rows = |x| Rows { x, start: at, stride: hk * d, rows: j_end - j, d };
            along(p, keys, rows(k), count);
            down(p, values, rows(v), count);
            for part in 0..parts {
                let (start, end, _) = queries(part);
                if !mask.any(start, end, j, j_end) {
                    continue;
                }
                let width = (end - start).next_multiple_of(L);
                let nv = width / L;
                let left = Left { at: keys, row: depth, unit: 1 };
                let right = &qt[part * depth * QUERIES..][..depth * QUERIES];
                product(p, scores, QUERIES, left, right, QUERIES, count, nv, depth, false);
                let mask = (count != j_end - j || !mask.all(start, end, j, j_end)).then_some(&mask);
                let mut factors = [1.0; QUERIES];
                for b in 0..nv {
                    let at = part * QUERIES + b * L;
                    let state = (block_mut(top, at), block_mut(total, at), block_mut(&mut factors, b * L));
                    softmax(p, scores, state, b * L, count, shape.scale, mask, start + b * L, j);
                }
                let o = &mut o[part * QUERIES * wide..][..QUERIES * wide];
                for (row, factor) in o.chunks_exact_mut(wide).zip(&factors[..width]) {
                    if *factor != 1.0 {
                        let factor = s.splat(*factor);
                        for c in 0..vectors {
                            let c = block_mut(row, c * L);
                            s.store(c, s.mul(s.load(c), factor));
                        }
                    }
                }
                let left = Left { at: scores, row: 1, unit: QUERIES };
                product(p, o, wide, left, values, wide, width, vectors, count / P::STEP, true);
            }
            j = j_end;
        }

        for part in 0..parts {
            let (start, end, head) = queries(part);
            for i in start..end {
                let at = part * QUERIES + i - start;
                let row = (span.q_start + i) * h + head;
                // SAFETY: (query, head) belongs to one unit.
                let (out, lse) = unsafe { (out.part(row * d..(row + 1) * d), lse.part(row..row + 1)) };
                lse[0] = top[at] * shape.scale + total[at].ln();
                // A query that sees no key: the result is zero.
                let inverse = s.splat(if total[at] == 0.0 { 0.0 } else { 1.0 / total[at] });
                for (c, out) in out.chunks_mut(L).enumerate() {
                    E::store_part(s, out, s.mul(s.load(block(o, at * wide + c * L)), inverse));
                }
            }
        }
    }
}

/// One step of the running softmax for sixteen queries, columns `col..col + 16` of `scores[count, QUERIES]`: raises the
/// maxima, writes how much older sums shrink into the third block of `state`, and replaces the scores by their
/// exponentials as units along the keys (rows `0..count / STEP`).
#[inline(always)]
fn softmax<P: Product>(
    p: P,
    scores: &mut [f32],
    state: (&mut [f32; L], &mut [f32; L], &mut [f32; L]),
    col: usize,
    count: usize,
    scale: f32,
    mask: Option<&Mask>,
    query: usize,
    key: usize,
) {
    let s = p.lanes();
    let old = s.load(state.0);
    let mut top = [old; 2];
    for r in (0..count).step_by(2) {
        for i in 0..2 {
            let at = block_mut(scores, (r + i) * QUERIES + col);
            let mut x = s.load(at);
            if let Some(mask) = mask {
                x = mask.apply(s, x, query, key + r + i);
                s.store(at, x);
            }
            top[i] = s.max(x, top[i]);
        }
    }
    let top = s.max(top[0], top[1]);
    // Exponentials to base 2 of scores in units of ln 2. Where no key was seen yet, any finite shift will do.
    let unit = s.splat(scale * std::f32::consts::LOG2_E);
    let lowest = s.splat(f32::NEG_INFINITY);
    let shift = s.select_lt(lowest, top, s.mul(top, unit), s.splat(0.0));
    let factor = math::exp2(s, s.sub(s.mul(old, unit), shift));
    let mut sums = [s.splat(0.0); 2];
    let zero = s.splat(0.0);
    let shift = s.sub(zero, shift);
    for r in (0..count).step_by(2) {
        let first = math::exp2(s, s.fma(s.load(block(scores, r * QUERIES + col)), unit, shift));
        let second = math::exp2(s, s.fma(s.load(block(scores, (r + 1) * QUERIES + col)), unit, shift));
        sums = [s.add(sums[0], first), s.add(sums[1], second)];
        if P::STEP == 2 {
            s.store(block_mut(scores, r / 2 * QUERIES + col), p.zip(first, second));
        } else {
            s.store(block_mut(scores, r * QUERIES + col), first);
            s.store(block_mut(scores, (r + 1) * QUERIES + col), second);
        }
    }
    s.store(state.0, top);
    s.store(state.1, s.fma(s.load(state.1), factor, s.add(sums[0], sums[1])));
    s.store(state.2, factor);
}
