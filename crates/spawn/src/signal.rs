//! Signals by name; see signal(7).

use std::fmt;
use std::str::FromStr;

/// A signal.
///
/// ```
/// use coracle_spawn::Signal;
/// assert_eq!("SIGTERM".parse(), Ok(Signal::TERM));
/// assert_eq!("term".parse(), Ok(Signal::TERM));
/// assert_eq!("15".parse(), Ok(Signal::TERM));
/// assert_eq!(Signal::TERM.to_string(), "SIGTERM");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signal(u8);

macro_rules! signals {
    ($($name:ident = $number:literal)*) => {
        const NAMES: &[(&str, u8)] = &[$((stringify!($name), $number)),*];
        impl Signal {
            $(#[doc = concat!("`SIG", stringify!($name), "`")] pub const $name: Self = Self($number);)*
        }
    };
}

signals! {
    HUP = 1 INT = 2 QUIT = 3 ILL = 4 TRAP = 5 ABRT = 6 BUS = 7 FPE = 8 KILL = 9 USR1 = 10 SEGV = 11 USR2 = 12 PIPE = 13 ALRM = 14 TERM = 15
    STKFLT = 16 CHLD = 17 CONT = 18 STOP = 19 TSTP = 20 TTIN = 21 TTOU = 22 URG = 23 XCPU = 24 XFSZ = 25 VTALRM = 26 PROF = 27 WINCH = 28
    IO = 29 PWR = 30 SYS = 31
}

impl Signal {
    /// By number, 1 to 64.
    pub fn from_number(number: i32) -> Option<Self> {
        u8::try_from(number).ok().filter(|n| (1..=64).contains(n)).map(Self)
    }

    /// The number, 1 to 64.
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, n)| *n == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

/// A word that names no signal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnknownSignal(pub String);

impl fmt::Display for UnknownSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no signal: a name as SIGTERM or TERM, RTMIN+n, RTMAX-n, or a number from 1 to 64", self.0)
    }
}

impl std::error::Error for UnknownSignal {}

impl FromStr for Signal {
    type Err = UnknownSignal;
    /// As `STOPSIGNAL` of an image and `--signal` of docker-kill(1).
    fn from_str(word: &str) -> Result<Self, UnknownSignal> {
        let unknown = || UnknownSignal(word.to_owned());
        if let Ok(number) = word.parse() {
            return Self::from_number(number).ok_or_else(unknown);
        }
        let upper = word.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        // As glibc counts: the kernel's first two are the threads library's.
        let real_time = if let Some(n) = name.strip_prefix("RTMIN") {
            if n.is_empty() { Some(34) } else { n.strip_prefix('+').and_then(|n| n.parse::<i32>().ok()).map(|n| 34 + n) }
        } else if let Some(n) = name.strip_prefix("RTMAX") {
            if n.is_empty() { Some(64) } else { n.strip_prefix('-').and_then(|n| n.parse::<i32>().ok()).map(|n| 64 - n) }
        } else {
            None
        };
        match real_time {
            Some(number) if (34..=64).contains(&number) => Self::from_number(number).ok_or_else(unknown),
            _ => NAMES.iter().find(|(n, _)| *n == name).map(|&(_, n)| Self(n)).ok_or_else(unknown),
        }
    }
}
