//! The element types of activations, f32, bf16 and f16, loaded to and stored from f32 lanes.

use super::{L, Simd};
use crate::{In, Out, bf16, f16};

pub(crate) trait Elem: Copy + Default + Send + Sync + 'static {
    /// Whether this is bf16, which some processors multiply as it is.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    const BF16: bool;
    fn load<S: Simd>(s: S, x: &[Self; L]) -> S::V;
    fn store<S: Simd>(s: S, out: &mut [Self; L], v: S::V);
    fn to_f32(self) -> f32;
    /// The slice inside `x`, which must hold this type. `kernel` is for the message.
    fn input<'a>(x: In<'a>, kernel: &str) -> &'a [Self];
    fn output<'a>(x: Out<'a>, kernel: &str) -> &'a mut [Self];

    /// Up to sixteen elements, zeros after them.
    #[inline(always)]
    fn load_part<S: Simd>(s: S, x: &[Self]) -> S::V {
        let mut whole = [Self::default(); L];
        whole[..x.len()].copy_from_slice(x);
        Self::load(s, &whole)
    }
    /// The first `out.len()` lanes.
    #[inline(always)]
    fn store_part<S: Simd>(s: S, out: &mut [Self], v: S::V) {
        let mut whole = [Self::default(); L];
        Self::store(s, &mut whole, v);
        out.copy_from_slice(&whole[..out.len()]);
    }
}

impl Elem for f32 {
    const BF16: bool = false;
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[f32; L]) -> S::V {
        s.load(x)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, out: &mut [f32; L], v: S::V) {
        s.store(out, v)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    fn input<'a>(x: In<'a>, kernel: &str) -> &'a [f32] {
        match x {
            In::F32(x) => x,
            other => panic!("{kernel}: an input is {} where the others are f32", other.name()),
        }
    }
    fn output<'a>(x: Out<'a>, kernel: &str) -> &'a mut [f32] {
        match x {
            Out::F32(x) => x,
            other => panic!("{kernel}: an output is {} where the others are f32", other.name()),
        }
    }
}

impl Elem for bf16 {
    const BF16: bool = true;
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[bf16; L]) -> S::V {
        s.load_bf16(x)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, out: &mut [bf16; L], v: S::V) {
        s.store_bf16(out, v)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
    fn input<'a>(x: In<'a>, kernel: &str) -> &'a [bf16] {
        match x {
            In::Bf16(x) => x,
            other => panic!("{kernel}: an input is {} where the others are bf16", other.name()),
        }
    }
    fn output<'a>(x: Out<'a>, kernel: &str) -> &'a mut [bf16] {
        match x {
            Out::Bf16(x) => x,
            other => panic!("{kernel}: an output is {} where the others are bf16", other.name()),
        }
    }
}

impl Elem for f16 {
    const BF16: bool = false;
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[f16; L]) -> S::V {
        s.load_f16(x)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, out: &mut [f16; L], v: S::V) {
        s.store_f16(out, v)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    fn input<'a>(x: In<'a>, kernel: &str) -> &'a [f16] {
        match x {
            In::F16(x) => x,
            other => panic!("{kernel}: an input is {} where the others are f16", other.name()),
        }
    }
    fn output<'a>(x: Out<'a>, kernel: &str) -> &'a mut [f16] {
        match x {
            Out::F16(x) => x,
            other => panic!("{kernel}: an output is {} where the others are f16", other.name()),
        }
    }
}

/// Matches every listed `Out` or `In` to its slice: `typed!(out y, in x; f(y, x))` compiles `f` for each mix of f32 with one
/// of the types of two bytes. Both of those in one call are a fault of the caller.
macro_rules! typed {
    // The first word is the type of two bytes that has been met, or `any`.
    (@$half:ident; $body:expr) => { $body };
    (@$half:ident, $($rest:tt)*) => { typed!(@$half $($rest)*) };
    (@any out $x:ident $($rest:tt)*) => {
        match $x {
            $crate::Out::F32($x) => typed!(@any $($rest)*),
            $crate::Out::Bf16($x) => typed!(@Bf16 $($rest)*),
            $crate::Out::F16($x) => typed!(@F16 $($rest)*),
        }
    };
    (@any in $x:ident $($rest:tt)*) => {
        match $x {
            $crate::In::F32($x) => typed!(@any $($rest)*),
            $crate::In::Bf16($x) => typed!(@Bf16 $($rest)*),
            $crate::In::F16($x) => typed!(@F16 $($rest)*),
        }
    };
    (@$half:ident out $x:ident $($rest:tt)*) => {
        match $x {
            $crate::Out::F32($x) => typed!(@$half $($rest)*),
            $crate::Out::$half($x) => typed!(@$half $($rest)*),
            _ => panic!("one call mixes bf16 and f16"),
        }
    };
    (@$half:ident in $x:ident $($rest:tt)*) => {
        match $x {
            $crate::In::F32($x) => typed!(@$half $($rest)*),
            $crate::In::$half($x) => typed!(@$half $($rest)*),
            _ => panic!("one call mixes bf16 and f16"),
        }
    };
    ($word:ident $x:ident $($rest:tt)*) => { typed!(@any $word $x $($rest)*) };
}
pub(crate) use typed;

/// Runs `$body` with `$e` as the element type of `$x` (an `In`): for kernels whose activations all have one type.
macro_rules! one_type {
    ($x:expr, $e:ident => $body:expr) => {
        match $x {
            $crate::In::F32(_) => {
                type $e = f32;
                $body
            }
            $crate::In::Bf16(_) => {
                type $e = $crate::bf16;
                $body
            }
            $crate::In::F16(_) => {
                type $e = $crate::f16;
                $body
            }
        }
    };
}
pub(crate) use one_type;
