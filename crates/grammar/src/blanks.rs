//! [`Blanks`]: where an answer that is JSON sets blanks, so that those to come can be guessed. It knows no grammar and no tokens.

/// What stands between two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blank {
    Spaces(usize),
    /// A line break, and indentation.
    Line,
}

/// Places where there may be blanks. Of the first three there is one for objects and, after it, one for lists.
const BEGIN: usize = 0;
const NEXT: usize = 2;
const END: usize = 4;
const VALUE: usize = 6;
/// Longest blanks that are remembered or guessed, in bytes.
const LONGEST: usize = 64;

/// Reads along. Text that is no JSON does no harm: what is said of it is wrong.
#[derive(Clone, Debug, Default)]
pub struct Blanks {
    /// The first bytes of the objects and lists that are open.
    open: Vec<u8>,
    in_text: bool,
    escaped: bool,
    /// The last byte that is no blank, and the blanks after it.
    last: u8,
    since: String,
    /// What stood last at each place.
    seen: [Option<Blank>; 7],
    /// Spaces for each level of indentation.
    indent: usize,
}

impl Blanks {
    pub fn read(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.push(byte));
    }

    /// Whether a JSON string has begun and not ended.
    pub fn in_text(&self) -> bool {
        self.in_text
    }

    fn push(&mut self, byte: u8) {
        if self.in_text {
            self.in_text = byte != b'\n' && (byte != b'"' || self.escaped);
            self.escaped = byte == b'\\' && !self.escaped;
            return;
        }
        if byte == b' ' || byte == b'\n' {
            if self.since.len() < LONGEST {
                self.since.push(byte.into());
            }
            return;
        }
        if let Some(place) = self.place(byte) {
            let line = self.since.starts_with('\n');
            let level = self.level(byte);
            if line && level > 0 {
                self.indent = (self.since.len() - 1) / level;
            }
            self.seen[place] = Some(if line { Blank::Line } else { Blank::Spaces(self.since.len()) });
        }
        self.since.clear();
        match byte {
            b'{' | b'[' => self.open.push(byte),
            b'}' | b']' => drop(self.open.pop()),
            b'"' => self.in_text = true,
            _ => {}
        }
        self.last = byte;
    }

    /// The place before `next`, where blanks are a matter of style.
    fn place(&self, next: u8) -> Option<usize> {
        let list = usize::from(self.open.last() == Some(&b'['));
        match (self.last, next) {
            (b'{' | b'[', b'}' | b']') => None,
            (_, b'}' | b']') => Some(END + list),
            (b'{' | b'[', _) => Some(BEGIN + list),
            (b',', _) => Some(NEXT + list),
            (b':', _) => Some(VALUE),
            _ => None,
        }
    }

    fn level(&self, next: u8) -> usize {
        self.open.len().saturating_sub(usize::from(b"}]".contains(&next)))
    }

    /// The blanks that are likely to come before `next`, besides those that have come.
    pub fn before(&self, next: u8) -> String {
        let blank = match self.place(next).map(|place| self.likely(place)) {
            None => String::new(),
            Some(Blank::Spaces(n)) => " ".repeat(n),
            Some(Blank::Line) => format!("\n{}", " ".repeat(LONGEST.min(self.indent * self.level(next)))),
        };
        blank.strip_prefix(&self.since).unwrap_or_default().to_owned()
    }

    fn likely(&self, place: usize) -> Blank {
        let list = place % 2;
        let at = |place: usize| self.seen[place];
        at(place).unwrap_or(match place {
            VALUE => Blank::Spaces(1),
            BEGIN..NEXT => at(BEGIN + 1 - list).unwrap_or(Blank::Spaces(0)),
            NEXT..END => at(BEGIN + list).filter(|&blank| blank == Blank::Line).unwrap_or(Blank::Spaces(1)),
            _ => at(BEGIN + list).unwrap_or(Blank::Spaces(0)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said to come before each part of a text.
    fn said(text: &str) -> String {
        let (mut blanks, mut out) = (Blanks::default(), String::new());
        for byte in text.bytes() {
            if blanks.in_text() || !b" \n".contains(&byte) {
                if !blanks.in_text() {
                    let since = blanks.since.clone();
                    blanks.since.clear();
                    out += &blanks.before(byte);
                    blanks.since = since;
                }
                out.push(byte.into());
            }
            blanks.read(&[byte]);
        }
        out
    }

    #[test]
    fn blanks_are_said_to_be_as_they_were() {
        let one = r#"{"a": [1, 2, {"b": "x, {\" y"}], "c": {}, "d": []}"#;
        assert_eq!(said(one), one);
        let tight = r#"{"a":[1,2,{"b":"x"}],"c":{}}"#;
        // The first colon and the first comma of each kind are not yet known.
        assert_eq!(said(tight), r#"{"a": [1, 2,{"b":"x"}], "c":{}}"#);
        let lines = "{\n  \"a\": {\n    \"b\": 1,\n    \"c\": 2\n  },\n  \"d\": 3\n}";
        // The first line break comes as a surprise.
        assert_eq!(said(lines), lines.replacen("\n  ", "", 1));
        let lists = "[\n [\n  1,\n  2\n ],\n [\n  3\n ]\n]";
        assert_eq!(said(lists), lists.replacen("\n ", "", 1));
        // A list begins as objects do, until one has begun.
        let mixed = "{\n  \"a\": [\n    1\n  ]\n}";
        assert_eq!(said(mixed), mixed.replacen("\n  ", "", 1));
    }

    #[test]
    fn blanks_that_have_come_are_not_said_again() {
        let mut blanks = Blanks::default();
        blanks.read(b"{\n    \"a\": 1,\n  ");
        assert_eq!(blanks.before(b'"'), "  ");
        blanks.read(b"      ");
        assert_eq!(blanks.before(b'"'), "");
        // Of blanks without end the first are remembered.
        blanks.read(&[b' '; 1000]);
        assert_eq!(blanks.since.len(), LONGEST);
        // Neither text nor what closes nothing does harm.
        blanks.read(b"}}]} it is \"so\n \xff");
        assert!(!blanks.in_text());
        assert_eq!(blanks.before(b'}'), "");
    }
}
