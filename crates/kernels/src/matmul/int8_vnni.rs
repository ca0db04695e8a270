//! Int8 products of interleaved weights with AVX-512 VNNI: each lane of a vector is a row of weights.

use super::int8_rows::Row;
use super::interleave::{Layout, PANEL};
use super::tile::{AHEAD, each_row};
use crate::QuantFormat;
use std::arch::x86_64::*;

/// Rows of activations that share one unpacking of the weights, at most.
pub(super) const TOGETHER: usize = 8;

/// One panel with up to [`TOGETHER`] rows of activations; row `i` goes to `out + i * ld`, `cols` elements of it.
pub(super) struct Panel<'a> {
    pub format: QuantFormat,
    pub panel: &'a [u8],
    /// Blocks of 32 columns.
    pub blocks: usize,
    pub rows: &'a [Row],
    pub out: *mut f32,
    pub ld: usize,
    pub cols: usize,
}

/// # Safety
/// The processor has AVX-512 F, BW, VL, DQ, VNNI and F16C; the panel and the rows have `blocks` blocks; `out` is valid for the
/// results.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
pub(super) unsafe fn multiply(p: &Panel) {
    debug_assert!(p.panel.len() == Layout::of(p.format).panel_bytes(p.blocks * 32) && p.cols <= PANEL);
    // SAFETY: as the caller promises.
    unsafe {
        match p.format {
            QuantFormat::Q4_0 => by_rows::<Q4_0>(p),
            QuantFormat::Q4_1 => by_rows::<Q4_1>(p),
            QuantFormat::Q5_0 => by_rows::<Q5_0>(p),
            QuantFormat::Q5_1 => by_rows::<Q5_1>(p),
            QuantFormat::Q8_0 => by_rows::<Q8_0>(p),
            QuantFormat::Q4K => by_rows::<Q4_K>(p),
            QuantFormat::Q5K => by_rows::<Q5_K>(p),
            QuantFormat::Q6K => by_rows::<Q6_K>(p),
        }
    }
}

const Q4_0: u8 = 0;
const Q4_1: u8 = 1;
const Q5_0: u8 = 2;
const Q5_1: u8 = 3;
const Q8_0: u8 = 4;
const Q4_K: u8 = 5;
const Q5_K: u8 = 6;
const Q6_K: u8 = 7;

const fn format_of(f: u8) -> QuantFormat {
    QuantFormat::ALL[f as usize]
}

/// Groups of 8, 4, 2 and 1 rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
unsafe fn by_rows<const F: u8>(p: &Panel) {
    let mut done = 0;
    while done < p.rows.len() {
        let left = p.rows.len() - done;
        let (rows, out) = (&p.rows[done..], p.out.wrapping_add(done * p.ld));
        // SAFETY: as the caller promises.
        done += unsafe {
            match left {
                8.. => some::<F, 8>(p, rows, out),
                4.. => some::<F, 4>(p, rows, out),
                2.. => some::<F, 2>(p, rows, out),
                _ => some::<F, 1>(p, rows, out),
            }
        };
    }
}

/// The first `M` of `rows`; returns `M`.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
unsafe fn some<const F: u8, const M: usize>(p: &Panel, rows: &[Row], out: *mut f32) -> usize {
    let rows: [Row; M] = std::array::from_fn(|i| rows[i]);
    let layout = const { Layout::of(format_of(F)) };
    let outer = p.panel.as_ptr();
    let mut record = outer.wrapping_add(layout.records(p.blocks));
    let mut acc = [_mm512_setzero_ps(); M];
    for b in 0..p.blocks {
        // SAFETY: block `b` is inside the panel and the rows; any address may be fetched.
        unsafe {
            // One row waits for its weights. Formats with 256 columns to a block, which take more to unpack, gain nothing.
            if M == 1 && matches!(F, Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0) {
                for line in 0..layout.record().div_ceil(64) {
                    _mm_prefetch::<_MM_HINT_T1>(record.wrapping_add(AHEAD + 64 * line).cast());
                }
            }
            let u = unpack::<F>(record, record.add(layout.levels));
            let s = scales::<F>(record.add(layout.levels + layout.high), outer.add(b / 8 * layout.outer));
            record = record.add(layout.record());
            each_row!(M, i, {
                let row = &rows[i];
                let dx = _mm512_set1_ps(*row.scales.add(b));
                if F == Q6_K {
                    let low = four(_mm512_set1_epi32(*row.halves.add(2 * b)), &u, 0, row, b);
                    let high = four(_mm512_set1_epi32(*row.halves.add(2 * b + 1)), &u, 4, row, b);
                    acc[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), _mm512_mul_ps(s.scale, dx), acc[i]);
                    acc[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_mul_ps(s.other, dx), acc[i]);
                } else {
                    let zero = match F {
                        Q4_0 => _mm512_set1_epi32(*row.zero8.add(b)),
                        Q5_0 => _mm512_set1_epi32(*row.zero16.add(b)),
                        Q8_0 => _mm512_set1_epi32(*row.zero128.add(b)),
                        _ => _mm512_setzero_si512(),
                    };
                    let dots = four(four(zero, &u, 0, row, b), &u, 4, row, b);
                    acc[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), _mm512_mul_ps(s.scale, dx), acc[i]);
                    if matches!(F, Q4_1 | Q5_1 | Q4_K | Q5_K) {
                        acc[i] = _mm512_fmadd_ps(s.other, _mm512_set1_ps(*row.sums.add(b)), acc[i]);
                    }
                }
            });
        }
    }
    let mask = if p.cols >= PANEL { 0xffff } else { (1u16 << p.cols) - 1 };
    for (i, acc) in acc.iter().enumerate() {
        // SAFETY: the caller's `out` has this row; the mask keeps to its columns.
        unsafe { _mm512_mask_storeu_ps(out.add(i * p.ld), mask, *acc) };
    }
    M
}

