//! The bytes of a blob, in order, from wherever they can be had: continued where a connection broke off, from the next source where one
//! fails, and over several connections where one is slow.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Method, Response};

use super::failure::{Failure, Kind};
use super::retry::Backoff;
use super::session::{Call, Pace, Session, scope};
use super::source::Source;
use crate::digest::Digest;
use crate::error::Error;

/// Blobs from this size on may be fetched over several connections,
const BIG: u64 = 64 << 20;
/// as long as this much is missing,
const REST: u64 = 24 << 20;
/// if so many bytes a second is all that one connection gives
const SLOW: f64 = 20e6;
/// in this time of waiting for it.
const JUDGED_AFTER: Duration = Duration::from_secs(1);
/// What one of several connections fetches at a time. As many of these are held in memory as there are connections.
const SEGMENT: u64 = 8 << 20;
/// How long one waits to see whether a registry sends more than a blob has.
const AFTERWARDS: Duration = Duration::from_millis(500);
/// After so many bytes the tries count anew.
const PROGRESS: u64 = 256 << 10;

pub(super) struct Download<'s> {
    session: &'s Session,
    digest: Digest,
    size: u64,
    part: String,
    /// How many bytes were given out, or were there.
    done: u64,
    /// Who is asked, and who could be instead.
    sources: VecDeque<&'s Source>,
    state: State<'s>,
    ready: VecDeque<Bytes>,
    backoff: Backoff,
    since_failure: u64,
    waited: Duration,
    came: u64,
    several: bool,
    complaints: Vec<String>,
    used: Vec<&'s Source>,
}

enum State<'s> {
    Closed,
    One {
        response: Response,
        /// Bytes that come although they were there.
        skip: u64,
        pace: Pace,
    },
    Several {
        segments: FuturesOrdered<BoxFuture<'s, Result<Option<Vec<Bytes>>, Failure>>>,
        /// Where the next one begins.
        next: u64,
    },
}

impl<'s> Download<'s> {
    pub(super) fn new(session: &'s Session, digest: &Digest, size: u64, part: &str, start: u64) -> Download<'s> {
        let sources: VecDeque<&Source> = session.asked_for(false).into();
        let backoff = session.backoff(sources.front().unwrap_or(&session.registry()));
        Download {
            session,
            digest: digest.clone(),
            size,
            part: part.to_owned(),
            done: start,
            sources,
            state: State::Closed,
            ready: VecDeque::new(),
            backoff,
            since_failure: 0,
            waited: Duration::ZERO,
            came: 0,
            several: session.settings.ranges > 1,
            complaints: Vec::new(),
            used: Vec::new(),
        }
    }

    /// The next bytes; none at the end, which may come too early or, by one chunk, too late: whoever takes them counts.
    ///
    /// Cancel safe: what wasn't given out is fetched again.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                self.done += bytes.len() as u64;
                self.since_failure += bytes.len() as u64;
                return Ok(Some(bytes));
            }
            let Some(&source) = self.sources.front() else {
                let gone = Failure::new(self.session.registry().address(), Kind::Broken("it failed before".into()));
                let error = self.session.explain(gone, self.session.registry(), &self.part).await;
                return Err(self.session.after(std::mem::take(&mut self.complaints), error));
            };
            match self.step(source).await {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                // More was announced than the blob has, and all of the blob is here.
                Err(_) if self.done == self.size => return Ok(None),
                Err(failure) => self.recover(source, failure).await?,
            }
        }
    }

    /// Takes from mirrors that gave bytes of this blob the right to give more; true if there were any.
    pub(super) fn distrust(&self) -> bool {
        let mirrors: Vec<_> = self.used.iter().filter(|source| source.mirror).collect();
        for mirror in &mirrors {
            tracing::warn!(mirror = %mirror.name, digest = %self.digest, "a mirror gave wrong bytes and isn't asked any more");
            mirror.down.store(true, Ordering::Relaxed);
        }
        !mirrors.is_empty()
    }

    /// Comes a step further; false at the end.
    async fn step(&mut self, source: &'s Source) -> Result<bool, Failure> {
        match &mut self.state {
            State::Closed => {
                self.state = open(self.session, source, &self.digest, self.done).await?;
                if !self.used.iter().any(|used| std::ptr::eq(*used, source)) {
                    self.used.push(source);
                }
            }
            State::One { response, skip, pace } => {
                let begun = Instant::now();
                let chunk = match self.done == self.size {
                    // All is here. Whether there's more is worth a look, and no long wait.
                    true => match tokio::time::timeout(AFTERWARDS, self.session.chunk(&source.address(), response, pace)).await {
                        Ok(chunk) => chunk?,
                        Err(_) => None,
                    },
                    false => self.session.chunk(&source.address(), response, pace).await?,
                };
                self.waited += begun.elapsed();
                let Some(mut bytes) = chunk else {
                    return Ok(false);
                };
                self.came += bytes.len() as u64;
                let known = (*skip).min(bytes.len() as u64);
                *skip -= known;
                bytes = bytes.slice(known as usize..);
                if !bytes.is_empty() {
                    self.ready.push_back(bytes);
                }
                if self.is_slow() {
                    let next = self.done + self.ready.iter().map(|b| b.len() as u64).sum::<u64>();
                    tracing::debug!(digest = %self.digest, next, "the link is slow: over several connections from here on");
                    self.state = State::Several { segments: FuturesOrdered::new(), next };
                }
            }
            State::Several { segments, next } => {
                while segments.len() < self.session.settings.ranges && *next < self.size {
                    let end = self.size.min(*next + SEGMENT);
                    segments.push_back(Box::pin(segment(self.session, source, self.digest.clone(), *next, end)));
                    *next = end;
                }
                match segments.next().await {
                    None => return Ok(false),
                    Some(Ok(Some(chunks))) => self.ready.extend(chunks),
                    Some(Ok(None)) => {
                        // It knows no ranges: go on as before.
                        self.several = false;
                        self.state = State::Closed;
                    }
                    Some(Err(failure)) => return Err(failure),
                }
            }
        }
        Ok(true)
    }

    fn is_slow(&self) -> bool {
        self.several
            && self.size >= BIG
            && self.size.saturating_sub(self.done) >= REST
            && self.waited >= JUDGED_AFTER
            && (self.came as f64) < SLOW * self.waited.as_secs_f64()
    }

    /// Waits for another try with the same source, or goes on to the next.
    async fn recover(&mut self, source: &'s Source, failure: Failure) -> Result<(), Error> {
        self.state = State::Closed;
        if self.since_failure >= PROGRESS {
            self.backoff.progressed();
        }
        self.since_failure = 0;
        let Err(failure) = self.session.again(&mut self.backoff, failure).await else {
            return Ok(());
        };
        if source.mirror {
            self.complaints.push(self.session.mirror_failed(source, &failure, &self.part));
            self.sources.pop_front();
            self.backoff = self.session.backoff(self.sources.front().unwrap_or(&self.session.registry()));
            return Ok(());
        }
        let error = match failure.kind {
            Kind::Broken(why) if self.done > 0 => Error::Interrupted {
                verb: self.session.verb,
                image: self.session.reference.to_string(),
                address: failure.address,
                part: self.part.clone(),
                done: self.done,
                total: self.size,
                why,
            },
            kind => self.session.explain(Failure { kind, ..failure }, source, &self.part).await,
        };
        Err(self.session.after(std::mem::take(&mut self.complaints), error))
    }
}

