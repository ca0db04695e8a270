//! What lies between a tensor's bytes in its file and the bytes that a model computes with: nothing, rows in another order, or
//! rows and columns exchanged. It knows sizes, no file and no format.

/// How stored bytes become a weight's. The result has as many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restore {
    AsIs,
    /// llama.cpp rotates neighbouring pairs of a head's dimensions, Hugging Face pairs dimension j with j + d/2; llama.cpp's
    /// converter therefore interleaves the two halves of each head. Back to halves; whole rows move, so quantised ones do too.
    Halves {
        rows: usize,
        head_dim: usize,
    },
    /// From halves to interleaved rows.
    Interleaved {
        rows: usize,
        head_dim: usize,
    },
    /// `rows` × `columns` elements of `size` bytes, transposed.
    Transposed {
        rows: usize,
        columns: usize,
        size: usize,
    },
}

impl Restore {
    /// Fills `out` from `stored`, which is as long.
    pub fn apply(&self, out: &mut [u8], stored: &[u8]) {
        assert_eq!(out.len(), stored.len());
        match *self {
            Restore::AsIs => out.copy_from_slice(stored),
            Restore::Halves { rows, head_dim } => {
                move_rows(out, stored, rows, head_dim, |half, pair, part| (part * half + pair, 2 * pair + part))
            }
            Restore::Interleaved { rows, head_dim } => {
                move_rows(out, stored, rows, head_dim, |half, pair, part| (2 * pair + part, part * half + pair))
            }
            Restore::Transposed { rows, columns, size } => transpose(out, stored, rows, columns, size),
        }
    }
}

/// Fills row `to` of each head from row `from`, as `places(half, pair, part)` gives them. `rows` equal rows make up `stored`.
fn move_rows(
    out: &mut [u8],
    stored: &[u8],
    rows: usize,
    head_dim: usize,
    places: fn(usize, usize, usize) -> (usize, usize),
) {
    assert!(rows.is_multiple_of(head_dim) && head_dim.is_multiple_of(2), "{rows} rows in heads of {head_dim}");
    assert!(stored.len().is_multiple_of(rows), "{} bytes in {rows} rows", stored.len());
    let row = stored.len() / rows;
    let half = head_dim / 2;
    for (out, stored) in out.chunks_exact_mut(head_dim * row).zip(stored.chunks_exact(head_dim * row)) {
        for pair in 0..half {
            for part in 0..2 {
                let (to, from) = places(half, pair, part);
                out[to * row..][..row].copy_from_slice(&stored[from * row..][..row]);
            }
        }
    }
}

fn transpose(out: &mut [u8], stored: &[u8], rows: usize, columns: usize, size: usize) {
    /// Elements on a side of the square that is moved at once: both sides stay in the first-level cache.
    const TILE: usize = 32;
    for top in (0..rows).step_by(TILE) {
        for left in (0..columns).step_by(TILE) {
            for row in top..rows.min(top + TILE) {
                for column in left..columns.min(left + TILE) {
                    let (from, to) = ((row * columns + column) * size, (column * rows + row) * size);
                    out[to..to + size].copy_from_slice(&stored[from..from + size]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_interleaved_within_heads_and_put_back() {
        // Two heads of four rows of three bytes; the first byte is the row.
        let source: Vec<u8> = (0..8u8).flat_map(|row| [row, 100 + row, 200 + row]).collect();
        let mut there = vec![0; source.len()];
        Restore::Interleaved { rows: 8, head_dim: 4 }.apply(&mut there, &source);
        let order: Vec<u8> = there.chunks(3).map(|row| row[0]).collect();
        assert_eq!(order, [0, 2, 1, 3, 4, 6, 5, 7]);
        let mut back = vec![0; source.len()];
        Restore::Halves { rows: 8, head_dim: 4 }.apply(&mut back, &there);
        assert_eq!(back, source);
    }

    #[test]
    fn rows_and_columns_are_exchanged() {
        let mut out = [0; 12];
        Restore::Transposed { rows: 2, columns: 3, size: 2 }.apply(&mut out, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(out, [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
    }
}
