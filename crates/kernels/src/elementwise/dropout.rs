//! Dropout with a counter-based mask: the mask of an element depends on its key, row and column, not on who computes it.

use crate::lanes::{Elem, L, Split, chunks_of, one_type, rows_per_chunk, simd_fn};
use crate::random::{number, row_keys};
use crate::{Cpu, In, Out};

simd_fn! {
    /// One row: elements whose number is below `threshold` become zero, the others are multiplied by `scale`.
    fn dropout_row[E: Elem](s, out: &mut [E], x: &[E], keys: (u32, u32), threshold: u32, scale: f32) {
        for (j, (out, x)) in out.chunks_mut(L).zip(x.chunks(L)).enumerate() {
            let mut factor = [0.0f32; L];
            for i in 0..L {
                let keep = number(keys, (j * L + i) as u32) >= threshold;
                factor[i] = if keep { scale } else { 0.0 };
            }
            // A NaN that is dropped must not survive as 0 · NaN.
            let factor = s.load(&factor);
            let kept = s.mul(E::load_part(s, x), factor);
            let y = s.select_lt(s.splat(0.0), factor, kept, factor);
            E::store_part(s, out, y);
        }
    }
}

impl Cpu {
    /// Inverted dropout: `out = x / (1-p)` where kept, else 0. The element at (`row`, `col`) is kept by a counter-based
    /// random number of (`key`, `row0 + row`, `col`), so that a recomputed or re-sharded row has the same mask. The backward
    /// pass is the same call on the gradient. Rows have `c` columns.
    pub fn dropout(&self, out: Out, x: In, p: f32, key: u64, row0: u64, c: usize) {
        assert!((0.0..1.0).contains(&p), "dropout: p = {p} is not in 0..1");
        one_type!(x, E => {
            let (out, x) = (E::output(out, "dropout"), E::input(x, "dropout"));
            assert_eq!(out.len(), x.len(), "dropout: lengths of out and x");
            if x.is_empty() {
                return;
            }
            let rows = x.len() / c;
            assert_eq!(rows * c, x.len(), "dropout: rows of {c} columns");
            let (size, split) = (rows_per_chunk(c), Split::new(out));
            let threshold = (p as f64 * 4_294_967_296.0).round() as u32;
            let scale = (1.0 / (1.0 - p as f64)) as f32;
            self.pool.run(rows.div_ceil(size), |chunk, _| {
                for row in chunks_of(rows, size, chunk) {
                    let r = row * c..(row + 1) * c;
                    // SAFETY: every row belongs to one chunk.
                    let out = unsafe { split.part(r.clone()) };
                    dropout_row(self.isa, out, &x[r], row_keys(key, row0 + row as u64), threshold, scale);
                }
            });
        })
    }
}
