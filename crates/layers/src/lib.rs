//! OCI layers: unpacks them safely and fast, and describes overlay mounts of them.
//!
//! - [`LayerStore`] keeps unpacked layers by diffID in a directory that many processes share; it's the
//!   [`LayerSink`](coracle_image::LayerSink) that a pull streams into, and it puts an image's layers together ([`LayerStore::paths`]).
//!   [`LayerStore::check`] compares them with what was recorded, and [`LayerStore::empty_trash`] unlinks what was removed.
//! - [`unpack`] unpacks one layer into a directory, without a store.
//! - [`Overlay`] is an overlay mount as data.
//! - [`tar`] is the strict reader that layers are read by.
//! - [`read_ownership`] tells what a plain user couldn't do and a user namespace can.
//! - [`diff`] makes a layer of what a container changed, [`changes`] lists it, [`export`] writes all that it sees; [`Compressor`]
//!   compresses on all processors into bytes that don't depend on their number.
//! - [`remove_tree`] removes what strangers filled.
//!
//! ```
//! use coracle_layers::{LayerStore, Options, Ownership, Overlay};
//!
//! let dir = std::env::temp_dir().join(format!("coracle-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&dir)?;
//! let store = LayerStore::open(&dir, Options::user(Ownership::Squash))?;
//! // … pull an image with `&store` as its sink; then, with the diffIDs of its config, the base first:
//! let diff_ids = [];
//! let lower = store.paths(&diff_ids)?;
//! let overlay = Overlay::new(lower).userxattr(true);
//! # assert!(overlay.validate().is_err());
//! # coracle_layers::remove_tree(&dir)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it does not do
//!
//! - No network, no async runtime: bytes come from whoever fetches them.
//! - It mounts nothing and enters no namespace. [`Overlay`] and [`Deferred`] are data for those who may.
//! - It doesn't verify the blob's digest (whoever fetches does, `coracle-image` for one), only the diffID.
//! - No bzip2 or xz layers, no encrypted ones, no lazy pulling.
//! - Devices, `security.capability` and foreign owners aren't made by a plain user; they are recorded.
//! - SELinux labels, IMA and EVM attributes, and ACLs as text aren't kept; the [`LayerReport`] counts them.
//!
//! Linux 5.8 or newer (openat2, and whiteouts by plain users).
#![forbid(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("coracle-layers unpacks Linux layers on Linux");

mod access;
mod archive;
mod assembly;
mod collect;
mod compress;
mod confine;
mod decompress;
mod diff;
mod error;
mod limits;
mod overlay;
mod ownership;
mod record;
mod remove;
mod snapshot;
mod store;
pub mod tar;
mod tree;
mod unpack;
mod whiteout;

pub use access::{Access, IdRange, Ids};
pub use collect::LayersChecked;
pub use compress::{Compression, Compressor};
pub use diff::{ChangeKind, DiffOptions, DiffReport, PathChange, changes, diff, export, flatten};
pub use error::Error;
pub use limits::Limits;
pub use overlay::{Overlay, Parameter};
pub use ownership::{Deferred, Device, Owner, Ownership, read_ownership};
pub use remove::remove_tree;
pub use snapshot::{Snapshot, SnapshotDraft};
pub use store::{LayerStore, is_overlay};
pub use unpack::{LayerReport, Options, Skipped, unpack};
pub use whiteout::Flavour;
