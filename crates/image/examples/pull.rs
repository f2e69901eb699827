//! cargo run --example pull [LAYOUT_DIR[:NAME] | REFERENCE]      (as any user; a reference needs its registry)
//!
//! Brings an image into a store in a temporary directory and prints what it would run. Without an argument it writes a tiny OCI layout
//! itself, so that it runs anywhere.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use coracle_image::{Digest, Image, NoSink, OciLayout, Platform, Progress, Store};

fn main() -> ExitCode {
    let dir = std::env::temp_dir().join(format!("coracle-pull-{}", std::process::id()));
    let result = run(&dir);
    let _ = fs::remove_dir_all(&dir);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(remedy) = error.downcast_ref().and_then(coracle_image::Error::remedy) {
                eprintln!("  fix: {remedy}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path) -> Result<(), Box<dyn Error>> {
    let store = Store::open(dir.join("store"))?;
    let image = match std::env::args().nth(1) {
        None => {
            let layout = dir.join("layout");
            write_layout(&layout)?;
            let image = OciLayout::open(layout)?.progress(show).import(&store, &NoSink)?;
            assert_eq!(image.config.cmd, ["echo", "hello"], "the config is what was written");
            image
        }
        Some(name) if name.starts_with(['.', '/']) => OciLayout::open(name)?.progress(show).import(&store, &NoSink)?,
        Some(name) => pull(&store, &name)?,
    };
    println!("{}\n  manifest {}", image.reference, image.digest);
    for layer in &image.layers {
        println!("  layer    {} {} bytes", layer.digest, layer.size);
    }
    println!("  runs     {:?} {:?} with {:?}", image.config.entrypoint, image.config.cmd, image.config.env);
    assert!(store.find(&image.reference, &image.platform)?.is_some(), "the image is in the store");
    Ok(())
}

#[cfg(feature = "registry")]
fn pull(store: &Store, name: &str) -> Result<Image, Box<dyn Error>> {
    let puller = coracle_image::Puller::new().progress(show);
    Ok(puller.pull_blocking(store, &name.parse()?, std::sync::Arc::new(NoSink))?)
}

#[cfg(not(feature = "registry"))]
fn pull(_: &Store, _: &str) -> Result<Image, Box<dyn Error>> {
    Err("built without the feature `registry`".into())
}

fn show(progress: Progress) {
    if let Progress::Layer { digest, done, total, .. } = progress {
        eprintln!("{digest}: {done} of {total} bytes");
    }
}

/// An image of one layer: an empty tar archive, which is two blocks of zeros.
fn write_layout(dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(dir.join("blobs/sha256"))?;
    let blob = |bytes: &[u8], media_type: &str| {
        let digest = Digest::sha256(bytes);
        fs::write(dir.join("blobs/sha256").join(digest.hex()), bytes)?;
        let size = bytes.len();
        std::io::Result::Ok(format!(r#"{{"mediaType": "{media_type}", "digest": "{digest}", "size": {size}}}"#))
    };
    let archive = [0; 1024];
    let layer = blob(&archive, "application/vnd.oci.image.layer.v1.tar")?;
    let platform = Platform::host();
    let config = format!(
        r#"{{"os": "{}", "architecture": "{}", "config": {{"Cmd": ["echo", "hello"], "Env": ["PATH=/bin"]}},
            "rootfs": {{"type": "layers", "diff_ids": ["{}"]}}}}"#,
        platform.os(),
        platform.architecture(),
        Digest::sha256(&archive)
    );
    let config = blob(config.as_bytes(), "application/vnd.oci.image.config.v1+json")?;
    let manifest = format!(r#"{{"schemaVersion": 2, "config": {config}, "layers": [{layer}]}}"#);
    let manifest = blob(manifest.as_bytes(), "application/vnd.oci.image.manifest.v1+json")?;
    fs::write(dir.join("index.json"), format!(r#"{{"schemaVersion": 2, "manifests": [{manifest}]}}"#))?;
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#)
}
