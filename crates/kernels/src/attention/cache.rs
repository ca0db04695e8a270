//! How a cache keeps keys and values: blocks of positions in the order of a table, in a block one head after the other, so that what a
//! head reads lies together; as f32, bf16, 8 or 4 bits. Here they are written, and read as f32 vectors. Where a table multiplies bf16 in
//! pairs, a bf16 cache keeps them in another order ([`super::cache_pairs`]). Must not know scores.

use std::marker::PhantomData;

use super::AttnShape;
use super::cache_pairs::write_pairs;
use crate::lanes::{Elem, L, Simd, Split, simd_fn};
use crate::{Cpu, Isa, bf16};

/// Values of 8 or 4 bits that share a scale.
const GROUP: usize = 32;

/// Fewer rows are written sooner than another thread would be there to help.
const FEW_WRITES: usize = 8;

/// What a cache keeps its values as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CacheType {
    #[default]
    F32,
    Bf16,
    /// Symmetric: 32 values of 8 bits have a scale (8.5 bits a value).
    Q8,
    /// Asymmetric: 32 values of 4 bits have a scale and a lowest value (5 bits a value).
    Q4,
}

impl CacheType {
    /// Bytes of one head of `d` values at one position.
    pub fn head_bytes(self, d: usize) -> usize {
        let groups = d.div_ceil(GROUP);
        match self {
            CacheType::F32 => 4 * d,
            // Whole pairs.
            CacheType::Bf16 => 2 * d.next_multiple_of(2),
            CacheType::Q8 => groups * (GROUP + 2),
            CacheType::Q4 => groups * (GROUP / 2 + 4),
        }
    }
}

/// Which half of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Keys,
    Values,
}

/// Keys and values of a cache, written by the table that reads them. Row `r` of a [`Span`](super::Span)'s keys is row `r % block` of the block that entry `r / block`
/// of the table names, so each sequence has consecutive entries; `kv_start` is a multiple of `block`.
#[derive(Clone, Copy, Debug)]
pub struct Cached<'a> {
    pub kind: CacheType,
    /// `[blocks, kv_heads, block]` heads of [`CacheType::head_bytes`] each, aligned to 4. In what order the values of a head's block
    /// lie is the table's affair.
    pub k: &'a [u8],
    pub v: &'a [u8],
    pub table: &'a [u32],
    /// Positions in a block: 16, 32, 64 …
    pub block: usize,
}

/// Keys or values of one key/value head.
#[derive(Clone, Copy)]
pub(super) struct Pages<'a> {
    bytes: &'a [u8],
    table: &'a [u32],
    shift: u32,
    kv_heads: usize,
    /// Bytes of a head.
    head: usize,
    pub d: usize,
}

impl<'a> Pages<'a> {
    pub fn new(cache: &Cached<'a>, bytes: &'a [u8], shape: &AttnShape) -> Pages<'a> {
        assert!(cache.block.is_power_of_two() && cache.block >= L, "blocks of {} positions", cache.block);
        assert!(bytes.as_ptr().addr().is_multiple_of(4), "caches are aligned");
        let head = cache.kind.head_bytes(shape.head_dim);
        let shift = cache.block.trailing_zeros();
        Pages { bytes, table: cache.table, shift, kv_heads: shape.kv_heads, head, d: shape.head_dim }
    }

    /// The bytes of head `kv` of row `row`.
    #[inline(always)]
    pub fn head(&self, row: usize, kv: usize) -> &'a [u8] {
        &self.bytes[self.place(row, kv)..][..self.head]
    }

    /// The bytes of head `kv` of sixteen rows, `row` a multiple of sixteen.
    #[inline(always)]
    #[cfg(target_arch = "x86_64")]
    pub fn sixteen(&self, row: usize, kv: usize) -> &'a [u8] {
        &self.bytes[self.place(row, kv)..][..L * self.head]
    }

    #[inline(always)]
    fn place(&self, row: usize, kv: usize) -> usize {
        let block = self.table[row >> self.shift] as usize;
        (((block * self.kv_heads + kv) << self.shift) + (row & ((1 << self.shift) - 1))) * self.head
    }
}

/// One way to read a head.
pub(super) trait Kind: Copy + Send + Sync + 'static {
    /// Values `16 j..16 j + 16` of a head of `d`; after its end, anything.
    fn vector<S: Simd>(s: S, head: &[u8], d: usize, j: usize) -> S::V;

    /// Vectors `from..from + N`.
    #[inline(always)]
    fn vectors<S: Simd, const N: usize>(s: S, head: &[u8], d: usize, from: usize) -> [S::V; N] {
        let mut out = [s.splat(0.0); N];
        for n in 0..N {
            out[n] = Self::vector(s, head, d, from + n);
        }
        out
    }
}

#[derive(Clone, Copy)]
pub(super) struct Float<E>(PhantomData<E>);

