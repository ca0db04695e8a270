//! Loops over slices in blocks of sixteen lanes, the last one partial. Closures passed here need `#[inline(always)]`: a
//! closure that stays a function of its own is compiled without the instruction set.

use super::{Elem, L, Simd};

/// `out[i] = f(a[i])`.
#[inline(always)]
pub(crate) fn map1<S: Simd, O: Elem, A: Elem>(s: S, out: &mut [O], a: &[A], f: impl Fn(S::V) -> S::V) {
    assert_eq!(out.len(), a.len());
    let (ob, ot) = out.as_chunks_mut::<L>();
    let (ab, at) = a.as_chunks::<L>();
    for (o, a) in ob.iter_mut().zip(ab) {
        O::store(s, o, f(A::load(s, a)));
    }
    if !ot.is_empty() {
        O::store_part(s, ot, f(A::load_part(s, at)));
    }
}

/// `out[i] = f(a[i], b[i])`.
#[inline(always)]
pub(crate) fn map2<S: Simd, O: Elem, A: Elem, B: Elem>(
    s: S,
    out: &mut [O],
    a: &[A],
    b: &[B],
    f: impl Fn(S::V, S::V) -> S::V,
) {
    assert_eq!((out.len(), out.len()), (a.len(), b.len()));
    let (ob, ot) = out.as_chunks_mut::<L>();
    let (ab, at) = a.as_chunks::<L>();
    let (bb, bt) = b.as_chunks::<L>();
    for ((o, a), b) in ob.iter_mut().zip(ab).zip(bb) {
        O::store(s, o, f(A::load(s, a), B::load(s, b)));
    }
    if !ot.is_empty() {
        O::store_part(s, ot, f(A::load_part(s, at), B::load_part(s, bt)));
    }
}

/// `out[i] = f(out[i], a[i], b[i])`, if `keep`; else `f(0, a[i], b[i])` without reading `out`.
#[inline(always)]
pub(crate) fn map3<S: Simd, O: Elem, A: Elem, B: Elem>(
    s: S,
    out: &mut [O],
    a: &[A],
    b: &[B],
    keep: bool,
    f: impl Fn(S::V, S::V, S::V) -> S::V,
) {
    assert_eq!((out.len(), out.len()), (a.len(), b.len()));
    let (ob, ot) = out.as_chunks_mut::<L>();
    let (ab, at) = a.as_chunks::<L>();
    let (bb, bt) = b.as_chunks::<L>();
    for ((o, a), b) in ob.iter_mut().zip(ab).zip(bb) {
        let old = if keep { O::load(s, o) } else { s.splat(0.0) };
        O::store(s, o, f(old, A::load(s, a), B::load(s, b)));
    }
    if !ot.is_empty() {
        let old = if keep { O::load_part(s, ot) } else { s.splat(0.0) };
        O::store_part(s, ot, f(old, A::load_part(s, at), B::load_part(s, bt)));
    }
}

/// `(p[i], q[i]) = f(a[i], b[i], c[i])`, all of one type.
#[inline(always)]
pub(crate) fn map3to2<S: Simd, E: Elem>(
    s: S,
    p: &mut [E],
    q: &mut [E],
    a: &[E],
    b: &[E],
    c: &[E],
    f: impl Fn(S::V, S::V, S::V) -> (S::V, S::V),
) {
    let n = p.len();
    assert_eq!((n, n, n, n), (q.len(), a.len(), b.len(), c.len()));
    let (pb, pt) = p.as_chunks_mut::<L>();
    let (qb, qt) = q.as_chunks_mut::<L>();
    let (ab, at) = a.as_chunks::<L>();
    let (bb, bt) = b.as_chunks::<L>();
    let (cb, ct) = c.as_chunks::<L>();
    for ((((p, q), a), b), c) in pb.iter_mut().zip(qb).zip(ab).zip(bb).zip(cb) {
        let (x, y) = f(E::load(s, a), E::load(s, b), E::load(s, c));
        E::store(s, p, x);
        E::store(s, q, y);
    }
    if !pt.is_empty() {
        let (x, y) = f(E::load_part(s, at), E::load_part(s, bt), E::load_part(s, ct));
        E::store_part(s, pt, x);
        E::store_part(s, qt, y);
    }
}

/// `Σ f(a[i])` for an `f` with `f(0) = 0`: four sums of sixteen lanes, so that the additions overlap.
#[inline(always)]
pub(crate) fn sum1<S: Simd, A: Elem>(s: S, a: &[A], f: impl Fn(S::V, S::V) -> S::V) -> f32 {
    let mut acc = [s.splat(0.0); 4];
    let (fours, rest) = a.as_chunks::<{ 4 * L }>();
    for four in fours {
        let (blocks, _) = four.as_chunks::<L>();
        for j in 0..4 {
            acc[j] = f(acc[j], A::load(s, &blocks[j]));
        }
    }
    let (blocks, tail) = rest.as_chunks::<L>();
    for block in blocks {
        acc[0] = f(acc[0], A::load(s, block));
    }
    if !tail.is_empty() {
        // The zeros after the last element would not be neutral for every `f`.
        acc[1] = f(acc[1], A::load_part(s, tail));
    }
    s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
}

/// `Σ f(a[i], b[i])` as an update of the sums: `f(acc, a, b)` with `f(acc, 0, 0) = acc`.
#[inline(always)]
pub(crate) fn sum2<S: Simd, A: Elem, B: Elem>(s: S, a: &[A], b: &[B], f: impl Fn(S::V, S::V, S::V) -> S::V) -> f32 {
    assert_eq!(a.len(), b.len());
    let mut acc = [s.splat(0.0); 2];
    let (twos, rest) = a.as_chunks::<{ 2 * L }>();
    let (btwos, brest) = b.as_chunks::<{ 2 * L }>();
    for (two, btwo) in twos.iter().zip(btwos) {
        let (x, _) = two.as_chunks::<L>();
        let (y, _) = btwo.as_chunks::<L>();
        for j in 0..2 {
            acc[j] = f(acc[j], A::load(s, &x[j]), B::load(s, &y[j]));
        }
    }
    let (x, tail) = rest.as_chunks::<L>();
    let (y, btail) = brest.as_chunks::<L>();
    for (x, y) in x.iter().zip(y) {
        acc[0] = f(acc[0], A::load(s, x), B::load(s, y));
    }
    if !tail.is_empty() {
        acc[1] = f(acc[1], A::load_part(s, tail), B::load_part(s, btail));
    }
    s.sum(s.add(acc[0], acc[1]))
}
