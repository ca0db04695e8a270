//! How fast this machine runs the kernels of a step, measured on the model's own shapes and weights. A second or so.

use std::time::Instant;

use ounce_model::Model;
use ounce_optim::{Optimizer, Rounding, StepContext};
use ounce_tensor::kernels::{AttnShape, Cpu, In, Out, Span, bf16, f16};
use ounce_tensor::{Counter, Device, Elem, Kernel, Purpose, Tensor, Weight};

/// Seconds per operation or byte of each kernel, in the order of [`Kernel::ALL`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration {
    seconds_per_unit: [f64; Kernel::ALL.len()],
    /// Bytes per second that a disk is read and written with beside the work; 0 where that was not measured.
    pub read_bytes_s: f64,
    pub write_bytes_s: f64,
}

/// The shapes to measure with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shapes {
    /// Rows of a batch.
    pub rows: usize,
    /// Mean length of its sequences.
    pub length: usize,
    /// Rank of adapters, if any.
    pub rank: usize,
    pub elem: Elem,
    /// What trained parameters are stored as, and how many values there are of them.
    pub trained: Elem,
    pub trained_len: usize,
    /// Memory that measuring may take.
    pub room_bytes: usize,
}

/// Whether a kernel's time goes with its operations or with its bytes.
fn counts_operations(kernel: Kernel) -> bool {
    matches!(kernel, Kernel::MatmulF32 | Kernel::MatmulBf16 | Kernel::Attention | Kernel::AttentionBwd)
}

impl Calibration {
    /// Times each kernel on `device` (a real one; on the dry device there is nothing to measure and all rates are infinite).
    pub fn measure(device: &Device, model: &Model, optimizer: &dyn Optimizer, shapes: &Shapes) -> Calibration {
        let mut found = Calibration::default();
        let Some(cpu) = device.processor() else { return found };
        let rows = shapes.rows.max(1);
        let mut set = |kernel: Kernel, seconds: f64| found.seconds_per_unit[kernel as usize] = seconds;
        let product = if shapes.elem == Elem::Bf16 { Kernel::MatmulBf16 } else { Kernel::MatmulF32 };
        set(product, products(device, model, rows, shapes.elem));
        set(Kernel::Skinny, skinny(device, cpu, model, rows, shapes));
        let (forward, backward) = attention(device, cpu, model, rows, shapes);
        set(Kernel::Attention, forward);
        set(Kernel::AttentionBwd, backward);
        set(Kernel::Elementwise, elementwise(device, cpu, model, rows, shapes.elem));
        set(Kernel::Softmax, softmax(device, cpu, model));
        set(Kernel::Update, update(device, cpu, optimizer, shapes));
        found
    }

    /// A machine of which one rate is known.
    #[cfg(test)]
    pub(crate) fn with_rate(kernel: Kernel, per_second: f64) -> Calibration {
        let mut found = Calibration::default();
        found.seconds_per_unit[kernel as usize] = 1.0 / per_second;
        found
    }

    /// Seconds that counted work takes: the disk is read and written while it goes on, and the slower of the two decides.
    pub fn seconds(&self, counter: &Counter) -> f64 {
        self.work_seconds(counter).max(self.disk_seconds(counter))
    }

    /// Seconds that the disk takes.
    pub fn disk_seconds(&self, counter: &Counter) -> f64 {
        let at = |bytes: f64, bytes_s: f64| if bytes_s > 0.0 { bytes / bytes_s } else { 0.0 };
        at(counter.read_bytes, self.read_bytes_s) + at(counter.write_bytes, self.write_bytes_s)
    }

    /// Seconds that computing takes.
    pub fn work_seconds(&self, counter: &Counter) -> f64 {
        let unit = |k: Kernel| if counts_operations(k) { counter.flops[k as usize] } else { counter.bytes[k as usize] };
        Kernel::ALL.iter().map(|&k| unit(k) * self.seconds_per_unit[k as usize]).sum()
    }

    /// What to multiply a forecast by when a batch, run for real without the updates that `counter` has, took `measured_s`; and
    /// how long it was against the sum of its kernels. Updates are left as they were timed: they are long passes over memory
    /// with nothing between them.
    pub fn correction(&self, counter: &Counter, measured_s: f64) -> (f64, f64) {
        let (all, run) = (self.seconds(counter), self.seconds(&counter.scaled(Kernel::Update, 0.0)));
        ((measured_s + all - run) / all, measured_s / run)
    }

