//! "Did you mean": the known word closest to a mistyped one.

/// The candidates nearest to `word`, best first, at most three, none farther than a third of its length (at least 2).
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    // A mistyped word is short; a long text in a key's place is no word, and would cost length × length.
    if word.len() > 64 {
        return Vec::new();
    }
    let word = word.to_ascii_lowercase().replace('-', "_");
    let limit = (word.chars().count() / 3).max(2);
    let mut scored: Vec<(usize, &str)> = known
        .into_iter()
        .map(|candidate| {
            // A nested key is often typed without its section.
            let last = candidate.rsplit('.').next().unwrap_or(candidate);
            (distance(&word, candidate).min(distance(&word, last)), candidate)
        })
        .filter(|&(d, _)| d <= limit && d < word.chars().count())
        .collect();
    scored.sort();
    scored.dedup_by(|a, b| a.1 == b.1);
    let best = scored.first().map_or(0, |s| s.0);
    scored.into_iter().take_while(|s| s.0 <= best + 1).take(3).map(|s| s.1).collect()
}

/// Edits that turn `a` into `b`: insert, delete, replace, swap two neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_by_hand() {
        for (a, b, d) in
            [("", "", 0), ("abc", "abc", 0), ("abc", "acb", 1), ("rank", "rnk", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_key_is_found_with_or_without_its_section() {
        let known = ["lora.rank", "lora.alpha", "optimizer.learning_rate", "seed"];
        assert_eq!(nearest("rnak", known), ["lora.rank"]);
        assert_eq!(nearest("Learning-Rate", known), ["optimizer.learning_rate"]);
        assert_eq!(nearest("sede", known), ["seed"]);
        assert!(nearest("quantization", known).is_empty());
        assert!(nearest(&"x".repeat(1000), known).is_empty());
    }
}
