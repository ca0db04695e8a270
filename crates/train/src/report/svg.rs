//! The loss curve as a small SVG: every training loss thin, smoothed in bold, evaluations as dots. It follows the reader's
//! dark or light setting. A pure function of the metrics.

use std::fmt::Write;

use super::Metrics;

const WIDTH: f64 = 840.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 48.0;
/// More points than this are drawn as the range of each pixel column.
const COLUMNS: usize = 700;

const STYLE: &str = "\
svg{color-scheme:light dark}\
.b{fill:#fff}.g{stroke:#d8dee4;stroke-width:1}.a{stroke:#656d76;stroke-width:1}\
text{font:12px system-ui,sans-serif;fill:#1f2328}.t{font-size:16px;font-weight:600}\
.r{fill:none;stroke:#0969da;stroke-opacity:.35;stroke-width:1}.s{fill:none;stroke:#0969da;stroke-width:2}\
.e{fill:#bc4c00;stroke:#fff}\
@media(prefers-color-scheme:dark){.b{fill:#0d1117}.g{stroke:#21262d}.a{stroke:#8b949e}text{fill:#e6edf3}\
.r,.s{stroke:#58a6ff}.e{fill:#ffa657;stroke:#0d1117}}";

/// The chart. Without any finite loss it says so.
pub fn loss(title: &str, metrics: &Metrics) -> String {
    // A difference of two losses must be finite too.
    let drawn = |mut points: Vec<(f64, f64)>| {
        points.retain(|(_, y)| y.abs() < 1e300);
        points
    };
    let (train, eval) = (drawn(metrics.losses()), drawn(metrics.eval_losses()));
    let smooth = smoothed(&train);
    let lost = metrics.steps.len() - train.len();
    let title = escape(title);
    let mut svg = String::new();
    let mut put = |line: std::fmt::Arguments| writeln!(svg, "{line}").expect("a String takes everything");
    put(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">"#
    ));
    put(format_args!("<title>{title}</title>"));
    put(format_args!("<desc>{}</desc>", description(&smooth, &eval, lost)));
    put(format_args!("<style>{STYLE}</style>"));
    put(format_args!(r#"<rect class="b" width="{WIDTH}" height="{HEIGHT}"/>"#));
    put(format_args!(r#"<text class="t" x="{LEFT}" y="28">{title}</text>"#));
    let Some(axes) = Axes::of(&train, &smooth, &eval) else {
        put(format_args!(r#"<text x="{LEFT}" y="{}">no finite loss yet</text>"#, HEIGHT / 2.0));
        put(format_args!("</svg>"));
        return svg;
    };
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for (value, text) in ticks(axes.low, axes.high) {
        let y = axes.y(value);
        put(format_args!(r#"<line class="g" x1="{LEFT}" x2="{right}" y1="{y:.1}" y2="{y:.1}"/>"#));
        put(format_args!(r#"<text x="{:.0}" y="{:.1}" text-anchor="end">{text}</text>"#, LEFT - 8.0, y + 4.0));
    }
    for (value, text) in ticks(axes.first, axes.last) {
        let x = axes.x(value);
        put(format_args!(r#"<line class="a" x1="{x:.1}" x2="{x:.1}" y1="{bottom}" y2="{:.0}"/>"#, bottom + 5.0));
        put(format_args!(r#"<text x="{x:.1}" y="{:.0}" text-anchor="middle">{text}</text>"#, bottom + 19.0));
    }
    put(format_args!(r#"<line class="a" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>"#));
    put(format_args!(
        r#"<text x="{:.0}" y="{:.0}" text-anchor="middle">step</text>"#,
        (LEFT + right) / 2.0,
        HEIGHT - 10.0
    ));
    put(format_args!(
        r#"<text x="14" y="{:.0}" transform="rotate(-90 14 {0:.0})" text-anchor="middle">loss</text>"#,
        (TOP + bottom) / 2.0
    ));
    put(format_args!(
        r#"<clipPath id="p"><rect x="{LEFT}" y="{TOP}" width="{:.0}" height="{:.0}"/></clipPath>"#,
        right - LEFT,
        bottom - TOP
    ));
    for (class, points) in [("r", &train), ("s", &smooth)] {
        if !points.is_empty() {
            put(format_args!(r#"<polyline class="{class}" clip-path="url(#p)" points="{}"/>"#, axes.polyline(points)));
        }
    }
    for (x, y) in &eval {
        put(format_args!(r#"<circle class="e" cx="{:.1}" cy="{:.1}" r="4"/>"#, axes.x(*x), axes.y(*y)));
    }
    let mut x = right;
    for (shown, label, width) in
        [(!eval.is_empty(), "evaluation", 82.0), (!train.is_empty(), "training, smoothed", 128.0)]
    {
        if shown {
            x -= width;
            put(format_args!(r#"<text x="{x:.0}" y="46">{label}</text>"#));
            match label {
                "evaluation" => put(format_args!(r#"<circle class="e" cx="{:.0}" cy="42" r="4"/>"#, x - 10.0)),
                _ => put(format_args!(r#"<line class="s" x1="{:.0}" x2="{:.0}" y1="42" y2="42"/>"#, x - 24.0, x - 6.0)),
            }
            x -= 36.0;
        }
    }
    put(format_args!("</svg>"));
    svg
}

/// For readers who cannot see the picture.
fn description(smooth: &[(f64, f64)], eval: &[(f64, f64)], lost: usize) -> String {
    let mut text = String::from("loss by training step");
    if let [(from, first), .., (to, last)] = smooth {
        text += &format!("; smoothed training loss {first:.4} at step {from}, {last:.4} at step {to}");
    }
    if let Some((step, best)) = eval.iter().min_by(|a, b| a.1.total_cmp(&b.1)) {
        text += &format!("; best evaluation loss {best:.4} at step {step}");
    }
    if lost > 0 {
        text += &format!("; steps without a finite loss, which are not drawn: {lost}");
    }
    text
}

/// An exponential mean over about a twentieth of the run, without the pull to zero at its start (Kingma & Ba 2015).
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let window = (points.len() as f64 / 20.0).max(2.0);
    let decay = 1.0 - 2.0 / (window + 1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let next = |&(x, y): &(f64, f64)| {
        sum = decay * sum + (1.0 - decay) * y;
        weight = decay * weight + (1.0 - decay);
        (x, sum / weight)
    };
    points.iter().map(next).collect()
}

/// Data ranges and their place in the picture.
struct Axes {
    first: f64,
    last: f64,
    low: f64,
    high: f64,
}

impl Axes {
    fn of(train: &[(f64, f64)], smooth: &[(f64, f64)], eval: &[(f64, f64)]) -> Option<Axes> {
        let xs = || train.iter().chain(eval).map(|p| p.0);
        let first = xs().min_by(f64::total_cmp)?;
        let last = xs().max_by(f64::total_cmp)?;
        // The thin line's highest hundredth may leave the picture: one spike would flatten all the rest.
        let mut sorted: Vec<f64> = train.iter().map(|p| p.1).collect();
        sorted.sort_by(f64::total_cmp);
        let trim = sorted.len() / 100;
        let ys = || sorted[..sorted.len() - trim].iter().copied().chain(smooth.iter().chain(eval).map(|p| p.1));
        let low = ys().min_by(f64::total_cmp)?;
        let high = ys().max_by(f64::total_cmp)?;
        let room = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-9);
        Some(Axes { first, last: last.max(first + 1.0), low: low - room, high: high + room })
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + (value - self.first) / (self.last - self.first) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)
    }

    fn polyline(&self, points: &[(f64, f64)]) -> String {
        let mut text = String::new();
        let mut put = |&(x, y): &(f64, f64)| {
            // Far outside is as invisible as just outside, and some viewers draw huge coordinates wrongly.
            let y = self.y(y).clamp(-HEIGHT, 2.0 * HEIGHT);
            write!(text, "{:.1},{y:.1} ", self.x(x)).expect("a String takes everything");
        };
        if points.len() <= 2 * COLUMNS {
            points.iter().for_each(put);
        } else {
            for piece in points.chunks(points.len().div_ceil(COLUMNS)) {
                let low = piece.iter().min_by(|a, b| a.1.total_cmp(&b.1));
                let high = piece.iter().max_by(|a, b| a.1.total_cmp(&b.1));
                low.into_iter().chain(high).for_each(&mut put);
            }
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// Four to ten round values (1, 2 or 5 times a power of ten apart) within a range, with their labels.
fn ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    let rough = (high - low) / 6.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = power * [1.0, 2.0, 5.0, 10.0].into_iter().find(|m| m * power >= rough).unwrap_or(10.0);
    let (from, to) = ((low / step).ceil(), (high / step).floor());
    if !(step.is_finite() && step > 0.0 && to - from < 20.0) {
        return vec![];
    }
    let digits = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
    (0..=(to - from) as usize)
        .map(|i| (from + i as f64) * step)
        .map(|v| (v, if v.abs() < 1e6 { format!("{v:.digits$}") } else { format!("{v:.1e}") }))
        .collect()
}

fn escape(text: &str) -> String {
    let clean: String = text.chars().filter(|c| !c.is_control()).collect();
    clean.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use ounce_spec::Event;
    use proptest::prelude::*;

    use super::*;

    fn metrics(losses: &[f64], evals: &[(usize, f64)]) -> Metrics {
        let mut metrics = Metrics::default();
        for (i, &loss) in losses.iter().enumerate() {
            let (grad_norm, learning_rate, tokens, loss_tokens, step_s, memory_bytes) = (1.0, 1e-4, 10, 5, 0.1, 100);
            let step = i + 1;
            let event = Event::Step {
                step,
                loss,
                grad_norm,
                learning_rate,
                tokens,
                loss_tokens,
                step_s,
                memory_bytes,
                loss_scale: None,
            };
            metrics.push(&event, 0.0);
        }
        for &(step, loss) in evals {
            metrics.push(&Event::Eval { step, loss, tokens: 5, best: false }, 0.0);
        }
        metrics
    }

    /// Text of the elements with this tag.
    fn count(svg: &str, tag: &str) -> usize {
        svg.matches(&format!("<{tag} ")).count()
    }

    #[test]
    fn a_chart_has_two_lines_a_dot_for_each_evaluation_and_ticks() {
        let losses: Vec<f64> = (1..=50).map(|i| 1.0 + 2.0 / i as f64).collect();
        let svg = loss("a <b> & c", &metrics(&losses, &[(25, 1.2), (50, 1.1)]));
        assert_eq!((count(&svg, "polyline"), count(&svg, "circle")), (2, 3));
        assert!(svg.contains("<title>a &lt;b&gt; &amp; c</title>"));
        assert!(
            svg.contains(">2.5</text>") && svg.contains(">40</text>") && svg.contains("best evaluation loss 1.1000")
        );
        assert!(svg.contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn a_long_run_stays_small_and_keeps_its_extremes() {
        let mut losses: Vec<f64> = (0..100_000).map(|i| 2.0 + (i as f64 * 0.1).sin()).collect();
        losses[70_000] = 2.9999;
        losses[3] = f64::INFINITY;
        let svg = loss("long", &metrics(&losses, &[]));
        assert!(svg.len() < 100_000, "{} bytes", svg.len());
        assert!(svg.contains("which are not drawn: 1<"));
    }

    #[test]
    fn without_a_loss_it_says_so() {
        assert!(loss("empty", &metrics(&[f64::NAN], &[])).contains("no finite loss yet"));
    }

    #[test]
    fn ticks_are_round() {
        let text = |low, high| ticks(low, high).into_iter().map(|t| t.1).collect::<Vec<_>>();
        assert_eq!(text(0.93, 3.1), ["1.0", "1.5", "2.0", "2.5", "3.0"]);
        assert_eq!(text(1.0, 50.0), ["10", "20", "30", "40", "50"]);
        assert_eq!(text(0.0, 0.006), ["0.000", "0.001", "0.002", "0.003", "0.004", "0.005", "0.006"]);
    }

    proptest! {
        #[test]
        fn any_losses_can_be_drawn(losses in prop::collection::vec(any::<f64>(), 0..60), eval in any::<f64>()) {
            let svg = loss("any", &metrics(&losses, &[(7, eval)]));
            prop_assert!(svg.ends_with("</svg>\n"));
            prop_assert!(!svg.contains("NaN") && !svg.contains("inf\""), "{svg}");
        }
    }
}
