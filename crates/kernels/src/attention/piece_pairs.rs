//! A piece of attention to a bf16 cache by products of pairs of bf16 with f32 sums. Keys and values are read as they lie. Must not
//! know how pieces are combined.
//!
//! Queries and probabilities are rounded to bf16. The probabilities are summed as they were rounded: the result is then a mean of the
//! values with weights that add up to one, so rounding moves it by a share of how far the values lie apart, not of how large they are.
//!
//! A dot product adds the pairs of its head in order, a sum of values the pairs of positions, each in a lane of its own: how many
//! rows or keys a loop takes at a time changes no bit.

use super::AttnShape;
use super::cache::Pages;
use super::cached::{Call, PIECE, Piece, Tile};
use super::mask::{LANES, Mask};
use super::product::{Pairs, Product, V, block, block_mut};
use crate::Isa;
use crate::lanes::{Elem, L, Simd, math};
use crate::matmul::prefetch;

/// Products of bf16.
pub(super) struct InPairs;

/// Sixteens of values whose sums run through all rows before the next ones are read: they stay in the first-level cache.
const DEEP: usize = 8;

/// Units of sixteen values.
const UNITS: usize = L / 2;

impl Piece for InPairs {
    /// Queries, scores, sixteen maxima a row.
    fn scratch(tile: &Tile, shape: &AttnShape) -> [usize; 4] {
        let (rows, wide) = (tile.queries * shape.group(), shape.head_dim.next_multiple_of(L));
        [rows * wide / 2, rows * PIECE, rows * L, 0]
    }

    fn run(isa: Isa, partial: &mut [f32], memory: [&mut [f32]; 4], call: &Call, tile: &Tile, kv: usize, start: usize) {
        assert_eq!(isa, Isa::Avx512Bf16, "a cache in pairs");
        // SAFETY: a `Cpu` of this instruction set exists only where the processor has it.
        unsafe { piece(partial, memory, call, tile, kv, start) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
fn piece(partial: &mut [f32], memory: [&mut [f32]; 4], call: &Call, tile: &Tile, kv: usize, start: usize) {
    let p = Pairs::enabled();
    let (s, shape) = (p.lanes(), call.shape);
    let (d, group) = (shape.head_dim, shape.group());
    let (rows, wide) = (tile.queries * group, d.next_multiple_of(L));
    let [queries, scores, tops, _] = memory;
    for (r, out) in queries.chunks_exact_mut(wide / 2).enumerate() {
        for (x, out) in call.query(tile, kv, r).chunks(L).zip(out.chunks_exact_mut(UNITS)) {
            p.store(out, f32::load_part(s, x));
        }
    }
    let keys = tile.keys(start, shape);
    let first = tile.span.kv_start + keys.start;
    let sixteens = keys.len().div_ceil(L);
    let mask = Mask::new(tile.span, shape);
    let lowest = s.splat(f32::NEG_INFINITY);
    tops.as_chunks_mut().0.iter_mut().for_each(|top| s.store(top, lowest));
    let mut scored = Scored { scores, tops, queries, rows, depth: d.div_ceil(2), wide, mask, tile, group };
    let k = Units { pages: call.k, first, kv, count: sixteens };
    let mut b = 0;
    while b < sixteens {
        let at = keys.start + b * L;
        b +=
            if sixteens - b >= 4 { score::<4>(p, &mut scored, k, b, at) } else { score::<1>(p, &mut scored, k, b, at) };
    }

    let unit = s.splat(shape.scale * std::f32::consts::LOG2_E);
    // The rows of `partial` are whole blocks; those that do not count are not read.
    let (sums, stats) = partial.split_at_mut(tile.rows(shape) * wide);
    let (out_tops, out_totals) = stats.split_at_mut(tile.rows(shape));
    for r in 0..rows {
        let top = s.max_lane(s.load(block(tops, r * L)));
        let shift = if top == f32::NEG_INFINITY { 0.0 } else { top };
        let shift = s.mul(s.splat(-shift), unit);
        let mut total = s.splat(0.0);
        // Units take half the room: what is written was read before.
        let row = &mut scores[r * PIECE..(r + 1) * PIECE];
        for b in 0..sixteens {
            let x = math::exp2(s, s.fma(s.load(block(row, b * L)), unit, shift));
            let out: &mut [f32; UNITS] = (&mut row[b * UNITS..][..UNITS]).try_into().expect("eight units");
            total = p.store_adding(out, x, total);
        }
        out_tops[r] = top;
        out_totals[r] = s.sum(total);
    }

    if sixteens == 0 {
        sums.fill(0.0);
    }
    let v = Units { pages: call.v, first, kv, count: sixteens };
    for b in (0..sixteens).step_by(DEEP) {
        let count = keys.len() - b * L;
        add_values(p, sums, scores, v, b, count.min(DEEP * L), rows, wide);
    }
}

/// Sixteen positions each of keys or values of one head, as units.
#[derive(Clone, Copy)]
struct Units<'a> {
    pages: Pages<'a>,
    first: usize,
    kv: usize,
    /// Sixteens.
    count: usize,
}

impl<'a> Units<'a> {
    #[inline(always)]
    fn at(&self, b: usize) -> &'a [f32] {
        let bytes = self.pages.sixteen(self.first + b * L, self.kv);
        // SAFETY: f32 allow any bits. A cache is aligned to 4, and sixteen heads are a multiple of it.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<f32>()) }
    }

    /// The same if there is as much, to be fetched ahead.
    #[inline(always)]
    fn ahead(&self, b: usize) -> &'a [f32] {
        if b < self.count { self.at(b) } else { &[] }
    }
}

