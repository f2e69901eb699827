//! The fixtures themselves: a test that passes because its registry was empty is worth nothing.

use crate::support::image::{Compressed, Layout};
use crate::support::leftovers::Leftovers;
use crate::support::registry::{PASSWORD, Registry, USER};
use crate::support::{directory, need, program, rootfs};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::Duration;

fn inspect(arguments: &[&str]) -> Value {
    let words = ["inspect", "--tls-verify=false"].iter().chain(arguments);
    serde_json::from_str(&program::run("skopeo", words)).expect("skopeo answers in JSON")
}

#[test]
fn the_registry_serves_busybox() {
    need!(Registry, Busybox);
    let registry = Registry::with_busybox();
    let seen = inspect(&[&format!("docker://{}", registry.reference("busybox:latest"))]);
    assert_eq!(seen["Os"], "linux");
    assert_eq!(seen["Layers"].as_array().map(Vec::len), Some(1));
    assert!(registry.log().contains("busybox/manifests/latest"));
}

#[test]
fn a_registry_with_a_login_lets_only_its_user_in() {
    need!(Registry, Busybox);
    let registry = Registry::start_with_login();
    registry.push_busybox();
    let reference = format!("docker://{}", registry.reference("busybox:latest"));
    let seen = inspect(&["--creds", &format!("{USER}:{PASSWORD}"), &reference]);
    assert_eq!(seen["Os"], "linux");
    assert!(!program::works("skopeo", &["inspect", "--tls-verify=false", "--no-creds", &reference]));
    assert!(!program::works("skopeo", &["inspect", "--tls-verify=false", "--creds", "tester:wrong", &reference]));
}

#[test]
fn the_registry_serves_debian() {
    need!(Registry, DebianRoot);
    let registry = Registry::start();
    registry.push_debian();
    let seen = inspect(&["--config", &format!("docker://{}", registry.reference("debian:12"))]);
    assert_eq!(seen["config"]["Cmd"], json!(["bash"]));
}

#[test]
fn the_same_root_has_the_same_digest() {
    need!(Busybox);
    let place = directory();
    let digests = ["one", "two"].map(|name| {
        let root = place.path().join(name).join("root");
        rootfs::busybox(&root);
        let layout = Layout::new(&place.path().join(name).join("layout"));
        let (plain, gzip) = (layout.layer_of(&root, Compressed::No), layout.layer_of(&root, Compressed::Gzip));
        assert_eq!(plain.diff_id, gzip.diff_id);
        assert_eq!(plain.diff_id, plain.blob.digest);
        assert!(gzip.blob.size < plain.blob.size);
        gzip.blob.digest
    });
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn a_process_that_holds_our_directory_is_seen_until_it_ends() {
    let place = directory();
    let watch = Leftovers::watch(place.path());
    let mut child = Command::new("sleep").arg("60").current_dir(place.path()).stdin(Stdio::null()).spawn().expect("sleep runs");
    let mine = format!("process {} sleep", child.id());
    assert!(watch.after(Duration::ZERO).contains(&mine));
    child.kill().expect("it can be killed");
    child.wait().expect("it can be reaped");
    assert!(!watch.after(Duration::from_secs(1)).contains(&mine));
}

#[test]
fn a_file_that_stays_is_seen() {
    let place = directory();
    let watch = Leftovers::watch(place.path());
    std::fs::write(place.path().join("forgotten"), "").expect("it can be written");
    let expected = format!("file {}", place.path().join("forgotten").display());
    assert!(watch.after(Duration::ZERO).contains(&expected));
}
