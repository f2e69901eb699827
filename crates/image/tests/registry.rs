//! Pulls from a real registry (Debian's `docker-registry`, filled by `skopeo`), and from a small server that lies.
//!
//! Needs no privilege. Tests that want `docker-registry`, `skopeo`, `htpasswd` or `openssl` say so and are skipped without.
#![cfg(feature = "registry")]

mod support;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coracle_image::{Digest, Error, NoSink, Progress, Reference, Store};
use support::docker_registry::{Kind, Registry, have};
use support::place::{Place, assert_error, hasty, puller};
use support::{INDEX, MANIFEST, TinyImage, index, write_layout};

// ---- what the tests stand on -------------------------------------------------------------------------------------------------

/// A registry in a thread, that answers as a test wants and remembers what it was asked. The thread ends with the test.
struct Liar {
    port: u16,
    state: Arc<LiarState>,
}

type Lie = dyn Fn(&Request, Answer) -> Answer + Send + Sync;

struct LiarState {
    /// By path: media type and bytes.
    pages: Mutex<HashMap<String, (String, Vec<u8>)>>,
    asked: Mutex<Vec<Request>>,
    answer: Box<Lie>,
    stop: AtomicUsize,
}

#[derive(Debug, Clone, PartialEq)]
struct Request {
    method: String,
    path: String,
    range: Option<u64>,
    authorization: Option<String>,
}

#[derive(Clone)]
struct Answer {
    status: &'static str,
    media_type: String,
    body: Vec<u8>,
    /// Sends only so many bytes of the body, then…
    cut: Option<usize>,
    /// …waits so long before it hangs up.
    stall: Duration,
    digest_header: bool,
    /// Says where to get a token.
    challenge: bool,
}

impl Liar {
    fn new(answer: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static) -> Liar {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state =
            Arc::new(LiarState { pages: Mutex::default(), asked: Mutex::default(), answer: Box::new(answer), stop: AtomicUsize::new(0) });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::Relaxed) == 1 {
                    return;
                }
                let state = shared.clone();
                std::thread::spawn(move || state.serve(stream.unwrap()));
            }
        });
        Liar { port, state }
    }

    fn honest() -> Liar {
        Liar::new(|_, answer| answer)
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn add(&self, image: &TinyImage, name: &str, tag: &str) {
        let mut pages = self.state.pages.lock().unwrap();
        let manifest = (MANIFEST.to_owned(), image.manifest.clone());
        pages.insert(format!("/v2/{name}/manifests/{tag}"), manifest.clone());
        pages.insert(format!("/v2/{name}/manifests/{}", image.digest()), manifest);
        for blob in image.blobs() {
            let page = ("application/octet-stream".to_owned(), blob.to_vec());
            pages.insert(format!("/v2/{name}/blobs/{}", Digest::sha256(blob)), page);
        }
    }

    fn page(&self, path: &str, media_type: &str, body: &[u8]) {
        self.state.pages.lock().unwrap().insert(path.to_owned(), (media_type.to_owned(), body.to_vec()));
    }

    /// What was asked since the last look.
    fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut *self.state.asked.lock().unwrap())
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.state.stop.store(1, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl LiarState {
    fn serve(&self, stream: TcpStream) {
        let mut lines = BufReader::new(&stream).lines();
        let Some(Ok(first)) = lines.next() else {
            return;
        };
        let mut words = first.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (mut range, mut authorization) = (None, None);
        for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap_or_default();
            match name.to_ascii_lowercase().as_str() {
                "range" => {
                    let from = value.strip_prefix("bytes=").map(|v| v.trim_end_matches('-'));
                    range = from.and_then(|v| v.parse::<u64>().ok());
                }
                "authorization" => authorization = Some(value.to_owned()),
                _ => {}
            }
        }
        let request = Request { method, path, range, authorization };
        self.asked.lock().unwrap().push(request.clone());

        let page = self.pages.lock().unwrap().get(&request.path).cloned();
        let mut answer = Answer {
            status: "200 OK",
            media_type: "application/json".into(),
            body: Vec::new(),
            cut: None,
            stall: Duration::ZERO,
            digest_header: true,
            challenge: false,
        };
        match page {
            Some((media_type, body)) => {
                (answer.media_type, answer.body) = (media_type, body);
                if let Some(from) = range.filter(|&from| from > 0) {
                    answer.status = "206 Partial Content";
                    answer.body.drain(..from as usize);
                    answer.digest_header = false;
                }
            }
            None => answer.status = "404 Not Found",
        }
        let answer = (self.answer)(&request, answer);
        let digest = match answer.digest_header && !answer.body.is_empty() && request.path.contains("/manifests/") {
            true => format!("Docker-Content-Digest: {}\r\n", Digest::sha256(&answer.body)),
            false => String::new(),
        };
        let challenge = match answer.challenge {
            true => {
                let host = stream.local_addr().unwrap();
                format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"tests\"\r\n")
            }
            false => String::new(),
        };
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{digest}{challenge}Connection: close\r\n\r\n",
            answer.status,
            answer.media_type,
            answer.body.len()
        );
        let mut stream = &stream;
        let _ = stream.write_all(head.as_bytes());
        if request.method != "HEAD" {
            let _ = stream.write_all(&answer.body[..answer.cut.unwrap_or(answer.body.len())]);
        }
        let _ = stream.flush();
        std::thread::sleep(answer.stall);
    }
}

