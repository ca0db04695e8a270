//! Writes a model in another form: a Hugging Face directory or a GGUF file, each tensor made when its turn comes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ounce_formats::hf::{self, Companions};
use ounce_formats::save::Info;
use ounce_formats::vfs::Disk;
use ounce_formats::{Checkpoint, Kind, TensorData, config, gguf, tokenizer};
use ounce_spec::DType;
use ounce_tensor::kernels::{bf16, f16, quant};
use ounce_tensor::quant_format;

use crate::codes;
use crate::error::{CliError, Result, plural};
use crate::verbs::tune::write_error;

/// Values of a tensor as f32, in the order of its shape; `None`: as the checkpoint has it.
pub type Values<'a> = dyn Fn(&str) -> Option<Vec<f32>> + 'a;

/// Where a model goes and as what.
pub struct Export<'a> {
    pub checkpoint: &'a Checkpoint,
    pub kind: Kind,
    /// Type of the matrices; vectors stay f32. `None`: each as it is, as far as the form can hold it.
    pub dtype: Option<DType>,
    /// Whether a tensor's values are changed (by an adapter). Quantised ones then become q8_0 where `dtype` says nothing:
    /// rounding them to 4 bits again would take away most of what was added.
    pub changed: &'a dyn Fn(&str) -> bool,
    /// Directory or file.
    pub out: PathBuf,
    /// Directory that tokenizer files are copied from instead of written from the metadata (GGUF → Hugging Face).
    pub tokenizer: Option<PathBuf>,
}

/// Names of storage types on the command line.
pub fn dtype_by_name(name: &str) -> Option<DType> {
    use DType::*;
    [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K].into_iter().find(|d| d.name() == name)
}

