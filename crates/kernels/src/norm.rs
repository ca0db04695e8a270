//! RMSNorm (Zhang & Sennrich 2019) and LayerNorm (Ba et al. 2016). `rows` rows of `c` columns; statistics are f32.
//! `add` in RMSNorm is added to the weight: 1 for Gemma, else 0. Inputs may be f32 where outputs are bf16 and the reverse;
//! the activations of a backward pass have one type.

use crate::lanes::{Elem, L, Simd, Split, chunks_of, map2, one_type, rows_per_chunk, simd_fn, sum1, sum2, typed};
use crate::{Cpu, In, Out};

/// `Σ x²`.
#[inline(always)]
fn squares<S: Simd, A: Elem>(s: S, x: &[A]) -> f32 {
    sum1(
        s,
        x,
        #[inline(always)]
        |acc, x| s.fma(x, x, acc),
    )
}

/// `Σ (x - mean)²`. The last partial vector is summed on its own, because its padding is not at the mean.
#[inline(always)]
fn centred_squares<S: Simd, A: Elem>(s: S, x: &[A], mean: f32) -> f32 {
    let (body, tail) = x.split_at(x.len() / L * L);
    let m = s.splat(mean);
    let whole = sum1(
        s,
        body,
        #[inline(always)]
        |acc, x| {
            let d = s.sub(x, m);
            s.fma(d, d, acc)
        },
    );
    whole + tail.iter().map(|x| (x.to_f32() - mean) * (x.to_f32() - mean)).sum::<f32>()
}