// ---- a real registry ---------------------------------------------------------------------------------------------------------

#[test]
fn an_image_is_pulled_by_tag_and_by_digest() {
    if !have(&["docker-registry", "skopeo"]) {
        return;
    }
    let registry = Registry::start(&Kind::Open);
    let tiny = TinyImage::new("linux/amd64", &[3_000_000, 100, 0, 70_000]);
    registry.push_image(&tiny, "team/app:1");

    let place = Place::new();
    let image = place.pull(&format!("{}/team/app:1", registry.host())).unwrap();
    assert_eq!((&image.digest, &image.config.env), (&tiny.digest(), &vec!["PLATFORM=linux/amd64".to_owned()]));
    assert!(place.sink.holds(&tiny));
    assert_eq!(place.store.images().unwrap(), [image]);
    assert_eq!(place.ingesting(), 0);

    let place = Place::new();
    let by_digest = format!("{}/team/app@{}", registry.host(), tiny.digest());
    assert_eq!(place.pull(&by_digest).unwrap().reference.to_string(), by_digest);
    assert!(place.sink.holds(&tiny));

    // A name goes by name: `localhost` is loopback as 127.0.0.1 is.
    let place = Place::new();
    place.pull(&format!("localhost:{}/team/app:1", registry.port)).unwrap();
}

#[test]
fn an_index_gives_the_image_of_the_platform_or_names_those_there_are() {
    if !have(&["docker-registry", "skopeo"]) {
        return;
    }
    let registry = Registry::start(&Kind::Open);
    let images = ["linux/amd64", "linux/arm/v6", "linux/arm64/v8"].map(|p| (p, TinyImage::new(p, &[p.len(), 9])));
    let inner = index(&images.iter().map(|(p, i)| i.descriptor(Some(p), None)).collect::<Vec<_>>());
    let outer = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{INDEX}","digest":"{}","size":{}}}]}}"#,
        Digest::sha256(&inner),
        inner.len()
    );
    let layout = tempfile::tempdir().unwrap();
    let mut blobs: Vec<&[u8]> = images.iter().flat_map(|(_, i)| i.blobs()).collect();
    blobs.push(&inner);
    write_layout(layout.path(), &blobs, outer.as_bytes());
    registry.push(layout.path(), "multi:1");

    let place = Place::new();
    let name = format!("{}/multi:1", registry.host());
    for (wanted, got) in [("linux/amd64", 0), ("linux/arm/v7", 1), ("linux/arm64", 2)] {
        let image = place.pull_with(&puller().platform(wanted.parse().unwrap()), &name).unwrap();
        assert_eq!(image.digest, images[got].1.digest(), "{wanted}");
        assert!(place.sink.holds(&images[got].1));
    }
    assert_eq!(place.store.images().unwrap().len(), 3);
    let error = place.pull_with(&puller().platform("linux/riscv64".parse().unwrap()), &name).unwrap_err();
    assert_error(
        &error,
        &format!("{name} has no image for linux/riscv64; it has linux/amd64, linux/arm/v6 and linux/arm64"),
        Some("choose one that there is, with `platform`"),
    );
}

