//! How registries are reached: everything that a [`RegistryClient`](super::RegistryClient) was told. Plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How often something is tried again.
pub(super) const RETRIES: u32 = 4;
/// How long connecting may take.
const DIAL: Duration = Duration::from_secs(20);
/// How long a registry may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// Who sends fewer bytes a second than this,
const RATE: u64 = 1000;
/// for so long, has as good as fallen silent.
const RATE_OVER: Duration = Duration::from_secs(60);
/// The longest wait that a registry may ask for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections for one big layer on a slow link.
const RANGES: usize = 4;

#[derive(Clone)]
pub(super) struct Settings {
    /// Registries that are spoken to by plain HTTP, or by HTTPS though they are on this machine.
    pub(super) plain: BTreeMap<String, bool>,
    /// Registries whose certificates aren't looked at.
    pub(super) unverified: BTreeSet<String>,
    pub(super) credentials: BTreeMap<String, (String, String)>,
    pub(super) auth_file: Option<PathBuf>,
    /// Certificate authorities, as PEM.
    pub(super) roots: Vec<Vec<u8>>,
    /// By registry: certificates and key, as PEM.
    pub(super) identities: BTreeMap<String, (Vec<u8>, Vec<u8>)>,
    pub(super) proxy: Proxy,
    /// By registry, the first to be asked first.
    pub(super) mirrors: BTreeMap<String, Vec<String>>,
    /// The files of containers-registries.conf(5), the later ones stronger, and whether each has to be there.
    pub(super) registries_conf: Vec<(PathBuf, bool)>,
    /// Directories of containerd's `hosts.toml`, the first that knows a registry counts.
    pub(super) certs_d: Vec<PathBuf>,
    pub(super) retries: u32,
    /// How long connecting may take.
    pub(super) dial: Duration,
    pub(super) stall: Duration,
    /// Bytes a second that an answer has to bring, and over how long.
    pub(super) rate: (u64, Duration),
    pub(super) patience: Duration,
    pub(super) ranges: usize,
}

#[derive(Clone)]
pub(super) enum Proxy {
    /// What `$HTTPS_PROXY`, `$HTTP_PROXY`, `$ALL_PROXY` and `$NO_PROXY` say.
    Environment,
    None,
    Explicit {
        url: String,
        except: String,
    },
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            plain: BTreeMap::new(),
            unverified: BTreeSet::new(),
            credentials: BTreeMap::new(),
            auth_file: None,
            roots: Vec::new(),
            identities: BTreeMap::new(),
            proxy: Proxy::Environment,
            mirrors: BTreeMap::new(),
            registries_conf: Vec::new(),
            certs_d: Vec::new(),
            retries: RETRIES,
            dial: DIAL,
            stall: SILENCE,
            rate: (RATE, RATE_OVER),
            patience: PATIENCE,
            ranges: RANGES,
        }
    }
}

impl fmt::Debug for Settings {
    /// Without secrets: passwords, keys, and proxies' addresses, which may have passwords in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("plain", &self.plain)
            .field("unverified", &self.unverified)
            .field("credentials", &self.credentials.keys())
            .field("auth_file", &self.auth_file)
            .field("mirrors", &self.mirrors)
            .field("registries_conf", &self.registries_conf)
            .field("certs_d", &self.certs_d)
            .field("retries", &self.retries)
            .field("dial", &self.dial)
            .field("stall", &self.stall)
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}
