//! Rotary position embedding (Su et al. 2021) in the half-split layout of Hugging Face: column `i` turns with `i + rot/2`.

use crate::lanes::{Elem, L, Split, one_type, simd_fn};
use crate::{Cpu, In, Out};

simd_fn! {
    /// Turns the heads of one row in place. `sin` is negated by `inverse`.
    fn rope_row[E: Elem](s, x: &mut [E], cos: &[f32], sin: &[f32], d: usize, inverse: bool) {
        let half = cos.len();
        let sign = s.splat(if inverse { -1.0 } else { 1.0 });
        for head in x.chunks_exact_mut(d) {
            let (a, rest) = head.split_at_mut(half);
            let b = &mut rest[..half];
            let (ab, at) = a.as_chunks_mut::<L>();
            let (bb, bt) = b.as_chunks_mut::<L>();
            let (cb, ct) = cos.as_chunks::<L>();
            let (sb, st) = sin[..half].as_chunks::<L>();
            for (((a, b), c), z) in ab.iter_mut().zip(bb).zip(cb).zip(sb) {
                let (x, y) = (E::load(s, a), E::load(s, b));
                let (c, z) = (s.load(c), s.mul(s.load(z), sign));
                E::store(s, a, s.sub(s.mul(x, c), s.mul(y, z)));
                E::store(s, b, s.add(s.mul(y, c), s.mul(x, z)));
            }
            if !at.is_empty() {
                let (x, y) = (E::load_part(s, at), E::load_part(s, bt));
                let (c, z) = (f32::load_part(s, ct), s.mul(f32::load_part(s, st), sign));
                E::store_part(s, at, s.sub(s.mul(x, c), s.mul(y, z)));
                E::store_part(s, bt, s.add(s.mul(y, c), s.mul(x, z)));
            }
        }
    }
}

impl Cpu {
    /// Rotates each head of `x[rows, heads*d]` by the angles of its position: `cos`, `sin` are `[max_pos, rot/2]`, of which the
    /// first `rot` columns of a head are turned and the rest copied. `inverse` turns back: the backward pass.
    pub fn rope(
        &self,
        out: Out,
        x: In,
        cos: &[f32],
        sin: &[f32],
        positions: &[u32],
        heads: usize,
        d: usize,
        rot: usize,
        inverse: bool,
    ) {
        one_type!(x, E => {
            let (out, x) = (E::output(out, "rope"), E::input(x, "rope"));
            assert_eq!(out.len(), x.len(), "rope: lengths of out and x");
            self.rope_rows(out, Some(x), cos, sin, positions, heads, d, rot, inverse);
        })
    }

    /// The same on `x` itself.
    pub fn rope_inplace(
        &self,
        x: Out,
        cos: &[f32],
        sin: &[f32],
        positions: &[u32],
        heads: usize,
        d: usize,
        rot: usize,
        inverse: bool,
    ) {
        match x {
            Out::F32(x) => self.rope_rows(x, None, cos, sin, positions, heads, d, rot, inverse),
            Out::Bf16(x) => self.rope_rows(x, None, cos, sin, positions, heads, d, rot, inverse),
            Out::F16(x) => self.rope_rows(x, None, cos, sin, positions, heads, d, rot, inverse),
        }
    }

    fn rope_rows<E: Elem>(
        &self,
        out: &mut [E],
        x: Option<&[E]>,
        cos: &[f32],
        sin: &[f32],
        positions: &[u32],
        heads: usize,
        d: usize,
        rot: usize,
        inverse: bool,
    ) {
        let (c, half) = (heads * d, rot / 2);
        assert_eq!(out.len(), positions.len() * c, "rope: length of x for {} rows of {heads} x {d}", positions.len());
        assert!(rot <= d && rot.is_multiple_of(2), "rope: {rot} turned columns of {d}");
        let out = Split::new(out);
        self.each_row(positions.len(), c, |row| {
            // SAFETY: every row belongs to one call.
            let out = unsafe { out.part(row * c..(row + 1) * c) };
            if let Some(x) = x {
                out.copy_from_slice(&x[row * c..(row + 1) * c]);
            }
            let at = positions[row] as usize * half;
            rope_row(self.isa, out, &cos[at..at + half], &sin[at..at + half], d, inverse);
        });
    }
}
