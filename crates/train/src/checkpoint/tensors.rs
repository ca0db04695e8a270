//! Named f32, bf16 and byte tensors as safetensors, written piece by piece so that saving needs no second copy of them.
//! Knows no file system and no model.

use std::{
    collections::HashSet,
    io::{self, Write},
};

use ounce_tensor::kernels::bf16;
use safetensors::{
    SafeTensors,
    tensor::{Dtype, Metadata, TensorInfo},
};

/// A tensor to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<'a> {
    pub name: String,
    /// Slowest dimension first; its product is the number of elements.
    pub shape: Vec<usize>,
    pub data: Data<'a>,
}

/// Row-major elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Data<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    U8(&'a [u8]),
}

/// As [`Data`], to be filled.
#[derive(Debug)]
pub enum DataMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
    U8(&'a mut [u8]),
}

impl DataMut<'_> {
    /// The same elements to read.
    fn as_data(&self) -> Data<'_> {
        match self {
            DataMut::F32(values) => Data::F32(values),
            DataMut::Bf16(values) => Data::Bf16(values),
            DataMut::U8(values) => Data::U8(values),
        }
    }
}

/// Tensors that cannot be written, or are not what the reader needs: every problem, one sentence each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("; "))]
pub struct TensorsError {
    pub problems: Vec<String>,
}

impl<'a> Tensor<'a> {
    /// A tensor of one dimension.
    pub fn flat(name: impl Into<String>, data: Data<'a>) -> Tensor<'a> {
        Tensor { name: name.into(), shape: vec![data.elements()], data }
    }
}

impl Data<'_> {
    fn elements(&self) -> usize {
        match self {
            Data::F32(values) => values.len(),
            Data::Bf16(values) => values.len(),
            Data::U8(values) => values.len(),
        }
    }

    fn dtype(&self) -> Dtype {
        match self {
            Data::F32(_) => Dtype::F32,
            Data::Bf16(_) => Dtype::BF16,
            Data::U8(_) => Dtype::U8,
        }
    }

    fn info(&self, shape: &[usize], start: usize) -> TensorInfo {
        let bytes = self.elements() * self.dtype().bitsize() / 8;
        TensorInfo { dtype: self.dtype(), shape: shape.to_vec(), data_offsets: (start, start + bytes) }
    }
}

/// Writes a safetensors file. Wider elements come first, so that each tensor lies at a multiple of its element size.
///
/// # Errors
/// Of `out`; [`io::ErrorKind::InvalidInput`] with a [`TensorsError`] when a name occurs twice or a shape does not fit.
pub fn write(out: &mut dyn Write, tensors: &[Tensor]) -> io::Result<()> {
    let mut problems = vec![];
    let mut names = HashSet::from(["__metadata__"]);
    for Tensor { name, shape, data } in tensors {
        if !names.insert(name) {
            problems.push(format!("{name}: two tensors of this name"));
        }
        if shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) != Some(data.elements()) {
            problems.push(format!("{name}: {} elements do not fill the shape {shape:?}", data.elements()));
        }
    }
    if !problems.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, TensorsError { problems }));
    }
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| std::cmp::Reverse(tensor.data.dtype().bitsize()));
    let mut end = 0;
    let infos = order.iter().map(|tensor| {
        let info = tensor.data.info(&tensor.shape, end);
        end = info.data_offsets.1;
        (tensor.name.clone(), info)
    });
    let metadata = Metadata::new(None, infos.collect()).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    // The format allows trailing spaces; they align the data.
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let mut piece = Vec::with_capacity(1 << 16);
    for tensor in order {
        match tensor.data {
            Data::U8(values) => out.write_all(values)?,
            Data::F32(values) => {
                for chunk in values.chunks(1 << 14) {
                    piece.clear();
                    piece.extend(chunk.iter().flat_map(|x| x.to_le_bytes()));
                    out.write_all(&piece)?;
                }
            }
            Data::Bf16(values) => {
                for chunk in values.chunks(1 << 14) {
                    piece.clear();
                    piece.extend(chunk.iter().flat_map(|x| x.to_le_bytes()));
                    out.write_all(&piece)?;
                }
            }
        }
    }
    Ok(())
}

/// A safetensors file in memory.
#[derive(Debug)]
pub struct Tensors<'a> {
    tensors: SafeTensors<'a>,
}

/// Reads the header of a safetensors file.
///
/// # Errors
/// One sentence about the first thing that is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Tensors<'_>, TensorsError> {
    match SafeTensors::deserialize(bytes) {
        Ok(tensors) => Ok(Tensors { tensors }),
        Err(e) => Err(TensorsError { problems: vec![format!("not a safetensors file: {e}")] }),
    }
}

