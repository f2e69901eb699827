//! The config of an image: what to run, as whom, with which environment (OCI image-spec, config.md; and Docker's `Healthcheck`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::shortened;
use crate::manifest::{DocumentError, from_json};
use crate::platform::Platform;

/// The largest config that is read, 8 MiB.
pub const CONFIG_MAX: u64 = 8 << 20;

/// What an image says of the container that is to be made of it. What it leaves out is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageConfig {
    /// What it runs on; none where the config doesn't say.
    pub platform: Option<Platform>,
    /// The command's beginning, before [`cmd`](ImageConfig::cmd).
    pub entrypoint: Vec<String>,
    /// The arguments, or the whole command where there is no entrypoint.
    pub cmd: Vec<String>,
    /// The environment, `NAME=value` each, as written.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group` or any such mixture; names are those of the image's `/etc/passwd` and `/etc/group`.
    pub user: Option<String>,
    /// The directory that the command starts in.
    pub working_dir: Option<String>,
    /// The signal that asks the command to end, `SIGTERM` or a number.
    pub stop_signal: Option<String>,
    /// `port/protocol`, `5432/tcp`.
    pub exposed_ports: BTreeSet<String>,
    /// Paths that want a volume.
    pub volumes: BTreeSet<String>,
    /// Notes.
    pub labels: BTreeMap<String, String>,
    /// How to ask whether the service works (Docker's, not OCI's).
    pub healthcheck: Option<Healthcheck>,
    /// The digests of the unpacked layers, the lowest first.
    pub diff_ids: Vec<Digest>,
    /// When it was made, as RFC 3339 and as written.
    pub created: Option<String>,
}

/// How to ask a container whether its service works.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", program, arguments…]` or `["CMD-SHELL", line]`; empty means that of the image below.
    pub test: Vec<String>,
    /// The time between two tests; none means Docker's default of 30 s.
    pub interval: Option<Duration>,
    /// How long one test may take; none means Docker's default of 30 s.
    pub timeout: Option<Duration>,
    /// How long failures don't count after the start; none means 0 s.
    pub start_period: Option<Duration>,
    /// The time between two tests in the start period; none means 5 s.
    pub start_interval: Option<Duration>,
    /// How many failures in a row mean unhealthy; none means 3.
    pub retries: Option<u32>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default, rename = "os.version")]
    os_version: Option<String>,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    config: Option<RawConfig>,
    #[serde(default)]
    rootfs: Option<RawRootfs>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

/// The member `config` of a config.
#[derive(Deserialize, Serialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RawConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exposed_ports: Option<BTreeMap<String, Nothing>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volumes: Option<BTreeMap<String, Nothing>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<RawHealthcheck>,
}

/// Go's `struct{}`: whatever stands there is ignored, and `{}` is written.
#[derive(Default)]
struct Nothing;

impl<'de> Deserialize<'de> for Nothing {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Nothing, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Nothing)
    }
}

impl Serialize for Nothing {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        serializer.serialize_map(Some(0))?.end()
    }
}

/// Durations are nanoseconds.
#[derive(Deserialize, Serialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawHealthcheck {
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_period: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_interval: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retries: Option<i64>,
}

impl ImageConfig {
    /// Reads a config.
    ///
    /// # Errors
    /// It isn't JSON of that form, has a digest that can't be, or is longer than [`CONFIG_MAX`].
    ///
    /// ```
    /// use coracle_image::ImageConfig;
    ///
    /// let config = ImageConfig::parse(br#"{"config": {"Cmd": ["bash"], "Env": ["PATH=/bin"]}}"#)?;
    /// assert_eq!((config.cmd, config.env), (vec!["bash".to_owned()], vec!["PATH=/bin".to_owned()]));
    /// # Ok::<(), coracle_image::DocumentError>(())
    /// ```
    pub fn parse(bytes: &[u8]) -> Result<ImageConfig, DocumentError> {
        if bytes.len() as u64 > CONFIG_MAX {
            return Err(DocumentError(format!("it is {} bytes long; at most 8 MiB are read", bytes.len())));
        }
        let raw: Raw = from_json(bytes)?;
        let diff_ids = raw.rootfs.and_then(|r| r.diff_ids).unwrap_or_default();
        let diff_ids: Result<Vec<Digest>, _> = diff_ids.iter().map(|d| d.parse::<Digest>()).collect();
        let config = ImageConfig::from(raw.config.unwrap_or_default());
        Ok(ImageConfig {
            platform: match (named(raw.os), named(raw.architecture)) {
                (Some(os), Some(architecture)) => {
                    let platform = Platform::new(&os, &architecture, raw.variant.as_deref());
                    Some(match named(raw.os_version) {
                        Some(version) => platform.with_os_version(&version),
                        None => platform,
                    })
                }
                _ => None,
            },
            diff_ids: diff_ids.map_err(|e| DocumentError(format!("diff_ids: {}", shortened(&e.to_string()))))?,
            created: named(raw.created),
            ..config
        })
    }
}

fn named(text: Option<String>) -> Option<String> {
    text.filter(|t| !t.is_empty())
}