impl Export<'_> {
    /// Writes; what got lost on the way, one sentence each.
    pub fn write(&self, values: &Values) -> Result<Vec<String>> {
        self.check_tokenizer()?;
        let mut losses = Vec::new();
        let infos = self.infos(&mut losses)?;
        let mut bytes_of =
            |info: &Info| -> std::result::Result<Cow<'_, [u8]>, Box<dyn std::error::Error + Send + Sync>> {
                let tensor = self.checkpoint.tensors.get(&info.name).ok_or("it is not there")?;
                match values(&info.name) {
                    None if tensor.dtype == info.dtype => Ok(Cow::Borrowed(&tensor.bytes)),
                    None => Ok(Cow::Owned(encode(&decode(tensor), info.dtype))),
                    Some(changed) => Ok(Cow::Owned(encode(&changed, info.dtype))),
                }
            };
        match self.kind {
            Kind::Gguf => {
                let base = self.gguf_metadata()?;
                let checkpoint = self.checkpoint;
                let plan =
                    gguf::export(&checkpoint.config, &checkpoint.generation, &infos, &base).map_err(|problems| {
                        let mut out = CliError::new(&codes::WRITE, "GGUF cannot hold this model");
                        out.details = problems;
                        out.help("keep it as a Hugging Face directory: --to hf")
                    })?;
                make_parent(&self.out)?;
                plan.write(&self.out, &mut bytes_of).map_err(write_error)?;
            }
            Kind::HuggingFace => {
                let companions = match &self.checkpoint.gguf {
                    None => Companions { source: Some(self.checkpoint.path.clone()), keep_config: true, files: vec![] },
                    Some(metadata) => self.companions(metadata, &mut losses),
                };
                hf::write_model(&Disk, &self.out, &self.checkpoint.config, &infos, &mut bytes_of, &companions)
                    .map_err(write_error)?;
            }
        }
        Ok(losses)
    }

    /// A tokenizer that would not be used, or is not there, is said before anything is written.
    fn check_tokenizer(&self) -> Result<()> {
        let Some(dir) = &self.tokenizer else { return Ok(()) };
        let why = match (self.checkpoint.kind, self.kind) {
            (Kind::Gguf, Kind::HuggingFace) if dir.join("tokenizer.json").is_file() => return Ok(()),
            (Kind::Gguf, Kind::HuggingFace) => format!("{} has no tokenizer.json", dir.display()),
            (Kind::HuggingFace, _) => "--tokenizer is for GGUF files; a directory's own tokenizer is kept".into(),
            (_, Kind::Gguf) => "--tokenizer needs --to hf; a GGUF file keeps its own".into(),
        };
        Err(CliError::new(&codes::USAGE, why).help("leave --tokenizer out"))
    }

    /// What goes beside the weights of a GGUF file: its tokenizer, or the one of another directory.
    fn companions(&self, metadata: &gguf::Metadata, losses: &mut Vec<String>) -> Companions {
        const GENERATION: &str = "generation_config.json";
        let mut files = Vec::new();
        if self.tokenizer.is_none() {
            match tokenizer::hf_files(metadata) {
                Ok(written) => files = written,
                Err(e) => losses.push(format!(
                    "the tokenizer and the chat template are not written ({e}): add them with --tokenizer DIR"
                )),
            }
        }
        if !self.tokenizer.as_ref().is_some_and(|dir| dir.join(GENERATION).is_file()) {
            let text = config::write_generation(&self.checkpoint.generation, &self.checkpoint.config);
            files.push((GENERATION.into(), text.into_bytes()));
        }
        Companions { source: self.tokenizer.clone(), keep_config: false, files }
    }

    /// Tensors with the types they shall have.
    fn infos(&self, losses: &mut Vec<String>) -> Result<Vec<Info>> {
        if let (Kind::HuggingFace, Some(dtype)) = (self.kind, self.dtype)
            && dtype.is_quantized()
        {
            return Err(CliError::new(&codes::USAGE, format!("a Hugging Face directory cannot hold {}", dtype.name()))
                .help("--dtype f32, bf16 or f16, or --to gguf"));
        }
        let (mut decoded, mut grown) = (0, 0);
        let mut rounded = BTreeMap::<(DType, DType), usize>::new();
        // Tensors whose rows do not fit the wanted type, by what they become: how many, and which modules.
        let mut kept = BTreeMap::<DType, (usize, BTreeSet<&str>)>::new();
        let infos = self.checkpoint.tensors.iter().map(|(name, tensor)| {
            let row = tensor.shape.last().copied().unwrap_or(1);
            let vector = tensor.shape.len() < 2;
            let dtype = match (self.dtype, self.kind) {
                (None, Kind::HuggingFace) if tensor.dtype.is_quantized() => {
                    decoded += 1;
                    DType::BF16
                }
                (None, _) if tensor.dtype.is_quantized() && (self.changed)(name) => {
                    grown += 1;
                    if row % DType::Q8_0.block_len() == 0 { DType::Q8_0 } else { DType::F16 }
                }
                (None, _) => tensor.dtype,
                (Some(_), _) if vector => {
                    if tensor.dtype.is_quantized() {
                        DType::F32
                    } else {
                        tensor.dtype
                    }
                }
                (Some(wanted), _) if row % wanted.block_len() != 0 => {
                    let smaller = if row % DType::Q8_0.block_len() == 0 { DType::Q8_0 } else { DType::F16 };
                    let (count, modules) = kept.entry(smaller).or_default();
                    *count += 1;
                    modules.extend(name.rsplit('.').nth(1));
                    smaller
                }
                (Some(wanted), _) => wanted,
            };
            if self.dtype.is_some() && dtype != tensor.dtype && !exact(tensor.dtype, dtype) {
                *rounded.entry((tensor.dtype, dtype)).or_default() += 1;
            }
            Info { name: name.into(), dtype, shape: tensor.shape.clone() }
        });
        let infos: Vec<Info> = infos.collect();
        for ((from, to), n) in rounded {
            losses.push(format!("{n} tensors are rounded from {} to {}", from.name(), to.name()));
        }
        if grown > 0 {
            losses
                .push(format!("{grown} quantised tensors with an adapter become q8_0; --dtype f16 or f32 keeps more"));
        }
        if decoded > 0 && self.dtype.is_none() {
            losses.push(format!("{decoded} quantised tensors become bf16; --dtype f32 keeps their exact values"));
        }
        for ((instead, (count, modules)), dtype) in kept.iter().zip(self.dtype.into_iter().cycle()) {
            losses.push(format!(
                "{} have rows that are no whole blocks of {} and become {}: {}",
                plural(*count, "tensor"),
                dtype.name(),
                instead.name(),
                Vec::from_iter(modules.iter().copied()).join(", ")
            ));
        }
        Ok(infos)
    }

    fn gguf_metadata(&self) -> Result<gguf::Metadata> {
        if let Some(metadata) = &self.checkpoint.gguf {
            return Ok(metadata.clone());
        }
        let dir = &self.checkpoint.path;
        let mut metadata = gguf::vocabulary_metadata(dir, self.checkpoint.config.vocab_size).map_err(|e| {
            CliError::of(&codes::TOKENIZER, &e).help("this tokenizer cannot be written as GGUF; keep the directory")
        })?;
        if let Some(name) = dir.file_name().and_then(|name| name.to_str()) {
            metadata.set("general.name", name);
        }
        Ok(metadata)
    }
}

