//! Asks the service in a container whether it works, as its image or its description says: HEALTHCHECK of Dockerfiles.
//!
//! ```text
//!   starting ──a test succeeds──▶ healthy ◀──a test succeeds── unhealthy
//!      └──── `retries` failures in a row (none counts in the start period) ───▶┘ ▲
//!                                    healthy ──── `retries` failures in a row ───┘
//! ```
//!
//! A test is one more command in the container, with a time to live. This process runs it, so that a detached container is asked too.

use crate::exec::{Container, Exec};
use crate::peer::encode;
use crate::system_call::{AT_FDCWD, Errno, Fd, POLLIN, Pages, PollFd, Received, close, now, open, openat2, pipe, poll, read};
use crate::text::Buffer;
use crate::wire::{self, Answer, List, Plan, VERSION, health};
use core::marker::PhantomData;

const MILLISECOND: u64 = 1_000_000;
/// How often what a test says is taken in while it runs: it may say more than a pipe holds.
const LISTEN: u64 = 20 * MILLISECOND;

pub struct Health {
    state: u8,
    /// Failures in a row that count.
    failing: u32,
    tests: u32,
    /// How the last test ended.
    status: i32,
    /// When the next one begins, or is listened to.
    next: u64,
    /// Until when failures don't count.
    start: u64,
    /// The test that runs, and what it says.
    running: Option<(u32, Fd)>,
    output: Buffer<512>,
}

impl Health {
    /// Begins when the command has.
    pub fn new(asked: &wire::Health<'_>) -> Self {
        let time = now();
        let start = time.saturating_add(asked.start_period.saturating_mul(MILLISECOND));
        let mut health =
            Self { state: health::STARTING, failing: 0, tests: 0, status: 0, next: 0, start, running: None, output: Buffer::new() };
        health.next = time.saturating_add(health.pause(asked, time));
        health
    }

    pub fn next_time(&self) -> u64 {
        self.next
    }

    fn pause(&self, asked: &wire::Health<'_>, time: u64) -> u64 {
        let starting = self.state == health::STARTING && time < self.start;
        (if starting { asked.start_interval } else { asked.interval }).saturating_mul(MILLISECOND)
    }

    /// Listens to the test that runs, or begins the next: a further command with this number.
    pub fn go_on(&mut self, asked: &wire::Health<'_>, container: Container<'_>, id: u32) -> Option<Exec> {
        if self.running.is_some() {
            self.listen();
            self.next = now().saturating_add(LISTEN);
            return None;
        }
        self.output.clear();
        match begin(asked, container, id) {
            Ok((exec, output)) => {
                self.running = Some((id, output));
                self.next = now().saturating_add(LISTEN);
                Some(exec)
            }
            Err(_) => {
                // It couldn't even be asked.
                self.judge(asked, 127 << 8);
                None
            }
        }
    }

    /// Takes in what the test has said, and forgets what is too long.
    fn listen(&mut self) {
        let Some((_, output)) = self.running else { return };
        // As much as a pipe holds: a test that talks on and on is waited for no longer than one that is silent.
        for _ in 0..16 {
            let mut polled = [PollFd { fd: output.0, events: POLLIN, revents: 0 }];
            let mut bytes = [0; 4096];
            match poll(&mut polled, Some(0)) {
                Ok(1) if polled[0].revents & POLLIN != 0 => match read(output, &mut bytes) {
                    Ok(n @ 1..) => self.output.push(&bytes[..n]),
                    Ok(_) | Err(_) => return,
                },
                _ => return,
            }
        }
    }

    /// Whether a test has ended.
    pub fn has_asked(&self) -> bool {
        self.tests > 0
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether this test is the one that runs.
    pub fn is(&self, id: u32) -> bool {
        self.running.is_some_and(|(running, _)| running == id)
    }

    /// A test has ended.
    pub fn ended(&mut self, asked: &wire::Health<'_>, status: i32) {
        self.listen();
        if let Some((_, output)) = self.running.take() {
            close(output);
        }
        self.judge(asked, status);
    }

    fn judge(&mut self, asked: &wire::Health<'_>, status: i32) {
        let time = now();
        self.tests = self.tests.wrapping_add(1);
        self.status = status;
        if status == 0 {
            (self.state, self.failing) = (health::HEALTHY, 0);
        } else if self.state != health::STARTING || time >= self.start {
            self.failing = self.failing.saturating_add(1);
            if self.failing >= asked.retries {
                self.state = health::UNHEALTHY;
            }
        }
        self.next = time.saturating_add(self.pause(asked, time));
    }

    pub fn answer(&self) -> Answer<'_> {
        Answer::Health { state: self.state, failing: self.failing, tests: self.tests, status: self.status, output: self.output.as_slice() }
    }
}

/// Begins a test; what it says comes by the descriptor.
fn begin(asked: &wire::Health<'_>, container: Container<'_>, id: u32) -> Result<(Exec, Fd), Errno> {
    let request = wire::Exec {
        version: VERSION,
        argv: asked.argv,
        env: List::new(0, &[]),
        user: None,
        directory: None,
        wall: asked.timeout,
        background: false,
        read_at_end: List::new(0, &[]),
        terminal: None,
        end: PhantomData,
    };
    let request: Pages = encode(&request)?;
    let null = || openat2(AT_FDCWD, c"/dev/null", open::READ_WRITE, 0, 0);
    let (ours, theirs) = pipe()?;
    let mut streams = Received::new();
    for f in [null(), null(), Ok(theirs), crate::system_call::duplicate_above(theirs, 3)] {
        streams.push(f?);
    }
    Ok((Exec::by_itself(container, id, request, streams), ours))
}

/// Whether a plan asks for tests.
pub fn asked<'a>(plan: &Plan<'a>) -> Option<wire::Health<'a>> {
    plan.health.filter(|health| !health.argv.is_empty())
}
