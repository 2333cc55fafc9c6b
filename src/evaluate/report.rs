//! The result of an evaluation: for programs as JSON, for people as tables.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use super::alarms::BUDGETS;
pub use super::figures::Interval;
use super::figures::USUAL_BUDGET;
use super::kinds::KINDS;

/// What was measured. In JSON, what can't be said is null.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub seed: u64,
    /// Resamples behind each interval.
    pub resamples: usize,
    /// The id of the model that was trained for this.
    pub model: String,
    pub train_devices: usize,
    pub test_devices: usize,
    pub test_readings: usize,
    pub test_device_days: f64,
    /// False alarm episodes per device and day, in the order of [`MethodReport::recall`].
    pub budgets: [f64; BUDGETS.len()],
    pub sets: Vec<SetReport>,
    pub realised: Vec<Realised>,
}

/// One set of kinds of events.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SetReport {
    pub set: &'static str,
    /// Events that were put in, one per device at most.
    pub events: usize,
    /// In the order of [`MethodReport::recall_of_kinds`].
    pub kinds: Vec<KindReport>,
    /// The model first, then personal EWMA-z.
    pub methods: Vec<MethodReport>,
}

/// One kind of events.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KindReport {
    pub kind: &'static str,
    pub events: usize,
}

/// One method on one set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MethodReport {
    pub method: &'static str,
    pub auroc: Interval,
    pub auprc: Interval,
    pub recall: [Interval; BUDGETS.len()],
    pub delay_hours: Interval,
    /// `None` of a method that names no vital.
    pub top1: Option<Interval>,
    /// At 0.25 false alarms per device and day.
    pub recall_of_kinds: [Interval; KINDS],
}

/// How far the model keeps one budget with its own threshold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Realised {
    pub budget: f64,
    pub alarms_per_device_day: Interval,
}

/// Width of a column with a figure, and of the first column.
const FIGURE: usize = 12;
const NAME: usize = 24;

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} learnt from {} devices, tested on {} others",
            self.model, self.train_devices, self.test_devices
        )?;
        let (readings, days) = (self.test_readings, self.test_device_days);
        writeln!(f, "({readings} readings, {days:.0} device-days); seed {}", self.seed)?;
        if self.resamples > 0 {
            writeln!(
                f,
                "below each figure: 95 % interval, {} resamples of devices, thresholds chosen anew",
                self.resamples
            )?;
        }
        self.sets.iter().try_for_each(|set| set.methods_table(f))?;
        writeln!(f)?;
        writeln!(
            f,
            "R@x: part of events found, at the lowest threshold with x false alarms per device-day on these devices;"
        )?;
        let usual = BUDGETS[USUAL_BUDGET];
        writeln!(f, "delay: median hours from an event's onset to the first alarm in it, at {usual};")?;
        writeln!(f, "top-1: part of events whose highest reading names a vital that the event is on")?;
        self.sets.iter().try_for_each(|set| set.kinds_table(f))?;
        self.realised_table(f)
    }
}

impl Report {
    fn realised_table(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let title = "MODEL'S OWN THRESHOLD";
        let headings = self.realised.iter().map(|realised| format!("budget {}", realised.budget)).collect();
        line(f, &format!("\n{title:NAME$}"), headings)?;
        let rates: Vec<Option<Interval>> =
            self.realised.iter().map(|realised| Some(realised.alarms_per_device_day)).collect();
        row(f, "alarms per device-day", &rates, self.resamples > 0)?;
        write!(f, "(readings of the test devices as they were sent, without events put in)")
    }
}

impl SetReport {
    fn methods_table(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let title = format!("{}, {} events", self.set, self.events).to_uppercase();
        writeln!(f, "\n{title}")?;
        let recalls = BUDGETS.map(|budget| format!("R@{budget}"));
        let headings = ["AUROC", "AUPRC"].map(str::to_owned).into_iter().chain(recalls);
        line(f, &format!("{:NAME$}", ""), headings.chain(["delay h", "top-1"].map(str::to_owned)).collect())?;
        for method in &self.methods {
            let figures = [method.auroc, method.auprc].into_iter().chain(method.recall).chain([method.delay_hours]);
            let figures: Vec<Option<Interval>> = figures.map(Some).chain([method.top1]).collect();
            row(f, method.method, &figures, true)?;
        }
        Ok(())
    }

