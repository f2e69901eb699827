//! The images that are pulled, made here, and the registry that they are pulled from.
//!
//! Debian's smallest system by debootstrap, whole (with documents and package lists, as people's images have them): once as one layer,
//! once cut into four of about the same size. They are made once and kept below `target/tmp`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::bench::Result;

/// The bytes in the layer that is to show that memory doesn't grow with it.
pub(crate) const BIG: u64 = 4 << 30;

/// An OCI layout of ours: a directory, and what its tags mean.
pub(crate) struct Layout {
    pub(crate) directory: PathBuf,
}

/// A layer's blob and the digest of the archive in it.
struct Layer {
    digest: String,
    size: u64,
    diff_id: String,
}

impl Layout {
    fn new(directory: &Path) -> Result<Layout> {
        fs::create_dir_all(directory.join("blobs/sha256"))?;
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(Layout { directory: directory.to_owned() })
    }

    fn blob(&self, bytes: &[u8]) -> Result<(String, usize)> {
        let digest = hex(&Sha256::digest(bytes));
        fs::write(self.directory.join("blobs/sha256").join(&digest), bytes)?;
        Ok((format!("sha256:{digest}"), bytes.len()))
    }

    /// A layer from an archive that is written to a closure's argument.
    fn layer(&self, level: u32, write: impl FnOnce(&mut dyn Write) -> Result) -> Result<Layer> {
        let partial = self.directory.join("partial");
        let blob = Hashing::new(BufWriter::with_capacity(1 << 20, File::create(&partial)?));
        let mut archive = Hashing::new(GzEncoder::new(blob, Compression::new(level)));
        write(&mut archive)?;
        let diff_id = hex(&archive.hash.finalize());
        let mut blob = archive.inner.finish()?;
        blob.inner.flush()?;
        let digest = hex(&blob.hash.finalize());
        fs::rename(&partial, self.directory.join("blobs/sha256").join(&digest))?;
        Ok(Layer { digest: format!("sha256:{digest}"), size: blob.size, diff_id: format!("sha256:{diff_id}") })
    }

    /// Adds an image of these layers to the index under a tag.
    fn image(&self, tag: &str, layers: &[Layer], index: &mut Vec<Value>) -> Result {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "architecture": architecture, "os": "linux", "config": { "Cmd": ["bash"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let (config, config_size) = self.blob(config.to_string().as_bytes())?;
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        let layers: Vec<Value> =
            layers.iter().map(|layer| json!({ "mediaType": media_type, "digest": layer.digest, "size": layer.size })).collect();
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": manifest_type, "layers": layers,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size },
        });
        let (digest, size) = self.blob(manifest.to_string().as_bytes())?;
        index.push(json!({
            "mediaType": manifest_type, "digest": digest, "size": size,
            "annotations": { "org.opencontainers.image.ref.name": tag },
        }));
        let text = json!({ "schemaVersion": 2, "manifests": index }).to_string();
        Ok(fs::write(self.directory.join("index.json"), text)?)
    }

    /// The digest of a tag's manifest.
    pub(crate) fn digest(&self, tag: &str) -> Result<String> {
        let index: Value = serde_json::from_slice(&fs::read(self.directory.join("index.json"))?)?;
        let found = index["manifests"]
            .as_array()
            .ok_or("no manifests")?
            .iter()
            .find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == tag);
        Ok(found.and_then(|entry| entry["digest"].as_str()).ok_or("no such tag")?.to_owned())
    }

    fn document(&self, digest: &str) -> Result<Value> {
        let hex = digest.strip_prefix("sha256:").ok_or("no sha256")?;
        Ok(serde_json::from_slice(&fs::read(self.directory.join("blobs/sha256").join(hex))?)?)
    }

    /// The layers of a tag: digest of the blob, its length, diffID.
    pub(crate) fn layers(&self, tag: &str) -> Result<Vec<(String, u64, String)>> {
        let manifest = self.document(&self.digest(tag)?)?;
        let config = self.document(manifest["config"]["digest"].as_str().ok_or("no config")?)?;
        let layers = manifest["layers"].as_array().ok_or("no layers")?.iter();
        let diff_ids = config["rootfs"]["diff_ids"].as_array().ok_or("no diff_ids")?.iter();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(layers
            .zip(diff_ids)
            .map(|(layer, diff_id)| (text(&layer["digest"]), layer["size"].as_u64().unwrap_or(0), text(diff_id)))
            .collect())
    }
}

