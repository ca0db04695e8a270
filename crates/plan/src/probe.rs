//! What this machine is and how fast it is, measured: processor, memory and its limits, arithmetic and bandwidth. It prints
//! nothing and keeps nothing; whoever asks may cache the answer.

use std::path::{Path, PathBuf};

use ounce_spec::Machine;
use ounce_spec::machine::Rates;
use ounce_tensor::kernels::{Cpu, Isa};

/// Measures the machine with 1 thread and with `threads` (0: as many as the process may use). Takes a few seconds.
pub fn measure(threads: usize) -> Machine {
    let mut machine = describe();
    let all = Cpu::new(threads);
    let caches = caches();
    machine.rates.push(rates(&Cpu::new(1), &caches));
    if all.threads() > 1 {
        machine.rates.push(rates(&all, &caches));
    }
    machine
}

/// The machine without its rates: takes no time.
pub fn describe() -> Machine {
    let text = read("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        text.lines().find(|l| l.starts_with(name)).and_then(|l| l.split_once(':')).map(|(_, v)| v.trim().to_owned())
    };
    Machine {
        processor: field("model name").or_else(|| field("CPU part")).unwrap_or_else(|| "unknown".into()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        features: Isa::available().iter().map(|isa| isa_name(*isa).to_owned()).collect(),
        memory_bytes: memory_info(&read("/proc/meminfo").unwrap_or_default(), "MemTotal:").unwrap_or(0),
        memory_limit_bytes: cgroup_limit(),
        rates: Vec::new(),
        disk: None,
    }
}

/// Bytes that this process may grow to now: what the system has free and what the process has already, or what is left
/// under the cgroup's limit.
pub fn usable_memory_bytes() -> usize {
    let info = read("/proc/meminfo").unwrap_or_default();
    let status = read("/proc/self/status").unwrap_or_default();
    // Pages of files are among what is available.
    let own = memory_info(&status, "RssAnon:").unwrap_or(0);
    let free = memory_info(&info, "MemAvailable:").map_or(usize::MAX, |available| available + own);
    free.min(cgroup_limit().unwrap_or(usize::MAX))
}

/// The name of an instruction set in reports.
pub fn isa_name(isa: Isa) -> &'static str {
    match isa {
        Isa::Portable => "portable",
        Isa::Avx2 => "avx2",
        Isa::Avx512 => "avx512",
        Isa::Avx512Bf16 => "avx512-bf16-vnni",
        Isa::Amx => "amx-bf16",
        Isa::Neon => "neon",
        Isa::NeonDot => "neon-dotprod",
    }
}

/// Data cache sizes in bytes, per core for the second level and in all for the third; 0 where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Caches {
    l2_bytes: usize,
    l3_bytes: usize,
}

fn rates(cpu: &Cpu, caches: &Caches) -> Rates {
    // Half of a level lies safely inside it; a set well beyond the last level comes from memory.
    let share = |bytes: usize| (bytes / 2 / cpu.threads()).max(64 << 10);
    let l2 = if caches.l2_bytes > 0 { caches.l2_bytes / 2 } else { 256 << 10 };
    let l3 = if caches.l3_bytes > 0 { share(caches.l3_bytes).max(2 * l2) } else { 2 * l2 };
    let dram = (caches.l3_bytes * 2).clamp(64 << 20, 512 << 20) / cpu.threads();
    Rates {
        threads: cpu.threads(),
        f32_flops: cpu.measure_f32_flops(),
        bf16_flops: cpu.measure_bf16_flops(),
        int8_ops: cpu.measure_int8_ops(),
        l2_bytes_s: cpu.measure_read_bandwidth(l2),
        l3_bytes_s: cpu.measure_read_bandwidth(l3),
        dram_bytes_s: cpu.measure_read_bandwidth(dram),
        kernels: Vec::new(),
    }
}