    /// Operations or bytes per second of a kernel; `None` where it was not measured.
    pub fn rate(&self, kernel: Kernel) -> Option<f64> {
        let seconds = self.seconds_per_unit[kernel as usize];
        (seconds > 0.0).then(|| 1.0 / seconds)
    }
}

/// Median seconds of a call, after a first one that warms caches and buffers.
fn time(mut work: impl FnMut()) -> f64 {
    work();
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[2]
}

fn filled(device: &Device, elem: Elem, rows: usize, cols: usize) -> Tensor {
    let mut t = Tensor::empty(device, elem, rows, cols, Purpose::Workspace);
    let value = |i: usize| (i % 17) as f32 * 0.01 - 0.08;
    match t.output() {
        Out::F32(x) => x.iter_mut().enumerate().for_each(|(i, x)| *x = value(i)),
        Out::Bf16(x) => x.iter_mut().enumerate().for_each(|(i, x)| *x = bf16::from_f32(value(i))),
        Out::F16(x) => x.iter_mut().enumerate().for_each(|(i, x)| *x = f16::from_f32(value(i))),
    }
    t
}

/// All linear layers of a block, forward and input gradient: seconds per operation.
fn products(device: &Device, model: &Model, rows: usize, elem: Elem) -> f64 {
    let linears = model.family.linears();
    let block = linears.first().map_or(0, |l| l.segment);
    if model.params.enter(block, None).is_err() {
        // Whoever runs the model next hears why.
        return 0.0;
    }
    let weights: Vec<&Weight> =
        linears.iter().filter(|l| l.segment == block).map(|l| model.params.weight(l.weight)).collect();
    let (mut seconds, mut operations) = (0.0, 0.0);
    for w in weights {
        let (n, k) = w.shape();
        let (mut x, mut y) = (filled(device, elem, rows, k), filled(device, elem, rows, n));
        seconds += time(|| w.apply(device, &mut y, &x, false));
        seconds += time(|| w.apply_t(device, &mut x, &y, false));
        operations += 4.0 * rows as f64 * n as f64 * k as f64;
    }
    seconds / operations.max(1.0)
}

/// The products of an adapter, in all three layouts: seconds per byte.
fn skinny(device: &Device, cpu: &Cpu, model: &Model, rows: usize, shapes: &Shapes) -> f64 {
    let (c, r, elem) = (model.config.hidden_size, shapes.rank.max(1), shapes.elem);
    let x = filled(device, elem, rows, c);
    let mut u = filled(device, elem, rows, r);
    let mut y = filled(device, elem, rows, c);
    let a = Weight::Dense(filled(device, Elem::F32, r, c));
    let b = Weight::Dense(filled(device, Elem::F32, c, r));
    let mut grad = filled(device, Elem::F32, r, c);
    device.take_counter();
    let seconds = time(|| a.apply(device, &mut u, &x, false))
        + time(|| b.apply(device, &mut y, &u, true))
        + time(|| cpu.matmul_tn(grad.f32_mut(), u.input(), x.input(), true, rows, r, c));
    // Each was called six times, and the last is not counted by the device.
    let counted = device.take_counter().bytes[Kernel::Skinny as usize] / 6.0;
    let outer = (u.bytes_len() + x.bytes_len() + 2 * grad.bytes_len()) as f64;
    seconds / (counted + outer)
}

fn attention(device: &Device, cpu: &Cpu, model: &Model, rows: usize, shapes: &Shapes) -> (f64, f64) {
    let config = &model.config;
    let (h, kv, d, elem) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim, shapes.elem);
    let length = shapes.length.clamp(1, rows);
    let spans: Vec<Span> = (0..rows / length)
        .map(|i| Span { q_start: i * length, q_len: length, kv_start: i * length, kv_len: length })
        .collect();
    let shape =
        AttnShape { heads: h, kv_heads: kv, head_dim: d, scale: config.attention_scale, causal: true, window: None };
    let pairs = spans.len() as f64 * (length * (length + 1) / 2) as f64 * h as f64;
    let tensor = |cols| filled(device, elem, rows, cols);
    let (q, k, v, dout) = (tensor(h * d), tensor(kv * d), tensor(kv * d), tensor(h * d));
    let (mut out, mut lse) = (tensor(h * d), filled(device, Elem::F32, rows, h));
    let forward = time(|| cpu.attention(out.output(), lse.f32_mut(), q.input(), k.input(), v.input(), &spans, &shape));
    let (mut dq, mut dk, mut dv) = (tensor(h * d), tensor(kv * d), tensor(kv * d));
    let backward = time(|| {
        let (q, k, v): (In, In, In) = (q.input(), k.input(), v.input());
        cpu.attention_bwd(
            dq.output(),
            dk.output(),
            dv.output(),
            dout.input(),
            out.input(),
            lse.f32(),
            q,
            k,
            v,
            &spans,
            &shape,
        )
    });
    (forward / (4.0 * pairs * d as f64), backward / (10.0 * pairs * d as f64))
}

