//! Runs what was started to its end: feeds it, collects what it says, waits.

use crate::error::Error;
use crate::stdio::{Collecting, Feeding};
use coracle_spawn::{Child, Starting};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

/// What ran, and all that it said.
pub(crate) struct Complete {
    pub(crate) child: Child,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// Answers when everything of it has ended, and was taken back.
pub(crate) async fn run(mut starting: Starting, input: Option<Arc<[u8]>>) -> Result<Complete, Error> {
    let (stdin, stdout, stderr) = starting.take_pipes();
    let mut feeding = Feeding::new(stdin, input.unwrap_or_else(|| Arc::from([])));
    let (mut stdout, mut stderr) = (Collecting::new(stdout), Collecting::new(stderr));
    let mut starting = pin!(starting);
    let mut started = None;
    poll_fn(|cx| {
        let _ = feeding.poll(cx);
        let _ = stdout.poll(cx);
        let _ = stderr.poll(cx);
        if started.is_none()
            && let Poll::Ready(result) = starting.as_mut().poll(cx)
        {
            started = Some(result);
        }
        match &started {
            // What couldn't be started says nothing more.
            Some(Err(_)) => Poll::Ready(()),
            // With everything dead nobody reads the input, and what was written is in the pipes.
            Some(Ok(child)) if child.poll_gone(cx).is_ready() => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
    stdout.drain();
    stderr.drain();
    Ok(Complete { child: started.ok_or(Error::Lost)??, stdout: stdout.into_bytes(), stderr: stderr.into_bytes() })
}
