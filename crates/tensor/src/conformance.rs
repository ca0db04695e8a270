//! The conformance table: every op × every sample × every instruction set of this machine. Forward against the f64
//! reference, backward against central differences of the reference, equal bits for 1, 2 and 3 threads, equal counts on the
//! dry device.

use ounce_kernels::{Cpu, Isa};

use crate::ops::{
    act, add, attention, embedding, glu, layernorm, linear, linear_cross_entropy, low_rank, rmsnorm, rope, select_rows,
    split,
};
use crate::{Accumulate, Counter, Device, Elem, Graph, Mode, ParamId, Params, Purpose, Tensor, Var, Weight};

/// A matrix of f64: the reference's numbers.
#[derive(Clone, Debug)]
pub struct M {
    pub rows: usize,
    pub cols: usize,
    data: Vec<f64>,
}

impl M {
    pub fn zeros(rows: usize, cols: usize) -> M {
        M { rows, cols, data: vec![0.0; rows * cols] }
    }
    pub fn from_fn(rows: usize, cols: usize, f: impl Fn(usize, usize) -> f64) -> M {
        M { rows, cols, data: (0..rows * cols).map(|i| f(i / cols, i % cols)).collect() }
    }
    pub fn map(x: &M, f: impl Fn(f64) -> f64) -> M {
        M::from_fn(x.rows, x.cols, |i, j| f(x.at(i, j)))
    }
    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.data[i * self.cols + j]
    }
    pub fn set(&mut self, i: usize, j: usize, v: f64) {
        self.data[i * self.cols + j] = v;
    }
    pub fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }
    /// `self · wᵀ`.
    pub fn times_t(&self, w: &M) -> M {
        M::from_fn(self.rows, w.rows, |i, j| self.row(i).iter().zip(w.row(j)).map(|(a, b)| a * b).sum())
    }
}

type Build = dyn Fn(&mut Graph, &[Var], &[ParamId]) -> Vec<Var>;
type Reference = dyn Fn(&[M], &[M]) -> Vec<M>;

/// One case of one op.
pub struct Sample {
    name: String,
    inputs: Vec<(usize, usize)>,
    params: Vec<(usize, usize)>,
    build: Box<Build>,
    reference: Box<Reference>,
}

impl Sample {
    pub fn new(
        name: &str,
        inputs: &[(usize, usize)],
        params: &[(usize, usize)],
        build: impl Fn(&mut Graph, &[Var], &[ParamId]) -> Vec<Var> + 'static,
        reference: impl Fn(&[M], &[M]) -> Vec<M> + 'static,
    ) -> Sample {
        let (build, reference) = (Box::new(build), Box::new(reference));
        Sample { name: name.into(), inputs: inputs.to_vec(), params: params.to_vec(), build, reference }
    }
}

fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    all.extend(act::samples::samples());
    all.extend(add::samples::samples());
    all.extend(attention::samples::samples());
    all.extend(embedding::samples::samples());
    all.extend(glu::samples::samples());
    all.extend(layernorm::samples::samples());
    all.extend(linear::samples::samples());
    all.extend(linear_cross_entropy::samples::samples());
    all.extend(low_rank::samples::samples());
    all.extend(rmsnorm::samples::samples());
    all.extend(rope::samples::samples());
    all.extend(select_rows::samples::samples());
    all.extend(split::samples::samples());
    all
}

/// Numbers in (-1, 1) that f32, bf16 and f16 hold exactly.
fn numbers(rows: usize, cols: usize, seed: u64) -> M {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    M {
        rows,
        cols,
        data: (0..rows * cols)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                ((state >> 33) % 255) as f64 / 128.0 - 0.99609375
            })
            .collect(),
    }
}

struct Run {
    outputs: Vec<Vec<f32>>,
    input_grads: Vec<Vec<f32>>,
    param_grads: Vec<Vec<f32>>,
    counter: Counter,
    peak_bytes: usize,
}

fn run(sample: &Sample, device: &Device, elem: Elem, inputs: &[M], params_m: &[M], douts: &[M]) -> Run {
    let to_tensor = |m: &M, elem: Elem| {
        let values: Vec<f32> = m.data.iter().map(|&v| v as f32).collect();
        let t = Tensor::from_f32(device, &values, m.rows, m.cols, Purpose::Activations);
        crate::ops::linear::cast(device, t, elem)
    };
    let mut params = Params::default();
    let ids: Vec<ParamId> = params_m
        .iter()
        .enumerate()
        .map(|(i, m)| params.add(&format!("p{i}"), Weight::Dense(to_tensor(m, Elem::F32))))
        .collect();
    let mut sink = Accumulate::new(device, &params, &ids);
    let wanted = vec![true; ids.len()];
    let mut graph = Graph::new(device, &params, &wanted, Mode::Record, None, 0);
    let vars: Vec<Var> = inputs.iter().map(|m| graph.input(to_tensor(m, elem), true)).collect();
    let outs = (sample.build)(&mut graph, &vars, &ids);
    let (values, _, tape) = graph.finish(&outs);
    let grads = values.iter().zip(douts).map(|(v, d)| Some(to_tensor(d, v.elem()))).collect();
    let input_grads = tape.backward(device, &params, &mut sink, grads);
    let vec = |t: &Tensor| if device.is_dry() { Vec::new() } else { t.to_f32_vec() };
    Run {
        outputs: values.iter().map(vec).collect(),
        input_grads: input_grads.iter().map(|g| vec(g.as_ref().expect("every input matters"))).collect(),
        param_grads: ids.iter().map(|&p| vec(sink.grad(p).expect("wanted"))).collect(),
        counter: device.take_counter(),
        peak_bytes: device.memory().peak_bytes,
    }
}