struct Scored<'a> {
    /// `[rows, PIECE]`, and the maxima of each row in sixteen lanes.
    scores: &'a mut [f32],
    tops: &'a mut [f32],
    /// `[rows, wide / 2]` units, of which `depth` count.
    queries: &'a [f32],
    rows: usize,
    depth: usize,
    wide: usize,
    mask: Mask,
    tile: &'a Tile<'a>,
    group: usize,
}

/// Scores of `16 N` keys from position `at` on, the `b`-th sixteen of the piece and its followers, for all rows; returns `N`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
#[inline]
fn score<const N: usize>(p: Pairs, to: &mut Scored, k: Units, b: usize, at: usize) -> usize {
    let (mut keys, mut next) = ([[].as_slice(); N], [[].as_slice(); N]);
    for n in 0..N {
        keys[n] = &k.at(b + n).as_chunks().0[..to.depth];
        next[n] = k.ahead(b + n + N);
    }
    // The first rows bring in the keys that come next.
    let mut r = match to.rows {
        1 => score_rows::<1, N, true>(p, to, keys, next, 0, b, at),
        2 => score_rows::<2, N, true>(p, to, keys, next, 0, b, at),
        3 => score_rows::<3, N, true>(p, to, keys, next, 0, b, at),
        _ => score_rows::<4, N, true>(p, to, keys, next, 0, b, at),
    };
    while r < to.rows {
        r += match to.rows - r {
            1 => score_rows::<1, N, false>(p, to, keys, next, r, b, at),
            2 => score_rows::<2, N, false>(p, to, keys, next, r, b, at),
            3 => score_rows::<3, N, false>(p, to, keys, next, r, b, at),
            _ => score_rows::<4, N, false>(p, to, keys, next, r, b, at),
        };
    }
    N
}

/// The same for rows `r..r + R`; returns `R`. A function of its own, so that nothing but its sums takes registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
#[inline(never)]
fn score_rows<const R: usize, const N: usize, const AHEAD: bool>(
    p: Pairs,
    to: &mut Scored,
    keys: [&[[f32; L]]; N],
    next: [&[f32]; N],
    r: usize,
    b: usize,
    at: usize,
) -> usize {
    let (s, depth) = (p.lanes(), to.depth);
    let mut acc = [[s.splat(0.0); N]; R];
    let keys = keys.map(|keys| &keys[..depth]);
    let mut queries = [[].as_slice(); R];
    for i in 0..R {
        queries[i] = &to.queries[(r + i) * to.wide / 2..][..depth];
    }
    for c in 0..depth {
        let mut right = [s.splat(0.0); N];
        for n in 0..N {
            right[n] = s.load(&keys[n][c]);
            if AHEAD {
                prefetch(next[n].get(c * L..(c + 1) * L).unwrap_or_default());
            }
        }
        for i in 0..R {
            for n in 0..N {
                acc[i][n] = p.dot(queries[i][c], right[n], acc[i][n]);
            }
        }
    }
    for i in 0..R {
        let seen = to.mask.seen(to.tile.first + (r + i) / to.group);
        let row = &mut to.scores[(r + i) * PIECE + b * L..][..N * L];
        let all = block_mut(to.tops, (r + i) * L);
        let mut top = s.load(all);
        for n in 0..N {
            let (mut x, at) = (acc[i][n], at + n * L);
            if seen.start > at || seen.end < at + L {
                let (lane, lowest) = (s.load(&LANES), s.splat(f32::NEG_INFINITY));
                let bound = [seen.start, seen.end].map(|n| n.saturating_sub(at).min(L) as f32);
                x = s.select_lt(lane, s.splat(bound[0]), lowest, x);
                x = s.select_lt(lane, s.splat(bound[1]), x, lowest);
            }
            s.store(block_mut(row, n * L), x);
            top = s.max(x, top);
        }
        s.store(all, top);
    }
    R
}

