//! Streams to ports and Unix sockets inside a container, from outside.
//!
//! A socket is opened inside and handed out, so that a container without any network can be talked to, without a port on the host.

use crate::container::Container;
use crate::error::Error;
use coracle_spawn::{Interior, Socket};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream to a port or a Unix socket inside a container. Dropping it closes it.
///
/// It belongs to no runtime, and lives on its own: [`Container`] may be used, and dropped, beside it. [`into_fd`](Self::into_fd) gives what
/// other runtimes' types are made of.
#[derive(Debug)]
pub struct ContainerStream(Socket);

impl ContainerStream {
    /// The socket itself, in blocking mode.
    ///
    /// # Errors
    /// Where this process has as many descriptors as it may.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        self.0.into_fd()
    }
}

impl AsFd for ContainerStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsyncRead for ContainerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, into.initialize_unfilled()).map_ok(|n| into.advance(n))
    }
}

impl AsyncWrite for ContainerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.shutdown_write())
    }
}

impl Container {
    /// Connects to a TCP port inside, by the container's own loopback interface: IPv4's, and IPv6's where nothing listens there. It needs no
    /// network, and no port on the host: a thousand containers may each listen at the same one.
    ///
    /// Root and a plain user alike may, and so may whoever [attached](crate::Engine::attach). Cancel-safe: dropping the future leaves nothing.
    ///
    /// ```no_run
    /// # async fn f(database: coracle_container::Container) -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    /// let mut stream = database.connect(6379).await?;
    /// stream.write_all(b"PING\r\n").await?;
    /// let mut answer = [0; 7];
    /// stream.read_exact(&mut answer).await?;
    /// assert_eq!(&answer, b"+PONG\r\n");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Connect`] where nothing listens, or the container has the host's network; [`Error::Start`] where it has ended.
    pub async fn connect(&self, port: u16) -> Result<ContainerStream, Error> {
        to_port(&self.running_interior()?, port).await
    }

    /// The same for who has no runtime and wants none: blocks this thread until it is connected.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_blocking(&self, port: u16) -> Result<TcpStream, Error> {
        let socket = self.running_interior()?.connect(port)?.wait()?;
        Ok(socket.into_fd().map_err(copied)?.into())
    }

    /// Connects to a Unix socket at a path inside, as the container's root. The path is looked up in the container; no symlink leads out.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); [`Error::Connect`] also where there is no such path, or something else.
    pub async fn connect_unix(&self, path: impl AsRef<Path>) -> Result<ContainerStream, Error> {
        to_path(&self.running_interior()?, path.as_ref()).await
    }

    /// The same, blocking this thread.
    ///
    /// # Errors
    /// As [`connect_unix`](Self::connect_unix).
    pub fn connect_unix_blocking(&self, path: impl AsRef<Path>) -> Result<UnixStream, Error> {
        let socket = self.running_interior()?.connect_unix(path.as_ref())?.wait()?;
        Ok(socket.into_fd().map_err(copied)?.into())
    }
}

pub(crate) async fn to_port(interior: &Interior, port: u16) -> Result<ContainerStream, Error> {
    Ok(ContainerStream(interior.connect(port)?.await?))
}

pub(crate) async fn to_path(interior: &Interior, path: &Path) -> Result<ContainerStream, Error> {
    Ok(ContainerStream(interior.connect_unix(path)?.await?))
}

fn copied(source: io::Error) -> Error {
    Error::State { attempted: "copy", path: "a socket's descriptor".into(), source }
}
