//! Attention of queries to the keys of a cache. A query's result has the same bits whichever queries run beside it, however
//! its prompt was cut and wherever the blocks of its keys lie: the keys are taken in pieces that begin at fixed positions, each
//! piece's sums run in the order of the keys, and the pieces are combined in order (Dao et al. 2023, "Flash-Decoding").
//!
//! A unit of work of a few queries is one piece of one key/value head, so that all threads work on a single query; of many,
//! it is a tile of queries with all of its pieces.

use std::marker::PhantomData;
use std::ops::Range;

use super::cache::{Cached, Kind, Pages};
use super::mask::{LANES, Mask};
use super::product::{block, block_mut};
use super::{AttnShape, Span, floats};
use crate::Cpu;
use crate::lanes::{Elem, L, Simd, Split, math, simd_fn};
use crate::matmul::prefetch;
use crate::scratch::{Slot, with};

/// Keys of a piece.
const PIECE: usize = 512;

/// Rows (query, head) of a block: their sums of values stay in registers.
const BLOCK: usize = 4;

/// Rows of a tile of queries, about: as many share one reading of keys and values.
const TILE_ROWS: usize = 48;

/// Some queries of a span. Row `r` of a tile and key/value head is query `first + r / group`, head `r % group` of the group.
#[derive(Clone, Copy)]
struct Tile<'a> {
    span: &'a Span,
    first: usize,
    queries: usize,
}

impl Tile<'_> {
    fn rows(&self, shape: &AttnShape) -> usize {
        (self.queries * shape.group()).next_multiple_of(BLOCK)
    }

    /// The pieces with keys that the queries see; one at least, which gives zeros if there are none.
    fn pieces(&self, shape: &AttnShape) -> Range<usize> {
        let seen = Mask::new(self.span, shape).seen_by(self.first, self.first + self.queries);
        let start = seen.start / PIECE;
        start..seen.end.div_ceil(PIECE).max(start + 1)
    }

    /// Sums of values, maxima and sums of exponentials of a piece's rows.
    fn partial(&self, shape: &AttnShape) -> usize {
        self.rows(shape) * (shape.head_dim.next_multiple_of(L) + 2)
    }

    /// Lengths of the scratch slices of a piece: queries, scores, sixteen keys, values.
    fn scratch(&self, shape: &AttnShape) -> [usize; 4] {
        let (rows, wide) = (self.rows(shape), shape.head_dim.next_multiple_of(L));
        [rows * wide, rows * PIECE, L * wide, if rows > BLOCK { PIECE * wide } else { 0 }]
    }
}

pub(super) fn forward<K: Kind>(
    cpu: &Cpu,
    out: &mut [f32],
    q: &[f32],
    cache: &Cached,
    spans: &[Span],
    shape: &AttnShape,
) {
    let most = (TILE_ROWS / shape.group()).max(1);
    let (mut few, mut many) = (Vec::new(), Vec::new());
    for span in spans.iter().filter(|span| span.q_len > 0) {
        assert!(span.kv_start.is_multiple_of(cache.block), "a sequence begins with a block");
        let firsts = (0..span.q_len).step_by(most);
        let tiles = firsts.map(|first| Tile { span, first, queries: most.min(span.q_len - first) });
        if span.q_len <= most { few.extend(tiles) } else { many.extend(tiles) }
    }
    // Late queries see the most keys: they come first, so that short units fill the end.
    many.reverse();
    let call = Call { cpu, q, k: Pages::new(cache, cache.k, shape), v: Pages::new(cache, cache.v, shape), shape };
    let out = Split::new(out);
    call.pieces::<K>(&out, &few);
    call.tiles::<K>(&out, &many);
}

struct Call<'a> {
    cpu: &'a Cpu,
    q: &'a [f32],
    k: Pages<'a>,
    v: Pages<'a>,
    shape: &'a AttnShape,
}

