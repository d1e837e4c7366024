//! What a run has to say, as Markdown.

use std::fmt::Write as _;
use std::time::Duration;

use crate::samples::Samples;

/// Where an A-against-A control must lie.
const CONTROL: (f64, f64) = (0.95, 1.05);

/// The load from which on a machine is not quiet.
pub const QUIET_LOAD_MAX: f64 = 0.5;

/// One part of a report.
#[derive(Debug, Default)]
pub struct Section {
    text: String,
    failed: bool,
}

/// A ratio and the bar that it is held against: at most so much.
#[derive(Debug, Clone, Copy)]
pub struct Bar {
    /// What is divided by what.
    pub what: &'static str,
    /// The ratio.
    pub ratio: f64,
    /// The bar.
    pub bar: f64,
    /// What would be better still.
    pub stretch: Option<f64>,
}

impl Section {
    /// A part with a title.
    pub fn new(title: &str) -> Self {
        Self { text: format!("### {title}\n"), failed: false }
    }

    /// A sentence.
    pub fn line(&mut self, line: &str) {
        let _ = writeln!(self.text, "\n{line}");
    }

    /// A table of times.
    pub fn times(&mut self, rows: &[(&str, &Samples)]) {
        let _ = writeln!(self.text, "\n| | n | p50 | p95 | p99 |\n| --- | --- | --- | --- | --- |");
        for (name, samples) in rows {
            let [p50, p95, p99] = [50.0, 95.0, 99.0].map(|percent| millis(samples.percentile(percent)));
            let _ = writeln!(self.text, "| {name} | {} | {p50} | {p95} | {p99} |", samples.len());
        }
    }

    /// A table of ratios and bars.
    pub fn bars(&mut self, bars: &[Bar]) {
        let _ = writeln!(self.text, "\n| ratio | measured | bar (stretch) | |\n| --- | --- | --- | --- |");
        for Bar { what, ratio, bar, stretch } in bars {
            let met = match stretch {
                Some(stretch) if ratio <= stretch => "stretch met",
                _ if ratio <= bar => "met",
                _ => "**missed**",
            };
            self.failed |= ratio > bar;
            let stretch = stretch.map(|stretch| format!(" ({})", short(stretch))).unwrap_or_default();
            let _ = writeln!(self.text, "| {what} | {} | ≤ {}{stretch} | {met} |", short(*ratio), short(*bar));
        }
    }

    /// A time that is a contract, held against its bar.
    pub fn limit(&mut self, what: &str, took: Duration, bar: Duration) {
        let met = if took <= bar { "met" } else { "**missed**" };
        self.failed |= took > bar;
        self.line(&format!("{what}: {}, bar {}: {met}.", millis(took), millis(bar)));
    }

    /// The A-against-A control.
    pub fn control(&mut self, a: &Samples, b: &Samples) {
        let ratio = a.ratio_to(b);
        let verdict = if (CONTROL.0..=CONTROL.1).contains(&ratio) {
            "within 0.95 to 1.05".to_owned()
        } else {
            self.failed = true;
            "**outside 0.95 to 1.05: this run is too noisy to be read**".to_owned()
        };
        self.line(&format!("Control, ours against ours: {ratio:.3}, {verdict}."));
    }

    /// The part's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a bar or a control was missed.
    pub fn failed(&self) -> bool {
        self.failed
    }
}

/// Milliseconds with as many digits as mean something.
pub fn millis(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1e3;
    match millis {
        m if m < 10.0 => format!("{m:.3} ms"),
        m => format!("{m:.1} ms"),
    }
}

fn short(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.4}") } else { format!("{ratio:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_bar_is_said_so() {
        let mut section = Section::new("x");
        let bar = |ratio| Bar { what: "a / b", ratio, bar: 2.0, stretch: Some(1.6) };
        section.bars(&[bar(1.5), bar(1.7)]);
        assert!(section.text().contains("| 1.50 | ≤ 2.00 (1.60) | stretch met |"), "{}", section.text());
        assert!(section.text().contains("| 1.70 | ≤ 2.00 (1.60) | met |"));
        assert!(!section.failed());
        section.bars(&[bar(2.1)]);
        assert!(section.failed());
    }

    #[test]
    fn a_control_that_is_off_is_said_so() {
        let samples = |millis| {
            let mut samples = Samples::default();
            samples.push(Duration::from_millis(millis));
            samples
        };
        let mut section = Section::new("x");
        section.control(&samples(100), &samples(100));
        assert!(!section.failed());
        section.control(&samples(110), &samples(100));
        assert!(section.failed() && section.text().contains("1.100, **outside"));
    }
}
