//! Results as a table.

use std::fmt::Write as _;

use ounce_eval::report::{Comparison, TaskReport};
use ounce_eval::score::Metric;
use ounce_eval::stats::{Interval, Perplexity};

use super::{Measured, NamedTask};
use crate::error::plural;
use crate::output::Style;

/// All tasks and perplexities, the second model (if any) left of the first, since it is what the first is held against.
pub fn draw(
    tasks: &[NamedTask],
    first: &Measured,
    second: Option<&Measured>,
    comparisons: &[Option<Comparison>],
    style: Style,
) -> String {
    let models: Vec<&Measured> = second.into_iter().chain([first]).collect();
    let mut out = String::new();
    for (i, named) in tasks.iter().enumerate() {
        let n = plural(named.task.items.len(), "record");
        let _ = writeln!(out, "{} ({}, {n})", style.bold(&named.name), named.task.metric.name());
        let reports: Vec<&TaskReport> = models.iter().filter_map(|m| m.tasks.get(i)).collect();
        row(&mut out, "", models.iter().map(|m| m.label()));
        row(&mut out, "records right", reports.iter().map(|r| percent(&r.records)));
        if reports.iter().all(|r| r.fields.is_some()) {
            row(&mut out, "fields right", reports.iter().filter_map(|r| r.fields.as_ref().map(percent)));
        }
        for (path, _) in reports.first().map(|r| r.by_field.as_slice()).unwrap_or_default() {
            let cell = |r: &&TaskReport| {
                r.by_field.iter().find(|f| f.0 == *path).map_or_else(|| "–".into(), |f| percent(&f.1))
            };
            row(&mut out, &format!("  {path}"), reports.iter().map(cell));
        }
        if named.task.metric == Metric::MultipleChoice {
            let rules = || models.iter().filter_map(|m| m.choice_rules.get(i)?.as_ref());
            row(&mut out, "  by mean per token", rules().map(|r| percent(&r.by_token)));
            row(&mut out, "  by mean per byte", rules().map(|r| percent(&r.by_byte)));
        }
        if let Some(Some(c)) = comparisons.get(i) {
            let _ = writeln!(
                out,
                "  difference {}; only {} right: {}, only {} right: {}, p = {}",
                points(&c.difference),
                models[0].label(),
                c.records.only_a,
                models[1].label(),
                c.records.only_b,
                p_value(c.records.p_value)
            );
            if let Some(fields) = &c.fields_difference {
                let _ = writeln!(out, "  difference in fields {}", points(fields));
            }
        }
        out.push('\n');
    }
    for (i, (file, _)) in first.perplexities.iter().enumerate() {
        let _ = writeln!(out, "{} (perplexity)", style.bold(file));
        row(&mut out, "", models.iter().map(|m| m.label()));
        let each = || models.iter().filter_map(|m| m.perplexities.get(i).map(|p| &p.1));
        row(&mut out, "perplexity", each().map(|p| with_error(p.perplexity, p.perplexity_se)));
        row(&mut out, "loss per token", each().map(|p| with_error(p.loss, p.loss_se)));
        let size = |p: &Perplexity| format!("{} in {}", p.tokens, p.documents);
        row(&mut out, "tokens in documents", each().map(size));
        out.push('\n');
    }
    out
}

fn row(out: &mut String, name: &str, cells: impl Iterator<Item = String>) {
    let cells: String = cells.map(|cell| format!("  {cell:>24}")).collect();
    let _ = writeln!(out, "  {name:<22}{cells}");
}

fn percent(i: &Interval) -> String {
    format!("{:.1} % [{:.1}, {:.1}]", i.value * 100.0, i.low * 100.0, i.high * 100.0)
}

fn points(i: &Interval) -> String {
    format!("{:+.1} points [{:+.1}, {:+.1}]", i.value * 100.0, i.low * 100.0, i.high * 100.0)
}

fn p_value(p: f64) -> String {
    if p < 1e-4 { format!("{p:.0e}") } else { format!("{p:.4}") }
}

fn with_error(value: f64, se: Option<f64>) -> String {
    match se {
        Some(se) => format!("{value:.4} ± {se:.4}"),
        None => format!("{value:.4}"),
    }
}
