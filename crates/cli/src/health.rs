//! The flags of `coracle run` about a container's health, as docker-run(1) has them.

use crate::arguments::Run;
use crate::failure::Fault;
use coracle_container::{ContainerBuilder, HealthTest};
use std::time::Duration;

/// Adds the test that the flags describe.
pub(crate) fn describe(builder: ContainerBuilder, arguments: &Run, faults: &mut Vec<Fault>) -> ContainerBuilder {
    if arguments.no_healthcheck {
        return builder.no_healthcheck();
    }
    let Some(line) = &arguments.health_cmd else { return builder };
    let shell = ["/bin/sh".into(), "-c".into(), line.clone()];
    let mut test = HealthTest::new(shell);
    let times = [
        ("--health-interval", &arguments.health_interval, &mut test.interval),
        ("--health-timeout", &arguments.health_timeout, &mut test.timeout),
        ("--health-start-period", &arguments.health_start_period, &mut test.start_period),
        ("--health-start-interval", &arguments.health_start_interval, &mut test.start_interval),
    ];
    for (flag, word, time) in times {
        match word.as_deref().map(duration) {
            Some(Some(said)) => *time = said,
            Some(None) => {
                let word = word.as_deref().unwrap_or_default();
                faults.push(Fault::new(format!("{flag}: {word:?} is no time"), "write it as 30s, 1m30s or 500ms"));
            }
            None => {}
        }
    }
    test.retries = arguments.health_retries.filter(|&retries| retries > 0).unwrap_or(test.retries);
    builder.health(test)
}

/// A time as Go's time.ParseDuration takes it: `1h2m3.5s`, `500ms`.
fn duration(word: &str) -> Option<Duration> {
    if word == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = word;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let unit = [("ms", 0.001), ("us", 0.000_001), ("ns", 0.000_000_001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let (name, seconds) = unit.into_iter().find(|(name, _)| rest.starts_with(name))?;
        rest = &rest[name.len()..];
        sum = sum.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
    }
    (!word.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_what_go_says() {
        let check = |word: &str, milliseconds: Option<u64>| assert_eq!(duration(word), milliseconds.map(Duration::from_millis), "{word}");
        check("30s", Some(30_000));
        check("1m30s", Some(90_000));
        check("500ms", Some(500));
        check("1.5h", Some(5_400_000));
        check("0", Some(0));
        check("0s", Some(0));
        for bad in ["", "30", "s", "-1s", "1x", "1s2", "1..5s", "1e3s"] {
            check(bad, None);
        }
    }
}
