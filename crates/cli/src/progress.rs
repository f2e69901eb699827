//! How far a pull or a push has come, on standard error: bars on a terminal, else two lines.

use coracle_container::Progress;
use indicatif::{DecimalBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Shows the progress of one pull or push. Dropping it leaves the terminal as it was.
pub(crate) struct Meter {
    shown: Arc<Mutex<Shown>>,
    pulling: Arc<AtomicBool>,
}

enum Shown {
    Nothing,
    Lines(Lines),
    Bars(Bars),
}

/// How progress may be shown.
#[derive(Debug, PartialEq, Eq)]
enum Manner {
    Silent,
    Lines,
    Bars,
}

/// Bars need a terminal that can move its cursor, and a person who looks at it.
fn manner(quiet: bool, terminal: bool, variable: impl Fn(&str) -> Option<String>) -> Manner {
    let is_ci = variable("CI").is_some_and(|value| !value.is_empty() && value != "false");
    match () {
        () if quiet => Manner::Silent,
        () if !terminal || is_ci || variable("TERM").as_deref() == Some("dumb") => Manner::Lines,
        () => Manner::Bars,
    }
}

impl Meter {
    /// Of a pull.
    pub(crate) fn new(quiet: bool) -> Self {
        Self::of("pulling", quiet)
    }

    /// Of a push.
    pub(crate) fn of_push(quiet: bool) -> Self {
        Self::of("pushing", quiet)
    }

    fn of(verb: &'static str, quiet: bool) -> Self {
        let shown = match manner(quiet, std::io::stderr().is_terminal(), |name| std::env::var(name).ok()) {
            Manner::Silent => Shown::Nothing,
            Manner::Lines => Shown::Lines(Lines::new(verb)),
            Manner::Bars => Shown::Bars(Bars::default()),
        };
        Self { shown: Arc::new(Mutex::new(shown)), pulling: Arc::default() }
    }

    /// What is to be called with each step.
    pub(crate) fn callback(&self) -> impl Fn(Progress) + Send + Sync + 'static {
        let (shown, pulling) = (self.shown.clone(), self.pulling.clone());
        move |step| {
            pulling.store(!matches!(step, Progress::Done { .. }), Ordering::Relaxed);
            match &mut *shown.lock().unwrap_or_else(|e| e.into_inner()) {
                Shown::Nothing => {}
                Shown::Lines(lines) => lines.step(&step),
                Shown::Bars(bars) => bars.step(&step),
            }
        }
    }

    /// Whether a pull has begun and isn't done.
    pub(crate) fn is_pulling(&self) -> bool {
        self.pulling.load(Ordering::Relaxed)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // A pull that was given up may still call once or twice: there is nothing left to show it on.
        let shown = std::mem::replace(&mut *self.shown.lock().unwrap_or_else(|e| e.into_inner()), Shown::Nothing);
        if let Shown::Bars(Bars { drawn: Some(drawn), .. }) = shown {
            let _ = drawn.all.clear();
        }
    }
}

/// One bar a layer that has to be fetched, and one for all of them.
#[derive(Default)]
struct Bars {
    drawn: Option<Drawn>,
}

struct Drawn {
    all: MultiProgress,
    sum: ProgressBar,
    layers: HashMap<String, ProgressBar>,
}

const LAYER: &str = "{prefix} {bar:30} {decimal_bytes:>10} of {decimal_total_bytes:<10} {msg}";
const SUM: &str = "{prefix} {bar:30} {decimal_bytes:>10} of {decimal_total_bytes:<10} {decimal_bytes_per_sec}, {eta} left";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

