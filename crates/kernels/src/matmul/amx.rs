//! The micro-kernel on the tiles of AMX: 32 × 32 bf16 products in four tiles of sums. Rust's names for the instructions are
//! not stable (rust-lang/rust#126622), the assembler's are. Panels are those of [`super::tile`], which tiles read as they are:
//! a tile of A is 16 rows of a line, a tile of B 16 steps of 16 columns.

use super::tile::{Kernel, LINE, State, Tile, TileFn};
use std::arch::asm;
use std::arch::x86_64::*;

#[cfg(test)]
mod emulator;

const MR: usize = 32;
const NR: usize = 32;
/// Rows of a tile, and its columns of f32.
const SIDE: usize = 16;

pub(super) static BF16: Kernel =
    Kernel { nr: NR, pairs: true, lines: &TILES, across: &[], turn: Some(turn), state: Some(STATE) };

static TILES: [TileFn; MR] = [
    tile::<1>, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>, tile::<7>, tile::<8>, tile::<9>, tile::<10>,
    tile::<11>, tile::<12>, tile::<13>, tile::<14>, tile::<15>, tile::<16>, tile::<17>, tile::<18>, tile::<19>,
    tile::<20>, tile::<21>, tile::<22>, tile::<23>, tile::<24>, tile::<25>, tile::<26>, tile::<27>, tile::<28>,
    tile::<29>, tile::<30>, tile::<31>, tile::<32>,
];

/// Every tile has 16 rows of 64 bytes while the kernel runs; afterwards a thread holds none, so that the system need not keep them.
const STATE: State = State { enter: configure, leave: release };

