//! What the model says of one reading, and how it says it in words.

use std::fmt;

use crate::reading::{VITALS, Vital};

use super::rules;

/// Why a reading stands out. The codes are stable: they are stored and queried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Nothing stands out.
    None,
    HeartRateHigh,
    HeartRateLow,
    PressureHigh,
    PressureLow,
    /// High for this device, and 38 °C or more.
    Fever,
    /// High for this device, below 38 °C.
    TemperatureHigh,
    TemperatureLow,
    Spo2High,
    Spo2Low,
    RespiratoryRateHigh,
    RespiratoryRateLow,
    /// Two or more vitals stand out about equally.
    SeveralVitals,
    /// A vital that varies in this device has not changed for long: the sensor hangs.
    Flatline,
    /// The value would be plausible in another unit.
    UnitError,
    /// No living body has this value.
    Impossible,
    /// A change faster than bodies change.
    Jump,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Cause; 17] = [
        Cause::None,
        Cause::HeartRateHigh,
        Cause::HeartRateLow,
        Cause::PressureHigh,
        Cause::PressureLow,
        Cause::Fever,
        Cause::TemperatureHigh,
        Cause::TemperatureLow,
        Cause::Spo2High,
        Cause::Spo2Low,
        Cause::RespiratoryRateHigh,
        Cause::RespiratoryRateLow,
        Cause::SeveralVitals,
        Cause::Flatline,
        Cause::UnitError,
        Cause::Impossible,
        Cause::Jump,
    ];

    /// The stable code that is stored.
    pub const fn code(self) -> &'static str {
        match self {
            Cause::None => "none",
            Cause::HeartRateHigh => "heart_rate_high",
            Cause::HeartRateLow => "heart_rate_low",
            Cause::PressureHigh => "pressure_high",
            Cause::PressureLow => "pressure_low",
            Cause::Fever => "fever",
            Cause::TemperatureHigh => "temperature_high",
            Cause::TemperatureLow => "temperature_low",
            Cause::Spo2High => "spo2_high",
            Cause::Spo2Low => "spo2_low",
            Cause::RespiratoryRateHigh => "respiratory_rate_high",
            Cause::RespiratoryRateLow => "respiratory_rate_low",
            Cause::SeveralVitals => "several_vitals",
            Cause::Flatline => "flatline",
            Cause::UnitError => "unit_error",
            Cause::Impossible => "impossible",
            Cause::Jump => "jump",
        }
    }

    /// The cause with this code.
    pub fn from_code(code: &str) -> Option<Cause> {
        Cause::ALL.into_iter().find(|cause| cause.code() == code)
    }

    /// Whether it speaks of the sensor rather than of the body.
    pub const fn is_artifact(self) -> bool {
        matches!(self, Cause::Flatline | Cause::UnitError | Cause::Impossible | Cause::Jump)
    }

    /// The cause of `vital` standing out, upwards or downwards, at `observed`.
    pub(super) fn of(vital: Vital, high: bool, observed: f64) -> Cause {
        match (vital, high) {
            (Vital::HeartRate, true) => Cause::HeartRateHigh,
            (Vital::HeartRate, false) => Cause::HeartRateLow,
            (Vital::Systolic | Vital::Diastolic, true) => Cause::PressureHigh,
            (Vital::Systolic | Vital::Diastolic, false) => Cause::PressureLow,
            (Vital::Temperature, true) if observed >= FEVER_CELSIUS => Cause::Fever,
            (Vital::Temperature, true) => Cause::TemperatureHigh,
            (Vital::Temperature, false) => Cause::TemperatureLow,
            (Vital::Spo2, true) => Cause::Spo2High,
            (Vital::Spo2, false) => Cause::Spo2Low,
            (Vital::RespiratoryRate, true) => Cause::RespiratoryRateHigh,
            (Vital::RespiratoryRate, false) => Cause::RespiratoryRateLow,
        }
    }
}

/// From here on a high temperature is called a fever.
const FEVER_CELSIUS: f64 = 38.0;

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::None => "nothing unusual",
            Cause::HeartRateHigh => "heart rate high",
            Cause::HeartRateLow => "heart rate low",
            Cause::PressureHigh => "blood pressure high",
            Cause::PressureLow => "blood pressure low",
            Cause::Fever => "fever",
            Cause::TemperatureHigh => "temperature high",
            Cause::TemperatureLow => "temperature low",
            Cause::Spo2High => "SpO2 high",
            Cause::Spo2Low => "SpO2 low",
            Cause::RespiratoryRateHigh => "respiratory rate high",
            Cause::RespiratoryRateLow => "respiratory rate low",
            Cause::SeveralVitals => "several vitals at once",
            Cause::Flatline => "flat line",
            Cause::UnitError => "wrong unit",
            Cause::Impossible => "impossible value",
            Cause::Jump => "impossible jump",
        })
    }
}

