//! A model file that is cut short while it is in use: the process ends, but not without a word. Through the real binary.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use common::Place;

#[test]
fn a_mapped_file_that_is_cut_short_ends_the_process_with_an_error() {
    let place = Place::new();
    place.wide_model();
    // Exact products read the weights where they are mapped.
    for (json, expected) in [(false, "error[O0003]: a mapped file"), (true, "\"code\":\"O0003\"")] {
        place.wide_model();
        let flags: &[&str] = if json { &["--json"] } else { &[] };
        let mut command = place.command(&[&["chat", "wide", "--exact", "--context", "64"], flags].concat());
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut told = String::new();
        if json {
            // Nothing says that it is ready: it has answered once.
            writeln!(child.stdin.as_mut().unwrap(), "hello").unwrap();
            let mut stdout = BufReader::new(child.stdout.take().unwrap());
            stdout.read_line(&mut told).unwrap();
        } else {
            stderr.read_line(&mut told).unwrap();
        }
        let file = std::fs::File::options().write(true).open(place.path("wide/model.safetensors")).unwrap();
        file.set_len(4096).unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "hello").unwrap();
        stderr.read_to_string(&mut told).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{told}");
        assert!(told.contains(expected), "{told}");
    }
}