#[test]
fn an_unknown_image_or_tag_is_said_to_be_unknown() {
    if !have(&["docker-registry", "skopeo"]) {
        return;
    }
    let registry = Registry::start(&Kind::Open);
    registry.push_image(&TinyImage::new("linux/amd64", &[1]), "there:1");
    let host = registry.host();
    for name in ["there:2", "nowhere:1"] {
        assert_error(
            &Place::new().pull(&format!("{host}/{name}")).unwrap_err(),
            &format!("can't pull {host}/{name}: the registry {host} has no such image (manifest unknown)"),
            Some("check the name and the tag"),
        );
    }
    // A tag that was there before, and is no more.
    let place = Place::new();
    place.pull(&format!("{host}/there:1")).unwrap();
    fs::remove_dir_all(registry.dir.path().join("data/docker/registry/v2/repositories/there/_manifests/tags/1")).unwrap();
    let error = place.pull(&format!("{host}/there:1")).unwrap_err();
    assert!(matches!(error, Error::UnknownImage { .. }), "{error}");
}

#[test]
fn a_registry_that_is_not_there_is_named_with_its_port() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let remedy = Some("check that the registry runs there, and the part of the image's name before its first slash");
    let name = format!("127.0.0.1:{port}/app:1");
    assert_error(
        &Place::new().pull(&name).unwrap_err(),
        &format!("can't pull {name}: no connection to 127.0.0.1:{port}: connection refused"),
        remedy,
    );
    let error = Place::new().pull("coracle-no-such-host.invalid/app:1").unwrap_err();
    let text = error.to_string();
    let start = "can't pull coracle-no-such-host.invalid/app:1: no connection to coracle-no-such-host.invalid:443: ";
    assert!(text.starts_with(start), "{text}");
    assert_eq!(error.remedy().as_deref(), remedy);
}

