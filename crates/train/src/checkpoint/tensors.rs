//! Named f32 and byte tensors as safetensors, written piece by piece so that saving needs no second copy of them.
//! Knows no file system and no model.

use std::{
    collections::HashSet,
    io::{self, Write},
};

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
    U8(&'a [u8]),
}

/// Tensors that cannot be written, or are not what the reader needs: every problem, one sentence each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("; "))]
pub struct TensorsError {
    pub problems: Vec<String>,
}

impl<'a> Tensor<'a> {
    /// A flat tensor.
    pub fn flat(name: impl Into<String>, values: &'a [f32]) -> Tensor<'a> {
        Tensor { name: name.into(), shape: vec![values.len()], data: Data::F32(values) }
    }

    pub fn bytes(name: impl Into<String>, values: &'a [u8]) -> Tensor<'a> {
        Tensor { name: name.into(), shape: vec![values.len()], data: Data::U8(values) }
    }
}

impl Data<'_> {
    fn elements(&self) -> usize {
        match self {
            Data::F32(values) => values.len(),
            Data::U8(values) => values.len(),
        }
    }

    fn info(&self, shape: &[usize], start: usize) -> TensorInfo {
        let (dtype, bytes) = match self {
            Data::F32(values) => (Dtype::F32, size_of_val(*values)),
            Data::U8(values) => (Dtype::U8, values.len()),
        };
        TensorInfo { dtype, shape: shape.to_vec(), data_offsets: (start, start + bytes) }
    }
}

/// Writes a safetensors file. f32 tensors come first, so that each lies at a multiple of its element size.
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
    order.sort_by_key(|tensor| matches!(tensor.data, Data::U8(_)));
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

    /// The elements of an f32 tensor; `None` if there is none of that name and type.
    pub fn f32(&self, name: &str) -> Option<Vec<f32>> {
        let view = self.tensors.tensor(name).ok().filter(|view| view.dtype() == Dtype::F32)?;
        Some(view.data().chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect())
    }

    /// The elements of a byte tensor; `None` if there is none of that name and type.
    pub fn u8(&self, name: &str) -> Option<&[u8]> {
        self.tensors.tensor(name).ok().filter(|view| view.dtype() == Dtype::U8).map(|view| view.data())
    }

    /// Copies f32 tensors into slices that are already there, such as parameters and optimizer state. Nothing is changed
    /// unless all of them fit.
    ///
    /// # Errors
    /// Every tensor that is missing, of another type or of another length.
    pub fn fill(&self, into: &mut [(String, &mut [f32])]) -> Result<(), TensorsError> {
        let mut problems = vec![];
        for (name, values) in &*into {
            match self.tensors.tensor(name) {
                Err(_) => problems.push(format!("{name}: missing")),
                Ok(view) if view.dtype() != Dtype::F32 => problems.push(format!("{name}: {:?}, not F32", view.dtype())),
                Ok(view) if view.data().len() != size_of_val(*values) => {
                    problems.push(format!("{name}: file has {:?}, the run needs {}", view.shape(), values.len()));
                }
                Ok(_) => {}
            }
        }
        if !problems.is_empty() {
            return Err(TensorsError { problems });
        }
        for (name, values) in into {
            let Ok(view) = self.tensors.tensor(name) else { continue };
            for (value, x) in values.iter_mut().zip(view.data().chunks_exact(4)) {
                *value = f32::from_le_bytes([x[0], x[1], x[2], x[3]]);
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
        let twice = [Tensor::flat("a", &values), Tensor { shape: vec![2, 2], ..Tensor::flat("a", &values) }];
        let error = write(&mut io::sink(), &twice).unwrap_err();
        assert_eq!(error.to_string(), "a: two tensors of this name; a: 3 elements do not fill the shape [2, 2]");

        let bytes = to_bytes(&[Tensor::flat("a", &values), Tensor::bytes("b", &[1])]);
        let (mut a, mut b, mut c) = ([0.0; 2], [0.0; 1], [0.0; 1]);
        let mut into = [("a".to_string(), &mut a[..]), ("b".into(), &mut b), ("c".into(), &mut c)];
        let error = parse(&bytes).unwrap().fill(&mut into).unwrap_err();
        assert_eq!(error.problems, ["a: file has [3], the run needs 2", "b: U8, not F32", "c: missing"]);
        assert!(parse(&bytes[..20]).is_err());
    }

    proptest! {
        #[test]
        fn tensors_read_back_bit_for_bit(
            floats in prop::collection::btree_map("f[a-z.]{0,8}", prop::collection::vec(any::<u32>(), 0..40), 0..5),
            bytes in prop::collection::btree_map("b[a-z\"é]{0,8}", prop::collection::vec(any::<u8>(), 0..40), 0..5),
        ) {
            let floats: Vec<(String, Vec<f32>)> =
                floats.into_iter().map(|(n, v)| (n, v.into_iter().map(f32::from_bits).collect())).collect();
            let mut tensors: Vec<Tensor> = bytes.iter().map(|(n, v)| Tensor::bytes(n, v)).collect();
            tensors.extend(floats.iter().map(|(n, v)| Tensor { shape: vec![1, v.len()], ..Tensor::flat(n, v) }));
            let file = to_bytes(&tensors);
            let read = parse(&file).unwrap();
            prop_assert_eq!(read.names().len(), tensors.len());
            for (name, values) in &floats {
                let mut filled = vec![0.0; values.len()];
                read.fill(&mut [(name.clone(), &mut filled)]).unwrap();
                let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&filled), bits(values));
                prop_assert_eq!(bits(&read.f32(name).unwrap()), bits(values));
            }
            for (name, values) in &bytes {
                prop_assert_eq!(read.u8(name).unwrap(), &values[..]);
                prop_assert!(read.f32(name).is_none());
            }
        }
    }
}
