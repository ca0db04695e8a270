//! `cargo xtask neon`: the tests of the numerical crates as 64-bit ARM code, under qemu: nothing else runs the NEON table
//! on an x86 machine. Needs a cross compiler and an emulator, and says which parts of them are missing.

use std::path::Path;
use std::process::Command;

use crate::{place, proc};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";
/// The ARM C library's loader, where programs for Debian expect it.
const LOADER: &str = "/lib/ld-linux-aarch64.so.1";
/// Where Debian's `rustc-web` puts its compiler, which knows other targets without rustup.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// The crates with code of their own for an instruction set, and those whose tests run every table.
const CRATES: [&str; 3] = ["ounce-kernels", "ounce-tensor", "ounce-optim"];

const HINT: &str = "\
hint: on Debian 12, as root:
  dpkg --add-architecture arm64 && apt-get update
  apt-get install --no-install-recommends --no-remove rustc-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu \\
    libc6-dev-arm64-cross libc6:arm64 qemu-user
elsewhere `rustup target add aarch64-unknown-linux-gnu` stands for the first two packages";

/// Runs the tests.
pub fn run() -> Result<(), String> {
    proc::run(&mut command()?)
}

/// The command that builds and runs the tests, or everything that it would lack.
pub fn command() -> Result<Command, String> {
    let rustc = compiler();
    let missing: Vec<&str> = [
        (rustc.is_some(), "a Rust compiler with the standard library of aarch64-unknown-linux-gnu"),
        (answers(LINKER), "aarch64-linux-gnu-gcc, the linker"),
        (!answers(LINKER) || has_c_library(), "the C library's files that aarch64-linux-gnu-gcc links programs with"),
        (answers(EMULATOR), "qemu-aarch64, the emulator"),
        (Path::new(LOADER).exists(), "/lib/ld-linux-aarch64.so.1, the loader of the C library for ARM"),
    ]
    .into_iter()
    .filter_map(|(there, name)| (!there).then_some(name))
    .collect();
    let (Some(rustc), true) = (rustc, missing.is_empty()) else { return Err(explain(&missing)) };
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(place::workspace()).args(["test", "--locked", "--release", "--no-fail-fast", "--tests"]);
    command.args(["--target", TARGET, "--target-dir"]).arg(place::target().join("neon"));
    command.args(CRATES.iter().flat_map(|name| ["--package", name]));
    command.env("RUSTC", rustc);
    command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
    command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", EMULATOR);
    // The lints of `cargo xtask test` see the code of this machine only. Flags for this processor would not fit the other.
    command.env("RUSTFLAGS", "-Dwarnings");
    Ok(command)
}

fn explain(missing: &[&str]) -> String {
    format!("the NEON table cannot be tested on this machine, which lacks\n  {}\n{HINT}", missing.join("\n  "))
}

/// The project's own compiler if it has the target, else Debian's.
fn compiler() -> Option<String> {
    let own = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    [own, DEBIAN_RUSTC.into()].into_iter().find(|rustc| {
        let folder = proc::capture(Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]));
        folder.is_ok_and(|folder| Path::new(folder.trim()).is_dir())
    })
}

fn answers(program: &str) -> bool {
    proc::capture(Command::new(program).arg("--version")).is_ok()
}

/// Whether the linker finds the code that starts a program; it prints the bare name of a file that it does not find.
fn has_c_library() -> bool {
    let file = proc::capture(Command::new(LINKER).arg("-print-file-name=crt1.o"));
    file.is_ok_and(|file| Path::new(file.trim()).is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_missing_is_named_with_what_to_install() {
        let message = explain(&["one", "two"]);
        assert!(message.contains("\n  one\n  two\nhint: "), "{message}");
        for package in ["rustc-web", "libstd-rust-web-dev:arm64", "gcc-aarch64-linux-gnu", "libc6:arm64", "qemu-user"] {
            assert!(message.contains(package), "{package}");
        }
    }
}
