//! Figures as a Markdown table, and the place of a table in a page. Knows no programs and no settings.

/// Middle value; of two in the middle, their mean. NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// `412 (398–420)`: median and range of the rounds.
pub fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match values.len() {
        0 => "–".into(),
        _ if values.iter().all(|v| v.is_nan()) => "–".into(),
        1 => short(values[0]),
        _ => format!("{} ({}–{})", short(median(values)), short(least), short(most)),
    }
}

/// Three figures, as far as a measurement has them.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if !v.is_finite() => "–".into(),
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A Markdown table.
pub fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
    let mut out = line(head.to_vec()) + &format!("|{}\n", "---|".repeat(head.len()));
    for row in rows {
        out += &line(row.iter().map(String::as_str).collect());
    }
    out
}

/// `page` with `text` between `<!-- NAME -->` and `<!-- end of NAME -->`.
pub fn replaced(page: &str, name: &str, text: &str) -> Result<String, String> {
    let (begin, end) = (format!("<!-- {name} -->"), format!("<!-- end of {name} -->"));
    let missing = || format!("the page has no place for the table: {begin} … {end}");
    let (before, rest) = page.split_once(&begin).ok_or_else(missing)?;
    let (_, after) = rest.split_once(&end).ok_or_else(missing)?;
    Ok(format!("{before}{begin}\n\n{}\n\n{end}{after}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rounded_to_what_was_measured() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(spread(&[412.4, 398.0, 420.0]), "412 (398–420)");
        assert_eq!(spread(&[12.34]), "12.3");
        assert_eq!((spread(&[]), spread(&[f64::NAN; 2])), ("–".into(), "–".into()));
        assert_eq!((short(0.4567), short(99.97), short(f64::NAN)), ("0.46".into(), "100".into(), "–".into()));
    }

    #[test]
    fn a_table_has_its_head_and_rows() {
        let rows = [vec!["ours".to_string(), "2".into()], vec!["theirs".into(), "1".into()]];
        assert_eq!(
            render(&["who", "tokens/s"], &rows),
            "| who | tokens/s |\n|---|---|\n| ours | 2 |\n| theirs | 1 |\n"
        );
    }

    #[test]
    fn only_the_place_of_the_table_changes() {
        let page = "a\n<!-- bench x -->\nold\n<!-- end of bench x -->\nb\n";
        let new = replaced(page, "bench x", "new\n").unwrap();
        assert_eq!(new, "a\n<!-- bench x -->\n\nnew\n\n<!-- end of bench x -->\nb\n");
        assert_eq!(replaced(&new, "bench x", "new").unwrap(), new);
        assert!(replaced(page, "bench y", "").unwrap_err().contains("end of bench y"));
        assert!(replaced("<!-- bench x -->", "bench x", "").is_err());
    }
}
