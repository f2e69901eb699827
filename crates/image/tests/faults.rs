//! What a pull makes of registries, mirrors, token services and networks that fail, lie or want what isn't theirs.
//!
//! Needs no privilege. Tests that want `docker-registry`, `skopeo`, `htpasswd` or `openssl` say so and are skipped without.
#![cfg(feature = "registry")]

mod support;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coracle_image::{
    Candidate, Descriptor, Digest, Error, LayerInfo, LayerSink, LayerWriter, NoSink, Progress, Puller, Reference, RegistryClient,
    SinkError, Verdict, Verifier,
};
use support::docker_registry::{Kind, Registry, certificates, have};
use support::place::{Place, alone, assert_error, client, hasty, puller, wait};
use support::server::{Answer, Lie, Request, Server};
use support::{INDEX, MANIFEST, TinyImage, amd64, noise, scratch};

fn is_blob(request: &Request, bytes: &[u8]) -> bool {
    request.path.ends_with(&Digest::sha256(bytes).to_string())
}

/// Lies a number of times, and tells the truth from then on.
fn at_first(
    times: usize,
    lie: impl Fn(&Request, Answer) -> Answer + Send + Sync,
    when: impl Fn(&Request) -> bool + Send + Sync,
) -> impl Fn(&Request, Answer) -> Answer + Send + Sync {
    let count = AtomicUsize::new(0);
    move |request, answer| match when(request) && count.fetch_add(1, Ordering::Relaxed) < times {
        true => lie(request, answer),
        false => answer,
    }
}

fn image() -> TinyImage {
    TinyImage::new("linux/amd64", &[1_000_000])
}

// ---- patience ----------------------------------------------------------------------------------------------------------------

#[test]
fn too_many_requests_are_waited_for_as_long_as_the_registry_asks() {
    let tiny = image();
    let blob = tiny.layers[0].clone();
    let server =
        Server::new(at_first(1, |_, _| Answer::error(429, "TOOMANYREQUESTS").with("Retry-After", "1"), move |r| is_blob(r, &blob)));
    server.add(&tiny, "a", "1");
    let place = Place::new();
    let steps: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let keep = steps.clone();
    let begun = Instant::now();
    place.pull_with(&puller().progress(move |p| keep.lock().unwrap().push(p)), &format!("{}/a:1", server.host())).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert!(place.sink.holds(&tiny));
    assert_eq!(server.asked().len(), 4, "manifest, config, layer, layer");
    let waiting: Vec<_> = steps.lock().unwrap().iter().filter(|p| matches!(p, Progress::Waiting { .. })).cloned().collect();
    let [Progress::Waiting { address, why, wait, .. }] = &waiting[..] else { panic!("{waiting:?}") };
    assert_eq!((address, *wait), (&server.host(), Duration::from_secs(1)));
    assert_eq!(why, "said toomanyrequests; it asks to wait 1 s");
}

