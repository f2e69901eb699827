//! `coracle run`: one container from its start to its end, and this program's exit code.

use crate::arguments::Run;
use crate::failure::{Failure, OURS};
use crate::progress::Meter;
use crate::run;
use crate::terminal;
use coracle_container::{Container, ContainerBuilder, Error, ExitStatus, Reason, Signal, TerminalEnd, Usage};
use indicatif::HumanBytes;
use std::io::Write;
use std::path::PathBuf;
use std::pin::pin;
use tokio::signal::unix::{self, SignalKind};

pub(crate) fn run(root: Option<PathBuf>, arguments: Run) -> Result<u8, Failure> {
    if arguments.security.preset.as_deref() == Some("help") {
        println!("{}", crate::security::presets());
        return Ok(0);
    }
    let mut builder = run::describe(&arguments, |key| std::env::var_os(key))?;
    builder = builder.engine(&crate::engine(root)?);
    // A root that is a directory is never pulled.
    let meter = arguments.rootfs.is_none().then(|| Meter::new(arguments.quiet));
    if let Some(meter) = &meter {
        builder = builder.on_progress(meter.callback());
    }
    crate::block_on(live(builder, &arguments, meter))
}

async fn live(builder: ContainerBuilder, arguments: &Run, meter: Option<Meter>) -> Result<u8, Failure> {
    if arguments.detach {
        return detach(builder, arguments, meter).await;
    }
    let mut signals = Signals::new()?;
    let mut early = None;
    let started = {
        let mut starting = pin!(builder.spawn());
        loop {
            tokio::select! {
                started = &mut starting => break started,
                signal = signals.next() => {
                    // A pull is given up. A start takes milliseconds, and the command may be running before we hear of it: the
                    // signal is the command's. Dropping what has been begun takes it back.
                    if early.is_some() || meter.as_ref().is_some_and(Meter::is_pulling) {
                        return Ok(died_by(signal));
                    }
                    early = Some(signal);
                }
            }
        }
    };
    drop(meter);
    let mut container = started?;
    if let Some(signal) = early {
        container.signal(signal).await?;
    }
    if !arguments.quiet {
        for refusal in container.waived() {
            say(&format!("warning: {refusal}"));
        }
    }
    if arguments.tty {
        let shown = container.terminal.take_if(|_| !arguments.interactive);
        let pass = |signal| container.signal(signal);
        let end = match shown {
            Some(shown) => terminal::carry(terminal::show(Some(shown)), &mut signals, pass).await?,
            None => terminal::carry(container.attach_terminal(), &mut signals, pass).await?,
        };
        if end == TerminalEnd::Detached {
            container.detach().await?;
            return Ok(0);
        }
    }
    let status = to_the_end(&container, &mut signals, early == Some(Signal::INT)).await?;
    // What was made for it is taken back before this program says that it's over.
    let removed = container.remove().await;
    if let Err(error) = removed {
        Failure::from(error).tell();
    }
    if arguments.stats
        && let Some(usage) = container.usage()?
    {
        say(&summary(&usage));
    }
    if !arguments.quiet && matches!(status.reason(), Reason::OutOfMemory | Reason::WallClock | Reason::CpuTime) {
        say(&format!("note: the container was {}", status.reason()).replace("was out of", "ran out of"));
    }
    Ok(exit_code(status))
}

/// Starts one that lives on, and prints its id.
async fn detach(builder: ContainerBuilder, arguments: &Run, meter: Option<Meter>) -> Result<u8, Failure> {
    let mut signals = Signals::new()?;
    let started = tokio::select! {
        started = builder.start_detached() => started,
        signal = signals.next() => return Ok(died_by(signal)),
    };
    drop(meter);
    let container = started?;
    if !arguments.quiet {
        for refusal in container.waived() {
            say(&format!("warning: {refusal}"));
        }
    }
    let id = container.id();
    match writeln!(std::io::stdout(), "{id}") {
        Ok(()) => Ok(0),
        Err(error) => Err(Failure::new(format!("the container {id} runs, but its id couldn't be printed: {error}"))),
    }
}

/// Passes signals on until the command has ended. Who interrupts twice means it.
async fn to_the_end(container: &Container, signals: &mut Signals, mut interrupted: bool) -> Result<ExitStatus, Error> {
    let mut ended = pin!(container.wait());
    loop {
        tokio::select! {
            status = &mut ended => return status,
            signal = signals.next() => {
                if signal == Signal::INT && interrupted {
                    container.kill().await?;
                } else {
                    container.signal(signal).await?;
                }
                interrupted |= signal == Signal::INT;
            }
        }
    }
}

/// The signals that are passed on. Others have their usual effect on this program, and so end the container.
pub(crate) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen = |kind| unix::signal(kind).map_err(|error| Failure::new(format!("can't listen to signals: {error}")));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
        }
    }
}

/// What a shell says of a program that this signal ended.
pub(crate) fn died_by(signal: Signal) -> u8 {
    u8::try_from(128 + signal.number()).unwrap_or(OURS)
}

pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(OURS),
        (None, Some(signal)) => died_by(signal),
        (None, None) => OURS,
    }
}

/// What was used, on one line.
fn summary(usage: &Usage) -> String {
    let mut text = format!(
        "wall {:.3} s, cpu {:.3} s user + {:.3} s system",
        usage.wall.as_secs_f64(),
        usage.cpu_user.as_secs_f64(),
        usage.cpu_system.as_secs_f64()
    );
    let mut add = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!(", {what} {value}"));
        }
    };
    let bytes = |bytes: Option<u64>| bytes.map(|bytes| HumanBytes(bytes).to_string());
    add("memory peak", bytes(usage.memory_peak));
    add("largest process", bytes(Some(usage.max_rss)));
    add("most processes", usage.pids_peak.map(|n| n.to_string()));
    add("read", bytes(usage.io_read));
    add("written", bytes(usage.io_write));
    text
}

/// A line for a person. A standard error that is closed is nobody's.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
