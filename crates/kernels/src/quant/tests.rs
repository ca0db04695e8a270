//! The formats against gguf-py's own bits, and properties that hold for any input.

use super::*;

use proptest::prelude::*;

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex")).collect()
}

fn floats(hex: &str) -> Vec<f32> {
    bytes(hex).chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn bit_equal_to_gguf_py() {
    let names = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"];
    let lines: Vec<&str> = include_str!("vectors.txt").lines().skip(1).collect();
    assert_eq!(lines.len(), 4 * names.len());
    for ((name, format), case) in names.iter().zip(QuantFormat::ALL).zip(lines.chunks(4)) {
        assert_eq!(&case[0], name);
        let (blocks, wanted) = (bytes(case[2]), floats(case[3]));
        let mut out = vec![0f32; wanted.len()];
        dequantize(&mut out, format, &blocks);
        for (i, (a, b)) in out.iter().zip(&wanted).enumerate() {
            assert_eq!(a.to_bits(), b.to_bits(), "{name} weight {i}: {a} {b}");
        }
        if case[1] != "-" {
            let mut again = vec![0u8; blocks.len()];
            quantize(&mut again, format, &floats(case[1]));
            assert_eq!(again, blocks, "{name}");
        }
    }
}

/// The largest error of a weight, as a share of the range of its block, that each format promises.
fn bound(format: QuantFormat) -> f32 {
    match format {
        QuantFormat::Q8_0 => 0.005,
        QuantFormat::Q5_0 | QuantFormat::Q5_1 => 0.035,
        QuantFormat::Q4_0 | QuantFormat::Q4_1 => 0.07,
        QuantFormat::Q6K => 0.04,
        QuantFormat::Q5K => 0.045,
        QuantFormat::Q4K => 0.09,
    }
}

proptest! {
    #[test]
    fn quantised_values_stay_near(seed in any::<u64>(), scale in 1e-3f32..1e3, shift in -2f32..2.0) {
        for format in QuantFormat::ALL {
            let mut state = seed;
            let x: Vec<f32> = (0..512).map(|_| scale * (crate::matmul::tests::uniform(&mut state) + shift)).collect();
            let mut blocks = vec![0u8; format.row_bytes(x.len())];
            quantize(&mut blocks, format, &x);
            let mut y = vec![0f32; x.len()];
            dequantize(&mut y, format, &blocks);
            // Weights of one sign: zero belongs to the range of symmetric formats and of the minimums of K-quants.
            let range = x.iter().fold(0f32, |a, v| a.max(v.abs())) * 2.0;
            for (i, (a, b)) in x.iter().zip(&y).enumerate() {
                prop_assert!((a - b).abs() <= bound(format) * range, "{format:?} weight {i}: {a} became {b}, range {range}");
            }
        }
    }

    #[test]
    fn any_bytes_dequantise_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 210)) {
        for format in QuantFormat::ALL {
            let mut out = vec![0f32; format.block_len()];
            dequantize(&mut out, format, &bytes[..format.block_bytes()]);
        }
    }

    #[test]
    fn any_floats_quantise_without_a_panic(bits in prop::collection::vec(any::<u32>(), 256)) {
        let x: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b)).collect();
        for format in QuantFormat::ALL {
            let mut out = vec![0u8; format.row_bytes(x.len())];
            quantize(&mut out, format, &x);
        }
    }
}

#[test]
fn zeros_and_constants() {
    for format in QuantFormat::ALL {
        for value in [0.0, 1.0, -1.0] {
            let x = vec![value; 256];
            let mut blocks = vec![0xffu8; format.row_bytes(256)];
            quantize(&mut blocks, format, &x);
            let mut y = vec![0f32; 256];
            dequantize(&mut y, format, &blocks);
            for v in y {
                assert!((v - value).abs() <= 1.0 / 64.0, "{format:?}: {value} became {v}");
            }
        }
    }
}

/// Fits beat plain rounding to the range: the reason for the search in Q4_K and Q6_K.
#[test]
fn the_search_lowers_the_error() {
    let mut state = 3;
    let x: Vec<f32> = (0..256).map(|_| crate::matmul::tests::uniform(&mut state).powi(3)).collect();
    let error = |format: QuantFormat| {
        let mut blocks = vec![0u8; format.row_bytes(256)];
        quantize(&mut blocks, format, &x);
        let mut y = vec![0f32; 256];
        dequantize(&mut y, format, &blocks);
        x.iter().zip(&y).map(|(a, b)| (a - b).powi(2)).sum::<f32>()
    };
    assert!(error(QuantFormat::Q4K) < error(QuantFormat::Q4_0));
    assert!(error(QuantFormat::Q5K) < error(QuantFormat::Q5_0));
    assert!(error(QuantFormat::Q6K) < error(QuantFormat::Q5K));
}

/// Random blocks, also such as no quantiser writes: every table gives the same bits.
#[test]
fn tables_dequantise_to_the_same_bits() {
    let mut state = 11;
    for format in QuantFormat::ALL {
        for blocks in [1, 2, 3, 6] {
            let len = blocks * format.block_len();
            let mut bytes: Vec<u8> = (0..format.row_bytes(len))
                .map(|_| (crate::matmul::tests::uniform(&mut state) * 127.0) as i8 as u8)
                .collect();
            // Scales that are numbers: a NaN has many bit patterns.
            for block in bytes.chunks_exact_mut(format.block_bytes()) {
                for at in if format == QuantFormat::Q6K { [208, 208] } else { [0, 2] } {
                    block[at + 1] &= 0xbb;
                }
            }
            let mut wanted = vec![0f32; len];
            dequantize(&mut wanted, format, &bytes);
            for isa in crate::Isa::available() {
                let mut out = vec![0f32; len];
                crate::convert::to_f32(isa, &mut out, crate::Mat::Quant(format, &bytes), 0);
                for (i, (a, b)) in out.iter().zip(&wanted).enumerate() {
                    assert_eq!(a.to_bits(), b.to_bits(), "{isa:?} {format:?} weight {i}: {a} {b}");
                }
                let (mut half, mut through) = (vec![crate::bf16::ZERO; len], vec![crate::bf16::ZERO; len]);
                crate::convert::to_bf16(isa, &mut half, crate::Mat::Quant(format, &bytes), 0);
                crate::convert::narrow(isa, &mut through, &wanted);
                assert_eq!(half, through, "{isa:?} {format:?}: bf16 in one step");
            }
        }
    }
}
