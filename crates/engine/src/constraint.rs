//! What an answer may be: a grammar as the engine sees it. It knows no grammar, no text and no model.

/// Decides token by token how an answer may go on. The engine asks before it draws a token, and tells which one it drew.
pub trait Constraint: Send {
    /// Which tokens may come next, a bit for each: token `t` is bit `t % 32` of word `t / 32`. Beyond the last word none may.
    /// The model's end tokens are among them where the answer may end.
    ///
    /// # Errors
    /// Where that cannot be told: the grammar has become too complex, or nothing can go on.
    fn allowed(&mut self) -> Result<&[u32], Unmet>;

    /// Takes a token that was allowed.
    ///
    /// # Errors
    /// As for [`Constraint::allowed`].
    fn accept(&mut self, token: u32) -> Result<(), Unmet>;

    /// Whether the answer is whole as it stands.
    fn may_stop(&mut self) -> bool;

    /// Whether the answer is whole and nothing can follow it.
    fn is_complete(&self) -> bool;

    /// Tokens that the answer goes on with, as far as that can be told, at most `most`. They are guesses: the same text may be cut
    /// into other tokens. None where nothing can be told.
    fn foresee(&mut self, most: usize) -> Vec<u32>;

    /// A copy that goes its own way, to try guesses on.
    fn fork(&self) -> Box<dyn Constraint>;
}

/// A constraint that cannot be kept up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unmet(pub String);

/// Whether the bits of [`Constraint::allowed`] hold `token`.
pub fn allows(allowed: &[u32], token: u32) -> bool {
    allowed.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
}

/// The first token below `vocab` that may come.
pub(crate) fn first(allowed: &[u32], vocab: usize) -> Option<u32> {
    let at = allowed.iter().position(|&word| word != 0)?;
    let token = at as u32 * 32 + allowed[at].trailing_zeros();
    ((token as usize) < vocab).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_counted_from_the_lowest() {
        let allowed = [0, 1 << 3 | 1 << 31];
        let held: Vec<u32> = (0..200).filter(|&t| allows(&allowed, t)).collect();
        assert_eq!(held, [35, 63]);
        assert_eq!((first(&allowed, 36), first(&allowed, 35), first(&[0, 0], 64)), (Some(35), None, None));
    }
}
