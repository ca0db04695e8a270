//! The template engine as Hugging Face sets up Jinja: its white space rules, filters and functions, and limits on what a
//! template may cost. It knows nothing of messages.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, Value};

use super::{TemplateError, clock, generation, json};
use crate::guard;

/// Largest source in bytes; the largest of 71 templates of real models has 18,120. Compile time grows faster than the
/// source: 5 s for the worst 32 KiB, 24 s for the worst 64 KiB.
pub const MAX_SOURCE_BYTES: usize = 32 << 10;
/// Largest rendered text in bytes.
pub const MAX_OUTPUT_BYTES: usize = 16 << 20;
/// Steps of the engine: loops of some million rounds, far below the time limit.
const FUEL: u64 = 5_000_000;

const NAME: &str = "chat";

/// A compiled template. It can be rendered from several threads at once.
pub(super) struct Compiled {
    env: Environment<'static>,
    /// There are `{% generation %}` blocks.
    pub has_generation: bool,
}

impl Compiled {
    pub fn new(source: &str) -> Result<Arc<Self>, TemplateError> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(TemplateError::TooLarge { bytes: source.len(), limit: MAX_SOURCE_BYTES });
        }
        let (source, has_generation) = generation::rewrite(source);
        guard::run(move || {
            let mut env = environment()?;
            env.add_template_owned(NAME, source).map_err(|e| TemplateError::Compile { why: describe(&e) })?;
            Ok(Arc::new(Compiled { env, has_generation }))
        })
    }

    /// Renders; to be called inside [`guard::run`].
    pub fn render(&self, context: Value) -> Result<String, TemplateError> {
        let template = self.env.get_template(NAME).map_err(|e| TemplateError::Compile { why: describe(&e) })?;
        let mut out = Capped(Vec::new());
        match template.render_captured_to(context, &mut out) {
            Ok(_) => Ok(String::from_utf8_lossy(&out.0).into_owned()),
            Err(_) if out.0.len() > MAX_OUTPUT_BYTES => Err(TemplateError::OutputTooLarge { limit: MAX_OUTPUT_BYTES }),
            Err(error) => Err(match refusal(&error) {
                Some(message) => TemplateError::Refused { message },
                None => TemplateError::Render { why: describe(&error) },
            }),
        }
    }
}

/// Output that is refused beyond the limit.
struct Capped(Vec<u8>);

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        if self.0.len() > MAX_OUTPUT_BYTES { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn environment() -> Result<Environment<'static>, TemplateError> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(|e| TemplateError::Compile { why: describe(&e) })?);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_filter("tojson", json::tojson);
    env.add_filter("e", escape);
    env.add_filter("escape", escape);
    // In Python None cannot be iterated over; templates ask before they do.
    env.add_test("iterable", |v: &Value| {
        matches!(
            v.kind(),
            ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Undefined
        )
    });
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Refusal(message)))
    });
    env.add_function("strftime_now", |state: &State, format: String| {
        let now = state.lookup(NOW).and_then(|now| now.as_i64());
        clock::strftime(&format, now.unwrap_or_else(unix_now))
    });
    Ok(env)
}

/// The variable with the time that a render takes for the present, in seconds since 1970.
pub(super) const NOW: &str = "__now";

fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

/// The `escape` filter: as Python's markupsafe, which escapes both quotes by number.
fn escape(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&#34;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

/// What a template said to `raise_exception`.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

fn refusal(error: &Error) -> Option<String> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(Refusal(message)) = error.downcast_ref() {
            return Some(message.clone());
        }
        source = error.source();
    }
    None
}

/// An error with the line it happened in.
fn describe(error: &Error) -> String {
    let detail = error.detail().map_or_else(String::new, |detail| format!(": {detail}"));
    let line = error.line().map_or_else(String::new, |line| format!(" (line {line})"));
    format!("{}{detail}{line}", error.kind())
}