#[test]
fn a_date_to_come_back_at_is_waited_for() {
    let tiny = image();
    let server = Server::new(at_first(
        1,
        |_, _| {
            let date =
                Command::new("date").env("LC_ALL", "C").args(["-u", "-d", "+3 seconds", "+%a, %d %b %Y %H:%M:%S GMT"]).output().unwrap();
            Answer::new(503).with("Retry-After", String::from_utf8(date.stdout).unwrap().trim())
        },
        |_| true,
    ));
    server.add(&tiny, "a", "1");
    let begun = Instant::now();
    Place::new().pull(&format!("{}/a:1", server.host())).unwrap();
    // Seconds have no parts there.
    assert!((Duration::from_secs(1)..Duration::from_secs(8)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[test]
fn a_wait_that_is_too_long_is_an_error_at_once() {
    let server = Server::new(|_, _| Answer::error(429, "TOOMANYREQUESTS").with("Retry-After", "3600"));
    let name = format!("{}/a:1", server.host());
    let begun = Instant::now();
    let error = Place::new().pull(&name).unwrap_err();
    let text = format!("can't pull {name}: the registry {} said: toomanyrequests (the manifest); it asks to wait 3600 s", server.host());
    assert_error(&error, &text, None);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn passing_failures_are_tried_again_and_not_for_ever() {
    for status in [408, 429, 500, 502, 503, 504] {
        let tiny = image();
        let server = Server::new(at_first(2, move |_, _| Answer::new(status), |r| r.path.contains("/manifests/")));
        server.add(&tiny, "a", "1");
        Place::new().pull(&format!("{}/a:1", server.host())).unwrap();
        assert_eq!(server.asked().len(), 5, "{status}");
    }
    let server = Server::new(|_, _| Answer::new(503));
    let error = Place::new().pull_with(&puller().client(client().retries(2)), &format!("{}/a:1", server.host())).unwrap_err();
    assert!(error.to_string().ends_with("said: HTTP status 503 (the manifest)"), "{error}");
    assert_eq!(server.asked().len(), 3);
    // What won't pass isn't asked for twice.
    for status in [400, 403, 404, 501] {
        let server = Server::new(move |_, _| Answer::new(status));
        Place::new().pull(&format!("{}/a:1", server.host())).unwrap_err();
        assert_eq!(server.asked().len(), 1, "{status}");
    }
}

#[test]
fn a_layer_that_breaks_off_is_continued_in_the_same_pull_and_its_sink_sees_it_once() {
    for ranges in [true, false] {
        let tiny = image();
        let (blob, whole) = (tiny.layers[0].clone(), tiny.layers[0].clone());
        let times = AtomicUsize::new(0);
        let server = Server::new(move |request, answer| match is_blob(request, &blob) {
            true => {
                let time = times.fetch_add(1, Ordering::Relaxed);
                let answer = if ranges { answer } else { Answer::new(200).body(&whole[..]) };
                match time {
                    // 300 kB each time: further at every one with ranges, and never without.
                    0 | 1 => Answer { cut: Some(300_000 + time * 100_000 * usize::from(!ranges)), ..answer },
                    _ => answer,
                }
            }
            false => answer,
        });
        server.add(&tiny, "a", "1");
        let place = Place::new();
        place.pull(&format!("{}/a:1", server.host())).unwrap();
        assert!(place.sink.holds(&tiny));
        assert_eq!(place.sink.begun(), 1, "what was hashed and unpacked isn't again");
        let asked: Vec<_> = server.asked().iter().filter(|r| is_blob(r, &tiny.layers[0])).map(Request::range).collect();
        let second = if ranges { 600_000 } else { 400_000 };
        assert_eq!(asked, [None, Some((300_000, None)), Some((second, None))]);
    }
}

#[test]
fn documents_that_break_off_are_fetched_again() {
    let tiny = image();
    for part in ["/manifests/1", "/manifests/sha256", &Digest::sha256(&tiny.config).to_string()] {
        let target = part.to_owned();
        let server = Server::new(at_first(2, |_, answer| Answer { cut: Some(20), ..answer }, move |r| r.path.contains(&target)));
        server.add(&tiny, "a", "1");
        let index = support::index(&[tiny.descriptor(Some("linux/amd64"), None)]);
        server.add_manifest("a", "1", INDEX, &index);
        let place = Place::new();
        place.pull(&format!("{}/a:1", server.host())).unwrap();
        assert!(place.sink.holds(&tiny));
        assert_eq!(server.asked().len(), 6, "{part}");
    }
}

#[test]
fn a_registry_that_falls_silent_is_given_up_and_asked_again() {
    let tiny = image();
    let blob = tiny.layers[0].clone();
    let stall = |_: &Request, answer: Answer| Answer { cut: Some(400_000), stall: Duration::from_secs(20), ..answer };
    let server = Server::new(at_first(1, stall, move |r| is_blob(r, &blob)));
    server.add(&tiny, "a", "1");
    let place = Place::new();
    let begun = Instant::now();
    place.pull_with(&puller().client(client().stall_timeout(Duration::from_millis(300))), &format!("{}/a:1", server.host())).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(place.sink.holds(&tiny));
    // Silence before the first byte, for good.
    let server = Server::new(|_, answer| {
        std::thread::sleep(Duration::from_secs(2));
        answer
    });
    let name = format!("{}/a:1", server.host());
    let error = place.pull_with(&puller().client(client().retries(1).stall_timeout(Duration::from_millis(200))), &name).unwrap_err();
    assert_eq!(error.to_string(), format!("can't pull {name}: no connection to {}: nothing came for 0.2 s", server.host()));
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn a_slow_registry_that_never_stops_is_waited_for() {
    let tiny = TinyImage::new("linux/amd64", &[60_000]);
    let blob = tiny.layers[0].clone();
    // 1.5 s in pieces of 50 ms, and a stall timeout of less than that.
    let server = Server::new(move |r, answer| if is_blob(r, &blob) { Answer { rate: Some(40_000), ..answer } } else { answer });
    server.add(&tiny, "a", "1");
    let place = Place::new();
    place
        .pull_with(&puller().client(client().retries(0).stall_timeout(Duration::from_millis(700))), &format!("{}/a:1", server.host()))
        .unwrap();
    assert!(place.sink.holds(&tiny));
}

#[test]
fn a_registry_that_trickles_is_given_up_and_asked_again() {
    let tiny = image();
    let blob = tiny.layers[0].clone();
    let hasty = || client().retries(1).minimum_rate(10_000, Duration::from_millis(400));
    // A byte every 50 ms: never silent, and done in fourteen hours.
    let trickle = |_: &Request, answer: Answer| Answer { rate: Some(20), ..answer };
    let of_blob = blob.clone();
    let server = Server::new(at_first(1, trickle, move |r| is_blob(r, &of_blob)));
    server.add(&tiny, "a", "1");
    let (place, begun) = (Place::new(), Instant::now());
    place.pull_with(&puller().client(hasty()), &format!("{}/a:1", server.host())).unwrap();
    assert!(place.sink.holds(&tiny));
    assert!(begun.elapsed() < Duration::from_secs(60));
    let ranges: Vec<bool> = server.asked().iter().filter(|r| is_blob(r, &blob)).map(|r| r.range().is_some()).collect();
    assert_eq!(ranges, [false, true], "it goes on where the trickle ended");

    // For good: a layer, and the manifest.
    let of_blob = blob.clone();
    let server = Server::new(move |r, answer| if is_blob(r, &of_blob) { trickle(r, answer) } else { answer });
    server.add(&tiny, "a", "1");
    let (place, name) = (Place::new(), format!("{}/a:1", server.host()));
    let error = place.pull_with(&puller().client(hasty()), &name).unwrap_err();
    let Error::Interrupted { done, total: 1_000_000, why, .. } = &error else { panic!("{error}") };
    assert!((1..1000).contains(done) && why.starts_with("no more than "), "{error}");
    assert_eq!(server.asked().iter().filter(|r| is_blob(r, &blob)).count(), 2);

    let server = Server::new(move |r, answer| if r.path.contains("/manifests/") { trickle(r, answer) } else { answer });
    server.add(&tiny, "a", "1");
    let error = Place::new().pull_with(&puller().client(hasty()), &format!("{}/a:1", server.host())).unwrap_err();
    assert!(matches!(&error, Error::Unreachable { why, .. } if why.starts_with("no more than ")), "{error}");
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn who_asks_for_no_rate_waits_for_a_trickle() {
    let tiny = TinyImage::new("linux/amd64", &[100]);
    let blob = tiny.layers[0].clone();
    // 2.5 s.
    let server = Server::new(move |r, answer| if is_blob(r, &blob) { Answer { rate: Some(40), ..answer } } else { answer });
    server.add(&tiny, "a", "1");
    let place = Place::new();
    let patient = client().retries(0).minimum_rate(0, Duration::from_millis(100));
    place.pull_with(&puller().client(patient), &format!("{}/a:1", server.host())).unwrap();
    assert!(place.sink.holds(&tiny));
}

#[test]
fn a_disk_that_is_slow_is_not_taken_for_a_registry_that_is() {
    // More than fits into what lies between the two, so that the registry has to wait for the sink.
    let tiny = TinyImage::new("linux/amd64", &[32 << 20]);
    let server = Server::honest();
    server.add(&tiny, "a", "1");
    let dir = scratch();
    let store = coracle_image::Store::open(dir.path().join("store")).unwrap();
    let strict = puller().client(client().retries(0).minimum_rate(12_000_000, Duration::from_millis(1500)));
    strict.pull_blocking(&store, &format!("{}/a:1", server.host()).parse().unwrap(), Arc::new(Slow)).unwrap();
}

/// A sink that takes 8 MiB a second.
struct Slow;

impl LayerSink for Slow {
    fn contains(&self, _: &LayerInfo) -> bool {
        false
    }

    fn begin(&self, _: &LayerInfo) -> Result<Box<dyn LayerWriter>, SinkError> {
        Ok(Box::new(Slow))
    }
}

impl io::Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        std::thread::sleep(Duration::from_secs_f64(bytes.len() as f64 / f64::from(8 << 20)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LayerWriter for Slow {
    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        Ok(())
    }
}

#[test]
fn a_refusal_that_never_ends_holds_nobody_up() {
    for status in [404, 302] {
        // Ten bytes a second, for longer than anybody waits.
        let server = Server::new(move |request, answer| match request.path.contains("/manifests/") {
            true => Answer { rate: Some(10), ..Answer::new(status).with("Location", "/elsewhere").body(vec![b'x'; 600]) },
            false => answer,
        });
        let begun = Instant::now();
        let with = puller().client(client().retries(0).stall_timeout(Duration::from_secs(1)));
        Place::new().pull_with(&with, &format!("{}/a:1", server.host())).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(10), "{status}");
    }
}

#[test]
fn lengths_that_are_lies_are_found_out() {
    let tiny = image();
    let length = tiny.layers[0].len();
    // Announced more than there is, and sent all: nothing is missing.
    let blob = tiny.layers[0].clone();
    for stall in [0, 20] {
        let blob = blob.clone();
        let server = Server::new(move |r, answer| match is_blob(r, &blob) {
            true => Answer { length: Some(length + 100), stall: Duration::from_secs(stall), ..answer },
            false => answer,
        });
        server.add(&tiny, "a", "1");
        let (place, begun) = (Place::new(), Instant::now());
        place.pull_with(&hasty(), &format!("{}/a:1", server.host())).unwrap();
        assert!(place.sink.holds(&tiny));
        assert!(begun.elapsed() < Duration::from_secs(10), "it waited for bytes that nobody needs");
    }
    // Announced less: what comes is too short.
    let blob = tiny.layers[0].clone();
    let server = Server::new(move |r, answer| match is_blob(r, &blob) {
        true => Answer { length: Some(answer.body.len().saturating_sub(100)), ..answer },
        false => answer,
    });
    server.add(&tiny, "a", "1");
    let place = Place::new();
    let name = format!("{}/a:1", server.host());
    let error = place.pull(&name).unwrap_err();
    assert_eq!(error.to_string(), format!("can't use layer 0 of {name}: expected 1000000 bytes, got 999900 bytes"));
    // And again, with the beginning that is there now.
    assert!(place.pull(&name).is_err());
    assert!(place.store.images().unwrap().is_empty());
}

#[test]
fn another_range_than_the_one_asked_for_is_refused() {
    let tiny = image();
    let blob = tiny.layers[0].clone();
    let server = Server::new(move |request, answer| match (is_blob(request, &blob), request.range()) {
        (true, None) => Answer { cut: Some(400_000), ..answer },
        (true, Some(_)) => answer.with("Content-Range", "bytes 5-999999/1000000"),
        _ => answer,
    });
    server.add(&tiny, "a", "1");
    let (host, name) = (server.host(), format!("{}/a:1", server.host()));
    let error = Place::new().pull(&name).unwrap_err();
    let said = "asked for the bytes from 400000 on, it gave \"bytes 5-999999/1000000\" (layer 0)";
    assert_error(&error, &format!("can't pull {name}: the registry {host} said: {said}"), None);
}

#[test]
fn a_dropped_pull_is_continued_by_another_where_it_stopped() {
    let tiny = image();
    let blob = tiny.layers[0].clone();
    let stall = |_: &Request, answer: Answer| Answer { cut: Some(500_000), stall: Duration::from_secs(20), ..answer };
    let server = Server::new(at_first(1, stall, move |r| is_blob(r, &blob)));
    server.add(&tiny, "a", "1");
    let place = Place::new();
    let reference: Reference = format!("{}/a:1", server.host()).parse().unwrap();
    wait(async {
        let mut pulling = puller().start(&place.store, &reference, place.sink.clone());
        // As far as it comes.
        loop {
            let step = tokio::time::timeout(Duration::from_millis(500), pulling.next()).await;
            if step.is_err() {
                break;
            }
        }
    });
    assert_eq!(fs::read_dir(place.store.path().join("leases")).unwrap().count(), 0);
    server.asked();
    place.pull(&reference.to_string()).unwrap();
    let ranges: Vec<_> = server.asked().iter().filter_map(Request::range).collect();
    assert_eq!(ranges, [(500_000, None)]);
    assert!(place.sink.holds(&tiny));
}

#[test]
fn a_big_layer_on_a_slow_link_comes_over_several_connections() {
    let big = TinyImage::of(image().config, vec![noise(72 << 20)]);
    let config = String::from_utf8(big.config)
        .unwrap()
        .replace(&Digest::sha256(&image().layers[0]).to_string(), &Digest::sha256(&big.layers[0]).to_string());
    let big = TinyImage::of(config.into_bytes(), big.layers);
    for ranges in [true, false] {
        let (blob, whole) = (big.layers[0].clone(), big.layers[0].clone());
        let server = Server::new(move |request, answer| match (is_blob(request, &blob), request.range()) {
            // 12 MB/s for each connection: 6 s by one.
            (true, _) if ranges => Answer { rate: Some(12 << 20), ..answer },
            (true, Some(_)) => Answer::new(200).body(&whole[..]),
            (true, None) => Answer { rate: Some(12 << 20), ..answer },
            _ => answer,
        });
        server.add(&big, "a", "1");
        let place = Place::new();
        place.pull(&format!("{}/a:1", server.host())).unwrap();
        assert!(place.sink.holds(&big));
        let asked: Vec<_> = server.asked().iter().filter(|r| is_blob(r, &big.layers[0])).map(Request::range).collect();
        let segments: Vec<_> = asked.iter().copied().flatten().collect();
        assert_eq!(asked.iter().filter(|r| r.is_none()).count(), 1);
        if ranges {
            assert!(segments.len() >= 5 && segments.iter().all(|(from, end)| end.is_some_and(|end| end - from <= 8 << 20)), "{segments:?}");
        } else {
            // It knows no ranges: the rest over one connection.
            assert!(segments.len() <= 5, "{segments:?}");
        }
    }
}

// ---- redirects, tokens, credentials ------------------------------------------------------------------------------------------

const RIGHT: &str = "Basic Ym9iOnJpZ2h0"; // bob:right

/// Answers to one password only.
fn wants_password(request: &Request, answer: Answer) -> Answer {
    match request.authorization() == Some(RIGHT) {
        true => answer,
        false => Answer::error(401, "UNAUTHORIZED").with("WWW-Authenticate", "Basic realm=\"tests\""),
    }
}

#[test]
fn no_credential_follows_a_redirect_to_another_host() {
    let tiny = image();
    let storage = Server::honest();
    storage.add(&tiny, "a", "1");
    let away = storage.host();
    // Another port of the same address is another host.
    let server = Server::new(move |request, answer| match (wants_password(request, answer), &request.path) {
        (answer, path) if answer.status == 200 => Answer::new(307).with("Location", format!("http://{away}{path}")),
        (answer, _) => answer,
    });
    server.add(&tiny, "a", "1");
    let place = Place::new();
    let name = format!("{}/a:1", server.host());
    place.pull_with(&puller().credentials(server.host(), "bob", "right"), &name).unwrap();
    assert!(place.sink.holds(&tiny));
    let asked = storage.asked();
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|r| r.authorization().is_none()), "{asked:?}");
}

#[test]
fn who_was_redirected_to_can_ask_for_nothing() {
    let tiny = image();
    let thief = Server::new(|_, _| Answer::new(401).with("WWW-Authenticate", "Basic realm=\"give it to me\""));
    let away = thief.host();
    let server = Server::new(move |_, _| Answer::new(302).with("Location", format!("http://{away}/v2/a/manifests/1")));
    let name = format!("{}/a:1", server.host());
    let with = hasty().credentials(server.host(), "bob", "right").credentials(thief.host(), "bob", "right");
    let error = Place::new().pull_with(&with, &name).unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(thief.asked().iter().all(|r| r.authorization().is_none()));
    drop(tiny);
}

#[test]
fn redirects_end_and_stay_with_http() {
    let cases = [
        ("/v2/a/manifests/1", "redirects without end"),
        ("file:///etc/passwd", "redirects to what is neither of https nor of http"),
        ("http://[", "redirects to what isn't an address"),
    ];
    for (location, why) in cases {
        let server = Server::new(move |_, _| Answer::new(302).with("Location", location));
        let (host, name) = (server.host(), format!("{}/a:1", server.host()));
        let error = Place::new().pull(&name).unwrap_err();
        assert_error(&error, &format!("can't pull {name}: {host} {why}"), None);
        assert!(server.asked().len() <= 11);
    }
}

#[test]
fn a_token_that_ends_in_the_middle_of_a_pull_is_exchanged_for_a_new_one() {
    let tiny = TinyImage::new("linux/amd64", &[200_000, 300_000, 400_000]);
    let given = AtomicUsize::new(0);
    let used = Mutex::new(std::collections::HashMap::<String, usize>::new());
    let server = Server::new(move |request, answer| {
        if request.path == "/token" {
            let number = given.fetch_add(1, Ordering::Relaxed);
            return Answer::new(200).body(format!(r#"{{"token":"t{number}","expires_in":3600}}"#));
        }
        // Each token is good for two requests.
        let token = request.authorization().and_then(|a| a.strip_prefix("Bearer ")).unwrap_or_default().to_owned();
        let mut used = used.lock().unwrap();
        let times = used.entry(token.clone()).or_default();
        *times += 1;
        match !token.is_empty() && *times <= 2 {
            true => answer,
            false => {
                let host = request.header("host").unwrap();
                Answer::error(401, "UNAUTHORIZED").with(
                    "WWW-Authenticate",
                    format!("Bearer realm=\"http://{host}/token\",service=\"tests\",scope=\"repository:a:pull\",error=\"invalid_token\""),
                )
            }
        }
    });
    server.add(&tiny, "a", "1");
    let place = Place::new();
    place.pull(&format!("{}/a:1", server.host())).unwrap();
    assert!(place.sink.holds(&tiny));
    let lines = server.lines();
    let tokens = lines.iter().filter(|l| l.starts_with("GET /token")).count();
    assert!((3..=4).contains(&tokens), "five requests, two by each token: {lines:?}");
    assert!(lines.contains(&"GET /token?scope=repository%3Aa%3Apull&service=tests".to_owned()));
}

#[test]
fn a_realm_that_isnt_safe_gets_no_password() {
    let cases = [
        ("http://192.0.2.1/token", "which would read the password without TLS"),
        ("http://auth.example/token", "which would read the password without TLS"),
        ("file:///etc/passwd", "which has no host"),
        ("ftp://auth.example/", "which is neither of https nor of http"),
        ("https://user@auth.example/token", "with a user's name in it"),
        ("token", "which isn't an address"),
        ("", "which isn't an address"),
    ];
    for (realm, why) in cases {
        let server = Server::new(move |_, _| Answer::new(401).with("WWW-Authenticate", format!("Bearer realm=\"{realm}\",service=\"x\"")));
        let (host, name) = (server.host(), format!("{}/a:1", server.host()));
        let error = Place::new().pull_with(&puller().credentials(&host, "bob", "right"), &name).unwrap_err();
        assert_error(&error, &format!("can't pull {name}: {host} names the token service {realm:?}, {why}"), None);
        assert!(server.asked().iter().all(|r| r.authorization().is_none()));
    }
}

#[test]
fn a_token_service_is_shown_the_password_and_who_it_redirects_to_is_not() {
    let thief = Server::new(|_, _| Answer::new(200).body(r#"{"token":"stolen"}"#));
    let away = thief.host();
    let service = Server::new(move |_, _| Answer::new(302).with("Location", format!("http://{away}/token")));
    let realm = service.host();
    let server = Server::new(move |_, _| Answer::new(401).with("WWW-Authenticate", format!("Bearer realm=\"http://{realm}/token\"")));
    let error = Place::new().pull_with(&hasty().credentials(server.host(), "bob", "right"), &format!("{}/a:1", server.host())).unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert_eq!(service.asked().iter().filter(|r| r.authorization() == Some(RIGHT)).count(), 1);
    assert_eq!(thief.asked().iter().filter(|r| r.authorization().is_some()).count(), 0);
}

#[test]
fn identity_tokens_are_exchanged_and_registry_tokens_shown() {
    let tiny = image();
    let server = Server::new(|request, answer| {
        if request.path == "/token" {
            let form = String::from_utf8(request.body.clone()).unwrap();
            let right = "grant_type=refresh_token&client_id=coracle&refresh_token=id%2Btoken&scope=repository%3Aa%3Apull&service=tests";
            let asked = (request.method.as_str(), request.header("content-type"), form.as_str());
            return match asked == ("POST", Some("application/x-www-form-urlencoded"), right) {
                true => Answer::new(200).body(r#"{"access_token":"t"}"#),
                false => Answer::new(401),
            };
        }
        match request.authorization() == Some("Bearer t") {
            true => answer,
            false => {
                let host = request.header("host").unwrap();
                Answer::new(401).with("WWW-Authenticate", format!("Bearer realm=\"http://{host}/token\",service=\"tests\""))
            }
        }
    });
    server.add(&tiny, "a", "1");
    let (host, name) = (server.host(), format!("{}/a:1", server.host()));
    for (entry, tokens) in [(r#""identitytoken":"id+token""#, 1), (r#""registrytoken":"t""#, 0)] {
        let place = Place::new();
        let file = place.dir.path().join("config.json");
        fs::write(&file, format!(r#"{{"auths":{{"{host}":{{{entry}}}}}}}"#)).unwrap();
        place.pull_with(&puller().auth_file(&file), &name).unwrap();
        assert_eq!(server.lines().iter().filter(|l| l.contains("/token")).count(), tokens);
    }
    let place = Place::new();
    let file = place.dir.path().join("config.json");
    fs::write(&file, format!(r#"{{"auths":{{"{host}":{{"registrytoken":"old"}}}}}}"#)).unwrap();
    let error = place.pull_with(&puller().auth_file(&file), &name).unwrap_err();
    let text = format!("can't pull {name}: the registry {host} said 401 Unauthorized to the token of {}", file.display());
    assert_eq!(error.to_string(), text);
}

#[test]
fn credentials_are_asked_of_the_helper_that_the_file_names() {
    let helpers = tempfile::tempdir().unwrap();
    let path = format!("{}:{}", helpers.path().display(), std::env::var("PATH").unwrap());
    let helper = |name: &str, script: &str| {
        let file = helpers.path().join(format!("docker-credential-{name}"));
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    };
    helper("good", r#"read -r server; [ "$1" = get ] && echo "{\"ServerURL\":\"$server\",\"Username\":\"bob\",\"Secret\":\"right\"}""#);
    helper("none", "echo 'credentials not found in native keychain'; exit 1");
    helper("broken", "echo secret-of-somebody; exit 1");
    if !alone("credentials_are_asked_of_the_helper_that_the_file_names", &[("PATH", &path)]) {
        return;
    }
    let tiny = image();
    let server = Server::new(wants_password);
    server.add(&tiny, "a", "1");
    let (host, name) = (server.host(), format!("{}/a:1", server.host()));
    let pull = |config: String| {
        let place = Place::new();
        let file = place.dir.path().join("config.json");
        fs::write(&file, config).unwrap();
        place.pull_with(&puller().auth_file(&file), &name).map_err(|e| (e.to_string(), e.remedy().unwrap_or_default()))
    };
    pull(format!(r#"{{"credHelpers":{{"{host}":"good"}}}}"#)).unwrap();
    pull(r#"{"credsStore":"good"}"#.to_owned()).unwrap();
    // As `docker login` leaves it with a store.
    pull(format!(r#"{{"auths":{{"{host}":{{}}}},"credsStore":"good"}}"#)).unwrap();
    let (text, _) = pull(r#"{"credsStore":"none"}"#.to_owned()).unwrap_err();
    assert!(text.ends_with("said 401 Unauthorized to an anonymous request"), "{text}");
    let (text, remedy) = pull(r#"{"credsStore":"broken"}"#.to_owned()).unwrap_err();
    assert!(
        text.ends_with("said 401 Unauthorized to an anonymous request") && remedy.contains("(its credential helper failed)"),
        "{remedy}"
    );
    assert!(!format!("{text}{remedy}").contains("secret-of-somebody"));

    // Without files: as registries.conf has it, one after the other.
    let place = Place::new();
    let file = place.dir.path().join("registries.conf");
    let with = |helpers: &str| {
        fs::write(&file, format!("credential-helpers = [{helpers}]")).unwrap();
        place.pull_with(&Puller::new().platform(amd64()).client(RegistryClient::new().registries_conf(&file)), &name)
    };
    let error = with(r#""none", "broken""#).unwrap_err();
    let remedy = error.remedy().unwrap_or_default();
    assert!(remedy.contains("in the credential helper none and the credential helper broken (it failed);"), "{remedy}");
    with(r#""none", "broken", "good""#).unwrap();
}

#[test]
fn a_name_without_a_registry_means_what_registries_conf_says_or_is_refused() {
    let place = Place::new();
    let file = place.dir.path().join("registries.conf");
    fs::write(&file, "unqualified-search-registries = [\"a.example\", \"b.example\"]\n[aliases]\nshort = \"c.example/long\"").unwrap();
    let with = client().registries_conf(&file);
    assert_eq!(with.qualify("short:2").unwrap().to_string(), "c.example/long:2");
    assert_eq!(client().qualify("short:2").unwrap().to_string(), "docker.io/library/short:2");
    let text = "the name other has no registry, and may mean a.example/other:latest or b.example/other:latest";
    let remedy = "write the one that is meant, or name it under `[aliases]` in registries.conf";
    assert_error(&with.qualify("other").unwrap_err(), text, Some(remedy));
    fs::write(&file, "unqualified-search-registries = []").unwrap();
    let error = with.qualify("other").unwrap_err();
    assert_eq!(error.to_string(), "the name other has no registry, and none is configured for such names");
    let error = with.qualify("Other//x").unwrap_err();
    assert!(matches!(error, Error::Setting { .. }), "{error}");
}

#[test]
fn a_registry_that_doesnt_answer_a_connection_is_given_up_after_a_time_that_can_be_set() {
    // One that takes no more connections: the kernel drops what asks for one.
    let listener = wait(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        socket.listen(1).unwrap().into_std().unwrap()
    });
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        waiting.push(stream);
    }
    let place = Place::new();
    let hosts = place.dir.path().join("certs.d/images.example");
    fs::create_dir_all(&hosts).unwrap();
    fs::write(hosts.join("hosts.toml"), format!("server = \"http://{address}\"\ndial_timeout = \"200ms\"")).unwrap();
    let by_file = client().retries(0).hosts_dir(place.dir.path().join("certs.d"));
    let by_setting = client().retries(0).dial_timeout(Duration::from_millis(200));
    for (client, name) in [(by_setting, format!("{address}/a:1")), (by_file, "images.example/a:1".to_owned())] {
        let reference: Reference = name.parse().unwrap();
        // Less than the usual time.
        let error = wait(async { tokio::time::timeout(Duration::from_secs(19), client.resolve(&reference)).await });
        let error = error.expect("it's given up").unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    }
    drop(waiting);
}

#[test]
fn an_open_registry_is_shown_no_password_and_no_credentials_are_looked_for() {
    let tiny = image();
    let server = Server::honest();
    server.add(&tiny, "a", "1");
    let place = Place::new();
    // It can't be read: nobody looked.
    let file = place.dir.path().join("config.json");
    fs::write(&file, "nonsense").unwrap();
    place.pull_with(&puller().auth_file(&file), &format!("{}/a:1", server.host())).unwrap();
    let asked = server.asked();
    assert!(asked.iter().all(|r| r.authorization().is_none() && r.path != "/v2/"));
}

// ---- mirrors and files of settings -------------------------------------------------------------------------------------------

#[test]
fn a_mirror_is_asked_first_with_its_own_credentials() {
    let tiny = image();
    let server = Server::honest();
    server.add(&tiny, "a", "1");
    let mirror = Server::new(|request, answer| match request.authorization() {
        // base64 of m:m
        Some("Basic bTpt") => answer,
        _ => Answer::error(401, "UNAUTHORIZED").with("WWW-Authenticate", "Basic realm=\"mirror\""),
    });
    mirror.add(&tiny, "copies/a", "1");
    let with = client().mirror(server.host(), format!("{}/copies", mirror.host())).credentials(server.host(), "bob", "right").credentials(
        mirror.host(),
        "m",
        "m",
    );
    let place = Place::new();
    place.pull_with(&puller().client(with), &format!("{}/a:1", server.host())).unwrap();
    assert!(place.sink.holds(&tiny));
    assert_eq!(server.lines(), Vec::<String>::new());
    assert!(mirror.asked().iter().all(|r| r.authorization() != Some(RIGHT)));
}

#[test]
fn what_a_mirror_lacks_or_spoils_comes_from_the_registry() {
    let tiny = TinyImage::new("linux/amd64", &[300_000, 200_000]);
    let spoilt = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[7] ^= 1;
        bytes
    };
    let blob = tiny.layers[0].clone();
    let lies: Vec<(&str, Box<Lie>)> = vec![
        ("has nothing", Box::new(|_, _| Answer::error(404, "MANIFEST_UNKNOWN"))),
        ("fails", Box::new(|_, _| Answer::new(503))),
        ("wants a password", Box::new(wants_password)),
        (
            "has a wrong config",
            Box::new(move |r, a| {
                if r.path.contains("/blobs/") {
                    let body = spoilt(&a.body);
                    a.body(body)
                } else {
                    a
                }
            }),
        ),
        (
            "has a wrong layer",
            Box::new(move |r, a| {
                if is_blob(r, &blob) {
                    let body = spoilt(&a.body);
                    a.body(body)
                } else {
                    a
                }
            }),
        ),
        ("lacks the blobs", Box::new(|r, a| if r.path.contains("/blobs/") { Answer::error(404, "BLOB_UNKNOWN") } else { a })),
        ("is short", Box::new(|r, a| if r.path.contains("/blobs/") { Answer { length: Some(100), ..a } } else { a })),
        ("breaks off", Box::new(|r, a| if r.path.contains("/blobs/") { Answer { cut: Some(100), ..a } } else { a })),
        ("has a wrong manifest", Box::new(|r, a| if r.path.contains("/manifests/") { a.body("{}") } else { a })),
    ];
    for (what, lie) in lies {
        let (server, mirror) = (Server::honest(), Server::new(lie));
        server.add(&tiny, "a", "1");
        mirror.add(&tiny, "a", "1");
        let place = Place::new();
        place.sink.expect(&tiny);
        let with = puller().client(client().mirror(server.host(), mirror.host()));
        let image = place.pull_with(&with, &format!("{}/a:1", server.host()));
        assert_eq!(image.unwrap_or_else(|e| panic!("{what}: {e}")).digest, tiny.digest(), "{what}");
        assert!(place.sink.holds(&tiny), "{what}");
        assert!(!mirror.asked().is_empty() && !server.asked().is_empty(), "{what}");
        assert_eq!(place.ingesting(), 0, "{what}");
    }
}

#[test]
fn where_all_fail_each_is_named() {
    let (server, mirror) = (Server::honest(), Server::new(|_, _| Answer::new(500)));
    let gone = {
        let server = Server::honest();
        server.host()
    };
    let with = client().retries(0).mirror(server.host(), mirror.host()).mirror(server.host(), &gone);
    let (host, name) = (server.host(), format!("{}/a:1", server.host()));
    let error = Place::new().pull_with(&puller().client(with), &name).unwrap_err();
    assert_error(
        &error,
        &format!(
            "can't pull {name}: the registry {host} has no such image (manifest unknown); before that, the mirror {} said HTTP status \
             500 (the manifest); the mirror {gone} can't be reached: connection refused",
            mirror.host()
        ),
        Some("check the name and the tag"),
    );
}

#[test]
fn registries_conf_rewrites_blocks_and_names_mirrors() {
    let tiny = image();
    let (server, mirror, digests) = (Server::honest(), Server::honest(), Server::honest());
    server.add(&tiny, "real/a", "1");
    digests.add(&tiny, "a", "1");
    let place = Place::new();
    let file = place.dir.path().join("registries.conf");
    let text = format!(
        "[[registry]]\nprefix = \"images.example/team\"\nlocation = \"{}/real\"\n\
         [[registry.mirror]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\npull-from-mirror = \"digest-only\"\n\
         [[registry]]\nprefix = \"images.example/bad\"\nblocked = true\n",
        server.host(),
        mirror.host(),
        digests.host()
    );
    fs::write(&file, text).unwrap();
    let with = puller().client(client().registries_conf(&file));
    let image = place.pull_with(&with, "images.example/team/a:1").unwrap();
    assert_eq!(image.reference.to_string(), "images.example/team/a:1");
    assert!(place.sink.holds(&tiny));
    // The tag from the registry itself, since one mirror has nothing and the other serves digests; the blobs from that one.
    assert_eq!(mirror.lines()[0], "GET /v2/a/manifests/1");
    assert_eq!(server.lines(), ["GET /v2/real/a/manifests/1"]);
    assert!(digests.lines().iter().all(|l| l.starts_with("GET /v2/a/blobs/")));

    let error = place.pull_with(&with, "images.example/bad/a:1").unwrap_err();
    assert_error(&error, &format!("can't pull images.example/bad/a:1: {} blocks its registry", file.display()), None);
    fs::write(&file, "[[registry]]\nlocation = 1").unwrap();
    let error = place.pull_with(&with, "images.example/team/a:1").unwrap_err();
    let why = "line 2: invalid type: integer `1`, expected a string";
    assert_error(&error, &format!("can't use the file {}: {why}", file.display()), None);
    fs::remove_file(&file).unwrap();
    let error = place.pull_with(&with, "images.example/team/a:1").unwrap_err();
    assert!(matches!(error, Error::Disk { .. }), "a file that was named has to be there: {error}");
}

#[test]
fn hosts_toml_names_hosts_in_order_with_headers_of_their_own() {
    let tiny = image();
    let (first, second) = (Server::honest(), Server::honest());
    second.add(&tiny, "proxy/team/a", "1");
    let place = Place::new();
    let dir = place.dir.path().join("certs.d/images.example");
    fs::create_dir_all(&dir).unwrap();
    let text = format!(
        "server = \"http://{0}\"\n[host.\"http://{0}\"]\ncapabilities = [\"pull\", \"resolve\"]\n\
         [host.\"http://{0}\".header]\nx-first = \"secret\"\n\
         [host.\"http://{1}/v2/proxy\"]\noverride_path = true\n[host.\"http://{1}/v2/proxy\".header]\nx-second = [\"yes\"]\n",
        first.host(),
        second.host()
    );
    fs::write(dir.join("hosts.toml"), text).unwrap();
    let with = puller().client(client().hosts_dir(place.dir.path().join("certs.d")));
    place.pull_with(&with, "images.example/team/a:1").unwrap();
    assert!(place.sink.holds(&tiny));
    let asked = first.asked();
    assert_eq!(asked[0].line(), "GET /v2/team/a/manifests/1?ns=images.example");
    assert!(asked.iter().all(|r| r.header("x-first") == Some("secret") && r.header("x-second").is_none()));
    let asked = second.asked();
    assert_eq!(asked[0].line(), "GET /v2/proxy/team/a/manifests/1?ns=images.example");
    assert!(asked.iter().all(|r| r.header("x-second") == Some("yes") && r.header("x-first").is_none()));
}

#[test]
fn places_that_a_manifest_names_are_never_asked() {
    let foreign = Server::honest();
    let layer = noise(1000);
    let digest = Digest::sha256(&layer);
    let tiny = TinyImage::of(image().config, vec![layer]);
    let config =
        String::from_utf8(tiny.config.clone()).unwrap().replace(&Digest::sha256(&image().layers[0]).to_string(), &digest.to_string());
    let mut tiny = TinyImage::of(config.into_bytes(), tiny.layers);
    let manifest = String::from_utf8(tiny.manifest).unwrap().replace(
        &format!("\"digest\":\"{digest}\""),
        &format!("\"urls\":[\"http://{}/v2/a/blobs/{digest}\"],\"digest\":\"{digest}\"", foreign.host()),
    );
    assert!(manifest.contains("urls"));
    tiny.manifest = manifest.into_bytes();
    foreign.add(&tiny, "a", "1");
    let server = Server::honest();
    server.add(&tiny, "a", "1");
    server.remove_blob("a", &digest);
    let (host, name) = (server.host(), format!("{}/a:1", server.host()));
    let error = Place::new().pull(&name).unwrap_err();
    assert_error(&error, &format!("can't pull {name}: the registry {host} said: blob unknown (layer 0)"), None);
    assert_eq!(foreign.lines(), Vec::<String>::new());
}

// ---- proxies, TLS, nothing process-wide --------------------------------------------------------------------------------------

#[test]
fn a_proxy_is_asked_for_others_and_not_for_this_machine() {
    let tiny = image();
    let proxy = Server::honest();
    proxy.add(&tiny, "a", "1");
    let with =
        |except: &str| puller().client(client().insecure("images.invalid").retries(0).proxy(format!("http://{}", proxy.host()), except));
    let place = Place::new();
    place.pull_with(&with(""), "images.invalid/a:1").unwrap();
    assert!(place.sink.holds(&tiny));
    assert!(proxy.asked().iter().all(|r| r.header("host") == Some("images.invalid")));
    // Not for those that are excepted, and not for this machine.
    let error = Place::new().pull_with(&with(".example, images.invalid"), "images.invalid/a:1").unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let server = Server::honest();
    server.add(&tiny, "a", "1");
    Place::new().pull_with(&with(""), &format!("{}/a:1", server.host())).unwrap();
    Place::new().pull_with(&with(""), &format!("localhost:{}/a:1", server.port)).unwrap();
    assert_eq!(proxy.lines(), Vec::<String>::new());
    let error =
        Place::new().pull_with(&puller().client(client().proxy("gopher://u:secret@p.example", "")), "images.invalid/a:1").unwrap_err();
    assert_error(&error, "can't use the proxy p.example: only proxies of http, https, socks4 and socks5 are known", None);
}

#[test]
fn the_environments_proxy_is_used_unless_it_is_said_otherwise() {
    if !alone("the_environments_proxy_is_used_unless_it_is_said_otherwise", &[("http_proxy", "http://127.0.0.1:9"), ("no_proxy", "")]) {
        return;
    }
    let proxied =
        Place::new().pull_with(&puller().client(client().insecure("images.invalid").retries(0)), "images.invalid/a:1").unwrap_err();
    assert!(proxied.to_string().contains("connection refused"), "{proxied}");
    let direct = client().insecure("images.invalid").retries(0).no_proxy();
    let direct = Place::new().pull_with(&puller().client(direct), "images.invalid/a:1").unwrap_err();
    assert!(!direct.to_string().contains("connection refused"), "{direct}");
}

#[test]
fn a_machine_without_certificates_pulls_from_itself() {
    if !alone("a_machine_without_certificates_pulls_from_itself", &[("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")]) {
        return;
    }
    let tiny = image();
    let server = Server::honest();
    server.add(&tiny, "a", "1");
    Place::new().pull(&format!("{}/a:1", server.host())).unwrap();
    // With TLS there's nobody to trust, and that is said.
    let error = Place::new().pull_with(&puller().client(client().secure(server.host())), &format!("{}/a:1", server.host())).unwrap_err();
    let why = "this machine trusts no certificate authority: install the package ca-certificates, or name one by `RegistryClient::trust`";
    assert_error(&error, &format!("can't use TLS: {why}"), None);
}

#[test]
fn tls_is_set_by_client_and_never_for_the_process() {
    if !have(&["docker-registry", "skopeo", "openssl", "htpasswd"]) {
        return;
    }
    let registry = Registry::start(&Kind::TlsPassword);
    let tiny = image();
    registry.push_image(&tiny, "app:1");
    let (host, name) = (registry.host(), format!("{}/app:1", registry.host()));
    let secure = || client().secure(&host).credentials(&host, "bob", "right");
    let place = Place::new();
    place.pull_with(&puller().client(secure().trust(registry.authority())), &name).unwrap();
    assert!(place.sink.holds(&tiny));
    // What one client trusts, another doesn't.
    let error = Place::new().pull_with(&puller().client(secure()), &name).unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error}");
    Place::new().pull_with(&puller().client(secure().skip_verify(&host)), &name).unwrap();
    assert!(rustls::crypto::CryptoProvider::get_default().is_none(), "a provider was installed for the process");
    // Docker's way to say it.
    let place = Place::new();
    let dir = place.dir.path().join("certs.d").join(&host);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("ca.crt"), registry.authority()).unwrap();
    place.pull_with(&puller().client(secure().hosts_dir(place.dir.path().join("certs.d"))), &name).unwrap();
    let error = Place::new().pull_with(&puller().client(secure().trust("nonsense")), &name).unwrap_err();
    assert_error(&error, "can't use the certificate of an authority: there is none in it", None);
}

#[test]
fn a_registry_that_wants_a_certificate_gets_it() {
    if !have(&["docker-registry", "openssl"]) {
        return;
    }
    let registry = Registry::start(&Kind::Mutual);
    let (host, name) = (registry.host(), format!("{}/app:1", registry.host()));
    let secure = || client().secure(&host).trust(registry.authority()).retries(0);
    let error = Place::new().pull_with(&puller().client(secure()), &name).unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error}");
    let with = secure().client_certificate(&host, registry.file("client.pem"), registry.file("client.key"));
    let error = Place::new().pull_with(&puller().client(with), &name).unwrap_err();
    assert!(matches!(error, Error::UnknownImage { .. }), "it was let in: {error}");
    let error = Place::new().pull_with(&puller().client(secure().client_certificate(&host, "x", "y")), &name).unwrap_err();
    assert_error(&error, "can't use the client certificate: there is none in it", None);
}

#[test]
fn a_registry_with_tls_cannot_send_us_to_where_there_is_none() {
    if !have(&["openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let file = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let thief = Server::new(|_, _| Answer::new(200).body(r#"{"token":"stolen"}"#));
    let away = thief.host();
    let secure = |host: &str| client().secure(host).trust(file("ca.pem")).credentials(host, "bob", "right");
    let tls = |lie: Box<Lie>| Server::tls(&file("cert.pem"), &file("cert.key"), lie);

    let to = format!("http://{away}/v2/a/manifests/1");
    let server = tls(Box::new(move |_, _| Answer::new(307).with("Location", &to)));
    let (host, name) = (server.host(), format!("{}/a:1", server.host()));
    let error = Place::new().pull_with(&puller().client(secure(&host)), &name).unwrap_err();
    assert_error(&error, &format!("can't pull {name}: {host} redirects from HTTPS to plain HTTP"), None);

    // Not even on its own host: it has TLS itself.
    let realm = format!("http://{away}/token");
    let challenge = format!("Bearer realm=\"{realm}\"");
    let server = tls(Box::new(move |_, _| Answer::new(401).with("WWW-Authenticate", &challenge)));
    let (host, name) = (server.host(), format!("{}/a:1", server.host()));
    let error = Place::new().pull_with(&puller().client(secure(&host)), &name).unwrap_err();
    let why = format!("names the token service {realm:?}, which would read the password without TLS");
    assert_error(&error, &format!("can't pull {name}: {host} {why}"), None);

    // A blob, and an upload's place.
    let tiny = image();
    let to = format!("http://{away}/blob");
    let blob = tiny.layers[0].clone();
    let server = tls(Box::new(move |r, answer| if is_blob(r, &blob) { Answer::new(302).with("Location", &to) } else { answer }));
    server.add(&tiny, "a", "1");
    let error = Place::new().pull_with(&puller().client(secure(&server.host())), &format!("{}/a:1", server.host())).unwrap_err();
    assert!(matches!(error, Error::Unsafe { .. }), "{error}");
    let to = format!("http://{away}/upload");
    let server = tls(Box::new(move |r, answer| if r.method == "POST" { Answer::new(202).with("Location", &to) } else { answer }));
    let reference: Reference = format!("{}/a:1", server.host()).parse().unwrap();
    let error = wait(secure(&server.host()).push_blob(&reference, &b"x"[..])).unwrap_err();
    assert_error(&error, &format!("can't push {reference}: {} wants an upload without TLS", server.host()), None);
    assert_eq!(thief.lines(), Vec::<String>::new());

    // And all is well with one that doesn't try.
    let server = tls(Box::new(wants_password));
    server.add(&tiny, "a", "1");
    let place = Place::new();
    place.pull_with(&puller().client(secure(&server.host())), &format!("{}/a:1", server.host())).unwrap();
    assert!(place.sink.holds(&tiny));
}

#[test]
fn what_registries_conf_calls_insecure_is_tried_with_tls_and_then_without() {
    if !have(&["openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let file = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let tiny = image();
    let servers = [Server::honest(), Server::tls(&file("cert.pem"), &file("cert.key"), |_, answer| answer)];
    for server in servers {
        server.add(&tiny, "a", "1");
        // This machine by a name that isn't known to be its own.
        let host = format!("0.0.0.0:{}", server.port);
        let place = Place::new();
        let conf = place.dir.path().join("registries.conf");
        fs::write(&conf, format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true")).unwrap();
        let error = place.pull_with(&hasty(), &format!("{host}/a:1")).unwrap_err();
        assert!(matches!(error, Error::Tls { .. }), "{error}");
        place.pull_with(&puller().client(client().registries_conf(&conf)), &format!("{host}/a:1")).unwrap();
        assert!(place.sink.holds(&tiny));
    }
}

#[test]
fn a_server_that_stands_for_a_registry_isnt_shown_the_registrys_password() {
    let tiny = image();
    let (server, place) = (Server::new(wants_password), Place::new());
    server.add(&tiny, "a", "1");
    let dir = place.dir.path().join("certs.d/images.example");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("hosts.toml"), format!("server = \"http://{}\"\n", server.host())).unwrap();
    let with = || client().hosts_dir(place.dir.path().join("certs.d"));
    let error = place.pull_with(&puller().client(with().credentials("images.example", "bob", "right")), "images.example/a:1").unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(server.asked().iter().all(|r| r.authorization().is_none()));
    place.pull_with(&puller().client(with().credentials(server.host(), "bob", "right")), "images.example/a:1").unwrap();
}

// ---- as few requests as can be -----------------------------------------------------------------------------------------------

#[test]
fn a_registry_that_knows_no_head_is_asked_by_get() {
    let tiny = image();
    for status in [405, 400, 404, 200] {
        let server = Server::new(move |request, answer| match (request.method.as_str(), status) {
            // As some do: no digest in the answer.
            ("HEAD", 200) => Answer::new(200),
            ("HEAD", _) => Answer::new(status),
            _ => answer,
        });
        server.add(&tiny, "a", "1");
        let place = Place::new();
        let name = format!("{}/a:1", server.host());
        place.pull(&name).unwrap();
        server.asked();
        place.pull(&name).unwrap();
        assert_eq!(server.lines(), ["HEAD /v2/a/manifests/1", "GET /v2/a/manifests/1"], "{status}");
    }
}

#[test]
fn pulls_in_one_process_fetch_each_blob_once() {
    let tiny = TinyImage::new("linux/amd64", &[500_000, 400_000, 300]);
    let server = Server::new(|request, answer| {
        if request.path.contains("/blobs/") {
            std::thread::sleep(Duration::from_millis(100));
        }
        answer
    });
    for round in 0..5 {
        let repository = format!("r{round}");
        server.add(&tiny, &repository, "1");
        let place = Place::new();
        let reference: Reference = format!("{}/{repository}:1", server.host()).parse().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
        runtime.block_on(async {
            let pulls: Vec<_> = (0..6)
                .map(|_| {
                    let (store, reference, sink) = (place.store.clone(), reference.clone(), place.sink.clone());
                    tokio::spawn(async move { puller().pull(&store, &reference, sink).await })
                })
                .collect();
            for pull in pulls {
                pull.await.unwrap().unwrap();
            }
        });
        let mut blobs: Vec<String> = server.lines().into_iter().filter(|l| l.contains("/blobs/")).collect();
        blobs.sort();
        let all = blobs.len();
        blobs.dedup();
        assert_eq!((all, blobs.len()), (4, 4), "a config and three layers");
        assert_eq!(place.sink.begun(), 3);
        assert_eq!(place.ingesting(), 0);
    }
}

#[test]
fn an_index_is_chosen_from_by_the_version_of_the_system_too() {
    let server = Server::honest();
    let images = ["10.0.17763.1", "10.0.20348.7"].map(|version| {
        let tiny = TinyImage::new("windows/amd64", &[version.len(), version.as_bytes()[5].into()]);
        let config = String::from_utf8(tiny.config).unwrap().replacen('{', &format!(r#"{{"os.version":"{version}","#), 1);
        let tiny = TinyImage::of(config.into_bytes(), tiny.layers);
        server.add(&tiny, "a", version);
        let entry = tiny.descriptor(Some("windows/amd64"), None);
        (entry.replace(r#""os":"windows""#, &format!(r#""os":"windows","os.version":"{version}""#)), tiny.digest())
    });
    server.add_manifest("a", "1", INDEX, &support::index(&[images[0].0.clone(), images[1].0.clone()]));
    let name = format!("{}/a:1", server.host());
    let place = Place::new();
    for (platform, digest) in
        [("windows(10.0.20348)/amd64", &images[1].1), ("windows(10.0.17763.1)/amd64", &images[0].1), ("windows/amd64", &images[0].1)]
    {
        assert_eq!(&place.pull_with(&puller().platform(platform.parse().unwrap()), &name).unwrap().digest, digest, "{platform}");
    }
    let error = place.pull_with(&puller().platform("windows(10.0.1)/amd64".parse().unwrap()), &name).unwrap_err();
    assert_error(
        &error,
        &format!("{name} has no image for windows(10.0.1)/amd64; it has windows(10.0.17763.1)/amd64 and windows(10.0.20348.7)/amd64"),
        Some("choose one that there is, with `platform`"),
    );
}

// ---- a word of the caller's --------------------------------------------------------------------------------------------------

/// Accepts what a signature was put beside, by tag or as a referrer, whose blob says `good`.
#[derive(Clone)]
struct Signed(Arc<Mutex<Vec<String>>>);

impl Verifier for Signed {
    fn verify<'a>(&'a self, candidate: &'a Candidate<'a>) -> Verdict<'a> {
        Box::pin(async move {
            self.0.lock().unwrap().push(format!("{} {}", candidate.digest(), candidate.manifest_digest()));
            assert_eq!(&Digest::sha256(candidate.bytes()), candidate.digest());
            assert_eq!(&Digest::sha256(candidate.manifest_bytes()), candidate.manifest_digest());
            let tag = candidate.digest().to_string().replace(':', "-") + ".sig";
            let mut signature = candidate.tagged(&tag).await?;
            if let Some(referrer) = candidate.referrers(Some("application/x-signature")).await?.first() {
                signature = candidate.manifest(&referrer.digest).await?;
            }
            let Some(signature) = signature else {
                return Err("nobody signed it".into());
            };
            let json: serde_json::Value = serde_json::from_slice(&signature.bytes)?;
            let layer = &json["layers"][0];
            let digest = layer["digest"].as_str().unwrap_or_default().parse()?;
            let blob = candidate.blob(&Descriptor::new("", digest, layer["size"].as_u64().unwrap_or_default())).await?;
            match &blob[..] {
                b"good" => Ok(()),
                _ => Err("the signature is bad".into()),
            }
        })
    }
}

#[test]
fn what_isnt_accepted_is_neither_unpacked_nor_published() {
    let tiny = image();
    let index = support::index(&[tiny.descriptor(Some("linux/amd64"), None)]);
    let digest = Digest::sha256(&index);
    let server = Server::honest();
    server.add(&tiny, "a", "other");
    server.add_manifest("a", "1", INDEX, &index);
    server.add_manifest("a", &digest.to_string(), INDEX, &index);
    let name = format!("{}/a:1", server.host());
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let with = puller().verify(Signed(asked.clone()));

    let place = Place::new();
    let error = place.pull_with(&with, &name).unwrap_err();
    assert_error(&error, &format!("{name} isn't accepted ({digest}): nobody signed it"), None);
    assert!(place.store.images().unwrap().is_empty() && place.sink.begun() == 0);
    assert!(server.lines().iter().all(|l| !l.contains("/blobs/")), "not even its config was fetched");
    assert_eq!(asked.lock().unwrap()[0], format!("{digest} {}", tiny.digest()));

    let sign = |text: &str, subject: bool| {
        let blob = TinyImage::of(b"{}".to_vec(), vec![text.as_bytes().to_vec()]);
        server.add(&blob, "a", "unused");
        let mut json: serde_json::Value = serde_json::from_slice(&blob.manifest).unwrap();
        let tag = match subject {
            true => {
                json["artifactType"] = "application/x-signature".into();
                json["subject"] = serde_json::json!({ "mediaType": INDEX, "digest": digest.to_string(), "size": index.len() });
                Digest::sha256(json.to_string().as_bytes()).to_string()
            }
            false => digest.to_string().replace(':', "-") + ".sig",
        };
        server.add_manifest("a", &tag, MANIFEST, json.to_string().as_bytes());
    };
    sign("bad", false);
    let error = place.pull_with(&with, &name).unwrap_err();
    assert!(error.to_string().ends_with("the signature is bad"), "{error}");
    sign("good", false);
    place.pull_with(&with, &name).unwrap();
    assert!(place.sink.holds(&tiny));
    // By a referrer; and what is there already is looked at, too.
    sign("bad", false);
    let reference: Reference = name.parse().unwrap();
    assert!(wait(with.pull_missing(&place.store, &reference, place.sink.clone())).is_err());
    sign("good", true);
    wait(with.pull_missing(&place.store, &reference, place.sink.clone())).unwrap();
}

#[test]
fn the_steps_of_a_pull_can_be_waited_for() {
    let server = Server::honest();
    let tiny = TinyImage::new("linux/amd64", &[700_000, 10]);
    server.add(&tiny, "a", "1");
    let place = Place::new();
    let reference: Reference = format!("{}/a:1", server.host()).parse().unwrap();
    wait(async {
        let mut pulling = puller().start(&place.store, &reference, place.sink.clone());
        let mut steps = Vec::new();
        while let Some(step) = pulling.next().await {
            steps.push(step);
        }
        assert!(pulling.next().await.is_none());
        let image = pulling.finish().await.unwrap();
        assert!(matches!(steps.first(), Some(Progress::Resolving { .. })));
        assert!(matches!(steps.last(), Some(Progress::Done { digest, .. }) if *digest == image.digest));
        for layer in &tiny.layers {
            let wanted = Digest::sha256(layer);
            let of = |step: &Progress| match step {
                Progress::Layer { digest, .. } if *digest == wanted => "bytes",
                Progress::Unpacking { digest, .. } if *digest == wanted => "unpacking",
                Progress::Unpacked { digest, .. } if *digest == wanted => "unpacked",
                _ => "",
            };
            let mut names: Vec<&str> = steps.iter().map(of).filter(|n| !n.is_empty()).collect();
            names.dedup();
            assert_eq!(names, ["bytes", "unpacking", "unpacked"]);
        }
        // Without anybody who looks at the steps.
        puller().start(&place.store, &reference, Arc::new(NoSink)).finish().await.unwrap();
        let mut failing = puller().start(&place.store, &format!("{}/a:2", server.host()).parse().unwrap(), Arc::new(NoSink));
        while failing.next().await.is_some() {}
        assert!(matches!(failing.finish().await, Err(Error::UnknownImage { .. })));
    });
}
