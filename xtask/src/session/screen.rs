//! What a terminal shows of a recording, as lines: carriage returns, line feeds and the few escape sequences that ounce and
//! bash write. A live line that is cleared in the end is kept as it last was. Knows no picture.

/// How a character looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    #[default]
    Plain,
    Bold,
    Dim,
    Coloured,
}

pub type Cell = (char, Style);

/// The lines of a recording on a terminal of so many columns, without empty ones at the ends.
pub fn lines(recording: &str, columns: usize) -> Vec<Vec<Cell>> {
    let mut screen = Screen { columns, ..Screen::default() };
    let mut chars = recording.lines().filter(|line| !of_script(line)).flat_map(|line| line.chars().chain(['\n']));
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => escape(&mut screen, &mut chars),
            '\n' => screen.feed(),
            '\r' => screen.column = 0,
            '\u{8}' => screen.column = screen.column.saturating_sub(1),
            c if c.is_control() => {}
            c => screen.put(c),
        }
    }
    screen.finish()
}

/// `script` says when it began and ended.
fn of_script(line: &str) -> bool {
    ["Script started on ", "Script done on "].iter().any(|begin| line.starts_with(begin))
}

#[derive(Debug, Default)]
struct Screen {
    columns: usize,
    lines: Vec<Vec<Cell>>,
    line: Vec<Cell>,
    column: usize,
    style: Style,
    /// A line that was cleared, and above which line it stood; forgotten when another one is cleared.
    cleared: Option<(usize, Vec<Cell>)>,
}

impl Screen {
    fn put(&mut self, c: char) {
        if self.column == self.columns {
            self.feed();
        }
        if self.line.len() <= self.column {
            self.line.resize(self.column + 1, (' ', Style::Plain));
        }
        self.line[self.column] = (c, self.style);
        self.column += 1;
    }

    fn feed(&mut self) {
        self.lines.push(std::mem::take(&mut self.line));
        self.column = 0;
    }

    fn clear_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.iter().any(|cell| cell.0 != ' ') {
            self.cleared = Some((self.lines.len(), line));
        }
    }

    fn finish(mut self) -> Vec<Vec<Cell>> {
        if !self.line.is_empty() {
            self.feed();
        }
        if let Some((at, line)) = self.cleared {
            self.lines.insert(at.min(self.lines.len()), line);
        }
        for line in &mut self.lines {
            let kept = line.iter().rposition(|cell| cell.0 != ' ').map_or(0, |last| last + 1);
            line.truncate(kept);
        }
        let first = self.lines.iter().position(|line| !line.is_empty()).unwrap_or(self.lines.len());
        let end = self.lines.iter().rposition(|line| !line.is_empty()).map_or(first, |last| last + 1);
        self.lines[first..end].to_vec()
    }
}

/// `ESC [ numbers letter`: looks and the clearing of a line; all else is passed over.
fn escape(screen: &mut Screen, chars: &mut impl Iterator<Item = char>) {
    if chars.next() != Some('[') {
        return;
    }
    let mut numbers = String::new();
    let Some(end) = chars.by_ref().find(|c| {
        let end = c.is_ascii_alphabetic();
        if !end {
            numbers.push(*c);
        }
        end
    }) else {
        return;
    };
    match end {
        'K' => screen.clear_line(),
        'm' => {
            for number in numbers.split(';') {
                screen.style = match number {
                    "1" => Style::Bold,
                    "2" => Style::Dim,
                    "31" | "32" | "33" | "34" | "35" | "36" => Style::Coloured,
                    _ => Style::Plain,
                };
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(recording: &str) -> Vec<String> {
        lines(recording, 20).iter().map(|line| line.iter().map(|cell| cell.0).collect()).collect()
    }

    #[test]
    fn a_live_line_stays_as_it_last_was() {
        let recording = "Script started on 2026\n$ tune\r\n\r\x1b[2Kstep 1\r\x1b[2Kstep 1\r\x1b[2Ka note\r\n\
                         \r\x1b[2Kstep 2\r\x1b[2Kstep 3\r\x1b[2Kdone\r\n\nScript done on 2026\n";
        assert_eq!(shown(recording), ["$ tune", "a note", "step 3", "done"]);
    }

    #[test]
    fn a_line_is_overwritten_and_wrapped() {
        assert_eq!(shown("1 of 9\r2 of 9\r\n"), ["2 of 9"]);
        assert_eq!(shown("0123456789012345678901\n"), ["01234567890123456789", "01"]);
        let styled = lines("\x1b[1mb\x1b[0mp\x1b[1;31mr\x1b[0m", 20);
        assert_eq!(styled, [vec![('b', Style::Bold), ('p', Style::Plain), ('r', Style::Coloured)]]);
    }
}