simd_fn! {
    /// One row; returns `rstd`.
    fn rmsnorm_row[O: Elem, A: Elem](s, out: &mut [O], x: &[A], w: &[f32], add: f32, eps: f32) -> f32 {
        let rstd = 1.0 / (squares(s, x) / x.len() as f32 + eps).sqrt();
        let (r, add) = (s.splat(rstd), s.splat(add));
        map2(s, out, x, w, #[inline(always)] |x, w| s.mul(s.mul(x, r), s.add(w, add)));
        rstd
    }
}
simd_fn! {
    fn add_row[E: Elem](s, sum: &mut [E], a: &[E], b: &[E]) {
        map2(s, sum, a, b, #[inline(always)] |a, b| s.add(a, b));
    }
}
simd_fn! {
    /// With `x̂ = x·rstd` and `g = dy·(w + add)`: `dx = rstd · (g - x̂ · mean(g·x̂))`.
    fn rmsnorm_bwd_row[E: Elem](
        s, dx: &mut [E], dy: &[E], x: &[E], w: &[f32], add: f32, rstd: f32, accumulate: bool,
    ) {
        let (r, add) = (s.splat(rstd), s.splat(add));
        let dot = sum3(s, dy, x, w, #[inline(always)] |acc, dy, x, w| s.fma(s.mul(dy, s.add(w, add)), x, acc));
        let mean = dot * rstd / x.len() as f32;
        // x̂ · mean(g·x̂) as x · (rstd · mean)
        let back = s.splat(-mean * rstd);
        write3(s, dx, dy, x, w, accumulate, #[inline(always)] |dy, x, w| {
            s.mul(r, s.fma(x, back, s.mul(dy, s.add(w, add))))
        });
    }
}
simd_fn! {
    /// `out = dy · (x - mean) · rstd`, what the gradient of the weight sums.
    fn dw_row[O: Elem, E: Elem](s, out: &mut [O], dy: &[E], x: &[E], mean: f32, rstd: f32) {
        let (m, r) = (s.splat(mean), s.splat(rstd));
        map2(s, out, dy, x, #[inline(always)] |dy, x| s.mul(dy, s.mul(s.sub(x, m), r)));
    }
}
simd_fn! {
    /// One row; returns `mean` and `rstd`.
    fn layernorm_row[O: Elem, A: Elem](s, out: &mut [O], x: &[A], w: &[f32], b: &[f32], eps: f32) -> (f32, f32) {
        let n = x.len() as f32;
        let mean = sum1(s, x, #[inline(always)] |acc, x| s.add(acc, x)) / n;
        let rstd = 1.0 / (centred_squares(s, x, mean) / n + eps).sqrt();
        let (m, r) = (s.splat(mean), s.splat(rstd));
        write3(s, out, x, w, b, false, #[inline(always)] |x, w, b| s.fma(s.mul(s.sub(x, m), r), w, b));
        (mean, rstd)
    }
}
simd_fn! {
    /// With `x̂ = (x - mean)·rstd` and `g = dy·w`: `dx = rstd · (g - mean(g) - x̂ · mean(g·x̂))`.
    fn layernorm_bwd_row[E: Elem](
        s, dx: &mut [E], dy: &[E], x: &[E], w: &[f32], mean: f32, rstd: f32, accumulate: bool,
    ) {
        let (m, r) = (s.splat(mean), s.splat(rstd));
        let n = x.len() as f32;
        let dot = sum3(s, dy, x, w, #[inline(always)] |acc, dy, x, w| s.fma(s.mul(dy, w), s.sub(x, m), acc));
        let along = dot * rstd / n;
        let level = sum2(s, dy, w, #[inline(always)] |acc, dy, w| s.fma(dy, w, acc)) / n;
        let (back, level) = (s.splat(-along * rstd), s.splat(level));
        write3(s, dx, dy, x, w, accumulate, #[inline(always)] |dy, x, w| {
            s.mul(r, s.fma(s.sub(x, m), back, s.sub(s.mul(dy, w), level)))
        });
    }
}

/// `Σ f(a, b, c)` as an update of the sum, with `f(acc, 0, 0, 0) = acc`: two sums of sixteen lanes, so that the additions
/// overlap.
#[inline(always)]
fn sum3<S: Simd, A: Elem, B: Elem, C: Elem>(
    s: S,
    a: &[A],
    b: &[B],
    c: &[C],
    f: impl Fn(S::V, S::V, S::V, S::V) -> S::V,
) -> f32 {
    assert_eq!((a.len(), a.len()), (b.len(), c.len()));
    let (mut even, mut odd) = (s.splat(0.0), s.splat(0.0));
    let (ab, at) = a.as_chunks::<L>();
    let (bb, bt) = b.as_chunks::<L>();
    let (cb, ct) = c.as_chunks::<L>();
    for ((a, b), c) in ab.chunks(2).zip(bb.chunks(2)).zip(cb.chunks(2)) {
        even = f(even, A::load(s, &a[0]), B::load(s, &b[0]), C::load(s, &c[0]));
        if let ([_, a], [_, b], [_, c]) = (a, b, c) {
            odd = f(odd, A::load(s, a), B::load(s, b), C::load(s, c));
        }
    }
    if !at.is_empty() {
        even = f(even, A::load_part(s, at), B::load_part(s, bt), C::load_part(s, ct));
    }
    s.sum(s.add(even, odd))
}

/// `out = f(a, b, c)`, added to `out` if `accumulate`.
#[inline(always)]
fn write3<S: Simd, O: Elem, A: Elem, B: Elem, C: Elem>(
    s: S,
    out: &mut [O],
    a: &[A],
    b: &[B],
    c: &[C],
    accumulate: bool,
    f: impl Fn(S::V, S::V, S::V) -> S::V,
) {
    let n = out.len();
    assert_eq!((n, n, n), (a.len(), b.len(), c.len()));
    let (ob, ot) = out.as_chunks_mut::<L>();
    let (ab, at) = a.as_chunks::<L>();
    let (bb, bt) = b.as_chunks::<L>();
    let (cb, ct) = c.as_chunks::<L>();
    for (((o, a), b), c) in ob.iter_mut().zip(ab).zip(bb).zip(cb) {
        let mut y = f(A::load(s, a), B::load(s, b), C::load(s, c));
        if accumulate {
            y = s.add(O::load(s, o), y);
        }
        O::store(s, o, y);
    }
    if !ot.is_empty() {
        let mut y = f(A::load_part(s, at), B::load_part(s, bt), C::load_part(s, ct));
        if accumulate {
            y = s.add(O::load_part(s, ot), y);
        }
        O::store_part(s, ot, y);
    }
}

impl Cpu {
    /// Calls `work(row)` for every row, rows of a chunk in order.
    pub(crate) fn each_row(&self, rows: usize, c: usize, work: impl Fn(usize) + Sync) {
        let size = rows_per_chunk(c);
        self.pool.run(rows.div_ceil(size), |chunk, _| chunks_of(rows, size, chunk).for_each(&work));
    }

    /// `out = x · rstd · (w + add)`, `rstd[rows] = (mean(x²) + eps)^-1/2`.
    pub fn rmsnorm(&self, out: Out, rstd: &mut [f32], x: In, w: &[f32], add: f32, eps: f32, rows: usize, c: usize) {
        check("rmsnorm", rows, c, &[out.len(), x.len()], &[rstd.len()], &[w.len()]);
        typed!(out out, in x; {
            let (out, rstd) = (Split::new(out), Split::new(rstd));
            self.each_row(rows, c, |row| {
                let r = row * c..(row + 1) * c;
                // SAFETY: every row belongs to one call.
                let (out, rstd) = unsafe { (out.part(r.clone()), rstd.part(row..row + 1)) };
                rstd[0] = rmsnorm_row(self.isa, out, &x[r], w, add, eps);
            });
        })
    }

    /// `dx` (`+=` if `accumulate`) from `dy`, the input `x` and the forward's `rstd`. `dw_rows`, if given, receives
    /// `dy · x · rstd` for each row (`[rows, c]`): what the gradient of `w` is the column sum of.
    pub fn rmsnorm_bwd(
        &self,
        dx: Out,
        dw_rows: Option<Out>,
        dy: In,
        x: In,
        w: &[f32],
        add: f32,
        rstd: &[f32],
        accumulate: bool,
        rows: usize,
        c: usize,
    ) {
        check("rmsnorm_bwd", rows, c, &[dx.len(), dy.len(), x.len()], &[rstd.len()], &[w.len()]);
        one_type!(x, E => {
            let (dx, dy, x) = (E::output(dx, "rmsnorm_bwd"), E::input(dy, "rmsnorm_bwd"), E::input(x, "rmsnorm_bwd"));
            let dx = Split::new(dx);
            self.each_row(rows, c, |row| {
                let r = row * c..(row + 1) * c;
                // SAFETY: every row belongs to one call.
                let dx = unsafe { dx.part(r.clone()) };
                rmsnorm_bwd_row(self.isa, dx, &dy[r.clone()], &x[r], w, add, rstd[row], accumulate);
            });
            self.dw_rows(dw_rows, dy, x, |_| 0.0, rstd, rows, c);
        })
    }

    /// `sum = a + b`; `out = rmsnorm(sum)`: the residual connection and the norm that follows it, in one pass.
    pub fn add_rmsnorm(
        &self,
        sum: Out,
        out: Out,
        rstd: &mut [f32],
        a: In,
        b: In,
        w: &[f32],
        add: f32,
        eps: f32,
        rows: usize,
        c: usize,
    ) {
        let lengths = [sum.len(), out.len(), a.len(), b.len()];
        check("add_rmsnorm", rows, c, &lengths, &[rstd.len()], &[w.len()]);
        one_type!(a, E => {
            let rstd = Split::new(rstd);
            self.add_norm::<E>("add_rmsnorm", sum, out, a, b, rows, c, |row, out, sum| {
                // SAFETY: every row belongs to one call.
                let rstd = unsafe { rstd.part(row..row + 1) };
                rstd[0] = rmsnorm_row(self.isa, out, sum, w, add, eps);
            });
        })
    }

    /// `sum = a + b`; `out = layernorm(sum)`.
    pub fn add_layernorm(
        &self,
        sum: Out,
        out: Out,
        mean: &mut [f32],
        rstd: &mut [f32],
        a: In,
        b: In,
        w: &[f32],
        bias: &[f32],
        eps: f32,
        rows: usize,
        c: usize,
    ) {
        let lengths = [sum.len(), out.len(), a.len(), b.len()];
        check("add_layernorm", rows, c, &lengths, &[mean.len(), rstd.len()], &[w.len(), bias.len()]);
        one_type!(a, E => {
            let (mean, rstd) = (Split::new(mean), Split::new(rstd));
            self.add_norm::<E>("add_layernorm", sum, out, a, b, rows, c, |row, out, sum| {
                // SAFETY: every row belongs to one call.
                let (mean, rstd) = unsafe { (mean.part(row..row + 1), rstd.part(row..row + 1)) };
                (mean[0], rstd[0]) = layernorm_row(self.isa, out, sum, w, bias, eps);
            });
        })
    }

    /// `sum = a + b`, and `norm(row, out, sum)` of each row while it is in the cache. The norm sees the sum as it is stored: a
    /// later pass that reads it gets the same result.
    fn add_norm<E: Elem>(
        &self,
        kernel: &str,
        sum: Out,
        out: Out,
        a: In,
        b: In,
        rows: usize,
        c: usize,
        norm: impl Fn(usize, &mut [E], &[E]) + Sync,
    ) {
        let (sum, out) = (Split::new(E::output(sum, kernel)), Split::new(E::output(out, kernel)));
        let (a, b) = (E::input(a, kernel), E::input(b, kernel));
        self.each_row(rows, c, |row| {
            let r = row * c..(row + 1) * c;
            // SAFETY: every row belongs to one call.
            let (sum, out) = unsafe { (sum.part(r.clone()), out.part(r.clone())) };
            add_row(self.isa, sum, &a[r.clone()], &b[r]);
            norm(row, out, sum);
        });
    }

    /// `out = (x - mean) · rstd · w + b`.
    pub fn layernorm(
        &self,
        out: Out,
        mean: &mut [f32],
        rstd: &mut [f32],
        x: In,
        w: &[f32],
        b: &[f32],
        eps: f32,
        rows: usize,
        c: usize,
    ) {
        check("layernorm", rows, c, &[out.len(), x.len()], &[mean.len(), rstd.len()], &[w.len(), b.len()]);
        typed!(out out, in x; {
            let (out, mean, rstd) = (Split::new(out), Split::new(mean), Split::new(rstd));
            self.each_row(rows, c, |row| {
                let r = row * c..(row + 1) * c;
                // SAFETY: every row belongs to one call.
                let (out, mean, rstd) =
                    unsafe { (out.part(r.clone()), mean.part(row..row + 1), rstd.part(row..row + 1)) };
                (mean[0], rstd[0]) = layernorm_row(self.isa, out, &x[r], w, b, eps);
            });
        })
    }

    /// As `rmsnorm_bwd`; `dw_rows` receives `dy · (x - mean) · rstd`. The gradient of `b` is the column sum of `dy`.
    pub fn layernorm_bwd(
        &self,
        dx: Out,
        dw_rows: Option<Out>,
        dy: In,
        x: In,
        w: &[f32],
        mean: &[f32],
        rstd: &[f32],
        accumulate: bool,
        rows: usize,
        c: usize,
    ) {
        check("layernorm_bwd", rows, c, &[dx.len(), dy.len(), x.len()], &[mean.len(), rstd.len()], &[w.len()]);
        one_type!(x, E => {
            let dx = E::output(dx, "layernorm_bwd");
            let (dy, x) = (E::input(dy, "layernorm_bwd"), E::input(x, "layernorm_bwd"));
            let dx = Split::new(dx);
            self.each_row(rows, c, |row| {
                let r = row * c..(row + 1) * c;
                // SAFETY: every row belongs to one call.
                let dx = unsafe { dx.part(r.clone()) };
                layernorm_bwd_row(self.isa, dx, &dy[r.clone()], &x[r], w, mean[row], rstd[row], accumulate);
            });
            self.dw_rows(dw_rows, dy, x, |row| mean[row], rstd, rows, c);
        })
    }

    fn dw_rows<E: Elem>(
        &self,
        out: Option<Out>,
        dy: &[E],
        x: &[E],
        mean: impl Fn(usize) -> f32 + Sync,
        rstd: &[f32],
        rows: usize,
        c: usize,
    ) {
        let Some(out) = out else { return };
        assert_eq!(out.len(), rows * c, "length of dw_rows");
        typed!(out out; {
            let out = Split::new(out);
            self.each_row(rows, c, |row| {
                let r = row * c..(row + 1) * c;
                // SAFETY: every row belongs to one call.
                let out = unsafe { out.part(r.clone()) };
                dw_row(self.isa, out, &dy[r.clone()], &x[r], mean(row), rstd[row]);
            });
        })
    }
}

fn check(kernel: &str, rows: usize, c: usize, whole: &[usize], per_row: &[usize], per_column: &[usize]) {
    assert!(whole.iter().all(|n| *n == rows * c), "{kernel}: lengths {whole:?} are not all {rows} x {c}");
    assert!(per_row.iter().all(|n| *n == rows), "{kernel}: row statistics of lengths {per_row:?} for {rows} rows");
    assert!(per_column.iter().all(|n| *n == c), "{kernel}: weights of lengths {per_column:?} for {c} columns");
}
