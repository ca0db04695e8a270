//! Holds answers to a form: a JSON schema, a regular expression, a choice or a grammar becomes a constraint for the engine.
//! [`Grammars`] belongs to a tokenizer and is made once; a [`Form`] is what a request asks for; [`Grammar`] is that form,
//! compiled.
//!
//! What this crate must not know: HTTP, models, how a token is chosen. What follows a prefix is llguidance's work: derivatives
//! of regular expressions under an Earley parser, run down a trie of the vocabulary.
#![forbid(unsafe_code)]

mod ahead;
mod blanks;
mod cut;
mod follow;
mod form;
mod vocabulary;

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use ounce_engine::Constraint;
use ounce_formats::guard::{self, Fault};
use ounce_formats::tokenizer::Tokenizer;

pub use form::{Form, MAX_FORM_BYTES, json_rule};

use cut::Cutter;
use follow::Follower;

/// Most states of the automaton that reads an answer, about 2 kB each. It grows while an answer is written.
const MAX_STATES: usize = 20_000;
/// Largest grammar, in symbols; the schema of FHIR, one of the largest in use, has 200,000.
const MAX_SYMBOLS: usize = 200_000;

/// A form that cannot be kept to.
#[derive(Debug, thiserror::Error)]
pub enum GrammarError {
    #[error("it has {bytes} bytes, at most {MAX_FORM_BYTES} are allowed")]
    TooLarge { bytes: usize },
    #[error("a JSON schema must be an object, true or false; it is {found}")]
    NoSchema { found: &'static str },
    #[error("it has a number of -9.2e18 or less; numbers must be above")]
    LowNumber,
    #[error("there is nothing to choose from")]
    NoChoice,
    #[error("no text has this form, or none that this model has tokens for")]
    Nothing,
    /// As the library words it.
    #[error("{0}")]
    Invalid(String),
    #[error("it is too complex: {0}")]
    Guard(#[from] Fault),
}

/// Compiles forms for the vocabulary of one tokenizer. Cloning shares it.
#[derive(Clone)]
pub struct Grammars {
    factory: Arc<ParserFactory>,
    cutter: Arc<Cutter>,
}

impl Grammars {
    /// Sorts the vocabulary into a trie: some tenths of a second for 150,000 tokens.
    ///
    /// # Errors
    /// Only where the system has no thread, or by a fault of the library.
    pub fn new(tokenizer: &Tokenizer) -> Result<Grammars, GrammarError> {
        let tokenizer = tokenizer.clone();
        // Not within the time limit for strangers' grammars: this is the model's own vocabulary.
        let vocabulary = vocabulary::environment(&tokenizer);
        let mut factory = ParserFactory::new_simple(&vocabulary).map_err(|e| invalid(&e.to_string()))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_lexer_states = MAX_STATES;
        limits.max_grammar_size = MAX_SYMBOLS;
        limits.verbose_errors = false;
        Ok(Grammars { factory: Arc::new(factory), cutter: Arc::new(Cutter::new(tokenizer, vocabulary)) })
    }

    /// Compiles a form, within two seconds of a processor's time.
    ///
    /// # Errors
    /// A form that is too large, wrong, or too complex.
    pub fn compile(&self, form: &Form) -> Result<Grammar, GrammarError> {
        let grammar: TopLevelGrammar = form.grammar()?;
        let (factory, cutter) = (self.factory.clone(), self.cutter.clone());
        guard::run(move || {
            let mut matcher = Matcher::new(factory.create_parser(grammar));
            // Where nothing can be written, the first step says so; it is remembered, too.
            match matcher.compute_mask_or_eos() {
                Err(error) => Err(invalid(&error.to_string())),
                Ok(_) => Ok(Grammar { matcher, cutter }),
            }
        })
    }
}

/// A compiled form.
pub struct Grammar {
    matcher: Matcher,
    cutter: Arc<Cutter>,
}

impl Grammar {
    /// A constraint that stands at the beginning of an answer. Those of one grammar share what they learn about it.
    pub fn constraint(&self) -> Box<dyn Constraint> {
        Box::new(Follower::new(self.matcher.clone(), self.cutter.clone()))
    }
}

fn invalid(text: &str) -> GrammarError {
    match reason(text) {
        line if line == "NoExtensionBias" => GrammarError::Nothing,
        line => GrammarError::Invalid(line),
    }
}

/// What the library says, in one line, up to where it begins to tell its own state in tags.
fn reason(text: &str) -> String {
    const MOST_CHARS: usize = 500;
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with('<')).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ").chars().take(MOST_CHARS).collect()
}
