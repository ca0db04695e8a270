//! Rust text with its comments, strings and characters turned into spaces, so that a rule about code does not see words in
//! them. Lines and columns stay. A small scanner, not a parser: it knows tokens and nothing else.

/// The same text, of the same lines, with everything blanked that is not code.
pub fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skipped_end(&chars, at);
        if end > at {
            out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// Where the comment or literal that starts at `at` ends; `at` itself if none starts there.
fn skipped_end(chars: &[char], at: usize) -> usize {
    let next = |n: usize| chars.get(at + n).copied().unwrap_or('\0');
    let word_before = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match chars[at] {
        '/' if next(1) == '/' => find(chars, at, |c| c == '\n'),
        '/' if next(1) == '*' => block_comment_end(chars, at),
        '"' => quoted_end(chars, at, '"'),
        'b' | 'c' if !word_before && next(1) == '"' => quoted_end(chars, at + 1, '"'),
        'r' if !word_before && matches!(next(1), '"' | '#') => raw_end(chars, at, at + 1),
        'b' | 'c' if !word_before && next(1) == 'r' && matches!(next(2), '"' | '#') => raw_end(chars, at, at + 2),
        // 'a' is a character, 'a a lifetime; an escape is always a character.
        '\'' if next(1) == '\\' || (next(1) != '\'' && next(2) == '\'') => quoted_end(chars, at, '\''),
        _ => at,
    }
}

fn find(chars: &[char], from: usize, is: impl Fn(char) -> bool) -> usize {
    chars[from..].iter().position(|&c| is(c)).map_or(chars.len(), |n| from + n)
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn quoted_end(chars: &[char], open: usize, quote: char) -> usize {
    let mut i = open + 1;
    while i < chars.len() && chars[i] != quote {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

/// `r"…"`, `r#"…"#`; an `r#name` is no string and gives `at`.
fn raw_end(chars: &[char], at: usize, hashes_from: usize) -> usize {
    let quote = find(chars, hashes_from, |c| c != '#');
    if chars.get(quote) != Some(&'"') {
        return at;
    }
    let hashes = quote - hashes_from;
    let mut i = quote + 1;
    while i < chars.len() {
        if chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes {
            return i + 1 + hashes;
        }
        i += 1;
    }
    chars.len()
}

/// The number of lines before the file's test code: 0 in a test file, the line of the test module elsewhere, and the
/// largest number where there is none. By custom the test module is the last item of a file.
pub fn test_start(path: &str, blanked: &str) -> usize {
    if path.split('/').any(|part| matches!(part, "tests" | "benches" | "tests.rs")) || path.ends_with("_tests.rs") {
        return 0;
    }
    let lines: Vec<&str> = blanked.lines().map(str::trim).collect();
    let opens = |at: usize| {
        let item = lines[at + 1..].iter().find(|l| !l.is_empty() && !l.starts_with("#[")).copied().unwrap_or("");
        let item = item.strip_prefix("pub(crate) ").or(item.strip_prefix("pub ")).unwrap_or(item);
        item.starts_with("mod ") && item.ends_with('{')
    };
    (0..lines.len()).find(|&at| lines[at] == "#[cfg(test)]" && opens(at)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: &str) {
        assert_eq!(blank(text), want, "{text}");
    }

    #[test]
    fn comments_and_literals_become_spaces() {
        check("a // b\nc", "a     \nc");
        check("a /* b /* c */ d */ e", "a                   e");
        check(r#"f("x\"y", z)"#, "f(      , z)");
        check(r##"r#"a"b"# c"##, "         c");
        check("r#type b\"z\"", "r#type     ");
        check("'x' 'a '\\'' &'a str", "    'a      &'a str");
        check("\"two\nlines\" q", "    \n       q");
    }

    #[test]
    fn an_unclosed_literal_ends_with_the_text() {
        check("a \"b", "a   ");
        check("a /* b", "a     ");
        check("a \"b\\", "a    ");
    }

    #[test]
    fn test_code_starts_at_its_module() {
        assert_eq!(test_start("src/a.rs", "fn a() {}\n#[cfg(test)]\nmod tests {\n}"), 1);
        assert_eq!(test_start("src/a.rs", "fn a() {}\n#[cfg(test)]\n#[path]\npub(crate) mod tests {\n}"), 1);
        assert_eq!(test_start("src/a.rs", "#[cfg(test)]\nmod tests;\nfn a() {}"), usize::MAX);
        assert_eq!(test_start("crates/x/tests/a.rs", "fn a() {}"), 0);
        assert_eq!(test_start("crates/x/src/ops/tests.rs", "fn a() {}"), 0);
    }
}
