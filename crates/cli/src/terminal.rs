//! This terminal and a container's, for `run -t`, `exec -t` and `attach`.

use crate::failure::Failure;
use crate::life::Signals;
use coracle_container::{ContainerTerminal, Error, Signal, TerminalEnd};
use std::future::Future;
use std::io::Write as _;
use std::pin::pin;
use tokio::io::AsyncReadExt as _;

/// The size of one that isn't shown anywhere.
const NOWHERE: (u16, u16) = (80, 24);

/// The size that a new one gets.
pub(crate) fn size() -> (u16, u16) {
    coracle_container::terminal_size().unwrap_or(NOWHERE)
}

/// Shows what is shown in one, to which nobody types.
pub(crate) async fn show(terminal: Option<ContainerTerminal>) -> Result<TerminalEnd, Error> {
    let mut piece = [0; 8192];
    if let Some(mut terminal) = terminal {
        while let Ok(n @ 1..) = terminal.read(&mut piece).await {
            let mut out = std::io::stdout();
            if out.write_all(&piece[..n]).and_then(|()| out.flush()).is_err() {
                break;
            }
        }
    }
    Ok(TerminalEnd::Ended)
}

/// Carries until one side ends, and passes signals on meanwhile. Ctrl-C is a byte of the terminal's and none of them.
pub(crate) async fn carry<F: Future<Output = Result<(), Error>>>(
    carried: impl Future<Output = Result<TerminalEnd, Error>>,
    signals: &mut Signals,
    pass: impl Fn(Signal) -> F,
) -> Result<TerminalEnd, Failure> {
    let mut carried = pin!(carried);
    loop {
        tokio::select! {
            end = &mut carried => return Ok(end?),
            signal = signals.next() => pass(signal).await?,
        }
    }
}
