//! Registries (OCI distribution-spec, Docker's registry HTTP API V2): how they are reached, and what is asked of them.
//!
//! * [`client`]: the handle and its settings; [`puller`]: pulls; [`pusher`], [`upload`]: pushes; [`referrers`]: what refers to an
//!   image; [`pulling`]: a pull's steps; [`verify`]: the caller's word on an image.
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
mod pulling;
mod pusher;
mod referrers;
mod registries_conf;
mod retry;
mod session;
mod settings;
mod source;
mod token;
mod transport;
mod upload;
mod verify;

use std::future::Future;
use std::sync::Arc;

pub use self::client::{RawManifest, RegistryClient};
pub use self::puller::Puller;
pub use self::pulling::Pulling;
pub use self::pusher::Pusher;
pub use self::verify::{Candidate, Verdict, Verifier};
use crate::error::{Error, disk};
use crate::progress::Progress;
use crate::store::Store;

type Callback = Arc<dyn Fn(Progress) + Send + Sync>;

/// Reads a text as all that strangers send or keep in files: for fuzzing.
#[cfg(fuzzing)]
pub fn fuzz(text: &str) {
    let _ = challenge::parse(text);
    let _ = link::next(text);
    let _ = retry::retry_after(text, 1_700_000_000);
    let _ = token::Token::parse(text.as_bytes());
    let _ = hosts_toml::parse(text, std::path::Path::new("/"));
    let mut conf = registries_conf::RegistriesConf::default();
    if conf.add(std::path::Path::new("/conf"), text).is_ok() {
        for (registry, repository) in [("docker.io", "library/debian"), ("a.example:5000", "b/c"), ("[::1]", "x")] {
            if let Some(entry) = conf.find(registry, repository) {
                let _ = entry.locations(registry, repository);
            }
        }
    }
}

/// Runs a future to its end without a runtime, and within one too: a runtime can't be entered from within another, so it's on a thread
/// of our own.
fn block_on<T: Send>(work: impl Future<Output = Result<T, Error>> + Send, store: &Store) -> Result<T, Error> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(disk("make a runtime for", store.path()))?.block_on(work)
    };
    std::thread::scope(|scope| match scope.spawn(run).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
