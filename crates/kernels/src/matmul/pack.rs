//! Packing: one operand, in any storage, into the panels that the micro-kernels read (see `tile`). Conversion comes
//! first, into a small buffer, so that storages and layouts add instead of multiplying.

use std::ops::Range;

use super::tile::{Kernel, LINE};
use crate::scratch::{self, Slot};
use crate::{Isa, Mat, bf16, convert};

/// One operand of a product as it lies in memory: `len` rows (of A) or columns (of B), and the part of the sum `start..start + k`.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub data: Mat<'a>,
    /// Memory is `[ld, len]` instead of `[len, ld]`.
    pub across: bool,
    pub len: usize,
    pub ld: usize,
    pub start: usize,
    pub k: usize,
    /// Bring what is packed next near. It pays where packing is a small part of the work; data that is in the cache anyhow
    /// makes it a cost.
    pub ahead: bool,
}

impl<'a> Operand<'a> {
    pub fn new(data: Mat<'a>, across: bool, len: usize, k: usize) -> Operand<'a> {
        Operand { data, across, len, ld: k, start: 0, k, ahead: false }
    }
    /// Asks for `columns` of `rows`, which are `ld` apart, to be brought into the second-level cache.
    #[inline(never)]
    fn prefetch(&self, rows: Range<usize>, ld: usize, columns: Range<usize>) {
        for row in rows.map(|row| row * ld) {
            let (from, to) = (row + columns.start, row + columns.end);
            match self.data {
                Mat::F32(x) => prefetch(&x[from..to]),
                Mat::Bf16(x) => prefetch(&x[from..to]),
                Mat::F16(x) => prefetch(&x[from..to]),
                Mat::Quant(format, x) => prefetch(&x[format.row_bytes(from)..format.row_bytes(to)]),
            }
        }
    }
    /// Some of the sum. Starts are multiples of 256, so that blocks stay whole.
    pub fn slice(self, start: usize, k: usize) -> Operand<'a> {
        Operand { start: self.start + start, k, ..self }
    }
}

/// Which operand is packed: the panels differ when its rows run along the sum.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    A,
    B,
}

/// What is packed at once: panels of `width` rows or columns, and steps along the sum.
#[derive(Clone)]
pub(super) struct Part {
    pub panels: Range<usize>,
    /// Multiples of 256, except the end of the sum.
    pub steps: Range<usize>,
}

