//! On every instruction set a row of a pass has the bits that it has in a pass of its own: one token after another, a prompt at once, the
//! last tokens of a sequence together (as drafts are verified), beside other sequences. The models are the tiny ones of `tests/golden`.

use std::path::Path;

use ounce_model::{Kv, Model, Part};
use ounce_tensor::Device;
use ounce_tensor::kernels::{CacheType, Cpu, Isa};

const LEN: usize = 21;

/// The logits of the last `tokens` of each part, as bits.
fn pass(device: &Device, model: &Model, kv: &mut Kv, parts: &[Part], int8: bool) -> Vec<Vec<u32>> {
    let rows = kv.begin(parts);
    let wanted: Vec<u32> = (0..rows.ids.len() as u32).collect();
    let logits = model.infer(device, &rows, kv, &wanted, int8).unwrap();
    logits.f32().chunks(logits.cols()).map(|row| row.iter().map(|x| x.to_bits()).collect()).collect()
}

fn check(family: &str, isa: Isa, int8: bool, cache: CacheType) {
    let device = Device::cpu(Cpu::with_isa(2, isa));
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(family);
    let mut model = Model::load(&device, &ounce_formats::open(&dir).unwrap(), 64).unwrap_or_else(|e| panic!("{e}"));
    if int8 {
        model.interleave(&device);
    }
    let mut kv = Kv::new(&device, &model.config, cache, 8);
    let tokens: Vec<u32> = (0..LEN as u32).map(|i| (i * 31 + 5) % 97).collect();
    let others: Vec<u32> = (0..LEN as u32).map(|i| (i * 17 + 11) % 97).collect();
    let (mine, theirs) = ([2u32, 5], [1u32, 3]);
    let part = |from: usize, to: usize| Part { tokens: &tokens[from..to], past: from, blocks: &mine };

    let single: Vec<Vec<u32>> =
        (0..LEN).flat_map(|i| pass(&device, &model, &mut kv, &[part(i, i + 1)], int8)).collect();
    for cut in [0, 3, 12] {
        let mut got = if cut > 0 { pass(&device, &model, &mut kv, &[part(0, cut)], int8) } else { Vec::new() };
        let other = Part { tokens: &others, past: 0, blocks: &theirs };
        got.extend(pass(&device, &model, &mut kv, &[part(cut, LEN), other], int8).into_iter().take(LEN - cut));
        for (i, (got, single)) in got.iter().zip(&single).enumerate() {
            assert_eq!(
                got, single,
                "{family} on {isa:?}, int8 {int8}, cache {cache:?}: row {i} of {LEN}, cut at {cut}"
            );
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_pass_on_every_instruction_set() {
    for isa in Isa::available() {
        for family in ["llama", "gemma3_text", "qwen2", "gpt2"] {
            for int8 in [false, true] {
                check(family, isa, int8, CacheType::F32);
            }
            check(family, isa, true, CacheType::Bf16);
        }
    }
}
