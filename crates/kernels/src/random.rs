//! Random numbers that are counted, not drawn: a function of (key, row, column), so that it does not matter which thread asks,
//! or in which order. Knows no kernel.

/// A bijective 64-bit mixer (the finaliser of SplitMix64, Steele et al. 2014).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Two 32-bit keys of a row. The odd constant separates neighbouring rows before they are mixed.
pub(crate) fn row_keys(key: u64, row: u64) -> (u32, u32) {
    let k = mix(mix(key) ^ row.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (k as u32, (k >> 32) as u32)
}

/// A 32-bit random number for a column, from the keys of its row: two rounds of a bijective multiply-xorshift mixer
/// with a key before each.
#[inline(always)]
pub(crate) fn number(keys: (u32, u32), col: u32) -> u32 {
    let mut x = col ^ keys.0;
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x = (x ^ (x >> 16)).wrapping_add(keys.1);
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}
