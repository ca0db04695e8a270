//! Attention row by row, the shortest statement of what is computed.

use super::{AttnShape, Span};
use crate::Cpu;
use crate::lanes::{Elem, Split};

/// The keys that query `i` of a span sees.
fn visible(span: &Span, shape: &AttnShape, i: usize) -> std::ops::Range<usize> {
    let position = (span.kv_len + i) as isize - span.q_len as isize;
    let end = if shape.causal { (position + 1).clamp(0, span.kv_len as isize) } else { span.kv_len as isize };
    let start = shape.window.map_or(0, |w| (position - w as isize + 1).clamp(0, end));
    start as usize..end as usize
}

fn dot<E: Elem>(a: &[E], b: &[E]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a.to_f32() * b.to_f32()).sum()
}

pub(super) fn forward<E: Elem>(
    cpu: &Cpu, out: &mut [E], lse: &mut [f32], q: &[E], k: &[E], v: &[E], spans: &[Span], shape: &AttnShape,
) {
    let (h, hk, d) = (shape.heads, shape.kv_heads, shape.head_dim);
    let (out, lse) = (Split::new(out), Split::new(lse));
    cpu.pool.run(spans.len() * h, |unit, _| {
        let (span, head) = (&spans[unit / h], unit % h);
        let kv = head / (h / hk);
        let key = |j: usize| ((span.kv_start + j) * hk + kv) * d..((span.kv_start + j) * hk + kv + 1) * d;
        for i in 0..span.q_len {
            let row = (span.q_start + i) * h + head;
            let seen = visible(span, shape, i);
            let q = &q[row * d..(row + 1) * d];
            let mut p: Vec<f32> = seen.clone().map(|j| dot(q, &k[key(j)]) * shape.scale).collect();
            let top = p.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
            p.iter_mut().for_each(|p| *p = (*p - top).exp());
            let total: f32 = p.iter().sum();
            // SAFETY: (row, head) belongs to one unit.
            let (out, lse) = unsafe { (out.part(row * d..(row + 1) * d), lse.part(row..row + 1)) };
            lse[0] = top + total.ln();
            for (c, out) in out.iter_mut().enumerate() {
                let sum: f32 = seen.clone().zip(&p).map(|(j, p)| p * v[key(j)][c].to_f32()).sum();
                *out = E::from_f32(if seen.is_empty() { 0.0 } else { sum / total });
            }
        }
    });
}

pub(super) fn backward<E: Elem>(
    cpu: &Cpu, dq: &mut [E], dk: &mut [E], dv: &mut [E], dout: &[E], out: &[E], lse: &[f32], q: &[E], k: &[E], v: &[E],
    spans: &[Span], shape: &AttnShape,
) {
    let (h, hk, d) = (shape.heads, shape.kv_heads, shape.head_dim);
    let group = h / hk;
    let (dq, dk, dv) = (Split::new(dq), Split::new(dk), Split::new(dv));
    cpu.pool.run(spans.len() * hk, |unit, _| {
        let (span, kv) = (&spans[unit / hk], unit % hk);
        let key = |j: usize| ((span.kv_start + j) * hk + kv) * d..((span.kv_start + j) * hk + kv + 1) * d;
        let (mut gk, mut gv) = (vec![0.0f32; span.kv_len * d], vec![0.0f32; span.kv_len * d]);
        for i in 0..span.q_len {
            for head in kv * group..(kv + 1) * group {
                let row = (span.q_start + i) * h + head;
                let r = row * d..(row + 1) * d;
                let (q, out, dout) = (&q[r.clone()], &out[r.clone()], &dout[r.clone()]);
                let base = dot(out, dout);
                let mut gq = vec![0.0f32; d];
                for j in visible(span, shape, i) {
                    let p = (dot(q, &k[key(j)]) * shape.scale - lse[row]).exp();
                    let ds = p * (dot(dout, &v[key(j)]) - base) * shape.scale;
                    for c in 0..d {
                        gv[j * d + c] += p * dout[c].to_f32();
                        gk[j * d + c] += ds * q[c].to_f32();
                        gq[c] += ds * k[key(j)][c].to_f32();
                    }
                }
                // SAFETY: (row, head) belongs to one unit.
                unsafe { dq.part(r) }.iter_mut().zip(gq).for_each(|(to, x)| *to = E::from_f32(x));
            }
        }
        for j in 0..span.kv_len {
            // SAFETY: (key, kv head) belongs to one unit.
            let (dk, dv) = unsafe { (dk.part(key(j)), dv.part(key(j))) };
            for c in 0..d {
                dk[c] = E::from_f32(gk[j * d + c]);
                dv[c] = E::from_f32(gv[j * d + c]);
            }
        }
    });
}
