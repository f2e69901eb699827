//! A new image on top of another: one more layer, another config. docker-commit(1).
//!
//! The layers below stay what they are: the new manifest names the same blobs, so that a push sends the bytes that came.

use std::fs;
use std::io::{self, Write};
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::archive::manifest_of;
use crate::change::Change;
use crate::config::{CONFIG_MAX, ImageConfig, RawConfig};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::Image;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::rootfs::{Taking, rfc3339};
use crate::sink::LayerSink;
use crate::store::{Record, Store, image};

/// The blob of a new layer, being written into the store. Dropping it leaves nothing.
#[must_use = "a layer is nothing until it's committed"]
pub struct NewLayer(Taking);

impl NewLayer {
    /// Begins one.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn begin(store: &Store) -> Result<NewLayer, Error> {
        Ok(NewLayer(Taking::begin(store)?))
    }
}

impl Write for NewLayer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl std::fmt::Debug for NewLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewLayer").field("bytes", &self.0.length).finish_non_exhaustive()
    }
}

/// An image about to be made of another.
///
/// ```no_run
/// use coracle_image::{Commit, Digest, NewLayer, NoSink, Platform, Store};
/// use std::io::Write;
///
/// let store = Store::open("/var/lib/example/store")?;
/// let base = store.lookup("debian:12", &Platform::host())?;
/// let archive = [0; 1024]; // a tar archive without entries
/// let mut layer = NewLayer::begin(&store)?;
/// layer.write_all(&archive).unwrap();
/// let image = Commit::on(&base)
///     .change("CMD [\"sh\"]".parse()?)
///     .layer(layer, Digest::sha256(&archive), "application/vnd.oci.image.layer.v1.tar")
///     .publish(&store, &"localhost/mine:1".parse().unwrap(), &NoSink)?;
/// # Ok::<(), coracle_image::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is made before publish()"]
pub struct Commit {
    base: Option<Image>,
    layer: Option<(NewLayer, Digest, String)>,
    changes: Vec<Change>,
    author: Option<String>,
    message: Option<String>,
    created_by: Option<String>,
    created: Option<SystemTime>,
}

impl Commit {
    /// On top of an image of the store.
    pub fn on(base: &Image) -> Commit {
        Commit { base: Some(base.clone()), ..Commit::from_nothing() }
    }

    /// On top of nothing.
    pub fn from_nothing() -> Commit {
        let created = Some(SystemTime::now());
        Commit { base: None, layer: None, changes: Vec::new(), author: None, message: None, created_by: None, created }
    }

    /// The one new layer: its blob, the digest of the archive inside, and its media type. Without, the image has the layers of the other.
    pub fn layer(mut self, layer: NewLayer, diff_id: Digest, media_type: impl Into<String>) -> Commit {
        self.layer = Some((layer, diff_id, media_type.into()));
        self
    }

    /// Changes the config; the changes are made in the order of the calls.
    pub fn change(mut self, change: Change) -> Commit {
        self.changes.push(change);
        self
    }

    /// Who made it.
    pub fn author(mut self, author: impl Into<String>) -> Commit {
        self.author = Some(author.into());
        self
    }

    /// A comment in the image's history.
    pub fn message(mut self, message: impl Into<String>) -> Commit {
        self.message = Some(message.into());
        self
    }

    /// What made it, for the history: the container's command.
    pub fn created_by(mut self, words: impl Into<String>) -> Commit {
        self.created_by = Some(words.into());
        self
    }

    /// When the image says it was made; now, unless this says otherwise. With none the same layer on the same image always is the same
    /// image.
    pub fn created(mut self, created: Option<SystemTime>) -> Commit {
        self.created = created;
        self
    }

