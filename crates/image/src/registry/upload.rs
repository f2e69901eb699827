//! A blob on its way into a registry (OCI distribution-spec, "Pushing blobs").
//!
//! ```text
//!  HEAD blob ──200──▶ it's there
//!     │ else
//!  POST uploads/?mount&from ──201──▶ it was in another repository
//!     │ 202 Location
//!     ├─▶ PUT Location?digest with all bytes ──201──▶ done       413: in chunks
//!     └─▶ PATCH Location, chunk by chunk; PUT Location?digest ──201──▶ done
//!          broken off: GET Location says how far it came, and it goes on there; else from the beginning
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LOCATION, RANGE};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::mpsc;

use super::client::said_digest;
use super::failure::{Failure, Kind};
use super::session::{Call, Payload, Session};
use super::source::Source;
use crate::digest::Digest;
use crate::progress::STEP;

/// What is sent at once where a registry wants chunks: some take no more.
const CHUNK: u64 = 4 << 20;
/// The bytes that are read from a file at once.
const READ: usize = 128 << 10;

/// A blob to be sent.
pub(super) struct Upload<'a> {
    pub(super) session: &'a Session,
    pub(super) source: &'a Source,
    pub(super) scope: &'a str,
    pub(super) digest: &'a Digest,
    pub(super) content: Content,
    /// Another repository of the registry that may have it.
    pub(super) from: Option<&'a str>,
    /// Told of how many bytes went.
    pub(super) report: Arc<dyn Fn(u64) + Send + Sync>,
}

/// Where a blob's bytes are.
#[derive(Clone)]
pub(super) enum Content {
    File(Arc<File>, u64),
    Memory(Bytes),
}

impl Content {
    fn len(&self) -> u64 {
        match self {
            Content::File(_, length) => *length,
            Content::Memory(bytes) => bytes.len() as u64,
        }
    }
}

/// An upload that the registry has begun.
struct Begun {
    location: Url,
    /// The least that a chunk has to have, where the registry says so.
    least: Option<u64>,
    offset: u64,
}