/// The layout with the tags `one` and `four`; made, if need be, with the network of this machine's apt.
pub(crate) fn debian() -> Result<Layout> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pull-debian");
    if directory.join("complete").exists() {
        return Ok(Layout { directory });
    }
    let _ = fs::remove_dir_all(&directory);
    let layout = Layout::new(&directory)?;
    let root = crate::bench::Scratch::new()?;
    let root = root.join("debian");
    eprintln!("debootstrap into {root}");
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", "--keyring=/usr/share/keyrings/debian-archive-keyring.gpg", "bookworm", &root]);
    let path = std::env::var("PATH").unwrap_or_default();
    let done = debootstrap.env("PATH", format!("{path}:/usr/sbin:/sbin")).output()?;
    if !done.status.success() {
        return Err(format!("debootstrap: {}\n{}", done.status, String::from_utf8_lossy(&done.stdout)).into());
    }
    let mut files = Vec::new();
    list(Path::new(&root), Path::new(""), &mut files)?;
    let mut index = Vec::new();
    eprintln!("packing");
    let one = layout.layer(6, |to| archive(&root, files.iter().map(|(path, _)| path), to))?;
    layout.image("one", &[one], &mut index)?;

    // Four pieces of the sorted list, each with the directories that lead to its files, as layers of a Dockerfile have them.
    let total: u64 = files.iter().map(|(_, size)| size + 512).sum();
    let (mut pieces, mut sum) = (vec![BTreeSet::new()], 0);
    for (path, size) in &files {
        if sum >= total * pieces.len() as u64 / 4 && pieces.len() < 4 {
            pieces.push(BTreeSet::new());
        }
        sum += size + 512;
        if let Some(piece) = pieces.last_mut() {
            piece.extend(path.ancestors().filter(|a| !a.as_os_str().is_empty()).map(Path::to_owned));
        }
    }
    let layers: Result<Vec<Layer>> = pieces.iter().map(|piece| layout.layer(6, |to| archive(&root, piece.iter(), to))).collect();
    layout.image("four", &layers?, &mut index)?;
    fs::write(directory.join("complete"), "")?;
    Ok(layout)
}

/// A layout with the tag `big`: a layer of [`BIG`] bytes, half of them noise.
pub(crate) fn big(directory: &Path) -> Result<Layout> {
    eprintln!("making a layer of {} GiB", BIG >> 30);
    let layout = Layout::new(directory)?;
    let layer = layout.layer(1, |to| {
        const FILE: u64 = 64 << 20;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut block = vec![0; 1 << 20];
        for n in 0..BIG / FILE {
            let mut header = tar::Header::new_gnu();
            header.set_path(format!("file-{n}"))?;
            header.set_size(FILE);
            header.set_mode(0o644);
            header.set_cksum();
            to.write_all(header.as_bytes())?;
            for _ in 0..FILE >> 20 {
                for word in block[..1 << 19].chunks_exact_mut(8) {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    word.copy_from_slice(&state.to_ne_bytes());
                }
                to.write_all(&block)?;
            }
        }
        Ok(to.write_all(&[0; 1024])?)
    })?;
    layout.image("big", &[layer], &mut Vec::new())?;
    Ok(layout)
}

/// Every path below a directory with the bytes of files, sorted.
fn list(root: &Path, below: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result {
    let mut names: Vec<_> = fs::read_dir(root.join(below))?.map(|entry| entry.map(|e| e.file_name())).collect::<io::Result<_>>()?;
    names.sort();
    for name in names {
        let path = below.join(name);
        // Devices, and what the kernel shows.
        if ["dev", "proc", "sys"].iter().any(|top| path.starts_with(top) && path != Path::new(top)) {
            continue;
        }
        let found = root.join(&path).symlink_metadata()?;
        files.push((path.clone(), if found.is_file() { found.len() } else { 0 }));
        if found.is_dir() {
            list(root, &path, files)?;
        }
    }
    Ok(())
}

/// GNU tar's archive of certain paths.
fn archive<'a>(root: &str, paths: impl Iterator<Item = &'a PathBuf>, to: &mut dyn Write) -> Result {
    let mut tar = Command::new("tar")
        .args(["--format=gnu", "--numeric-owner", "--no-recursion", "--null", "-C", root, "-c", "--files-from=-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut names = Vec::new();
    for path in paths {
        names.extend_from_slice(path.as_os_str().as_bytes());
        names.push(0);
    }
    let mut input = tar.stdin.take().ok_or("no input")?;
    let feeding = std::thread::spawn(move || input.write_all(&names));
    let mut output = tar.stdout.take().ok_or("no output")?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match output.read(&mut buffer)? {
            0 => break,
            n => to.write_all(&buffer[..n])?,
        }
    }
    feeding.join().map_err(|_| "a thread panicked")??;
    let status = tar.wait()?;
    if status.success() { Ok(()) } else { Err(format!("tar: {status}").into()) }
}

/// Writes through, and hashes on the way.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Debian's `docker-registry` on a port of loopback. It ends with the value.
pub(crate) struct Registry {
    child: Child,
    pub(crate) address: String,
}

impl Registry {
    pub(crate) fn start(directory: &Path) -> Result<Registry> {
        fs::create_dir_all(directory)?;
        // Nobody else is in our network namespace.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = directory.join("config.yml");
        let data = directory.join("data");
        let text = format!(
            "version: 0.1\nlog: {{ level: error, accesslog: {{ disabled: true }} }}\nstorage: {{ filesystem: {{ rootdirectory: {data:?} }} }}\nhttp: {{ addr: \"127.0.0.1:{port}\" }}\n"
        );
        fs::write(&config, text)?;
        let log = File::create(directory.join("log"))?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let registry = Registry { child: command.spawn()?, address: format!("127.0.0.1:{port}") };
        let begun = Instant::now();
        while TcpStream::connect(&registry.address).is_err() {
            if begun.elapsed() > Duration::from_secs(20) {
                return Err("docker-registry doesn't answer".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    pub(crate) fn push(&self, layout: &Layout, tag: &str) -> Result {
        let from = format!("oci:{}:{tag}", layout.directory.display());
        let to = format!("docker://{}/debian:{tag}", self.address);
        let arguments = ["copy", "--quiet", "--insecure-policy", "--preserve-digests", "--dest-tls-verify=false", &from, &to];
        let done = Command::new("skopeo").args(arguments).output()?;
        if done.status.success() { Ok(()) } else { Err(format!("skopeo: {}", String::from_utf8_lossy(&done.stderr)).into()) }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