/// Packs `part`; panel `i` of it starts at `dst + i * panel_bytes`.
///
/// # Safety
/// `dst` is valid for the panels' bytes.
pub(super) unsafe fn pack(
    isa: Isa,
    kernel: &Kernel,
    role: Role,
    from: Operand,
    part: Part,
    dst: *mut u8,
    panel_bytes: usize,
) {
    let width = if role == Role::A { kernel.mr() } else { kernel.nr };
    let element = kernel.element_bytes();
    let first = part.steps.start * kernel.per_unit();
    let k = from.k.min(part.steps.end * kernel.per_unit()) - first;
    let first = from.start + first;
    let start = direct(kernel, from.data);
    if from.across {
        let c0 = part.panels.start * width;
        let c1 = from.len.min(part.panels.end * width);
        let strip = LINE * kernel.per_unit();
        // Blocks run across here: convert whole ones.
        let block = if let Mat::Quant(format, _) = from.data { format.block_len() } else { 1 };
        let (b0, b1) = (c0 / block * block, c1.next_multiple_of(block));
        scratch::with(Slot::Converted, strip * (b1 - b0) * element, |buffer| {
            for e0 in (0..k).step_by(strip) {
                let rows = strip.min(k - e0);
                // What the next strip reads is brought near while this one is packed.
                if from.ahead {
                    from.prefetch(first + e0 + strip..first + k.min(e0 + 2 * strip), from.len, b0..b1.min(from.len));
                }
                let mut packed = false;
                if let (Mat::F32(w), true) = (from.data, kernel.pairs) {
                    // SAFETY: the operand holds the rows; panels of the part follow one another.
                    packed = unsafe {
                        let src = w.as_ptr().add((first + e0) * from.len + c0);
                        rounded_pairs(
                            isa,
                            dst.add(e0 / kernel.per_unit() * width * 4),
                            src,
                            from.len,
                            rows,
                            c1 - c0,
                            width,
                            panel_bytes,
                        )
                    };
                }
                // SAFETY: the operand holds rows `first..first + k` of `len` elements; the buffer `strip` rows.
                let (src, ld) = unsafe {
                    match start {
                        _ if packed => (std::ptr::null(), 0),
                        Some(start) => (start.add(((first + e0) * from.len + c0) * element), from.len),
                        None => {
                            for row in 0..rows {
                                let to = buffer.add(row * (b1 - b0) * element);
                                convert_run(isa, kernel, to, from.data, (first + e0 + row) * from.len + b0, b1 - b0);
                            }
                            (buffer.add((c0 - b0) * element).cast_const(), b1 - b0)
                        }
                    }
                };
                for (i, p) in part.panels.clone().enumerate() {
                    let cols = width.min(from.len - p * width);
                    let to = dst.wrapping_add(i * panel_bytes + e0 / kernel.per_unit() * width * 4);
                    // SAFETY: a strip is 16 steps of `width` units, inside the panel.
                    unsafe {
                        if !packed {
                            across(isa, kernel, to, src.add(i * width * element), ld, rows, cols, width);
                        }
                        if let (Role::A, Some(turn)) = (role, kernel.turn) {
                            turn(to, rows.div_ceil(kernel.per_unit()));
                        }
                    }
                }
            }
        });
        return;
    }
    scratch::with(Slot::Converted, width * k * element, |buffer| {
        for (i, p) in part.panels.clone().enumerate() {
            let rows = width.min(from.len - p * width);
            // All of a panel at once: read row by row, its lines would come one after the other.
            if from.ahead {
                from.prefetch(p * width..p * width + rows, from.ld, first..first + k);
            }
            // SAFETY: the operand holds `rows` rows of `from.ld` elements; the buffer `width` rows of `k`.
            unsafe {
                let (src, ld) = match start {
                    Some(start) => (start.add((p * width * from.ld + first) * element), from.ld),
                    None => {
                        for row in 0..rows {
                            let at = (p * width + row) * from.ld + first;
                            convert_run(isa, kernel, buffer.add(row * k * element), from.data, at, k);
                        }
                        (buffer.cast_const(), k)
                    }
                };
                let to = dst.add(i * panel_bytes);
                match role {
                    Role::A => lines(to, src, ld * element, rows, k * element, width),
                    Role::B => transposed(isa, to, src, ld * element, rows, k * element, width),
                }
            }
        }
    });
}

/// The data, if it needs no conversion.
fn direct(kernel: &Kernel, data: Mat) -> Option<*const u8> {
    match data {
        Mat::F32(w) if !kernel.pairs => Some(w.as_ptr().cast()),
        Mat::Bf16(w) if kernel.pairs => Some(w.as_ptr().cast()),
        _ => None,
    }
}

/// # Safety
/// `to` is valid for `len` elements of the kernel's type.
unsafe fn convert_run(isa: Isa, kernel: &Kernel, to: *mut u8, from: Mat, at: usize, len: usize) {
    // SAFETY: as the caller promises; both types allow any bits, so old contents do not matter.
    unsafe {
        if kernel.pairs {
            convert::to_bf16(isa, std::slice::from_raw_parts_mut(to.cast::<bf16>(), len), from, at);
        } else {
            convert::to_f32(isa, std::slice::from_raw_parts_mut(to.cast::<f32>(), len), from, at);
        }
    }
}

/// Asks for a slice to be brought into the second-level cache. The first level has few places for what is on its way: whoever asks it
/// for more waits at once.
#[inline(always)]
pub(crate) fn prefetch<E>(x: &[E]) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..size_of_val(x)).step_by(64) {
        use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees; the address is inside the slice.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(x.as_ptr().cast::<i8>().add(at)) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = x;
}

