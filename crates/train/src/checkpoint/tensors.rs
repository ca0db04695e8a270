//! Named tensors as safetensors, written and read piece by piece: neither needs a second copy of them, and they may be anywhere.
//! Knows no file system and no model.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Read, Write},
};

pub use safetensors::tensor::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

/// A tensor to write.
pub struct Tensor<'a> {
    pub name: String,
    /// Slowest dimension first; its product is the number of elements.
    pub shape: Vec<usize>,
    pub dtype: Dtype,
    pub elements: usize,
    pub pour: Pour<'a>,
}

/// Writes all elements, row-major and little-endian.
pub type Pour<'a> = Box<dyn Fn(&mut dyn Write) -> io::Result<()> + 'a>;

/// A tensor that is looked for in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub name: String,
    pub dtype: Dtype,
    pub elements: usize,
}

/// Takes bytes of the wanted tensor of this number, from a byte of it on. They come in order.
pub type Put<'a> = dyn FnMut(usize, usize, &[u8]) -> io::Result<()> + 'a;

/// Tensors that cannot be written, or are not what the reader needs: every problem, one sentence each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("; "))]
pub struct TensorsError {
    pub problems: Vec<String>,
}

/// A file that was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Tensors(#[from] TensorsError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes a safetensors file. Wider elements come first, so that each tensor lies at a multiple of its element size.
///
/// # Errors
/// Of `out`; [`io::ErrorKind::InvalidInput`] with a [`TensorsError`] when a name occurs twice or a shape does not fit.
pub fn write(out: &mut dyn Write, tensors: &[Tensor]) -> io::Result<()> {
    let mut problems = vec![];
    let mut names = HashSet::from(["__metadata__"]);
    for Tensor { name, shape, elements, .. } in tensors {
        if !names.insert(name) {
            problems.push(format!("{name}: two tensors of this name"));
        }
        if shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) != Some(*elements) {
            problems.push(format!("{name}: {elements} elements do not fill the shape {shape:?}"));
        }
    }
    if !problems.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, TensorsError { problems }));
    }
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| std::cmp::Reverse(tensor.dtype.bitsize()));
    let mut end = 0;
    let infos = order.iter().map(|tensor| {
        let start = end;
        end += tensor.elements * tensor.dtype.bitsize() / 8;
        let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone(), data_offsets: (start, end) };
        (tensor.name.clone(), info)
    });
    let metadata = Metadata::new(None, infos.collect()).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    // The format allows trailing spaces; they align the data.
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    order.iter().try_for_each(|tensor| (tensor.pour)(out))
}

/// A header is some hundred kilobytes.
const HEADER_LIMIT: u64 = 256 << 20;
/// Bytes that are in memory at a time: whole elements.
const PIECE: usize = 1 << 20;

/// Reads a safetensors file from front to back, and gives what is wanted of it to `put` piece by piece. Nothing is given unless
/// all of `wanted` is there and fits.
///
/// # Errors
/// Every tensor that is missing, of another type or of another length; one sentence about a header that is none. Of `from` and
/// `put`.
pub fn read(from: &mut dyn Read, wanted: &[Wanted], put: &mut Put) -> Result<(), ReadError> {
    let metadata = header(from)?;
    let infos = metadata.tensors();
    let mut problems = vec![];
    for Wanted { name, dtype, elements } in wanted {
        match infos.get(name) {
            None => problems.push(format!("{name}: missing")),
            Some(info) if info.dtype != *dtype => problems.push(format!("{name}: {:?}, not {dtype:?}", info.dtype)),
            Some(info) if info.shape.iter().product::<usize>() != *elements => {
                problems.push(format!("{name}: file has {:?}, the run needs {elements}", info.shape));
            }
            Some(_) => {}
        }
    }
    if !problems.is_empty() {
        return Err(TensorsError { problems }.into());
    }
    let numbers: HashMap<&str, usize> = wanted.iter().enumerate().map(|(i, wanted)| (&*wanted.name, i)).collect();
    let mut piece = vec![0; PIECE];
    for name in metadata.offset_keys() {
        let (start, end) = infos[&name].data_offsets;
        for at in (0..end - start).step_by(PIECE) {
            let piece = &mut piece[..(end - start - at).min(PIECE)];
            from.read_exact(piece)?;
            if let Some(&number) = numbers.get(&*name) {
                put(number, at, piece)?;
            }
        }
    }
    Ok(())
}