fn call<'a>(source: &Source, digest: &Digest, scope: &'a str) -> Result<Call<'a>, Failure> {
    let url = source.url(&format!("blobs/{digest}")).map_err(|why| Failure::new(source.address(), Kind::Nonsense(why)))?;
    Ok(Call::new(Method::GET, url, scope))
}

/// Asks for a blob from an offset on.
async fn open<'s>(session: &'s Session, source: &'s Source, digest: &Digest, offset: u64) -> Result<State<'s>, Failure> {
    let scope = scope(&source.repository, "pull");
    let mut call = call(source, digest, &scope)?;
    if offset > 0 {
        call = call.range(offset, None);
    }
    let response = session.request(source, call).await?;
    match response.status().as_u16() {
        206 => {
            starts_at(&response, source, offset)?;
            Ok(State::One { response, skip: 0, pace: Pace::default() })
        }
        // Everything, though asked for the rest only.
        200 => Ok(State::One { response, skip: offset, pace: Pace::default() }),
        416 => Err(Failure::new(source.address(), Kind::Nonsense("it has fewer bytes than the manifest says".into()))),
        _ => Err(session.complaint(source, response).await),
    }
}

/// Fetches some bytes of a blob; none where the source knows no ranges.
async fn segment(session: &Session, source: &Source, digest: Digest, from: u64, end: u64) -> Result<Option<Vec<Bytes>>, Failure> {
    let _connection = session.more_connections.acquire().await;
    let scope = scope(&source.repository, "pull");
    let address = source.address();
    let mut backoff = session.backoff(source);
    let (mut at, mut chunks) = (from, Vec::new());
    loop {
        let mut response = session.request(source, call(source, &digest, &scope)?.range(at, Some(end))).await?;
        match response.status().as_u16() {
            206 => starts_at(&response, source, at)?,
            200 => return Ok(None),
            _ => return Err(session.complaint(source, response).await),
        }
        let mut pace = Pace::default();
        let failure = loop {
            match session.chunk(&address, &mut response, &mut pace).await {
                Ok(Some(bytes)) => {
                    // More than was asked for isn't wanted.
                    let wanted = bytes.slice(..bytes.len().min((end - at) as usize));
                    at += wanted.len() as u64;
                    chunks.push(wanted);
                    if at == end {
                        return Ok(Some(chunks));
                    }
                }
                Ok(None) => break Failure::new(address.clone(), Kind::Broken("it ended early".into())),
                Err(failure) => break failure,
            }
        };
        session.again(&mut backoff, failure).await?;
    }
}

/// Checks that an answer's bytes are those that were asked for.
fn starts_at(response: &Response, source: &Source, offset: u64) -> Result<(), Failure> {
    let range = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
    match range.and_then(first_byte) {
        Some(first) if first == offset => Ok(()),
        // Some leave it out.
        None if range.is_none() => Ok(()),
        _ => {
            let shown = crate::error::shortened(range.unwrap_or_default());
            let why = format!("asked for the bytes from {offset} on, it gave {shown:?}");
            Err(Failure::new(source.address(), Kind::Nonsense(why)))
        }
    }
}

/// The first byte that `Content-Range` names (RFC 9110, section 14.4): `bytes 5-9/10`.
fn first_byte(value: &str) -> Option<u64> {
    let (first, _) = value.trim().strip_prefix("bytes")?.trim_start_matches([' ', '=']).split_once('-')?;
    first.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        let cases = [
            ("bytes 5-9/10", Some(5)),
            ("bytes 0-9/*", Some(0)),
            ("bytes=7-9/10", Some(7)),
            ("bytes */10", None),
            ("5-9", None),
            ("bytes -5", None),
            ("bytes 99999999999999999999-", None),
            ("", None),
        ];
        for (value, expected) in cases {
            assert_eq!(first_byte(value), expected, "{value}");
        }
    }
}
