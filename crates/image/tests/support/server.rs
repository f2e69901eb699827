//! A registry in memory, in threads of the test, that answers truly until a test makes it lie: pulls, pushes, mounts, tags, referrers.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle_image::Digest;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{MANIFEST, TinyImage};

pub struct Server {
    pub port: u16,
    state: Arc<State>,
}

/// What makes of the truth what a test wants.
pub type Lie = dyn Fn(&Request, Answer) -> Answer + Send + Sync;

#[derive(Default)]
struct Content {
    /// By repository and digest.
    blobs: HashMap<(String, String), Vec<u8>>,
    /// By repository and tag or digest: media type and bytes.
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    uploads: HashMap<String, Vec<u8>>,
}

struct State {
    content: Mutex<Content>,
    asked: Mutex<Vec<Request>>,
    lie: Box<Lie>,
    /// Whether it keeps lists of referrers.
    lists: AtomicBool,
    stop: AtomicBool,
    uploads: AtomicUsize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub method: String,
    /// As it stands in the first line, without the query.
    pub path: String,
    pub query: String,
    headers: HashMap<String, String>,
    pub body: Vec<u8>,
    /// How many requests came before.
    pub number: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }

    /// The first byte that is asked for, and the one behind the last.
    pub fn range(&self) -> Option<(usize, Option<usize>)> {
        let (from, to) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse().ok()?, to.parse::<usize>().ok().map(|last| last + 1)))
    }

    /// `GET /v2/a/manifests/1`
    pub fn line(&self) -> String {
        match self.query.as_str() {
            "" => format!("{} {}", self.method, self.path),
            query => format!("{} {}?{query}", self.method, self.path),
        }
    }
}

#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// What it says that its length is, where that isn't so.
    pub length: Option<usize>,
    /// Sends only so many bytes of the body, then…
    pub cut: Option<usize>,
    /// …waits so long before it hangs up.
    pub stall: Duration,
    /// Bytes a second.
    pub rate: Option<usize>,
}

