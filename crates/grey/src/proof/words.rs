//! What a proof states, in words.

use grey_proof::{Class, Exec, Filler, Outcome, Segment};

use crate::encoding::{escaped, hex};

const DAY_SECONDS: u64 = 86_400;
/// The last second of the year 9999: later ones are no dates that anybody writes.
const DATE_MAX: u64 = 253_402_300_799;

/// `2026-11-24 22:05:00 UTC`.
pub(super) fn utc(seconds: u64) -> String {
    if seconds > DATE_MAX {
        return format!("Unix second {seconds}");
    }
    let (year, month, day) = civil(seconds / DAY_SECONDS);
    let s = seconds % DAY_SECONDS;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", s / 3600, s / 60 % 60, s % 60)
}

/// Year, month and day, `days` after 1970-01-01, in the Gregorian calendar. The years counted here begin in
/// March, so that a leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    // From 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

pub(super) fn outcome(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Ok { .. } => "answered",
        Outcome::InvalidInput => "the inputs do not fit the model",
        Outcome::ModelFailed { .. } => "the model failed",
        Outcome::Deadline { .. } => "the deadline passed",
        Outcome::Cancelled { .. } => "the caller went away",
        Outcome::HostDied { .. } => "the model's process died",
        Outcome::Overloaded => "no room in the queue",
        Outcome::Refused => "refused",
        Outcome::Internal => "a fault of the node",
    }
}

pub(super) fn class(class: Class) -> &'static str {
    match class {
        Class::None => "nothing is said about running it again",
        Class::Slot => "the same bytes again with the same engine build, machine class, threads, bucket and position",
        Class::Invariant => {
            "the same bytes again in any bucket and position, with the same engine build, machine class and threads"
        }
        Class::Portable => "the same bytes again on every machine",
    }
}

pub(super) fn segment(s: &Segment) -> String {
    let of = if s.rows == 1 { "row" } else { "rows" };
    format!("{} {of} at position {} of a bucket of {}", s.rows, s.position, s.bucket)
}

/// The execution profile, as titles and texts.
pub(super) fn execution(exec: &Exec) -> Vec<(&'static str, String)> {
    let mut out = vec![
        ("class", format!("{}: {}", exec.class.name(), class(exec.class))),
        ("engine", format!("{} {}", escaped(&exec.engine), escaped(&exec.engine_version))),
        ("library", format!("sha256:{}", hex(&exec.engine_sha256))),
        ("device", escaped(&exec.device)),
        ("threads", exec.threads.to_string()),
        ("precision", escaped(&exec.precision)),
        ("runs", exec.segments.iter().map(segment).collect::<Vec<_>>().join("; then ")),
    ];
    if let Some((name, version)) = &exec.executor {
        out.push(("upstream", format!("{} {}, which is not attested", escaped(name), escaped(version))));
    }
    if !exec.lengths.is_empty() {
        out.push(("lengths", format!("{:?}", exec.lengths)));
    }
    if !exec.sampling.is_empty() {
        out.push(("sampling", format!("{:?}", exec.sampling)));
    }
    if exec.filler == Filler::OwnFirstRow {
        out.push(("filler", "the request's first row, where a replay fills up".to_owned()));
    }
    if !exec.switches.is_empty() {
        out.push(("switches", exec.switches.iter().map(|s| escaped(s)).collect::<Vec<_>>().join(", ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_dates() {
        for (seconds, date) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_700_000_000, "2023-11-14 22:13:20 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (DATE_MAX, "9999-12-31 23:59:59 UTC"),
            (DATE_MAX + 1, "Unix second 253402300800"),
            (u64::MAX, "Unix second 18446744073709551615"),
        ] {
            assert_eq!(utc(seconds), date);
        }
    }
}
