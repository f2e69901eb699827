//! Pushes, tags, deletions and referrers: with a server that does what a registry may do, with Debian's `docker-registry`, and with
//! `skopeo` on the other side.
//!
//! Needs no privilege. Tests that want `docker-registry`, `skopeo`, `htpasswd` or `openssl` say so and are skipped without.
#![cfg(feature = "registry")]

mod support;

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle_image::{Digest, Error, Progress, Pusher, Reference, RegistryClient};
use support::docker_registry::{Kind, Registry, have};
use support::place::{Place, assert_error, client, puller, wait};
use support::server::{Answer, Lie, Server};
use support::{INDEX, MANIFEST, TinyImage};

fn pusher() -> Pusher {
    Pusher::new().client(client()).platform("linux/amd64".parse().unwrap())
}

/// A place that holds an image, and under which name.
fn place_with(tiny: &TinyImage) -> (Place, String) {
    let server = Server::honest();
    server.add(tiny, "from", "1");
    let place = Place::new();
    let name = format!("{}/from:1", server.host());
    place.pull(&name).unwrap();
    (place, name)
}

fn push(pusher: &Pusher, place: &Place, name: &str, to: &str) -> Result<Digest, Error> {
    pusher.push_blocking(&place.store, &name.parse().unwrap(), &to.parse().unwrap())
}

fn holds(server: &Server, repository: &str, tiny: &TinyImage) -> bool {
    tiny.layers.iter().chain([&tiny.config]).all(|blob| server.blob(repository, &Digest::sha256(blob)).as_ref() == Some(blob))
}

#[test]
fn what_was_pulled_is_pushed_byte_for_byte() {
    let tiny = TinyImage::new("linux/amd64", &[3_000_000, 100, 0]);
    let (place, name) = place_with(&tiny);
    let server = Server::honest();
    let to = format!("{}/team/to:2", server.host());
    let steps: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let keep = steps.clone();
    let digest = push(&pusher().progress(move |p| keep.lock().unwrap().push(p)), &place, &name, &to).unwrap();
    assert_eq!(digest, tiny.digest());
    assert!(holds(&server, "team/to", &tiny));
    assert_eq!(server.manifest("team/to", "2"), Some((MANIFEST.to_owned(), tiny.manifest.clone())));
    let lines = server.lines();
    assert!(lines.last().unwrap().starts_with("PUT /v2/team/to/manifests/2"), "the manifest last: {lines:?}");
    let wanted = Digest::sha256(&tiny.layers[0]);
    let seen: Vec<(u64, u64)> = steps
        .lock()
        .unwrap()
        .iter()
        .filter_map(|p| match p {
            Progress::Uploading { digest, done, total, .. } if *digest == wanted => Some((*done, *total)),
            _ => None,
        })
        .collect();
    assert_eq!(seen.last(), Some(&(3_000_000, 3_000_000)));
    assert!(seen.len() > 5 && seen.is_sorted());

    // Again: nothing is sent but the manifest.
    push(&pusher(), &place, &name, &to).unwrap();
    let methods: Vec<String> = server.asked().into_iter().map(|r| r.method).filter(|m| m != "HEAD").collect();
    assert_eq!(methods, ["PUT"]);
    // By digest.
    let by_digest = format!("{}/team/to@{digest}", server.host());
    push(&pusher(), &place, &name, &by_digest).unwrap();
    assert_eq!(server.lines().last().unwrap(), &format!("PUT /v2/team/to/manifests/{digest}"));
}