/// `|got - want| ≤ tolerance · (1 + max|want|)`.
fn close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let scale = want.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((*g as f64 - w).abs() <= tolerance * scale, "{what}[{i}]: got {g}, want {w}");
    }
}

#[test]
fn every_op_matches_its_reference_forward_and_backward() {
    for sample in samples() {
        let inputs: Vec<M> = sample.inputs.iter().enumerate().map(|(i, s)| numbers(s.0, s.1, 11 + i as u64)).collect();
        let params: Vec<M> = sample.params.iter().enumerate().map(|(i, s)| numbers(s.0, s.1, 91 + i as u64)).collect();
        let outputs = (sample.reference)(&inputs, &params);
        let douts: Vec<M> = outputs.iter().enumerate().map(|(i, o)| numbers(o.rows, o.cols, 7 + i as u64)).collect();
        let objective = |inputs: &[M], params: &[M]| -> f64 {
            let outs = (sample.reference)(inputs, params);
            outs.iter().zip(&douts).map(|(o, d)| o.data.iter().zip(&d.data).map(|(a, b)| a * b).sum::<f64>()).sum()
        };
        let central = |which: usize, of_params: bool| -> Vec<f64> {
            let count = if of_params { params[which].data.len() } else { inputs[which].data.len() };
            let h = 1e-5;
            (0..count)
                .map(|e| {
                    let at = |delta: f64| {
                        let (mut x, mut p) = (inputs.clone(), params.clone());
                        let m = if of_params { &mut p[which] } else { &mut x[which] };
                        m.data[e] += delta;
                        objective(&x, &p)
                    };
                    (at(h) - at(-h)) / (2.0 * h)
                })
                .collect()
        };
        let input_grads: Vec<Vec<f64>> = (0..inputs.len()).map(|i| central(i, false)).collect();
        let param_grads: Vec<Vec<f64>> = (0..params.len()).map(|i| central(i, true)).collect();
        for isa in Isa::available() {
            for (elem, tolerance) in [(Elem::F32, 2e-5), (Elem::Bf16, 3e-2), (Elem::F16, 3e-2 / 8.0)] {
                let device = Device::cpu(Cpu::with_isa(2, isa));
                let got = run(&sample, &device, elem, &inputs, &params, &douts);
                let what = |part: &str, i: usize| format!("{} {part} {i} ({isa:?}, {elem:?})", sample.name);
                for (i, (g, w)) in got.outputs.iter().zip(&outputs).enumerate() {
                    close(&what("output", i), g, &w.data, tolerance);
                }
                for (i, (g, w)) in got.input_grads.iter().zip(&input_grads).enumerate() {
                    close(&what("input gradient", i), g, w, tolerance);
                }
                for (i, (g, w)) in got.param_grads.iter().zip(&param_grads).enumerate() {
                    close(&what("parameter gradient", i), g, w, tolerance);
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit_and_dry_counts_what_real_counts() {
    for sample in samples() {
        let inputs: Vec<M> = sample.inputs.iter().enumerate().map(|(i, s)| numbers(s.0, s.1, 11 + i as u64)).collect();
        let params: Vec<M> = sample.params.iter().enumerate().map(|(i, s)| numbers(s.0, s.1, 91 + i as u64)).collect();
        let outputs = (sample.reference)(&inputs, &params);
        for elem in [Elem::F32, Elem::Bf16, Elem::F16] {
            let of = |device: &Device| run(&sample, device, elem, &inputs, &params, &outputs);
            let one = of(&Device::cpu(Cpu::new(1)));
            for threads in [2, 3] {
                let many = of(&Device::cpu(Cpu::new(threads)));
                assert_eq!(one.outputs, many.outputs, "{} outputs, {threads} threads", sample.name);
                assert_eq!(one.input_grads, many.input_grads, "{} input gradients, {threads} threads", sample.name);
                assert_eq!(one.param_grads, many.param_grads, "{} parameter gradients, {threads} threads", sample.name);
            }
            let dry = of(&Device::dry());
            assert_eq!((one.counter, one.peak_bytes), (dry.counter, dry.peak_bytes), "{} counts", sample.name);
        }
    }
}

#[test]
fn dropout_keeps_its_mask_in_the_backward_pass_and_is_off_outside_training() {
    let device = Device::cpu(Cpu::new(2));
    let params = Params::default();
    let x = Tensor::from_f32(&device, &vec![1.0; 64 * 100], 64, 100, Purpose::Activations);
    let random = Some(crate::Random { seed: 5, step: 3 });
    let mut graph = Graph::new(&device, &params, &[], Mode::Record, random, 1);
    let v = graph.input(x.clone(), true);
    let y = graph.dropout(v, 0.25, 0);
    let (values, _, tape) = graph.finish(&[y]);
    let grads = tape.backward(&device, &params, &mut crate::NoGrad, vec![Some(x.clone())]);
    assert_eq!(values[0].f32(), grads[0].as_ref().unwrap().f32());
    let kept = values[0].f32().iter().filter(|v| **v != 0.0).count() as f64 / 6400.0;
    assert!((kept - 0.75).abs() < 0.03, "kept {kept}");
    let mut graph = Graph::new(&device, &params, &[], Mode::Record, None, 1);
    let v = graph.input(x, true);
    assert_eq!(graph.dropout(v, 0.25, 0), v);
}
