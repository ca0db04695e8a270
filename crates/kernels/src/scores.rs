//! What choosing a token asks of one row of logits: the largest, and the sum of exponentials. On the caller's thread, with the best
//! table of this machine: who chooses has no [`crate::Cpu`] at hand. Must not know how a token is chosen.

use std::sync::OnceLock;

use crate::Isa;
use crate::lanes::{L, Simd, math, simd_fn, sum1};
use crate::loss::largest;

/// Scores whose largest is looked for at once, and whose exponentials are added in f32.
pub const BLOCK: usize = 2048;

/// The largest of `x` and its lowest index; NaN is never the largest. `None` where nothing is above `-inf`.
pub fn argmax(x: &[f32]) -> Option<(usize, f32)> {
    let (isa, mut best) = (best(), None);
    let mut top = f32::NEG_INFINITY;
    for (b, block) in x.chunks(BLOCK).enumerate() {
        let new = largest_of(isa, block, top);
        if new > top {
            (best, top) = (Some((b, block)), new);
        }
    }
    let (b, block) = best?;
    let inside = block.iter().position(|x| *x == top)?;
    Some((b * BLOCK + inside, top))
}

/// `Σ exp(x - max)`; NaN and `-inf` add nothing. `max` is finite and the largest.
pub fn sum_exp(x: &[f32], max: f32) -> f64 {
    exp_sums(x, max, 1.0).sum()
}

/// `Σ exp((x - max) scale)` of each [`BLOCK`] of scores, the last of which may be shorter; as [`sum_exp`], `scale` positive and finite.
pub fn exp_sums(x: &[f32], max: f32, scale: f32) -> impl Iterator<Item = f64> {
    let isa = best();
    x.chunks(BLOCK).map(move |block| sum_exp_of(isa, block, max, scale) as f64)
}

fn best() -> Isa {
    static BEST: OnceLock<Isa> = OnceLock::new();
    *BEST.get_or_init(Isa::detect)
}

simd_fn! {
    fn largest_of(s, x: &[f32], floor: f32) -> f32 {
        largest(s, x, floor)
    }
}
simd_fn! {
    fn sum_exp_of(s, x: &[f32], max: f32, scale: f32) -> f32 {
        let (shift, scale) = (s.splat(max), s.splat(scale));
        let (body, tail) = x.split_at(x.len() / L * L);
        let sum = sum1(s, body, #[inline(always)] |acc, x| s.add(acc, weight(s, x, shift, scale)));
        let mut rest = [f32::NEG_INFINITY; L];
        rest[..tail.len()].copy_from_slice(tail);
        sum + s.sum(weight(s, s.load(&rest), shift, scale))
    }
}

/// `exp((x - shift) scale)`, and 0 for NaN: its maximum with `-inf` is that.
#[inline(always)]
fn weight<S: Simd>(s: S, x: S::V, shift: S::V, scale: S::V) -> S::V {
    math::exp(s, s.mul(s.sub(s.max(x, s.splat(f32::NEG_INFINITY)), shift), scale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::tests::uniform;

    #[test]
    fn the_largest_is_found_where_it_is_first() {
        let mut state = 3;
        for n in [1, 15, 16, 17, 2047, 2048, 2049, 6000] {
            let mut x: Vec<f32> = (0..n).map(|_| (uniform(&mut state) * 40.0).round()).collect();
            x[n * 3 / 4..].iter_mut().step_by(9).for_each(|x| *x = 41.0);
            let top = x.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
            assert_eq!(argmax(&x), x.iter().position(|x| *x == top).map(|at| (at, top)), "{n}");
        }
        let (nan, low) = (f32::NAN, f32::NEG_INFINITY);
        assert_eq!(argmax(&[nan, low, -3.0, nan, -3.0, -4.0]), Some((2, -3.0)));
        assert_eq!(argmax(&[nan, low]), None);
        assert_eq!(argmax(&[]), None);
    }

    #[test]
    fn sums_of_exponentials_are_those_in_f64_on_every_table() {
        let mut state = 4;
        for n in [1, 5, 16, 40, 2048, 5001] {
            let mut x: Vec<f32> = (0..n).map(|_| uniform(&mut state) * 30.0).collect();
            let max = x.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
            x.extend([f32::NAN, f32::NEG_INFINITY, max - 200.0]);
            let finite = x.iter().filter(|x| !x.is_nan());
            for scale in [1.0, 0.25, 1e30] {
                let exact: f64 = finite.clone().map(|x| ((x - max) as f64 * scale as f64).exp()).sum();
                for isa in Isa::available() {
                    let sum: f64 = x.chunks(BLOCK).map(|block| sum_exp_of(isa, block, max, scale) as f64).sum();
                    assert!((sum - exact).abs() <= 1e-6 * exact, "{isa:?} {n} {scale}: {sum} {exact}");
                }
                let sums: Vec<f64> = exp_sums(&x, max, scale).collect();
                assert_eq!(sums.len(), x.len().div_ceil(BLOCK));
                assert!((sums.iter().sum::<f64>() - exact).abs() <= 1e-6 * exact);
            }
        }
    }
}
