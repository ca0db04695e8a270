//! What stands after `cargo xtask bench train` or `decode`. Knows no programs.

/// The flags of both benchmarks; each takes those that mean something to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Put the table into the page.
    pub write: bool,
    /// Fewer settings.
    pub quick: bool,
    /// Also the rival's compiled settings, whose first step takes minutes.
    pub compile: bool,
    pub rounds: usize,
    pub threads: usize,
    /// Training: rows of a step, tokens of a row, counted steps.
    pub batch: usize,
    pub length: usize,
    pub steps: usize,
    /// Decoding: tokens of the prompt, tokens after it, repetitions in one process.
    pub prompt: usize,
    pub tokens: usize,
    pub runs: usize,
}

impl Options {
    /// Reads flags; every wrong one is named.
    pub fn parse(args: &[&str]) -> Result<Options, String> {
        let mut options = Options {
            write: false,
            quick: false,
            compile: false,
            rounds: 2,
            threads: 2,
            batch: 4,
            length: 512,
            steps: 4,
            prompt: 512,
            tokens: 128,
            runs: 3,
        };
        let mut faults = Vec::new();
        let mut args = args.iter();
        while let Some(&flag) = args.next() {
            let number = match flag {
                "--write" => {
                    options.write = true;
                    continue;
                }
                "--quick" => {
                    options.quick = true;
                    continue;
                }
                "--compile" => {
                    options.compile = true;
                    continue;
                }
                "--rounds" => &mut options.rounds,
                "--threads" => &mut options.threads,
                "--batch" => &mut options.batch,
                "--length" => &mut options.length,
                "--steps" => &mut options.steps,
                "--prompt" => &mut options.prompt,
                "--tokens" => &mut options.tokens,
                "--runs" => &mut options.runs,
                unknown => {
                    faults.push(format!("there is no flag `{unknown}`"));
                    continue;
                }
            };
            match args.next().map(|v| (v, v.parse::<usize>())) {
                Some((_, Ok(n))) if n > 0 => *number = n,
                Some((value, _)) => faults.push(format!("{flag} takes a whole number above 0, not `{value}`")),
                None => faults.push(format!("{flag} takes a number")),
            }
        }
        if faults.is_empty() { Ok(options) } else { Err(faults.join("\n")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_and_every_wrong_one_is_named() {
        let options = Options::parse(&["--quick", "--rounds", "3", "--length", "8"]).unwrap();
        assert_eq!((options.quick, options.write, options.rounds, options.length), (true, false, 3, 8));
        assert_eq!(Options::parse(&[]).unwrap().batch, 4);
        let message = Options::parse(&["--fast", "--steps", "0", "--write", "--batch"]).unwrap_err();
        for part in ["`--fast`", "--steps takes a whole number above 0, not `0`", "--batch takes a number"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
