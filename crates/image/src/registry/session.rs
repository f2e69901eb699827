//! One conversation with a registry and its mirrors: requests, with what they need to be answered: credentials, patience, redirects.
//!
//! ```text
//!  request ─▶ attempt ─▶ hops ─▶ send
//!    │ passing failure: wait, try again      │ 401 of the registry itself: get a token, ask again once
//!    └─▶ next source, where there are mirrors└─▶ 3xx: ask there, without secrets where the origin is another
//! ```

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Method, Response, StatusCode, Url};
use rustls::RootCertStore;
use tokio::sync::Semaphore;

use super::Callback;
use super::challenge;
use super::credentials::Credentials;
use super::failure::{Failure, Kind, Status, Told, is_passing};
use super::retry::{Backoff, retry_after};
use super::settings::Settings;
use super::source::{Source, sources};
use super::token::{Service, TOKEN_MAX, Token, basic, bearer};
use super::transport::{Manner, Tls, Transport};
use crate::error::{Error, Verb};
use crate::progress::Progress;
use crate::reference::Reference;

/// Redirects that are followed.
const HOPS: usize = 10;
/// The longest answer that is read to say what is wrong.
const COMPLAINT_MAX: usize = 64 << 10;
/// How much of an answer that nobody wants is read, to use the connection again.
const REST_MAX: usize = 64 << 10;
/// Connections beyond one a layer.
const MORE_CONNECTIONS: usize = 8;

/// What a registry may be asked to be allowed to do: `repository:team/app:pull`.
pub(super) fn scope(repository: &str, actions: &str) -> String {
    format!("repository:{repository}:{actions}")
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) settings: Settings,
    pub(super) reference: Reference,
    /// What all of it is for.
    pub(super) verb: Verb,
    /// The mirrors, and the registry itself as the last.
    pub(super) sources: Vec<Source>,
    pub(super) more_connections: Semaphore,
    transport: Arc<Transport>,
    report: Report,
}

/// Who is told of waiting.
#[derive(Clone, Default)]
pub(super) struct Report(pub(super) Option<Callback>);

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Report(..)" } else { "Report" })
    }
}

impl Report {
    pub(super) fn tell(&self, progress: Progress) {
        if let Some(callback) = &self.0 {
            callback(progress);
        }
    }
}

/// A request.
#[derive(Clone)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Payload<'a>,
    pub(super) scope: &'a str,
}

/// What a request carries. It can be made as often as a request is tried.
#[derive(Clone)]
pub(super) enum Payload<'a> {
    Nothing,
    Bytes(Bytes),
    /// A body, and how many bytes of it went out.
    Stream(&'a (dyn Fn() -> reqwest::Body + Send + Sync), &'a AtomicU64),
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, url: Url, scope: &'a str) -> Call<'a> {
        Call { method, url, headers: HeaderMap::new(), body: Payload::Nothing, scope }
    }

    pub(super) fn accept(mut self, types: &'static str) -> Self {
        self.headers.insert(ACCEPT, HeaderValue::from_static(types));
        self
    }

    /// Asks for the bytes from an offset on, to the one before `end` or to the last.
    pub(super) fn range(mut self, from: u64, end: Option<u64>) -> Self {
        let value = match end {
            Some(end) => format!("bytes={from}-{}", end - 1),
            None => format!("bytes={from}-"),
        };
        self.headers.insert(RANGE, HeaderValue::try_from(value).expect("numbers can stand in a header"));
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    pub(super) fn body(self, body: Payload<'a>) -> Self {
        Call { body, ..self }
    }
}

/// How fast the bytes of one answer come: since the last look, by the time that was spent waiting for them.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waited: Duration,
    came: u64,
}

/// To whom a request's secrets belong.
struct Owner<'a> {
    owns: &'a (dyn Fn(&Url) -> bool + Send + Sync),
    tls: &'a Tls,
    dial: Duration,
    secrets: HeaderMap,
}

impl Session {
    /// Looks where the image may be had: reads files of settings.
    pub(super) fn new(
        settings: Settings,
        roots: &Arc<OnceLock<RootCertStore>>,
        reference: Reference,
        verb: Verb,
        report: Report,
    ) -> Result<Session, Error> {
        let transport = Arc::new(Transport::new(&settings, roots)?);
        let sources = sources(&settings, &reference, verb)?;
        Ok(Session { settings, reference, verb, sources, more_connections: Semaphore::new(MORE_CONNECTIONS), transport, report })
    }