fn header(from: &mut dyn Read) -> Result<Metadata, TensorsError> {
    let not = |e: &dyn std::fmt::Display| TensorsError { problems: vec![format!("not a safetensors file: {e}")] };
    let mut length = [0; 8];
    from.read_exact(&mut length).map_err(|e| not(&e))?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_LIMIT {
        return Err(not(&format!("its header would have {length} bytes")));
    }
    let mut header = vec![0; length as usize];
    from.read_exact(&mut header).map_err(|e| not(&e))?;
    serde_json::from_slice(&header).map_err(|e| not(&e))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tensor<'a, T: bytemuck::Pod>(name: &str, dtype: Dtype, values: &'a [T]) -> Tensor<'a> {
        let pour: Pour = Box::new(|out| out.write_all(bytemuck::cast_slice(values)));
        Tensor { name: name.into(), shape: vec![values.len()], dtype, elements: values.len(), pour }
    }

    fn to_bytes(tensors: &[Tensor]) -> Vec<u8> {
        let mut bytes = vec![];
        write(&mut bytes, tensors).unwrap();
        bytes
    }

    fn wanted(name: &str, dtype: Dtype, elements: usize) -> Wanted {
        Wanted { name: name.into(), dtype, elements }
    }

    #[test]
    fn all_problems_are_reported() {
        let values = [1f32, 2.0, 3.0];
        let twice =
            [tensor("a", Dtype::F32, &values), Tensor { shape: vec![2, 2], ..tensor("a", Dtype::F32, &values) }];
        let error = write(&mut io::sink(), &twice).unwrap_err();
        assert_eq!(error.to_string(), "a: two tensors of this name; a: 3 elements do not fill the shape [2, 2]");

        let bytes = to_bytes(&[tensor("a", Dtype::F32, &values), tensor("b", Dtype::U8, &[1u8])]);
        let all = [wanted("a", Dtype::F32, 2), wanted("b", Dtype::F32, 1), wanted("c", Dtype::U8, 1)];
        let error = read(&mut &bytes[..], &all, &mut |_, _, _| panic!("nothing fits")).unwrap_err();
        assert_eq!(error.to_string(), "a: file has [3], the run needs 2; b: U8, not F32; c: missing");
        for length in [3, 20] {
            let error = read(&mut &bytes[..length], &[], &mut |_, _, _| Ok(())).unwrap_err();
            assert!(error.to_string().starts_with("not a safetensors file"), "{error}");
        }
        let short = &bytes[..bytes.len() - 1];
        assert!(matches!(read(&mut &*short, &[], &mut |_, _, _| Ok(())), Err(ReadError::Io(_))));
    }

    #[test]
    fn long_tensors_come_in_pieces_of_whole_elements() {
        let values: Vec<u32> = (0..700_000).collect();
        let bytes = to_bytes(&[tensor("skipped", Dtype::U8, &[1u8, 2]), tensor("long", Dtype::U32, &values)]);
        let mut found: Vec<u8> = vec![];
        read(&mut &bytes[..], &[wanted("long", Dtype::U32, values.len())], &mut |number, at, bytes| {
            assert_eq!((number, at, bytes.len() % 4), (0, found.len(), 0));
            found.extend(bytes);
            Ok(())
        })
        .unwrap();
        assert!(found == bytemuck::cast_slice::<u32, u8>(&values));
    }

    proptest! {
        #[test]
        fn tensors_read_back_bit_for_bit(
            floats in prop::collection::btree_map("f[a-z.]{0,8}", prop::collection::vec(any::<u32>(), 0..40), 0..5),
            halves in prop::collection::btree_map("h[a-z.]{0,8}", prop::collection::vec(any::<u16>(), 0..40), 0..5),
            bytes in prop::collection::btree_map("b[a-z\"é]{0,8}", prop::collection::vec(any::<u8>(), 0..40), 0..5),
        ) {
            let mut tensors: Vec<Tensor> = bytes.iter().map(|(n, v)| tensor(n, Dtype::U8, v)).collect();
            tensors.extend(halves.iter().map(|(n, v)| tensor(n, Dtype::BF16, v)));
            tensors.extend(floats.iter().map(|(n, v)| Tensor { shape: vec![1, v.len()], ..tensor(n, Dtype::F32, v) }));
            let file = to_bytes(&tensors);
            let all: Vec<Wanted> = tensors.iter().map(|t| wanted(&t.name, t.dtype, t.elements)).collect();
            let mut found = vec![vec![]; tensors.len()];
            read(&mut &file[..], &all, &mut |number, _, bytes| {
                found[number].extend_from_slice(bytes);
                Ok(())
            }).unwrap();
            for (tensor, found) in tensors.iter().zip(&found) {
                let mut content = vec![];
                (tensor.pour)(&mut content).unwrap();
                prop_assert_eq!(found, &content);
            }
        }
    }
}
