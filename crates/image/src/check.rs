//! Checking the store against itself: every blob against its name, every record against what it names.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::collect::{Needs, files};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, disk};
use crate::sink::LayerSink;
use crate::store::{Record, Store};
use crate::whole::Whole;

/// One thing that isn't as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// Where: a file or a directory.
    pub path: PathBuf,
    /// What is wrong with it, as a sentence without its subject: `is sha256:… and not what its name says`.
    pub what: String,
    /// Whether it was moved away, so that the next pull or load brings it anew.
    pub repaired: bool,
}

impl Fault {
    /// A fault that wasn't repaired.
    pub fn new(path: impl Into<PathBuf>, what: impl Into<String>) -> Fault {
        Fault { path: path.into(), what: what.into(), repaired: false }
    }
}

/// What a check looked at, and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Checked {
    /// How many images there are.
    pub images: u64,
    /// How many blobs were hashed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

impl Store {
    /// Hashes every blob, and looks whether each image is whole: its documents, and each layer in the sink or as a blob. With
    /// `repair`, what is damaged is moved away. Reads everything, a gigabyte a second or so; live pulls and containers go on.
    /// The sink's layers are its own business.
    ///
    /// # Errors
    /// [`Error::Disk`]; damage is no error.
    pub fn check(&self, repair: bool, sink: &dyn LayerSink) -> Result<Checked, Error> {
        let mut checked = Checked::default();
        let mut buffer = vec![0; 256 << 10];
        for algorithm in ["sha256", "sha512"] {
            for (path, _) in files(&self.path().join("blobs").join(algorithm))? {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let Ok(digest) = format!("{algorithm}:{name}").parse::<Digest>() else {
                    checked.faults.push(Fault::new(&path, "isn't named by a digest"));
                    continue;
                };
                self.check_blob(&path, &digest, repair, &mut buffer, &mut checked)?;
            }
        }
        for (path, record) in self.records()? {
            let Some(record) = record else {
                let mut fault = Fault::new(&path, "isn't the record of an image");
                fault.repaired = repair && self.throw_away(&path)?;
                checked.faults.push(fault);
                continue;
            };
            checked.images += 1;
            let reference = &record.reference;
            match self.look(&record)? {
                None => checked.faults.push(Fault::new(&path, format!("names {reference}, whose manifest or config isn't there"))),
                Some(image) => {
                    if record.whole {
                        checked.faults.extend(self.lacks(&path, &record)?);
                    }
                    for layer in image.layers {
                        if !sink.contains(&layer) && !self.blob_path(&layer.digest).exists() {
                            let what = format!("names {reference}, whose layer {} ({}) isn't there", layer.index, layer.digest);
                            checked.faults.push(Fault::new(&path, what));
                        }
                    }
                }
            }
        }
        Ok(checked)
    }

    /// What isn't there of an index that was to be here whole.
    fn lacks(&self, path: &Path, record: &Record) -> Result<Vec<Fault>, Error> {
        let Some(top) = record.resolved() else { return Ok(Vec::new()) };
        let whole = Whole::of(&top, |digest| self.peeked(digest))?;
        let blobs = whole.blobs.into_iter().map(|(blob, _)| blob.digest).filter(|digest| !self.blob_path(digest).exists());
        let lost = whole.missing.into_iter().chain(blobs);
        Ok(lost
            .map(|digest| Fault::new(path, format!("names {} for all platforms, whose {digest} isn't there", record.reference)))
            .collect())
    }

    fn check_blob(&self, path: &Path, digest: &Digest, repair: bool, buffer: &mut [u8], checked: &mut Checked) -> Result<(), Error> {
        // Removed since it was listed.
        let Ok(mut file) = File::open(path) else {
            return Ok(());
        };
        let mut hasher = Hasher::new(digest.algorithm());
        let failure = loop {
            match file.read(buffer) {
                Ok(0) => break None,
                Ok(n) => {
                    checked.bytes += n as u64;
                    hasher.update(&buffer[..n]);
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                // A bad sector is what we look for.
                Err(e) => break Some(e),
            }
        };
        checked.blobs += 1;
        let what = match (failure, hasher.finish()) {
            (Some(error), _) => format!("can't be read: {error}"),
            (None, found) if found == *digest => return Ok(()),
            (None, found) => format!("is {found}, and not what its name says"),
        };
        let mut fault = Fault::new(path, what);
        if repair {
            let _alone = self.alone()?;
            // Somebody may have brought it anew while we read.
            let ours = file.metadata().map_err(disk("look at", path))?;
            let same = std::fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
            fault.repaired = !same || self.throw_away(path)?;
        }
        checked.faults.push(fault);
        Ok(())
    }

    /// What live leases hold, of this process and of others: containers that run, pulls. Whoever moves unpacked layers away leaves
    /// these where they are.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn in_use(&self) -> Result<Needs, Error> {
        let _alone = self.alone()?;
        self.held()
    }
}
