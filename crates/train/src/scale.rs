//! The factor that keeps gradients of f16 activations within its range: dynamic loss scaling (Micikevicius et al. 2018, arXiv
//! 1710.03740). Knows no model; the trainer puts it on the loss and takes it off the gradients.

use serde::{Deserialize, Serialize};

/// Finite steps in a row after which the scale is doubled.
const PATIENCE: usize = 2000;

/// The scale and how it came about. A power of two, so that multiplying by it rounds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    pub factor: f64,
    /// Since the scale last changed.
    pub finite_steps: usize,
    /// Steps of the whole run that were not done.
    pub skipped: usize,
}

impl Default for LossScale {
    fn default() -> LossScale {
        LossScale { factor: 65536.0, finite_steps: 0, skipped: 0 }
    }
}

impl LossScale {
    /// After a step whose gradients were finite.
    pub fn step_done(&mut self) {
        self.finite_steps += 1;
        if self.finite_steps == PATIENCE {
            (self.factor, self.finite_steps) = (2.0 * self.factor, 0);
        }
    }

    /// After a step whose loss or gradients were not finite. False, and nothing changes, where the scale would fall below 1:
    /// then it is not the scale that makes them so.
    pub fn skip(&mut self) -> bool {
        if self.factor < 2.0 {
            return false;
        }
        *self = LossScale { factor: self.factor / 2.0, finite_steps: 0, skipped: self.skipped + 1 };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_after_2000_finite_steps_in_a_row() {
        let mut scale = LossScale::default();
        (0..1999).for_each(|_| scale.step_done());
        assert_eq!((scale.factor, scale.finite_steps), (65536.0, 1999));
        assert!(scale.skip());
        assert_eq!(scale, LossScale { factor: 32768.0, finite_steps: 0, skipped: 1 });
        (0..2000).for_each(|_| scale.step_done());
        assert_eq!(scale, LossScale { factor: 65536.0, finite_steps: 0, skipped: 1 });
    }

    #[test]
    fn it_never_falls_below_one() {
        let mut scale = LossScale::default();
        assert_eq!((0..30).filter(|_| scale.skip()).count(), 16);
        assert_eq!((scale.factor, scale.skipped), (1.0, 16));
    }
}
