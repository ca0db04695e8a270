//! The two element types of activations, f32 and bf16, loaded to and stored from f32 lanes.

use super::{L, Simd};
use crate::{In, Out, bf16};

pub(crate) trait Elem: Copy + Default + Send + Sync + 'static {
    /// Whether this is bf16: for tables that multiply bf16.
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
            In::Bf16(_) => panic!("{kernel}: an input is bf16 where the others are f32"),
        }
    }
    fn output<'a>(x: Out<'a>, kernel: &str) -> &'a mut [f32] {
        match x {
            Out::F32(x) => x,
            Out::Bf16(_) => panic!("{kernel}: an output is bf16 where the others are f32"),
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
            In::F32(_) => panic!("{kernel}: an input is f32 where the others are bf16"),
        }
    }
    fn output<'a>(x: Out<'a>, kernel: &str) -> &'a mut [bf16] {
        match x {
            Out::Bf16(x) => x,
            Out::F32(_) => panic!("{kernel}: an output is f32 where the others are bf16"),
        }
    }
}

/// Matches every listed `Out` or `In` to its slice: `typed!(out y, in x; f(y, x))` compiles `f` for each mix of types.
macro_rules! typed {
    (; $body:expr) => { $body };
    (, $($rest:tt)*) => { typed!($($rest)*) };
    (out $x:ident $($rest:tt)*) => {
        match $x {
            $crate::Out::F32($x) => typed!($($rest)*),
            $crate::Out::Bf16($x) => typed!($($rest)*),
        }
    };
    (in $x:ident $($rest:tt)*) => {
        match $x {
            $crate::In::F32($x) => typed!($($rest)*),
            $crate::In::Bf16($x) => typed!($($rest)*),
        }
    };
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
        }
    };
}
pub(crate) use one_type;
