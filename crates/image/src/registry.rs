//! Registries (OCI distribution-spec, Docker's registry HTTP API V2): how they are reached, and what is asked of them.
//!
//! * [`client`]: the handle and its settings; [`puller`]: pulls.
//! * [`session`]: one conversation: requests with patience, credentials and redirects. [`source`]: who is asked: mirrors, the registry.
//! * [`download`]: a blob's bytes, whatever happens to connections. [`transport`]: connections.
//! * [`credentials`], [`token`], [`challenge`]: who we are. [`registries_conf`], [`hosts_toml`]: what files say of registries.
//! * [`failure`], [`retry`], [`link`]: what can go wrong, when to try again, where a list goes on.

mod challenge;
mod client;
mod credentials;
mod download;
mod failure;
mod hosts_toml;
mod link;
mod puller;
mod registries_conf;
mod retry;
mod session;
mod settings;
mod source;
mod token;
mod transport;

use std::sync::Arc;

pub use self::client::{RawManifest, RegistryClient};
pub use self::puller::Puller;
use crate::progress::Progress;

type Callback = Arc<dyn Fn(Progress) + Send + Sync>;
