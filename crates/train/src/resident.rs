//! How much memory this process has, as the system counts it.

/// The largest resident size so far, in bytes; 0 where the system does not say.
pub fn peak_bytes() -> usize {
    status("VmHWM:")
}

/// The resident size now, in bytes; 0 where the system does not say.
pub fn bytes() -> usize {
    status("VmRSS:")
}

fn status(field: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(field));
    let kib = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<usize>().ok());
    kib.unwrap_or(0) * 1024
}