fn caches() -> Caches {
    let mut out = Caches { l2_bytes: 0, l3_bytes: 0 };
    for index in 0..8 {
        let dir = PathBuf::from(format!("/sys/devices/system/cpu/cpu0/cache/index{index}"));
        let field = |name: &str| read(dir.join(name)).map(|text| text.trim().to_owned());
        let (Some(level), Some(kind), Some(size)) = (field("level"), field("type"), field("size")) else { continue };
        if kind == "Instruction" {
            continue;
        }
        match level.as_str() {
            "2" => out.l2_bytes = size_bytes(&size),
            "3" => out.l3_bytes = size_bytes(&size),
            _ => {}
        }
    }
    out
}

/// `1024K`, `32M`.
fn size_bytes(text: &str) -> usize {
    let (number, factor) = match text.strip_suffix('K') {
        Some(number) => (number, 1 << 10),
        None => (text.strip_suffix('M').unwrap_or(text), if text.ends_with('M') { 1 << 20 } else { 1 }),
    };
    number.parse::<usize>().map_or(0, |n| n.saturating_mul(factor))
}

/// Bytes of a field of /proc/meminfo or /proc/self/status, which count in KiB.
fn memory_info(text: &str, field: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse::<usize>().ok()?.checked_mul(1024)
}

/// The smallest memory limit of the cgroups that this process is in, version 2 or 1.
fn cgroup_limit() -> Option<usize> {
    let own = read("/proc/self/cgroup").unwrap_or_default();
    limit_under(Path::new("/sys/fs/cgroup"), &own)
}

fn limit_under(root: &Path, own: &str) -> Option<usize> {
    let mut limits = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            c if c.split(',').any(|c| c == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        // A limit of any ancestor holds too. In a container the path may not exist: its root is then the group itself.
        let mut dir = root.join(path.trim_start_matches('/'));
        loop {
            let value = read(dir.join(file)).and_then(|text| text.trim().parse::<u64>().ok());
            limits.extend(value);
            if dir == root || !dir.pop() {
                break;
            }
        }
    }
    // Version 1 writes "no limit" as a number near 2^63.
    limits.into_iter().filter(|&l| l < 1 << 60).min().map(|l| l as usize)
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_sizes_are_read() {
        assert_eq!(memory_info("MemTotal:       16384 kB\nMemFree: 1 kB\n", "MemTotal:"), Some(16 << 20));
        assert_eq!(memory_info("nothing", "MemTotal:"), None);
        assert_eq!(
            (size_bytes("1024K"), size_bytes("32M"), size_bytes("64"), size_bytes("x")),
            (1 << 20, 32 << 20, 64, 0)
        );
    }

    #[test]
    fn the_smallest_limit_on_the_way_to_the_root_holds() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a/b/memory.max", "max\n");
        write("a/memory.max", "2000000\n");
        write("memory/c/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit_under(dir.path(), "0::/a/b\n"), Some(2_000_000));
        assert_eq!(limit_under(dir.path(), "4:memory:/c\n"), None);
        write("memory/memory.limit_in_bytes", "1000000\n");
        assert_eq!(limit_under(dir.path(), "4:cpu,memory:/c\n0::/a\n"), Some(1_000_000));
        assert_eq!(limit_under(dir.path(), "0::/not/there\n"), None);
        assert_eq!(limit_under(dir.path(), "garbage"), None);
    }

    #[test]
    fn this_machine_has_memory_and_speed() {
        let machine = measure(1);
        assert!(machine.cores > 0 && machine.memory_bytes > 0 && !machine.features.is_empty());
        let [rates] = &machine.rates[..] else { panic!("one thread count, one set of rates") };
        assert!(
            rates.f32_flops > 1e8 && rates.dram_bytes_s > 1e7 && rates.l2_bytes_s >= rates.dram_bytes_s * 0.5,
            "{rates:?}"
        );
        assert!(usable_memory_bytes() > 1 << 20);
    }
}
