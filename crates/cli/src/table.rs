//! Columns for people.

use crate::failure::Failure;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes to standard output. A reader who has gone away (`| head`) has seen what he wanted.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("can't write to standard output: {error}")).code(1))
        }
        _ => Ok(()),
    }
}

/// A line of heads, and a line for each row; three blanks between columns, none at the end.
pub(crate) fn table<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let heads = heads.map(str::to_owned);
    let lines = || std::iter::once(&heads).chain(rows);
    let widths: [usize; N] = std::array::from_fn(|i| lines().map(|line| line[i].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for line in lines() {
        let columns: String = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}   ")).collect();
        text.push_str(columns.trim_end());
        text.push('\n');
    }
    text
}

/// At most so many characters, the last of which says that there were more.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some(_) => text.chars().take(most - 1).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

/// Without characters that a terminal obeys: labels and commands are somebody else's words.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// How long ago, as docker-ps(1) says it.
pub(crate) fn age(seconds: u64) -> String {
    let of = |n: u64, unit: &str| format!("{n} {unit}{}", if n == 1 { "" } else { "s" });
    match seconds {
        0..60 => of(seconds, "second"),
        60..3600 => of(seconds / 60, "minute"),
        3600..172_800 => of(seconds / 3600, "hour"),
        172_800..1_209_600 => of(seconds / 86_400, "day"),
        1_209_600..5_184_000 => of(seconds / 604_800, "week"),
        5_184_000..63_072_000 => of(seconds / 2_592_000, "month"),
        _ => of(seconds / 31_536_000, "year"),
    }
}

/// Seconds since 1970.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Seconds since 1970 of an RFC 3339 time, which images carry; none before 1970 or where it isn't one.
pub(crate) fn rfc3339(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let zone = text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match zone.as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), ..] => {
            let minutes = zone.get(1..3)?.parse::<i64>().ok()? * 60 + zone.get(4..6)?.parse::<i64>().ok()?;
            if *sign == b'+' { minutes } else { -minutes }
        }
        _ => return None,
    };
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Years that begin in March have the leap day at their end (Howard Hinnant, days_from_civil).
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = year.div_euclid(400) * 146_097 + year.rem_euclid(400) * 365 + year.rem_euclid(400) / 4 - year.rem_euclid(400) / 100
        + (153 * month + 2) / 5
        + day
        - 1
        - 719_468;
    u64::try_from(days * 86_400 + hour * 3600 + (minute - offset) * 60 + second).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = table(["A", "BC"], &[["wide".into(), "x".into()], ["é".into(), "y".into()]]);
        assert_eq!(text, "A      BC\nwide   x\né      y\n");
    }

    #[test]
    fn what_is_cut_says_so() {
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("abcd", 3), "ab…");
        assert_eq!(plain("a\x1b[2Jb"), "a\u{fffd}[2Jb");
    }

    #[test]
    fn ages_are_counted_in_the_largest_unit_that_says_something() {
        let check = |seconds, text: &str| assert_eq!(age(seconds), text);
        check(1, "1 second");
        check(61, "1 minute");
        check(7200, "2 hours");
        check(172_800, "2 days");
        check(86_400 * 20, "2 weeks");
        check(86_400 * 90, "3 months");
        check(86_400 * 800, "2 years");
    }

    #[test]
    fn times_of_images_are_read() {
        assert_eq!(rfc3339("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(rfc3339("2000-02-29T12:34:56.789012345Z"), Some(951_827_696));
        assert_eq!(rfc3339("2024-03-01T01:00:00+01:00"), Some(1_709_251_200));
        assert_eq!(rfc3339("0001-01-01T00:00:00Z"), None);
        assert_eq!(rfc3339("yesterday"), None);
        assert_eq!(rfc3339("2024-13-01T00:00:00Z"), None);
    }
}
