//! In inference a row of a linear layer has the bits that it has alone, on every instruction set, with weights of every storage, with
//! int8 products and exact ones, laid out and as the file has them. What the bits should be is for the kernels' own tests to say.

use std::sync::Arc;

use ounce_spec::DType;
use ounce_tensor::kernels::{Cpu, Isa, bf16, f16, quant};
use ounce_tensor::{Device, Graph, HeldBytes, Mode, Params, Purpose, Stored, Tensor, Weight, quant_format};

struct Bytes(Vec<u8>);

impl Stored for Bytes {
    fn hold(&self) -> HeldBytes<'_> {
        HeldBytes::Here(&self.0)
    }
}

fn stored(dtype: DType, rows: usize, cols: usize, values: &[f32]) -> Weight {
    let bytes = match dtype {
        DType::F32 => bytemuck::cast_slice(values).to_vec(),
        DType::F16 => bytemuck::cast_slice(&values.iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>()).to_vec(),
        DType::BF16 => bytemuck::cast_slice(&values.iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>()).to_vec(),
        _ => {
            let format = quant_format(dtype).expect("the rest are quantised");
            let mut bytes = vec![0; format.row_bytes(values.len())];
            quant::quantize(&mut bytes, format, values);
            bytes
        }
    };
    Weight::Stored { dtype, rows, cols, bytes: Arc::new(Bytes(bytes)) }
}

#[test]
fn in_inference_a_row_has_the_same_bits_beside_any_others() {
    const M: usize = 37;
    for isa in Isa::available() {
        for (dtype, k) in [
            (DType::F32, 333),
            (DType::F16, 333),
            (DType::BF16, 333),
            (DType::Q4_0, 288),
            (DType::Q4_1, 288),
            (DType::Q8_0, 288),
            (DType::Q4_K, 512),
            (DType::Q6_K, 512),
        ] {
            // More rows of activations than of weights, and fewer.
            for n in [19, 45] {
                let value = |i: usize| (i * 7919 % 2003) as f32 / 1001.5 - 1.0;
                let weight: Vec<f32> = (0..n * k).map(value).collect();
                let x: Vec<f32> = (0..M * k).map(|i| value(3 * i + 1)).collect();
                for (int8, interleaved) in [(false, false), (true, false), (true, true)] {
                    let device = Device::cpu(Cpu::with_isa(2, isa));
                    let mut params = Params::default();
                    let id = params.add("w", stored(dtype, n, k, &weight));
                    if interleaved {
                        params.interleave(&device, &[id]);
                    }
                    let rows = |from: usize, count: usize, threads: usize| -> Vec<u32> {
                        let device = Device::cpu(Cpu::with_isa(threads, isa));
                        let mut g = Graph::new(&device, &params, &[], Mode::Infer { int8 }, None, 0);
                        let x = &x[from * k..(from + count) * k];
                        let x = g.input(Tensor::from_f32(&device, x, count, k, Purpose::Activations), false);
                        let y = g.linear_f32(x, id, None);
                        g.value(y).f32().iter().map(|y| y.to_bits()).collect()
                    };
                    let whole = rows(0, M, 2);
                    for (from, count) in (0..M).map(|i| (i, 1)).chain([(0, 8), (3, 9), (1, 32), (20, 17), (0, M)]) {
                        let some = rows(from, count, 1);
                        assert_eq!(
                            some,
                            whole[from * n..(from + count) * n],
                            "{isa:?}, {} [{n}, {k}], int8 {int8}, interleaved {interleaved}: {count} rows from {from}",
                            dtype.name()
                        );
                    }
                }
            }
        }
    }
}