/// The operand of `ldtilecfg` (Intel SDM, "AMX"): palette 1, bytes of a row and rows of each tile.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static ALL_TILES: Configuration = {
    let (mut row_bytes, mut rows, mut i) = ([0; 16], [0; 16], 0);
    while i < 8 {
        row_bytes[i] = 64;
        rows[i] = SIDE as u8;
        i += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// # Safety
/// The processor has tiles and the system lets this process use them.
unsafe fn configure() {
    // SAFETY: as the caller promises; the operand is 64 bytes.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &ALL_TILES, options(nostack, readonly)) }
}

/// # Safety
/// As of [`configure`].
unsafe fn release() {
    // SAFETY: as the caller promises.
    unsafe { asm!("tilerelease", options(nostack, nomem)) }
}

/// Whether the processor has bf16 tiles and the system grants them to this process, which this asks for.
pub(crate) fn usable() -> bool {
    #[cfg(test)]
    if emulator::install() {
        return true;
    }
    const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & BF16_AND_TILE != BF16_AND_TILE {
        return false;
    }
    // The system saves what XCR0 names: the tiles' configuration and data.
    const TILES: u64 = 1 << 17 | 1 << 18;
    // SAFETY: a processor with tiles has `xgetbv`, and a system that lets AVX-512 be used has enabled it.
    let saved = unsafe { extended_control() };
    saved & TILES == TILES && granted()
}

#[target_feature(enable = "xsave")]
unsafe fn extended_control() -> u64 {
    // SAFETY: register 0 always exists.
    unsafe { _xgetbv(0) }
}

/// Linux hands out the 8 KiB of a thread's tiles on demand (`arch_prctl(2)`, Documentation/arch/x86/xstate.rst).
#[cfg(target_os = "linux")]
fn granted() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: a system call that takes two numbers and touches no memory of the program.
    unsafe {
        asm!("syscall", inlateout("rax") result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn granted() -> bool {
    false
}

/// [`Kernel::turn`]: 16 steps of 32 units become 32 rows of 16.
///
/// # Safety
/// The processor has the features; the line is valid and aligned to 4.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn turn(line: *mut u8, steps: usize) {
    let mut halves = [[_mm512_setzero_si512(); SIDE]; 2];
    // SAFETY: the line is 16 steps of two vectors, and 32 rows of one.
    unsafe {
        for step in 0..steps {
            for half in 0..2 {
                halves[half][step] = _mm512_loadu_si512(line.add((2 * step + half) * 64).cast());
            }
        }
        for (half, rows) in halves.iter_mut().enumerate() {
            super::avx512::transpose(rows);
            for (r, row) in rows.iter().enumerate() {
                _mm512_storeu_si512(line.add((half * SIDE + r) * 64).cast(), *row);
            }
        }
    }
}

/// Room for a tile's sums where they do not go straight to the result.
#[repr(C, align(64))]
struct Sums([f32; MR * NR]);

/// # Safety
/// The thread's tiles are configured; `t` describes valid memory for `R` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn tile<const R: usize>(t: &Tile) {
    let whole = t.cols == NR && (R == MR || R == SIDE);
    let mut sums = std::mem::MaybeUninit::<Sums>::uninit();
    let sums: *mut f32 = sums.as_mut_ptr().cast();
    // SAFETY: `init` and `out` hold `R` rows of `cols` elements, and so does `sums` of `MR` rows of `NR`; the masks keep to them.
    unsafe {
        let (mut init, mut init_ld) = (t.init, t.init_ld);
        if !init.is_null() && !whole {
            for r in 0..R.next_multiple_of(SIDE) {
                for half in 0..2 {
                    let mask = if r < R { mask(t.cols, half) } else { 0 };
                    let v = _mm512_maskz_loadu_ps(mask, t.init.wrapping_add(r * t.init_ld + half * SIDE));
                    _mm512_store_ps(sums.add(r * NR + half * SIDE), v);
                }
            }
            (init, init_ld) = (sums.cast_const(), NR);
        }
        let straight = whole && !t.bf16;
        let (out, out_ld) = if straight { (t.out.cast::<f32>(), t.out_ld) } else { (sums, NR) };
        match R > SIDE {
            true => products::<true>(t, init, init_ld, out, out_ld),
            false => products::<false>(t, init, init_ld, out, out_ld),
        }
        if straight {
            return;
        }
        for r in 0..R {
            for half in 0..2 {
                let mask = mask(t.cols, half);
                let mut v = _mm512_load_ps(sums.add(r * NR + half * SIDE));
                let at = r * t.out_ld + half * SIDE;
                if t.bf16 {
                    let out = t.out.cast::<i16>().wrapping_add(at);
                    if t.add {
                        v = _mm512_add_ps(v, super::avx512::widen(_mm256_maskz_loadu_epi16(mask, out)));
                    }
                    _mm256_mask_storeu_epi16(out, mask, super::avx512::round(v));
                } else {
                    _mm512_mask_storeu_ps(t.out.cast::<f32>().wrapping_add(at), mask, v);
                }
            }
        }
    }
}

/// The first `cols` of 32 lanes, of those the lower or the upper `half`.
fn mask(cols: usize, half: usize) -> u16 {
    (((1u64 << cols) - 1) >> (half * SIDE)) as u16
}

/// The sums of 16 rows, or of 32 if `TWO`, and of 32 columns: `init + a · b` to `out`.
///
/// # Safety
/// The thread's tiles are configured; `t` has its steps; `init` (unless null) and `out` hold the rows, `*_ld` elements apart.
unsafe fn products<const TWO: bool>(t: &Tile, init: *const f32, init_ld: usize, out: *mut f32, out_ld: usize) {
    const LINE_BYTES: usize = LINE * NR * 4;
    let lines = t.steps / LINE;
    // The last steps of B, filled up with zeros as A's last line is.
    let left = t.steps % LINE;
    let mut rest = std::mem::MaybeUninit::<[u8; LINE_BYTES]>::uninit();
    let mut tail = std::ptr::null();
    if left > 0 {
        let rest = rest.as_mut_ptr().cast::<u8>();
        // SAFETY: the panel holds `steps` steps of `NR` units, the buffer `LINE`.
        unsafe {
            rest.copy_from_nonoverlapping(t.b.add(lines * LINE_BYTES), left * NR * 4);
            rest.add(left * NR * 4).write_bytes(0, LINE_BYTES - left * NR * 4);
        }
        tail = rest.cast_const();
    }
    let (init_ld, out_ld) = (init_ld * 4, out_ld * 4);
    // SAFETY: tiles are read from whole lines of A, from whole ones of B or `rest`, and from 16 rows of `init` each, and written to
    // 16 rows of `out` each. Rows of A that are missing are not read from any result.
    unsafe {
        if TWO {
            sums!(
                init ["tileloadd tmm0, [{init} + {init_ld}*1]", "tileloadd tmm1, [{init} + {init_ld}*1 + 64]",
                    "tileloadd tmm2, [{init_2} + {init_ld}*1]", "tileloadd tmm3, [{init_2} + {init_ld}*1 + 64]"],
                zero ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"],
                line ["tileloadd tmm6, [{b} + {row}*2]", "tileloadd tmm4, [{a} + {row}*1]",
                    "tileloadd tmm7, [{b} + {row}*2 + 64]", "tileloadd tmm5, [{a} + {row}*1 + 1024]",
                    "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7"],
                store ["tilestored [{out} + {out_ld}*1], tmm0", "tilestored [{out} + {out_ld}*1 + 64], tmm1",
                    "tilestored [{out_2} + {out_ld}*1], tmm2", "tilestored [{out_2} + {out_ld}*1 + 64], tmm3"],
                (t, lines, tail, init, init_ld, out, out_ld)
                init_2 = in(reg) init.wrapping_byte_add(SIDE * init_ld),
                out_2 = in(reg) out.wrapping_byte_add(SIDE * out_ld),
                out("tmm2") _, out("tmm3") _, out("tmm5") _,
            );
        } else {
            sums!(
                init ["tileloadd tmm0, [{init} + {init_ld}*1]", "tileloadd tmm1, [{init} + {init_ld}*1 + 64]"],
                zero ["tilezero tmm0", "tilezero tmm1"],
                // Few rows wait for B only, and tiles that are read bring too little near by themselves.
                line [".irp line, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                    "prefetcht0 [{b} + 4096 + 64*\\line]", ".endr",
                    "tileloadd tmm4, [{a} + {row}*1]", "tileloadd tmm6, [{b} + {row}*2]",
                    "tileloadd tmm7, [{b} + {row}*2 + 64]",
                    "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7"],
                store ["tilestored [{out} + {out_ld}*1], tmm0", "tilestored [{out} + {out_ld}*1 + 64], tmm1"],
                (t, lines, tail, init, init_ld, out, out_ld)
            );
        }
    }
}

/// The loop of [`products`]: sums from `init` or from zero, a `line` of products at a time, then the `tail`'s, and the sums stored.
macro_rules! sums {
    (init [$($init:literal),*], zero [$($zero:literal),*], line [$($line:literal),*], store [$($store:literal),*],
        ($t:ident, $lines:ident, $tail:ident, $from:ident, $from_ld:ident, $out:ident, $out_ld:ident) $($more:tt)*) => {
        asm!(
            "test {init}, {init}",
            "jz 2f",
            $($init,)*
            "jmp 3f",
            "2:",
            $($zero,)*
            "3:",
            "test {lines}, {lines}",
            "jz 5f",
            "4:",
            $($line,)*
            "add {a}, 2048",
            "add {b}, 2048",
            "dec {lines}",
            "jnz 4b",
            "5:",
            "test {tail}, {tail}",
            "jz 6f",
            "mov {b}, {tail}",
            "xor {tail:e}, {tail:e}",
            "inc {lines}",
            "jmp 4b",
            "6:",
            $($store,)*
            a = inout(reg) $t.a => _,
            b = inout(reg) $t.b => _,
            lines = inout(reg) $lines => _,
            tail = inout(reg) $tail => _,
            row = in(reg) 64usize,
            init = in(reg) $from,
            init_ld = in(reg) $from_ld,
            out = in(reg) $out,
            out_ld = in(reg) $out_ld,
            $($more)*
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}
use sums;

/// Operations of a turn of [`multiply`].
pub(crate) const OPERATIONS: usize = 4 * SIDE * SIDE * 2 * SIDE * 2;

/// Four tiles of products in each of `turns`, with nothing from memory: what the processor can do at most.
///
/// # Safety
/// As of [`configure`].
pub(crate) unsafe fn multiply(turns: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        configure();
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {turns}",
            "jnz 2b",
            turns = inout(reg) turns.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, nomem),
        );
        release();
    }
}