impl Tensors<'_> {
    /// All names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names = self.tensors.names();
        names.sort_unstable();
        names
    }

    /// Copies tensors into slices that are already there, such as parameters and optimizer state. Nothing is changed unless
    /// all of them fit.
    ///
    /// # Errors
    /// Every tensor that is missing, of another type or of another length.
    pub fn fill(&self, into: &mut [(String, DataMut)]) -> Result<(), TensorsError> {
        let mut problems = vec![];
        for (name, values) in &*into {
            let want = values.as_data();
            match self.tensors.tensor(name) {
                Err(_) => problems.push(format!("{name}: missing")),
                Ok(view) if view.dtype() != want.dtype() => {
                    problems.push(format!("{name}: {:?}, not {:?}", view.dtype(), want.dtype()));
                }
                Ok(view) if view.shape().iter().product::<usize>() != want.elements() => {
                    problems.push(format!("{name}: file has {:?}, the run needs {}", view.shape(), want.elements()));
                }
                Ok(_) => {}
            }
        }
        if !problems.is_empty() {
            return Err(TensorsError { problems });
        }
        for (name, values) in into {
            let Ok(view) = self.tensors.tensor(name) else { continue };
            let bytes = view.data();
            match values {
                DataMut::F32(values) => {
                    for (value, x) in values.iter_mut().zip(bytes.as_chunks().0) {
                        *value = f32::from_le_bytes(*x);
                    }
                }
                DataMut::Bf16(values) => {
                    for (value, x) in values.iter_mut().zip(bytes.as_chunks().0) {
                        *value = bf16::from_le_bytes(*x);
                    }
                }
                DataMut::U8(values) => values.copy_from_slice(bytes),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn to_bytes(tensors: &[Tensor]) -> Vec<u8> {
        let mut bytes = vec![];
        write(&mut bytes, tensors).unwrap();
        bytes
    }

    #[test]
    fn all_problems_are_reported() {
        let values = [1.0, 2.0, 3.0];
        let twice = [
            Tensor::flat("a", Data::F32(&values)),
            Tensor { shape: vec![2, 2], ..Tensor::flat("a", Data::F32(&values)) },
        ];
        let error = write(&mut io::sink(), &twice).unwrap_err();
        assert_eq!(error.to_string(), "a: two tensors of this name; a: 3 elements do not fill the shape [2, 2]");

        let bytes = to_bytes(&[Tensor::flat("a", Data::F32(&values)), Tensor::flat("b", Data::U8(&[1]))]);
        let (mut a, mut b, mut c) = ([0.0; 2], [0.0; 1], [0; 1]);
        let mut into = [
            ("a".to_string(), DataMut::F32(&mut a)),
            ("b".into(), DataMut::F32(&mut b)),
            ("c".into(), DataMut::U8(&mut c)),
        ];
        let error = parse(&bytes).unwrap().fill(&mut into).unwrap_err();
        assert_eq!(error.problems, ["a: file has [3], the run needs 2", "b: U8, not F32", "c: missing"]);
        assert!(parse(&bytes[..20]).is_err());
    }

    proptest! {
        #[test]
        fn tensors_read_back_bit_for_bit(
            floats in prop::collection::btree_map("f[a-z.]{0,8}", prop::collection::vec(any::<u32>(), 0..40), 0..5),
            halves in prop::collection::btree_map("h[a-z.]{0,8}", prop::collection::vec(any::<u16>(), 0..40), 0..5),
            bytes in prop::collection::btree_map("b[a-z\"é]{0,8}", prop::collection::vec(any::<u8>(), 0..40), 0..5),
        ) {
            let floats: Vec<(String, Vec<f32>)> =
                floats.into_iter().map(|(n, v)| (n, v.into_iter().map(f32::from_bits).collect())).collect();
            let halves: Vec<(String, Vec<bf16>)> =
                halves.into_iter().map(|(n, v)| (n, v.into_iter().map(bf16::from_bits).collect())).collect();
            let mut tensors: Vec<Tensor> = bytes.iter().map(|(n, v)| Tensor::flat(n, Data::U8(v))).collect();
            tensors.extend(halves.iter().map(|(n, v)| Tensor::flat(n, Data::Bf16(v))));
            tensors.extend(floats.iter().map(|(n, v)| Tensor { shape: vec![1, v.len()], ..Tensor::flat(n, Data::F32(v)) }));
            let file = to_bytes(&tensors);
            let read = parse(&file).unwrap();
            prop_assert_eq!(read.names().len(), tensors.len());
            for (name, values) in &floats {
                let mut filled = vec![0.0; values.len()];
                read.fill(&mut [(name.clone(), DataMut::F32(&mut filled))]).unwrap();
                let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&filled), bits(values));
                prop_assert!(read.fill(&mut [(name.clone(), DataMut::U8(&mut []))]).is_err());
            }
            for (name, values) in &halves {
                let mut filled = vec![bf16::ONE; values.len()];
                read.fill(&mut [(name.clone(), DataMut::Bf16(&mut filled))]).unwrap();
                let bits = |v: &[bf16]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&filled), bits(values));
            }
            for (name, values) in &bytes {
                let mut filled = vec![0; values.len()];
                read.fill(&mut [(name.clone(), DataMut::U8(&mut filled))]).unwrap();
                prop_assert_eq!(&filled, values);
            }
        }
    }
}