#[test]
fn a_registry_that_wants_a_password_gets_one_or_says_where_it_was_looked_for() {
    if !have(&["docker-registry", "skopeo", "htpasswd"]) {
        return;
    }
    let registry = Registry::start(&Kind::Password);
    let tiny = TinyImage::new("linux/amd64", &[100_000, 5]);
    registry.push_image(&tiny, "private:1");
    let host = registry.host();
    let name = format!("{host}/private:1");
    let remedy = |places: &str| {
        format!(
            "log in with `docker login {host}` or `podman login {host}`, or use `RegistryClient::credentials`; credentials were looked \
             for in {places}; and check the name: some registries answer so where there is no such image"
        )
    };

    assert_error(
        &Place::new().pull(&name).unwrap_err(),
        &format!("can't pull {name}: the registry {host} said 401 Unauthorized to an anonymous request"),
        Some(&remedy("/nonexistent/auth.json (no such file)")),
    );

    let place = Place::new();
    let file = place.dir.path().join("config.json");
    let shown = file.display().to_string();
    // base64 of bob:wrong and bob:right
    fs::write(&file, format!(r#"{{"auths":{{"{host}":{{"auth":"Ym9iOndyb25n"}}}}}}"#)).unwrap();
    let puller = puller().auth_file(&file);
    assert_error(
        &place.pull_with(&puller, &name).unwrap_err(),
        &format!("can't pull {name}: the registry {host} said 401 Unauthorized to the user \"bob\" of {shown}"),
        Some(&remedy(&shown)),
    );
    fs::write(&file, format!(r#"{{"auths":{{"{host}":{{"auth":"Ym9iOnJpZ2h0"}}}}}}"#)).unwrap();
    assert_eq!(place.pull_with(&puller, &name).unwrap().digest, tiny.digest());
    assert!(place.sink.holds(&tiny));

    let place = Place::new();
    place.pull_with(&self::puller().credentials(&host, "bob", "right"), &name).unwrap();
    let error = place.pull_with(&self::puller().credentials(&host, "bob", "x"), &name).unwrap_err();
    assert_error(
        &error,
        &format!("can't pull {name}: the registry {host} said 401 Unauthorized to the user \"bob\" of `RegistryClient::credentials`"),
        Some(&remedy("`RegistryClient::credentials`")),
    );
    assert!(!format!("{:?}", self::puller().credentials(&host, "bob", "secret")).contains("secret"));
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused_and_trusted_when_told() {
    if !have(&["docker-registry", "skopeo", "openssl"]) {
        return;
    }
    let registry = Registry::start(&Kind::Tls);
    let tiny = TinyImage::new("linux/amd64", &[200_000]);
    registry.push_image(&tiny, "app:1");
    let host = registry.host();
    let name = format!("{host}/app:1");
    let remedy = Some(
        "add the authority that signed the registry's certificate to this machine's trusted ones, or give it to `RegistryClient::trust`; \
         a registry without TLS needs `RegistryClient::insecure`",
    );
    let secure = puller().secure(&host);
    assert_error(
        &Place::new().pull_with(&secure, &name).unwrap_err(),
        &format!("can't pull {name}: no TLS connection to {host}: invalid peer certificate: UnknownIssuer"),
        remedy,
    );
    let place = Place::new();
    let ca = fs::read(registry.dir.path().join("ca.pem")).unwrap();
    place.pull_with(&secure.clone().trust(ca), &name).unwrap();
    assert!(place.sink.holds(&tiny));

    // Plain HTTP to a registry that wants TLS, and TLS to one that doesn't.
    let error = Place::new().pull(&name).unwrap_err();
    assert_error(
        &error,
        &format!(
            "can't pull {name}: the registry {host} said: HTTP status 400: Client sent an HTTP request to an HTTPS server. \
             (the manifest)"
        ),
        None,
    );
    let liar = Liar::honest();
    let plain = Registry::start(&Kind::Open);
    let cases = [(plain.host(), "received corrupt message of type InvalidContentType"), (liar.host(), "the registry hung up")];
    for (host, why) in cases {
        let name = format!("{host}/app:1");
        let error = Place::new().pull_with(&puller().secure(&host), &name).unwrap_err();
        assert_error(&error, &format!("can't pull {name}: no TLS connection to {host}: {why}"), remedy);
    }
}

// ---- a registry that lies ----------------------------------------------------------------------------------------------------

#[test]
fn a_refusal_with_403_is_said_as_such() {
    let body = br#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
    let liar = Liar::new(|_, answer| Answer { status: "403 Forbidden", body: body.to_vec(), digest_header: false, ..answer });
    let (host, name) = (liar.host(), format!("{}/a:1", liar.host()));
    let error = Place::new().pull(&name).unwrap_err();
    assert_eq!(error.to_string(), format!("can't pull {name}: the registry {host} said 403 Forbidden to an anonymous request"));
}

#[test]
fn other_answers_are_quoted_without_control_characters() {
    let cases = [
        (
            "429 Too Many Requests",
            "{\"errors\":[{\"code\":\"TOOMANYREQUESTS\",\"message\":\"slow down\\u001b[2J\"}]}",
            "slow down?[2J (the manifest)",
        ),
        ("500 Internal Server Error", "oh\u{1b}]0;no", "HTTP status 500: oh?]0;no (the manifest)"),
        ("503 Service Unavailable", "", "HTTP status 503 (the manifest)"),
    ];
    for (status, body, said) in cases {
        let liar = Liar::new(move |_, answer| Answer { status, body: body.as_bytes().to_vec(), digest_header: false, ..answer });
        let (host, name) = (liar.host(), format!("{}/a:1", liar.host()));
        let text = format!("can't pull {name}: the registry {host} said: {said}");
        assert_error(&Place::new().pull_with(&hasty(), &name).unwrap_err(), &text, None);
    }
}

#[test]
fn wrong_bytes_are_refused_and_both_digests_named() {
    let tiny = TinyImage::new("linux/amd64", &[300, 400_000]);
    let remedy = Some("try again; if it stays so, what serves the image is damaged");
    let parts: [(&str, &[u8]); 4] =
        [("the manifest", &tiny.manifest), ("the config", &tiny.config), ("layer 0", &tiny.layers[0]), ("layer 1", &tiny.layers[1])];
    for (part, bytes) in parts {
        let (digest, length) = (Digest::sha256(bytes), bytes.len());
        let mut wrong = bytes.to_vec();
        wrong[length / 2] ^= 1;
        let mut lies = vec![(wrong.clone(), digest.to_string(), Digest::sha256(&wrong).to_string())];
        if part != "the manifest" {
            // By digest, a manifest's length is not known beforehand.
            lies.push((bytes[..length - 1].to_vec(), format!("{length} bytes"), format!("{} bytes", length - 1)));
            lies.push(([bytes, b"!"].concat(), format!("{length} bytes"), "more".to_owned()));
        }
        for (lie, expected, got) in lies {
            let target = digest.to_string();
            let liar = Liar::new(move |request, answer| match request.path.ends_with(&target) {
                true => Answer { body: lie.clone(), digest_header: false, ..answer },
                false => answer,
            });
            liar.add(&tiny, "a", "1");
            let place = Place::new();
            // Even where the sink stumbles first.
            place.sink.expect(&tiny);
            let name = format!("{}/a@{}", liar.host(), tiny.digest());
            let text = format!("can't use {part} of {name}: expected {expected}, got {got}");
            assert_error(&place.pull(&name).unwrap_err(), &text, remedy);
            assert!(place.store.images().unwrap().is_empty());
            assert!(place.store.blob(&digest).unwrap().is_none());
            assert!(place.sink.get(&digest).is_none());
        }
    }
}

#[test]
fn a_manifest_that_cannot_be_used_is_described() {
    let liar = Liar::honest();
    let place = Place::new();
    let name = format!("{}/a:1", liar.host());
    let cases = [
        (
            r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(),
            "can't use the manifest of NAME: it is of Docker's schema 1, which has been out of use since 2017",
        ),
        (
            r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#.to_owned(),
            "can't use the manifest of NAME: it has both `manifests` and `layers`: it would mean one thing to us and another to \
             somebody else",
        ),
        (" ".repeat((4 << 20) + 1), "can't use the manifest of NAME: expected at most 4 MiB, got 4194305 bytes"),
    ];
    for (manifest, text) in cases {
        liar.page("/v2/a/manifests/1", MANIFEST, manifest.as_bytes());
        assert_eq!(place.pull(&name).unwrap_err().to_string(), text.replace("NAME", &name));
    }
    let artifact = TinyImage::of(b"{}".to_vec(), vec![b"x".to_vec()]);
    liar.add(&artifact, "a", "1");
    let text = format!("can't use the manifest of {name}: it has 1 layers, and its config has 0 diff_ids");
    assert_error(&place.pull(&name).unwrap_err(), &text, None);
}

#[test]
fn an_image_that_is_there_needs_no_request_by_digest_and_one_by_tag() {
    let liar = Liar::honest();
    let tiny = TinyImage::new("linux/amd64", &[100, 200]);
    liar.add(&tiny, "a", "1");
    let place = Place::new();
    let by_tag = format!("{}/a:1", liar.host());
    let by_digest = format!("{}/a@{}", liar.host(), tiny.digest());
    place.pull(&by_tag).unwrap();
    // The manifest, the config, two layers.
    assert_eq!(liar.asked().len(), 4);

    place.pull(&by_digest).unwrap();
    assert_eq!(liar.asked(), []);
    place.pull(&by_tag).unwrap();
    let head = Request { method: "HEAD".into(), path: "/v2/a/manifests/1".into(), range: None, authorization: None };
    assert_eq!(liar.asked(), [head]);
    let reference: Reference = by_tag.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(puller().pull_missing(&place.store, &reference, place.sink.clone())).unwrap();
    assert_eq!(liar.asked(), []);
    assert_eq!(place.sink.begun(), 2);

    // The tag moves: what is new is fetched, and nothing else.
    let moved = TinyImage::new("linux/amd64", &[100, 201]);
    liar.add(&moved, "a", "1");
    assert_eq!(place.pull(&by_tag).unwrap().digest, moved.digest());
    assert_eq!(liar.asked().len(), 4, "a HEAD, the manifest, the config, one layer");
    assert!(place.sink.holds(&moved));
}

#[test]
fn a_broken_pull_is_continued_where_it_stopped() {
    for ranges in [true, false] {
        let tiny = TinyImage::new("linux/amd64", &[1_000_000]);
        let layer = Digest::sha256(&tiny.layers[0]);
        let (target, whole) = (format!("blobs/{layer}"), tiny.layers[0].clone());
        let times = AtomicUsize::new(0);
        let liar = Liar::new(move |request, answer| match request.path.ends_with(&target) {
            true if times.fetch_add(1, Ordering::Relaxed) == 0 => Answer { cut: Some(600_000), ..answer },
            // As registries and boxes before them do that know no ranges.
            true if !ranges => Answer { status: "200 OK", body: whole.clone(), ..answer },
            _ => answer,
        });
        liar.add(&tiny, "a", "1");
        let place = Place::new();
        let name = format!("{}/a:1", liar.host());
        let error = place.pull_with(&hasty(), &name).unwrap_err();
        assert_error(
            &error,
            &format!(
                "can't pull {name}: the connection to {} broke off after 600000 of 1000000 bytes of layer 0: end of file before \
                 message length reached",
                liar.host()
            ),
            Some("pull again: it goes on where it broke off"),
        );
        assert!(place.store.images().unwrap().is_empty());
        assert_eq!(place.ingesting(), 1);
        liar.asked();
        place.pull(&name).unwrap();
        let ranges: Vec<_> = liar.asked().into_iter().filter_map(|r| r.range).collect();
        assert_eq!(ranges, [600_000]);
        assert!(place.sink.holds(&tiny));
        assert_eq!(place.ingesting(), 0);
    }
}

#[test]
fn a_beginning_that_was_damaged_on_disk_does_not_spoil_the_pull() {
    let liar = Liar::honest();
    // The second is longer than what is still fetched when a sink fails, to see that way too.
    for length in [10_000, 70 << 20] {
        let tiny = TinyImage::new("linux/amd64", &[length]);
        liar.add(&tiny, "a", "1");
        let layer = Digest::sha256(&tiny.layers[0]);
        for (beginning, picky) in [(5_000, false), (5_000, true), (length, true), (length + 1, true)] {
            let place = Place::new();
            let partial = place.store.path().join("ingest").join(format!("sha256-{}.partial", layer.hex()));
            fs::write(&partial, vec![0; beginning]).unwrap();
            if picky {
                place.sink.expect(&tiny);
            }
            place.pull(&format!("{}/a:1", liar.host())).unwrap();
            assert!(place.sink.holds(&tiny) && !partial.exists());
        }
    }
}

#[test]
fn a_blob_whose_sink_failed_is_kept_for_the_next_try() {
    let liar = Liar::honest();
    let tiny = TinyImage::new("linux/amd64", &[300_000]);
    liar.add(&tiny, "a", "1");
    let place = Place::new();
    let name = format!("{}/a:1", liar.host());
    let mut other = tiny.layers[0].clone();
    other[200_000] ^= 1;
    place.sink.expect_as(&tiny.layers[0], &other);
    let error = place.pull(&name).unwrap_err();
    let digest = Digest::sha256(&tiny.layers[0]);
    assert_error(&error, &format!("can't unpack layer 0 ({digest}): corrupt deflate stream"), None);
    place.sink.expect(&tiny);
    liar.asked();
    place.pull(&name).unwrap();
    assert!(liar.asked().iter().all(|r| !r.path.contains("/blobs/")));
    assert!(place.sink.holds(&tiny));
}

#[test]
fn a_token_is_fetched_where_the_registry_says() {
    let liar = Liar::new(|request, answer| {
        let authorization = request.authorization.as_deref();
        match request.path.split('?').next().unwrap_or_default() {
            // base64 of bob:right
            "/token" if matches!(authorization, None | Some("Basic Ym9iOnJpZ2h0")) => {
                let body = br#"{"token":"t0ken"}"#.to_vec();
                Answer { status: "200 OK", body, digest_header: false, ..answer }
            }
            _ if authorization == Some("Bearer t0ken") => answer,
            _ => Answer { status: "401 Unauthorized", body: Vec::new(), challenge: true, ..answer },
        }
    });
    let tiny = TinyImage::new("linux/amd64", &[10, 20, 30]);
    liar.add(&tiny, "team/a", "1");
    let (host, name) = (liar.host(), format!("{}/team/a:1", liar.host()));
    for puller in [puller(), puller().credentials(&host, "bob", "right")] {
        let place = Place::new();
        place.pull_with(&puller, &name).unwrap();
        assert!(place.sink.holds(&tiny));
        let tokens: Vec<String> = liar.asked().into_iter().map(|r| r.path).filter(|p| p.starts_with("/token")).collect();
        let one = "/token?scope=repository%3Ateam%2Fa%3Apull&service=tests";
        assert_eq!(tokens, [one], "one token for all requests");
    }
    let error = Place::new().pull_with(&puller().credentials(&host, "bob", "wrong"), &name).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("can't pull {name}: the registry {host} said 401 Unauthorized to the user \"bob\" of `RegistryClient::credentials`")
    );
}

#[test]
fn a_pull_that_is_dropped_leaves_no_lock() {
    let tiny = TinyImage::new("linux/amd64", &[1_000_000]);
    let target = format!("blobs/{}", Digest::sha256(&tiny.layers[0]));
    let times = AtomicUsize::new(0);
    let liar = Liar::new(move |request, answer| match request.path.ends_with(&target) {
        true if times.fetch_add(1, Ordering::Relaxed) == 0 => Answer { cut: Some(500_000), stall: Duration::from_secs(30), ..answer },
        _ => answer,
    });
    liar.add(&tiny, "a", "1");
    let place = Place::new();
    let reference: Reference = format!("{}/a:1", liar.host()).parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let begun = Instant::now();
    let sink = place.sink.clone();
    let stopped = runtime.block_on(async {
        let puller = puller();
        let pull = puller.pull(&place.store, &reference, sink);
        tokio::time::timeout(Duration::from_millis(700), pull).await
    });
    assert!(stopped.is_err(), "the registry stalls");
    // What unpacks hears of it when it next asks for bytes.
    let leases = || fs::read_dir(place.store.path().join("leases")).unwrap().count();
    while leases() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "{} leases", leases());
        std::thread::sleep(Duration::from_millis(5));
    }
    // Another runtime, the same process, the same store.
    drop(runtime);
    place.pull(&reference.to_string()).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15), "nobody waited for a lock");
    assert!(place.sink.holds(&tiny));
}

