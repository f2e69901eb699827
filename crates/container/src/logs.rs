//! What a container said: which of it is wanted, and the lines as they come.

use crate::blocking::{self, Async};
use crate::error::Error;
use coracle_spawn::{Log, LogLine, LogReader, OutputStream};
use futures_core::Stream;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

/// What is wanted of a container's log: [`Container::logs`](crate::Container::logs) begins it. All that is kept, if nothing is said.
#[derive(Debug, Clone)]
#[must_use = "nothing is read before collect() or follow()"]
pub struct Logs<Face = Async> {
    id: String,
    log: Option<Log>,
    tail: Option<usize>,
    wanted: Wanted,
    face: PhantomData<Face>,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    since: Option<SystemTime>,
    until: Option<SystemTime>,
    stream: Option<OutputStream>,
}

impl Wanted {
    fn has(&self, line: &LogLine) -> bool {
        self.since.is_none_or(|since| line.time >= since)
            && self.until.is_none_or(|until| line.time <= until)
            && self.stream.is_none_or(|stream| line.stream == stream)
    }
}

impl<Face> Logs<Face> {
    pub(crate) fn new(id: String, log: Option<Log>) -> Self {
        Self { id, log, tail: None, wanted: Wanted { since: None, until: None, stream: None }, face: PhantomData }
    }

    /// The same, with lines that are waited for in another way.
    pub(crate) fn faced<Other>(self) -> Logs<Other> {
        Logs { id: self.id, log: self.log, tail: self.tail, wanted: self.wanted, face: PhantomData }
    }

    /// Only the last so many of the lines that are there, of those that are wanted otherwise.
    pub fn tail(mut self, lines: usize) -> Self {
        self.tail = Some(lines);
        self
    }

    /// Only lines that began at this time or later.
    pub fn since(mut self, time: SystemTime) -> Self {
        self.wanted.since = Some(time);
        self
    }

    /// Only lines that began at this time or earlier. Who [follows](Self::follow) comes to an end at the first later line.
    pub fn until(mut self, time: SystemTime) -> Self {
        self.wanted.until = Some(time);
        self
    }

    /// Only one of the two streams.
    pub fn stream(mut self, stream: OutputStream) -> Self {
        self.wanted.stream = Some(stream);
        self
    }

    /// The lines that are there, oldest first. What no newline has ended yet is a line too, and its [`LogLine::complete`] says so.
    ///
    /// # Errors
    /// [`Error::NoLog`]; [`Error::State`].
    pub fn collect(self) -> Result<Vec<LogLine>, Error> {
        let log = self.log()?;
        let failed = |source| Error::State { attempted: "read the log of", path: self.id.clone().into(), source };
        let mut reader = log.lines();
        let mut lines = self.there(&mut reader).map_err(failed)?;
        lines.extend(reader.take_partial().into_iter().filter(|line| self.wanted.has(line)));
        if let Some(most) = self.tail {
            lines.drain(..lines.len().saturating_sub(most));
        }
        Ok(lines.into())
    }

    pub(crate) fn following(self) -> Result<LogStream, Error> {
        let mut reader = self.log()?.lines();
        let mut ready = VecDeque::new();
        if self.tail.is_some() {
            ready = self.there(&mut reader).map_err(|source| Error::State {
                attempted: "read the log of",
                path: self.id.clone().into(),
                source,
            })?;
        }
        Ok(LogStream { id: self.id, reader, ready, wanted: self.wanted, over: false })
    }

    /// Hands every line on to [`tracing`], by a thread that ends with the container: at level INFO, with the target
    /// `coracle_container::logs`, and the fields `container`, `stream` and `message`.
    ///
    /// # Errors
    /// [`Error::NoLog`]; [`Error::State`].
    pub fn forward_to_tracing(self) -> Result<(), Error> {
        let id = self.id.clone();
        let failed = |source| Error::State { attempted: "start a thread for the log of", path: id.into(), source };
        let builder = std::thread::Builder::new().name("coracle-log".into());
        let mut lines = self.following()?;
        // The caller's subscriber may be his thread's own.
        let dispatch = tracing::dispatcher::get_default(Clone::clone);
        let thread = builder.spawn(move || {
            tracing::dispatcher::with_default(&dispatch, || {
                while let Ok(Some(line)) = blocking::wait(lines.next()) {
                    let stream = if line.stream == OutputStream::Stdout { "stdout" } else { "stderr" };
                    tracing::info!(target: "coracle_container::logs", container = %lines.id, stream, "{}", line.text());
                }
            });
        });
        thread.map(drop).map_err(failed)
    }

    fn log(&self) -> Result<&Log, Error> {
        self.log.as_ref().ok_or_else(|| Error::NoLog { id: self.id.clone() })
    }

    /// The lines that are there whole and wanted.
    fn there(&self, reader: &mut LogReader) -> io::Result<VecDeque<LogLine>> {
        let mut lines = VecDeque::new();
        while let Some(line) = reader.next_now()? {
            if self.wanted.has(&line) {
                lines.push_back(line);
            }
            // One more than is wanted may come of a line without end.
            if self.tail.is_some_and(|most| lines.len() > most) {
                lines.pop_front();
            }
        }
        Ok(lines)
    }
}

impl Logs {
    /// The lines that are there, and then each as it comes, until the container has ended.
    ///
    /// # Errors
    /// [`Error::NoLog`]; [`Error::State`].
    pub fn follow(self) -> Result<LogStream, Error> {
        self.following()
    }
}

/// Lines of a container as they come: [`Logs::follow`] gives it. A [`Stream`], too.
///
/// A reader who is slower than the container may find lines gone; [`LogLine::skipped`] says so. Belongs to no runtime, and holds the
/// container neither alive nor up.
#[derive(Debug)]
#[must_use = "lines come to who asks"]
pub struct LogStream {
    id: String,
    reader: LogReader,
    ready: VecDeque<LogLine>,
    wanted: Wanted,
    over: bool,
}

impl LogStream {
    /// The next line; `None` when the container has ended and all was read, or a line is later than the last that was wanted.
    ///
    /// Cancel-safe: what wasn't returned is returned by the next call.
    ///
    /// # Errors
    /// [`Error::State`].
    pub async fn next(&mut self) -> Result<Option<LogLine>, Error> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<LogLine>, Error>> {
        if let Some(line) = self.ready.pop_front() {
            return Poll::Ready(Ok(Some(line)));
        }
        while !self.over {
            match self.reader.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Some(line))) if self.wanted.has(&line) => return Poll::Ready(Ok(Some(line))),
                Poll::Ready(Ok(Some(line))) => self.over = self.wanted.until.is_some_and(|until| line.time > until),
                Poll::Ready(Ok(None)) => self.over = true,
                Poll::Ready(Err(source)) => {
                    self.over = true;
                    return Poll::Ready(Err(Error::State { attempted: "read the log of", path: self.id.clone().into(), source }));
                }
            }
        }
        Poll::Ready(Ok(None))
    }
}

impl Stream for LogStream {
    type Item = Result<LogLine, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx).map(Result::transpose)
    }
}