impl Upload<'_> {
    /// Brings the blob into the repository. Says whether its bytes had to be sent.
    pub(super) async fn run(&self) -> Result<bool, Failure> {
        let head = self.session.call(self.source, Method::HEAD, &format!("blobs/{}", self.digest), self.scope)?;
        if self.session.request(self.source, head).await?.status().is_success() {
            return Ok(false);
        }
        let mut backoff = self.session.backoff(self.source);
        let (mut begun, mut chunks) = (None, false);
        loop {
            let failure = match self.attempt(&mut begun, chunks).await {
                Ok(sent) => return Ok(sent),
                Err(failure) => failure,
            };
            match &failure.kind {
                Kind::Status(status) if status.code == StatusCode::PAYLOAD_TOO_LARGE && !chunks => {
                    (begun, chunks) = (None, true);
                    continue;
                }
                // An upload that the registry has forgotten, or that it and we disagree on: anew, if there is another try.
                Kind::Status(status) if matches!(status.code.as_u16(), 404 | 416) && begun.is_some() => {
                    begun = None;
                    let broken = Failure::new(failure.address.clone(), Kind::Broken(failure.brief(None)));
                    self.session.again(&mut backoff, broken).await.map_err(|_| failure)?;
                    continue;
                }
                _ => {}
            }
            self.session.again(&mut backoff, failure).await?;
            if let Some(upload) = begun.take() {
                begun = self.how_far(upload).await;
            }
        }
    }

    /// Begins the upload or goes on with it.
    async fn attempt(&self, begun: &mut Option<Begun>, chunks: bool) -> Result<bool, Failure> {
        if begun.is_none() {
            *begun = self.begin().await?;
        }
        // Mounted.
        let Some(upload) = begun else {
            return Ok(false);
        };
        let total = self.content.len();
        if chunks || upload.least.is_some() || upload.offset > 0 {
            let chunk = CHUNK.max(upload.least.unwrap_or_default());
            while upload.offset < total {
                let end = total.min(upload.offset + chunk);
                self.patch(upload, end).await?;
            }
        }
        let mut url = upload.location.clone();
        url.query_pairs_mut().append_pair("digest", &self.digest.to_string());
        let response = self.send(Method::PUT, url, upload.offset, total, false).await?;
        match said_digest(response.headers()) {
            Some(said) if said != *self.digest => {
                let why = format!("it took {} for {said}", self.digest);
                Err(self.nonsense(&why))
            }
            _ => Ok(true),
        }
    }

    /// Begins an upload; none where the blob was mounted.
    async fn begin(&self) -> Result<Option<Begun>, Failure> {
        let (session, source) = (self.session, self.source);
        if let Some(from) = self.from {
            let path = format!("blobs/uploads/?mount={}&from={from}", self.digest);
            let call = session.call(source, Method::POST, &path, self.scope)?.header(CONTENT_LENGTH, "0");
            let response = session.request(source, call).await?;
            match response.status() {
                StatusCode::CREATED => return Ok(None),
                StatusCode::ACCEPTED => return self.begun(response).map(Some),
                // It may not be read there, or the registry mounts nothing.
                _ => {}
            }
        }
        let call = session.call(source, Method::POST, "blobs/uploads/", self.scope)?.header(CONTENT_LENGTH, "0");
        self.begun(session.success(source, call).await?).map(Some)
    }

    fn begun(&self, response: Response) -> Result<Begun, Failure> {
        let least = response.headers().get("oci-chunk-min-length").and_then(|v| v.to_str().ok()?.trim().parse().ok());
        let location = self.location(response.url(), response.headers())?.ok_or_else(|| self.nonsense("an upload without a place"))?;
        Ok(Begun { location, least, offset: 0 })
    }

    /// Where an upload goes on.
    fn location(&self, at: &Url, headers: &HeaderMap) -> Result<Option<Url>, Failure> {
        let Some(location) = headers.get(LOCATION).and_then(|v| v.to_str().ok()) else {
            return Ok(None);
        };
        let next = at.join(location).map_err(|_| self.nonsense("an upload's place that isn't an address"))?;
        match (at.scheme(), next.scheme()) {
            (_, "https") | ("http", "http") => Ok(Some(next)),
            _ => Err(Failure::new(self.source.address(), Kind::Unsafe("wants an upload without TLS".into()))),
        }
    }

    /// Sends one chunk, up to the byte before `end`.
    async fn patch(&self, upload: &mut Begun, end: u64) -> Result<(), Failure> {
        let response = self.send(Method::PATCH, upload.location.clone(), upload.offset, end, true).await?;
        if let Some(location) = self.location(response.url(), response.headers())? {
            upload.location = location;
        }
        // Some registries took less than they were sent, or kept the last chunk alone.
        let taken = range_end(response.headers()).map_or(end, |last| last + 1);
        if taken <= upload.offset || taken > end {
            return Err(self.nonsense(&format!("of the bytes to {end} it says to have {taken}")));
        }
        upload.offset = taken;
        Ok(())
    }

    /// Asks how far a broken upload came; none where it has to begin anew.
    async fn how_far(&self, upload: Begun) -> Option<Begun> {
        let call = Call::new(Method::GET, upload.location.clone(), self.scope);
        let response = self.session.request(self.source, call).await.ok()?;
        if !response.status().is_success() {
            return None;
        }
        let location = self.location(response.url(), response.headers()).ok()?.unwrap_or(upload.location);
        // `0-0` is what some say who have nothing, others who have one byte.
        let offset = range_end(response.headers()).filter(|last| *last > 0).map_or(0, |last| last + 1);
        (offset <= self.content.len()).then_some(Begun { location, offset, ..upload })
    }

    /// Sends some of the blob's bytes.
    async fn send(&self, method: Method, url: Url, from: u64, end: u64, chunk: bool) -> Result<Response, Failure> {
        let sent = Arc::new(AtomicU64::new(0));
        let body = || reqwest::Body::wrap(self.body(from, end, sent.clone()));
        let mut call = Call::new(method, url, self.scope)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, &(end - from).to_string());
        if chunk {
            call = call.header(CONTENT_RANGE, &format!("{from}-{}", end - 1));
        }
        if end > from {
            call = call.body(Payload::Stream(&body, &sent));
        }
        // Not tried again as it is: how far it came has to be asked first.
        let response = self.session.attempt(self.source, &call).await?;
        match response.status() {
            code if code.is_success() => Ok(response),
            _ => Err(self.session.complaint(self.source, response).await),
        }
    }

    fn body(&self, from: u64, end: u64, sent: Arc<AtomicU64>) -> Piece {
        let (sender, receiver) = mpsc::channel(4);
        sent.store(0, Ordering::Relaxed);
        match self.content.clone() {
            Content::File(file, _) => drop(tokio::task::spawn_blocking(move || read(&file, from, end, &sender))),
            Content::Memory(bytes) => drop(sender.try_send(Ok(bytes.slice(from as usize..end as usize)))),
        }
        Piece { receiver, left: end - from, at: from, shown: from, sent, report: self.report.clone() }
    }

    fn nonsense(&self, why: &str) -> Failure {
        Failure::new(self.source.address(), Kind::Nonsense(why.to_owned()))
    }
}

