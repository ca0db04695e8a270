//! Which adapters' sequences run and wait, as vLLM tells it (`lora_requests_info`): the label of every other series is the base
//! model's name. Adapters that nobody asks are not in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::escaped;

#[derive(Default)]
pub struct Adapters {
    /// Sequences that run and that wait, and requests with inputs to be embedded, by the adapter's name.
    open: BTreeMap<Arc<str>, Open>,
}

#[derive(Default)]
struct Open {
    running: usize,
    waiting: usize,
}

impl Adapters {
    pub fn wait(&mut self, name: &Arc<str>) {
        self.open.entry(name.clone()).or_default().waiting += 1;
    }

    /// One that waited runs.
    pub fn run(&mut self, name: &Arc<str>) {
        let open = self.open.entry(name.clone()).or_default();
        open.waiting = open.waiting.saturating_sub(1);
        open.running += 1;
    }

    /// One has ended that ran, or that still waited.
    pub fn end(&mut self, name: &Arc<str>, ran: bool) {
        let Some(open) = self.open.get_mut(name) else { return };
        let count = if ran { &mut open.running } else { &mut open.waiting };
        *count = count.saturating_sub(1);
        if open.running + open.waiting == 0 {
            self.open.remove(name);
        }
    }

    /// The series, with the time as its value, so that whoever reads several finds the latest. `most` adapters may be there.
    pub fn write(&self, out: &mut String, prefix: &str, most: usize) {
        let names = |which: fn(&Open) -> usize| {
            let names = self.open.iter().filter(|(_, open)| which(open) > 0).map(|(name, _)| escaped(name));
            names.collect::<Vec<_>>().join(",")
        };
        let (running, waiting) = (names(|open| open.running), names(|open| open.waiting));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let name = format!("{prefix}lora_requests_info");
        let _ = writeln!(
            out,
            "# HELP {name} Adapters whose sequences run and wait, at this time.\n# TYPE {name} gauge\n\
             {name}{{max_lora=\"{most}\",running_lora_adapters=\"{running}\",waiting_lora_adapters=\"{waiting}\"}} {now}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_is_named_while_its_sequences_are_there() {
        let (mut adapters, a, b): (_, Arc<str>, Arc<str>) = (Adapters::default(), "a".into(), "b\"".into());
        let labels = |adapters: &Adapters| {
            let mut out = String::new();
            adapters.write(&mut out, "vllm:", 8);
            out.lines().last().unwrap().rsplit_once(' ').unwrap().0.to_owned()
        };
        let want = |running: &str, waiting: &str| {
            format!(
                "vllm:lora_requests_info{{max_lora=\"8\",running_lora_adapters=\"{running}\",\
                 waiting_lora_adapters=\"{waiting}\"}}"
            )
        };
        assert_eq!(labels(&adapters), want("", ""));
        [&a, &a, &b].into_iter().for_each(|name| adapters.wait(name));
        adapters.run(&a);
        assert_eq!(labels(&adapters), want("a", "a,b\\\""));
        adapters.run(&b);
        adapters.end(&a, false);
        assert_eq!(labels(&adapters), want("a,b\\\"", ""));
        adapters.end(&a, true);
        adapters.end(&b, true);
        assert_eq!(labels(&adapters), want("", ""));
    }
}
