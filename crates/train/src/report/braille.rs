//! A curve as braille characters, two by four dots each. Pure functions: points in, lines of text out.

/// The bits of a braille character: row by row from the top, left then right (Unicode 16, "Braille Patterns").
const DOTS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
const EMPTY: u32 = 0x2800;

/// The curve through `points` (x rising), scaled to fill `width` × `height` characters. Points that are not finite are left
/// out. Without points: blank lines.
pub fn curve(points: &[(f64, f64)], width: usize, height: usize) -> Vec<String> {
    if width == 0 || height == 0 {
        return vec![String::new(); height];
    }
    let mut cells = vec![vec![EMPTY; width]; height];
    let (columns, rows) = (2 * width, 4 * height);
    let values = columns_of(points, columns);
    let bounds = bounds(values.iter().flatten().copied());
    if let Some((low, high)) = bounds {
        let row = |value: f64| {
            let share = if high > low { (high - value) / (high - low) } else { 0.5 };
            // Differences of huge values are infinite.
            (share.clamp(0.0, 1.0) * (rows - 1) as f64).round() as usize
        };
        let mut before: Option<usize> = None;
        for (column, value) in values.iter().enumerate() {
            let Some(here) = value.map(row) else { continue };
            // Up to the row before, so that a steep curve stays connected.
            let from = match before {
                Some(before) if before < here => before + 1,
                Some(before) if before > here => before - 1,
                _ => here,
            };
            for r in from.min(here)..=from.max(here) {
                cells[r / 4][column / 2] |= DOTS[r % 4][column % 2];
            }
            before = Some(here);
        }
    }
    let character = |cell: u32| char::from_u32(cell).unwrap_or(' ');
    cells.into_iter().map(|line| line.into_iter().map(character).collect()).collect()
}

/// The curve with its range beside it and its steps below: `height` lines of at most `width` characters. Where that leaves
/// no room for a curve, there are no lines.
pub fn chart(points: &[(f64, f64)], width: usize, height: usize) -> Vec<String> {
    let points: Vec<(f64, f64)> = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return vec![] };
    // Labels are the bounds of what is drawn: the columns' means.
    let margin = bounds(points.iter().map(|p| p.1)).map_or(0, |(low, high)| label(low).len().max(label(high).len()));
    if width < margin + 10 || height < 3 {
        return vec![];
    }
    let (inner, rows) = (width - margin - 2, height - 1);
    let drawn = columns_of(&points, 2 * inner);
    let Some((low, high)) = bounds(drawn.into_iter().flatten()) else { return vec![] };
    let mut lines: Vec<String> = vec![];
    for (row, line) in curve(&points, inner, rows).into_iter().enumerate() {
        let text = match row {
            0 => label(high),
            r if r + 1 == rows => label(low),
            _ => String::new(),
        };
        let text: String = text.chars().take(margin).collect();
        lines.push(format!("{text:>margin$} ┤{line}"));
    }
    let (from, to) = (first.0.to_string(), last.0.to_string());
    let gap = inner.saturating_sub(from.len() + to.len());
    let ends = format!("{:margin$}  {from}{:gap$}{to}", "", "");
    lines.push(ends.chars().take(width).collect());
    lines
}

fn label(value: f64) -> String {
    match value.abs() {
        v if v != 0.0 && !(1e-3..1e5).contains(&v) => format!("{value:.1e}"),
        v if v < 10.0 => format!("{value:.3}"),
        _ => format!("{value:.1}"),
    }
}

/// For each of `columns` the mean of the points that fall into it, or a straight line between its neighbours.
fn columns_of(points: &[(f64, f64)], columns: usize) -> Vec<Option<f64>> {
    let mut sums = vec![(0.0, 0usize); columns];
    let finite = || points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
    let Some((left, right)) = bounds(finite().map(|p| p.0)) else { return vec![None; columns] };
    for (x, y) in finite() {
        let share = if right > left { (x - left) / (right - left) } else { 0.0 };
        let column = (share * columns.saturating_sub(1) as f64).round() as usize;
        if let Some((sum, count)) = sums.get_mut(column) {
            (*sum, *count) = (*sum + y, *count + 1);
        }
    }
    let mut values: Vec<Option<f64>> = sums.into_iter().map(|(sum, n)| (n > 0).then(|| sum / n as f64)).collect();
    let known: Vec<(usize, f64)> = values.iter().enumerate().filter_map(|(i, v)| v.map(|v| (i, v))).collect();
    for pair in known.windows(2) {
        let [(i, a), (j, b)] = [pair[0], pair[1]];
        for (k, value) in values.iter_mut().enumerate().take(j).skip(i + 1) {
            *value = Some(a + (b - a) * (k - i) as f64 / (j - i) as f64);
        }
    }
    values
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|v| v.is_finite()).fold(None, |range, v| match range {
        None => Some((v, v)),
        Some((low, high)) => Some((v.min(low), v.max(high))),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_falling_line_goes_from_corner_to_corner() {
        let points: Vec<(f64, f64)> = (0..8).map(|i| (i as f64, -(i as f64))).collect();
        assert_eq!(curve(&points, 4, 2), ["⠑⢄⠀⠀", "⠀⠀⠑⢄"]);
    }

    #[test]
    fn a_step_is_connected_and_a_constant_is_in_the_middle() {
        assert_eq!(curve(&[(0.0, 1.0), (1.0, 0.0)], 1, 1), ["⢱"]);
        assert_eq!(curve(&[(0.0, 7.0), (1.0, 7.0), (3.0, 7.0)], 2, 1), ["⠤⠤"]);
        assert_eq!(curve(&[(0.0, f64::NAN)], 2, 1), ["⠀⠀"]);
        assert_eq!(curve(&[], 2, 2), ["⠀⠀", "⠀⠀"]);
    }

    #[test]
    fn a_chart_has_its_range_and_its_steps() {
        let points: Vec<(f64, f64)> = (1..=100).map(|i| (i as f64, 1.0 + 3.0 / i as f64)).collect();
        let lines = chart(&points, 30, 6);
        assert_eq!(lines.len(), 6);
        assert!(lines[0].starts_with("3.") || lines[0].starts_with("4."), "{lines:?}");
        assert!(lines[4].starts_with("1.03"), "{lines:?}");
        assert!(lines[5].trim_start().starts_with('1') && lines[5].ends_with("100"), "{lines:?}");
        assert!(lines.iter().all(|line| line.chars().count() <= 30));
        assert_eq!(chart(&points, 8, 6), Vec::<String>::new());
        assert_eq!(chart(&[], 30, 6), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn any_points_fill_exactly_the_given_size(
            points in prop::collection::vec((any::<f64>(), any::<f64>()), 0..50), width in 0usize..40, height in 0usize..12,
        ) {
            let lines = curve(&points, width, height);
            prop_assert_eq!(lines.len(), height);
            prop_assert!(lines.iter().all(|line| line.chars().count() == width));
            let lines = chart(&points, width, height);
            prop_assert!(lines.is_empty() || lines.len() == height);
            prop_assert!(lines.iter().all(|line| line.chars().count() <= width), "{lines:?}");
        }
    }
}
