//! A root file system as an image of one layer. docker-import(1).

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use crate::archive::{Compression, is_about_bytes, manifest_of, read_full};
use crate::change::Change;
use crate::config::{ImageConfig, RawConfig};
use crate::descriptor::Descriptor;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, disk};
use crate::image::Image;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::sink::LayerSink;
use crate::store::{Record, Store, image, unique};

/// A root file system as a tar archive (plain, gzip or zstd), about to become an image.
///
/// ```no_run
/// use coracle_image::{NoSink, RootfsArchive, Store};
///
/// let store = Store::open("/var/lib/example/store")?;
/// let archive = std::fs::File::open("rootfs.tar.gz").unwrap();
/// let image = RootfsArchive::new(archive, "rootfs.tar.gz")
///     .change("CMD [\"sh\"]".parse()?)
///     .import(&store, &"localhost/base:1".parse().unwrap(), &NoSink)?;
/// # Ok::<(), coracle_image::Error>(())
/// ```
#[must_use]
pub struct RootfsArchive<R> {
    source: R,
    shown: String,
    changes: Vec<Change>,
    platform: Platform,
    message: Option<String>,
    created: Option<SystemTime>,
}

impl<R: Read + Send> RootfsArchive<R> {
    /// Whatever can be read once. `shown` is what messages call it.
    pub fn new(source: R, shown: impl Into<String>) -> RootfsArchive<R> {
        let created = Some(SystemTime::now());
        RootfsArchive { source, shown: shown.into(), changes: Vec::new(), platform: Platform::host(), message: None, created }
    }

    /// Changes the image's config; the changes are made in the order of the calls.
    pub fn change(mut self, change: Change) -> Self {
        self.changes.push(change);
        self
    }

    /// What it runs on; this program's platform, unless this says otherwise.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// A comment in the image's history.
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// When the image says it was made; now, unless this says otherwise. With none the same archive always is the same image.
    pub fn created(mut self, created: Option<SystemTime>) -> Self {
        self.created = created;
        self
    }

    /// Reads it to its end into the store, then brings it into the sink as the one layer of an image.
    ///
    /// # Errors
    /// [`Error::Archive`] where it can't be inflated, [`Error::Sink`] where it's no root file system, [`Error::Disk`].
    pub fn import(self, store: &Store, reference: &Reference, sink: &dyn LayerSink) -> Result<Image, Error> {
        let outer = store;
        let store = outer.session()?;
        let RootfsArchive { source, shown, changes, platform, message, created } = self;
        let mut taking = Taking::begin(&store)?;
        let (compression, diff_id) = taking.all(source, &shown)?;
        let (digest, size) = (taking.hasher.clone().finish(), taking.length);

        let mut config = ImageConfig::from(RawConfig::default());
        for change in changes {
            change.apply(&mut config);
        }
        let mut whole = json!({
            "os": platform.os(),
            "architecture": platform.architecture(),
            "config": RawConfig::from(&config),
            "rootfs": { "type": "layers", "diff_ids": [diff_id.to_string()] },
        });
        if let Some(variant) = platform.variant() {
            whole["variant"] = variant.into();
        }
        let comment = message.unwrap_or_else(|| format!("Imported from {shown}"));
        let mut history = json!({ "comment": comment });
        if let Some(created) = created {
            let created = rfc3339(created);
            whole["created"] = created.clone().into();
            history["created"] = created.into();
        }
        whole["history"] = json!([history]);
        let config = whole.to_string().into_bytes();
        let layer = Descriptor::new(compression.layer(), digest.clone(), size);
        let (manifest, manifest_digest) = manifest_of(&config, &[layer]);

        let parsed = match crate::manifest::Document::parse(&manifest) {
            Ok(crate::manifest::Document::Manifest(parsed)) => parsed,
            _ => unreachable!("we wrote a manifest"),
        };
        let image = image(reference.clone(), platform, manifest_digest.clone(), &parsed, &config)?;
        let new = taking.publish(&digest)?;
        let unpacked = store.unpack(&image, sink).and_then(|()| {
            store.put(&Digest::sha256(&config), &config, &reference.to_string(), "the config")?;
            store.put(&manifest_digest, &manifest, &reference.to_string(), "the manifest")?;
            store.publish(&Record::new(reference, &image.platform, &manifest_digest, &manifest_digest))
        });
        // Not ours to drop, if it was there before.
        if new && (unpacked.is_err() || !store.keeps_blobs() && sink.keeps()) {
            let _ = fs::remove_file(store.blob_path(&digest));
        }
        unpacked?;
        store.hand_over(outer)?;
        Ok(image)
    }
}

