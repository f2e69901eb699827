//! OCI images: names, registries, layouts, and a content-addressed store that many processes share without a server.
//!
//! * [`Reference`], [`Digest`], [`Platform`]: what an image is called, what its bytes are called, what it runs on.
//! * [`Document`], [`Manifest`], [`Index`], [`Descriptor`], [`ImageConfig`]: what an image says of itself. Parsing is a pure function
//!   of bytes.
//! * [`Store`]: the directory of images. [`Image`]: one that is in it. [`Lease`]: the right to find it there later.
//! * [`Store::tag`], [`Store::remove`], [`Store::prune`], [`Store::check`], [`Store::inspect`]: what is done with images that are here.
//! * [`OciLayout`]: imports from a directory. With the feature `archive`, on by default: [`Archive`], [`RootfsArchive`] and [`Export`],
//!   from and into files. With the feature `registry`, on by default: [`Puller`] pulls from a registry, [`Pusher`]
//!   pushes to one, [`RegistryClient`] says how registries are reached and asks them for tags, referrers and deletions; a [`Verifier`] has
//!   a word on what may be unpacked.
//! * [`LayerSink`], [`LayerWriter`]: where the layers go while they arrive; `coracle-layers` unpacks them. [`Progress`]: how far it is.
//!
//! ```no_run
//! # #[cfg(feature = "registry")] {
//! use std::sync::Arc;
//! use coracle_image::{NoSink, Puller, Store};
//!
//! let store = Store::open("/var/lib/example/store")?;
//! let image = Puller::new().pull_blocking(&store, &"localhost:5000/debian:12".parse().unwrap(), Arc::new(NoSink))?;
//! println!("{} runs {:?}", image.reference, image.config.cmd);
//! # }
//! # Ok::<(), coracle_image::Error>(())
//! ```
//!
//! # What it does not do
//!
//! It unpacks nothing and mounts nothing (`coracle-layers` does), needs no privilege, runs no container and builds no image. It prints
//! nothing, and changes nothing of the process. It checks digests; signatures are a [`Verifier`]'s to check. Images of Docker's schema 1, encrypted layers and artifacts that
//! aren't file systems are refused.
#![forbid(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("coracle-image runs on Linux only");

#[cfg(feature = "archive")]
mod archive;
#[cfg(feature = "archive")]
mod change;
mod check;
mod collect;
#[cfg(feature = "archive")]
mod commit;
mod config;
mod descriptor;
mod digest;
mod error;
#[cfg(feature = "archive")]
mod export;
mod image;
mod import;
mod ingest;
mod inspection;
mod lease;
mod manifest;
mod oci_layout;
mod pin;
mod platform;
mod progress;
mod reference;
#[cfg(feature = "registry")]
mod registry;
#[cfg(feature = "archive")]
mod rootfs;
mod sink;
mod store;
#[cfg(feature = "registry")]
mod tls;
mod trash;
mod whole;

#[cfg(feature = "archive")]
pub use archive::Archive;
#[cfg(feature = "archive")]
pub use change::Change;
pub use check::{Checked, Fault};
pub use collect::{Needs, Removed};
#[cfg(feature = "archive")]
pub use commit::{Commit, NewLayer};
pub use config::{CONFIG_MAX, Healthcheck, ImageConfig};
pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, Hasher, ParseDigestError};
pub use error::{Error, Verb, VerifyError};
#[cfg(feature = "archive")]
pub use export::Export;
pub use image::Image;
pub use inspection::{Inspection, LayerState};
pub use lease::Lease;
pub use manifest::{Document, DocumentError, Index, MANIFEST_MAX, Manifest};
pub use oci_layout::OciLayout;
pub use platform::{ParsePlatformError, Platform};
pub use progress::Progress;
pub use reference::{ParseReferenceError, Reference};
#[cfg(all(fuzzing, feature = "registry"))]
#[doc(hidden)]
pub use registry::fuzz as fuzz_registry;
#[cfg(feature = "registry")]
pub use registry::{Candidate, Puller, Pulling, Pusher, RawManifest, RegistryClient, Verdict, Verifier};
#[cfg(feature = "archive")]
pub use rootfs::RootfsArchive;
pub use sink::{LayerInfo, LayerSink, LayerWriter, NoSink, SinkError, Swept, SweptKind};
pub use store::{Durability, Store};
#[cfg(feature = "registry")]
#[doc(hidden)]
pub use tls::Trust;

/// The README's program compiles.
#[cfg(all(doctest, feature = "registry"))]
#[doc = include_str!("../README.md")]
struct Readme;