/// `sums[r, j] += Σ_i p[r, i] · v[i, j]` over `count` positions from the `b`-th sixteen on; the first ones begin the sums.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
#[inline]
fn add_values(p: Pairs, sums: &mut [f32], units: &[f32], v: Units, b: usize, count: usize, rows: usize, wide: usize) {
    let mut values = [[].as_slice(); DEEP];
    for (g, values) in values.iter_mut().enumerate().take(count.div_ceil(L)) {
        *values = v.at(b + g);
    }
    let mut some = Values { sums, units, values, v, b, count, wide };
    let mut r = 0;
    while r < rows {
        r += match rows - r {
            1 => add_rows::<1>(p, &mut some, r),
            2 => add_rows::<2>(p, &mut some, r),
            3 => add_rows::<3>(p, &mut some, r),
            _ => add_rows::<4>(p, &mut some, r),
        };
    }
}

/// Values of up to `DEEP` sixteens, and what they are added to.
struct Values<'a> {
    /// `[rows, wide]`.
    sums: &'a mut [f32],
    /// Probabilities `[rows, PIECE]`, half filled.
    units: &'a [f32],
    values: [&'a [f32]; DEEP],
    v: Units<'a>,
    b: usize,
    count: usize,
    wide: usize,
}

/// Rows `r..r + R`; returns `R`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
#[inline]
fn add_rows<const R: usize>(p: Pairs, to: &mut Values, r: usize) -> usize {
    let (mut j, vectors) = (0, to.wide / L);
    while j < vectors {
        j += match vectors - j {
            1 => add_vectors::<R, 1>(p, to, r, j),
            2 | 3 => add_vectors::<R, 2>(p, to, r, j),
            _ => add_vectors::<R, 4>(p, to, r, j),
        };
    }
    R
}

/// Vectors `j..j + N` of them; returns `N`. A function of its own as [`score_rows`] is.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
#[inline(never)]
fn add_vectors<const R: usize, const N: usize>(p: Pairs, to: &mut Values, r: usize, j: usize) -> usize {
    let s = p.lanes();
    let mut acc = [[s.splat(0.0); N]; R];
    if to.b > 0 {
        for i in 0..R {
            for n in 0..N {
                acc[i][n] = s.load(block(to.sums, (r + i) * to.wide + (j + n) * L));
            }
        }
    }
    for (g, values) in to.values.iter().enumerate().take(to.count.div_ceil(L)) {
        let width = values.len() / UNITS;
        let mut left = [&[0.0; UNITS]; R];
        for i in 0..R {
            let at = (r + i) * PIECE + (to.b + g) * UNITS;
            left[i] = to.units[at..at + UNITS].try_into().expect("eight units");
        }
        let ahead = if r == 0 { to.v.ahead(to.b + g + 1) } else { &[] };
        let positions = (to.count - g * L).min(L);
        for u in 0..positions.div_ceil(2) {
            let at = u * width + j * L;
            prefetch(ahead.get(at..at + N * L).unwrap_or_default());
            let mut right = vectors::<N>(p, values, at);
            if 2 * u + 1 == positions {
                // What lies in the other half was perhaps never written.
                for n in 0..N {
                    right[n] = p.first(right[n]);
                }
            }
            for i in 0..R {
                for n in 0..N {
                    acc[i][n] = p.dot(left[i][u], right[n], acc[i][n]);
                }
            }
        }
    }
    for i in 0..R {
        for n in 0..N {
            s.store(block_mut(to.sums, (r + i) * to.wide + (j + n) * L), acc[i][n]);
        }
    }
    N
}

/// `N` vectors of units. Lanes after the end of a head are anything.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
#[inline]
fn vectors<const N: usize>(p: Pairs, units: &[f32], at: usize) -> [V<Pairs>; N] {
    let s = p.lanes();
    let mut out = [s.splat(0.0); N];
    match units.get(at..at + N * L) {
        Some(whole) => {
            for n in 0..N {
                out[n] = s.load(block(whole, n * L));
            }
        }
        None => {
            for n in 0..N {
                let from = (at + n * L).min(units.len());
                out[n] = f32::load_part(s, &units[from..units.len().min(from + L)]);
            }
        }
    }
    out
}
