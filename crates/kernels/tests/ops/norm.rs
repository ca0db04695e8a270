//! Norms and their gradients, rotary embedding.

use crate::{Buffer, SIZES, check, random, rows, wide, zip};

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// RMSNorm or LayerNorm of a row in f64: the result, the mean taken away and the reciprocal deviation.
fn norm(x: &[f64], w: &[f64], b: &[f64], centre: bool) -> (Vec<f64>, f64, f64) {
    let m = if centre { mean(x) } else { 0.0 };
    let r = 1.0 / (x.iter().map(|x| (x - m).powi(2)).sum::<f64>() / x.len() as f64 + 1e-5f32 as f64).sqrt();
    (zip([x, w, b], |[x, w, b]| (x - m) * r * w + b), m, r)
}

/// The gradient of a row of `norm` for `dy`, by central differences along each input.
fn norm_slope(x: &[f64], w: &[f64], b: &[f64], centre: bool, dy: &[f64]) -> Vec<f64> {
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let at = x[i];
            let mut value = |to| {
                x[i] = to;
                norm(&x, w, b, centre).0.iter().zip(dy).map(|(a, b)| a * b).sum::<f64>()
            };
            let slope = (value(at + 1e-5) - value(at - 1e-5)) / 2e-5;
            x[i] = at;
            slope
        })
        .collect()
}

#[test]
fn norms() {
    for (m, c) in SIZES {
        // Differences are quadratic in c: the widest rows are checked in the forward direction only.
        let backward = c < 600;
        let m = m.min(6);
        check(&format!("norms {m}x{c}"), 8.0, |cpu, kind| {
            let n = m * c;
            let new = |seed| Buffer::random(n, seed, kind);
            let (x, x2, dy, w, b) = (new(1), new(2), new(3), random(c, 4), random(c, 5));
            let (mut rstd, mut mu, mut rstd2, mut rstd3) = (vec![0.0; m], vec![0.0; m], vec![0.0; m], vec![0.0; m]);
            let (mut y, mut z, mut sum, mut out) = (new(6), new(6), new(6), new(6));
            let (mut mu2, mut rstd4, mut sum2, mut out2) = (vec![0.0; m], vec![0.0; m], new(6), new(6));
            let (mut dx, mut dz, mut dw, mut dw2) = (new(7), new(7), new(8), new(8));
            let start = dx.f64();
            cpu.rmsnorm(y.set(), &mut rstd, x.get(), &w, 1.0, 1e-5, m, c);
            cpu.layernorm(z.set(), &mut mu, &mut rstd2, x.get(), &w, &b, 1e-5, m, c);
            cpu.add_rmsnorm(sum.set(), out.set(), &mut rstd3, x.get(), x2.get(), &w, 0.0, 1e-5, m, c);
            let (means, rstds, both) = (&mut mu2, &mut rstd4, (sum2.set(), out2.set()));
            cpu.add_layernorm(both.0, both.1, means, rstds, x.get(), x2.get(), &w, &b, 1e-5, m, c);
            cpu.rmsnorm_bwd(dx.set(), Some(dw.set()), dy.get(), x.get(), &w, 1.0, &rstd, true, m, c);
            cpu.layernorm_bwd(dz.set(), Some(dw2.set()), dy.get(), x.get(), &w, &mu, &rstd2, false, m, c);
            let (x, x2, dy, sums) = (x.f64(), x2.f64(), dy.f64(), sum.f64());
            let (w, b, zero) = (wide(&w), wide(&b), vec![0.0; c]);
            let plus: Vec<f64> = w.iter().map(|w| w + 1.0).collect();
            let row = |x: &[f64], i: usize| x[i * c..(i + 1) * c].to_vec();
            let mut all = vec![
                (y.f64(), rows(&x, c, |_, x| norm(x, &plus, &zero, false).0)),
                (z.f64(), rows(&x, c, |_, x| norm(x, &w, &b, true).0)),
                (sums.clone(), zip([&x, &x2], |[a, b]| a + b)),
                (out.f64(), rows(&sums, c, |_, x| norm(x, &w, &zero, false).0)),
                (sum2.f64(), zip([&x, &x2], |[a, b]| a + b)),
                (out2.f64(), rows(&sums, c, |_, x| norm(x, &w, &b, true).0)),
                (wide(&mu), rows(&x, c, |_, x| vec![mean(x)])),
                (wide(&mu2), rows(&sums, c, |_, x| vec![mean(x)])),
                (
                    dw.f64(),
                    rows(&x, c, |i, x| {
                        let r = norm(x, &w, &zero, false).2;
                        zip([x, &row(&dy, i)], |[x, dy]| dy * x * r)
                    }),
                ),
                (
                    dw2.f64(),
                    rows(&x, c, |i, x| {
                        let (_, mu, r) = norm(x, &w, &zero, true);
                        zip([x, &row(&dy, i)], |[x, dy]| dy * (x - mu) * r)
                    }),
                ),
            ];
            if backward {
                let dx_want = rows(&x, c, |i, x| {
                    let slope = norm_slope(x, &plus, &zero, false, &row(&dy, i));
                    zip([&slope, &row(&start, i)], |[a, b]| a + b)
                });
                all.push((dx.f64(), dx_want));
                // A row of one column has no deviation: its rstd is 300, and so are the errors.
                let scale = if c == 1 { 0.0 } else { 1.0 };
                let got: Vec<f64> = dz.f64().iter().map(|x| x * scale).collect();
                all.push((
                    got,
                    rows(&x, c, |i, x| norm_slope(x, &w, &b, true, &row(&dy, i)).iter().map(|x| x * scale).collect()),
                ));
            }
            all
        });
    }
}

#[test]
fn rope_turns_and_turns_back() {
    for (heads, d, rot) in [(1, 2, 2), (3, 7, 4), (2, 33, 32), (3, 64, 64), (2, 80, 40)] {
        check(&format!("rope {heads}x{d}, {rot} turned"), 4.0, |cpu, kind| {
            let (m, positions) = (9, [0u32, 5, 1, 2, 19, 3, 3, 7, 11]);
            let angles: Vec<f64> = (0..20 * rot / 2)
                .map(|i| (i / (rot / 2)) as f64 * 10000f64.powf(-2.0 * (i % (rot / 2)) as f64 / rot as f64))
                .collect();
            let cos: Vec<f32> = angles.iter().map(|x| x.cos() as f32).collect();
            let sin: Vec<f32> = angles.iter().map(|x| x.sin() as f32).collect();
            let x = Buffer::random(m * heads * d, 1, kind);
            let (mut y, mut z, mut back) = (x.clone(), x.clone(), x.clone());
            cpu.rope(y.set(), x.get(), &cos, &sin, &positions, heads, d, rot, false);
            cpu.rope_inplace(z.set(), &cos, &sin, &positions, heads, d, rot, false);
            cpu.rope(back.set(), y.get(), &cos, &sin, &positions, heads, d, rot, true);
            let turn = |x: &[f64], sign: f64| {
                let mut want = x.to_vec();
                for (i, want) in want.iter_mut().enumerate() {
                    let (row, col) = (i / (heads * d), i % d);
                    if col < rot {
                        let half = rot / 2;
                        let at = positions[row] as usize * half + col % half;
                        let (c, s) = (cos[at] as f64, sin[at] as f64 * sign);
                        *want = if col < half { x[i] * c - x[i + half] * s } else { x[i] * c + x[i - half] * s };
                    }
                }
                want
            };
            let want = turn(&x.f64(), 1.0);
            vec![(y.f64(), want.clone()), (z.f64(), want), (back.f64(), turn(&y.f64(), -1.0))]
        });
    }
}
