//! A picture of a terminal session for the README: what `script` recorded becomes an SVG of text. Knows nothing of what ran.

mod screen;

use std::fmt::Write as _;
use std::path::Path;

use screen::{Cell, Style};

/// Columns of the terminal; `examples/referral/session.sh` sets the same.
const COLUMNS: usize = 100;
const PICTURE: &str = "docs/session.svg";
/// Pixels.
const ADVANCE: f64 = 7.8;
const LEADING: f64 = 17.0;
const MARGIN: f64 = 14.0;

/// Writes `docs/session.svg` from a recording.
pub fn write(recording: &str) -> Result<(), String> {
    let bytes = std::fs::read(recording).map_err(|e| format!("cannot read {recording}: {e}"))?;
    let lines = screen::lines(&String::from_utf8_lossy(&bytes), COLUMNS);
    if lines.is_empty() {
        return Err(format!("{recording} shows nothing: record a session with `script` first"));
    }
    let path: &Path = &crate::place::workspace().join(PICTURE);
    crate::fetch::write_whole(path, svg(&lines).as_bytes())?;
    println!("{PICTURE}: {} lines", lines.len());
    Ok(())
}

/// The lines as an SVG that follows the reader's light or dark scheme.
fn svg(lines: &[Vec<Cell>]) -> String {
    let (width, height) = (COLUMNS as f64 * ADVANCE + 2.0 * MARGIN, lines.len() as f64 * LEADING + 2.0 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"a terminal session of ounce\">\n{STYLE}\
         <rect width=\"100%\" height=\"100%\" rx=\"8\"/>\n"
    );
    for (i, line) in lines.iter().enumerate() {
        let y = MARGIN + (i as f64 + 0.75) * LEADING;
        let mut column = 0;
        for run in line.chunk_by(|a, b| a.1 == b.1) {
            let text: String = run.iter().map(|cell| cell.0).collect();
            let start = column;
            column += run.len();
            let trimmed = text.trim_end_matches([' ', '\u{2800}']);
            let shown = trimmed.trim_start_matches(' ');
            if shown.is_empty() {
                continue;
            }
            let x = MARGIN + (start + trimmed.chars().count() - shown.chars().count()) as f64 * ADVANCE;
            // Fonts that lack a character borrow it from one with other widths; the columns must stay.
            let fixed = match shown.is_ascii() {
                true => String::new(),
                false => format!(" textLength=\"{:.1}\"", shown.chars().count() as f64 * ADVANCE),
            };
            let class = match run[0].1 {
                Style::Plain => "",
                Style::Bold => " class=\"b\"",
                Style::Dim => " class=\"d\"",
                Style::Coloured => " class=\"c\"",
            };
            let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\"{class}{fixed}>{}</text>", escaped(shown));
        }
    }
    out + "</svg>\n"
}

const STYLE: &str = "<style>
text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#1f2328;white-space:pre}
rect{fill:#f6f8fa}.b{font-weight:700}.d{fill:#656d76}.c{fill:#1a7f37}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}rect{fill:#161b22}.d{fill:#8b949e}.c{fill:#3fb950}}
</style>
";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_stand_at_their_columns_and_markup_is_escaped() {
        let picture = svg(&screen::lines("  a<b \u{1b}[1mbold\u{1b}[0m\n⠑⠒⠀⠀\n", COLUMNS));
        let x = |column: f64| format!("x=\"{:.1}\"", MARGIN + column * ADVANCE);
        assert!(picture.contains(&format!("<text {} y=\"26.8\">a&lt;b</text>", x(2.0))), "{picture}");
        assert!(picture.contains(&format!("{} y=\"26.8\" class=\"b\">bold<", x(6.0))), "{picture}");
        assert!(picture.contains("textLength=\"15.6\">⠑⠒<"), "{picture}");
        assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
    }
}