#[test]
fn what_isnt_here_or_is_another_isnt_pushed() {
    let tiny = TinyImage::new("linux/amd64", &[10]);
    let (place, name) = place_with(&tiny);
    let server = Server::honest();
    let to = format!("{}/to:1", server.host());
    assert_error(
        &push(&pusher(), &place, "nowhere.example/a:1", &to).unwrap_err(),
        &format!("can't push nowhere.example/a:1: it isn't in the store {} for linux/amd64", place.store.path().display()),
        Some("pull it, or import it"),
    );
    let other = Digest::sha256(b"");
    let error = push(&pusher(), &place, &name, &format!("{}/to@{other}", server.host())).unwrap_err();
    assert_error(
        &error,
        &format!("can't use the manifest of {name}: expected {other}, got {}", tiny.digest()),
        Some("try again; if it stays so, what serves the image is damaged"),
    );
    let blob = place.store.path().join("blobs/sha256").join(Digest::sha256(&tiny.layers[0]).hex());
    fs::write(&blob, "short").unwrap();
    let error = push(&pusher(), &place, &name, &to).unwrap_err();
    assert_eq!(error.to_string(), format!("can't use layer 0 of {name}: expected 10 bytes, got 5 bytes in the store"));
    fs::remove_file(&blob).unwrap();
    let error = push(&pusher(), &place, &name, &to).unwrap_err();
    assert!(error.to_string().ends_with("got nothing: its blob isn't in the store"), "{error}");
    assert_eq!(server.lines(), Vec::<String>::new());
    // Of the right length, and damaged: the registry refuses it.
    fs::write(&blob, "0123456789").unwrap();
    let error = push(&pusher(), &place, &name, &to).unwrap_err();
    let text = format!("can't push {to}: the registry {} said: digest invalid (layer 0)", server.host());
    assert_error(&error, &text, None);
    assert!(server.manifest("to", "1").is_none());
}

#[test]
fn layers_are_mounted_from_the_repository_they_came_from() {
    let tiny = TinyImage::new("linux/amd64", &[200_000, 300]);
    for refuses in [false, true] {
        let server = Server::new(move |request, answer| match refuses && request.query.starts_with("mount=") {
            true => Answer::error(403, "DENIED"),
            false => answer,
        });
        server.add(&tiny, "team/from", "1");
        let place = Place::new();
        let name = format!("{}/team/from:1", server.host());
        place.pull(&name).unwrap();
        server.asked();
        push(&pusher(), &place, &name, &format!("{}/to:1", server.host())).unwrap();
        assert!(holds(&server, "to", &tiny));
        let lines = server.lines();
        for layer in tiny.layers.iter().chain([&tiny.config]) {
            let mount =
                format!("POST /v2/to/blobs/uploads/?mount={}&from=team%2Ffrom", Digest::sha256(layer).to_string().replace(':', "%3A"));
            assert!(lines.contains(&mount), "{mount}: {lines:?}");
        }
        let puts = lines.iter().filter(|l| l.starts_with("PUT") && l.contains("/blobs/")).count();
        assert_eq!(puts, if refuses { 3 } else { 0 });
    }
}

#[test]
fn a_registry_that_wants_chunks_gets_them() {
    const MIB: usize = 1 << 20;
    let tiny = TinyImage::new("linux/amd64", &[10 * MIB]);
    let (place, name) = place_with(&tiny);
    let lies: Vec<(&str, Box<Lie>, Vec<usize>)> = vec![
        (
            "by OCI-Chunk-Min-Length, small",
            Box::new(|r, a| if r.method == "POST" { a.with("OCI-Chunk-Min-Length", "1000") } else { a }),
            vec![4 * MIB, 4 * MIB, 2 * MIB],
        ),
        (
            "by OCI-Chunk-Min-Length, large",
            Box::new(|r, a| if r.method == "POST" { a.with("OCI-Chunk-Min-Length", (6 << 20).to_string()) } else { a }),
            vec![6 * MIB, 4 * MIB],
        ),
        (
            "by 413",
            Box::new(|r, a| if r.method == "PUT" && r.body.len() > 5 * MIB { Answer::new(413) } else { a }),
            vec![4 * MIB, 4 * MIB, 2 * MIB],
        ),
    ];
    for (what, lie, expected) in lies {
        let server = Server::new(lie);
        push(&pusher(), &place, &name, &format!("{}/to:1", server.host())).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(holds(&server, "to", &tiny), "{what}");
        let asked = server.asked();
        let chunks: Vec<_> = asked.iter().filter(|r| r.method == "PATCH" && r.body.len() > 10_000).collect();
        assert_eq!(chunks.iter().map(|r| r.body.len()).collect::<Vec<_>>(), expected, "{what}");
        assert_eq!(chunks[0].header("content-range"), Some(&*format!("0-{}", expected[0] - 1)));
    }
    // One that takes nothing of that size at all.
    let server = Server::new(|r, a| if r.body.len() > 10_000 { Answer::new(413) } else { a });
    let to = format!("{}/to:1", server.host());
    let error = push(&pusher(), &place, &name, &to).unwrap_err();
    assert_eq!(error.to_string(), format!("can't push {to}: the registry {} said: HTTP status 413 (layer 0)", server.host()));
}

