//! A piece of attention to a cache in f32, whatever the cache keeps its values as. Must not know how pieces are combined.

use std::marker::PhantomData;

use super::AttnShape;
use super::cache::{Kind, Pages};
use super::cached::{BLOCK, Call, PIECE, Piece, Tile};
use super::mask::{LANES, Mask};
use super::product::{block, block_mut};
use crate::Isa;
use crate::lanes::{Elem, L, Simd, math, simd_fn};
use crate::matmul::prefetch;

/// Products of f32.
pub(super) struct Single<K>(PhantomData<K>);

impl<K: Kind> Piece for Single<K> {
    /// Queries, scores, sixteen keys, values.
    fn scratch(tile: &Tile, shape: &AttnShape) -> [usize; 4] {
        let (rows, wide) = (tile.rows(shape), shape.head_dim.next_multiple_of(L));
        [rows * wide, rows * PIECE, L * wide, if rows > BLOCK { PIECE * wide } else { 0 }]
    }

    fn run(isa: Isa, partial: &mut [f32], memory: [&mut [f32]; 4], call: &Call, tile: &Tile, kv: usize, start: usize) {
        piece_rows(isa, PhantomData::<K>, partial, memory, call, tile, kv, start);
    }
}

simd_fn! {
    fn piece_rows[K: Kind](
        s, kind: PhantomData<K>, partial: &mut [f32], memory: [&mut [f32]; 4], call: &Call, tile: &Tile, kv: usize,
        start: usize,
    ) {
        let Call { k, v, shape, .. } = *call;
        let (d, group) = (shape.head_dim, shape.group());
        let (wide, vectors) = (d.next_multiple_of(L), d.div_ceil(L));
        let (rows, used, mask) = (tile.rows(shape), tile.queries * group, Mask::new(tile.span, shape));
        let [queries, scores, keys, values] = memory;
        for r in 0..rows {
            let row = if r < used { call.query(tile, kv, r) } else { &[] };
            for j in 0..vectors {
                let part = &row[(j * L).min(row.len())..((j + 1) * L).min(row.len())];
                s.store(block_mut(queries, r * wide + j * L), f32::load_part(s, part));
            }
        }
        let keys_seen = tile.keys(start, shape);
        let (from, count) = (keys_seen.start, keys_seen.len());
        let first = tile.span.kv_start + from;

        let unit = s.splat(shape.scale * std::f32::consts::LOG2_E);
        let lowest = s.splat(f32::NEG_INFINITY);
        let (sums, stats) = partial.split_at_mut(rows * wide);
        let blocks = count.div_ceil(L);
        for b in 0..blocks {
            let at = from + b * L;
            // Vector j of key i is block j · L + i: a query then meets its sixteen keys one after the other.
            let (blocks, _) = keys.as_chunks_mut::<L>();
            for i in 0..L {
                if b * L + i + L < count {
                    prefetch(k.head(first + b * L + i + L, kv));
                }
                if b * L + i < count {
                    let head = k.head(first + b * L + i, kv);
                    for j in 0..vectors {
                        s.store(&mut blocks[j * L + i], K::vector(s, head, d, j));
                    }
                } else {
                    (0..vectors).for_each(|j| blocks[j * L + i] = [0.0; L]);
                }
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
                let seen = mask.seen(tile.first + r / group);
                let mut x = s.sum_each(dots);
                if seen.start > at || seen.end < at + L {
                    let lane = s.load(&LANES);
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
        if rows == BLOCK {
            let paged = Paged { pages: v, first, kv, count, kind };
            return sum_values(s, sums, scores, paged, 0, count, wide, vectors);
        }
        // Many rows: values are converted once for all.
        for i in 0..count {
            let head = v.head(first + i, kv);
            for j in 0..vectors {
                s.store(block_mut(values, i * wide + j * L), K::vector(s, head, d, j));
            }
        }
        for r in (0..rows).step_by(BLOCK) {
            sum_values(s, sums, scores, Unpacked { values, wide }, r, count, wide, vectors);
        }
    }
}

/// Values row by row.
trait Values: Copy {
    /// Vectors `from..from + N` of row `i`.
    fn vectors<S: Simd, const N: usize>(&self, s: S, i: usize, from: usize) -> [S::V; N];
}

#[derive(Clone, Copy)]
struct Paged<'a, K> {
    pages: Pages<'a>,
    first: usize,
    kv: usize,
    count: usize,
    kind: PhantomData<K>,
}

impl<K: Kind> Values for Paged<'_, K> {
    #[inline(always)]
    fn vectors<S: Simd, const N: usize>(&self, s: S, i: usize, from: usize) -> [S::V; N] {
        if i + L < self.count {
            prefetch(self.pages.head(self.first + i + L, self.kv));
        }
        K::vectors(s, self.pages.head(self.first + i, self.kv), self.pages.d, from)
    }
}

#[derive(Clone, Copy)]
struct Unpacked<'a> {
    values: &'a [f32],
    wide: usize,
}

impl Values for Unpacked<'_> {
    #[inline(always)]
    fn vectors<S: Simd, const N: usize>(&self, s: S, i: usize, from: usize) -> [S::V; N] {
        let row = &self.values[i * self.wide + from * L..][..N * L];
        let (whole, _) = row.as_chunks::<L>();
        std::array::from_fn(
            #[inline(always)]
            |n| s.load(&whole[n]),
        )
    }
}

/// `sums[r, j] = Σ_i p[r, i] · v[i, j]` for `BLOCK` rows from `r` on.
#[inline(always)]
fn sum_values<S: Simd, V: Values>(
    s: S,
    sums: &mut [f32],
    p: &[f32],
    v: V,
    r: usize,
    count: usize,
    wide: usize,
    vectors: usize,
) {
    let mut j = 0;
    while j < vectors {
        let at = (r, j);
        j += if S::WIDE && vectors - j >= 4 {
            add_values::<S, V, 4>(s, sums, p, v, at, count, wide)
        } else {
            add_values::<S, V, 1>(s, sums, p, v, at, count, wide)
        };
    }
}

/// The same for `N` vectors from `at` on; returns `N`.
#[inline(always)]
fn add_values<S: Simd, V: Values, const N: usize>(
    s: S,
    sums: &mut [f32],
    p: &[f32],
    v: V,
    at: (usize, usize),
    count: usize,
    wide: usize,
) -> usize {
    let mut acc = [[s.splat(0.0); N]; BLOCK];
    let p: [&[f32]; BLOCK] = std::array::from_fn(|r| &p[(at.0 + r) * PIECE..][..count]);
    for i in 0..count {
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
