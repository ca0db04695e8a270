//! `ounce doctor`: the machine as it is measured, line by line, each ok or a warning with what to do.

use std::path::{Path, PathBuf};

use ounce_plan::{disk, probe};
use ounce_spec::Machine;
use ounce_spec::machine::Rates;

use super::Context;
use crate::codes::Exit;
use crate::error::Result;
use crate::flags::doctor::Args;
use crate::output::units;

/// One finding.
struct Line {
    name: &'static str,
    text: String,
    /// What to do, where something is amiss.
    fix: Option<String>,
}

pub fn run(context: &Context, args: Args) -> Result<Exit> {
    let machine = machine(context, args.fresh);
    if context.out.json {
        context.out.value(&machine);
        return Ok(Exit::Done);
    }
    let style = context.out.out_style();
    for line in lines(&machine).into_iter().chain(surroundings(context)) {
        let mark = if line.fix.is_none() { style.ok("ok  ") } else { style.warn("warn") };
        context.out.data(format!("{mark} {:<16} {}", line.name, line.text));
        if let Some(fix) = line.fix {
            context.out.data(format!("     {:<16} fix: {fix}", ""));
        }
    }
    Ok(Exit::Done)
}

/// The machine with its rates, measured now or remembered from an earlier time on the same processor.
pub fn machine(context: &Context, fresh: bool) -> Machine {
    let now = probe::describe();
    let threads = context.threads();
    let path = context.env.cache.join(format!("machine-{threads}.json"));
    let remembered = std::fs::read(&path).ok().and_then(|b| serde_json::from_slice::<Machine>(&b).ok());
    if let (false, Some(old)) = (fresh, remembered)
        && (&old.processor, old.cores, &old.features) == (&now.processor, now.cores, &now.features)
        && !old.rates.is_empty()
        && old.disk.is_some()
    {
        return Machine { rates: old.rates, disk: old.disk, ..now };
    }
    context.out.note("measuring, a few seconds …");
    let mut measured = probe::measure(threads);
    // What cannot be remembered is measured again the next time.
    let _ = std::fs::create_dir_all(&context.env.cache);
    measured.disk = disk::measure(&context.env.cache).ok();
    let _ = std::fs::write(&path, serde_json::to_vec_pretty(&measured).unwrap_or_default());
    measured
}

fn lines(machine: &Machine) -> Vec<Line> {
    let ok = |name, text| Line { name, text, fix: None };
    let mut out = vec![ok("processor", format!("{}, {} cores for this process", machine.processor, machine.cores))];
    let features = machine.features.join(", ");
    let slow = machine.features.len() < 2;
    let fix =
        slow.then(|| "kernels are slow without AVX2: another machine, or one whose hypervisor passes it on".into());
    out.push(Line { name: "instructions", text: features, fix });
    out.push(ok("memory", units::bytes(machine.memory_bytes)));
    if let Some(limit) = machine.memory_limit_bytes.filter(|&l| l < machine.memory_bytes) {
        let text = format!("{} for this process (cgroup)", units::bytes(limit));
        let small = limit < 1 << 30;
        out.push(Line { name: "memory limit", text, fix: small.then(|| "raise the container's memory limit".into()) });
    }
    let free = probe::usable_memory_bytes();
    let fix = (free < 1 << 30).then(|| "close other programs: below 1 GiB little can be tuned".into());
    out.push(Line { name: "memory to use", text: units::bytes(free), fix });
    for rates in &machine.rates {
        out.push(ok("arithmetic", arithmetic(rates)));
        out.push(ok("bandwidth", bandwidth(rates)));
    }
    if let Some(disk) = &machine.disk {
        let text = format!("read {:.2} GB/s, write {:.2} GB/s", disk.read_bytes_s / 1e9, disk.write_bytes_s / 1e9);
        out.push(ok("disk", text));
    }
    out
}

fn arithmetic(rates: &Rates) -> String {
    let mut out = format!("{}: f32 {:.0} GFLOP/s", threads(rates), rates.f32_flops / 1e9);
    if let Some(bf16) = rates.bf16_flops {
        out += &format!(", bf16 {:.0} GFLOP/s", bf16 / 1e9);
    }
    if let Some(int8) = rates.int8_ops {
        out += &format!(", int8 {:.0} GOP/s", int8 / 1e9);
    }
    out
}

fn bandwidth(rates: &Rates) -> String {
    let gb = |b: f64| b / 1e9;
    format!(
        "{}: L2 {:.0} GB/s, L3 {:.0} GB/s, memory {:.1} GB/s",
        threads(rates),
        gb(rates.l2_bytes_s),
        gb(rates.l3_bytes_s),
        gb(rates.dram_bytes_s)
    )
}

fn threads(rates: &Rates) -> String {
    if rates.threads == 1 { "1 thread".into() } else { format!("{} threads", rates.threads) }
}

/// What is around the machine: the cache of models, the network, the token.
fn surroundings(context: &Context) -> Vec<Line> {
    let env = &context.env;
    let there = existing(&env.hub_cache);
    let free = rustix::fs::statvfs(&there).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize));
    let fix = (free < 2 << 30).then(|| "make room, or set HF_HUB_CACHE to another disk".to_owned());
    let mut out = vec![Line {
        name: "model cache",
        text: format!("{}, {} free", env.hub_cache.display(), units::bytes(free as usize)),
        fix,
    }];
    let text = match (context.offline(), &env.token) {
        (true, _) => "offline: nothing is downloaded".to_owned(),
        (false, Some(_)) => format!("{}, with a token", env.endpoint),
        (false, None) => format!("{}, without a token (enough for open models)", env.endpoint),
    };
    out.push(Line { name: "hub", text, fix: None });
    out
}

/// The nearest directory above `path` that is there.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|p| p.is_dir()).unwrap_or(Path::new("/")).to_owned()
}
