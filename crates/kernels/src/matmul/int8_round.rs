//! Rounding a row of activations to int8 with AVX-512 VNNI. Must not know weights.

use super::int8_rows::Row;
use std::arch::x86_64::*;

/// Blocks whose scales are made at once: a division for each lane, where one for each block would take longer than all the rest.
const SIDE_BY_SIDE: usize = 16;

/// Rounds a row to int8 in blocks of 32 with scale `max |x| / 127`. A block with a NaN or infinity gets a NaN scale.
///
/// # Safety
/// The processor has the features; the row's arrays have `x.len() / 32` blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn round(row: &Row, x: &[f32]) {
    let blocks = x.as_chunks::<32>().0;
    for (at, some) in blocks.chunks(SIDE_BY_SIDE).enumerate() {
        // SAFETY: the row's arrays have these blocks.
        unsafe { round_some(row, at * SIDE_BY_SIDE, some) };
    }
}

/// Blocks `first..first + some.len()`, at most [`SIDE_BY_SIDE`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn round_some(row: &Row, first: usize, some: &[[f32; 32]]) {
    let halves_of = |x: &[f32; 32]| {
        let (low, high) = x.split_at(16);
        // SAFETY: both have 16 values.
        unsafe { [_mm512_loadu_ps(low.as_ptr()), _mm512_loadu_ps(high.as_ptr())] }
    };
    let infinity = _mm512_set1_ps(f32::INFINITY);
    let mut largest = [0f32; SIDE_BY_SIDE];
    for (largest, x) in largest.iter_mut().zip(some) {
        let sizes = halves_of(x).map(|v| _mm512_abs_ps(v));
        // Below infinity in size: neither it nor NaN.
        let finite = sizes.map(|v| _mm512_cmp_ps_mask::<_CMP_LT_OQ>(v, infinity));
        let most = _mm512_reduce_max_ps(_mm512_max_ps(sizes[0], sizes[1]));
        *largest = if finite[0] & finite[1] == 0xffff { most } else { f32::NAN };
    }
    let mut inverse = [0f32; SIDE_BY_SIDE];
    let (count, zero) = (some.len(), _mm512_setzero_ps());
    let mask = ((1u32 << count) - 1) as u16;
    // SAFETY: the arrays here have 16 elements, those of the row all that the mask lets through.
    let scale = unsafe {
        let (all, levels) = (_mm512_loadu_ps(largest.as_ptr()), _mm512_set1_ps(127.0));
        let scale = _mm512_div_ps(all, levels);
        // A block of zeros, or with what is not finite, has no inverse: it becomes zeros.
        let some = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(all, zero);
        _mm512_storeu_ps(inverse.as_mut_ptr(), _mm512_maskz_div_ps(some, levels, all));
        _mm512_mask_storeu_ps(row.scales.cast_mut().add(first), mask, scale);
        scale
    };
    // Of each block, the sums of both halves.
    let mut sums = [[0i32; 2]; SIDE_BY_SIDE];
    for (i, x) in some.iter().enumerate() {
        let inverse = _mm512_set1_ps(inverse[i]);
        let q = halves_of(x).map(|v| _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(v, inverse))));
        let q = _mm256_set_m128i(q[1], q[0]);
        // Sums of four, then of both halves' sixteen.
        let fours = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), q);
        let eights = _mm256_add_epi32(fours, _mm256_shuffle_epi32::<0b10_11_00_01>(fours));
        let halves = _mm256_add_epi32(eights, _mm256_shuffle_epi32::<0b01_00_11_10>(eights));
        sums[i] = [_mm256_extract_epi32::<0>(halves), _mm256_extract_epi32::<4>(halves)];
        // SAFETY: the row has this block.
        unsafe { _mm256_storeu_si256(row.q.cast_mut().add((first + i) * 32).cast(), q) };
    }
    // SAFETY: as above; each block has two halves.
    unsafe {
        let sums = sums.as_flattened();
        let pairs = [_mm512_loadu_si512(sums.as_ptr().cast()), _mm512_loadu_si512(sums[16..].as_ptr().cast())];
        for (i, pairs) in pairs.iter().enumerate() {
            let mask = ((1u64 << (2 * count)) - 1) >> (16 * i);
            let minus = _mm512_mullo_epi32(*pairs, _mm512_set1_epi32(-32));
            _mm512_mask_storeu_epi32(row.halves.cast_mut().add(2 * first + 16 * i), mask as u16, minus);
        }
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        let [low, high] = [even, odd].map(|which| _mm512_permutex2var_epi32(pairs[0], which, pairs[1]));
        let sum = _mm512_add_epi32(low, high);
        _mm512_mask_storeu_ps(row.sums.cast_mut().add(first), mask, _mm512_mul_ps(scale, _mm512_cvtepi32_ps(sum)));
        for (to, by) in [(row.zero8, 3), (row.zero16, 4), (row.zero128, 7)] {
            let minus = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_sllv_epi32(sum, _mm512_set1_epi32(by)));
            _mm512_mask_storeu_epi32(to.cast_mut().add(first), mask, minus);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    /// The arrays of a row of `k`.
    fn rounded(x: &[f32]) -> (Vec<i8>, [Vec<f32>; 2], [Vec<i32>; 4]) {
        let (k, blocks) = (x.len(), x.len() / 32);
        let mut memory = vec![0x5a5a_5a5au32; Row::bytes(k) / 4];
        // SAFETY: the memory has as many bytes and outlives the row; the caller has seen that the processor has the features.
        unsafe {
            let row = Row::at(memory.as_mut_ptr().cast(), k);
            round(&row, x);
            let floats = |p: *const f32| std::slice::from_raw_parts(p, blocks).to_vec();
            let whole = |p: *const i32, n: usize| std::slice::from_raw_parts(p, n).to_vec();
            (
                std::slice::from_raw_parts(row.q, k).to_vec(),
                [floats(row.scales), floats(row.sums)],
                [(row.zero8, 1), (row.zero16, 1), (row.zero128, 1), (row.halves, 2)].map(|(p, n)| whole(p, n * blocks)),
            )
        }
    }

    #[test]
    fn every_block_is_rounded_as_if_it_were_alone() {
        if !Isa::available().iter().any(|isa| isa.has_avx512_bf16()) {
            return;
        }
        for blocks in [1, 2, 15, 16, 17, 18, 33, 48] {
            let mut x: Vec<f32> =
                (0..32 * blocks).map(|i| (i * 7919 % 2003) as f32 / (1 + i / 32) as f32 - 300.0).collect();
            let (zeros, odd) = (blocks / 2, blocks - 1);
            x[32 * zeros..][..32].fill(0.0);
            if blocks > 2 {
                x[32 * odd + 7] = if blocks % 2 == 0 { f32::NAN } else { f32::NEG_INFINITY };
            }
            let (q, [scales, sums], [zero8, zero16, zero128, halves]) = rounded(&x);
            for (b, x) in x.chunks_exact(32).enumerate() {
                let q: Vec<i32> = q[32 * b..][..32].iter().map(|&q| q.into()).collect();
                let largest = x.iter().fold(0f32, |a, x| a.max(x.abs()));
                let [low, high] = [&q[..16], &q[16..]].map(|q| q.iter().sum::<i32>());
                let sum = low + high;
                assert_eq!(
                    [zero8[b], zero16[b], zero128[b]],
                    [-8 * sum, -16 * sum, -128 * sum],
                    "block {b} of {blocks}"
                );
                assert_eq!(halves[2 * b..][..2], [-32 * low, -32 * high], "block {b} of {blocks}");
                if !x.iter().all(|x| x.is_finite()) {
                    assert!(scales[b].is_nan() && sums[b].is_nan(), "block {b} of {blocks}");
                    continue;
                }
                assert_eq!(
                    (scales[b], sums[b]),
                    (largest / 127.0, largest / 127.0 * sum as f32),
                    "block {b} of {blocks}"
                );
                for (x, q) in x.iter().zip(q) {
                    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                    assert_eq!(q, (x * inverse).round_ties_even() as i32, "{x} in block {b} of {blocks}");
                }
            }
        }
    }
}
