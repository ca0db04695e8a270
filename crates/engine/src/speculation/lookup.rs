//! Prompt lookup (Saxena 2023): where the last tokens stand in the text before, what came after them there. It costs no model, and is
//! right where an answer repeats: code that is edited, a text that is summed up, records in a form.

/// Tokens that must agree; of fewer there are too many in any text.
const SHORTEST: usize = 3;
/// Beyond so many, a longer agreement says nothing more.
const LONGEST: usize = 16;

/// Up to `most` tokens that may come after `tokens`: what came after the place that agrees with their end in most tokens, of such
/// places the last.
pub(crate) fn lookup(tokens: &[u32], most: usize) -> Vec<u32> {
    let n = tokens.len();
    let (mut found, mut longest) = (None, SHORTEST - 1);
    let Some(&last) = tokens.last().filter(|_| most > 0) else { return Vec::new() };
    for at in (SHORTEST..n).rev().filter(|at| tokens[at - 1] == last) {
        let agree = (0..at.min(LONGEST)).take_while(|i| tokens[at - 1 - i] == tokens[n - 1 - i]).count();
        if agree > longest {
            (found, longest) = (Some(at), agree);
            if agree == LONGEST {
                break;
            }
        }
    }
    let Some(at) = found else { return Vec::new() };
    let mut guesses: Vec<u32> = tokens[at..].iter().take(most).copied().collect();
    // What repeats goes on repeating.
    while guesses.len() < most {
        guesses.push(guesses[guesses.len() - (n - at)]);
    }
    guesses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_after_the_longest_and_latest_agreement_is_guessed() {
        assert_eq!(lookup(&[1, 2, 3, 4, 5, 9, 1, 2, 3], 2), [4, 5]);
        // Four agree at the first place, three at the later one.
        assert_eq!(lookup(&[7, 1, 2, 3, 4, 8, 1, 2, 3, 5, 7, 1, 2, 3], 1), [4]);
        // Three agree at both.
        assert_eq!(lookup(&[6, 1, 2, 3, 4, 8, 1, 2, 3, 5, 7, 1, 2, 3], 3), [5, 7, 1]);
    }

    #[test]
    fn a_text_that_repeats_goes_on_repeating() {
        assert_eq!(lookup(&[5, 5, 5, 5], 3), [5, 5, 5]);
        assert_eq!(lookup(&[1, 2, 1, 2, 1, 2], 5), [1, 2, 1, 2, 1]);
    }

    #[test]
    fn where_nothing_agrees_nothing_is_guessed() {
        for tokens in [&[][..], &[1], &[1, 1], &[1, 2, 3, 4, 5], &[1, 2, 9, 1, 2]] {
            assert!(lookup(tokens, 4).is_empty(), "{tokens:?}");
        }
        assert!(lookup(&[1, 2, 3, 1, 2, 3], 0).is_empty());
    }
}
