//! Functions that look at rows: bias, column sums, scatter.

use crate::lanes::{Elem, L, Split, chunks_of, map2, map3, rows_per_chunk, simd_fn, typed};
use crate::{Cpu, In, Out};

/// Columns of a chunk of `sum_rows` and `scatter_add_rows`: four vectors, whose sums stay in registers.
const COLUMNS: usize = 4 * L;

/// Rows that are added before their sum is added to the total, so that rounding errors grow with two short sums.
const BLOCK: usize = 64;

simd_fn! {
    fn add_bias_row[O: Elem, A: Elem](s, out: &mut [O], x: &[A], b: &[f32]) {
        map2(s, out, x, b, #[inline(always)] |x, b| s.add(x, b));
    }
}
simd_fn! {
    fn add_bias_row_inplace[O: Elem](s, out: &mut [O], b: &[f32]) {
        map3(s, out, b, b, true, #[inline(always)] |out, b, _| s.add(out, b));
    }
}
simd_fn! {
    /// Columns `col..col + out.len()` (at most `COLUMNS`) of all rows.
    fn sum_columns[A: Elem](s, out: &mut [f32], x: &[A], accumulate: bool, col: usize, rows: usize, c: usize) {
        let width = out.len();
        let mut total = [s.splat(0.0); COLUMNS / L];
        let mut row = 0;
        while row < rows {
            let end = (row + BLOCK).min(rows);
            let mut part = [s.splat(0.0); COLUMNS / L];
            for r in row..end {
                let x = &x[r * c + col..r * c + col + width];
                if let Ok(x) = <&[A; COLUMNS]>::try_from(x) {
                    let (blocks, _) = x.as_chunks::<L>();
                    for j in 0..COLUMNS / L {
                        part[j] = s.add(part[j], A::load(s, &blocks[j]));
                    }
                } else {
                    for (j, x) in x.chunks(L).enumerate() {
                        part[j] = s.add(part[j], A::load_part(s, x));
                    }
                }
            }
            for j in 0..COLUMNS / L {
                total[j] = s.add(total[j], part[j]);
            }
            row = end;
        }
        for (out, total) in out.chunks_mut(L).zip(total) {
            let total = if accumulate { s.add(f32::load_part(s, out), total) } else { total };
            f32::store_part(s, out, total);
        }
    }
}
simd_fn! {
    fn add_row[A: Elem](s, out: &mut [f32], x: &[A]) {
        map3(s, out, x, x, true, #[inline(always)] |out, x, _| s.add(out, x));
    }
}

impl Cpu {
    /// `out[i, ..] = x[i, ..] + b` for rows of `c` columns; `out` may be filled with `x` beforehand by passing `None`.
    pub fn add_bias(&self, out: Out, x: Option<In>, b: &[f32], c: usize) {
        assert_eq!(b.len(), c, "add_bias: length of b and columns");
        typed!(out out; {
            if out.is_empty() {
                return;
            }
            let rows = out.len() / c;
            assert_eq!(rows * c, out.len(), "add_bias: rows of {c} columns");
            let (size, split) = (rows_per_chunk(c), Split::new(out));
            let range = |row: usize| row * c..(row + 1) * c;
            match x {
                Some(x) => typed!(in x; {
                    assert_eq!(x.len(), rows * c, "add_bias: lengths of x and out");
                    self.pool.run(rows.div_ceil(size), |chunk, _| {
                        for row in chunks_of(rows, size, chunk) {
                            // SAFETY: every row belongs to one chunk.
                            let out = unsafe { split.part(range(row)) };
                            add_bias_row(self.isa, out, &x[range(row)], b);
                        }
                    })
                }),
                None => self.pool.run(rows.div_ceil(size), |chunk, _| {
                    for row in chunks_of(rows, size, chunk) {
                        // SAFETY: every row belongs to one chunk.
                        let out = unsafe { split.part(range(row)) };
                        add_bias_row_inplace(self.isa, out, b);
                    }
                }),
            }
        })
    }

    /// `out[c] = Σ_rows x[rows, c]` (`+ out` if `accumulate`).
    pub fn sum_rows(&self, out: &mut [f32], x: In, accumulate: bool, rows: usize, c: usize) {
        assert_eq!((out.len(), x.len()), (c, rows * c), "sum_rows: lengths of out and x");
        let split = Split::new(out);
        typed!(in x; self.pool.run(c.div_ceil(COLUMNS), |chunk, _| {
            let range = chunks_of(c, COLUMNS, chunk);
            // SAFETY: column ranges of different chunks do not overlap.
            let out = unsafe { split.part(range.clone()) };
            sum_columns(self.isa, out, x, accumulate, range.start, rows, c);
        }))
    }

    /// `out[ids[i], ..] += x[i, ..]` for rows of `c` columns, in the order of `i`.
    pub fn scatter_add_rows(&self, out: &mut [f32], ids: &[u32], x: In, c: usize) {
        assert_eq!(x.len(), ids.len() * c, "scatter_add_rows: lengths of x and ids");
        // A chunk owns columns, not rows: rows that repeat are then added by one thread, in order.
        let width = c.div_ceil(8).next_multiple_of(L);
        let split = Split::new(out);
        typed!(in x; self.pool.run(c.div_ceil(width.max(1)), |chunk, _| {
            let range = chunks_of(c, width, chunk);
            for (i, id) in ids.iter().enumerate() {
                let at = *id as usize * c;
                // SAFETY: column ranges of different chunks do not overlap.
                let out = unsafe { split.part(at + range.start..at + range.end) };
                add_row(self.isa, out, &x[i * c + range.start..i * c + range.end]);
            }
        }))
    }
}
