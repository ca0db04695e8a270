//! `ounce eval`.

use std::path::PathBuf;

use clap::ValueEnum;
use ounce_eval::score::Metric;

use super::talk::Model;
use crate::output::units::parse_positive;

/// Measure a model: tasks with right answers, and perplexity, with how sure the numbers are
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    ounce eval ./smollm2 --task test.jsonl\n  \
    ounce eval ./smollm2 --adapter runs/a --task test.jsonl --compare base\n  \
    ounce eval ./mine --task quiz.jsonl --compare ./theirs --json --out result.json\n  \
    ounce eval ./smollm2 --adapter runs/a --task test.jsonl --at-least 90\n  \
    ounce eval ./gpt2 --data held-out.txt\n\n\
    A task is a .jsonl file: rows of `messages` (the last assistant message is the reference), of `prompt` and `answer`,\n\
    or of `question`, `choices` and `answer`. Answers are greedy. Intervals are 95 %; the comparison is paired: McNemar's\n\
    exact test on records, bootstrap on differences.")]
pub struct Args {
    #[command(flatten)]
    pub model: Model,
    /// Task file (repeatable)
    #[arg(long, value_name = "FILE")]
    pub task: Vec<PathBuf>,
    /// Data whose perplexity is measured, in any format of ounce tune (repeatable)
    #[arg(long, value_name = "FILE")]
    pub data: Vec<String>,
    /// How tasks are scored [default: seen from the rows]
    #[arg(long, value_enum, value_name = "METRIC")]
    pub metric: Option<MetricName>,
    /// A second model on the same records; base: the same model without its adapter
    #[arg(long, value_name = "MODEL")]
    pub compare: Option<String>,
    /// Adapter of the second model
    #[arg(long, value_name = "DIR", requires = "compare")]
    pub compare_adapter: Option<String>,
    /// Records of each task to use at most, from the first on
    #[arg(long, value_name = "N", value_parser = parse_positive)]
    pub limit: Option<usize>,
    /// Longest answer, tokens
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = parse_positive)]
    pub max_tokens: usize,
    /// Answers generated side by side
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = parse_positive)]
    pub parallel: usize,
    /// Exit with code 3 if a task has fewer right records than this, percent
    #[arg(long, value_name = "PERCENT")]
    pub at_least: Option<f64>,
    /// Write every answer with its score to a file, JSON
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MetricName {
    /// The whole answer, but for white space
    Exact,
    /// The first JSON object in the answer, field by field
    Json,
    /// The most likely of the choices
    Choice,
}

impl From<MetricName> for Metric {
    fn from(name: MetricName) -> Metric {
        match name {
            MetricName::Exact => Metric::ExactMatch,
            MetricName::Json => Metric::JsonFields,
            MetricName::Choice => Metric::MultipleChoice,
        }
    }
}
