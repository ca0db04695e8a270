//! Sixteen f32 lanes, the same on every instruction set: what element-wise, norm and attention kernels are written in.
//! A kernel is one generic body ([`simd_fn!`]); sums are kept in sixteen lanes and folded in one order, so results differ
//! between instruction sets only by fused multiply-adds. Nothing here knows a kernel.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod elem;
mod map;
pub(crate) mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod split;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use elem::{Elem, one_type, typed};
pub(crate) use map::{map1, map2, map3, map3to2, sum1, sum2};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use portable::Portable;
pub(crate) use split::{ELEMENTS, Split, chunks_of, rows_per_chunk};

use half::slice::HalfFloatSliceExt;

use crate::{bf16, f16};

/// Lanes of a vector.
pub(crate) const L: usize = 16;

/// Proof that the processor runs an instruction set, with its operations on sixteen lanes. Every method is inlined into a
/// function that enables the instruction set.
pub(crate) trait Simd: Copy {
    /// Sixteen f32.
    type V: Copy;
    /// Whether one register holds sixteen lanes (there are then 32 of them): decides the blocking of products.
    const WIDE: bool;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; L]) -> Self::V;
    fn store(self, out: &mut [f32; L], v: Self::V);
    fn load_bf16(self, x: &[bf16; L]) -> Self::V;
    /// Rounds to nearest, ties to even; a NaN stays a NaN.
    fn store_bf16(self, out: &mut [bf16; L], v: Self::V);
    #[inline(always)]
    fn load_f16(self, x: &[f16; L]) -> Self::V {
        let mut wide = [0.0; L];
        x.convert_to_f32_slice(&mut wide);
        self.load(&wide)
    }
    /// Rounds to nearest, ties to even; what is too large becomes infinity, and a NaN stays one.
    #[inline(always)]
    fn store_f16(self, out: &mut [f16; L], v: Self::V) {
        let mut wide = [0.0; L];
        self.store(&mut wide, v);
        out.convert_from_f32_slice(&wide);
    }
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, fused where the instruction set can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` if either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` if either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    fn abs(self, a: Self::V) -> Self::V;
    /// The nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// `v · 2^n` for integer-valued `n` of -252..=252, through subnormals and to infinity.
    fn scale2(self, v: Self::V, n: Self::V) -> Self::V;
    /// `x` where `a < b`, else `y`.
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;

    /// The lanes added pairwise: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let mut x = [0.0; L];
        self.store(&mut x, v);
        let mut w = L / 2;
        while w > 0 {
            for i in 0..w {
                x[i] += x[i + w];
            }
            w /= 2;
        }
        x[0]
    }

    /// Lane `i` is the sum of the lanes of `v[i]`.
    #[inline(always)]
    fn sum_each(self, v: [Self::V; L]) -> Self::V {
        let mut sums = [0.0; L];
        for i in 0..L {
            sums[i] = self.sum(v[i]);
        }
        self.load(&sums)
    }

    /// The largest lane.
    #[inline(always)]
    fn max_lane(self, v: Self::V) -> f32 {
        let mut x = [0.0; L];
        self.store(&mut x, v);
        let mut w = L / 2;
        while w > 0 {
            for i in 0..w {
                x[i] = if x[i] > x[i + w] { x[i] } else { x[i + w] };
            }
            w /= 2;
        }
        x[0]
    }
}

/// Defines `fn name(isa, args…)` from a body that is generic over [`Simd`]: the body is compiled once for each instruction
/// set and chosen by `isa`. In the body `S` is the token's type and the first argument is the token.
macro_rules! simd_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $([$($g:ident : $bound:path),*])? ($s:ident $(, $arg:ident : $ty:ty)* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name $(<$($g: $bound),*>)? (isa: $crate::Isa $(, $arg: $ty)*) $(-> $ret)? {
            #[inline(always)]
            fn body<S: $crate::lanes::Simd $($(, $g: $bound)*)?>($s: S $(, $arg: $ty)*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2 $(<$($g: $bound),*>)? ($($arg: $ty),*) $(-> $ret)? {
                body($crate::lanes::Avx2::enabled() $(, $arg)*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
            fn avx512 $(<$($g: $bound),*>)? ($($arg: $ty),*) $(-> $ret)? {
                body($crate::lanes::Avx512::enabled() $(, $arg)*)
            }

            match isa {
                // SAFETY: a `Cpu` of this instruction set exists only where the processor has it.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above; `Avx512Bf16` and `Amx` include `Avx512`.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx512 | $crate::Isa::Avx512Bf16 | $crate::Isa::Amx => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "aarch64")]
                $crate::Isa::Neon | $crate::Isa::NeonDot => body($crate::lanes::Neon $(, $arg)*),
                _ => body($crate::lanes::Portable $(, $arg)*),
            }
        }
    };
}
pub(crate) use simd_fn;