/// What the model says of one reading. Made without allocation; words only when asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// How unusual the reading is; higher is more unusual, and twice as high is two units of logit more. Raised to the
    /// model's threshold for an artifact that lies below it.
    pub score: f64,
    /// Whether it belongs to an outlier episode at the model's alarm budget.
    pub outlier: bool,
    /// Whether a rule says that a value of it comes from the sensor rather than from the body.
    pub artifact: bool,
    /// What stands out most; [`Cause::None`] when neither `outlier` nor `artifact`.
    pub cause: Cause,
    /// The vital that stands out most, `None` when the reading has none.
    pub vital: Option<Vital>,
    /// That vital's usual level in this device, in its unit; NaN when there is no vital.
    pub usual: f64,
    /// That vital's latest value, in its unit; NaN when there is no vital.
    pub observed: f64,
    /// How many of the device's own standard deviations that is away from the usual.
    pub deviation: f64,
    /// Per vital, how likely it is to be in an event, −1 to 1: negative where it is low. 0 before it was ever seen.
    pub contributions: [f64; VITALS],
    /// A slow index of how ill the device's bearer looks, over hours; apart from the score.
    pub risk: f64,
    /// The partial NEWS2 score, `None` when the reading has no vital of it.
    pub news2: Option<u8>,
    /// Start of the device's running episode, set when `outlier` or `artifact`: milliseconds since 1970.
    pub episode_start_ms: Option<i64>,
    /// Whether the device has enough history of that vital for `usual` to be its own, not the population's.
    pub personal: bool,
}

impl Verdict {
    /// One plain sentence on why.
    pub fn sentence(&self) -> String {
        let Some(vital) = self.vital else { return "no vitals in this reading".to_owned() };
        let observed = Value(vital, self.observed);
        match self.cause {
            Cause::Flatline => {
                format!("{} has stood at exactly {observed} for longer than it ever does in this device", vital.label())
            }
            Cause::UnitError => match rules::other_unit(vital, self.observed) {
                Some((unit, value)) => {
                    format!("{} {observed} reads like {} in {unit}", vital.label(), Value(vital, value))
                }
                None => format!("{} {observed} reads like another unit", vital.label()),
            },
            Cause::Impossible if rules::is_possible(vital, self.observed) => {
                format!("{} {observed} can't be with the other pressure of the same reading", vital.label())
            }
            Cause::Impossible => format!("{} {observed} is outside what a body can have", vital.label()),
            Cause::Jump => format!(
                "{} jumped to {observed} faster than a body can, usually {}",
                vital.label(),
                Number(vital, self.usual)
            ),
            _ => self.deviation(vital),
        }
    }

    /// "heart rate 134 bpm, usually 72 for this device (+5.1 of its own spread)", and what else stands out.
    fn deviation(&self, vital: Vital) -> String {
        let whose = if self.personal { "for this device" } else { "for adults, no history of this device yet" };
        let own = self.contributions[vital.index()];
        let mut text = format!(
            "{} {}, usually {} {whose} ({:+.1} of its own spread)",
            vital.label(),
            Value(vital, self.observed),
            Number(vital, self.usual),
            self.deviation,
        );
        let others: Vec<&str> = Vital::ALL
            .into_iter()
            .filter(|&other| other != vital && stands_out_with(self.contributions[other.index()], own))
            .map(Vital::label)
            .collect();
        if !others.is_empty() {
            text.push_str("; also ");
            text.push_str(&others.join(", "));
        }
        text
    }
}

/// Whether a vital's contribution is so near the largest that both are to be named.
pub(super) fn stands_out_with(contribution: f64, largest: f64) -> bool {
    contribution.abs() >= 0.6 * largest.abs() && contribution != 0.0
}

/// A number as a person would write that vital's.
struct Number(Vital, f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Number(vital, value) = *self;
        if !value.is_finite() || (value != 0.0 && !(1e-2..1e6).contains(&value.abs())) {
            write!(f, "{value:e}")
        } else if vital == Vital::Temperature || (value - value.round()).abs() > 1e-9 && value.abs() < 10.0 {
            write!(f, "{value:.1}")
        } else {
            write!(f, "{value:.0}")
        }
    }
}

/// A number and its unit.
struct Value(Vital, f64);

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Value(vital, value) = *self;
        let space = if vital == Vital::RespiratoryRate { "" } else { " " };
        write!(f, "{}{space}{}", Number(vital, value), vital.unit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(cause: Cause, vital: Vital, usual: f64, observed: f64, z: f64) -> Verdict {
        let mut contributions = [0.0; VITALS];
        contributions[vital.index()] = z;
        Verdict {
            score: z.abs(),
            outlier: !cause.is_artifact(),
            artifact: cause.is_artifact(),
            cause,
            vital: Some(vital),
            usual,
            observed,
            deviation: z,
            contributions,
            risk: 0.0,
            news2: None,
            episode_start_ms: Some(0),
            personal: true,
        }
    }

    #[test]
    fn codes_are_distinct_and_read_back() {
        for cause in Cause::ALL {
            assert_eq!(Cause::from_code(cause.code()), Some(cause));
        }
        assert_eq!(Cause::from_code("HEART"), None);
    }

    #[test]
    fn sentences_say_what_is_observed_and_what_is_usual() {
        let mut high = verdict(Cause::HeartRateHigh, Vital::HeartRate, 72.3, 134.0, 5.12);
        assert_eq!(high.sentence(), "heart rate 134 bpm, usually 72 for this device (+5.1 of its own spread)");
        high.contributions[Vital::Spo2.index()] = -4.0;
        high.personal = false;
        assert_eq!(
            high.sentence(),
            "heart rate 134 bpm, usually 72 for adults, no history of this device yet (+5.1 of its own spread); also SpO2"
        );
        let fahrenheit = verdict(Cause::UnitError, Vital::Temperature, 36.8, 98.6, 10.0);
        assert_eq!(fahrenheit.sentence(), "temperature 98.6 °C reads like 37.0 °C in Fahrenheit");
        let huge = verdict(Cause::Impossible, Vital::HeartRate, 72.0, 1e308, 10.0);
        assert_eq!(huge.sentence(), "heart rate 1e308 bpm is outside what a body can have");
    }
}
