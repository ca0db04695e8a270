//! The energy that the processor has used since the server began, from the counters that Linux shows (RAPL, under
//! `powercap`). Many machines have none, or let only root read them: then nothing is known and nothing said. It knows no
//! metric but its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub const ZONES: &str = "/sys/class/powercap";

/// The counters of all processor packages.
pub struct Energy(Mutex<Vec<Zone>>);

struct Zone {
    counter: PathBuf,
    /// Where the counter begins anew.
    range_uj: u64,
    last_uj: u64,
    used_uj: u64,
}

impl Energy {
    /// Reads where the counters stand now.
    pub fn open(zones: &Path) -> Energy {
        let entries = fs::read_dir(zones).into_iter().flatten().flatten();
        Energy(Mutex::new(entries.filter_map(|entry| Zone::open(&entry.path())).collect()))
    }

    /// Joules used so far, where that is known. A counter goes round in an hour or more, so ask more often than that.
    fn joules(&self) -> Option<f64> {
        let mut zones = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        zones.iter_mut().for_each(Zone::look);
        (!zones.is_empty()).then(|| zones.iter().map(|zone| zone.used_uj as f64 / 1e6).sum())
    }

    /// As Prometheus reads it; empty where nothing is known.
    pub fn text(&self) -> String {
        let name = "ounce:energy_joules_total";
        let help = "Energy of the whole processor since the server began, whoever used it.";
        let line = |joules| format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {joules}\n");
        self.joules().map(line).unwrap_or_default()
    }
}

impl Zone {
    /// `intel-rapl:0` is a package (AMD's, too, have this name); `intel-rapl:0:1` is a part of one that it counts already.
    fn open(folder: &Path) -> Option<Zone> {
        let index = folder.file_name()?.to_str()?.strip_prefix("intel-rapl:")?;
        if !index.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let counter = folder.join("energy_uj");
        let range_uj = number(&folder.join("max_energy_range_uj"))?;
        Some(Zone { range_uj, last_uj: number(&counter)?, used_uj: 0, counter })
    }

    fn look(&mut self) {
        let Some(now) = number(&self.counter) else { return };
        let since =
            if now >= self.last_uj { now - self.last_uj } else { (self.range_uj + now).saturating_sub(self.last_uj) };
        (self.last_uj, self.used_uj) = (now, self.used_uj + since);
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_added_up_across_the_end_of_their_counters() {
        let zones = tempfile::tempdir().unwrap();
        let set = |zone: &str, uj: u64| {
            let folder = zones.path().join(zone);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("max_energy_range_uj"), "10000000\n").unwrap();
            fs::write(folder.join("energy_uj"), format!("{uj}\n")).unwrap();
        };
        assert_eq!(Energy::open(zones.path()).text(), "");
        set("intel-rapl:0", 9_000_000);
        set("intel-rapl:1", 1_000_000);
        set("intel-rapl:0:0", 5);
        let energy = Energy::open(zones.path());
        assert_eq!(energy.joules(), Some(0.0));
        set("intel-rapl:0", 500_000);
        set("intel-rapl:1", 3_000_000);
        set("intel-rapl:0:0", 5_000_000);
        assert_eq!(energy.joules(), Some(3.5));
        set("intel-rapl:1", 3_250_000);
        assert!(energy.text().ends_with("ounce:energy_joules_total 3.75\n"), "{}", energy.text());
    }
}
