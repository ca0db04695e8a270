//! What an optimizer keeps for one parameter between steps: named moments, in the storage that the recipe asks for, in arrays
//! of their own ([`State`]) or in memory of the caller's ([`Layout`]). Knows no rule and no file format.

use std::ops::Range;

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

/// What a rule keeps for every element: how a state lies in memory that somebody else has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layout {
    pub(crate) storage: StateType,
    pub(crate) moments: &'static [Moment],
}

/// The type of an array's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrayType {
    F32,
    Bf16,
    U8,
}

/// Arrays begin at multiples of this: a cache line.
const ALIGN: usize = 64;

/// The moments of a run of elements, wherever they are: what a rule reads and writes.
#[derive(Debug)]
pub struct Moments<'a>(Vec<Stored<'a>>);

impl<'a> Moments<'a> {
    /// Those of a rule that keeps `N`, in the order it named them.
    pub(crate) fn each<const N: usize>(self) -> [Stored<'a>; N] {
        self.0.try_into().expect("the state was made by another optimizer")
    }
}

impl Layout {
    /// That of a parameter of `elements` elements: small ones have no 8-bit moments.
    pub fn of_parameter(self, elements: usize) -> Layout {
        Layout { storage: fitting(self.storage, elements), ..self }
    }

    /// The arrays of `elements` elements in the order and under the names of [`State::buffers`], and where their bytes are.
    pub fn arrays(&self, elements: usize) -> Vec<(String, ArrayType, Range<usize>)> {
        let mut end = 0;
        let mut all = Vec::new();
        let mut add = |name: String, array: ArrayType, bytes: usize| {
            all.push((name, array, end..end + bytes));
            end = (end + bytes).next_multiple_of(ALIGN);
        };
        for Moment { name, .. } in self.moments {
            match self.storage {
                StateType::F32 => add(name.to_string(), ArrayType::F32, elements * size_of::<f32>()),
                StateType::Bf16 => add(name.to_string(), ArrayType::Bf16, elements * size_of::<bf16>()),
                StateType::Block8 => {
                    add(format!("{name}_absmax"), ArrayType::F32, elements.div_ceil(BLOCK) * size_of::<f32>());
                    add(name.to_string(), ArrayType::U8, elements);
                }
            }
        }
        all
    }

    /// Bytes that `elements` elements take, whole lines.
    pub fn bytes(&self, elements: usize) -> usize {
        self.arrays(elements).last().map_or(0, |(_, _, range)| range.end.next_multiple_of(ALIGN))
    }

    /// The moments of `elements` elements in `bytes`, which begin at a multiple of 64 in memory.
    pub fn view<'a>(&self, elements: usize, bytes: &'a mut [u8]) -> Moments<'a> {
        let (mut rest, mut at) = (bytes, 0);
        let mut arrays = self.arrays(elements).into_iter().map(|(_, _, range)| {
            let (_, tail) = std::mem::take(&mut rest).split_at_mut(range.start - at);
            let (array, tail) = tail.split_at_mut(range.len());
            (rest, at) = (tail, range.end);
            array
        });
        let mut next = || arrays.next().expect("as many as the storage has");
        let moment = |moment: &Moment| match self.storage {
            StateType::F32 => Stored::F32(bytemuck::cast_slice_mut(next())),
            StateType::Bf16 => Stored::Bf16(bytemuck::cast_slice_mut(next())),
            StateType::Block8 => {
                let absmax = bytemuck::cast_slice_mut(next());
                Stored::Block8 { map: moment.map, codes: next(), absmax }
            }
        };
        Moments(self.moments.iter().map(moment).collect())
    }

    /// Makes the moments of `elements` elements in `bytes` what they are before the first step.
    pub fn clear(&self, elements: usize, bytes: &mut [u8]) {
        bytes.fill(0);
        for stored in self.view(elements, bytes).0 {
            if let Stored::Block8 { map, codes, .. } = stored {
                codes.fill(map.zero());
            }
        }
    }
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

    /// For a rule to read and write.
    pub fn view(&mut self) -> Moments<'_> {
        Moments(
            self.moments
                .iter_mut()
                .map(|(moment, values)| match values {
                    Values::F32(x) => Stored::F32(x),
                    Values::Bf16(x) => Stored::Bf16(x),
                    Values::Block8 { codes, absmax } => Stored::Block8 { map: moment.map, codes, absmax },
                })
                .collect(),
        )
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

    /// The bytes of a state in somebody else's memory: the same arrays under the same names with the same contents.
    #[test]
    fn a_layout_is_the_state_elsewhere() {
        for storage in [StateType::F32, StateType::Bf16, StateType::Block8] {
            for elements in [1, 300, SMALLEST_8BIT, 100_001] {
                let layout = Layout { storage, moments: &MOMENTS }.of_parameter(elements);
                let mut lines = vec![[7u64; 8]; layout.bytes(elements).div_ceil(ALIGN)];
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut lines);
                layout.clear(elements, bytes);
                let state = State::zeros(storage, &MOMENTS, elements);
                let arrays = layout.arrays(elements);
                assert_eq!(arrays.len(), state.buffers().len());
                for ((name, array, range), (wanted, buffer)) in arrays.into_iter().zip(state.buffers()) {
                    let (of, content): (_, &[u8]) = match buffer {
                        Buffer::F32(x) => (ArrayType::F32, bytemuck::cast_slice(x)),
                        Buffer::Bf16(x) => (ArrayType::Bf16, bytemuck::cast_slice(x)),
                        Buffer::U8(x) => (ArrayType::U8, x),
                    };
                    assert_eq!((&name, array, &bytes[range]), (&wanted, of, content), "{storage:?} {elements}");
                }
            }
        }
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