impl<R> std::fmt::Debug for RootfsArchive<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootfsArchive").field("shown", &self.shown).field("changes", &self.changes).finish_non_exhaustive()
    }
}

/// A blob whose digest nobody knows yet, on its way into the store. Without its lock it's rubbish.
pub(crate) struct Taking {
    file: File,
    path: PathBuf,
    store: Store,
    pub(crate) hasher: Hasher,
    pub(crate) length: u64,
    published: bool,
}

impl Taking {
    pub(crate) fn begin(store: &Store) -> Result<Taking, Error> {
        let path = store.path().join("ingest").join(format!("{}.new", unique()));
        let open = || {
            let _nobody_deletes = store.share()?;
            let open = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
            let file = open.map_err(disk("make", &path))?;
            flock(file.as_fd(), FlockOperation::LockExclusive).map_err(disk("lock", &path))?;
            Ok(file)
        };
        let file = open()?;
        Ok(Taking { file, path, store: store.clone(), hasher: Hasher::new(Algorithm::Sha256), length: 0, published: false })
    }

    /// Takes all bytes, and finds out what they are compressed by and the digest of what is inside.
    fn all(&mut self, mut source: impl Read + Send, shown: &str) -> Result<(Compression, Digest), Error> {
        let mut head = [0; 6];
        let place = PathBuf::from(shown);
        let n = read_full(&mut source, &mut head).map_err(disk("read", &place))?;
        let refuse = |why: String| Error::Archive { archive: shown.to_owned(), why };
        let compression = Compression::of(&head[..n]).map_err(|kind| refuse(format!("it's compressed by {kind}")))?;
        let mut writing = None;
        let mut inside = Hasher::new(Algorithm::Sha256);
        let took = {
            let tee = Tee { source: io::Cursor::new(head[..n].to_vec()).chain(source), taking: self, writing: &mut writing };
            compression.inflate(BufReader::with_capacity(128 << 10, tee)).and_then(|mut inflated| {
                let mut buffer = vec![0; 128 << 10];
                loop {
                    match inflated.read(&mut buffer) {
                        Ok(0) => return Ok(()),
                        Ok(n) => inside.update(&buffer[..n]),
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(e),
                    }
                }
            })
        };
        match (writing, took) {
            (Some(error), _) => Err(disk("write", &self.path)(error)),
            (None, Ok(())) if self.length == 0 => Err(refuse("it is empty".into())),
            (None, Ok(())) => Ok((compression, inside.finish())),
            (None, Err(e)) if is_about_bytes(&e) => Err(refuse(format!("it can't be inflated: {e}"))),
            (None, Err(e)) => Err(disk("read", &place)(e)),
        }
    }

    /// Gives it its name; whether it's new.
    pub(crate) fn publish(mut self, digest: &Digest) -> Result<bool, Error> {
        self.store.name([digest])?;
        let blob = self.store.blob_path(digest);
        let new = !blob.exists();
        if self.store.syncs_layers() {
            self.file.sync_all().map_err(disk("sync", &self.path))?;
        }
        fs::rename(&self.path, &blob).map_err(disk("make the blob", &blob))?;
        self.published = true;
        Ok(new)
    }
}

impl Write for Taking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = (&self.file).write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.length += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What is read is also written and hashed.
struct Tee<'a, R> {
    source: R,
    taking: &'a mut Taking,
    /// Why it couldn't be written, if so.
    writing: &'a mut Option<io::Error>,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buffer)?;
        if let Err(error) = (&self.taking.file).write_all(&buffer[..n]) {
            *self.writing = Some(error);
            return Err(io::ErrorKind::Other.into());
        }
        self.taking.hasher.update(&buffer[..n]);
        self.taking.length += n as u64;
        Ok(n)
    }
}

/// As RFC 3339 writes it, in UTC and to the second.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days, for days since 1970 (never negative here).
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn times_are_written_as_date_writes_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