    /// Makes it: the blob, the config and the manifest go into the store, the layer into the sink, and the reference means it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the other image's config isn't in the store any more; [`Error::Sink`], [`Error::Disk`].
    pub fn publish(self, store: &Store, reference: &Reference, sink: &dyn LayerSink) -> Result<Image, Error> {
        let outer = store;
        let store = outer.session()?;
        let Commit { base, layer, changes, author, message, created_by, created } = self;
        let name = reference.to_string();
        let platform = base.as_ref().map_or_else(Platform::host, |base| base.platform.clone());
        let mut whole = match &base {
            Some(base) => document(&store, base)?,
            None => json!({ "os": platform.os(), "architecture": platform.architecture() }),
        };
        if base.is_none()
            && let Some(variant) = platform.variant()
        {
            whole["variant"] = variant.into();
        }

        let mut config = base.as_ref().map_or_else(|| ImageConfig::from(RawConfig::default()), |base| base.config.clone());
        for change in changes {
            change.apply(&mut config);
        }
        configure(&mut whole, &config);
        let mut diff_ids = config.diff_ids.clone();
        diff_ids.extend(layer.as_ref().map(|(_, diff_id, _)| diff_id.clone()));
        whole["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids.iter().map(Digest::to_string).collect::<Vec<_>>() });

        let mut step = Map::new();
        let created = created.map(rfc3339);
        // Another image's time isn't this one's.
        match &created {
            Some(created) => whole["created"] = created.clone().into(),
            None => drop(whole.as_object_mut().and_then(|whole| whole.remove("created"))),
        }
        let words = [("created", created), ("created_by", created_by), ("author", author.clone()), ("comment", message)];
        step.extend(words.into_iter().filter_map(|(key, word)| Some((key.to_owned(), Value::from(word?)))));
        if layer.is_none() {
            step.insert("empty_layer".into(), true.into());
        }
        if let Some(author) = author {
            whole["author"] = author.into();
        }
        match whole.get_mut("history").and_then(Value::as_array_mut) {
            Some(history) => history.push(step.into()),
            None => whole["history"] = json!([step]),
        }
        let config = whole.to_string().into_bytes();

        let mut layers: Vec<Descriptor> = base.iter().flat_map(|base| &base.layers).map(below).collect();
        let taking = match layer {
            Some((NewLayer(taking), _, media_type)) => {
                let digest = taking.hasher.clone().finish();
                layers.push(Descriptor::new(media_type, digest.clone(), taking.length));
                Some((taking, digest))
            }
            None => None,
        };
        let (manifest, manifest_digest) = manifest_of(&config, &layers);
        let parsed = match crate::manifest::Document::parse(&manifest) {
            Ok(crate::manifest::Document::Manifest(parsed)) => parsed,
            _ => unreachable!("we wrote a manifest"),
        };
        let image = image(reference.clone(), platform, manifest_digest.clone(), &parsed, &config)?;
        // Before looking whether they are there.
        store.name(layers.iter().map(|layer| &layer.digest).chain(&diff_ids))?;
        let published = match taking {
            Some((taking, digest)) => Some((taking.publish(&digest)?, digest)),
            None => None,
        };
        let done = store.unpack(&image, sink).and_then(|()| {
            store.put(&Digest::sha256(&config), &config, &name, "the config")?;
            store.put(&manifest_digest, &manifest, &name, "the manifest")?;
            store.publish(&Record::new(reference, &image.platform, &manifest_digest, &manifest_digest))
        });
        // Not ours to drop, if it was there before.
        if let Some((true, digest)) = published
            && (done.is_err() || !store.keeps_blobs() && sink.keeps())
        {
            let _ = fs::remove_file(store.blob_path(&digest));
        }
        done?;
        store.hand_over(outer)?;
        Ok(image)
    }
}

/// The config of an image as it is written.
fn document(store: &Store, base: &Image) -> Result<Value, Error> {
    let bytes = store.read(&base.id, CONFIG_MAX)?;
    let value = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).filter(Value::is_object);
    value.ok_or_else(|| Error::Corrupt {
        image: base.reference.to_string(),
        part: "the config".into(),
        expected: base.id.to_string(),
        got: "nothing".into(),
    })
}

/// Puts what is known here into a config, and leaves what isn't as it was.
fn configure(whole: &mut Value, config: &ImageConfig) {
    const KNOWN: [&str; 10] =
        ["Entrypoint", "Cmd", "Env", "User", "WorkingDir", "StopSignal", "ExposedPorts", "Volumes", "Labels", "Healthcheck"];
    let Ok(Value::Object(new)) = serde_json::to_value(RawConfig::from(config)) else { return };
    if !whole.get("config").is_some_and(Value::is_object) {
        whole["config"] = json!({});
    }
    let Some(old) = whole["config"].as_object_mut() else { return };
    old.retain(|key, _| !KNOWN.contains(&key.as_str()));
    old.extend(new);
    // Of the container that Docker made the other image of.
    if let Some(whole) = whole.as_object_mut() {
        whole.remove("container");
        whole.remove("container_config");
    }
}

