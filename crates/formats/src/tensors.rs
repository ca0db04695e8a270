//! Tensors as files give them: a name, a type, a shape and bytes. Nothing here computes with them.

use std::collections::BTreeMap;

use ounce_spec::DType;

use crate::bytes::Bytes;

/// One stored tensor.
#[derive(Clone, Debug)]
pub struct TensorData {
    pub dtype: DType,
    /// Row-major, slowest dimension first: a linear weight is `[n_out, n_in]`. A row is the last dimension.
    pub shape: Vec<usize>,
    /// `dtype.bytes_of(product of shape)` bytes; plain types are aligned to their element.
    pub bytes: Bytes,
}

impl TensorData {
    /// Elements in the tensor.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// An f32 tensor of `values`.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "shape {shape:?} and its values");
        TensorData { dtype: DType::F32, shape, bytes: Bytes::from(values) }
    }

    /// A bf16 tensor of `values`.
    pub fn from_bf16(shape: Vec<usize>, values: &[half::bf16]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "shape {shape:?} and its values");
        let bytes = Bytes::build(2 * values.len(), |out| {
            for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *out = value.to_le_bytes();
            }
        });
        TensorData { dtype: DType::BF16, shape, bytes }
    }

    /// The values of a plain tensor (f32, f16 or bf16) as f32; `None` for quantised types.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let pairs = || self.bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        match self.dtype {
            DType::F32 => {
                Some(self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
            }
            DType::F16 => Some(pairs().map(|b| half::f16::from_bits(b).to_f32()).collect()),
            DType::BF16 => Some(pairs().map(|b| half::bf16::from_bits(b).to_f32()).collect()),
            _ => None,
        }
    }
}

/// Tensors by Hugging Face name, in the order of their names.
#[derive(Clone, Debug, Default)]
pub struct Tensors {
    map: BTreeMap<String, TensorData>,
}

impl Tensors {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn get(&self, name: &str) -> Option<&TensorData> {
        self.map.get(name)
    }

    /// Removes a tensor and gives it to the caller.
    pub fn take(&mut self, name: &str) -> Option<TensorData> {
        self.map.remove(name)
    }

    /// Adds a tensor; what had this name before is returned.
    pub fn insert(&mut self, name: impl Into<String>, tensor: TensorData) -> Option<TensorData> {
        self.map.insert(name.into(), tensor)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorData)> {
        self.map.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Bytes of all tensors together.
    pub fn total_bytes(&self) -> usize {
        self.map.values().map(|tensor| tensor.bytes.len()).sum()
    }
}

impl FromIterator<(String, TensorData)> for Tensors {
    fn from_iter<I: IntoIterator<Item = (String, TensorData)>>(items: I) -> Self {
        Tensors { map: items.into_iter().collect() }
    }
}

impl IntoIterator for Tensors {
    type Item = (String, TensorData);
    type IntoIter = std::collections::btree_map::IntoIter<String, TensorData>;

    fn into_iter(self) -> Self::IntoIter {
        self.map.into_iter()
    }
}
