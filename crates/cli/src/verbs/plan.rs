//! `ounce plan`: what `ounce tune` would do and cost, as a table.

use ounce_spec::Plan;
use ounce_spec::plan::MemoryForecast;

use super::{Context, tune};
use crate::codes::Exit;
use crate::error::{Result, plural};
use crate::flags::plan::{Args, Verb};
use crate::output::units;

pub fn run(context: &Context, args: Args) -> Result<Exit> {
    let Verb::Tune(args) = args.verb;
    let (_, plan) = tune::plan(context, &args)?;
    match context.out.json {
        true => context.out.value(&plan),
        false => context.out.piece(&draw(&plan)),
    }
    Ok(Exit::Done)
}

/// The forecast for a person.
pub fn draw(plan: &Plan) -> String {
    let mut out = String::from("memory at the peak\n");
    for (name, bytes) in parts(&plan.memory) {
        out += &format!("  {name:<14} {:>12}\n", units::bytes(bytes));
    }
    let (total, limit) = (units::bytes(plan.memory.total_bytes), units::bytes(plan.memory.limit_bytes));
    out += &format!("  {:<14} {total:>12}  of {limit} that may be used\n", "in all");
    let t = &plan.time;
    out += &format!(
        "time\n  {} per step, {}: {} in all\n  {} tokens/s, {}FLOP per step\n",
        units::seconds(t.step_s),
        plural(t.steps, "step"),
        units::seconds(t.total_s),
        units::count(t.tokens_per_s.round()),
        units::count(t.step_flops)
    );
    out += "because\n";
    for reason in &plan.reasons {
        out += &format!("  {reason}\n");
    }
    out
}

/// The parts of a forecast by name.
pub fn parts(m: &MemoryForecast) -> [(&'static str, usize); 7] {
    [
        ("weights", m.weights_bytes),
        ("adapters", m.adapters_bytes),
        ("gradients", m.gradients_bytes),
        ("optimizer", m.optimizer_bytes),
        ("activations", m.activations_bytes),
        ("workspace", m.workspace_bytes),
        ("program", m.program_bytes),
    ]
}