impl Call<'_> {
    /// Tiles piece by piece.
    fn pieces<K: Kind>(&self, out: &Split<f32>, tiles: &[Tile]) {
        let (heads, shape) = (self.shape.kv_heads, self.shape);
        // Of each tile: its pieces, its first unit, and where the results of its units begin.
        let (mut units, mut end) = (0, 0);
        let places: Vec<(Range<usize>, usize, usize)> = tiles
            .iter()
            .map(|tile| {
                let place = (tile.pieces(shape), units, end);
                units += place.0.len() * heads;
                end += place.0.len() * heads * tile.partial(shape);
                place
            })
            .collect();
        with(Slot::Shared, 4 * end, |memory| {
            // SAFETY: the buffer has this many bytes and is this call's alone.
            let [partial] = unsafe { floats(memory, [end]) };
            let split = Split::new(&mut *partial);
            self.cpu.pool.run(units, |unit, _| {
                let i = places.partition_point(|place| place.1 <= unit) - 1;
                let (tile, (pieces, first, at)) = (&tiles[i], &places[i]);
                // Pieces of a head are neighbours, for the combination.
                let (kv, piece, each) =
                    ((unit - first) / pieces.len(), (unit - first) % pieces.len(), tile.partial(shape));
                let at = at + (unit - first) * each;
                // SAFETY: units have separate parts.
                let partial = unsafe { split.part(at..at + each) };
                self.piece::<K>(partial, tile, kv, pieces.start + piece);
            });
            self.cpu.pool.run(tiles.len() * heads, |unit, _| {
                let (i, kv) = (unit / heads, unit % heads);
                let (pieces, _, at) = &places[i];
                let each = pieces.len() * tiles[i].partial(shape);
                self.finish(out, &partial[at + kv * each..][..each], &tiles[i], kv);
            });
        });
    }

    /// Tiles with all of their pieces.
    fn tiles<K: Kind>(&self, out: &Split<f32>, tiles: &[Tile]) {
        let heads = self.shape.kv_heads;
        self.cpu.pool.run(tiles.len() * heads, |unit, _| {
            let (tile, kv) = (&tiles[unit / heads], unit % heads);
            let (pieces, each) = (tile.pieces(self.shape), tile.partial(self.shape));
            with(Slot::Partial, 4 * pieces.len() * each, |memory| {
                // SAFETY: the buffer has this many bytes and is this call's alone.
                let [partial] = unsafe { floats(memory, [pieces.len() * each]) };
                for (piece, partial) in pieces.zip(partial.chunks_exact_mut(each)) {
                    self.piece::<K>(partial, tile, kv, piece);
                }
                self.finish(out, partial, tile, kv);
            });
        });
    }

    fn piece<K: Kind>(&self, partial: &mut [f32], tile: &Tile, kv: usize, piece: usize) {
        let sizes = tile.scratch(self.shape);
        with(Slot::Local, 4 * sizes.iter().sum::<usize>(), |memory| {
            // SAFETY: the buffer has this many bytes and is this call's alone.
            let memory = unsafe { floats(memory, sizes) };
            let (isa, kind) = (self.cpu.isa, PhantomData::<K>);
            piece_rows(isa, kind, partial, memory, self.q, self.k, self.v, tile, kv, piece * PIECE, self.shape);
        });
    }

    /// The results of a tile and key/value head from those of its pieces.
    fn finish(&self, out: &Split<f32>, partial: &[f32], tile: &Tile, kv: usize) {
        let (d, group) = (self.shape.head_dim, self.shape.group());
        for r in 0..tile.queries * group {
            let row = (tile.span.q_start + tile.first + r / group) * self.shape.heads + kv * group + r % group;
            // SAFETY: every (query, head) belongs to one tile and key/value head.
            let out = unsafe { out.part(row * d..(row + 1) * d) };
            combine(self.cpu.isa, out, partial, tile.partial(self.shape), tile.rows(self.shape), r, self.shape.scale);
        }
    }
}

simd_fn! {
    /// The keys `start..start + PIECE` of one head, for all rows of a tile: into `partial`, sums of values `[rows, wide]`,
    /// maxima of raw scores `[rows]` and sums of exponentials `[rows]`.
    fn piece_rows[K: Kind](
        s, kind: PhantomData<K>, partial: &mut [f32], memory: [&mut [f32]; 4], q: &[f32], k: Pages, v: Pages, tile: &Tile,
        kv: usize, start: usize, shape: &AttnShape,
    ) {
        let (d, h, group, span) = (shape.head_dim, shape.heads, shape.group(), tile.span);
        let (wide, vectors) = (d.next_multiple_of(L), d.div_ceil(L));
        let (rows, used, mask) = (tile.rows(shape), tile.queries * group, Mask::new(span, shape));
        let [queries, scores, keys, values] = memory;
        for r in 0..rows {
            let at = ((span.q_start + tile.first + r / group) * h + kv * group + r % group) * d;
            let row = if r < used { &q[at..at + d] } else { &[] };
            for j in 0..vectors {
                let part = &row[(j * L).min(row.len())..((j + 1) * L).min(row.len())];
                s.store(block_mut(queries, r * wide + j * L), f32::load_part(s, part));
            }
        }
        let seen = mask.seen_by(tile.first, tile.first + tile.queries);
        // Sixteen keys that belong together for one query do so for all.
        let from = start.max(seen.start) / L * L;
        let end = (start + PIECE).min(seen.end).max(from);
        let first = span.kv_start + from;

        let unit = s.splat(shape.scale * std::f32::consts::LOG2_E);
        let lowest = s.splat(f32::NEG_INFINITY);
        let (sums, stats) = partial.split_at_mut(rows * wide);
        let (count, blocks) = (end - from, (end - from).div_ceil(L));
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

simd_fn! {
    /// Row `r` of all pieces of a head, `each` values apart.
    fn combine(s, out: &mut [f32], partial: &[f32], each: usize, rows: usize, r: usize, scale: f32) {
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
            f32::store_part(s, out, s.mul(sum, inverse));
        }
    }
}
