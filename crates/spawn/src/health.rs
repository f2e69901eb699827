//! Whether a command works, as a test of its own says: HEALTHCHECK of Dockerfiles.

use crate::child::Status;
use crate::wire::health;
use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

/// How a command is asked whether it works: by one more command, whose exit code 0 means that it does. Times are counted in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthTest {
    /// The test and its arguments.
    pub command: Vec<OsString>,
    /// From the end of one test to the next, and from the start to the first.
    pub interval: Duration,
    /// After this a test is killed, which is a failure.
    pub timeout: Duration,
    /// How long after the start failures don't count.
    pub start_period: Duration,
    /// The interval meanwhile, until the first success.
    pub start_interval: Duration,
    /// So many failures in a row mean that it doesn't work.
    pub retries: u32,
}

impl HealthTest {
    /// With Docker's defaults: 30 s from test to test, 30 s for each, no start period, 5 s in one, three failures.
    pub fn new<I: IntoIterator<Item = S>, S: Into<OsString>>(command: I) -> Self {
        let half_a_minute = Duration::from_secs(30);
        Self {
            command: command.into_iter().map(Into::into).collect(),
            interval: half_a_minute,
            timeout: half_a_minute,
            start_period: Duration::ZERO,
            start_interval: Duration::from_secs(5),
            retries: 3,
        }
    }
}

/// What tests say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HealthState {
    /// No test has succeeded yet, nor have enough failed.
    Starting,
    /// The last test succeeded, or not enough have failed since one did.
    Healthy,
    /// So many tests in a row have failed that it counts.
    Unhealthy,
}

impl fmt::Display for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// What tests have said so far.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// What it comes to.
    pub state: HealthState,
    /// Failures in a row, as far as they count.
    pub failing: u32,
    /// Tests so far.
    pub tests: u32,
    /// How the last one ended; SIGKILL for one that took too long.
    pub status: Status,
    /// What it said, to both streams: its first 512 bytes.
    pub output: Vec<u8>,
}

impl Health {
    pub(crate) fn read(state: u8, failing: u32, tests: u32, status: i32, output: &[u8]) -> Option<Self> {
        let state = match state {
            health::STARTING => HealthState::Starting,
            health::HEALTHY => HealthState::Healthy,
            health::UNHEALTHY => HealthState::Unhealthy,
            _ => return None,
        };
        Some(Self { state, failing, tests, status: Status(status), output: output.to_vec() })
    }
}
