//! Standard streams of a container, as tokio's traits but without tokio's runtime.

use coracle_spawn::{PipeReader, PipeWriter};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Where a standard stream of a container comes from or goes to.
#[derive(Debug, Clone)]
#[must_use]
pub struct Stdio(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Inherit,
    Null,
    Piped,
    Descriptor(Arc<OwnedFd>),
    Log,
}

impl Stdio {
    /// This process's own stream, straight to the command: nothing copies, and its flags stay as they are.
    pub fn inherit() -> Self {
        Self(Kind::Inherit)
    }

    /// /dev/null.
    pub fn null() -> Self {
        Self(Kind::Null)
    }

    /// A pipe, whose other end the [`Container`](crate::Container) has. Who doesn't read it lets the command wait.
    pub fn piped() -> Self {
        Self(Kind::Piped)
    }

    /// The container's log, which its supervisor keeps and [`Container::logs`](crate::Container::logs) reads: standard output or error. It
    /// never lets the command wait for a reader, goes round within [a size](crate::ContainerBuilder::log_size), and is readable from its
    /// first line on until the container's files are gone, by whoever holds the [`Container`](crate::Container) afterwards too.
    pub fn log() -> Self {
        Self(Kind::Log)
    }

    /// Whether it goes through the supervisor, or may.
    pub(crate) fn can_be_counted(&self) -> bool {
        matches!(self.0, Kind::Log | Kind::Piped | Kind::Null)
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.0, Kind::Null)
    }

    pub(crate) fn is_log(&self) -> bool {
        matches!(self.0, Kind::Log)
    }

    pub(crate) fn to_spawn(&self) -> io::Result<coracle_spawn::Stdio> {
        Ok(match &self.0 {
            Kind::Inherit => coracle_spawn::Stdio::inherit(),
            Kind::Null => coracle_spawn::Stdio::null(),
            Kind::Piped => coracle_spawn::Stdio::piped(),
            Kind::Descriptor(fd) => fd.try_clone()?.into(),
            Kind::Log => coracle_spawn::Stdio::log(),
        })
    }
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Self(Kind::Descriptor(Arc::new(fd)))
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Self {
        Self::from(OwnedFd::from(file))
    }
}

/// The input of a container. Dropping it is the end of the input.
#[derive(Debug)]
pub struct ContainerStdin(pub(crate) PipeWriter);

impl AsyncWrite for ContainerStdin {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    /// Only dropping ends the input: a pipe has no other end.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

macro_rules! output {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(pub(crate) PipeReader);

        impl AsyncRead for $name {
            fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                self.0.poll_read(cx, into.initialize_unfilled()).map_ok(|n| into.advance(n))
            }
        }
    };
}

output!(
    /// The output of a container.
    ContainerStdout
);
output!(
    /// The error output of a container.
    ContainerStderr
);

/// Bytes of a stream, read to its end.
pub(crate) struct Collecting {
    from: Option<PipeReader>,
    bytes: Vec<u8>,
}

impl Collecting {
    pub(crate) fn new(from: Option<PipeReader>) -> Self {
        Self { from, bytes: Vec::new() }
    }

    /// Reads what there is; ready at the end of the stream.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut piece = [0; 32 << 10];
        while let Some(from) = &mut self.from {
            match from.poll_read(cx, &mut piece) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(n @ 1..)) => self.bytes.extend_from_slice(&piece[..n]),
                Poll::Ready(Ok(_) | Err(_)) => self.from = None,
            }
        }
        Poll::Ready(())
    }

    /// Reads what is left when whoever was to write has ended. Somebody else may hold the stream open, and may even write: that isn't
    /// waited for, and has an end.
    pub(crate) fn drain(&mut self) {
        // The largest pipe that nobody had to be root for.
        const MOST: usize = 1 << 20;
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut piece = [0; 32 << 10];
        let most = self.bytes.len() + MOST;
        while let Some(from) = &mut self.from {
            match from.poll_read(&mut cx, &mut piece) {
                Poll::Ready(Ok(n @ 1..)) if self.bytes.len() < most => self.bytes.extend_from_slice(&piece[..n]),
                _ => self.from = None,
            }
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Bytes for a stream, written as fast as they are taken.
pub(crate) struct Feeding {
    to: Option<PipeWriter>,
    bytes: Arc<[u8]>,
    at: usize,
}

impl Feeding {
    pub(crate) fn new(to: Option<PipeWriter>, bytes: Arc<[u8]>) -> Self {
        Self { to, bytes, at: 0 }
    }

    /// Writes what is taken; ready when all is, or when nobody reads any more.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let (Some(to), true) = (&mut self.to, self.at < self.bytes.len()) {
            match to.poll_write(cx, &self.bytes[self.at..]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(n)) => self.at += n,
                Poll::Ready(Err(_)) => break,
            }
        }
        self.to = None;
        Poll::Ready(())
    }
}