impl Answer {
    pub fn new(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), body: Vec::new(), length: None, cut: None, stall: Duration::ZERO, rate: None }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn body(self, body: impl Into<Vec<u8>>) -> Answer {
        Answer { body: body.into(), ..self }
    }

    /// `{"errors": [{"code": …}]}`
    pub fn error(status: u16, code: &str) -> Answer {
        let words = code.to_lowercase().replace('_', " ");
        Answer::new(status).body(format!(r#"{{"errors":[{{"code":"{code}","message":"{words}"}}]}}"#))
    }
}

impl Server {
    pub fn new(lie: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static) -> Server {
        Server::with(None, lie)
    }

    /// One that speaks TLS with a certificate and its key, both PEM.
    pub fn tls(certificate: &[u8], key: &[u8], lie: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static) -> Server {
        let chain = CertificateDer::pem_slice_iter(certificate).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth().with_single_cert(chain, key);
        Server::with(Some(Arc::new(config.unwrap())), lie)
    }

    fn with(tls: Option<Arc<ServerConfig>>, lie: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            content: Mutex::default(),
            asked: Mutex::default(),
            lie: Box::new(lie),
            lists: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            uploads: AtomicUsize::new(0),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                let (state, tls) = (shared.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    None => state.serve(stream.unwrap()),
                    Some(config) => {
                        let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream.unwrap());
                        state.serve(&mut stream);
                        stream.conn.send_close_notify();
                        let _ = stream.flush();
                    }
                });
            }
        });
        Server { port, state }
    }

    pub fn honest() -> Server {
        Server::new(|_, answer| answer)
    }

    /// One without the question for referrers.
    pub fn without_lists(self) -> Server {
        self.state.lists.store(false, Ordering::Relaxed);
        self
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn add(&self, image: &TinyImage, repository: &str, tag: &str) {
        let mut content = self.state.content.lock().unwrap();
        for name in [tag.to_owned(), image.digest().to_string()] {
            content.manifests.insert((repository.to_owned(), name), (MANIFEST.to_owned(), image.manifest.clone()));
        }
        for blob in image.layers.iter().chain([&image.config]) {
            content.blobs.insert((repository.to_owned(), Digest::sha256(blob).to_string()), blob.clone());
        }
    }

    pub fn add_manifest(&self, repository: &str, name: &str, media_type: &str, bytes: &[u8]) {
        let mut content = self.state.content.lock().unwrap();
        content.manifests.insert((repository.to_owned(), name.to_owned()), (media_type.to_owned(), bytes.to_vec()));
    }

    pub fn remove_blob(&self, repository: &str, digest: &Digest) {
        self.state.content.lock().unwrap().blobs.remove(&(repository.to_owned(), digest.to_string()));
    }

    pub fn manifest(&self, repository: &str, name: &str) -> Option<(String, Vec<u8>)> {
        self.state.content.lock().unwrap().manifests.get(&(repository.to_owned(), name.to_owned())).cloned()
    }

    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Vec<u8>> {
        self.state.content.lock().unwrap().blobs.get(&(repository.to_owned(), digest.to_string())).cloned()
    }

    /// What was asked since the last look.
    pub fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut *self.state.asked.lock().unwrap())
    }

    /// The same, by first lines.
    pub fn lines(&self) -> Vec<String> {
        self.asked().iter().map(Request::line).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl State {
    fn serve(&self, mut stream: impl Read + Write) {
        let mut reader = BufReader::new(&mut stream);
        let mut first = String::new();
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let mut words = first.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = HashMap::new();
        for line in reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap_or_default();
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length: usize = headers.get("content-length").map_or(0, |v| v.parse().unwrap());
        assert!(!headers.contains_key("transfer-encoding"), "a length that isn't known beforehand");
        let mut body = vec![0; length];
        // A registry may have answered before all was sent; ours reads first.
        let read = reader.read_exact(&mut body).is_ok();
        // As a proxy, it's asked for whole addresses.
        let target = match target.strip_prefix("http://") {
            Some(rest) => format!("/{}", rest.split_once('/').map_or("", |(_, path)| path)),
            None => target,
        };
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let mut request = Request { method, path: path.to_owned(), query: query.to_owned(), headers, body, number: 0 };
        {
            let mut asked = self.asked.lock().unwrap();
            request.number = asked.len();
            asked.push(request.clone());
        }
        if !read {
            return;
        }
        let truth = self.answer(&request);
        let answer = (self.lie)(&request, truth);
        self.send(stream, &request, answer);
    }

    fn send(&self, mut stream: impl Read + Write, request: &Request, answer: Answer) {
        let length = answer.length.unwrap_or(answer.body.len());
        let mut head = format!("HTTP/1.1 {} X\r\nContent-Length: {length}\r\nConnection: close\r\n", answer.status);
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let _ = stream.write_all(head.as_bytes());
        if request.method != "HEAD" {
            let body = &answer.body[..answer.cut.unwrap_or(answer.body.len())];
            match answer.rate {
                None => drop(stream.write_all(body)),
                Some(rate) => {
                    for piece in body.chunks((rate / 20).max(1)) {
                        if stream.write_all(piece).is_err() || self.stop.load(Ordering::Relaxed) {
                            return;
                        }
                        std::thread::sleep(Duration::from_millis(50));
                    }
                }
            }
        }
        let _ = stream.flush();
        std::thread::sleep(answer.stall);
    }

    fn answer(&self, request: &Request) -> Answer {
        let path = request.path.strip_prefix("/v2/").unwrap_or_default();
        let parameter = |name: &str| {
            let found = request.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            found.map(|value| value.replace("%3A", ":").replace("%2F", "/"))
        };
        let mut content = self.content.lock().unwrap();
        let method = request.method.as_str();
        if let Some((repository, rest)) = path.split_once("/blobs/uploads/") {
            return self.upload(&mut content, request, repository, rest, parameter);
        }
        if let Some((repository, digest)) = path.split_once("/blobs/") {
            let Some(blob) = content.blobs.get(&(repository.to_owned(), digest.to_owned())) else {
                return Answer::error(404, "BLOB_UNKNOWN");
            };
            return match request.range() {
                Some((from, _)) if from >= blob.len() => Answer::new(416),
                Some((from, end)) => {
                    let end = end.unwrap_or(blob.len()).min(blob.len());
                    let range = format!("bytes {from}-{}/{}", end - 1, blob.len());
                    Answer::new(206).with("Content-Range", range).body(&blob[from..end])
                }
                None => Answer::new(200).body(&blob[..]),
            };
        }
        if let Some((repository, name)) = path.split_once("/manifests/") {
            let key = (repository.to_owned(), name.to_owned());
            return match method {
                "PUT" => {
                    let media_type = request.header("content-type").unwrap_or_default().to_owned();
                    let digest = Digest::sha256(&request.body).to_string();
                    content.manifests.insert((repository.to_owned(), digest.clone()), (media_type.clone(), request.body.clone()));
                    content.manifests.insert(key, (media_type, request.body.clone()));
                    let mut answer = Answer::new(201).with("Docker-Content-Digest", digest);
                    let json: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
                    if let Some(subject) = json["subject"]["digest"].as_str().filter(|_| self.lists.load(Ordering::Relaxed)) {
                        answer = answer.with("OCI-Subject", subject);
                    }
                    answer
                }
                "DELETE" => match content.manifests.remove(&key) {
                    Some(_) => Answer::new(202),
                    None => Answer::error(404, "MANIFEST_UNKNOWN"),
                },
                _ => match content.manifests.get(&key) {
                    Some((media_type, bytes)) => Answer::new(200)
                        .with("Content-Type", media_type)
                        .with("Docker-Content-Digest", Digest::sha256(bytes).to_string())
                        .body(&bytes[..]),
                    None => Answer::error(404, "MANIFEST_UNKNOWN"),
                },
            };
        }
        if let Some((repository, digest)) = path.split_once("/referrers/") {
            if !self.lists.load(Ordering::Relaxed) {
                return Answer::new(404).body("404 page not found");
            }
            let mut entries = Vec::new();
            for ((of, name), (media_type, bytes)) in &content.manifests {
                let json: serde_json::Value = serde_json::from_slice(bytes).unwrap();
                if of == repository && name.starts_with("sha256:") && json["subject"]["digest"] == digest {
                    entries.push(serde_json::json!({
                        "mediaType": media_type, "digest": name, "size": bytes.len(), "artifactType": json["artifactType"],
                    }));
                }
            }
            let index = serde_json::json!({ "schemaVersion": 2, "mediaType": super::INDEX, "manifests": entries });
            return Answer::new(200).with("Content-Type", super::INDEX).body(index.to_string());
        }
        if let Some(repository) = path.strip_suffix("/tags/list") {
            let tags = content.manifests.keys().filter(|(of, name)| of == repository && !name.contains(':'));
            let mut tags: Vec<&String> = tags.map(|(_, name)| name).collect();
            if tags.is_empty() {
                return Answer::error(404, "NAME_UNKNOWN");
            }
            if let Some(last) = parameter("last") {
                tags.retain(|tag| **tag > last);
            }
            // Two a page, whatever was asked for.
            let more = tags.len() > 2;
            tags.truncate(2);
            let answer = Answer::new(200).body(serde_json::json!({ "name": repository, "tags": tags }).to_string());
            return match more {
                true => answer.with("Link", format!("</v2/{repository}/tags/list?n=2&last={}>; rel=\"next\"", tags[1])),
                false => answer,
            };
        }
        Answer::new(404)
    }

    fn upload(
        &self,
        content: &mut Content,
        request: &Request,
        repository: &str,
        id: &str,
        parameter: impl Fn(&str) -> Option<String>,
    ) -> Answer {
        let place = |id: &str| format!("/v2/{repository}/blobs/uploads/{id}?state=a%2Fb");
        if request.method == "POST" {
            if let (Some(digest), Some(from)) = (parameter("mount"), parameter("from"))
                && let Some(blob) = content.blobs.get(&(from, digest.clone())).cloned()
            {
                content.blobs.insert((repository.to_owned(), digest), blob);
                return Answer::new(201);
            }
            let id = self.uploads.fetch_add(1, Ordering::Relaxed).to_string();
            content.uploads.insert(id.clone(), Vec::new());
            return Answer::new(202).with("Location", place(&id));
        }
        let Some(upload) = content.uploads.get_mut(id) else {
            return Answer::error(404, "BLOB_UPLOAD_UNKNOWN");
        };
        assert!(request.query.starts_with("state=a%2Fb"), "the query of a place is kept as it is: {}", request.query);
        let so_far = |upload: &[u8]| format!("0-{}", upload.len().saturating_sub(1));
        match request.method.as_str() {
            "GET" => Answer::new(204).with("Location", place(id)).with("Range", so_far(upload)),
            "PATCH" => {
                let from = request.header("content-range").and_then(|v| v.split('-').next()?.parse::<usize>().ok());
                if from != Some(upload.len()) {
                    return Answer::new(416).with("Range", so_far(upload));
                }
                upload.extend_from_slice(&request.body);
                Answer::new(202).with("Location", place(id)).with("Range", so_far(upload))
            }
            _ => {
                upload.extend_from_slice(&request.body);
                let digest = parameter("digest").unwrap();
                if Digest::sha256(upload).to_string() != digest {
                    return Answer::error(400, "DIGEST_INVALID");
                }
                let blob = content.uploads.remove(id).unwrap();
                content.blobs.insert((repository.to_owned(), digest), blob);
                Answer::new(201)
            }
        }
    }
}
