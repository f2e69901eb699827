//! What lies beside a running container for other processes to read.

use crate::publish::PublishedPort;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A container as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContainerSummary {
    /// Its id.
    pub id: String,
    /// What it was made from, as it was written.
    pub image: String,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// When it was started.
    pub created: SystemTime,
    /// The process that started it.
    pub owner: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it lives on without that process, and other processes may [attach](crate::Engine::attach) to it.
    pub detached: bool,
    /// Its ports that are answered on this host.
    pub ports: Vec<PublishedPort>,
    /// Its addresses in private networks.
    pub addresses: Vec<IpAddr>,
}

/// The description in a run directory's record. Fields may be added; none changes its meaning.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) image: String,
    pub(crate) command: Vec<String>,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) owner: u32,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// The signal that asks the command to end.
    #[serde(default)]
    pub(crate) stop_signal: Option<String>,
    #[serde(default)]
    pub(crate) ports: Vec<PublishedPort>,
    /// One list a network, IPv4 first.
    #[serde(default)]
    pub(crate) addresses: Vec<Vec<IpAddr>>,
    /// Whether it is asked for its health.
    #[serde(default)]
    pub(crate) health: bool,
    /// TCP ports that its image exposes.
    #[serde(default)]
    pub(crate) exposed: Vec<u16>,
}

impl Description {
    pub(crate) fn summary(self, id: &str, detached: bool) -> ContainerSummary {
        ContainerSummary {
            id: id.to_owned(),
            image: self.image,
            command: self.command,
            created: UNIX_EPOCH + Duration::from_secs(self.created),
            owner: self.owner,
            labels: self.labels,
            ports: self.ports,
            addresses: self.addresses.concat(),
            detached,
        }
    }
}