/// The passes that a block makes most: norm, gated activation and its gradient. Seconds per byte.
fn elementwise(device: &Device, cpu: &Cpu, model: &Model, rows: usize, elem: Elem) -> f64 {
    use ounce_tensor::kernels::Act;
    let (c, f) = (model.config.hidden_size, model.config.intermediate_size);
    let (gate, up) = (filled(device, elem, rows, f), filled(device, elem, rows, f));
    let (mut a, mut b) = (filled(device, elem, rows, f), filled(device, elem, rows, f));
    let (x, mut y) = (filled(device, elem, rows, c), filled(device, elem, rows, c));
    let (w, mut rstd) = (filled(device, Elem::F32, 1, c), filled(device, Elem::F32, rows, 1));
    let act = Act::Silu;
    let seconds = time(|| cpu.glu(a.output(), gate.input(), up.input(), act))
        + time(|| cpu.glu_bwd(a.output(), b.output(), gate.input(), up.input(), gate.input(), act))
        + time(|| cpu.rmsnorm(y.output(), rstd.f32_mut(), x.input(), w.f32(), 0.0, 1e-5, rows, c));
    seconds / (8 * gate.bytes_len() + 2 * x.bytes_len()) as f64
}

fn softmax(device: &Device, cpu: &Cpu, model: &Model) -> f64 {
    let (rows, v) = (32, model.config.vocab_size);
    let mut logits = filled(device, Elem::F32, rows, v);
    let (mut loss, mut lse) = (vec![0f32; rows], vec![0f32; rows]);
    let (targets, weights) = (vec![0u32; rows], vec![1f32; rows]);
    let forward = time(|| cpu.cross_entropy(&mut loss, &mut lse, logits.f32(), &targets, rows, v));
    let backward = time(|| cpu.cross_entropy_bwd(logits.f32_mut(), &lse, &targets, &weights, rows, v));
    (forward + backward) / (8 * rows * v) as f64
}

/// An update of as many values as are trained, or of many: what is stored in bf16 is rounded by chance, what is stored in 8
/// bits is looked up and searched, so the bytes alone do not tell its time. Seconds per byte.
fn update(device: &Device, cpu: &Cpu, optimizer: &dyn Optimizer, shapes: &Shapes) -> f64 {
    // More than the caches hold, as a step's parameters are, if there are so many and there is room for them.
    const MOST: usize = 1 << 22;
    let each = shapes.trained.bytes() + 4 + optimizer.state_bytes(MOST).div_ceil(MOST);
    let n = shapes.trained_len.min(MOST).min(shapes.room_bytes / each).max(1);
    let (mut param, grad) = (filled(device, shapes.trained, 1, n), filled(device, Elem::F32, 1, n));
    let mut state = optimizer.init(n);
    let rounding = Rounding { key: 0, first: 0 };
    let at = StepContext { step: 1, lr: 1e-6, grad_scale: 1.0, rounding };
    let seconds = time(|| optimizer.step(cpu, param.output(), grad.f32(), state.view(), &at));
    let moved = 2 * (param.bytes_len() + optimizer.state_bytes(n)) + grad.bytes_len();
    seconds / moved as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_without_its_updates_corrects_what_it_ran_and_leaves_them() {
        let mut calibration = Calibration::with_rate(Kernel::Elementwise, 1.0);
        calibration.seconds_per_unit[Kernel::Update as usize] = 1.0;
        let mut counter = Counter::default();
        (counter.bytes[Kernel::Elementwise as usize], counter.bytes[Kernel::Update as usize]) = (4.0, 2.0);
        // 4 s of kernels took 5 s, and 2 s of updates were not run: 7 s, where 6 s were forecast.
        assert_eq!(calibration.correction(&counter, 5.0), (7.0 / 6.0, 1.25));
        // A disk that takes 8 s hides all of it.
        (counter.read_bytes, calibration.read_bytes_s) = (8.0, 1.0);
        assert_eq!(calibration.correction(&counter, 10.0), (1.25, 1.25));
    }
}
