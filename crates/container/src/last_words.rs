//! What a container said last, told where somebody is about to wonder why a test failed.
//!
//! Libraries print nothing, and this is the one exception: a test that panics drops its containers while it unwinds, and with them goes what
//! would explain the panic. Nobody can ask for it any more. The dropping thread is the test's own, so that libtest catches what is
//! printed here and shows it with the failure; a line of a thread of ours would go past it.

use crate::keep_on_failure::Kept;
use coracle_spawn::Log;
use std::fmt::Write as _;

/// How many lines are told.
pub(crate) const MOST: usize = 40;

/// Prints a container's last words, if it is dropped by a panic.
#[derive(Debug)]
pub(crate) struct LastWords {
    id: String,
    log: Log,
    /// What keeps it, where it is to stay.
    keep: Option<Kept>,
}

impl LastWords {
    pub(crate) fn new(id: String, log: Log) -> Self {
        Self { id, log, keep: None }
    }

    /// A panic keeps the container, too.
    pub(crate) fn keep(&mut self, kept: Kept) {
        self.keep = Some(kept);
    }

    fn text(&self) -> Option<String> {
        let lines = self.log.tail(MOST).ok().filter(|lines| !lines.is_empty())?;
        let mut text = format!("the last that container {} said:\n", self.id);
        for line in lines {
            let _ = writeln!(text, "  {}", plain(&line.bytes));
        }
        Some(text)
    }
}

impl Drop for LastWords {
    #[allow(clippy::print_stderr, reason = "the head of this file says why")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.text();
            let kept = self.keep.as_ref().and_then(Kept::keep_now).map(|how| format!("{how}\n"));
            if said.is_some() || kept.is_some() {
                eprint!("{}{}", said.unwrap_or_default(), kept.unwrap_or_default());
            }
        }
    }
}

/// A stranger's line for a terminal, without what a terminal obeys.
pub(crate) fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.trim_end_matches('\r').chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}