impl From<RawConfig> for ImageConfig {
    fn from(config: RawConfig) -> ImageConfig {
        ImageConfig {
            platform: None,
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            user: named(config.user),
            working_dir: named(config.working_dir),
            stop_signal: named(config.stop_signal),
            exposed_ports: config.exposed_ports.unwrap_or_default().into_keys().collect(),
            volumes: config.volumes.unwrap_or_default().into_keys().collect(),
            labels: config.labels.unwrap_or_default(),
            healthcheck: config.healthcheck.map(Healthcheck::from),
            diff_ids: Vec::new(),
            created: None,
        }
    }
}

impl From<&ImageConfig> for RawConfig {
    fn from(config: &ImageConfig) -> RawConfig {
        let list = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        let keys = |set: &BTreeSet<String>| (!set.is_empty()).then(|| set.iter().map(|key| (key.clone(), Nothing)).collect());
        RawConfig {
            entrypoint: list(&config.entrypoint),
            cmd: list(&config.cmd),
            env: list(&config.env),
            user: config.user.clone(),
            working_dir: config.working_dir.clone(),
            stop_signal: config.stop_signal.clone(),
            exposed_ports: keys(&config.exposed_ports),
            volumes: keys(&config.volumes),
            labels: (!config.labels.is_empty()).then(|| config.labels.clone()),
            healthcheck: config.healthcheck.as_ref().map(|health| {
                let time = |time: Option<Duration>| time.and_then(|time| i64::try_from(time.as_nanos()).ok());
                RawHealthcheck {
                    test: list(&health.test),
                    interval: time(health.interval),
                    timeout: time(health.timeout),
                    start_period: time(health.start_period),
                    start_interval: time(health.start_interval),
                    retries: health.retries.map(i64::from),
                }
            }),
        }
    }
}

impl From<RawHealthcheck> for Healthcheck {
    fn from(raw: RawHealthcheck) -> Healthcheck {
        let time = |nanoseconds: Option<i64>| {
            let nanoseconds = u64::try_from(nanoseconds?).ok()?;
            (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds))
        };
        Healthcheck {
            test: raw.test.unwrap_or_default(),
            interval: time(raw.interval),
            timeout: time(raw.timeout),
            start_period: time(raw.start_period),
            start_interval: time(raw.start_interval),
            retries: raw.retries.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // As `docker build` writes it.
    const POSTGRES: &str = r#"{
        "architecture": "arm64", "variant": "v8", "os": "linux", "created": "2024-01-01T00:00:00Z",
        "config": {
            "ExposedPorts": {"5432/tcp": {}}, "Env": ["PATH=/usr/bin", "LANG=en_US.utf8"], "User": "",
            "Entrypoint": ["docker-entrypoint.sh"], "Cmd": ["postgres"], "Volumes": {"/var/lib/postgresql/data": {}},
            "WorkingDir": "/", "StopSignal": "SIGINT", "Labels": {"a": "b"}, "ArgsEscaped": true, "OnBuild": null,
            "Healthcheck": {"Test": ["CMD-SHELL", "pg_isready"], "Interval": 1500000000, "Retries": 2, "Timeout": 0}
        },
        "history": [{"created_by": "x", "empty_layer": true}],
        "rootfs": {"type": "layers", "diff_ids": ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}
    }"#;

    #[test]
    fn everything_that_matters_to_a_container_is_kept() {
        let config = ImageConfig::parse(POSTGRES.as_bytes()).unwrap();
        assert_eq!(config.platform, Some("linux/arm64".parse().unwrap()));
        assert_eq!((config.entrypoint, config.cmd), (vec!["docker-entrypoint.sh".to_owned()], vec!["postgres".to_owned()]));
        assert_eq!((config.user, config.working_dir.as_deref(), config.stop_signal.as_deref()), (None, Some("/"), Some("SIGINT")));
        assert_eq!(config.exposed_ports.first().map(String::as_str), Some("5432/tcp"));
        assert_eq!(config.volumes.first().map(String::as_str), Some("/var/lib/postgresql/data"));
        assert_eq!((config.labels["a"].as_str(), config.diff_ids.len()), ("b", 1));
        let health = config.healthcheck.unwrap();
        assert_eq!(health.test, ["CMD-SHELL", "pg_isready"]);
        assert_eq!((health.interval, health.timeout, health.retries), (Some(Duration::from_millis(1500)), None, Some(2)));
    }

    #[test]
    fn nulls_and_gaps_mean_nothing() {
        for text in ["{}", r#"{"config":null,"rootfs":null}"#, r#"{"config":{"Env":null,"Cmd":null,"Labels":null}}"#] {
            let config = ImageConfig::parse(text.as_bytes()).unwrap();
            assert!(config.env.is_empty() && config.cmd.is_empty() && config.diff_ids.is_empty());
        }
        for text in ["", "[]", r#"{"rootfs":{"diff_ids":["x"]}}"#, r#"{"config":{"Env":"PATH=/"}}"#] {
            assert!(ImageConfig::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
