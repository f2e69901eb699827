//! `coracle exec`: one more command in a container that runs, and its exit code.

use crate::arguments::Exec;
use crate::detached::attach;
use crate::environment;
use crate::failure::Failure;
use crate::life::{Signals, exit_code};
use crate::terminal;
use coracle_container::{ExecBuilder, Signal, Stdio, TerminalEnd};
use std::path::PathBuf;
use std::pin::pin;

pub(crate) fn run(root: Option<PathBuf>, arguments: &Exec) -> Result<u8, Failure> {
    let engine = crate::engine(root).map_err(|error| Failure::from(error).code(1))?;
    let (id, command) = arguments.words.split_first().ok_or_else(|| Failure::new("no container is named".into()))?;
    let container = attach(&engine, &id.to_string_lossy()).map_err(|failure| failure.code(1))?;
    let builder = describe(container.exec(command), arguments)?;
    crate::block_on(async {
        let mut signals = Signals::new()?;
        let mut exec = builder.spawn().await?;
        // From here on it is a conversation about this command alone.
        drop(container);
        if arguments.detach {
            exec.detach().await?;
            return Ok(0);
        }
        if arguments.tty {
            let shown = exec.terminal.take_if(|_| !arguments.interactive);
            let pass = |signal| exec.signal(signal);
            let end = match shown {
                Some(shown) => terminal::carry(terminal::show(Some(shown)), &mut signals, pass).await?,
                None => terminal::carry(exec.attach_terminal(), &mut signals, pass).await?,
            };
            if end == TerminalEnd::Detached {
                exec.detach().await?;
                return Ok(0);
            }
        }
        let mut ended = pin!(exec.wait());
        let mut interrupted = false;
        loop {
            tokio::select! {
                status = &mut ended => return Ok(exit_code(status?)),
                signal = signals.next() => {
                    // Who interrupts twice means it.
                    exec.signal(if signal == Signal::INT && interrupted { Signal::KILL } else { signal }).await?;
                    interrupted |= signal == Signal::INT;
                }
            }
        }
    })
}

/// Everything that is wrong with the flags is reported at once.
fn describe(mut builder: ExecBuilder, arguments: &Exec) -> Result<ExecBuilder, Failure> {
    let outer = |key: &std::ffi::OsStr| std::env::var_os(key);
    let mut faults = Vec::new();
    builder = builder.envs(environment::variables(&arguments.env_file, &arguments.env, outer, &mut faults));
    if let Some(directory) = &arguments.workdir {
        builder = builder.workdir(directory);
    }
    if let Some(user) = &arguments.user {
        builder = builder.user(user);
    }
    if arguments.tty {
        let (columns, rows) = terminal::size();
        builder = builder.tty(columns, rows).background(true);
        return if faults.is_empty() { Ok(builder) } else { Err(faults.into()) };
    }
    let of_ours = |yes: bool| if yes { Stdio::inherit() } else { Stdio::null() };
    builder = builder.stdin(of_ours(arguments.interactive)).stdout(of_ours(!arguments.detach)).stderr(of_ours(!arguments.detach));
    // Docker's: a daemon that somebody starts by hand stays.
    builder = builder.background(true);
    if faults.is_empty() { Ok(builder) } else { Err(faults.into()) }
}
