//! Dropout: its share, its independence, and what its mask depends on.

use ounce_kernels::{Cpu, Isa};

use crate::{Buffer, Kind, zip};

#[test]
fn dropout_keeps_the_right_share_and_depends_on_the_row_only() {
    let (m, c, p) = (300, 577, 0.3);
    for isa in Isa::available() {
        for kind in Kind::ALL {
            let cpu = Cpu::with_isa(2, isa);
            let x = Buffer::new(&vec![1.0; m * c], kind);
            let run = |key, row0, rows: usize| {
                let mut y = Buffer::new(&vec![5.0; rows * c], kind);
                let x = Buffer::new(&vec![1.0; rows * c], kind);
                cpu.dropout(y.set(), x.get(), p, key, row0, c);
                y.f64()
            };
            assert_eq!(x.f64().len(), m * c);
            let all = run(7, 1000, m);
            let kept = all.iter().filter(|y| **y != 0.0).count() as f64;
            let n = (m * c) as f64;
            // Five standard deviations of a binomial.
            assert!((kept - 0.7 * n).abs() < 5.0 * (n * 0.21).sqrt(), "{kept} of {n}");
            assert!(
                all.iter().all(|y| *y == 0.0 || (y - 1.0 / 0.7).abs() < if kind == Kind::F32 { 1e-6 } else { 4e-3 })
            );
            // Neighbours in a row, in a column and under another key agree no more often than chance (0.58 of all).
            let agree = |a: &[f64], b: &[f64]| {
                zip([a, b], |[a, b]| ((a == 0.0) == (b == 0.0)) as u8 as f64).iter().sum::<f64>() / a.len() as f64
            };
            for share in [
                agree(&all[1..], &all[..m * c - 1]),
                agree(&all[c..], &all[..m * c - c]),
                agree(&all, &run(8, 1000, m)),
            ] {
                assert!((share - 0.58).abs() < 0.01, "{share}");
            }
            assert_eq!(run(7, 1010, 5), &all[10 * c..15 * c], "a row has the same mask wherever it is computed");
            assert_eq!(all, run(7, 1000, m));
            if isa != Isa::Portable {
                let mut y = Buffer::new(&vec![5.0; m * c], kind);
                Cpu::with_isa(1, Isa::Portable).dropout(y.set(), x.get(), p, 7, 1000, c);
                assert_eq!(y.f64(), all, "the mask does not depend on the table");
            }
        }
    }
}