/// Reads a part of a file, as long as somebody takes it.
fn read(file: &File, mut from: u64, end: u64, sender: &mpsc::Sender<io::Result<Bytes>>) {
    while from < end {
        let mut buffer = vec![0; READ.min((end - from) as usize)];
        let piece = file.read_exact_at(&mut buffer, from).map(|()| Bytes::from(buffer));
        let failed = piece.is_err();
        from += READ.min((end - from) as usize) as u64;
        if sender.blocking_send(piece).is_err() || failed {
            return;
        }
    }
}

/// The last byte of `Range: 0-1023`, as registries answer.
fn range_end(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(RANGE)?.to_str().ok()?;
    let value = value.trim().trim_start_matches("bytes").trim_start_matches(['=', ' ']);
    value.split_once('-')?.1.trim().parse().ok()
}

/// Bytes of a blob as the body of a request, whose length is known.
struct Piece {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
    at: u64,
    shown: u64,
    sent: Arc<AtomicU64>,
    report: Arc<dyn Fn(u64) + Send + Sync>,
}

impl Body for Piece {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        match self.receiver.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
            Poll::Ready(Some(Ok(bytes))) => {
                let length = bytes.len() as u64;
                self.left = self.left.saturating_sub(length);
                self.at += length;
                self.sent.fetch_add(length, Ordering::Relaxed);
                if self.at - self.shown >= STEP || self.left == 0 {
                    self.shown = self.at;
                    (self.report)(self.at);
                }
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Verb;
    use crate::registry::session::{Report, scope};
    use crate::registry::settings::Settings;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    #[test]
    fn ranges_of_uploads_are_read() {
        let cases =
            [("0-1023", Some(1023)), ("bytes=0-9", Some(9)), (" 0-0 ", Some(0)), ("0-", None), ("9", None), ("", None), ("0--1", None)];
        for (value, last) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, value.parse().unwrap());
            assert_eq!(range_end(&headers), last, "{value:?}");
        }
    }

    struct Stopped(std::process::Child);

    impl Drop for Stopped {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Needs docker-registry, which never asks for chunks by itself.
    #[test]
    fn a_real_registry_takes_chunks_and_says_how_far_an_upload_came() {
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}/data\nhttp:\n  addr: 127.0.0.1:{port}\n",
            dir.path().display()
        );
        std::fs::write(dir.path().join("config.yml"), config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(dir.path().join("config.yml")).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(child) = command.spawn() else {
            println!("SKIP: docker-registry");
            return;
        };
        let _stopped = Stopped(child);
        let end = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "docker-registry doesn't start");
            std::thread::sleep(Duration::from_millis(10));
        }
        let bytes: Bytes = (0..10_000_000u32).map(|n| (n ^ (n >> 9)) as u8).collect::<Vec<u8>>().into();
        let digest = Digest::sha256(&bytes);
        let reference = format!("127.0.0.1:{port}/team/x:1").parse().unwrap();
        let session = Session::new(Settings::default(), &Arc::default(), reference, Verb::Push, Report::default()).unwrap();
        let scope = scope("team/x", "pull,push");
        let upload = Upload {
            session: &session,
            source: session.registry(),
            scope: &scope,
            digest: &digest,
            content: Content::Memory(bytes),
            from: None,
            report: Arc::new(|_| {}),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut begun = upload.begin().await.unwrap().unwrap();
            upload.patch(&mut begun, CHUNK).await.unwrap();
            assert_eq!(begun.offset, CHUNK);
            // As after a connection that broke off.
            let begun = upload.how_far(Begun { offset: 0, ..begun }).await.unwrap();
            assert_eq!(begun.offset, CHUNK);
            assert!(upload.attempt(&mut Some(begun), true).await.unwrap());
            assert!(!upload.run().await.unwrap(), "it is there");
        });
    }
}
