//! The tile instructions on processors that have none, for tests: each raises a signal, whose handler does in plain code what
//! Intel's manual says (SDM volume 2, "TILELOADD" and the like), and goes on behind it.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use crate::bf16;

const TILE_BYTES: usize = 16 * 64;

/// A thread's tiles.
struct Tiles {
    data: [[u8; TILE_BYTES]; 8],
    row_bytes: [usize; 8],
    rows: [usize; 8],
}

thread_local! {
    static TILES: UnsafeCell<Tiles> = const {
        UnsafeCell::new(Tiles { data: [[0; TILE_BYTES]; 8], row_bytes: [0; 8], rows: [0; 8] })
    };
}

/// Installs the emulator where the processor has no tiles but the vectors that the kernel needs beside them; whether it did.
pub fn install() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        let real = std::arch::x86_64::__cpuid_count(7, 0).edx & 1 << 24 != 0;
        if real || !cfg!(target_os = "linux") {
            return false;
        }
        // SAFETY: the handler touches the thread's tiles and registers only, and hands on what it does not know.
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()) == 0
        }
    })
}

/// A tile instruction.
struct Instruction {
    prefix: u8,
    opcode: u8,
    /// Fields of ModRM and the third operand: registers of tiles.
    register: usize,
    operand: usize,
    third: usize,
    /// Address and distance of rows, where there is memory.
    memory: Option<(usize, usize)>,
    len: usize,
}

extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system passes the registers of the thread that was stopped.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let at = registers[libc::REG_RIP as usize] as usize;
    // SAFETY: the thread stopped at an instruction; no kernel ends within fifteen bytes of its pages' end.
    let code = unsafe { std::slice::from_raw_parts(at as *const u8, 15) };
    let known = decode(code, registers).is_some_and(|instruction| {
        registers[libc::REG_RIP as usize] += instruction.len as i64;
        TILES.with(|tiles| {
            // SAFETY: only this handler, which is not interrupted by itself, uses the thread's tiles.
            unsafe { execute(&mut *tiles.get(), &instruction) }
        })
    });
    if !known {
        // SAFETY: the instruction runs again and ends the program as it would have without this.
        unsafe { libc::signal(libc::SIGILL, libc::SIG_DFL) };
    }
}

/// VEX with three bytes, opcode map 2, as all tile instructions have.
fn decode(code: &[u8], registers: &[libc::greg_t; 23]) -> Option<Instruction> {
    if code[0] != 0xc4 || code[1] & 0x1f != 2 {
        return None;
    }
    let extend = |bit: u8| if code[1] & bit == 0 { 8 } else { 0 };
    let (prefix, third) = (code[2] & 3, usize::from(!(code[2] >> 3) & 15));
    let (opcode, modrm) = (code[3], code[4]);
    let (register, operand) = (usize::from(modrm >> 3 & 7), usize::from(modrm & 7));
    let mut len = 5;
    let memory = (modrm >> 6 != 3).then(|| {
        let (mut base, mut index, mut scale) = (operand + extend(0x20), None, 0);
        if operand == 4 {
            let sib = code[len];
            len += 1;
            base = usize::from(sib & 7) + extend(0x20);
            let number = usize::from(sib >> 3 & 7) + extend(0x40);
            (index, scale) = ((number != 4).then_some(number), sib >> 6);
        }
        let (distance, bytes) = match modrm >> 6 {
            0 => (0, 0),
            1 => (i64::from(code[len] as i8), 1),
            _ => (i64::from(i32::from_le_bytes(code[len..len + 4].try_into().expect("four bytes"))), 4),
        };
        len += bytes;
        let stride = index.map_or(0, |number| general(registers, number) << scale);
        ((general(registers, base) as i64 + distance) as usize, stride)
    });
    Some(Instruction { prefix, opcode, register, operand, third, memory, len })
}