/// The values of a tensor, whatever it is stored as.
pub fn decode(tensor: &TensorData) -> Vec<f32> {
    match quant_format(tensor.dtype) {
        Some(format) => {
            let mut out = vec![0.0; tensor.elements()];
            quant::dequantize(&mut out, format, &tensor.bytes);
            out
        }
        None => tensor.to_f32().expect("types that are not quantised are plain"),
    }
}

/// Values in a storage type, rounded to nearest. Rows are whole blocks.
fn encode(values: &[f32], dtype: DType) -> Vec<u8> {
    match (dtype, quant_format(dtype)) {
        (_, Some(format)) => {
            let mut out = vec![0; format.row_bytes(values.len())];
            quant::quantize(&mut out, format, values);
            out
        }
        (DType::F16, _) => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        (DType::BF16, _) => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

/// Whether every value of `from` is one of `to`.
fn exact(from: DType, to: DType) -> bool {
    to == DType::F32 || from == to
}

fn make_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => {
            std::fs::create_dir_all(parent).map_err(|e| CliError::write(parent, &e))
        }
        _ => Ok(()),
    }
}

/// What stands at `out` already, if anything does: nothing is overwritten.
pub fn refuse_existing(out: &Path) -> Result<()> {
    let used = out.is_file() || std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    match used {
        false => Ok(()),
        true => Err(CliError::new(&codes::USAGE, format!("{} is there already", out.display()))
            .help("choose another place with --out, or remove it first")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_exact_types_and_are_rounded_by_others() {
        let values: Vec<f32> = (0..256).map(|i| (i as f32 - 128.0) / 64.0).collect();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let bytes = encode(&values, dtype);
            let tensor = TensorData { dtype, shape: vec![256], bytes: ounce_formats::Bytes::copy_of(&bytes) };
            assert_eq!(decode(&tensor), values, "{dtype:?}");
        }
        for (dtype, limit) in [(DType::Q8_0, 0.01), (DType::Q4_0, 0.16), (DType::Q6_K, 0.04)] {
            let bytes = encode(&values, dtype);
            let tensor = TensorData { dtype, shape: vec![256], bytes: ounce_formats::Bytes::copy_of(&bytes) };
            let worst = decode(&tensor).iter().zip(&values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst > 0.0 && worst < limit, "{dtype:?}: {worst}");
        }
    }

    #[test]
    fn names_lead_to_types() {
        assert_eq!(
            (dtype_by_name("q4_k"), dtype_by_name("bf16"), dtype_by_name("q9")),
            (Some(DType::Q4_K), Some(DType::BF16), None)
        );
    }
}
