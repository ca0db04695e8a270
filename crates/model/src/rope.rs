//! Rotary frequencies from the configuration, with the scalings that families use.

use std::f32::consts::PI;

use ounce_spec::model::{Rope, RopeScaling};
use ounce_tensor::RopeTable;

/// Tables for `positions` positions of heads with `d` columns.
pub(crate) fn table(rope: &Rope, d: usize, positions: usize) -> RopeTable {
    let (frequencies, factor) = frequencies(rope, d);
    RopeTable::new(&frequencies, positions, factor)
}

/// `theta^(-2i/d)` for `i < d/2`, scaled; and the factor on cosines and sines.
fn frequencies(rope: &Rope, d: usize) -> (Vec<f32>, f32) {
    let plain: Vec<f32> = (0..d / 2).map(|i| 1.0 / rope.theta.powf(2.0 * i as f32 / d as f32)).collect();
    match &rope.scaling {
        RopeScaling::None => (plain, 1.0),
        RopeScaling::Linear { factor } => (plain.iter().map(|f| f / factor).collect(), 1.0),
        RopeScaling::Factors { factors } => (plain.iter().zip(factors).map(|(f, by)| f / by).collect(), 1.0),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let original = *original_max_position_embeddings as f32;
            let scale = |f: &f32| {
                let wavelength = 2.0 * PI / f;
                if wavelength < original / high_freq_factor {
                    return *f;
                }
                if wavelength > original / low_freq_factor {
                    return f / factor;
                }
                let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * f / factor + smooth * f
            };
            (plain.iter().map(scale).collect(), 1.0)
        }
        RopeScaling::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, attention_factor } => yarn(
            &plain,
            rope.theta,
            d,
            *factor,
            *original_max_position_embeddings,
            *beta_fast,
            *beta_slow,
            *attention_factor,
        ),
    }
}

/// YaRN (Peng et al. 2023): fast frequencies stay, slow ones are interpolated, a ramp between.
fn yarn(
    plain: &[f32],
    theta: f32,
    d: usize,
    factor: f32,
    original: usize,
    beta_fast: f32,
    beta_slow: f32,
    attention: Option<f32>,
) -> (Vec<f32>, f32) {
    let dimension = |rotations: f32| d as f32 * (original as f32 / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
    let low = dimension(beta_fast).floor().max(0.0);
    let mut high = dimension(beta_slow).ceil().min(d as f32 - 1.0);
    if low == high {
        high += 0.001;
    }
    let scaled = plain.iter().enumerate().map(|(i, f)| {
        let ramp = ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
        (f / factor) * ramp + f * (1.0 - ramp)
    });
    (scaled.collect(), attention.unwrap_or(if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: RopeScaling) -> Rope {
        Rope { theta: 10000.0, scaling }
    }

    #[test]
    fn llama3_keeps_fast_frequencies_and_divides_slow_ones() {
        let plain = frequencies(&rope(RopeScaling::None), 64).0;
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let scaled = frequencies(&rope(scaling), 64).0;
        assert_eq!(plain[0], scaled[0]);
        assert!((scaled[31] * 8.0 / plain[31] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn yarn_interpolates_the_slowest_frequencies_and_raises_the_attention_factor() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            original_max_position_embeddings: 32768,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
        };
        let plain = frequencies(&rope(RopeScaling::None), 128).0;
        let (scaled, factor) = frequencies(&rope(scaling), 128);
        assert_eq!(plain[0], scaled[0]);
        assert!((scaled[63] * 4.0 / plain[63] - 1.0).abs() < 1e-6);
        assert!((factor - 1.138_629_4).abs() < 1e-6);
    }
}
