//! Numbers with their units, as people read and write them.

pub use ounce_formats::units::bytes;

/// `12 ms`, `4.2 s`, `3 min 20 s`, `2 h 05 min`.
pub fn seconds(s: f64) -> String {
    if !s.is_finite() {
        return "?".into();
    }
    if s > 0.0 && s < 0.1 {
        return if s < 0.001 { format!("{:.1} ms", s * 1e3) } else { format!("{:.0} ms", s * 1e3) };
    }
    if s < 60.0 {
        return if s < 10.0 { format!("{s:.1} s") } else { format!("{s:.0} s") };
    }
    let whole = s.round() as u64;
    match whole {
        ..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// `123`, `12.3 k`, `4.56 M`, `1.23 G` (powers of ten).
pub fn count(n: f64) -> String {
    for (limit, unit) in [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if n.abs() >= limit {
            let value = n / limit;
            return if value.abs() < 10.0 { format!("{value:.2} {unit}") } else { format!("{value:.1} {unit}") };
        }
    }
    if n.fract() == 0.0 { format!("{n}") } else { format!("{n:.1}") }
}

/// Bytes of `12GiB`, `800MB`, `1.5g`, `4096`. Units of 1000 and of 1024 are told apart by the `i`; a bare letter is 1024.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024f64.powi(2),
        "g" | "gib" => 1024f64.powi(3),
        "t" | "tib" => 1024f64.powi(4),
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return Err(format!("{text:?} is no size; write for example 12GiB or 800MB")),
    };
    match number.parse::<f64>() {
        Ok(n) if n > 0.0 && n * factor >= 1.0 && n * factor < 1e18 => Ok((n * factor) as usize),
        _ => Err(format!("{text:?} is no size; write for example 12GiB or 800MB")),
    }
}

/// A whole number of at least 1.
pub fn parse_positive(text: &str) -> Result<usize, String> {
    text.parse::<usize>().ok().filter(|&n| n > 0).ok_or_else(|| "it must be a whole number of at least 1".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!((seconds(0.0123), seconds(0.0), seconds(0.25)), ("12 ms".into(), "0.0 s".into(), "0.2 s".into()));
        assert_eq!((seconds(4.21), seconds(59.9)), ("4.2 s".into(), "60 s".into()));
        assert_eq!(
            (seconds(200.0), seconds(7500.0), seconds(f64::NAN)),
            ("3 min 20 s".into(), "2 h 05 min".into(), "?".into())
        );
        assert_eq!((count(123.0), count(12_345.0), count(4.56e6)), ("123".into(), "12.3 k".into(), "4.56 M".into()));
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_bytes("12GiB"), Ok(12 << 30));
        assert_eq!(parse_bytes("1.5g"), Ok(3 << 29));
        assert_eq!(parse_bytes("800 MB"), Ok(800_000_000));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        for bad in ["", "x", "-1", "0", "12QB", "1e999", "1.2.3"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
