//! What the machine can do at most, as `ounce doctor` measures it: the limit that figures are held against. Knows no models.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::measure;

/// The measured limits at one number of threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// Processor, cores, memory, instruction sets, in words.
    pub words: String,
    pub f32_flops: f64,
    pub bf16_flops: f64,
    pub dram_bytes_s: f64,
}

impl Machine {
    /// Measures anew: what is remembered may come from a busy hour.
    pub fn measure(ounce: &Path, threads: usize) -> Result<Machine, String> {
        let run = measure::run(Command::new(ounce).args(["doctor", "--fresh", "--json"]))?;
        Machine::of(&run.said, threads)
    }

    fn of(doctor: &Value, threads: usize) -> Result<Machine, String> {
        let missing = |what: &str| format!("`ounce doctor --json` has no {what}");
        let rates = doctor["rates"].as_array().ok_or_else(|| missing("rates"))?;
        let rates = rates.iter().find(|r| r["threads"] == threads as u64);
        let rates = rates.ok_or_else(|| missing(&format!("rates for {threads} threads")))?;
        let rate = |name: &str| rates[name].as_f64().filter(|r| *r > 0.0);
        let f32_flops = rate("f32_flops").ok_or_else(|| missing("f32_flops"))?;
        let features: Vec<&str> =
            doctor["features"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let words = format!(
            "{}, {} cores, {:.0} GiB, {}",
            doctor["processor"].as_str().ok_or_else(|| missing("processor"))?,
            doctor["cores"].as_u64().ok_or_else(|| missing("cores"))?,
            doctor["memory_bytes"].as_f64().ok_or_else(|| missing("memory_bytes"))? / f64::from(1 << 30),
            features.join(", "),
        );
        // Without instructions for bf16 its products run at the rate of f32.
        let bf16_flops = rate("bf16_flops").unwrap_or(f32_flops);
        let dram_bytes_s = rate("dram_bytes_s").ok_or_else(|| missing("dram_bytes_s"))?;
        Ok(Machine { words, f32_flops, bf16_flops, dram_bytes_s })
    }

    /// The better of two measurements: others can only take from a limit.
    pub fn best(self, other: Machine) -> Machine {
        Machine {
            f32_flops: self.f32_flops.max(other.f32_flops),
            bf16_flops: self.bf16_flops.max(other.bf16_flops),
            dram_bytes_s: self.dram_bytes_s.max(other.dram_bytes_s),
            ..self
        }
    }

    /// For the line above a table.
    pub fn describe(&self, threads: usize) -> String {
        let Machine { words, f32_flops, bf16_flops, dram_bytes_s } = self;
        let (f32_flops, bf16_flops, dram) = (f32_flops / 1e9, bf16_flops / 1e9, dram_bytes_s / 1e9);
        format!(
            "{words}. Measured limits on {threads} threads, the better of before and after: f32 {f32_flops:.0} GFLOP/s, \
             bf16 {bf16_flops:.0} GFLOP/s, memory {dram:.1} GB/s."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doctor(f32_flops: f64, dram: f64) -> Value {
        serde_json::json!({
            "processor": "P", "cores": 2, "memory_bytes": 1u64 << 34, "features": ["portable", "avx2"],
            "rates": [
                {"threads": 1, "f32_flops": 1.0, "bf16_flops": 1.0, "dram_bytes_s": 1.0},
                {"threads": 2, "f32_flops": f32_flops, "bf16_flops": null, "dram_bytes_s": dram},
            ],
        })
    }

    #[test]
    fn limits_are_read_for_the_threads_that_run() {
        let machine = Machine::of(&doctor(4e11, 3e10), 2).unwrap();
        assert_eq!(machine.words, "P, 2 cores, 16 GiB, portable, avx2");
        assert_eq!((machine.f32_flops, machine.bf16_flops), (4e11, 4e11));
        let best = machine.best(Machine::of(&doctor(3e11, 4e10), 2).unwrap());
        assert_eq!((best.f32_flops, best.dram_bytes_s), (4e11, 4e10));
        assert!(best.describe(2).contains("f32 400 GFLOP/s, bf16 400 GFLOP/s, memory 40.0 GB/s"));
        assert!(Machine::of(&doctor(1.0, 1.0), 7).unwrap_err().contains("rates for 7 threads"));
        assert!(Machine::of(&serde_json::json!({}), 2).unwrap_err().contains("rates"));
    }
}