    /// The registry itself.
    pub(super) fn registry(&self) -> &Source {
        self.sources.last().expect("a registry is a source of its images")
    }

    /// The sources that may still be asked for something, the first first.
    pub(super) fn asked_for(&self, tag: bool) -> Vec<&Source> {
        self.sources.iter().filter(|s| !s.down.load(Ordering::Relaxed) && if tag { s.resolve } else { s.pull }).collect()
    }

    /// Asks one source after the other, until one has what is wanted.
    pub(super) async fn ask_sources<'s, T, F>(&'s self, tag: bool, part: &str, ask: impl Fn(&'s Source) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut complaints = Vec::new();
        for source in self.asked_for(tag) {
            let failure = match ask(source).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if !source.mirror {
                return Err(self.after(complaints, self.explain(failure, source, part).await));
            }
            complaints.push(self.mirror_failed(source, &failure, part));
        }
        // The registry was out already, as one that lied.
        let gone = Failure::new(self.registry().address(), Kind::Broken("it failed before".into()));
        Err(self.after(complaints, self.explain(gone, self.registry(), part).await))
    }

    /// Says that a mirror failed, and asks it no more where it isn't only that it lacks something.
    pub(super) fn mirror_failed(&self, source: &Source, failure: &Failure, part: &str) -> String {
        let brief = failure.brief(Some(part));
        tracing::warn!(mirror = %source.name, why = %brief, "a mirror is passed over");
        if !matches!(&failure.kind, Kind::Status(status) if status.is_unknown()) {
            source.down.store(true, Ordering::Relaxed);
        }
        format!("the mirror {} {brief}", source.name)
    }

    pub(super) fn after(&self, mirrors: Vec<String>, error: Error) -> Error {
        match mirrors.is_empty() {
            true => error,
            false => Error::Mirrors { error: Box::new(error), mirrors },
        }
    }

    /// Sends a request until it's answered with something that isn't a passing failure.
    pub(super) async fn request(&self, source: &Source, call: Call<'_>) -> Result<Response, Failure> {
        let mut backoff = self.backoff(source);
        loop {
            let failure = match self.attempt(source, &call).await {
                Ok(response) if !is_passing(response.status()) => return Ok(response),
                Ok(response) => self.complaint(source, response).await,
                Err(failure) => failure,
            };
            self.again(&mut backoff, failure).await?;
        }
    }

    /// Sends a request until all of its answer is here, of which no more than `max` bytes and one chunk are held: headers, the length
    /// that was announced, bytes.
    pub(super) async fn document(&self, source: &Source, call: Call<'_>, max: usize) -> Result<(HeaderMap, Option<u64>, Bytes), Failure> {
        let mut backoff = self.backoff(source);
        loop {
            let failure = match self.attempt(source, &call).await {
                Ok(response) if response.status().is_success() => {
                    let (headers, length) = (response.headers().clone(), response.content_length());
                    match self.body(&source.address(), response, max).await {
                        Ok(bytes) => return Ok((headers, length, bytes)),
                        Err(failure) => failure,
                    }
                }
                Ok(response) => self.complaint(source, response).await,
                Err(failure) => failure,
            };
            self.again(&mut backoff, failure).await?;
        }
    }

