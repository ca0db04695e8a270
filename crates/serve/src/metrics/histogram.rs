//! Numbers counted in buckets, and their lines in Prometheus' text format. It does not know what the numbers mean.

use std::fmt::Write as _;

pub struct Histogram {
    /// Upper bounds of the buckets, ascending; what is above all of them is only in the count.
    bounds: &'static [f64],
    /// Observations in each bucket, without those of lower ones.
    buckets: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    pub fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, buckets: vec![0; bounds.len()], count: 0, sum: 0.0 }
    }

    pub fn observe(&mut self, value: f64) {
        if let Some(at) = self.bounds.iter().position(|&bound| value <= bound) {
            self.buckets[at] += 1;
        }
        self.count += 1;
        self.sum += value;
    }

    /// Its lines under `name`, each bucket with those below it, as the format has it.
    pub fn write(&self, out: &mut String, name: &str, help: &str, labels: &str) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut below = 0;
        for (bound, n) in self.bounds.iter().zip(&self.buckets) {
            below += n;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound:?}\"}} {below}");
        }
        let (count, sum) = (self.count, self.sum);
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_is_below_them() {
        let mut histogram = Histogram::new(&[1.0, 2.5]);
        [0.5, 1.0, 2.0, 9.0].into_iter().for_each(|value| histogram.observe(value));
        let mut out = String::new();
        histogram.write(&mut out, "h", "Help.", "a=\"b\"");
        assert_eq!(
            out,
            "# HELP h Help.\n# TYPE h histogram\nh_bucket{a=\"b\",le=\"1.0\"} 2\nh_bucket{a=\"b\",le=\"2.5\"} 3\n\
             h_bucket{a=\"b\",le=\"+Inf\"} 4\nh_sum{a=\"b\"} 12.5\nh_count{a=\"b\"} 4\n"
        );
    }
}
