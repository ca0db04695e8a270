//! Products of small tiles: what attention is made of. All operands are packed and padded by the caller, so that the
//! inner loop has no edges. Must not know attention.
//!
//! Operands are slices of *units*: one f32, or on processors that multiply bf16, two bf16 in the bits of an f32. A
//! product runs over units; `STEP` values are summed in each.

use crate::lanes::{L, Simd};

/// Rows of `c` that are kept in registers.
pub(super) const MR: usize = 4;

/// How a unit is multiplied and made.
pub(super) trait Product: Copy {
    type S: Simd;
    /// Values in a unit.
    const STEP: usize;
    fn lanes(self) -> Self::S;
    /// `acc + a · b` in every lane, `a` and `b` units.
    fn dot(self, a: f32, b: V<Self>, acc: V<Self>) -> V<Self>;
    /// Units of which lane `i` holds `a[i]` and, if units are pairs, `b[i]`.
    fn zip(self, a: V<Self>, b: V<Self>) -> V<Self>;
    /// Writes sixteen values as `L / STEP` consecutive units.
    fn store(self, out: &mut [f32], v: V<Self>);
}

pub(super) type V<P> = <<P as Product>::S as Simd>::V;

/// Units of one f32.
#[derive(Clone, Copy)]
pub(super) struct Single<S>(pub S);

impl<S: Simd> Product for Single<S> {
    type S = S;
    const STEP: usize = 1;
    #[inline(always)]
    fn lanes(self) -> S {
        self.0
    }
    #[inline(always)]
    fn dot(self, a: f32, b: S::V, acc: S::V) -> S::V {
        self.0.fma(self.0.splat(a), b, acc)
    }
    #[inline(always)]
    fn zip(self, a: S::V, _: S::V) -> S::V {
        a
    }
    #[inline(always)]
    fn store(self, out: &mut [f32], v: S::V) {
        self.0.store(block_mut(out, 0), v)
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use pairs::Pairs;

#[cfg(target_arch = "x86_64")]
mod pairs {
    use core::arch::x86_64::*;

    use super::Product;
    use crate::lanes::Avx512;

    /// Units of two bf16, multiplied and added in f32 by one instruction.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Pairs(Avx512);

    impl Pairs {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
        #[inline]
        pub fn enabled() -> Pairs {
            Pairs(Avx512::enabled())
        }

        /// `v` without the second value of each unit.
        #[inline(always)]
        pub fn first(self, v: __m512) -> __m512 {
            // SAFETY: `self` proves the instruction set.
            unsafe { _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0xffff))) }
        }

        /// Writes sixteen values as eight units; `acc` plus the values as they were rounded.
        #[inline(always)]
        pub fn store_adding(self, out: &mut [f32; 8], v: __m512, acc: __m512) -> __m512 {
            let rounded = round(v);
            // SAFETY: `self` proves the instruction set; eight f32 are 256 bits.
            unsafe {
                _mm256_storeu_si256(out.as_mut_ptr().cast(), rounded);
                let wide = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(rounded));
                _mm512_add_ps(acc, _mm512_castsi512_ps(wide))
            }
        }
    }

    /// Sixteen rounded bf16.
    #[inline(always)]
    fn round(v: __m512) -> __m256i {
        // SAFETY: called from methods of `Pairs` only, which exists only where the instruction does. Both types are 256 bits.
        unsafe { core::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)) }
    }

    impl Product for Pairs {
        type S = Avx512;
        const STEP: usize = 2;
        #[inline(always)]
        fn lanes(self) -> Avx512 {
            self.0
        }
        #[inline(always)]
        fn dot(self, a: f32, b: __m512, acc: __m512) -> __m512 {
            // SAFETY: `self` proves the instruction set; all vectors have 512 bits.
            unsafe {
                let a = core::mem::transmute::<__m512, __m512bh>(_mm512_set1_ps(a));
                _mm512_dpbf16_ps(acc, a, core::mem::transmute::<__m512, __m512bh>(b))
            }
        }
        #[inline(always)]
        fn zip(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe {
                let low = _mm512_cvtepu16_epi32(round(a));
                let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(round(b)));
                _mm512_castsi512_ps(_mm512_or_si512(low, high))
            }
        }
        #[inline(always)]
        fn store(self, out: &mut [f32], v: __m512) {
            let out: &mut [f32; 8] = (&mut out[..8]).try_into().expect("eight units");
            // SAFETY: as above; eight f32 are 256 bits.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), round(v)) }
        }
    }
}

/// The sixteen values from `at` on.
#[inline(always)]
pub(super) fn block(x: &[f32], at: usize) -> &[f32; L] {
    x[at..at + L].try_into().expect("sixteen values")
}

#[inline(always)]
pub(super) fn block_mut(x: &mut [f32], at: usize) -> &mut [f32; L] {
    (&mut x[at..at + L]).try_into().expect("sixteen values")
}

/// The left operand: unit `k` of row `r` is at `r · row + k · unit`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub at: &'a [f32],
    pub row: usize,
    pub unit: usize,
}

