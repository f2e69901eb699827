//! containerd's `hosts.toml`: the hosts where a registry's images may be had (containerd, docs/hosts.md).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;
use toml::Spanned;

use super::registries_conf::describe;

/// What a file says of one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hosts {
    /// In the file's order.
    pub(super) hosts: Vec<Host>,
    /// Where the registry itself is, which is asked last; none: where its name says.
    pub(super) server: Option<Host>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) plain: bool,
    /// Host, with its port where there is one.
    pub(super) authority: String,
    /// What stands before the repository, `/v2/`.
    pub(super) prefix: String,
    pub(super) pull: bool,
    pub(super) resolve: bool,
    pub(super) push: bool,
    pub(super) skip_verify: bool,
    pub(super) ca: Vec<PathBuf>,
    /// Certificate and key; without a key the first file has both.
    pub(super) client: Option<(PathBuf, Option<PathBuf>)>,
    pub(super) headers: Vec<(String, String)>,
    /// How long connecting may take, where the file says so.
    pub(super) dial: Option<Duration>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Raw {
    server: Option<String>,
    host: BTreeMap<String, Spanned<RawHost>>,
    #[serde(flatten)]
    of_server: RawHost,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawHost {
    capabilities: Option<Vec<String>>,
    ca: OneOrMany,
    client: Client,
    skip_verify: bool,
    header: BTreeMap<String, OneOrMany>,
    override_path: bool,
    dial_timeout: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(untagged)]
enum OneOrMany {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Client {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
    Pairs(Vec<Vec<String>>),
}

impl OneOrMany {
    fn list(self) -> Vec<String> {
        match self {
            OneOrMany::None => Vec::new(),
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

/// Reads a file. Relative paths in it are of `dir`.
pub(super) fn parse(text: &str, dir: &Path) -> Result<Hosts, String> {
    let raw: Raw = toml::from_str(text).map_err(|e| describe(text, &e))?;
    // The order of the file is that in which they are asked, and a map has lost it.
    let mut hosts: Vec<(usize, Host)> = Vec::new();
    for (url, host) in raw.host {
        let at = host.span().start;
        hosts.push((at, host.into_inner().host(&url, dir)?));
    }
    hosts.sort_by_key(|(at, _)| *at);
    let server = raw.server.map(|url| raw.of_server.host(&url, dir)).transpose()?;
    Ok(Hosts { hosts: hosts.into_iter().map(|(_, host)| host).collect(), server })
}

impl RawHost {
    fn host(self, address: &str, dir: &Path) -> Result<Host, String> {
        let shown = crate::error::shortened(address);
        let full = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
        let url = Url::parse(&full).map_err(|e| format!("{shown:?}: {e}"))?;
        let plain = match url.scheme() {
            "https" => false,
            "http" => true,
            other => return Err(format!("{shown:?}: the scheme {other:?} is none of http and https")),
        };
        let host = url.host_str().ok_or_else(|| format!("{shown:?} has no host"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("the host {host:?} comes with a password, which doesn't belong there"));
        }
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let path = url.path().trim_end_matches('/');
        let prefix = match self.override_path || path.ends_with("/v2") {
            true => format!("{path}/"),
            false => format!("{path}/v2/"),
        };
        let (mut pull, mut resolve, mut push) = (true, true, true);
        if let Some(capabilities) = self.capabilities {
            (pull, resolve, push) = (false, false, false);
            for capability in capabilities {
                match capability.as_str() {
                    "pull" => pull = true,
                    "resolve" => resolve = true,
                    "push" => push = true,
                    // containerd's later ones aren't of use here.
                    "referrers" => {}
                    other => return Err(format!("the capability {other:?} of {shown:?} is none of pull, resolve and push")),
                }
            }
        }
        let client = match self.client {
            Client::None => None,
            Client::One(both) => Some((dir.join(both), None)),
            Client::Many(list) => list.into_iter().next().map(|both| (dir.join(both), None)),
            Client::Pairs(pairs) => match pairs.into_iter().next().as_deref() {
                None => None,
                Some([both]) => Some((dir.join(both), None)),
                Some([certificate, key]) if key.is_empty() => Some((dir.join(certificate), None)),
                Some([certificate, key]) => Some((dir.join(certificate), Some(dir.join(key)))),
                Some(_) => return Err(format!("`client` of {shown:?} isn't a pair of certificate and key")),
            },
        };
        let headers = self.header.into_iter().flat_map(|(name, values)| values.list().into_iter().map(move |v| (name.clone(), v)));
        Ok(Host {
            plain,
            authority,
            prefix,
            pull,
            resolve,
            push,
            skip_verify: self.skip_verify,
            ca: self.ca.list().into_iter().map(|path| dir.join(path)).collect(),
            client,
            headers: headers.collect(),
            dial: self.dial_timeout.map(|text| duration(&text).ok_or_else(|| wrong_time(&text, &shown))).transpose()?,
        })
    }
}

fn wrong_time(text: &str, host: &str) -> String {
    format!("`dial_timeout` of {host:?}, {:?}, isn't a time as `5s` or `1m30s`", crate::error::shortened(text))
}

/// A time as Go writes it: `300ms`, `1m30.5s`; more than none.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit = &rest[end..];
        let length = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        total += number
            * match &unit[..length] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &unit[length..];
    }
    Duration::try_from_secs_f64(total).ok().filter(|time| !time.is_zero())
}

/// The directories below one that may say something of a registry, the first that is there counts.
pub(super) fn directories(certs_d: &Path, registry: &str) -> Vec<PathBuf> {
    let mut names = Vec::new();
    if let Some((host, port)) = registry.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        names.push(format!("{host}_{port}_"));
    }
    names.push(registry.to_owned());
    names.push("_default".to_owned());
    names.into_iter().map(|name| certs_d.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_come_in_the_order_of_the_file_with_all_they_say() {
        let text = r#"
            server = "https://registry-1.docker.io"
            ca = "server.pem"

            [host."https://z.example:8443"]
              capabilities = ["pull", "resolve"]
              ca = ["a.pem", "/etc/b.pem"]
              client = [["c.pem", "c.key"]]
              [host."https://z.example:8443".header]
                x-custom = ["one", "two"]
                y = "three"

            [host."http://a.example/proxy/v2"]
              skip_verify = true
              client = "both.pem"
              dial_timeout = "1m0.5s"

            [host."b.example/path"]
              capabilities = ["pull"]
              override_path = true
              client = ["first.pem", "second.pem"]
        "#;
        let hosts = parse(text, Path::new("/d")).unwrap();
        let [z, a, b] = &hosts.hosts[..] else { panic!("{hosts:?}") };
        assert_eq!((z.plain, z.authority.as_str(), z.prefix.as_str()), (false, "z.example:8443", "/v2/"));
        assert_eq!((z.pull, z.resolve, z.push, z.skip_verify), (true, true, false, false));
        assert_eq!(z.ca, [Path::new("/d/a.pem"), Path::new("/etc/b.pem")]);
        assert_eq!(z.client, Some(("/d/c.pem".into(), Some("/d/c.key".into()))));
        let headers: Vec<_> = z.headers.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(headers, ["x-custom=one", "x-custom=two", "y=three"]);
        assert_eq!((a.plain, a.authority.as_str(), a.prefix.as_str()), (true, "a.example", "/proxy/v2/"));
        assert_eq!((a.pull, a.resolve, a.push, a.skip_verify), (true, true, true, true));
        assert_eq!(a.client, Some(("/d/both.pem".into(), None)));
        assert_eq!((z.dial, a.dial), (None, Some(Duration::from_millis(60_500))));
        assert_eq!((b.authority.as_str(), b.prefix.as_str(), b.resolve), ("b.example", "/path/", false));
        assert_eq!(b.client, Some(("/d/first.pem".into(), None)));
        let server = hosts.server.unwrap();
        assert_eq!((server.authority.as_str(), server.ca), ("registry-1.docker.io", vec!["/d/server.pem".into()]));
    }

    #[test]
    fn a_file_may_say_little() {
        assert_eq!(parse("", Path::new("/d")), Ok(Hosts { hosts: vec![], server: None }));
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let cases = [
            ("server = ", "line 1: "),
            ("[host.\"ftp://a.example\"]", "\"ftp://a.example\": the scheme \"ftp\" is none of http and https"),
            ("[host.\"https://u:p@a.example\"]", "the host \"a.example\" comes with a password"),
            ("[host.\"https://\"]", "\"https://\": empty host"),
            ("[host.\"a.example\"]\ncapabilities = [\"all\"]", "the capability \"all\" of \"a.example\""),
            ("[host.\"a.example\"]\nskip_verify = 1", "line 2: "),
            ("[host.\"a.example\"]\ndial_timeout = \"soon\"", "`dial_timeout` of \"a.example\", \"soon\", isn't a time"),
            ("[host.\"a.example\"]\ndial_timeout = \"0s\"", "`dial_timeout` of \"a.example\", \"0s\", isn't a time"),
            ("[host.\"a.example\"]\nclient = [[\"a\", \"b\", \"c\"]]", "`client` of \"a.example\" isn't a pair"),
        ];
        for (text, expected) in cases {
            let error = parse(text, Path::new("/d")).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn directories_are_those_of_containerd() {
        let names = |registry| {
            let all = directories(Path::new("/c"), registry);
            all.into_iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("docker.io"), "/c/docker.io /c/_default");
        assert_eq!(names("a.example:5000"), "/c/a.example_5000_ /c/a.example:5000 /c/_default");
        assert_eq!(names("[::1]"), "/c/[::1] /c/_default");
    }
}