/// A general register by its number in instructions.
fn general(registers: &[libc::greg_t; 23], number: usize) -> usize {
    use libc::*;
    let places = [
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11,
        REG_R12, REG_R13, REG_R14, REG_R15,
    ];
    registers[places[number] as usize] as usize
}

/// Does it; whether it is one of those known.
///
/// # Safety
/// Its memory is valid.
unsafe fn execute(tiles: &mut Tiles, i: &Instruction) -> bool {
    const NONE: u8 = 0;
    const F3: u8 = 2;
    const F2: u8 = 3;
    match (i.opcode, i.prefix, i.memory) {
        // LDTILECFG
        (0x49, NONE, Some((at, _))) => {
            // SAFETY: 64 bytes of configuration.
            let configuration = unsafe { &*(at as *const [u8; 64]) };
            assert_eq!(configuration[0], 1, "palette");
            for tile in 0..8 {
                let bytes = &configuration[16 + 2 * tile..];
                tiles.row_bytes[tile] = usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
                tiles.rows[tile] = usize::from(configuration[48 + tile]);
            }
            tiles.data = [[0; TILE_BYTES]; 8];
        }
        // TILERELEASE
        (0x49, NONE, None) => (tiles.row_bytes, tiles.rows) = ([0; 8], [0; 8]),
        // TILEZERO
        (0x49, F2, None) => tiles.data[i.register] = [0; TILE_BYTES],
        // TILELOADD
        (0x4b, F2, Some((at, stride))) => {
            let bytes = tiles.used(i.register).1;
            let tile = &mut tiles.data[i.register];
            *tile = [0; TILE_BYTES];
            for row in 0..tiles.rows[i.register] {
                let from = (at + row * stride) as *const u8;
                // SAFETY: a row of the tile in memory.
                unsafe { tile[row * 64..].as_mut_ptr().copy_from_nonoverlapping(from, bytes) };
            }
        }
        // TILESTORED
        (0x4b, F3, Some((at, stride))) => {
            let (rows, bytes) = tiles.used(i.register);
            for row in 0..rows {
                let to = (at + row * stride) as *mut u8;
                // SAFETY: a row of the tile in memory.
                unsafe { to.copy_from_nonoverlapping(tiles.data[i.register][row * 64..].as_ptr(), bytes) };
            }
        }
        // TDPBF16PS
        (0x5c, F3, None) => tiles.multiply(i.register, i.operand, i.third),
        _ => return false,
    }
    true
}

impl Tiles {
    /// Rows and bytes of a row; a tile that is not configured may not be used.
    fn used(&self, tile: usize) -> (usize, usize) {
        assert!(self.rows[tile] > 0, "tile {tile} is not configured");
        (self.rows[tile], self.row_bytes[tile])
    }

    /// `sums += a · b`: the even and the odd elements of the pairs each have a sum of their own, then both are added.
    fn multiply(&mut self, sums: usize, a: usize, b: usize) {
        let ((rows, sum_bytes), (_, a_bytes), _) = (self.used(sums), self.used(a), self.used(b));
        let pair = |tile: &[u8], row: usize, at: usize| {
            let bytes = &tile[row * 64 + at * 4..][..4];
            [0, 2].map(|i| bf16::from_le_bytes([bytes[i], bytes[i + 1]]).to_f32())
        };
        for m in 0..rows {
            for n in 0..sum_bytes / 4 {
                let mut both = [0f32; 2];
                for k in 0..a_bytes / 4 {
                    let (x, y) = (pair(&self.data[a], m, k), pair(&self.data[b], k, n));
                    both = [0, 1].map(|i| x[i].mul_add(y[i], both[i]));
                }
                let place = &mut self.data[sums][m * 64 + n * 4..][..4];
                let old = f32::from_le_bytes((&*place).try_into().expect("four bytes"));
                place.copy_from_slice(&(old + (both[0] + both[1])).to_le_bytes());
            }
        }
    }
}