/// Pairs of bf16 made of `rows` f32 rows of `cols` columns, over all panels, without a buffer between; false where this
/// table has no such way.
///
/// # Safety
/// `src` is valid for the rows, `dst` for as many panels as the columns fill.
unsafe fn rounded_pairs(
    isa: Isa,
    dst: *mut u8,
    src: *const f32,
    ld: usize,
    rows: usize,
    cols: usize,
    width: usize,
    panel_bytes: usize,
) -> bool {
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx512_bf16() {
        for (i, c) in (0..cols).step_by(width).enumerate() {
            // SAFETY: the columns of a panel, as the caller promises; this table is made only where its instructions are.
            unsafe {
                let to = dst.add(i * panel_bytes);
                super::avx512::pack_rounded_pairs(to, src.add(c), ld, rows, width.min(cols - c), width);
            }
        }
        return true;
    }
    let _ = (isa, dst, src, ld, rows, cols, width, panel_bytes);
    false
}

/// A in lines: whole cache lines are copied. `ld` and `k` in bytes.
///
/// # Safety
/// `src` holds `rows` rows of `k` bytes, `dst` the panel.
unsafe fn lines(dst: *mut u8, src: *const u8, ld: usize, rows: usize, k: usize, width: usize) {
    const BYTES: usize = LINE * 4;
    for (line, at) in (0..k).step_by(BYTES).enumerate() {
        for row in 0..rows {
            // SAFETY: the line is inside the row and inside the panel.
            unsafe {
                let to = dst.add((line * width + row) * BYTES);
                let from = src.add(row * ld + at);
                if k - at >= BYTES {
                    to.copy_from_nonoverlapping(from, BYTES);
                } else {
                    // The other half of the last bf16 pair must be zero.
                    to.write_bytes(0, BYTES);
                    to.copy_from_nonoverlapping(from, k - at);
                }
            }
        }
    }
}

/// B from rows along the sum: columns of units. `ld` and `k` in bytes. Missing columns become zero.
///
/// # Safety
/// `src` holds `rows` rows of `k` bytes, `dst` the panel.
unsafe fn transposed(isa: Isa, dst: *mut u8, src: *const u8, ld: usize, rows: usize, k: usize, width: usize) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` is only made for what the processor has.
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => unsafe {
            super::avx512::pack_transposed(dst, src, ld, rows, k, width)
        },
        _ => {
            let whole = k / 4;
            for row in 0..width {
                let to = dst.cast::<u32>().wrapping_add(row);
                let from = src.wrapping_add(row * ld);
                // SAFETY: unit `u` of row `row` is at `u * width + row`, inside the panel; reads stay inside the row.
                unsafe {
                    if row >= rows {
                        (0..k.div_ceil(4)).for_each(|unit| to.add(unit * width).write(0));
                        continue;
                    }
                    for unit in 0..whole {
                        to.add(unit * width).write(from.cast::<u32>().add(unit).read_unaligned());
                    }
                    if !k.is_multiple_of(4) {
                        // Half a pair: the other half is zero.
                        let half = from.add(whole * 4).cast::<u16>().read_unaligned();
                        to.add(whole * width).cast::<[u16; 2]>().write([half, 0]);
                    }
                }
            }
        }
    }
}

/// A panel from rows across the sum: copied (f32) or two rows interleaved (bf16). `ld` in elements.
///
/// # Safety
/// `src` holds `rows` rows of `cols` elements, `dst` the units.
unsafe fn across(
    isa: Isa,
    kernel: &Kernel,
    dst: *mut u8,
    src: *const u8,
    ld: usize,
    rows: usize,
    cols: usize,
    width: usize,
) {
    // SAFETY: all accesses stay inside the `rows` rows and the panel.
    unsafe {
        if kernel.pairs {
            #[cfg(target_arch = "x86_64")]
            if isa.has_avx512_bf16() {
                return super::avx512::pack_pairs(dst, src, ld, rows, cols, width);
            }
            let (src, dst) = (src.cast::<u16>(), dst.cast::<[u16; 2]>());
            for row in (0..rows).step_by(2) {
                for c in 0..width {
                    let at = |r: usize| if c < cols && r < rows { *src.add(r * ld + c) } else { 0 };
                    dst.add(row / 2 * width + c).write([at(row), at(row + 1)]);
                }
            }
        } else {
            let _ = isa;
            let (src, dst) = (src.cast::<f32>(), dst.cast::<f32>());
            for row in 0..rows {
                dst.add(row * width).copy_from_nonoverlapping(src.add(row * ld), cols);
                dst.add(row * width + cols).write_bytes(0, width - cols);
            }
        }
    }
}
