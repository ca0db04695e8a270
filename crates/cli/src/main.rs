//! The binary `ounce`: reads the command line, runs a verb, ends with its exit code. The only crate that prints or reads
//! the environment.
#![forbid(unsafe_code)]

mod codes;
mod env;
mod error;
mod export;
mod flags;
mod hub;
mod memory;
mod model;
mod output;
mod recipe;
mod signals;
mod talk;
mod verbs;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use ounce_tensor::NoMemory;

use codes::Exit;
use env::Env;
use error::CliError;
use flags::Cli;
use output::{Output, units};

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_fault));
    let env = Env::read();
    let exit = match Cli::try_parse() {
        Ok(cli) => {
            let out = Output::new(cli.global.json, cli.global.quiet, cli.global.color, env.no_color);
            end_with_a_word(out);
            // The hook has told what happened; unwinding ends here.
            std::panic::catch_unwind(|| verbs::run(cli, env, out))
                .map_or(codes::INTERNAL.exit, |result| result.unwrap_or_else(|e| fail(&e, out)))
        }
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // Nothing can be done if nobody reads it.
            let _ = e.print();
            Exit::Done
        }
        Err(e) if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let out = Output::new(false, false, output::ColorChoice::Auto, env.no_color);
            out.alarm(&format!("{}\n", e.render()));
            fail(&CliError::new(&codes::USAGE, "a verb is missing").help("choose one of the commands above"), out)
        }
        Err(e) => fail(&usage(&e), Output::new(false, false, output::ColorChoice::Auto, env.no_color)),
    };
    ExitCode::from(exit.code())
}

/// A model file that is cut short while it is mapped ends the process wherever it happens to read: with an error at least.
fn end_with_a_word(out: Output) {
    let error = CliError::new(&codes::READ, "a mapped file of a model cannot be read any more")
        .detail("it was cut short or overwritten while it was in use, or its disk failed")
        .help("put the file back, or see to its disk, then run the same command again; a run goes on with --resume")
        .help("a new version of a file in use belongs beside it first, and then under its name (mv)");
    let text = match out.json {
        true => format!("{}\n", error.json()),
        false => error.render(out.err_style()),
    };
    // Where the system does not allow it, the process ends as it always does.
    let _ = ounce_formats::when_lost(text.leak(), codes::READ.exit.code().into());
}

/// Shows an error; its exit code.
fn fail(error: &CliError, out: Output) -> Exit {
    match out.json {
        true => out.alarm(&format!("{}\n", error.json())),
        false => out.alarm(&error.render(out.err_style())),
    }
    error.code.exit
}

/// clap's message in our form.
fn usage(error: &clap::Error) -> CliError {
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let what = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let mut out = CliError::new(&codes::USAGE, what);
    for line in lines {
        match line.strip_prefix("tip: ") {
            Some(tip) => out = out.help(tip),
            None if line.starts_with("For more information") => {}
            None => out = out.detail(line),
        }
    }
    out.help("ounce --help lists the verbs, ounce <verb> --help a verb's flags and examples")
}

/// Tells of a panic in the form of errors: a fault of the program itself, or memory that the system refused.
fn report_fault(info: &std::panic::PanicHookInfo) {
    let payload = info.payload();
    let error = match payload.downcast_ref::<NoMemory>() {
        Some(NoMemory { bytes }) => CliError::new(
            &codes::NO_MEMORY,
            format!("the system gave no memory: {} were asked for", units::bytes(*bytes)),
        )
        .detail("addresses or memory of processes are limited here, or other processes have it")
        .help("see ulimit -v, which has to leave room for more addresses than memory, and vm.overcommit_memory")
        .help("where nothing is limited: a smaller --context, model or --mem"),
        None => {
            let text = payload
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let text = text.unwrap_or("unknown");
            let mut error = CliError::new(&codes::INTERNAL, format!("a fault of ounce itself: {text}"));
            if let Some(at) = info.location() {
                error = error.at(format!("{}:{}", at.file(), at.line()), "");
            }
            error.help("please report it with the command line, at the address that ounce --help shows")
        }
    };
    let out = Output::new(false, false, output::ColorChoice::Auto, true);
    out.alarm(&error.render(out.err_style()));
}