#[inline(always)]
fn values<E: Elem>(head: &[u8]) -> &[E] {
    // SAFETY: `E` is f32 or bf16, which allow any bits. Heads of these kinds start at multiples of their values' size in memory
    // that is aligned to 4.
    unsafe { std::slice::from_raw_parts(head.as_ptr().cast(), head.len() / size_of::<E>()) }
}

impl<E: Elem> Kind for Float<E> {
    #[inline(always)]
    fn vector<S: Simd>(s: S, head: &[u8], _: usize, j: usize) -> S::V {
        let head = values::<E>(head);
        let part = &head[j * L..head.len().min((j + 1) * L)];
        match part.try_into() {
            Ok(whole) => E::load(s, whole),
            Err(_) => E::load_part(s, part),
        }
    }
    #[inline(always)]
    fn vectors<S: Simd, const N: usize>(s: S, head: &[u8], d: usize, from: usize) -> [S::V; N] {
        let mut out = [s.splat(0.0); N];
        match values::<E>(head).as_chunks::<L>().0.get(from..from + N) {
            Some(whole) => {
                for n in 0..N {
                    out[n] = E::load(s, &whole[n]);
                }
            }
            None => {
                for n in 0..N {
                    out[n] = Self::vector(s, head, d, from + n);
                }
            }
        }
        out
    }
}

/// The `i`-th bf16 of what follows a head's codes.
#[inline(always)]
fn factor(after: &[u8], i: usize) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes([after[2 * i], after[2 * i + 1]])) << 16)
}

/// Codes of all groups, then a scale for each.
#[derive(Clone, Copy)]
pub(super) struct Eight;

impl Kind for Eight {
    #[inline(always)]
    fn vector<S: Simd>(s: S, head: &[u8], d: usize, j: usize) -> S::V {
        let (codes, after) = head.split_at(d.div_ceil(GROUP) * GROUP);
        let codes: &[u8; L] = codes[j * L..][..L].try_into().expect("sixteen codes");
        let mut x = [0.0; L];
        for i in 0..L {
            x[i] = f32::from(codes[i] as i8);
        }
        s.mul(s.load(&x), s.splat(factor(after, j / 2)))
    }
}

/// Codes of all groups (the first sixteen in the low halves of bytes, the others in the high ones), then scale and lowest value
/// for each.
#[derive(Clone, Copy)]
pub(super) struct Four;

impl Kind for Four {
    #[inline(always)]
    fn vector<S: Simd>(s: S, head: &[u8], d: usize, j: usize) -> S::V {
        let (codes, after) = head.split_at(d.div_ceil(GROUP) * GROUP / 2);
        let codes: &[u8; L] = codes[j / 2 * L..][..L].try_into().expect("sixteen bytes");
        let (mut x, shift) = ([0.0; L], j % 2 * 4);
        for i in 0..L {
            x[i] = f32::from(codes[i] >> shift & 15);
        }
        let (scale, lowest) = (factor(after, j / 2 * 2), factor(after, j / 2 * 2 + 1));
        s.fma(s.load(&x), s.splat(scale), s.splat(lowest))
    }
}

/// Runs code with `$K` the kind of reading that a type needs.
macro_rules! one_kind {
    ($kind:expr, $K:ident => $body:expr) => {
        match $kind {
            $crate::attention::cache::CacheType::F32 => {
                type $K = $crate::attention::cache::Float<f32>;
                $body
            }
            $crate::attention::cache::CacheType::Bf16 => {
                type $K = $crate::attention::cache::Float<$crate::bf16>;
                $body
            }
            $crate::attention::cache::CacheType::Q8 => {
                type $K = $crate::attention::cache::Eight;
                $body
            }
            $crate::attention::cache::CacheType::Q4 => {
                type $K = $crate::attention::cache::Four;
                $body
            }
        }
    };
}
pub(super) use one_kind;

impl Cpu {
    /// Whether this table keeps such a cache in pairs, and multiplies them as pairs.
    pub(super) fn pairs_of(&self, kind: CacheType) -> bool {
        kind == CacheType::Bf16 && self.isa == Isa::Avx512Bf16
    }