    /// Sends a request, and takes any other answer than success for a failure.
    pub(super) async fn success(&self, source: &Source, call: Call<'_>) -> Result<Response, Failure> {
        let response = self.request(source, call).await?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(self.complaint(source, response).await),
        }
    }

    /// A mirror that fails has others behind it: it gets one more chance, and not all.
    pub(super) fn backoff(&self, source: &Source) -> Backoff {
        Backoff::new(if source.mirror { self.settings.retries.min(1) } else { self.settings.retries })
    }

    /// Waits, where another try is worth it and left.
    pub(super) async fn again(&self, backoff: &mut Backoff, failure: Failure) -> Result<(), Failure> {
        if !failure.is_passing() || failure.wait() > self.settings.patience {
            return Err(failure);
        }
        let Some(wait) = backoff.next() else {
            return Err(failure);
        };
        let wait = wait.max(failure.wait());
        let why = failure.brief(None);
        tracing::debug!(address = %failure.address, %why, ?wait, "trying again");
        self.report.tell(Progress::Waiting { address: failure.address, why, wait });
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Sends a request once, however it's answered; a registry that wants to see a token or a password is shown one.
    pub(super) async fn attempt(&self, source: &Source, call: &Call<'_>) -> Result<Response, Failure> {
        let mut shown = source.access.lock().await.header(call.scope);
        let mut again = true;
        loop {
            let (response, own) = match self.to_source(source, call, shown.clone()).await {
                Err(Failure { kind: Kind::Tls(_) | Kind::Unreachable(_), .. }) if source.lax && !source.plain() => {
                    source.make_plain();
                    self.to_source(source, call, shown.clone()).await?
                }
                other => other?,
            };
            if response.status() != StatusCode::UNAUTHORIZED || !own {
                return Ok(response);
            }
            let challenges: Vec<_> = response
                .headers()
                .get_all(WWW_AUTHENTICATE)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(challenge::parse)
                .collect();
            if !again || challenges.is_empty() {
                return Ok(response);
            }
            self.drain(response).await;
            again = false;
            match self.answer(source, call.scope, &challenges, shown.as_ref()).await? {
                Some(header) => shown = Some(header),
                None => return Err(Failure::new(source.address(), Kind::Denied("401 Unauthorized"))),
            }
        }
    }

    async fn to_source(&self, source: &Source, call: &Call<'_>, shown: Option<HeaderValue>) -> Result<(Response, bool), Failure> {
        let mut secrets = source.headers().clone();
        if let Some(shown) = shown {
            secrets.insert(AUTHORIZATION, shown);
        }
        let mut call = call.clone();
        if source.plain() && call.url.scheme() == "https" && source.lax {
            let _ = call.url.set_scheme("http");
        }
        self.hops(call, Owner { owns: &|url| source.owns(url), tls: &source.tls, dial: source.dial, secrets }).await
    }

    /// Finds out what to show a registry. None where there is nothing, or it was shown already.
    async fn answer(
        &self,
        source: &Source,
        scope: &str,
        challenges: &[challenge::Challenge],
        shown: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, Failure> {
        // Held while a token is fetched: requests that run beside this one wait for it, and don't fetch their own.
        let mut access = source.access.lock().await;
        if let Some(header) = access.header(scope)
            && Some(&header) != shown
        {
            return Ok(Some(header));
        }
        let own = |error| Failure::new(source.address(), Kind::Other(Box::new(error)));
        let found = source.found(&self.settings).await.map_err(own)?;
        let by = |scheme: &str| challenges.iter().find(|c| c.scheme == scheme);
        if let Some(challenge) = by("bearer") {
            if let Credentials::Bearer(token) = &found.credentials {
                let header = bearer(token).filter(|header| Some(header) != shown);
                if let Some(header) = &header {
                    access.keep_basic(header.clone());
                }
                return Ok(header);
            }
            let service =
                Service::new(challenge, source, &self.settings).map_err(|why| Failure::new(source.address(), Kind::Unsafe(why)))?;
            let token = self.token(&service, scope, &found.credentials, source).await?;
            access.keep_token(scope, token);
            return Ok(access.header(scope));
        }
        match (by("basic"), &found.credentials) {
            (Some(_), Credentials::Password { user, password }) => {
                let header = basic(user, password);
                if Some(&header) == shown {
                    return Ok(None);
                }
                access.keep_basic(header.clone());
                Ok(Some(header))
            }
            _ => Ok(None),
        }
    }

    /// Gets a token from a token service.
    async fn token(&self, service: &Service, scope: &str, credentials: &Credentials, source: &Source) -> Result<Token, Failure> {
        let parameters = service.parameters(scope);
        let mut url = service.realm.clone();
        let address = address(&url);
        let mut secrets = HeaderMap::new();
        let mut call = match credentials {
            Credentials::Identity(token) => {
                let more = [("grant_type", "refresh_token"), ("client_id", "coracle"), ("refresh_token", token)];
                let mut form = Url::parse("http://form").expect("an address");
                form.query_pairs_mut().extend_pairs(more).extend_pairs(parameters);
                let body = Bytes::from(form.query().unwrap_or_default().to_owned());
                Call::new(Method::POST, url, scope).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(Payload::Bytes(body))
            }
            _ => {
                url.query_pairs_mut().extend_pairs(parameters);
                if let Credentials::Password { user, password } = credentials {
                    secrets.insert(AUTHORIZATION, basic(user, password));
                }
                Call::new(Method::GET, url, scope)
            }
        };
        call = call.accept("application/json");
        let origin = service.realm.origin();
        // Elsewhere than the registry, its certificates and its leniency aren't for it.
        let tls = if source.owns(&service.realm) { source.tls.clone() } else { self.tls_of_others(&service.realm) };
        let mut backoff = self.backoff(source);
        loop {
            let owner = Owner { owns: &|url: &Url| url.origin() == origin, tls: &tls, dial: source.dial, secrets: secrets.clone() };
            let failure = match self.hops(call.clone(), owner).await {
                Ok((response, _)) if response.status().is_success() => match self.body(&address, response, TOKEN_MAX).await {
                    Ok(body) => {
                        let nonsense = || Failure::new(address.clone(), Kind::Nonsense("the token service gave no token".into()));
                        return Token::parse(&body).ok_or_else(nonsense);
                    }
                    Err(failure) => failure,
                },
                Ok((response, _)) if matches!(response.status().as_u16(), 400 | 401 | 403) => {
                    return Err(Failure::new(address, Kind::Denied("401 Unauthorized")));
                }
                Ok((response, _)) => self.complaint(source, response).await,
                Err(failure) => failure,
            };
            self.again(&mut backoff, failure).await?;
        }
    }

    /// The manner of TLS with a host that isn't a source.
    fn tls_of_others(&self, url: &Url) -> Tls {
        let authority = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        Tls { roots: self.settings.roots.clone(), identity: None, unverified: self.settings.unverified.contains(&authority) }
    }

    /// Sends a request where it's to go, and where that sends it. Says whether its owner answered.
    async fn hops(&self, call: Call<'_>, owner: Owner<'_>) -> Result<(Response, bool), Failure> {
        let Call { method, mut url, headers, body, .. } = call;
        for _ in 0..=HOPS {
            let own = (owner.owns)(&url);
            let tls = match (url.scheme(), own) {
                ("http", _) => None,
                (_, true) => Some(owner.tls.clone()),
                (_, false) => Some(self.tls_of_others(&url)),
            };
            let client =
                self.client(Manner { tls, dial: owner.dial }).await.map_err(|e| Failure::new(address(&url), Kind::Other(Box::new(e))))?;
            let mut request = client.request(method.clone(), url.clone()).headers(headers.clone());
            if own {
                request = request.headers(owner.secrets.clone());
            }
            let response = match &body {
                Payload::Nothing => self.patiently(&url, request.send(), None).await?,
                Payload::Bytes(bytes) => self.patiently(&url, request.body(bytes.clone()).send(), None).await?,
                Payload::Stream(make, sent) => self.patiently(&url, request.body(make()).send(), Some(sent)).await?,
            };
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((response, own));
            }
            let Some(location) = response.headers().get(LOCATION).and_then(|v| v.to_str().ok()) else {
                return Ok((response, own));
            };
            let refuse = |why: &str| Failure::new(address(&url), Kind::Unsafe(why.to_owned()));
            let next = url.join(location).map_err(|_| refuse("redirects to what isn't an address"))?;
            match next.scheme() {
                "https" => {}
                "http" if url.scheme() == "http" => {}
                "http" => return Err(refuse("redirects from HTTPS to plain HTTP")),
                _ => return Err(refuse("redirects to what is neither of https nor of http")),
            }
            let safe = matches!(method, Method::GET | Method::HEAD) || matches!(response.status().as_u16(), 307 | 308);
            // What is in a body of ours may be a secret, or meant for one host only.
            if !safe || !matches!(body, Payload::Nothing) && next.origin() != url.origin() {
                return Err(refuse("redirects what was sent to it"));
            }
            self.drain(response).await;
            url = next;
        }
        Err(Failure::new(address(&url), Kind::Unsafe("redirects without end".to_owned())))
    }

    async fn client(&self, manner: Manner) -> Result<reqwest::Client, Error> {
        if let Some(client) = self.transport.made(&manner) {
            return Ok(client);
        }
        // The first of its kind: certificates are read from the disk.
        let transport = self.transport.clone();
        match tokio::task::spawn_blocking(move || transport.client(manner)).await {
            Ok(client) => client,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => Err(Error::Stopped { verb: self.verb, image: self.reference.to_string() }),
        }
    }

    /// Waits for an answer, as long as something moves.
    async fn patiently(
        &self,
        url: &Url,
        answer: impl Future<Output = reqwest::Result<Response>>,
        sent: Option<&AtomicU64>,
    ) -> Result<Response, Failure> {
        let mut answer = std::pin::pin!(answer);
        let count = || sent.map(|sent| sent.load(Ordering::Relaxed));
        loop {
            let before = count();
            match tokio::time::timeout(self.settings.stall, &mut answer).await {
                Ok(answer) => return answer.map_err(|e| Failure::of_request(address(url), &e)),
                Err(_) if count() != before => {}
                Err(_) => return Err(Failure::silent(address(url), self.settings.stall)),
            }
        }
    }

    /// The next bytes of an answer, if they come as fast as they have to.
    pub(super) async fn chunk(&self, address: &str, response: &mut Response, pace: &mut Pace) -> Result<Option<Bytes>, Failure> {
        let begun = Instant::now();
        let chunk = match tokio::time::timeout(self.settings.stall, response.chunk()).await {
            Ok(chunk) => chunk.map_err(|e| Failure::of_request(address, &e))?,
            Err(_) => return Err(Failure::silent(address, self.settings.stall)),
        };
        // The end may take its time.
        let Some(bytes) = &chunk else { return Ok(None) };
        pace.waited += begun.elapsed();
        pace.came += bytes.len() as u64;
        let (rate, window) = self.settings.rate;
        if pace.waited >= window {
            if (pace.came as f64) < rate as f64 * pace.waited.as_secs_f64() {
                return Err(Failure::slow(address, pace.came, pace.waited));
            }
            *pace = Pace::default();
        }
        Ok(chunk)
    }

    /// A whole answer, of which no more than `max` bytes and one chunk are held.
    pub(super) async fn body(&self, address: &str, mut response: Response, max: usize) -> Result<Bytes, Failure> {
        let (mut body, mut pace) = (Vec::new(), Pace::default());
        while let Some(chunk) = self.chunk(address, &mut response, &mut pace).await? {
            body.extend_from_slice(&chunk);
            if body.len() > max {
                break;
            }
        }
        Ok(body.into())
    }

    /// Reads what an answer says that isn't the one hoped for.
    pub(super) async fn complaint(&self, source: &Source, response: Response) -> Failure {
        let code = response.status();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let wait = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| retry_after(v, now));
        let address = source.address();
        // What can't be read, or comes a byte now and then, is left unsaid.
        let body = tokio::time::timeout(self.settings.stall, self.body(&address, response, COMPLAINT_MAX)).await;
        let body = body.map(Result::unwrap_or_default).unwrap_or_default();
        Failure::new(address, Kind::Status(Status::new(code, &body, wait)))
    }

    /// Reads what nobody wants, so that the connection may be used again; not for long, and not much.
    async fn drain(&self, mut response: Response) {
        let read = async {
            let mut rest = REST_MAX;
            while let Ok(Some(chunk)) = response.chunk().await {
                match rest.checked_sub(chunk.len()) {
                    Some(less) => rest = less,
                    None => return,
                }
            }
        };
        let _ = tokio::time::timeout(self.settings.stall.min(Duration::from_secs(1)), read).await;
    }

    /// Says in our words what went wrong with a part of the image.
    pub(super) async fn explain(&self, failure: Failure, source: &Source, part: &str) -> Error {
        let (mut who, mut looked_in) = ("an anonymous request".to_owned(), Vec::new());
        let refused = match &failure.kind {
            Kind::Denied(_) => true,
            Kind::Status(status) => matches!(status.code.as_u16(), 401 | 403),
            _ => false,
        };
        if refused {
            match source.found(&self.settings).await {
                Ok(found) => {
                    looked_in.clone_from(&found.looked_in);
                    if matches!(failure.kind, Kind::Denied(_)) || source.access.lock().await.any() {
                        who.clone_from(&found.who);
                    }
                }
                Err(error) => return error,
            }
        }
        let image = self.reference.to_string();
        failure.explain(Told { verb: self.verb, image: &image, registry: &source.name, part, who, looked_in })
    }
}

/// Host and port, for messages.
pub(super) fn address(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}