    /// The first two methods side by side: no kind should be found less often than the second finds it.
    fn kinds_table(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let methods = &self.methods[..self.methods.len().min(2)];
        let title = format!("{}, R@{}", self.set, BUDGETS[USUAL_BUDGET]).to_uppercase();
        let names = methods.iter().map(|method| format!("{:>25}", method.method)).collect::<String>();
        writeln!(f, "\n{title:30}{:>8}{names}", "events")?;
        for (k, kind) in self.kinds.iter().enumerate().filter(|(_, kind)| kind.events > 0) {
            let figures = methods.iter().map(|method| method.recall_of_kinds[k]);
            let figures: String = figures.map(|figure| format!("{:>25}", in_line(figure))).collect();
            writeln!(f, "{:30}{:>8}{figures}", kind.kind, kind.events)?;
        }
        Ok(())
    }
}

/// A row of figures, and one of their intervals below.
fn row(f: &mut Formatter<'_>, name: &str, figures: &[Option<Interval>], intervals: bool) -> fmt::Result {
    let value = |figure: &Option<Interval>| figure.map_or_else(unsaid, |figure| number(figure.value));
    line(f, &format!("{name:NAME$}"), figures.iter().map(value).collect())?;
    let known = |figure: &Option<Interval>| figure.is_some_and(|figure| !figure.low.is_nan());
    if !intervals || !figures.iter().any(known) {
        return Ok(());
    }
    let range = |figure: &Option<Interval>| figure.as_ref().map_or_else(String::new, range);
    line(f, &format!("{:NAME$}", ""), figures.iter().map(range).collect())
}

fn line(f: &mut Formatter<'_>, name: &str, cells: Vec<String>) -> fmt::Result {
    let line = cells.iter().fold(name.to_owned(), |line, cell| format!("{line}{cell:>FIGURE$}"));
    writeln!(f, "{}", line.trim_end())
}

fn in_line(figure: Interval) -> String {
    format!("{:>5}{:>12}", number(figure.value), range(&figure))
}

fn number(value: f64) -> String {
    if value.is_nan() { unsaid() } else { short(value) }
}

fn range(figure: &Interval) -> String {
    let known = !figure.low.is_nan() && !figure.high.is_nan();
    if known { format!("{}–{}", short(figure.low), short(figure.high)) } else { String::new() }
}

/// Three decimals where they matter, without the zero before them.
fn short(value: f64) -> String {
    match format!("{value:.3}") {
        text if text.starts_with("0.") => text[1..].to_owned(),
        _ => format!("{value:.2}"),
    }
}

fn unsaid() -> String {
    "–".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(value: f64) -> Interval {
        Interval { value, low: value - 0.05, high: value + 0.05 }
    }

    fn report(nothing: bool) -> Report {
        let figure = |value| if nothing { interval(f64::NAN) } else { interval(value) };
        let method = |method, top1| MethodReport {
            method,
            auroc: figure(0.72),
            auprc: figure(0.2),
            recall: [0.2, 0.3, 0.5, 0.7].map(figure),
            delay_hours: figure(12.25),
            top1,
            recall_of_kinds: [figure(1.0); KINDS],
        };
        Report {
            seed: 1,
            resamples: 200,
            model: "m-0".to_owned(),
            train_devices: 2,
            test_devices: 1,
            test_readings: 10,
            test_device_days: 0.5,
            budgets: BUDGETS,
            sets: vec![SetReport {
                set: "clinical courses",
                events: 1,
                kinds: vec![KindReport { kind: "sepsis", events: 1 }],
                methods: vec![method("vitals model", Some(figure(0.8))), method("NEWS2 (partial)", None)],
            }],
            realised: BUDGETS.map(|budget| Realised { budget, alarms_per_device_day: figure(budget) }).to_vec(),
        }
    }

    #[test]
    fn tables_have_figures_with_intervals_and_fit_a_wide_terminal() {
        let text = report(false).to_string();
        assert!(text.contains("        .720        .200        .200        .300"), "{text}");
        assert!(text.contains("12.20–12.30"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    }

    #[test]
    fn what_cannot_be_said_is_a_dash_and_null() {
        let report = report(true);
        let text = report.to_string();
        assert!(text.contains('–') && !text.contains("NaN"), "{text}");
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.contains("\"auroc\":{\"value\":null,\"low\":null,\"high\":null}"), "{json}");
    }
}