    /// Writes the rows of `k` and `v` `[rows.len(), kv_heads·d]` as positions `rows` of both halves of a cache, keys and values: row
    /// `r % block` of block `r / block`.
    pub fn cache_write(
        &self,
        kind: CacheType,
        out: [&mut [u8]; 2],
        [k, v]: [&[f32]; 2],
        rows: &[u32],
        block: usize,
        kv_heads: usize,
        d: usize,
    ) {
        let (head, width) = (kind.head_bytes(d), kv_heads * d);
        for x in [k, v] {
            assert_eq!(x.len(), rows.len() * width, "values for {} rows of a cache", rows.len());
        }
        let [to_k, to_v] = out.map(Split::new);
        // A task has one head of one half: what heads write lies apart.
        let task = |task: usize| {
            let (kv, odd) = (task / 2, task % 2);
            let (half, to, x) = [(Half::Keys, &to_k, k), (Half::Values, &to_v, v)][odd];
            for (i, &row) in rows.iter().enumerate() {
                let row = (row as usize / block * kv_heads + kv) * block + row as usize % block;
                let x = &x[i * width + kv * d..][..d];
                if self.pairs_of(kind) {
                    let start = row / L * L * head;
                    // SAFETY: the sixteen are of this head, which no other task writes.
                    let sixteen = unsafe { to.part(start..start + L * head) };
                    write_pairs(self.isa, half, sixteen, x, row % L);
                } else {
                    // SAFETY: as above.
                    write(self.isa, kind, unsafe { to.part(row * head..(row + 1) * head) }, x);
                }
            }
        };
        match rows.len() < FEW_WRITES {
            true => (0..2 * kv_heads).for_each(task),
            false => self.pool.run(2 * kv_heads, |i, _| task(i)),
        }
    }
}

simd_fn! {
    /// One head.
    fn write(s, kind: CacheType, out: &mut [u8], x: &[f32]) {
        match kind {
            CacheType::F32 => out.chunks_exact_mut(4).zip(x).for_each(|(out, x)| out.copy_from_slice(&x.to_ne_bytes())),
            CacheType::Bf16 => {
                for (out, x) in out.chunks_mut(2 * L).zip(x.chunks(L)) {
                    let mut rounded = [bf16::ZERO; L];
                    s.store_bf16(&mut rounded, f32::load_part(s, x));
                    out.chunks_exact_mut(2).zip(&rounded).for_each(|(out, x)| out.copy_from_slice(&x.to_ne_bytes()));
                }
            }
            CacheType::Q8 => {
                let (codes, after) = out.split_at_mut(x.len().div_ceil(GROUP) * GROUP);
                for ((x, codes), after) in x.chunks(GROUP).zip(codes.chunks_exact_mut(GROUP)).zip(after.chunks_exact_mut(2)) {
                    eight(codes, after, x);
                }
            }
            CacheType::Q4 => {
                let (codes, after) = out.split_at_mut(x.len().div_ceil(GROUP) * GROUP / 2);
                let groups = x.chunks(GROUP).zip(codes.chunks_exact_mut(GROUP / 2)).zip(after.chunks_exact_mut(4));
                groups.for_each(|((x, codes), after)| four(codes, after, x));
            }
        }
    }
}

/// The nearest bf16 that is not below a positive `x`; what is not finite stays so.
#[inline(always)]
fn up(x: f32) -> bf16 {
    let nearest = bf16::from_f32(x);
    if nearest.to_f32() < x { bf16::from_bits(nearest.to_bits() + 1) } else { nearest }
}

/// The nearest bf16 that is not above `x`.
#[inline(always)]
fn down(x: f32) -> bf16 {
    let nearest = bf16::from_f32(x);
    match nearest.to_f32() > x {
        true if nearest.is_sign_negative() => bf16::from_bits(nearest.to_bits() + 1),
        true => bf16::from_bits(nearest.to_bits() - 1),
        false => nearest,
    }
}

/// A group with a value that is not finite gets a scale that is not.
#[inline(always)]
fn eight(codes: &mut [u8], after: &mut [u8], x: &[f32]) {
    let largest = x.iter().fold(0f32, |a, x| if x.abs() > a { x.abs() } else { a });
    let odd: f32 = x.iter().map(|x| x * 0.0).sum();
    let scale = if odd == 0.0 { up(largest / 127.0) } else { bf16::NAN };
    after.copy_from_slice(&scale.to_le_bytes());
    let inverse = if largest > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
    codes.fill(0);
    codes.iter_mut().zip(x).for_each(|(code, x)| *code = (x * inverse).round_ties_even() as i8 as u8);
}

#[inline(always)]
fn four(codes: &mut [u8], after: &mut [u8], x: &[f32]) {
    let least = x.iter().fold(f32::INFINITY, |a, &x| if x < a { x } else { a });
    let most = x.iter().fold(f32::NEG_INFINITY, |a, &x| if x > a { x } else { a });
    let odd: f32 = x.iter().map(|x| x * 0.0).sum();
    // Every value is at least the lowest as it is kept.
    let lowest = down(least);
    let scale = if odd == 0.0 { up((most - lowest.to_f32()) / 15.0) } else { bf16::NAN };
    after[..2].copy_from_slice(&scale.to_le_bytes());
    after[2..].copy_from_slice(&lowest.to_le_bytes());
    let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
    codes.fill(0);
    for (i, x) in x.iter().enumerate() {
        let code = ((x - lowest.to_f32()) * inverse).round_ties_even().min(15.0) as u8;
        codes[i % 16] |= code << (i / 16 * 4);
    }
}
