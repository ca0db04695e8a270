//! What is said where memory does not suffice: one refusal for every verb, which names the least limit that does; and what the
//! program itself takes. What else is needed is for those to count who need it.

use crate::codes;
use crate::error::CliError;
use crate::output::units;

const MIB: usize = 1 << 20;

/// What the program and each thread's kernels grow by when they begin to work, at most: code that is read for the first time, and
/// buffers that are kept.
const GROWTH: usize = 4 * MIB;
const GROWTH_PER_THREAD: usize = MIB;

/// What a run of training grows by besides, at most: what measures the machine for its plan, checkpoints, reports.
pub const RUN_GROWTH: usize = 5 * MIB;

/// What the process has now, with what it grows by on so many threads. To be asked before a model is made.
pub fn program_bytes(threads: usize) -> usize {
    ounce_train::resident::bytes() + GROWTH + threads * GROWTH_PER_THREAD
}

/// A limit that `bytes` fit below, as one types it. A process is never of quite the same size twice, so there is a little more.
pub fn least(bytes: usize) -> String {
    format!("{}MiB", (bytes + MIB / 2).div_ceil(MIB))
}

/// The refusal of `what`, whose way of least memory takes these parts, by name: more than `limit_bytes`. Its first help is the
/// least `--mem`; whoever knows a way to need less adds it.
pub fn refused(what: &str, parts: &[(&str, usize)], limit_bytes: usize) -> CliError {
    let total: usize = parts.iter().map(|part| part.1).sum();
    let names: Vec<String> =
        parts.iter().filter(|p| p.1 > 0).map(|(name, bytes)| format!("{name} {}", units::bytes(*bytes))).collect();
    let needs = format!("{what} needs {}, limit is {}", units::bytes(total), units::bytes(limit_bytes));
    CliError::new(&codes::DOES_NOT_FIT, needs)
        .detail(names.join(" + "))
        .help(format!("the least that works is --mem {}, if the machine has it", least(total)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_is_one_that_suffices() {
        for bytes in [1, MIB, 73 * MIB - 1, 73 * MIB + 1, 74 * MIB] {
            let limit = units::parse_bytes(&least(bytes)).unwrap();
            assert!(limit > bytes && limit <= bytes + 2 * MIB, "{bytes}: {limit}");
        }
        let error = refused("the model", &[("weights", 3 * MIB), ("cache", 0), ("program", MIB)], 2 * MIB);
        assert_eq!(error.what, "the model needs 4.0 MiB, limit is 2.0 MiB");
        assert_eq!(error.details, ["weights 3.0 MiB + program 1.0 MiB"]);
        assert_eq!(error.help, ["the least that works is --mem 5MiB, if the machine has it"]);
    }
}
