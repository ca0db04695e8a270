//! The result of a task: scores with their intervals, record by record, and two results side by side.

use serde::Serialize;

use crate::score::{JsonScore, Metric};
use crate::stats::{self, Interval, McNemar};

/// Resamples of a bootstrap, and its seed: results are the same on every machine.
const RESAMPLES: usize = 2000;
const SEED: u64 = 0;

/// One record of a task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// Line of the task file, from 1.
    pub line: usize,
    pub answer: String,
    pub right: bool,
    /// For JSON: (path, right) of each field, and fields that should not be there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<(String, bool)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<String>,
    /// For multiple choice: the log probability of each choice, all its tokens together.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<f64>,
}

impl Record {
    pub fn json(line: usize, answer: String, score: JsonScore) -> Record {
        Record { line, answer, right: score.record(), fields: score.fields, extra: score.extra, choices: Vec::new() }
    }

    pub fn plain(line: usize, answer: String, right: bool) -> Record {
        Record { line, answer, right, fields: Vec::new(), extra: Vec::new(), choices: Vec::new() }
    }

    pub fn choice(line: usize, answer: String, right: bool, choices: Vec<f64>) -> Record {
        Record { choices, ..Record::plain(line, answer, right) }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskReport {
    pub metric: Metric,
    /// Share of records that are right in all, 95 % Wilson interval.
    pub records: Interval,
    /// Share of fields that are right: the mean over records, 95 % bootstrap interval.
    pub fields: Option<Interval>,
    /// Each field by its path, 95 % Wilson interval, in the order in which they first occur.
    pub by_field: Vec<(String, Interval)>,
    pub results: Vec<Record>,
}

/// Sums up records; `None` without any.
pub fn summarize(metric: Metric, results: Vec<Record>) -> Option<TaskReport> {
    let right = results.iter().filter(|r| r.right).count();
    let records = stats::wilson(right, results.len())?;
    let shares = field_shares(&results);
    let mut counts: Vec<(String, usize, usize)> = Vec::new();
    for (path, right) in results.iter().flat_map(|r| &r.fields) {
        let at = counts.iter().position(|c| c.0 == *path).unwrap_or_else(|| {
            counts.push((path.clone(), 0, 0));
            counts.len() - 1
        });
        counts[at].1 += usize::from(*right);
        counts[at].2 += 1;
    }
    let by_field = counts.into_iter().filter_map(|(path, right, n)| Some((path, stats::wilson(right, n)?))).collect();
    let fields = (metric == Metric::JsonFields).then(|| stats::bootstrap_mean(&shares, RESAMPLES, SEED)).flatten();
    Some(TaskReport { metric, records, fields, by_field, results })
}

fn field_shares(results: &[Record]) -> Vec<f64> {
    let share = |r: &Record| {
        let right = r.fields.iter().filter(|f| f.1).count();
        if r.fields.is_empty() { f64::from(u8::from(r.right)) } else { right as f64 / r.fields.len() as f64 }
    };
    results.iter().map(share).collect()
}

/// `b` against `a` on the same records.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    pub records: McNemar,
    /// Share of right records of `b` less that of `a`, 95 % paired bootstrap.
    pub difference: Interval,
    /// The same for the share of right fields.
    pub fields_difference: Option<Interval>,
}

/// `None` where the two are not of the same records, or there are none.
pub fn compare(a: &TaskReport, b: &TaskReport) -> Option<Comparison> {
    let lines = |r: &TaskReport| r.results.iter().map(|r| r.line).collect::<Vec<_>>();
    if lines(a) != lines(b) {
        return None;
    }
    let right = |r: &TaskReport| r.results.iter().map(|r| r.right).collect::<Vec<_>>();
    let numbers = |r: &TaskReport| r.results.iter().map(|r| f64::from(u8::from(r.right))).collect::<Vec<_>>();
    let fields_difference = (a.fields.is_some() && b.fields.is_some())
        .then(|| stats::paired_bootstrap(&field_shares(&a.results), &field_shares(&b.results), RESAMPLES, SEED))
        .flatten();
    Some(Comparison {
        records: stats::mcnemar(&right(a), &right(b)),
        difference: stats::paired_bootstrap(&numbers(a), &numbers(b), RESAMPLES, SEED)?,
        fields_difference,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(line: usize, fields: &[(&str, bool)]) -> Record {
        let fields: Vec<_> = fields.iter().map(|(path, right)| (path.to_string(), *right)).collect();
        Record {
            line,
            answer: String::new(),
            right: fields.iter().all(|f| f.1),
            fields,
            extra: Vec::new(),
            choices: Vec::new(),
        }
    }

    #[test]
    fn fields_and_records_are_summed_up() {
        let results = vec![record(1, &[("a", true), ("b", true)]), record(2, &[("b", false), ("a", true)])];
        let report = summarize(Metric::JsonFields, results).unwrap();
        assert_eq!(report.records.value, 0.5);
        assert_eq!(report.fields.unwrap().value, 0.75);
        let by_field: Vec<_> = report.by_field.iter().map(|(path, i)| (path.as_str(), i.value)).collect();
        assert_eq!(by_field, [("a", 1.0), ("b", 0.5)]);
        assert_eq!(summarize(Metric::ExactMatch, Vec::new()), None);
    }

    #[test]
    fn two_reports_are_compared_record_by_record() {
        let base: Vec<_> = (1..=8).map(|line| record(line, &[("a", line == 1), ("b", true)])).collect();
        let tuned: Vec<_> = (1..=8).map(|line| record(line, &[("a", true), ("b", true)])).collect();
        let a = summarize(Metric::JsonFields, base).unwrap();
        let b = summarize(Metric::JsonFields, tuned).unwrap();
        let c = compare(&a, &b).unwrap();
        assert_eq!((c.records.only_a, c.records.only_b), (0, 7));
        assert_eq!(c.difference.value, 0.875);
        assert_eq!(c.fields_difference.unwrap().value, 0.4375);
        assert!(c.records.p_value < 0.02);
        let other = summarize(Metric::JsonFields, vec![record(3, &[("a", true)])]).unwrap();
        assert_eq!(compare(&a, &other), None);
    }
}
