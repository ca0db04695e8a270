//! The order of rows in Llama's q and k weights. llama.cpp rotates neighbouring pairs of a head's dimensions, Hugging
//! Face pairs dimension j with j + d/2; its converter therefore interleaves the two halves of each head. Whole rows
//! move, so the rows of a quantised weight can be put back without touching their values.

use crate::Bytes;

/// Interleaved rows (GGUF) back to halves (Hugging Face). `rows` equal rows make up `bytes`; heads have `head_dim`.
pub(super) fn to_halves(bytes: &[u8], rows: usize, head_dim: usize) -> Bytes {
    move_rows(bytes, rows, head_dim, |half, pair, part| (part * half + pair, 2 * pair + part))
}

/// Halves (Hugging Face) to interleaved rows (GGUF).
pub(super) fn to_interleaved(bytes: &[u8], rows: usize, head_dim: usize) -> Bytes {
    move_rows(bytes, rows, head_dim, |half, pair, part| (2 * pair + part, part * half + pair))
}

/// Fills row `to` of each head from row `from`, as `places(half, pair, part)` gives them.
fn move_rows(bytes: &[u8], rows: usize, head_dim: usize, places: fn(usize, usize, usize) -> (usize, usize)) -> Bytes {
    assert!(rows.is_multiple_of(head_dim) && head_dim.is_multiple_of(2), "{rows} rows in heads of {head_dim}");
    assert!(bytes.len().is_multiple_of(rows), "{} bytes in {rows} rows", bytes.len());
    let row = bytes.len() / rows;
    let half = head_dim / 2;
    Bytes::build(bytes.len(), |out| {
        for (out, source) in out.chunks_exact_mut(head_dim * row).zip(bytes.chunks_exact(head_dim * row)) {
            for pair in 0..half {
                for part in 0..2 {
                    let (to, from) = places(half, pair, part);
                    out[to * row..][..row].copy_from_slice(&source[from * row..][..row]);
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_interleaved_within_heads_and_put_back() {
        // Two heads of four rows of three bytes; the first byte is the row.
        let source: Vec<u8> = (0..8u8).flat_map(|row| [row, 100 + row, 200 + row]).collect();
        let there = to_interleaved(&source, 8, 4);
        let order: Vec<u8> = there.chunks(3).map(|row| row[0]).collect();
        assert_eq!(order, [0, 2, 1, 3, 4, 6, 5, 7]);
        let back = to_halves(&there, 8, 4);
        assert_eq!(&*back, &source[..]);
    }
}