#[test]
fn an_upload_that_breaks_off_goes_on_where_the_registry_says() {
    const MIB: usize = 1 << 20;
    let tiny = TinyImage::new("linux/amd64", &[10 * MIB]);
    let (place, name) = place_with(&tiny);
    // The registry has taken the second chunk and its answer is lost; then it has forgotten the upload.
    for forgets in [false, true] {
        let (patches, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let server = Server::new(move |request, answer| match request.method.as_str() {
            "POST" => answer.with("OCI-Chunk-Min-Length", "1"),
            "PATCH" if request.body.len() > 10_000 && patches.fetch_add(1, Ordering::Relaxed) == 1 => Answer::new(502),
            "GET" if forgets && lost.fetch_add(1, Ordering::Relaxed) == 0 => Answer::error(404, "BLOB_UPLOAD_UNKNOWN"),
            _ => answer,
        });
        push(&pusher(), &place, &name, &format!("{}/to:1", server.host())).unwrap();
        assert!(holds(&server, "to", &tiny));
        let sent: usize = server.asked().iter().filter(|r| r.method == "PATCH" && r.body.len() > 10_000).map(|r| r.body.len()).sum();
        assert_eq!(sent, if forgets { 18 * MIB } else { 10 * MIB });
    }
    // The whole at once, cut off by the registry.
    let times = AtomicUsize::new(0);
    let server = Server::new(move |request, answer| match request.method == "PUT" && request.body.len() > 10_000 {
        true if times.fetch_add(1, Ordering::Relaxed) == 0 => Answer::new(500),
        _ => answer,
    });
    push(&pusher(), &place, &name, &format!("{}/to:1", server.host())).unwrap();
    assert!(holds(&server, "to", &tiny));
}

#[test]
fn a_registry_that_says_it_took_what_it_cannot_have_is_refused() {
    let tiny = TinyImage::new("linux/amd64", &[1_000_000]);
    let (place, name) = place_with(&tiny);
    let server = Server::new(|request, answer| match request.method.as_str() {
        "POST" => answer.with("OCI-Chunk-Min-Length", "1"),
        "PATCH" => answer.with("Range", "0-99999999"),
        _ => answer,
    });
    let error = push(&pusher(), &place, &name, &format!("{}/to:1", server.host())).unwrap_err();
    assert!(error.to_string().contains("it says to have 100000000"), "{error}");
    // One that takes another digest than it was given.
    let server = Server::new(|request, answer| match request.method.as_str() {
        "PUT" => answer.with("Docker-Content-Digest", Digest::sha256(b"another").to_string()),
        _ => answer,
    });
    let error = push(&pusher(), &place, &name, &format!("{}/to:1", server.host())).unwrap_err();
    assert!(error.to_string().contains("it took sha256:"), "{error}");
}

#[test]
fn an_upload_elsewhere_gets_the_bytes_and_no_password() {
    let tiny = TinyImage::new("linux/amd64", &[100_000]);
    let (place, name) = place_with(&tiny);
    let storage = Server::new(|_, _| Answer::new(201));
    let away = storage.host();
    let server = Server::new(move |request, answer| match request.authorization() {
        // base64 of bob:right
        Some("Basic Ym9iOnJpZ2h0") if request.method == "POST" => answer.with("Location", format!("http://{away}/put?signature=x")),
        Some("Basic Ym9iOnJpZ2h0") => answer,
        _ => Answer::new(401).with("WWW-Authenticate", "Basic realm=\"x\""),
    });
    let with = pusher().client(client().credentials(server.host(), "bob", "right"));
    push(&with, &place, &name, &format!("{}/to:1", server.host())).unwrap();
    let asked = storage.asked();
    assert!(asked.iter().all(|r| r.authorization().is_none() && r.query.starts_with("signature=x&digest=sha256%3A")));
    assert!(asked.iter().any(|r| r.body == tiny.layers[0]));
}

#[test]
fn a_push_is_authorized_for_both_repositories_with_one_token() {
    let tiny = TinyImage::new("linux/amd64", &[100_000, 7]);
    let server = Server::new(|request, answer| {
        if request.path == "/token" {
            return Answer::new(200).body(r#"{"token":"t"}"#);
        }
        match request.authorization() == Some("Bearer t") {
            true => answer,
            false => {
                let host = request.header("host").unwrap();
                Answer::new(401).with("WWW-Authenticate", format!("Bearer realm=\"http://{host}/token\",service=\"tests\""))
            }
        }
    });
    server.add(&tiny, "from", "1");
    let place = Place::new();
    let name = format!("{}/from:1", server.host());
    place.pull(&name).unwrap();
    server.asked();
    push(&pusher(), &place, &name, &format!("{}/to:1", server.host())).unwrap();
    let tokens: Vec<String> = server.lines().into_iter().filter(|l| l.contains("/token")).collect();
    assert_eq!(tokens, ["GET /token?scope=repository%3Ato%3Apull%2Cpush&scope=repository%3Afrom%3Apull&service=tests"]);
}

#[test]
fn tags_are_listed_over_all_pages_of_this_registry() {
    let server = Server::honest();
    for tag in ["a", "b", "c", "d", "e"] {
        server.add(&TinyImage::new("linux/amd64", &[1]), "team/x", tag);
    }
    let reference: Reference = format!("{}/team/x", server.host()).parse().unwrap();
    assert_eq!(wait(client().tags(&reference)).unwrap(), ["a", "b", "c", "d", "e"]);
    let asked = server.lines();
    assert_eq!(asked[0], "GET /v2/team/x/tags/list?n=1000");
    assert_eq!(asked.len(), 3);
    let unknown: Reference = format!("{}/y", server.host()).parse().unwrap();
    let text = format!("can't list the tags of {unknown}: the registry {} said: name unknown (the list of tags)", server.host());
    assert_error(&wait(client().tags(&unknown)).unwrap_err(), &text, None);

    let server = Server::new(|_, _| Answer::new(200).body("{\"tags\":[\"ok\",\"\u{1b}[2J\",\"\",\"a b\",\"../x\"]}"));
    assert!(
        matches!(wait(client().tags(&format!("{}/x", server.host()).parse().unwrap())), Err(Error::Registry { .. })),
        "that is no JSON"
    );
    let server = Server::new(|_, _| Answer::new(200).body(r#"{"tags":["ok","\u001b[2J","","a b","../x"]}"#));
    assert_eq!(wait(client().tags(&format!("{}/x", server.host()).parse().unwrap())).unwrap(), ["ok"]);
    let server = Server::new(|_, _| Answer::new(200).body(r#"{"name":"x","tags":null}"#));
    assert_eq!(wait(client().tags(&format!("{}/x", server.host()).parse().unwrap())).unwrap(), Vec::<String>::new());

    let thief = Server::honest();
    let away = thief.host();
    for link in
        [format!("<http://{away}/v2/x/tags/list>; rel=\"next\""), "<?n=1000>; rel=next".to_owned(), "<http://[>; rel=next".to_owned()]
    {
        let server = Server::new(move |_, _| Answer::new(200).with("Link", &link).body(r#"{"tags":["a"]}"#));
        let reference: Reference = format!("{}/x", server.host()).parse().unwrap();
        let error = wait(client().tags(&reference)).unwrap_err();
        assert!(matches!(error, Error::Registry { .. }), "{error}");
    }
    assert_eq!(thief.lines(), Vec::<String>::new());
}

#[test]
fn what_refers_to_an_image_is_found_with_and_without_the_registrys_help() {
    for lists in [true, false] {
        let server = if lists { Server::honest() } else { Server::honest().without_lists() };
        let tiny = TinyImage::new("linux/amd64", &[10]);
        server.add(&tiny, "a", "1");
        let reference: Reference = format!("{}/a:1", server.host()).parse().unwrap();
        assert_eq!(wait(client().referrers(&reference, None)).unwrap(), []);
        let mut pushed = Vec::new();
        for kind in ["application/x-signature", "application/x-bill", "application/x-signature"] {
            let blob = wait(client().push_blob(&reference, format!("{kind} {}", pushed.len()).into_bytes())).unwrap();
            let manifest = serde_json::json!({
                "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind,
                "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::sha256(b"{}").to_string(), "size": 2 },
                "layers": [{ "mediaType": "text/plain", "digest": blob.to_string(), "size": 25 }],
                "subject": { "mediaType": MANIFEST, "digest": tiny.digest().to_string(), "size": tiny.manifest.len() },
                "annotations": { "n": pushed.len().to_string() },
            });
            let bytes = manifest.to_string().into_bytes();
            let to = reference.with_digest(Digest::sha256(&bytes));
            pushed.push(wait(client().push_manifest(&to, MANIFEST, bytes.clone())).unwrap());
            // Twice is once.
            wait(client().push_manifest(&to, MANIFEST, bytes)).unwrap();
        }
        let found = wait(client().referrers(&reference, None)).unwrap();
        let mut digests: Vec<Digest> = found.iter().map(|d| d.digest.clone()).collect();
        digests.sort();
        let mut expected = pushed.clone();
        expected.sort();
        assert_eq!(digests, expected);
        let bills = wait(client().referrers(&reference, Some("application/x-bill"))).unwrap();
        assert_eq!(
            bills.iter().map(|d| (&d.digest, d.artifact_type.as_deref())).collect::<Vec<_>>(),
            [(&pushed[1], Some("application/x-bill"))]
        );
        let tag = tiny.digest().to_string().replace(':', "-");
        assert_eq!(server.manifest("a", &tag).is_some(), !lists);
        if let Some((media_type, index)) = server.manifest("a", &tag) {
            assert_eq!(media_type, INDEX);
            let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
            assert_eq!(index["manifests"][1]["annotations"]["n"], "1");
        }
    }
}

#[test]
fn a_manifest_is_deleted_by_digest_and_a_tag_by_name() {
    let server = Server::honest();
    let tiny = TinyImage::new("linux/amd64", &[10]);
    server.add(&tiny, "a", "1");
    let tag: Reference = format!("{}/a:1", server.host()).parse().unwrap();
    assert_eq!(wait(client().resolve(&tag)).unwrap(), tiny.digest());
    assert_eq!(wait(client().manifest(&tag)).unwrap().bytes, tiny.manifest);
    wait(client().delete(&tag)).unwrap();
    assert!(server.manifest("a", "1").is_none() && server.manifest("a", &tiny.digest().to_string()).is_some());
    wait(client().delete(&tag.with_digest(tiny.digest()))).unwrap();
    let error = wait(client().delete(&tag)).unwrap_err();
    let text = format!("can't delete {tag}: the registry {} has no such image (manifest unknown)", server.host());
    assert_error(&error, &text, Some("check the name and the tag"));
    let server = Server::new(|_, _| Answer::error(405, "UNSUPPORTED"));
    let tag: Reference = format!("{}/a:1", server.host()).parse().unwrap();
    let error = wait(client().delete(&tag)).unwrap_err();
    assert_eq!(error.to_string(), format!("can't delete {tag}: the registry {} said: unsupported (the manifest)", server.host()));
}

/// An index of two platforms' images, one within another index, and of something that is no image; and what it consists of.
fn many_platforms(server: &Server) -> (Vec<TinyImage>, Vec<(String, Vec<u8>)>) {
    let images = vec![TinyImage::new("linux/amd64", &[300_000, 7]), TinyImage::new("linux/arm64", &[200_000, 7])];
    let note = br#"{"a":"note that is no manifest"}"#.to_vec();
    let entry =
        |kind: &str, bytes: &[u8]| format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, Digest::sha256(bytes), bytes.len());
    let inner = support::index(&[images[1].descriptor(Some("linux/arm64"), None)]);
    let outer = support::index(&[
        images[0].descriptor(Some("linux/amd64"), None),
        entry(INDEX, &inner),
        entry("application/vnd.example.note+json", &note),
    ]);
    for image in &images {
        server.add(image, "from", &image.digest().to_string());
    }
    let documents = vec![
        (MANIFEST.to_owned(), images[0].manifest.clone()),
        (MANIFEST.to_owned(), images[1].manifest.clone()),
        (INDEX.to_owned(), inner),
        ("application/vnd.example.note+json".to_owned(), note),
        (INDEX.to_owned(), outer),
    ];
    for (kind, bytes) in &documents {
        server.add_manifest("from", &Digest::sha256(bytes).to_string(), kind, bytes);
    }
    server.add_manifest("from", "1", INDEX, &documents[4].1);
    (images, documents)
}

#[test]
fn a_whole_index_is_pulled_and_pushed_byte_for_byte() {
    let from = Server::honest();
    let (images, documents) = many_platforms(&from);
    let name = format!("{}/from:1", from.host());
    let place = Place::new();
    place.pull(&name).unwrap();
    let to = Server::honest();
    let target = format!("{}/team/to:2", to.host());
    // It came for one platform: all of it isn't here, and that is said before anything is sent.
    let error = push(&pusher().whole(true), &place, &name, &target).unwrap_err();
    let text = format!("can't push {name} for all platforms: of its index ");
    assert!(error.to_string().starts_with(&text) && matches!(error, Error::NotWhole { .. }), "{error}");
    assert_eq!(error.remedy().as_deref(), Some("pull it for all platforms: `Puller::whole`, `coracle pull --all-platforms`"));
    assert_eq!(to.lines(), Vec::<String>::new());

    let image = place.pull_with(&puller().whole(true), &name).unwrap();
    assert_eq!(image.digest, images[0].digest());
    assert!(place.sink.holds(&images[0]) && !place.sink.holds(&images[1]), "what is for others stays packed");
    // Nobody asks for it meanwhile: it stays, and so it does when the name is pulled again for one platform.
    place.store.prune(false, &*place.sink).unwrap();
    place.pull(&name).unwrap();
    place.store.prune(false, &*place.sink).unwrap();
    assert_eq!(place.store.check(false, &*place.sink).unwrap().faults, []);

    let digest = push(&pusher().whole(true), &place, &name, &target).unwrap();
    assert_eq!(digest, Digest::sha256(&documents[4].1));
    for image in &images {
        assert!(holds(&to, "team/to", image));
    }
    for (kind, bytes) in &documents {
        assert_eq!(to.manifest("team/to", &Digest::sha256(bytes).to_string()), Some((kind.clone(), bytes.clone())));
    }
    assert_eq!(to.manifest("team/to", "2"), Some((INDEX.to_owned(), documents[4].1.clone())));
    assert!(to.lines().last().unwrap().starts_with("PUT /v2/team/to/manifests/2"), "the index last: {:?}", to.lines());
    // A single image of it still goes alone.
    assert_eq!(push(&pusher(), &place, &name, &format!("{}/one:1", to.host())).unwrap(), images[0].digest());
    // Under another name it's whole too.
    place.store.tag(&name, &"localhost/other:1".parse().unwrap(), &support::amd64()).unwrap();
    assert_eq!(push(&pusher().whole(true), &place, "localhost/other:1", &format!("{}/other:1", to.host())).unwrap(), digest);

    // What is lost of it is found, and with the last name all of it goes.
    let lost = place.store.path().join("blobs/sha256").join(Digest::sha256(&images[1].layers[0]).hex());
    fs::rename(&lost, place.dir.path().join("lost")).unwrap();
    let faults = place.store.check(false, &*place.sink).unwrap().faults;
    assert!(faults.len() == 2 && faults[0].what.contains("for all platforms, whose sha256:"), "{faults:?}");
    for name in [&name[..], "localhost/other:1"] {
        place.store.remove(name, false, &*place.sink).unwrap();
    }
    assert_eq!(fs::read_dir(place.store.path().join("blobs/sha256")).unwrap().count(), 0);
}

// ---- real registries ---------------------------------------------------------------------------------------------------------

fn skopeo(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("skopeo").args(arguments).output().unwrap();
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A client for a registry of the tests.
fn client_of(registry: &Registry) -> RegistryClient {
    client().secure(registry.host()).trust(registry.authority()).credentials(registry.host(), "bob", "right")
}

#[test]
fn images_go_to_a_real_registry_with_tls_and_a_password_and_come_back_the_same() {
    if !have(&["docker-registry", "skopeo", "htpasswd", "openssl"]) {
        return;
    }
    let registry = Registry::start(&Kind::TlsPassword);
    let host = registry.host();
    // A file that compresses, so that skopeo's conversion to Docker's schema 2 has work.
    let tiny = TinyImage::new("linux/amd64", &[6_000_000, 100, 0, 70_000]);
    registry.push_image(&tiny, "oci:1");
    let oci = format!("docker://{host}/oci:1");
    let copy = [
        "copy",
        "--insecure-policy",
        "--src-creds=bob:right",
        "--dest-creds=bob:right",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
    ];
    skopeo(&[&copy[..], &["--format=v2s2", &oci, &format!("docker://{host}/docker:1")]].concat());

    for kind in ["oci", "docker"] {
        let place = Place::new();
        let name = format!("{host}/{kind}:1");
        let image = place.pull_with(&puller().client(client_of(&registry)), &name).unwrap();
        let to = format!("{host}/team/{kind}-again:2");
        let mounted: Arc<Mutex<Vec<bool>>> = Arc::default();
        let keep = mounted.clone();
        let told = move |p: Progress| {
            if let Progress::Uploaded { sent, .. } = p {
                keep.lock().unwrap().push(sent);
            }
        };
        let digest = push(&pusher().client(client_of(&registry)).progress(told), &place, &name, &to).unwrap();
        assert_eq!(digest, image.digest);
        assert_eq!(mounted.lock().unwrap().iter().filter(|sent| **sent).count(), 0, "{kind}: all was mounted");

        let inspect = ["inspect", "--creds=bob:right", "--tls-verify=false"];
        let raw = |name: &str| skopeo(&[&inspect[..], &["--raw", &format!("docker://{name}")]].concat());
        assert_eq!(raw(&to), raw(&name), "{kind}");
        // Whole, by somebody else's reading.
        let out = tempfile::tempdir().unwrap();
        let dir = format!("dir:{}", out.path().display());
        skopeo(&["copy", "--insecure-policy", "--src-creds=bob:right", "--src-tls-verify=false", &format!("docker://{to}"), &dir]);
        for layer in &image.layers {
            assert_eq!(Digest::sha256(&fs::read(out.path().join(layer.digest.hex())).unwrap()), layer.digest);
        }
        let again = Place::new();
        assert_eq!(again.pull_with(&puller().client(client_of(&registry)), &to).unwrap().digest, image.digest);
    }

    // Into a registry that has nothing of it.
    let other = Registry::start(&Kind::Open);
    let (place, name) = place_with(&tiny);
    let to = format!("{}/new:1", other.host());
    push(&pusher(), &place, &name, &to).unwrap();
    let back = Place::new();
    assert_eq!(back.pull(&to).unwrap().digest, tiny.digest());
    assert!(back.sink.holds(&tiny));

    let error = push(&pusher().client(client_of(&registry).credentials(&host, "bob", "wrong")), &place, &name, &format!("{host}/new:1"))
        .unwrap_err();
    let text =
        format!("can't push {host}/new:1: the registry {host} said 401 Unauthorized to the user \"bob\" of `RegistryClient::credentials`");
    assert_eq!(error.to_string(), text);
}

#[test]
fn a_real_registry_lists_deletes_and_is_helped_with_referrers() {
    if !have(&["docker-registry", "skopeo"]) {
        return;
    }
    let registry = Registry::start(&Kind::Open);
    let tiny = TinyImage::new("linux/amd64", &[1000]);
    let (place, name) = place_with(&tiny);
    for tag in ["b", "a", "c"] {
        push(&pusher(), &place, &name, &format!("{}/x:{tag}", registry.host())).unwrap();
    }
    let reference: Reference = format!("{}/x:a", registry.host()).parse().unwrap();
    let mut tags = wait(client().tags(&reference)).unwrap();
    tags.sort();
    assert_eq!(tags, ["a", "b", "c"]);

    let empty = wait(client().push_blob(&reference, &b"{}"[..])).unwrap();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": "application/x-note", "digest": empty.to_string(), "size": 2 },
        "layers": [{ "mediaType": "application/x-note", "digest": empty.to_string(), "size": 2 }],
        "subject": { "mediaType": MANIFEST, "digest": tiny.digest().to_string(), "size": tiny.manifest.len() },
    });
    let bytes = manifest.to_string().into_bytes();
    let digest = Digest::sha256(&bytes);
    wait(client().push_manifest(&reference.with_digest(digest.clone()), MANIFEST, bytes)).unwrap();
    let found = wait(client().referrers(&reference, Some("application/x-note"))).unwrap();
    assert_eq!(found.into_iter().map(|d| d.digest).collect::<Vec<_>>(), [digest]);

    wait(client().delete(&reference.with_digest(tiny.digest()))).unwrap();
    assert!(matches!(Place::new().pull(&reference.to_string()), Err(Error::UnknownImage { .. })));
}

#[test]
fn a_dropped_push_leaves_no_lease_and_is_finished_by_the_next() {
    let tiny = TinyImage::new("linux/amd64", &[400_000, 300_000]);
    let (place, name) = place_with(&tiny);
    let times = AtomicUsize::new(0);
    let server = Server::new(move |request, answer| {
        if request.method == "PUT" && request.body.len() == 400_000 && times.fetch_add(1, Ordering::Relaxed) == 0 {
            std::thread::sleep(Duration::from_secs(3));
        }
        answer
    });
    let to: Reference = format!("{}/to:1", server.host()).parse().unwrap();
    let from: Reference = name.parse().unwrap();
    wait(async {
        let pusher = pusher();
        let push = pusher.push(&place.store, &from, &to);
        assert!(tokio::time::timeout(Duration::from_millis(800), push).await.is_err());
    });
    assert_eq!(fs::read_dir(place.store.path().join("leases")).unwrap().count(), 0);
    server.asked();
    push(&pusher(), &place, &name, &to.to_string()).unwrap();
    assert!(holds(&server, "to", &tiny));
    assert!(!server.asked().iter().any(|r| r.body.len() == 300_000), "what the registry had isn't sent again");
}

#[test]
fn a_whole_index_goes_through_a_real_registry_and_skopeo_reads_all_of_it() {
    if !have(&["docker-registry", "skopeo"]) {
        return;
    }
    let from = Server::honest();
    let (_, documents) = many_platforms(&from);
    // Only what `docker-registry` takes into an index: images.
    let index = support::index(&[
        format!(
            r#"{{"mediaType":"{MANIFEST}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"amd64"}}}}"#,
            Digest::sha256(&documents[0].1),
            documents[0].1.len()
        ),
        format!(
            r#"{{"mediaType":"{MANIFEST}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"arm64"}}}}"#,
            Digest::sha256(&documents[1].1),
            documents[1].1.len()
        ),
    ]);
    from.add_manifest("from", "2", INDEX, &index);
    let (place, name) = (Place::new(), format!("{}/from:2", from.host()));
    place.pull_with(&puller().whole(true), &name).unwrap();
    let registry = Registry::start(&Kind::Open);
    let to = format!("{}/all:1", registry.host());
    assert_eq!(push(&pusher().whole(true), &place, &name, &to).unwrap(), Digest::sha256(&index));
    let out = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}:1", out.path().display());
    skopeo(&["copy", "--all", "--preserve-digests", "--insecure-policy", "--src-tls-verify=false", &format!("docker://{to}"), &layout]);
    for (_, bytes) in &documents[..2] {
        assert_eq!(&fs::read(out.path().join("blobs/sha256").join(Digest::sha256(bytes).hex())).unwrap(), bytes);
    }
}
