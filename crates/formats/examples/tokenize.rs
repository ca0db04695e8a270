//! The ids that a GGUF file's tokenizer gives, for comparison with other programs: reads a JSON list of texts from stdin and
//! prints, for each, its ids as the model is configured to see it, its ids alone, and the text that those stand for.
//!
//! ```text
//! echo '["Hello"]' | tokenize model.gguf
//! ```

use std::error::Error;
use std::path::PathBuf;

use ounce_formats::bytes::Bytes;
use ounce_formats::gguf;
use ounce_formats::tokenizer::{GgufVocab, Tokenizer};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).map(PathBuf::from).ok_or("usage: tokenize MODEL.gguf < texts.json")?;
    let file = gguf::parse(&Bytes::map(&path)?)?;
    let tokenizer = Tokenizer::from_gguf(&GgufVocab::from_metadata(&file.metadata)?)?;
    let texts: Vec<String> = serde_json::from_reader(std::io::stdin())?;
    let mut rows = Vec::new();
    for text in texts {
        let bare = tokenizer.encode(&text, false)?;
        let again = tokenizer.decode(&bare, false);
        rows.push((tokenizer.encode(&text, true)?, bare, again));
    }
    println!("{}", serde_json::to_string(&rows)?);
    Ok(())
}