/// Adds the products of groups `g..g + 4` of block `b`.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn four(mut sum: __m512i, u: &[__m512i; 8], g: usize, row: &Row, b: usize) -> __m512i {
    for i in g..g + 4 {
        // SAFETY: the row has block `b`.
        let q = unsafe { row.q.add(b * 32 + i * 4).cast::<i32>().read_unaligned() };
        sum = _mm512_dpbusd_epi32(sum, u[i], _mm512_set1_epi32(q));
    }
    sum
}

/// The levels of 16 rows: vector `g` has columns `4g..4g + 4`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn unpack<const F: u8>(levels: *const u8, high: *const u8) -> [__m512i; 8] {
    let mut u = [_mm512_setzero_si512(); 8];
    // SAFETY: as the caller promises.
    let at = |p: *const u8, i: usize| unsafe { _mm512_loadu_si512(p.add(i * 64).cast()) };
    if F == Q8_0 {
        for (g, u) in u.iter_mut().enumerate() {
            *u = at(levels, g);
        }
        return u;
    }
    let nibble = _mm512_set1_epi8(15);
    for g in 0..4 {
        let both = at(levels, g);
        u[g] = _mm512_and_si512(both, nibble);
        u[g + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), nibble);
    }
    // Bits beyond the fourth are moved to their place and taken in by `(a & mask) | u`.
    if matches!(F, Q5_0 | Q5_1 | Q5_K) {
        let (h, mask) = (at(high, 0), _mm512_set1_epi8(0x10));
        let put = |h: __m512i, u: __m512i| _mm512_ternarylogic_epi32::<0xEA>(h, mask, u);
        u[0] = put(_mm512_slli_epi32::<4>(h), u[0]);
        u[1] = put(_mm512_slli_epi32::<3>(h), u[1]);
        u[2] = put(_mm512_slli_epi32::<2>(h), u[2]);
        u[3] = put(_mm512_slli_epi32::<1>(h), u[3]);
        u[4] = put(h, u[4]);
        u[5] = put(_mm512_srli_epi32::<1>(h), u[5]);
        u[6] = put(_mm512_srli_epi32::<2>(h), u[6]);
        u[7] = put(_mm512_srli_epi32::<3>(h), u[7]);
    }
    if F == Q6_K {
        let mask = _mm512_set1_epi8(0x30);
        let put = |h: __m512i, u: __m512i| _mm512_ternarylogic_epi32::<0xEA>(h, mask, u);
        for half in 0..2 {
            let (h, g) = (at(high, half), half * 4);
            u[g] = put(_mm512_slli_epi32::<4>(h), u[g]);
            u[g + 1] = put(_mm512_slli_epi32::<2>(h), u[g + 1]);
            u[g + 2] = put(h, u[g + 2]);
            u[g + 3] = put(_mm512_srli_epi32::<2>(h), u[g + 3]);
        }
    }
    u
}

/// For each row of weights.
struct Scales {
    scale: __m512,
    /// What is added for each unit of activations, or (Q6_K) the scale of the second half.
    other: __m512,
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
unsafe fn scales<const F: u8>(head: *const u8, outer: *const u8) -> Scales {
    // SAFETY: as the caller promises: 16 halves, or 16 bytes, at each place.
    let (halves, bytes) = unsafe {
        (
            |p: *const u8, i: usize| _mm512_cvtph_ps(_mm256_loadu_si256(p.add(i * 32).cast())),
            |p: *const u8, i: usize| _mm_loadu_si128(p.add(i * 16).cast()),
        )
    };
    match F {
        Q4_1 | Q5_1 => Scales { scale: halves(head, 0), other: halves(head, 1) },
        Q4_K | Q5_K => {
            let wide = |v: __m128i| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(v));
            let min = _mm512_mul_ps(halves(outer, 1), wide(bytes(head, 1)));
            Scales {
                scale: _mm512_mul_ps(halves(outer, 0), wide(bytes(head, 0))),
                other: _mm512_sub_ps(_mm512_setzero_ps(), min),
            }
        }
        Q6_K => {
            let wide = |v: __m128i| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(v));
            let d = halves(outer, 0);
            Scales { scale: _mm512_mul_ps(d, wide(bytes(head, 0))), other: _mm512_mul_ps(d, wide(bytes(head, 1))) }
        }
        _ => Scales { scale: halves(head, 0), other: _mm512_setzero_ps() },
    }
}
