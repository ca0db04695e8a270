//! What an optimizer keeps for one parameter between steps: named moments, in the storage that the recipe asks for. Knows no
//! rule and no file format.

use ounce_kernels::{BLOCK, Map8, Stored, bf16};
use ounce_spec::recipe::StateType;

/// Parameters of fewer elements keep f32 moments where larger ones have 8 bits, as in bitsandbytes: they are norms and biases,
/// whose errors are felt most and whose bytes least.
pub const SMALLEST_8BIT: usize = 4096;

/// A moment before the first step: torch's name, and the 8-bit map that fits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub name: &'static str,
    pub map: Map8,
}

/// The moments of one parameter, each as long as the parameter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    moments: Vec<(Moment, Values)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Values {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    Block8 { codes: Vec<u8>, absmax: Vec<f32> },
}

/// A flat array of a state, as a checkpoint holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Buffer<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    U8(&'a [u8]),
}

/// As [`Buffer`], to put a saved one back.
#[derive(Debug)]
pub enum BufferMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
    U8(&'a mut [u8]),
}

/// How the moments of a parameter of `elements` elements are stored.
fn fitting(storage: StateType, elements: usize) -> StateType {
    if storage == StateType::Block8 && elements < SMALLEST_8BIT { StateType::F32 } else { storage }
}

impl State {
    /// Moments of `elements` zeros each.
    pub fn zeros(storage: StateType, moments: &[Moment], elements: usize) -> State {
        let zeros = |moment: &Moment| match fitting(storage, elements) {
            StateType::F32 => Values::F32(vec![0.0; elements]),
            StateType::Bf16 => Values::Bf16(vec![bf16::ZERO; elements]),
            StateType::Block8 => {
                Values::Block8 { codes: vec![moment.map.zero(); elements], absmax: vec![0.0; elements.div_ceil(BLOCK)] }
            }
        };
        State { moments: moments.iter().map(|moment| (*moment, zeros(moment))).collect() }
    }

    /// Bytes of `moments` moments of `elements` elements.
    pub fn bytes_of(storage: StateType, moments: usize, elements: usize) -> usize {
        let each = match fitting(storage, elements) {
            StateType::F32 => elements * size_of::<f32>(),
            StateType::Bf16 => elements * size_of::<bf16>(),
            StateType::Block8 => elements + elements.div_ceil(BLOCK) * size_of::<f32>(),
        };
        moments * each
    }

    /// Every array with its name, always in the same order: what a checkpoint writes. The largest magnitudes of 8-bit blocks
    /// have the moment's name and `_absmax`.
    pub fn buffers(&self) -> Vec<(String, Buffer<'_>)> {
        let mut all = Vec::new();
        for (Moment { name, .. }, values) in &self.moments {
            let name = name.to_string();
            match values {
                Values::F32(x) => all.push((name, Buffer::F32(x))),
                Values::Bf16(x) => all.push((name, Buffer::Bf16(x))),
                Values::Block8 { codes, absmax } => {
                    all.push((format!("{name}_absmax"), Buffer::F32(absmax)));
                    all.push((name, Buffer::U8(codes)));
                }
            }
        }
        all
    }

    /// As [`State::buffers`], to fill with what was saved.
    pub fn buffers_mut(&mut self) -> Vec<(String, BufferMut<'_>)> {
        let mut all = Vec::new();
        for (Moment { name, .. }, values) in &mut self.moments {
            let name = name.to_string();
            match values {
                Values::F32(x) => all.push((name, BufferMut::F32(x))),
                Values::Bf16(x) => all.push((name, BufferMut::Bf16(x))),
                Values::Block8 { codes, absmax } => {
                    all.push((format!("{name}_absmax"), BufferMut::F32(absmax)));
                    all.push((name, BufferMut::U8(codes)));
                }
            }
        }
        all
    }

    /// Bytes of all moments.
    pub fn bytes(&self) -> usize {
        let bytes = |values: &Values| match values {
            Values::F32(x) => size_of_val(x.as_slice()),
            Values::Bf16(x) => size_of_val(x.as_slice()),
            Values::Block8 { codes, absmax } => codes.len() + size_of_val(absmax.as_slice()),
        };
        self.moments.iter().map(|(_, values)| bytes(values)).sum()
    }

    /// The moments of a rule that keeps `N`, in the order it named them.
    pub(crate) fn moments<const N: usize>(&mut self) -> [Stored<'_>; N] {
        assert_eq!(self.moments.len(), N, "the state was made by another optimizer");
        let mut rest = self.moments.iter_mut();
        std::array::from_fn(|_| match rest.next() {
            Some((_, Values::F32(x))) => Stored::F32(x),
            Some((_, Values::Bf16(x))) => Stored::Bf16(x),
            Some((moment, Values::Block8 { codes, absmax })) => Stored::Block8 { map: moment.map, codes, absmax },
            None => unreachable!("counted above"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENTS: [Moment; 2] =
        [Moment { name: "exp_avg", map: Map8::Signed }, Moment { name: "exp_avg_sq", map: Map8::Unsigned }];

    #[test]
    fn bytes_are_counted_as_they_are_allocated() {
        for storage in [StateType::F32, StateType::Bf16, StateType::Block8] {
            for elements in [0, 1, 255, SMALLEST_8BIT - 1, SMALLEST_8BIT, 100_001] {
                let state = State::zeros(storage, &MOMENTS, elements);
                assert_eq!(state.bytes(), State::bytes_of(storage, 2, elements), "{storage:?} {elements}");
            }
        }
        // 8, 4 and a little over 2 bytes an element.
        let million = |storage| State::bytes_of(storage, 2, 1 << 20);
        assert_eq!([StateType::F32, StateType::Bf16].map(million), [8 << 20, 4 << 20]);
        assert_eq!(million(StateType::Block8), (2 << 20) + (2 << 20) / 64);
    }

    #[test]
    fn every_array_has_a_name_of_its_own() {
        for (storage, wanted) in [
            (StateType::F32, vec!["exp_avg", "exp_avg_sq"]),
            (StateType::Bf16, vec!["exp_avg", "exp_avg_sq"]),
            (StateType::Block8, vec!["exp_avg_absmax", "exp_avg", "exp_avg_sq_absmax", "exp_avg_sq"]),
        ] {
            let mut state = State::zeros(storage, &MOMENTS, SMALLEST_8BIT);
            let names: Vec<String> = state.buffers().into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, wanted);
            let again: Vec<String> = state.buffers_mut().into_iter().map(|(name, _)| name).collect();
            assert_eq!(again, wanted);
        }
    }
}
