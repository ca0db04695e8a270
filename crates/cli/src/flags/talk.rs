//! Flags that `chat`, `generate`, `eval` and `serve` share: the model, and for all but `serve` what is put on it.

use clap::ValueEnum;
use ounce_tensor::kernels::CacheType;

use crate::output::units::parse_bytes;

/// The model to run, and what is put on it.
#[derive(Clone, Debug, clap::Args)]
pub struct Model {
    /// PEFT adapter directory to put on the model, such as the directory of a run
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<String>,
    #[command(flatten)]
    pub base: Base,
}

/// A model without an adapter.
#[derive(Clone, Debug, clap::Args)]
pub struct Base {
    /// Model: directory, GGUF file or hub name
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Longest conversation, tokens (at most what the model was made for)
    #[arg(long, value_name = "TOKENS", default_value_t = 4096)]
    pub context: usize,
    /// Multiply quantised weights exactly instead of rounding activations to 8 bits; slower
    #[arg(long)]
    pub exact: bool,
    /// What keys and values of earlier tokens are kept as: less memory for the narrower, and rounded [default: bf16, with
    /// --exact f32]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub kv_cache: Option<KvCache>,
    /// Memory to stay within, such as 2GiB: a larger model is read from disk as it runs [default: what this process may have]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub mem: Option<usize>,
    /// Tokens to guess ahead in a step, at most, from what stands earlier in the text: faster where an answer repeats it, and
    /// the answer stays the same; 0: none. What a form such as a JSON schema leaves no choice about is guessed in any case, with
    /// 0 too
    #[arg(long, value_name = "TOKENS", default_value_t = 8, value_parser = clap::value_parser!(u8).range(0..=31))]
    pub speculate: u8,
    /// Smaller model with the same tokens that makes the guesses: directory, GGUF file or hub name
    #[arg(long, value_name = "MODEL")]
    pub draft_model: Option<String>,
}

impl Base {
    /// What a cache keeps if nobody says: where activations are rounded anyway, bf16 costs no accuracy that counts.
    pub fn cache(&self) -> CacheType {
        self.kv_cache.unwrap_or(if self.exact { KvCache::F32 } else { KvCache::Bf16 }).into()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KvCache {
    F32,
    Bf16,
    /// 8.5 bits a value
    Q8,
    /// 5 bits a value
    Q4,
}

impl From<KvCache> for CacheType {
    fn from(name: KvCache) -> CacheType {
        match name {
            KvCache::F32 => CacheType::F32,
            KvCache::Bf16 => CacheType::Bf16,
            KvCache::Q8 => CacheType::Q8,
            KvCache::Q4 => CacheType::Q4,
        }
    }
}
