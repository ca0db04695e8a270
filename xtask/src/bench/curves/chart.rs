//! Several curves around zero as a small SVG with a legend, in the reader's dark or light colours. The run report's plotter
//! draws one loss of one run; what matters here is how far curves that nearly coincide are apart. A pure function of numbers.

use std::fmt::Write;

const WIDTH: f64 = 840.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 44.0;
/// Of the plot without title and legend.
const HEIGHT: f64 = 260.0;
const ROW: f64 = 20.0;

/// Told apart by those who see fewer colours, too (Okabe & Ito 2008), and by their dashes.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8b949e"];
const DASHES: [&str; 3] = ["", "6 3", "2 3"];

const STYLE: &str = "svg{color-scheme:light dark}.b{fill:#fff}.g{stroke:#d8dee4}.z{stroke:#656d76}\
text{font:12px system-ui,sans-serif;fill:#1f2328}.t{font-size:15px;font-weight:600}polyline{fill:none;stroke-width:1.6}\
@media(prefers-color-scheme:dark){.b{fill:#0d1117}.g{stroke:#21262d}.z{stroke:#8b949e}text{fill:#e6edf3}}";

/// One line for each name, its points one step apart from step 1 on. What is not finite is left out.
pub fn draw(title: &str, lines: &[(&str, Vec<f64>)]) -> String {
    let steps = lines.iter().map(|(_, y)| y.len()).max().unwrap_or(0).max(2);
    let most = lines.iter().flat_map(|(_, y)| y).filter(|y| y.is_finite()).fold(1e-6, |m: f64, y| m.max(y.abs()));
    let x = |i: usize| LEFT + i as f64 / (steps - 1) as f64 * (WIDTH - LEFT - RIGHT);
    let y = |v: f64| TOP + HEIGHT / 2.0 * (1.0 - v / (1.05 * most));
    let legend = TOP + HEIGHT + 44.0;
    let height = legend + lines.len().div_ceil(2) as f64 * ROW;
    let mut svg = String::new();
    let mut put = |line: std::fmt::Arguments| writeln!(svg, "{line}").expect("a String takes everything");
    put(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">"#
    ));
    put(format_args!("<title>{title}</title><style>{STYLE}</style>"));
    put(format_args!(r#"<rect class="b" width="{WIDTH}" height="{height}"/>"#));
    put(format_args!(r#"<text class="t" x="{LEFT}" y="26">{title}</text>"#));
    let tick = step(most);
    let count = (most / tick).floor() as i32;
    let digits = (-tick.log10().floor()).clamp(0.0, 9.0) as usize;
    for i in -count..=count {
        let (v, class) = (f64::from(i) * tick, if i == 0 { "z" } else { "g" });
        put(format_args!(
            r#"<line class="{class}" x1="{LEFT}" x2="{:.0}" y1="{1:.1}" y2="{1:.1}"/>"#,
            x(steps - 1),
            y(v)
        ));
        put(format_args!(r#"<text x="{:.0}" y="{:.1}" text-anchor="end">{v:.digits$}</text>"#, LEFT - 8.0, y(v) + 4.0));
    }
    for i in (0..steps).filter(|i| i % 10 == 9 || *i == 0) {
        put(format_args!(
            r#"<text x="{:.1}" y="{:.0}" text-anchor="middle">{}</text>"#,
            x(i),
            TOP + HEIGHT + 18.0,
            i + 1
        ));
    }
    for (n, (name, values)) in lines.iter().enumerate() {
        let (colour, dash) = (COLOURS[n % COLOURS.len()], DASHES[n % DASHES.len()]);
        let finite = values.iter().enumerate().filter(|(_, v)| v.is_finite());
        let points: Vec<String> = finite.map(|(i, v)| format!("{:.1},{:.1}", x(i), y(*v))).collect();
        let look = format!(r#"stroke="{colour}" stroke-dasharray="{dash}""#);
        put(format_args!(r#"<polyline {look} points="{}"/>"#, points.join(" ")));
        let (lx, ly) = (LEFT + (n % 2) as f64 * 370.0, legend + (n / 2) as f64 * ROW);
        put(format_args!(r#"<line {look} stroke-width="2" x1="{lx}" x2="{:.0}" y1="{ly}" y2="{ly}"/>"#, lx + 28.0));
        put(format_args!(r#"<text x="{:.0}" y="{:.0}">{name}</text>"#, lx + 36.0, ly + 4.0));
    }
    put(format_args!("</svg>"));
    svg
}

/// 1, 2 or 5 times a power of ten: at most four of them up to `most`.
fn step(most: f64) -> f64 {
    let rough = most / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    power * [1.0, 2.0, 5.0, 10.0].into_iter().find(|m| m * power >= rough).unwrap_or(10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_drawn_and_named_and_what_is_not_finite_is_left_out() {
        let svg = draw("far apart", &[("one", vec![0.0, 0.01, -0.02]), ("two", vec![f64::NAN, 0.03, 0.0])]);
        assert_eq!((svg.matches("<polyline").count(), svg.matches(r#"class="z""#).count()), (2, 1));
        assert!(svg.contains(">one</text>") && svg.contains(">0.03</text>") && svg.contains(">-0.02</text>"), "{svg}");
        assert!(!svg.contains("NaN") && svg.ends_with("</svg>\n"));
        assert_eq!((step(0.03), step(1.0), step(0.0081)), (0.01, 0.5, 0.005));
    }

    #[test]
    fn nothing_can_be_drawn() {
        assert!(draw("nothing", &[]).ends_with("</svg>\n"));
        assert!(!draw("equal", &[("one", vec![0.0])]).contains("NaN"));
    }
}