#[test]
fn the_future_may_be_spawned() {
    let liar = Liar::honest();
    let tiny = TinyImage::new("linux/amd64", &[10]);
    liar.add(&tiny, "a", "1");
    let place = Place::new();
    let (store, sink) = (place.store.clone(), place.sink.clone());
    let reference: Reference = format!("{}/a:1", liar.host()).parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let task = runtime.spawn(async move { puller().pull(&store, &reference, sink).await });
    runtime.block_on(task).unwrap().unwrap();
    // The blocking face, called from within a runtime.
    runtime.block_on(async { place.pull(&format!("{}/a:1", liar.host())) }).unwrap();
}

const CHILD: &str = "CORACLE_TEST_PULL";

/// Not a test of its own: what [`processes_that_pull_the_same_image_fetch_each_blob_once`] runs.
#[test]
fn child_that_pulls() {
    let Ok(task) = std::env::var(CHILD) else {
        return;
    };
    let (store, name) = task.split_once(' ').unwrap();
    let store = Store::open(store).unwrap();
    puller().pull_blocking(&store, &name.parse().unwrap(), Arc::new(NoSink)).unwrap();
}

#[test]
fn processes_that_pull_the_same_image_fetch_each_blob_once() {
    let tiny = TinyImage::new("linux/amd64", &[500_000, 400_000, 300]);
    let liar = Liar::new(|request, answer| match request.path.contains("/blobs/") {
        // Long enough that all processes are there before the first is done.
        true => {
            std::thread::sleep(Duration::from_millis(300));
            answer
        }
        false => answer,
    });
    liar.add(&tiny, "a", "1");
    let place = Place::new();
    let task = format!("{} {}/a:1", place.store.path().display(), liar.host());
    let spawn = |_| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_pulls", "--quiet"])
            .env(CHILD, &task)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let children: Vec<Child> = (0..4).map(spawn).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let mut blobs: Vec<String> = liar.asked().into_iter().map(|r| r.path).filter(|p| p.contains("/blobs/")).collect();
    blobs.sort();
    let all = blobs.len();
    blobs.dedup();
    assert_eq!((all, blobs.len()), (4, 4), "a config and three layers");
    assert_eq!(place.ingesting(), 0);
    assert_eq!(place.store.images().unwrap().len(), 1);
}

