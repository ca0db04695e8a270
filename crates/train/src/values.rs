//! [`Values`]: a trained parameter to read, in memory or on disk. It knows where they are, not what they are for.

use std::io::{self, Write};

use ounce_optim::ArrayType;
use ounce_tensor::kernels::{In, bf16};
use ounce_tensor::{ParamId, ReadError, Tensor, Weight};

use crate::step::StepError;
use crate::tiers::Tiers;
use crate::tiers::copy::{Array, bytes_each};
use crate::trainer::Trainer;

impl Trainer {
    /// Whether everything that is trained is a number, after `step`.
    pub fn check_finite(&self, step: usize) -> Result<(), StepError> {
        for (i, &p) in self.trained.iter().enumerate() {
            let bad = self.values(i).not_finite()?;
            if let Some(value) = bad {
                return Err(self.bad(step, &self.model.params[p].name, f64::from(value)).into());
            }
        }
        self.copied();
        Ok(())
    }

    /// Lets go of all that only steps need: what is trained may be read after it, in little memory.
    pub fn release(&mut self) -> Result<(), ReadError> {
        if let Some(tiers) = &mut self.tiers {
            tiers.settle()?;
            tiers.filled()?;
        }
        self.device.arena().trim();
        Ok(())
    }

    /// Room on disk for what is trained.
    pub fn file_bytes(&self) -> usize {
        self.tiers.as_ref().map_or(0, Tiers::file_bytes)
    }

    /// Lets go what reading values from disk left in memory.
    pub fn copied(&self) {
        self.tiers.iter().for_each(Tiers::copied);
    }

    /// The values of the `i`-th trained parameter, wherever they are.
    pub fn values(&self, i: usize) -> Values<'_> {
        let p = self.trained[i];
        match self.tiers.as_ref().and_then(|tiers| Some((tiers, tiers.weights(i)?))) {
            Some((tiers, array)) => Values::OnDisk(tiers, array),
            None => Values::Here(self.tensor(p)),
        }
    }

    /// The values of a trained parameter that is in memory.
    pub fn tensor(&self, p: ParamId) -> &Tensor {
        match self.model.params.weight(p) {
            Weight::Dense(t) => t,
            Weight::Stored { .. } => unreachable!("what is trained in memory is dense"),
        }
    }

    pub fn tensor_mut(&mut self, p: ParamId) -> &mut Tensor {
        match &mut self.model.params[p].weight {
            Weight::Dense(t) => t,
            Weight::Stored { .. } => unreachable!("what is trained in memory is dense"),
        }
    }
}

/// Elements in order, the first row first.
pub enum Values<'a> {
    Here(&'a Tensor),
    OnDisk(&'a Tiers, Array),
}

impl Values<'_> {
    pub fn array(&self) -> ArrayType {
        match self {
            Values::Here(tensor) => match tensor.input() {
                In::F32(_) => ArrayType::F32,
                In::Bf16(_) => ArrayType::Bf16,
                In::F16(_) => unreachable!("trained parameters are f32 or bf16"),
            },
            Values::OnDisk(_, array) => array.array,
        }
    }

    /// All bytes, little-endian, in memory at once.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ReadError> {
        let elements = match self {
            Values::Here(tensor) => tensor.len(),
            Values::OnDisk(_, array) => array.elements,
        };
        // Exactly: a vector that grows is twice as large.
        let mut bytes = Vec::with_capacity(elements * bytes_each(self.array()));
        self.pour(&mut bytes).map_err(ReadError::new)?;
        Ok(bytes)
    }

    /// The first value that is not a number, or infinite.
    pub fn not_finite(&self) -> Result<Option<f32>, ReadError> {
        let mut seek = Seek { array: self.array(), found: None };
        self.pour(&mut seek).map_err(ReadError::new)?;
        Ok(seek.found)
    }

    /// Writes all bytes, little-endian, piece by piece.
    pub fn pour(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            // Every processor that Ounce runs on is little-endian.
            Values::Here(tensor) => match tensor.input() {
                In::F32(values) => out.write_all(bytemuck::cast_slice(values)),
                In::Bf16(values) => out.write_all(bytemuck::cast_slice(values)),
                In::F16(_) => unreachable!("trained parameters are f32 or bf16"),
            },
            Values::OnDisk(tiers, array) => tiers.pour(array, out),
        }
    }
}

/// Looks for what is not a number in bytes that come in pieces of whole elements.
struct Seek {
    array: ArrayType,
    found: Option<f32>,
}

impl Write for Seek {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.found.is_none() {
            self.found = match self.array {
                ArrayType::F32 => bytemuck::cast_slice::<u8, f32>(bytes).iter().copied().find(|x| !x.is_finite()),
                ArrayType::Bf16 => {
                    let values = bytemuck::cast_slice::<u8, bf16>(bytes).iter();
                    values.map(|x| x.to_f32()).find(|x| !x.is_finite())
                }
                ArrayType::U8 => None,
            };
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