impl Bars {
    fn step(&mut self, step: &Progress) {
        match step {
            Progress::Layer { digest, done, total, .. } | Progress::Uploading { digest, done, total, .. } => {
                let drawn = self.drawn.get_or_insert_with(Drawn::new);
                let bar = drawn.layers.entry(digest.to_string()).or_insert_with(|| {
                    drawn.sum.inc_length(*total);
                    let bar = drawn.all.insert_before(&drawn.sum, ProgressBar::new(*total).with_style(style(LAYER)));
                    let name = digest.to_string();
                    bar.with_prefix(name.split_once(':').map_or(&name[..], |(_, hex)| hex).chars().take(12).collect::<String>())
                });
                drawn.sum.inc(done.saturating_sub(bar.position()));
                bar.set_position(*done);
            }
            Progress::Waiting { address, why, wait, .. } => {
                let line = waiting(address, why, *wait);
                match &self.drawn {
                    Some(drawn) => drop(drawn.all.println(line)),
                    None => drop(writeln!(std::io::stderr(), "{line}")),
                }
            }
            Progress::Unpacked { digest, .. } | Progress::Uploaded { digest, .. } => {
                let word = if matches!(step, Progress::Unpacked { .. }) { "unpacked" } else { "sent" };
                if let Some(drawn) = &mut self.drawn
                    && let Some(bar) = drawn.layers.get(&digest.to_string())
                {
                    let total = bar.length().unwrap_or_default();
                    drawn.sum.inc(total.saturating_sub(bar.position()));
                    bar.set_position(total);
                    bar.finish_with_message(word);
                }
            }
            _ => {}
        }
    }
}

impl Drawn {
    fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let sum = all.add(ProgressBar::new(0).with_style(style(SUM)).with_prefix("all layers  "));
        Self { all, sum, layers: HashMap::new() }
    }
}

/// What is said while nothing happens.
fn waiting(address: &str, why: &str, wait: Duration) -> String {
    format!("{address} {why}: again in {:.1} s", wait.as_secs_f64())
}

/// A line when it begins and a line when it's done.
struct Lines {
    since: Instant,
    layers: HashMap<String, u64>,
    /// `pulling` or `pushing`.
    verb: &'static str,
    /// Blobs that were sent, and that were there.
    sent: (usize, usize),
}

impl Lines {
    fn new(verb: &'static str) -> Self {
        Self { verb, since: Instant::now(), layers: HashMap::new(), sent: (0, 0) }
    }

    fn step(&mut self, step: &Progress) {
        if let Some(line) = self.line(step) {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }

    fn line(&mut self, step: &Progress) -> Option<String> {
        match step {
            Progress::Resolving { reference } => Some(format!("{} {}", self.verb, reference.familiar())),
            Progress::Layer { digest, total, .. } => {
                self.layers.insert(digest.to_string(), *total);
                None
            }
            Progress::Uploading { digest, total, .. } => {
                self.layers.insert(digest.to_string(), *total);
                None
            }
            Progress::Uploaded { sent, .. } => {
                let count = if *sent { &mut self.sent.0 } else { &mut self.sent.1 };
                *count += 1;
                None
            }
            Progress::Waiting { address, why, wait, .. } => Some(waiting(address, why, *wait)),
            Progress::Done { reference, .. } if self.sent != (0, 0) => {
                let bytes = DecimalBytes(self.layers.values().sum());
                let ((sent, there), seconds) = (self.sent, self.since.elapsed().as_secs_f64());
                Some(format!("pushed {}: sent {sent} blobs, {bytes} in {seconds:.1} s; {there} were there", reference.familiar()))
            }
            Progress::Done { reference, .. } => {
                let bytes = DecimalBytes(self.layers.values().sum());
                let (count, layers) = (self.layers.len(), if self.layers.len() == 1 { "layer" } else { "layers" });
                let seconds = self.since.elapsed().as_secs_f64();
                Some(format!("pulled {}: fetched {count} {layers}, {bytes} in {seconds:.1} s", reference.familiar()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_for_terminals_that_somebody_looks_at() {
        let with = |pairs: &'static [(&str, &str)]| move |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        assert_eq!(manner(false, true, with(&[("TERM", "xterm")])), Manner::Bars);
        assert_eq!(manner(false, true, with(&[("CI", "false")])), Manner::Bars);
        assert_eq!(manner(false, false, with(&[("TERM", "xterm")])), Manner::Lines);
        assert_eq!(manner(false, true, with(&[("TERM", "dumb")])), Manner::Lines);
        assert_eq!(manner(false, true, with(&[("CI", "true")])), Manner::Lines);
        assert_eq!(manner(true, true, with(&[])), Manner::Silent);
    }
}
