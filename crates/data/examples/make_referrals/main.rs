//! Writes the data set of `examples/referral`: `cargo run --release -p ounce-data --example make_referrals -- 1 DIR`.

mod generate;
mod note;
mod numbers;
mod phrases;
mod words;

use std::{error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [seed, directory] = arguments.as_slice() else {
        return Err("usage: make_referrals SEED DIRECTORY".into());
    };
    let seed: u64 = seed.parse().map_err(|e| format!("the seed {seed}: {e}"))?;
    std::fs::create_dir_all(directory)?;
    for (name, text) in generate::files(seed) {
        let path = Path::new(directory).join(name);
        std::fs::write(&path, &text)?;
        println!("{}: {} rows, {} bytes", path.display(), text.lines().count(), text.len());
    }
    Ok(())
}
