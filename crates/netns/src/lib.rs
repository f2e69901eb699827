//! Linux network namespaces, without a host thread left in one.
//!
//! | noun | is |
//! |---|---|
//! | [`NetNs`] | a namespace, held by a descriptor; gone with the last one |
//! | [`Batch`] | netlink requests as bytes, to be sent from inside a namespace by whoever is there |
//! | [`Socket`] | a netlink socket that sends a batch and tells each request's answer by its name |
//! | [`Bridge`] | a private network's switch on this host: made, found, removed |
//! | [`Veth`] | a virtual cable, whose other end is made inside a namespace |
//! | [`Subnet`], [`Mac`] | addresses; the subnets that this host doesn't use |
//! | [`Leases`], [`Lease`] | addresses that are somebody's as long as a lock is held |
//! | [`Firewall`], [`Entry`] | one nf_tables table of our own: translation, isolation, published ports |
//! | [`Reservation`] | a port of this host, taken |
//! | [`obstacles`] | what of this host stands in the way of private networks |
//!
//! ```
//! use coracle_netns::NetNs;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let inside = match NetNs::new() {
//!     Ok(inside) => inside,
//!     Err(error) => {
//!         eprintln!("{error}; {}", error.remedy().unwrap_or_default());
//!         return Ok(());
//!     }
//! };
//! // A socket belongs to the namespace that it was opened in; it is used from anywhere.
//! let listener = inside.run(|| std::net::TcpListener::bind("127.0.0.1:0"))??;
//! let address = listener.local_addr()?;
//! assert!(std::net::TcpStream::connect(address).is_err(), "the host has another 127.0.0.1");
//! assert!(inside.run(|| std::net::TcpStream::connect(address))?.is_ok());
//! # Ok(()) }
//! ```
//!
//! # Threads
//!
//! Entering a namespace changes the calling *thread*. This crate does it only in threads of its own that end with the
//! call, so no thread of yours, and none of a runtime's pool, is ever found in a foreign namespace.
//!
//! # What it does not do
//!
//! - No names: nothing is mounted below `/run/netns`, and nothing stays behind when a program is killed.
//! - It resolves no names and relays no streams: that takes a process.
//! - It never changes the firewall of others, reads it only where [`obstacles`] is asked, and never sets `route_localnet`.
//! - It makes no user namespace, so a plain user is refused: a multi-threaded program may not make one. A spawned process
//!   may, and it can send [`Batch::loopback_up`] itself.
//! - It runs no program (`ip`, `nft`) and needs no runtime.
#![forbid(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("coracle-netns is about Linux network namespaces; there is nothing it could do on another system");

mod bridge;
mod diagnose;
mod error;
mod firewall;
mod host;
mod lease;
mod link;
mod message;
mod names;
mod netlink;
mod netns;
mod port;
mod subnet;

pub use bridge::Bridge;
pub use diagnose::{Obstacle, obstacles};
pub use error::{Error, StepError};
pub use firewall::{Entry, Firewall};
pub use host::{Resolvers, forwards_ipv4, resolvers, subnets_in_use};
pub use lease::{Lease, Leases};
pub use link::{Link, Veth};
pub use netlink::{Batch, Protocol, Socket};
pub use netns::NetNs;
pub use port::{Reservation, Transport};
pub use subnet::{BadAddress, Mac, Subnet};

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