/// A layer of the other image, as an OCI manifest names it.
fn below(layer: &crate::sink::LayerInfo) -> Descriptor {
    let media_type = match layer.media_type.strip_prefix("application/vnd.docker.image.rootfs.diff.tar") {
        Some("") => "application/vnd.oci.image.layer.v1.tar",
        Some(".gzip") => "application/vnd.oci.image.layer.v1.tar+gzip",
        Some(".zstd") => "application/vnd.oci.image.layer.v1.tar+zstd",
        _ => layer.media_type.as_str(),
    };
    Descriptor::new(media_type, layer.digest.clone(), layer.size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::NoSink;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        (dir, store)
    }

    fn layer(store: &Store, bytes: &[u8]) -> NewLayer {
        let mut layer = NewLayer::begin(store).unwrap();
        layer.write_all(bytes).unwrap();
        layer
    }

    const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

    #[test]
    fn a_commit_keeps_the_layers_below_and_what_it_doesnt_know_of_the_config() {
        let (_dir, store) = store();
        let base: Reference = "localhost/base:1".parse().unwrap();
        let below = [0_u8; 1024];
        let first = Commit::from_nothing()
            .change("ENV A=1".parse().unwrap())
            .change("CMD [\"sh\"]".parse().unwrap())
            .layer(layer(&store, &below), Digest::sha256(&below), TAR)
            .publish(&store, &base, &NoSink)
            .unwrap();
        // Somebody else's word in the config.
        let mut text: Value = serde_json::from_slice(&store.read(&first.id, CONFIG_MAX).unwrap().unwrap()).unwrap();
        text["config"]["OnBuild"] = json!(["RUN x"]);
        text["container_config"] = json!({ "Hostname": "x" });
        let text = text.to_string().into_bytes();
        let (manifest, digest) = manifest_of(&text, &[Descriptor::new(TAR, Digest::sha256(&below), 1024)]);
        store.put(&Digest::sha256(&text), &text, "x", "the config").unwrap();
        store.put(&digest, &manifest, "x", "the manifest").unwrap();
        store.publish(&Record::new(&base, &first.platform, &digest, &digest)).unwrap();
        let first = store.find(&base, &first.platform).unwrap().unwrap();

        let above = [0_u8; 1536];
        let second = Commit::on(&first)
            .change("ENV B=2".parse().unwrap())
            .author("A. Nobody")
            .message("why not")
            .created_by("sh -c x")
            .layer(layer(&store, &above), Digest::sha256(&above), TAR)
            .publish(&store, &"localhost/second:1".parse().unwrap(), &NoSink)
            .unwrap();
        assert_eq!(second.layers.len(), 2);
        assert_eq!((&second.layers[0].digest, second.layers[0].size), (&Digest::sha256(&below), 1024));
        assert_eq!(second.config.env, ["A=1", "B=2"]);
        assert_eq!(second.config.cmd, ["sh"]);
        let text: Value = serde_json::from_slice(&store.read(&second.id, CONFIG_MAX).unwrap().unwrap()).unwrap();
        assert_eq!(text["config"]["OnBuild"], json!(["RUN x"]));
        assert_eq!(text.get("container_config"), None);
        assert_eq!(text["author"], "A. Nobody");
        let last = &text["history"][1];
        assert_eq!((&last["comment"], &last["created_by"], last.get("empty_layer")), (&"why not".into(), &"sh -c x".into(), None));

        // Nothing new but words.
        let third = Commit::on(&second).publish(&store, &"localhost/third:1".parse().unwrap(), &NoSink).unwrap();
        let text: Value = serde_json::from_slice(&store.read(&third.id, CONFIG_MAX).unwrap().unwrap()).unwrap();
        assert_eq!((third.layers.len(), &text["history"][2]["empty_layer"]), (2, &true.into()));
        assert_eq!(fs::read_dir(store.path().join("ingest")).unwrap().count(), 0);
    }

    #[test]
    fn the_same_commit_without_a_time_is_the_same_image() {
        let (_dir, store) = store();
        let commit = |name: &str| {
            let bytes = [0; 1024];
            let commit = Commit::from_nothing().created(None).layer(layer(&store, &bytes), Digest::sha256(&bytes), TAR);
            commit.publish(&store, &name.parse().unwrap(), &NoSink).unwrap().digest
        };
        assert_eq!(commit("localhost/a:1"), commit("localhost/b:1"));
    }

    #[test]
    fn a_layer_that_isnt_committed_leaves_nothing() {
        let (_dir, store) = store();
        drop(layer(&store, &[1; 100]));
        assert_eq!(fs::read_dir(store.path().join("ingest")).unwrap().count(), 0);
    }
}
