//! Attention of few queries to many keys, as in decoding: bound by reading keys and values once. A unit of work is one
//! key/value head of one piece of the keys, so that all threads work on a single query; the pieces' results are then
//! combined in order (Dao et al. 2023, "Flash-Decoding").

use super::mask::Mask;
use super::pack::Rows;
use super::product::{block, block_mut};
use super::{AttnShape, Span, Unit, floats, units};
use crate::Cpu;
use crate::lanes::{Elem, L, Simd, Split, math, simd_fn};
use crate::scratch::{Slot, with};

/// Keys of a piece.
const PIECE: usize = 512;

/// Rows (query, head) of a block: their sums of values stay in registers.
const BLOCK: usize = 4;

/// Whether a span is handled here.
pub(super) fn takes(span: &Span, shape: &AttnShape) -> bool {
    span.q_len == 1 || (span.q_len > 1 && span.q_len <= 4 && span.q_len * shape.group() <= 16)
}

/// Rows of a span and key/value head: row `r` is query `r / group`, head `r % group` of the group.
fn row_count(span: &Span, shape: &AttnShape) -> usize {
    (span.q_len * shape.group()).next_multiple_of(BLOCK)
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
    let (d, hk, group) = (shape.head_dim, shape.kv_heads, shape.group());
    let wide = d.next_multiple_of(L);
    // A span without keys has one empty piece, which gives zeros.
    let pieces = |span: &Span| if takes(span, shape) { span.kv_len.div_ceil(PIECE).max(1) } else { 0 };
    let total: usize = spans.iter().map(|span| pieces(span) * hk).sum();
    let most = spans.iter().filter(|s| takes(s, shape)).map(|s| row_count(s, shape)).max().unwrap_or(0);
    // Sums of values, maxima and sums of exponentials of the rows of each piece.
    let each = most * (wide + 2);
    with(Slot::Shared, 4 * total * each, |memory| {
        // SAFETY: the buffer has this many bytes and is this call's alone.
        let [partial] = unsafe { floats(memory, [total * each]) };
        let split = Split::new(&mut *partial);
        cpu.pool.run(total, |chunk, _| {
            let Unit { span, index } = units(spans, |span| pieces(span) * hk, chunk);
            let rows = row_count(span, shape);
            let sizes = [rows * wide, rows * PIECE, L * wide];
            with(Slot::Local, 4 * sizes.iter().sum::<usize>(), |memory| {
                // SAFETY: the buffer has this many bytes and is this call's alone; parts of chunks do not overlap.
                let (memory, partial) =
                    unsafe { (floats(memory, sizes), split.part(chunk * each..(chunk + 1) * each)) };
                // Pieces of a head are neighbours, for the combination.
                let (kv, piece) = (index / pieces(span), index % pieces(span));
                piece_rows::<E>(cpu.isa, partial, memory, q, k, v, span, kv, piece * PIECE, shape);
            })
        });
        let (out, lse) = (Split::new(out), Split::new(lse));
        let heads = |span: &Span| if takes(span, shape) { hk } else { 0 };
        cpu.pool.run(spans.iter().map(heads).sum(), |chunk, _| {
            let Unit { span, index: kv } = units(spans, heads, chunk);
            let before = spans.iter().take_while(|s| !std::ptr::eq(*s, span)).map(|s| pieces(s) * hk).sum::<usize>();
            let start = before + kv * pieces(span);
            let partial = &partial[start * each..(start + pieces(span)) * each];
            for r in 0..span.q_len * group {
                let row = (span.q_start + r / group) * shape.heads + kv * group + r % group;
                // SAFETY: every (query, head) belongs to one chunk.
                let (out, lse) = unsafe { (out.part(row * d..(row + 1) * d), lse.part(row..row + 1)) };
                lse[0] = combine::<E>(cpu.isa, out, partial, each, row_count(span, shape), r, shape.scale);
            }
        });
    })
}

