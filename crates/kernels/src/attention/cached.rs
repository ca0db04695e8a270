//! Attention of queries to the keys of a cache. A query's result has the same bits whichever queries run beside it, however
//! its prompt was cut and wherever the blocks of its keys lie: the keys are taken in pieces that begin at fixed positions, each
//! piece's sums run in the order of the keys, and the pieces are combined in order (Dao et al. 2023, "Flash-Decoding").
//!
//! A unit of work of a few queries is one piece of one key/value head, so that all threads work on a single query; of many,
//! it is a tile of queries with all of its pieces.

use std::ops::Range;

use super::cache::{Cached, Pages};
use super::mask::Mask;
use super::product::block;
use super::{AttnShape, Span, floats};
use crate::lanes::{Elem, L, Split, simd_fn};
use crate::scratch::{Slot, with};
use crate::{Cpu, Isa};

/// Keys of a piece.
pub(super) const PIECE: usize = 512;

/// Rows (query, head) of a block: their sums of values stay in registers.
pub(super) const BLOCK: usize = 4;

/// Rows of a tile of queries, about: as many share one reading of keys and values.
const TILE_ROWS: usize = 48;

/// How a piece is computed.
pub(super) trait Piece {
    /// Lengths of the scratch slices that a piece takes.
    fn scratch(tile: &Tile, shape: &AttnShape) -> [usize; 4];

    /// The keys `start..start + PIECE` of head `kv`, for all rows of a tile: into `partial`, sums of values `[rows, wide]`, maxima of
    /// raw scores `[rows]` and sums of exponentials `[rows]`.
    fn run(isa: Isa, partial: &mut [f32], memory: [&mut [f32]; 4], call: &Call, tile: &Tile, kv: usize, start: usize);
}

/// Some queries of a span. Row `r` of a tile and key/value head is query `first + r / group`, head `r % group` of the group.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub span: &'a Span,
    pub first: usize,
    pub queries: usize,
}

impl Tile<'_> {
    /// Rows, and some that do not count so that blocks are whole.
    pub fn rows(&self, shape: &AttnShape) -> usize {
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

    /// The keys of the piece that begins at `start` which any of the queries sees. Sixteen that belong together for one query do so
    /// for all.
    pub fn keys(&self, start: usize, shape: &AttnShape) -> Range<usize> {
        let seen = Mask::new(self.span, shape).seen_by(self.first, self.first + self.queries);
        let from = start.max(seen.start) / L * L;
        from..(start + PIECE).min(seen.end).max(from)
    }
}

pub(super) fn forward<P: Piece>(
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
    call.pieces::<P>(&out, &few);
    call.tiles::<P>(&out, &many);
}

/// What all pieces read.
pub(super) struct Call<'a> {
    cpu: &'a Cpu,
    q: &'a [f32],
    pub k: Pages<'a>,
    pub v: Pages<'a>,
    pub shape: &'a AttnShape,
}

impl Call<'_> {
    /// Tiles piece by piece.
    fn pieces<P: Piece>(&self, out: &Split<f32>, tiles: &[Tile]) {
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
                self.piece::<P>(partial, tile, kv, pieces.start + piece);
                if pieces.len() == 1 {
                    self.finish(out, partial, tile, kv);
                }
            });
            // A single piece is finished by now, which spares short contexts that threads wait for each other once more.
            let several: Vec<usize> = (0..tiles.len()).filter(|&i| places[i].0.len() > 1).collect();
            self.cpu.pool.run(several.len() * heads, |unit, _| {
                let (i, kv) = (several[unit / heads], unit % heads);
                let (pieces, _, at) = &places[i];
                let each = pieces.len() * tiles[i].partial(shape);
                // SAFETY: as above; this run begins when the other is done.
                let partial = unsafe { split.part(at + kv * each..at + (kv + 1) * each) };
                self.finish(out, partial, &tiles[i], kv);
            });
        });
    }

    /// Tiles with all of their pieces.
    fn tiles<P: Piece>(&self, out: &Split<f32>, tiles: &[Tile]) {
        let heads = self.shape.kv_heads;
        self.cpu.pool.run(tiles.len() * heads, |unit, _| {
            let (tile, kv) = (&tiles[unit / heads], unit % heads);
            let (pieces, each) = (tile.pieces(self.shape), tile.partial(self.shape));
            with(Slot::Partial, 4 * pieces.len() * each, |memory| {
                // SAFETY: the buffer has this many bytes and is this call's alone.
                let [partial] = unsafe { floats(memory, [pieces.len() * each]) };
                for (piece, partial) in pieces.zip(partial.chunks_exact_mut(each)) {
                    self.piece::<P>(partial, tile, kv, piece);
                }
                self.finish(out, partial, tile, kv);
            });
        });
    }

    fn piece<P: Piece>(&self, partial: &mut [f32], tile: &Tile, kv: usize, piece: usize) {
        let sizes = P::scratch(tile, self.shape);
        with(Slot::Local, 4 * sizes.iter().sum::<usize>(), |memory| {
            // SAFETY: the buffer has this many bytes and is this call's alone.
            let memory = unsafe { floats(memory, sizes) };
            P::run(self.cpu.isa, partial, memory, self, tile, kv, piece * PIECE);
        });
    }

    /// The query of row `r` of a tile and head `kv`.
    #[inline(always)]
    pub fn query(&self, tile: &Tile, kv: usize, r: usize) -> &[f32] {
        let AttnShape { heads, head_dim, .. } = *self.shape;
        let group = self.shape.group();
        let row = (tile.span.q_start + tile.first + r / group) * heads + kv * group + r % group;
        &self.q[row * head_dim..(row + 1) * head_dim]
    }

    /// The results of a tile and key/value head from those of its pieces.
    fn finish(&self, out: &Split<f32>, partial: &mut [f32], tile: &Tile, kv: usize) {
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
    /// Row `r` of all pieces of a head, `each` values apart.
    fn combine(s, out: &mut [f32], partial: &mut [f32], each: usize, rows: usize, r: usize, scale: f32) {
        let wide = out.len().next_multiple_of(L);
        let (tops, totals) = (rows * wide + r, rows * wide + rows + r);
        let top = partial.chunks_exact(each).fold(f32::NEG_INFINITY, |top, x| if x[tops] > top { x[tops] } else { top });
        // Each maximum becomes the factor of its piece.
        let mut total = 0.0;
        for x in partial.chunks_exact_mut(each) {
            x[tops] = if x[tops] == f32::NEG_INFINITY { 0.0 } else { ((x[tops] - top) * scale).exp() };
            total += x[tops] * x[totals];
        }
        // A query that sees no key: the result is zero.
        let inverse = s.splat(if total == 0.0 { 0.0 } else { 1.0 / total });
        for (j, out) in out.chunks_mut(L).enumerate() {
            let mut sum = s.splat(0.0);
            for x in partial.chunks_exact(each) {
                sum = s.fma(s.splat(x[tops]), s.load(block(x, r * wide + j * L)), sum);
            }
            f32::store_part(s, out, s.mul(sum, inverse));
        }
    }
}
