//! Clipping by global norm (Pascanu et al. 2013, arXiv 1211.5063), from sums of squares that the caller took per buffer
//! (`Cpu::sum_squares`). Knows no parameters.

/// Added to the norm before dividing, as in `torch.nn.utils.clip_grad_norm_`.
const EPS: f64 = 1e-6;

/// What to multiply gradients by, and the norm to report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// Norm of the gradient before clipping (after the caller's own `scale`).
    pub norm: f64,
    /// For [`crate::StepContext`]: the caller's `scale`, and less where the norm was above the limit.
    pub grad_scale: f32,
}

/// A gradient with an infinite or undefined element: the update must be skipped.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("the gradient norm is {norm}; skip this update, and lower the learning rate if it happens again")]
pub struct NonFinite {
    pub norm: f64,
}

/// Clips the gradient `scale · buffers` to `max_norm` (0: no limit). `sums` are the buffers' `Σ x²`, in an order that must
/// not depend on the run, since the sum's last bits do.
///
/// # Errors
/// [`NonFinite`] when any element was NaN or infinite.
pub fn global_norm(sums: impl IntoIterator<Item = f64>, scale: f64, max_norm: f32) -> Result<Clip, NonFinite> {
    let norm = sums.into_iter().sum::<f64>().sqrt() * scale.abs();
    if !norm.is_finite() {
        return Err(NonFinite { norm });
    }
    let limit = f64::from(max_norm);
    let clip = if limit > 0.0 { (limit / (norm + EPS)).min(1.0) } else { 1.0 };
    Ok(Clip { norm, grad_scale: (scale * clip) as f32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `torch.nn.utils.clip_grad_norm_` of gradients [3, 4] and [12] to 1.0 returns 13 and leaves [0.23076922, …].
    #[test]
    fn clips_like_torch() {
        let clip = global_norm([25.0, 144.0], 1.0, 1.0).unwrap();
        assert_eq!(clip.norm, 13.0);
        assert!((3.0 * clip.grad_scale - 0.23076922).abs() < 1e-7);
    }

    #[test]
    fn a_small_gradient_and_no_limit_leave_only_the_scale() {
        assert_eq!(global_norm([0.25], 1.0, 1.0).unwrap(), Clip { norm: 0.5, grad_scale: 1.0 });
        assert_eq!(global_norm([100.0], 0.5, 0.0).unwrap(), Clip { norm: 5.0, grad_scale: 0.5 });
        assert_eq!(global_norm([], 1.0, 1.0).unwrap(), Clip { norm: 0.0, grad_scale: 1.0 });
    }

    #[test]
    fn the_scale_counts_before_the_limit() {
        let clip = global_norm([400.0], 0.1, 1.0).unwrap();
        assert_eq!(clip.norm, 2.0);
        assert!((clip.grad_scale - 0.05).abs() < 1e-7);
    }

    #[test]
    fn non_finite_gradients_are_refused() {
        assert!(global_norm([1.0, f64::NAN], 1.0, 1.0).is_err());
        assert!(global_norm([f64::INFINITY], 1.0, 0.0).is_err());
    }
}
