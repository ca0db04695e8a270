//! Sizes as people read them, for messages.

/// `3.4 GiB`, `512.0 MiB`, `17 B`.
pub fn bytes(n: usize) -> String {
    let mut value = n as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_read_well() {
        assert_eq!((bytes(17), bytes(1536), bytes(3 << 30)), ("17 B".into(), "1.5 KiB".into(), "3.0 GiB".into()));
        assert_eq!((bytes(0), bytes(1023), bytes(1 << 50)), ("0 B".into(), "1023 B".into(), "1024.0 TiB".into()));
    }
}