#[test]
fn a_sink_that_fails_ends_the_pull_with_its_reason() {
    let liar = Liar::honest();
    let tiny = TinyImage::new("linux/amd64", &[10]);
    liar.add(&tiny, "a", "1");
    let place = Place::new();
    place.sink.fail("no room for it");
    let error = place.pull(&format!("{}/a:1", liar.host())).unwrap_err();
    let digest = Digest::sha256(&tiny.layers[0]);
    assert_error(&error, &format!("can't unpack layer 0 ({digest}): no room for it"), None);
    assert!(place.store.images().unwrap().is_empty());
}

#[test]
fn a_disk_error_in_a_pull_names_the_path() {
    let liar = Liar::honest();
    liar.add(&TinyImage::new("linux/amd64", &[10]), "a", "1");
    let place = Place::new();
    let ingest = place.store.path().join("ingest");
    fs::remove_dir(&ingest).unwrap();
    fs::write(&ingest, "").unwrap();
    let error = place.pull(&format!("{}/a:1", liar.host())).unwrap_err();
    let text = error.to_string();
    let start = format!("can't open {}/sha256-", ingest.display());
    assert!(text.starts_with(&start) && text.ends_with(".partial: Not a directory (os error 20)"), "{text}");
}

#[test]
fn progress_tells_of_resolving_of_every_layer_and_of_the_end() {
    let liar = Liar::honest();
    let tiny = TinyImage::new("linux/amd64", &[700_000, 10]);
    liar.add(&tiny, "a", "1");
    let place = Place::new();
    let seen: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let keep = seen.clone();
    let puller = puller().progress(move |p| keep.lock().unwrap().push(p));
    place.pull_with(&puller, &format!("{}/a:1", liar.host())).unwrap();
    let seen = seen.lock().unwrap();
    assert!(matches!(seen.first(), Some(Progress::Resolving { .. })));
    assert!(matches!(seen.last(), Some(Progress::Done { digest, .. }) if *digest == tiny.digest()));
    for layer in &tiny.layers {
        let wanted = Digest::sha256(layer);
        let steps: Vec<u64> = seen
            .iter()
            .filter_map(|p| match p {
                Progress::Layer { digest, done, .. } if *digest == wanted => Some(*done),
                _ => None,
            })
            .collect();
        assert_eq!((steps.first(), steps.last()), (Some(&0), Some(&(layer.len() as u64))));
        assert!(steps.is_sorted() && steps.len() <= 2 + layer.len() / (256 << 10));
        assert!(seen.iter().any(|p| matches!(p, Progress::Unpacked { digest, .. } if *digest == wanted)));
    }
}
