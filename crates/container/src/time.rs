//! Times as JSON has them.

use serde::{Serialize, Serializer};
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// A time that is written as RFC 3339 has it: `2024-02-29T12:34:56.789012345Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub SystemTime);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        // Howard Hinnant's civil_from_days: years begin in March, and have the leap day at their end.
        let z = days + 719_468;
        let (era, day) = (z / 146_097, z % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
        let year = year + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since.subsec_nanos())
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        let check = |seconds, text: &str| assert_eq!(Time(UNIX_EPOCH + Duration::new(seconds, 5)).to_string(), text);
        check(0, "1970-01-01T00:00:00.000000005Z");
        check(951_827_696, "2000-02-29T12:34:56.000000005Z");
        check(1_709_251_199, "2024-02-29T23:59:59.000000005Z");
        check(1_709_251_200, "2024-03-01T00:00:00.000000005Z");
        check(4_107_542_400, "2100-03-01T00:00:00.000000005Z");
    }
}
