//! `ounce pull`.

/// Download a model from the Hugging Face hub into its usual cache
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    ounce pull HuggingFaceTB/SmolLM2-135M-Instruct\n  \
    ounce pull Qwen/Qwen3-0.6B --revision main\n  \
    ounce pull org/name-GGUF --file name.Q4_K_M.gguf\n\n\
    HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they always mean. Broken downloads go on\n\
    where they stopped; checksums are verified. The path of the model is printed.")]
pub struct Args {
    /// Repository: org/name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Branch, tag or commit
    #[arg(long, value_name = "REVISION", default_value = "main")]
    pub revision: String,
    /// Only this file (repeatable) [default: what a model needs]
    #[arg(long, value_name = "NAME")]
    pub file: Vec<String>,
}