simd_fn! {
    /// The keys `start..start + PIECE` of one head, for all its rows: into `partial`, sums of values `[rows, wide]`, maxima
    /// of raw scores `[rows]` and sums of exponentials `[rows]`.
    fn piece_rows[E: Elem](
        s, partial: &mut [f32], memory: [&mut [f32]; 3], q: &[E], k: &[E], v: &[E], span: &Span, kv: usize, start: usize,
        shape: &AttnShape,
    ) {
        let (d, h, hk, group) = (shape.head_dim, shape.heads, shape.kv_heads, shape.group());
        let (wide, vectors) = (d.next_multiple_of(L), d.div_ceil(L));
        let (rows, used, mask) = (row_count(span, shape), span.q_len * group, Mask::new(span, shape));
        let [queries, scores, keys] = memory;
        for r in 0..rows {
            let at = (span.q_start + r / group) * h + kv * group + r % group;
            let row = Rows { x: q, start: at * d, stride: 0, rows: if r < used { 1 } else { 0 }, d };
            for j in 0..vectors {
                s.store(block_mut(queries, r * wide + j * L), row.load(s, 0, j));
            }
        }
        let seen = mask.seen_by(0, span.q_len);
        let from = start.max(seen.start);
        let end = (start + PIECE).min(seen.end).max(from);
        let rows_of = |x, at: usize, count| {
            Rows { x, start: ((span.kv_start + at) * hk + kv) * d, stride: hk * d, rows: count, d }
        };

        let unit = s.splat(shape.scale * std::f32::consts::LOG2_E);
        let lowest = s.splat(f32::NEG_INFINITY);
        let (sums, stats) = partial.split_at_mut(rows * wide);
        let blocks = (end - from).div_ceil(L);
        for b in 0..blocks {
            let at = from + b * L;
            let x = rows_of(k, at, end - at);
            // Vector j of key i is block j · L + i: a query then meets its sixteen keys one after the other.
            let (blocks, _) = keys.as_chunks_mut::<L>();
            for i in 0..L {
                x.prefetch(i + L);
                x.each_vector(s, i, #[inline(always)] |j, v| s.store(&mut blocks[j * L + i], v));
            }
            for r in 0..used {
                let mut dots = [s.splat(0.0); L];
                let (query, _) = queries[r * wide..(r + 1) * wide].as_chunks::<L>();
                for (query, keys) in query.iter().zip(blocks.as_chunks::<L>().0) {
                    let query = s.load(query);
                    for i in 0..L {
                        dots[i] = s.fma(query, s.load(&keys[i]), dots[i]);
                    }
                }
                let seen = mask.seen(r / group);
                let mut x = s.sum_each(dots);
                if seen.start > at || seen.end < at + L {
                    let lane = s.load(&super::mask::LANES);
                    let bound = [seen.start, seen.end].map(|n| n.saturating_sub(at).min(L) as f32);
                    x = s.select_lt(lane, s.splat(bound[0]), lowest, x);
                    x = s.select_lt(lane, s.splat(bound[1]), x, lowest);
                }
                s.store(block_mut(scores, r * PIECE + b * L), x);
            }
        }
        for r in 0..rows {
            let row = &mut scores[r * PIECE..r * PIECE + blocks * L];
            if r >= used {
                row.fill(0.0);
                continue;
            }
            let mut top = lowest;
            for b in 0..blocks {
                top = s.max(s.load(block(row, b * L)), top);
            }
            let top = s.max_lane(top);
            let shift = if top == f32::NEG_INFINITY { 0.0 } else { top };
            let shift = s.mul(s.splat(-shift), unit);
            let mut total = s.splat(0.0);
            for b in 0..blocks {
                let x = block_mut(row, b * L);
                let p = math::exp2(s, s.fma(s.load(x), unit, shift));
                total = s.add(total, p);
                s.store(x, p);
            }
            stats[r] = top;
            stats[rows + r] = s.sum(total);
        }
        let x = rows_of(v, from, end - from);
        for r in (0..rows).step_by(BLOCK) {
            let mut j = 0;
            while j < vectors {
                let at = (r, j);
                j += if S::WIDE && vectors - j >= 4 {
                    add_values::<S, E, 4>(s, sums, scores, x, at, end - from, wide)
                } else {
                    add_values::<S, E, 1>(s, sums, scores, x, at, end - from, wide)
                };
            }
        }
    }
}

/// `sums[r, j] = Σ_i p[r, i] · v[i, j]` for `BLOCK` rows and `N` vectors from `at` on; returns `N`.
#[inline(always)]
fn add_values<S: Simd, E: Elem, const N: usize>(
    s: S,
    sums: &mut [f32],
    p: &[f32],
    v: Rows<E>,
    at: (usize, usize),
    count: usize,
    wide: usize,
) -> usize {
    let mut acc = [[s.splat(0.0); N]; BLOCK];
    let p: [&[f32]; BLOCK] = std::array::from_fn(|r| &p[(at.0 + r) * PIECE..][..count]);
    for i in 0..count {
        v.prefetch(i + L);
        let values: [S::V; N] = v.vectors(s, i, at.1);
        for r in 0..BLOCK {
            let p = s.splat(p[r][i]);
            for n in 0..N {
                acc[r][n] = s.fma(p, values[n], acc[r][n]);
            }
        }
    }
    for r in 0..BLOCK {
        for n in 0..N {
            s.store(block_mut(sums, (at.0 + r) * wide + (at.1 + n) * L), acc[r][n]);
        }
    }
    N
}

simd_fn! {
    /// Row `r` of all pieces of a head, `each` values apart: writes its result and returns its `lse`.
    fn combine[E: Elem](s, out: &mut [E], partial: &[f32], each: usize, rows: usize, r: usize, scale: f32) -> f32 {
        let wide = out.len().next_multiple_of(L);
        let (tops, totals) = (rows * wide + r, rows * wide + rows + r);
        let top = partial.chunks_exact(each).fold(f32::NEG_INFINITY, |top, x| if x[tops] > top { x[tops] } else { top });
        let factor = |x: &[f32]| if x[tops] == f32::NEG_INFINITY { 0.0 } else { ((x[tops] - top) * scale).exp() };
        let total: f32 = partial.chunks_exact(each).map(|x| factor(x) * x[totals]).sum();
        // A query that sees no key: the result is zero.
        let inverse = s.splat(if total == 0.0 { 0.0 } else { 1.0 / total });
        for (j, out) in out.chunks_mut(L).enumerate() {
            let mut sum = s.splat(0.0);
            for x in partial.chunks_exact(each) {
                sum = s.fma(s.splat(factor(x)), s.load(block(x, r * wide + j * L)), sum);
            }
            E::store_part(s, out, s.mul(sum, inverse));
        }
        top * scale + total.ln()
    }
}
