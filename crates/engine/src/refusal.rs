//! Why a request is not answered: what is wrong with it, told before it runs, or weights that could not be read.

use ounce_tensor::ReadError;

/// A request that cannot run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the prompt is empty")]
    Empty,
    #[error(
        "the prompt has {prompt} tokens, but the context has {context} positions and the answer needs at least one"
    )]
    TooLong { prompt: usize, context: usize },
    #[error("the prompt has token {token}, but the vocabulary ends at {vocab}")]
    Token { token: u32, vocab: usize },
    #[error("the input has {input} tokens, but the context has {context} positions")]
    InputTooLong { input: usize, context: usize },
    #[error("its adapter has been taken away")]
    Adapter,
}

/// A request that was not answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Streamed weights that could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Refusal {
    /// Whether a prompt can run where the context has `context` positions and the vocabulary `vocab` tokens.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check(prompt: &[u32], context: usize, vocab: usize) -> Result<(), Refusal> {
        if prompt.is_empty() {
            return Err(Refusal::Empty);
        }
        if prompt.len() >= context {
            return Err(Refusal::TooLong { prompt: prompt.len(), context });
        }
        Refusal::check_tokens(prompt, vocab)
    }

    /// Whether an input can be embedded: as [`Refusal::check`], with no room for an answer.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check_input(input: &[u32], context: usize, vocab: usize) -> Result<(), Refusal> {
        match input.len() {
            0 => Err(Refusal::Empty),
            n if n > context => Err(Refusal::InputTooLong { input: n, context }),
            _ => Refusal::check_tokens(input, vocab),
        }
    }

    fn check_tokens(tokens: &[u32], vocab: usize) -> Result<(), Refusal> {
        match tokens.iter().find(|&&t| t as usize >= vocab) {
            Some(&token) => Err(Refusal::Token { token, vocab }),
            None => Ok(()),
        }
    }
}
