//! How long to wait before the same thing is asked again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The first wait, doubled with each try.
const FIRST: Duration = Duration::from_millis(200);
/// No wait of ours is longer.
const LONGEST: Duration = Duration::from_secs(10);

/// Tries that are left.
#[derive(Debug)]
pub(super) struct Backoff {
    retries: u32,
    done: u32,
}

impl Backoff {
    pub(super) fn new(retries: u32) -> Backoff {
        Backoff { retries, done: 0 }
    }

    /// Something came of the last try: begin to count anew.
    pub(super) fn progressed(&mut self) {
        self.done = 0;
    }

    /// How long to wait before the next try, if there is to be one: between a half and the whole of a doubling time, so that those who
    /// failed together don't come back together.
    pub(super) fn next(&mut self) -> Option<Duration> {
        if self.done >= self.retries {
            return None;
        }
        let whole = FIRST.saturating_mul(1 << self.done.min(16)).min(LONGEST);
        self.done += 1;
        let half = whole / 2;
        // std's only source of randomness. It needn't be a good one.
        let random = RandomState::new().build_hasher().finish() % (half.as_millis() as u64 + 1);
        Some(half + Duration::from_millis(random))
    }
}

/// The value of `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date; `now` in seconds since 1970.
pub(super) fn retry_after(value: &str, now: u64) -> Option<Duration> {
    let value = value.trim();
    let seconds = match value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() {
        // Too many digits are a long time too.
        true => value.parse().unwrap_or(u64::MAX),
        false => http_date(value)?.saturating_sub(now),
    };
    Some(Duration::from_secs(seconds))
}

/// Seconds since 1970 of a date in one of the three forms of RFC 9110, section 5.6.7.
fn http_date(text: &str) -> Option<u64> {
    let words: Vec<&str> = text.split([' ', ',', '-']).filter(|w| !w.is_empty()).collect();
    let (day, month, year, time) = match words.as_slice() {
        // Sun, 06 Nov 1994 08:49:37 GMT; Sunday, 06-Nov-94 08:49:37 GMT
        [_, day, month, year, time, "GMT"] => (day, month, year, time),
        // Sun Nov  6 08:49:37 1994
        [_, month, day, time, year] => (day, month, year, time),
        _ => return None,
    };
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit()));
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = names.iter().position(|name| name == month)? as u64 + 1;
    let (day, year) = (number(day)?, number(year)?);
    let year = match year {
        0..70 => 2000 + year,
        70..100 => 1900 + year,
        1970.. => year,
        _ => return None,
    };
    let clock: Vec<u64> = time.split(':').map(number).collect::<Option<_>>()?;
    let [hour @ 0..24, minute @ 0..60, second @ 0..=60] = clock[..] else {
        return None;
    };
    if !(1..=31).contains(&day) {
        return None;
    }
    // Days of the civil calendar, in years that begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    Some((days.checked_sub(719_468)?) * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_bounds_and_end() {
        let mut backoff = Backoff::new(12);
        let waits: Vec<u128> = std::iter::from_fn(|| backoff.next()).map(|w| w.as_millis()).collect();
        assert_eq!(waits.len(), 12);
        for (n, wait) in waits.into_iter().enumerate() {
            let whole = (200 << n).min(10_000);
            assert!((whole / 2..=whole).contains(&wait), "{n}: {wait}");
        }
        backoff.progressed();
        assert!(backoff.next().unwrap() <= FIRST);
        assert_eq!(Backoff::new(0).next(), None);
    }

    #[test]
    fn waits_differ() {
        let waits: std::collections::HashSet<Duration> = (0..20).map(|_| Backoff::new(1).next().unwrap()).collect();
        assert!(waits.len() > 3);
    }

    #[test]
    fn retry_after_is_read_in_all_its_forms() {
        let now = 784_111_777;
        let cases = [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun Nov  6 08:49:38 1994", Some(1)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Mon, 07 Nov 1994 08:49:37 GMT", Some(86_400)),
            ("Thu, 29 Feb 2024 00:00:00 GMT", Some(1_709_164_800 - now)),
            ("-1", None),
            ("1.5", None),
            ("", None),
            ("soon", None),
            ("Sun, 06 Nov 1994 25:49:37 GMT", None),
            ("Sun, 00 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 99999 08:49:37 GMT", None),
            ("Sun, 06 Nov 0000 08:49:37 UTC", None),
        ];
        for (value, seconds) in cases {
            assert_eq!(retry_after(value, now).map(|d| d.as_secs()), seconds, "{value}");
        }
    }
}
