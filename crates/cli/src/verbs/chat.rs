//! `ounce chat`: a conversation on the terminal, or through pipes.

use std::io::{BufRead, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ounce_engine::Request;
use ounce_engine::sampler::SamplingParams;
use serde_json::{Value, json};
use signal_hook::consts::SIGINT;

use super::Context;
use crate::codes::Exit;
use crate::error::{CliError, Result};
use crate::flags::chat::Args;
use crate::output::units;
use crate::talk::{Answer, Speaker, Uses};

const HELP: &str = "\
/help           this list
/stats          tokens and speed of the last answer, and of the conversation
/reset          forget the conversation
/system TEXT    change the instruction before the conversation; nothing: none
/adapter DIR    put another adapter on the model; off: none
/save FILE      write the conversation as a line of messages, as ounce tune reads it
/quit           end the chat";

/// A conversation that goes on.
struct Chat<'a> {
    context: &'a Context,
    speaker: Speaker,
    params: SamplingParams,
    system: Option<String>,
    turns: Vec<Value>,
    last: Option<Answer>,
    tokens: usize,
}

/// What Ctrl-C means: at the prompt it ends the chat, within an answer it ends the answer.
struct Interrupt {
    at_prompt: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

pub fn run(context: &Context, args: Args) -> Result<Exit> {
    let speaker = Speaker::open(context, &args.model.base, args.model.adapter.as_deref(), 1, Uses::ANSWERS)?;
    let params = args.sampling.params(&speaker.generation)?;
    let mut chat = Chat { context, speaker, params, system: args.system, turns: Vec::new(), last: None, tokens: 0 };
    let interrupt = Interrupt::listen();
    let terminal = std::io::stdin().is_terminal();
    context.out.note("type a message and Enter; /help for more");
    loop {
        if terminal {
            eprint_prompt(context);
        }
        interrupt.at_prompt.store(true, Ordering::Relaxed);
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line).map_err(|e| CliError::read("stdin".as_ref(), &e))?;
        interrupt.at_prompt.store(false, Ordering::Relaxed);
        if read == 0 {
            return Ok(Exit::Done);
        }
        let line = line.trim();
        let done = match line.split_once(' ').map_or((line, ""), |(verb, rest)| (verb, rest.trim())) {
            ("", _) => continue,
            ("/quit" | "/exit", _) => return Ok(Exit::Done),
            (verb, rest) if verb.starts_with('/') => chat.command(verb, rest),
            _ => chat.say(line, &interrupt.stop),
        };
        if let Err(error) = done {
            // A chat goes on after a mistake.
            context.out.alarm(&error.render(context.out.err_style()));
        }
    }
}

fn eprint_prompt(context: &Context) {
    context.out.alarm(&context.out.err_style().bold("> "));
}

impl Chat<'_> {
    fn say(&mut self, text: &str, stop: &AtomicBool) -> Result<()> {
        stop.store(false, Ordering::Relaxed);
        let mut messages = Vec::new();
        if let Some(system) = &self.system {
            messages.push(json!({"role": "system", "content": system}));
        }
        messages.extend(self.turns.iter().cloned());
        messages.push(json!({"role": "user", "content": text}));
        let prompt = self.speaker.chat_prompt(&messages)?;
        let out = self.context.out;
        let request = Request::new(prompt, self.params.clone());
        let answer = self.speaker.answer(request, |piece| {
            out.piece(piece);
            !stop.load(Ordering::Relaxed)
        })?;
        out.piece("\n");
        match answer.reason {
            "length" => out.note("(cut off: --max-tokens, or the end of the context)"),
            "interrupted" => out.note("(stopped)"),
            _ => {}
        }
        self.turns.push(json!({"role": "user", "content": text}));
        self.turns.push(json!({"role": "assistant", "content": answer.text}));
        self.tokens += answer.tokens;
        self.last = Some(answer);
        Ok(())
    }

    fn command(&mut self, verb: &str, rest: &str) -> Result<()> {
        let out = self.context.out;
        match verb {
            "/help" => out.alarm(&format!("{HELP}\n")),
            "/stats" => out.alarm(&self.stats()),
            "/reset" => {
                self.turns.clear();
                out.note("the conversation is forgotten");
            }
            "/system" => {
                self.system = (!rest.is_empty()).then(|| rest.to_owned());
                out.note("from the next message on");
            }
            "/adapter" => {
                let dir = (!rest.is_empty() && rest != "off").then_some(rest);
                self.speaker.change_adapter(dir)?;
                out.note(dir.map_or("no adapter".into(), |dir| format!("adapter: {dir}")));
            }
            "/save" if rest.is_empty() => out.note("write /save FILE"),
            "/save" => self.save(Path::new(rest))?,
            _ => out.note(format!("there is no {verb}; /help lists what there is")),
        }
        Ok(())
    }

    fn stats(&self) -> String {
        let Some(last) = &self.last else { return "no answer yet\n".into() };
        let rate = last.rate().map(|r| format!(", {r:.1} tok/s")).unwrap_or_default();
        let guessed = match last.drafted {
            0 => String::new(),
            n => format!("; {n} guessed ahead, of which {} held", last.accepted),
        };
        format!(
            "last answer: {} prompt tokens, {} tokens, first after {}{rate}{guessed}\nconversation: {} messages, {} tokens \
             answered, {} of memory\n",
            last.prompt_tokens,
            last.tokens,
            units::seconds(last.first_s),
            self.turns.len(),
            self.tokens,
            units::bytes(ounce_train::resident::bytes())
        )
    }

    fn save(&self, path: &Path) -> Result<()> {
        let mut messages = self.turns.clone();
        if let Some(system) = &self.system {
            messages.insert(0, json!({"role": "system", "content": system}));
        }
        std::fs::write(path, format!("{}\n", json!({"messages": messages}))).map_err(|e| CliError::write(path, &e))?;
        self.context.out.note(format!("saved {}", path.display()));
        Ok(())
    }
}

impl Interrupt {
    fn listen() -> Interrupt {
        let out = Interrupt { at_prompt: Arc::default(), stop: Arc::default() };
        // Where the system does not allow it, Ctrl-C ends the chat at once, as always.
        let _ = signal_hook::flag::register_conditional_shutdown(SIGINT, 130, out.at_prompt.clone());
        let _ = signal_hook::flag::register(SIGINT, out.stop.clone());
        out
    }
}
