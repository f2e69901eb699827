//! A container engine that your program carries inside itself: no daemon, no helper packages, no KVM.
//!
//! ```no_run
//! # async fn f() -> Result<(), coracle::Error> {
//! use coracle::Container;
//!
//! let out = Container::from_image("localhost:5000/debian:12")
//!     .cmd(["sh", "-c", "id -u; cat /etc/debian_version"])
//!     .env("GREETING", "hello").memory("256m").cpus(1.0).pids(64)
//!     .output().await?;
//! assert!(out.status.success());
//! println!("{} {:?} {:?}", out.stdout_lossy(), out.status.reason(), out.usage);
//! # Ok(())
//! # }
//! ```
//!
//! [`Container`] begins a description, [`ContainerBuilder`] is one, [`Engine`] is where images and containers are kept. Everything of
//! the facade stands on this page; the parts it is made of, each a crate of its own, are the modules below.
#![forbid(unsafe_code)]

pub use coracle_container::*;

#[doc(inline)]
pub use coracle_cgroups as cgroups;
#[doc(inline)]
pub use coracle_image as image;
#[doc(inline)]
pub use coracle_layers as layers;
#[doc(inline)]
pub use coracle_netns as netns;
#[doc(inline)]
pub use coracle_spawn as spawn;
