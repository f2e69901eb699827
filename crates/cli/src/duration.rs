//! Times as people write them.

use crate::failure::Fault;
use std::time::{Duration, SystemTime};

/// A length of time: `1.5s`, `100ms`, `2m`, `1h30m`, or a number of seconds.
pub(crate) fn duration(flag: &str, text: &str) -> Result<Duration, Fault> {
    parse(text)
        .ok_or_else(|| Fault::new(format!("{flag} {text}: no length of time"), "a number with ms, s, m or h behind it: 500ms, 1.5s, 1h30m"))
}

fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let mut all = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, length) = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)].into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        all = all.checked_add(Duration::try_from_secs_f64(number * length).ok()?)?;
    }
    Some(all).filter(|_| !text.trim().is_empty())
}

/// A moment, as `docker logs --since` takes one: RFC 3339, seconds since 1970, or a length of time before now.
pub(crate) fn moment(flag: &str, text: &str) -> Result<SystemTime, Fault> {
    let after = |seconds: f64| SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?);
    let found = match (text.parse::<f64>(), crate::table::rfc3339(text), parse(text)) {
        (Ok(seconds), ..) => after(seconds),
        (_, Some(seconds), _) => after(seconds as f64),
        (.., Some(before)) => SystemTime::now().checked_sub(before),
        _ => None,
    };
    found.ok_or_else(|| {
        Fault::new(format!("{flag} {text}: no time"), "2024-01-31T12:00:00Z, seconds since 1970, or 10m for ten minutes ago")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_in_their_units() {
        for (text, millis) in [("1.5s", 1500), ("100ms", 100), ("2m", 120_000), ("1h30m", 5_400_000), ("3", 3000), ("0.25", 250)] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "s", "5x", "-1s", "1s2", "1e400", "nan"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn moments_are_absolute_or_ago() {
        let at = |text: &str| moment("--since", text).unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(at("1970-01-01T00:01:00Z"), 60);
        assert_eq!(at("1700000000.5"), 1_700_000_000);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert!((now - 601..=now - 599).contains(&at("10m")));
        assert!(moment("--since", "yesterday").is_err());
    }
}
