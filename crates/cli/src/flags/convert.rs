//! `ounce convert` and `ounce merge`.

use std::path::PathBuf;

use clap::ValueEnum;
use ounce_formats::Kind;
use ounce_spec::DType;

use crate::export::dtype_by_name;

/// Write a model in another form or type: Hugging Face directory or GGUF file
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    ounce convert ./smollm2 --to gguf --dtype q8_0 --out smollm2-q8_0.gguf\n  \
    ounce convert model.gguf --to gguf --dtype q4_0 --out model-q4_0.gguf\n  \
    ounce convert model.gguf --to hf --dtype f32 --out ./model-hf\n\n\
    What is lost on the way is listed. Nothing is overwritten.")]
pub struct Convert {
    /// Model: directory, GGUF file or hub name
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Form to write
    #[arg(long, value_enum, value_name = "FORM")]
    pub to: Form,
    /// Type of matrices: f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k [default: as they are]
    #[arg(long, value_name = "TYPE", value_parser = parse_dtype)]
    pub dtype: Option<DType>,
    /// Directory whose tokenizer files go beside a GGUF file's weights (only with --to hf) [default: written from the file]
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// File (gguf) or directory (hf) to write
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
}

/// Put an adapter into its base model for good
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    ounce merge ./smollm2 --adapter runs/a --out ./merged\n  \
    ounce merge smollm2.gguf --adapter runs/a --dtype q8_0 --out merged.gguf\n  \
    ounce merge smollm2.gguf --adapter runs/a --to hf --out ./merged\n\n\
    Layers without an adapter are copied as they are. What is lost on the way is listed. Nothing is overwritten.")]
pub struct Merge {
    /// Base model: directory, GGUF file or hub name
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// PEFT adapter directory
    #[arg(long, value_name = "DIR")]
    pub adapter: String,
    /// Type of matrices [default: as they are; quantised layers with an adapter become q8_0]
    #[arg(long, value_name = "TYPE", value_parser = parse_dtype)]
    pub dtype: Option<DType>,
    /// Form to write [default: that of the base model]
    #[arg(long, value_enum, value_name = "FORM")]
    pub to: Option<Form>,
    /// Directory whose tokenizer files go beside a GGUF file's weights (only with --to hf) [default: written from the file]
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// File (gguf) or directory (hf) to write
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Hugging Face directory
    Hf,
    /// GGUF file
    Gguf,
}

impl From<Form> for Kind {
    fn from(form: Form) -> Kind {
        match form {
            Form::Hf => Kind::HuggingFace,
            Form::Gguf => Kind::Gguf,
        }
    }
}

fn parse_dtype(name: &str) -> Result<DType, String> {
    dtype_by_name(&name.to_ascii_lowercase())
        .ok_or_else(|| "types are f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k".to_owned())
}