/// `c[r, 0..16·nv] = Σ_k a[r, k] · b[k, 0..16·nv]` (`+ c` if `accumulate`) for `rows` rows of `c` with stride `ldc`; `b` has
/// stride `ldb`; `k` runs over `depth` units.
#[inline(always)]
pub(super) fn product<P: Product>(
    p: P,
    c: &mut [f32],
    ldc: usize,
    a: Left,
    b: &[f32],
    ldb: usize,
    rows: usize,
    nv: usize,
    depth: usize,
    accumulate: bool,
) {
    if rows == 0 || nv == 0 {
        return;
    }
    assert!(depth > 0 && c.len() >= (rows - 1) * ldc + nv * L);
    assert!(a.at.len() > (rows - 1) * a.row + (depth - 1) * a.unit);
    assert!(b.len() >= (depth - 1) * ldb + nv * L);
    let tile = Tile { ldc, row: a.row, unit: a.unit, ldb, depth, accumulate };
    let mut r = 0;
    while r < rows {
        let height = if rows - r < MR { 1 } else { MR };
        let mut n = 0;
        while n < nv {
            let width = if P::S::WIDE { (nv - n).min(4) } else { 1 };
            // SAFETY: rows r..r + height, vectors n..n + width and all units are inside by the assertions above.
            unsafe {
                let c = c.as_mut_ptr().add(r * ldc + n * L);
                let a = a.at.as_ptr().add(r * a.row);
                let b = b.as_ptr().add(n * L);
                match (height, width) {
                    (MR, 4) => micro::<P, MR, 4>(p, c, a, b, &tile),
                    (MR, 3) => micro::<P, MR, 3>(p, c, a, b, &tile),
                    (MR, 2) => micro::<P, MR, 2>(p, c, a, b, &tile),
                    (MR, _) => micro::<P, MR, 1>(p, c, a, b, &tile),
                    (_, 4) => micro::<P, 1, 4>(p, c, a, b, &tile),
                    (_, 3) => micro::<P, 1, 3>(p, c, a, b, &tile),
                    (_, 2) => micro::<P, 1, 2>(p, c, a, b, &tile),
                    (_, _) => micro::<P, 1, 1>(p, c, a, b, &tile),
                }
            }
            n += width;
        }
        r += height;
    }
}

/// Strides and length of a product.
struct Tile {
    ldc: usize,
    row: usize,
    unit: usize,
    ldb: usize,
    depth: usize,
    accumulate: bool,
}

/// One block of `R` rows and `NV` vectors, in registers.
///
/// # Safety
/// All addresses that the loops form are inside their slices.
#[inline(always)]
unsafe fn micro<P: Product, const R: usize, const NV: usize>(
    p: P,
    c: *mut f32,
    a: *const f32,
    b: *const f32,
    t: &Tile,
) {
    let s = p.lanes();
    let mut acc = [[s.splat(0.0); NV]; R];
    // SAFETY: this function's contract.
    unsafe {
        if t.accumulate {
            for r in 0..R {
                for n in 0..NV {
                    acc[r][n] = s.load(&*c.add(r * t.ldc + n * L).cast());
                }
            }
        }
        for k in 0..t.depth {
            let mut right = [s.splat(0.0); NV];
            for n in 0..NV {
                right[n] = s.load(&*b.add(k * t.ldb + n * L).cast());
            }
            for r in 0..R {
                let left = *a.add(r * t.row + k * t.unit);
                for n in 0..NV {
                    acc[r][n] = p.dot(left, right[n], acc[r][n]);
                }
            }
        }
        for r in 0..R {
            for n in 0..NV {
                s.store(&mut *c.add(r * t.ldc + n * L).cast(), acc[r][n]);
            }
        }
    }
}

/// Defines `fn name(isa, args…)` from a body that is generic over [`Product`] and an element type: bf16 elements are
/// multiplied as pairs where the processor can, everything else as f32.
macro_rules! product_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident [$e:ident] ($p:ident $(, $arg:ident : $ty:ty)* $(,)?) $body:block) => {
        $(#[$meta])*
        $vis fn $name<$e: $crate::lanes::Elem>(isa: $crate::Isa $(, $arg: $ty)*) {
            use $crate::attention::product::Single;

            #[inline(always)]
            fn body<P: $crate::attention::product::Product, $e: $crate::lanes::Elem>($p: P $(, $arg: $ty)*) $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2<$e: $crate::lanes::Elem>($($arg: $ty),*) {
                body::<_, $e>(Single($crate::lanes::Avx2::enabled()) $(, $arg)*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
            fn avx512<$e: $crate::lanes::Elem>($($arg: $ty),*) {
                body::<_, $e>(Single($crate::lanes::Avx512::enabled()) $(, $arg)*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
            fn pairs<$e: $crate::lanes::Elem>($($arg: $ty),*) {
                body::<_, $e>($crate::attention::product::Pairs::enabled() $(, $arg)*)
            }

            match isa {
                // SAFETY: a `Cpu` of this instruction set exists only where the processor has it.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx2 => unsafe { avx2::<$e>($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx512Bf16 if $e::BF16 => unsafe { pairs::<$e>($($arg),*) },
                // SAFETY: as above; `Avx512Bf16` and `Amx` include `Avx512`. Processors with tiles multiply f32 faster than pairs.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx512 | $crate::Isa::Avx512Bf16 | $crate::Isa::Amx => unsafe {
                    avx512::<$e>($($arg),*)
                },
                #[cfg(target_arch = "aarch64")]
                $crate::Isa::Neon | $crate::Isa::NeonDot => body::<_, $e>(Single($crate::lanes::Neon) $(, $arg)*),
                _ => body::<_, $e>(Single($crate::lanes::Portable) $(, $arg)*),
            }
        }
    };
}
pub(super) use product_fn;
