//! Whose credentials a request has: those that were given, else those that `docker login` and `podman login` left.
//!
//! Formats: docker-login(1), containers-auth.json(5); helpers: docker-credential-helpers. Secrets are never part of an error, an event
//! or a `Debug` output.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::{Error, disk};

/// How long a helper program may take: some ask a person.
const HELPER_PATIENCE: Duration = Duration::from_secs(60);

/// What is presented to one registry.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    Anonymous,
    Password {
        user: String,
        password: String,
    },
    /// Is exchanged for an access token at the registry's token service (`identitytoken`).
    Identity(String),
    /// Is shown to the registry as it is (`registrytoken`).
    Bearer(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::Anonymous => "Anonymous",
            Credentials::Password { .. } => "Password(..)",
            Credentials::Identity(_) => "Identity(..)",
            Credentials::Bearer(_) => "Bearer(..)",
        })
    }
}

/// What a registry is shown, and what to say when it doesn't like it.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) credentials: Credentials,
    pub(super) who: String,
    pub(super) looked_in: Vec<String>,
}

/// The parts of a file that have credentials.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// Where in a file the credentials for a repository are.
enum Place<'a> {
    Entry(&'a Entry),
    Helper { name: &'a str, server: String },
}

/// What stands for files with credentials in a list of helpers (containers-registries.conf(5), `credential-helpers`).
const FILES: &str = "containers-auth.json";

/// Looks for the credentials for a repository of a registry. May run a helper program, and waits for it.
pub(super) fn find(
    given: &BTreeMap<String, (String, String)>,
    only: Option<&Path>,
    helpers: Option<&[String]>,
    registry: &str,
    repository: &str,
) -> Result<Found, Error> {
    if let Some((user, password)) = given.get(registry) {
        return Ok(Found {
            credentials: Credentials::Password { user: user.clone(), password: password.clone() },
            who: format!("the user {user:?} of `RegistryClient::credentials`"),
            looked_in: vec!["`RegistryClient::credentials`".into()],
        });
    }
    let mut looked_in = Vec::new();
    // Who names one file means that one.
    let helpers = helpers.filter(|helpers| only.is_none() && !helpers.is_empty());
    let files_alone = [FILES.to_owned()];
    for helper in helpers.unwrap_or(&files_alone) {
        let found = match helper.as_str() {
            FILES => in_files(only, registry, repository, &mut looked_in)?,
            helper => asked(helper, registry, &format!("the credential helper {helper}"), "it failed", &mut looked_in),
        };
        if let Some((credentials, place)) = found.filter(|(credentials, _)| *credentials != Credentials::Anonymous) {
            let who = match &credentials {
                Credentials::Password { user, .. } => format!("the user {user:?} of {place}"),
                Credentials::Identity(_) => format!("the identity token of {place}"),
                Credentials::Bearer(_) | Credentials::Anonymous => format!("the token of {place}"),
            };
            return Ok(Found { credentials, who, looked_in });
        }
    }
    Ok(Found { credentials: Credentials::Anonymous, who: "an anonymous request".into(), looked_in })
}

/// What a helper program gives, and the place that names it; none where it fails, which `failed` says.
fn asked(helper: &str, server: &str, place: &str, failed: &str, looked_in: &mut Vec<String>) -> Option<(Credentials, String)> {
    match ask(helper, server) {
        Ok(credentials) => {
            looked_in.push(place.to_owned());
            Some((credentials, place.to_owned()))
        }
        Err(why) => {
            // A public image needs no credentials: say it only when the registry refuses.
            tracing::warn!(%place, %helper, %why, "a credential helper failed");
            looked_in.push(format!("{place} ({failed})"));
            None
        }
    }
}

/// What the first file says that says something, and which.
fn in_files(
    only: Option<&Path>,
    registry: &str,
    repository: &str,
    looked_in: &mut Vec<String>,
) -> Result<Option<(Credentials, String)>, Error> {
    let files = match only {
        Some(path) => vec![path.to_owned()],
        None => files(|name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)),
    };
    for path in files {
        let place = path.display().to_string();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                looked_in.push(format!("{place} (no such file)"));
                continue;
            }
            Err(e) => return Err(disk("read", &path)(e)),
        };
        let unusable = |why: String| Error::Credentials { registry: registry.to_owned(), place: place.clone(), why };
        let file: AuthFile = serde_json::from_slice(&bytes)
            .map_err(|e| unusable(format!("it isn't as it should be: line {}, column {}", e.line(), e.column())))?;
        let credentials = match file.matching(registry, repository) {
            None => Credentials::Anonymous,
            Some(Place::Entry(entry)) => entry.credentials().ok_or_else(|| unusable("its `auth` isn't base64 of USER:PASSWORD".into()))?,
            Some(Place::Helper { name, server }) => match asked(name, &server, &place, "its credential helper failed", looked_in) {
                Some((Credentials::Anonymous, _)) | None => continue,
                found => return Ok(found),
            },
        };
        looked_in.push(place.clone());
        if credentials != Credentials::Anonymous {
            return Ok(Some((credentials, place)));
        }
    }
    Ok(None)
}

impl AuthFile {
    /// Where the credentials for a repository are, if there may be any.
    fn matching(&self, registry: &str, repository: &str) -> Option<Place<'_>> {
        // containers-auth.json(5): the longest prefix of registry/namespace/repository goes first.
        let mut names = Vec::new();
        let mut name = format!("{registry}/{repository}");
        while name.len() > registry.len() {
            names.push(name.clone());
            name.truncate(name.rfind('/').unwrap_or_default());
        }
        names.push(registry.to_owned());
        if registry == "docker.io" {
            names.extend(["index.docker.io".to_owned(), "registry-1.docker.io".to_owned()]);
        }
        for name in &names {
            if let Some(helper) = self.cred_helpers.get(name) {
                return Some(Place::Helper { name: helper, server: name.clone() });
            }
            let entry = self.auths.iter().find(|(key, _)| bare(key) == name);
            // With a store, docker-login(1) leaves an empty entry here and the secret there.
            if let Some((key, entry)) = entry {
                return Some(match self.store() {
                    Some(store) if entry.credentials() == Some(Credentials::Anonymous) => {
                        Place::Helper { name: store, server: key.clone() }
                    }
                    _ => Place::Entry(entry),
                });
            }
        }
        let server = match registry {
            "docker.io" => "https://index.docker.io/v1/".to_owned(),
            other => other.to_owned(),
        };
        self.store().map(|name| Place::Helper { name, server })
    }

    fn store(&self) -> Option<&str> {
        self.creds_store.as_deref().filter(|s| !s.is_empty())
    }
}

impl Entry {
    /// None where it can't be read.
    fn credentials(&self) -> Option<Credentials> {
        let given = |value: &Option<String>| value.clone().filter(|v| !v.is_empty());
        if let Some(token) = given(&self.identitytoken) {
            return Some(Credentials::Identity(token));
        }
        if let Some(token) = given(&self.registrytoken) {
            return Some(Credentials::Bearer(token));
        }
        let (user, password) = match given(&self.auth) {
            Some(auth) => {
                let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
                let (user, password) = text.split_once(':')?;
                (user.to_owned(), password.trim_end_matches('\0').to_owned())
            }
            None => (given(&self.username).unwrap_or_default(), given(&self.password).unwrap_or_default()),
        };
        match user.is_empty() && password.is_empty() {
            true => Some(Credentials::Anonymous),
            false => Some(Credentials::Password { user, password }),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks a helper program. Its output may be a secret and is never part of the error.
fn ask(name: &str, server: &str) -> Result<Credentials, String> {
    if name.contains('/') || name.is_empty() {
        return Err("its name can't be the end of a program's".into());
    }
    let mut child = Command::new(format!("docker-credential-{name}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("it can't be started: {e}"))?;
    // A helper that doesn't read is one that needs no server.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(server.as_bytes()));
    let end = Instant::now() + HELPER_PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it didn't end within {} s", HELPER_PATIENCE.as_secs()));
            }
        }
    };
    let mut output = String::new();
    // It has ended; what it wrote is in the pipe. More than a pipe holds is no answer.
    let read = child.stdout.take().map(|stdout| stdout.take(64 << 10).read_to_string(&mut output));
    if !matches!(read, Some(Ok(_))) {
        return Err("its output can't be read".into());
    }
    if !status.success() {
        // An unknown server is a failure to a helper, and the usual case of a public image.
        return match output.contains("credentials not found") {
            true => Ok(Credentials::Anonymous),
            false => Err(format!("it ended with {status}")),
        };
    }
    let answer: Answer = serde_json::from_str(&output).map_err(|_| "its answer isn't as it should be".to_owned())?;
    Ok(match (answer.username.as_str(), answer.secret) {
        ("", secret) if secret.is_empty() => Credentials::Anonymous,
        ("<token>", secret) => Credentials::Identity(secret),
        (_, password) => Credentials::Password { user: answer.username, password },
    })
}

/// `https://index.docker.io/v1/` means `index.docker.io`.
fn bare(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

/// Where Podman and Docker leave credentials, in the order in which they're looked for.
fn files(env: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let home = env("HOME");
    let in_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let podman = match env("REGISTRY_AUTH_FILE") {
        Some(file) => vec![Some(file)],
        None => vec![env("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")), in_home(".config/containers/auth.json")],
    };
    let docker = env("DOCKER_CONFIG").or_else(|| in_home(".docker")).map(|dir| dir.join("config.json"));
    podman.into_iter().chain([docker]).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_in(json: &str, reference: &str) -> Result<(Credentials, Vec<String>), Error> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("auth.json");
        fs::write(&file, json).unwrap();
        let reference: crate::Reference = reference.parse().unwrap();
        let found = find(&BTreeMap::new(), Some(&file), None, reference.registry(), reference.repository())?;
        let looked_in = found.looked_in.iter().map(|p| p.replace(&file.display().to_string(), "F")).collect();
        Ok((found.credentials, looked_in))
    }

    fn user(json: &str, reference: &str) -> String {
        match find_in(json, reference).unwrap().0 {
            Credentials::Password { user, .. } => user,
            _ => String::new(),
        }
    }

    #[test]
    fn the_credentials_nearest_to_the_repository_are_used_and_no_others() {
        // base64 of org:x, host:x, hub:x, tok:x
        let json = r#"{"auths": {
            "quay.example/org": {"auth": "b3JnOng="}, "quay.example": {"auth": "aG9zdDp4"},
            "https://index.docker.io/v1/": {"auth": "aHViOng="}, "only.example/org": {"auth": "b3JnOng="},
            "http://local.example:5000": {"auth": "dG9rOng="}, "plain.example": {"username": "u", "password": "p"}
        }}"#;
        let cases = [
            ("quay.example/org/app", "org"),
            ("quay.example/organic/app", "host"),
            ("quay.example/app", "host"),
            ("debian", "hub"),
            ("only.example/other/app", ""),
            ("local.example:5000/a", "tok"),
            ("local.example/a", ""),
            ("plain.example/a", "u"),
        ];
        for (reference, expected) in cases {
            assert_eq!(user(json, reference), expected, "{reference}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_without_its_secrets() {
        let error = find_in(r#"{"auths": {"a.example": "c2VjcmV0""#, "a.example/b").unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("can't use the credentials for a.example in /"), "{text}");
        assert!(text.ends_with("/auth.json: it isn't as it should be: line 1, column 34"), "{text}");
        assert_eq!(error.remedy().as_deref(), Some("log in again with `docker login a.example` or `podman login a.example`"));
        // base64 of `secret`, without a colon; and no base64 at all.
        for auth in ["c2VjcmV0", "s3cret!"] {
            let text = find_in(&format!(r#"{{"auths": {{"a.example": {{"auth": "{auth}"}}}}}}"#), "a.example/b").unwrap_err().to_string();
            assert!(text.ends_with("/auth.json: its `auth` isn't base64 of USER:PASSWORD"), "{text}");
        }
    }

    #[test]
    fn tokens_are_told_from_passwords() {
        let cases = [
            (r#""identitytoken": "i", "auth": "Ojo=""#, Credentials::Identity("i".into())),
            (r#""registrytoken": "r""#, Credentials::Bearer("r".into())),
            (r#""auth": """#, Credentials::Anonymous),
            // base64 of u:p:q and of u:p with the NUL that old versions of Docker left.
            (r#""auth": "dTpwOnE=""#, Credentials::Password { user: "u".into(), password: "p:q".into() }),
            (r#""auth": "dTpwAA==""#, Credentials::Password { user: "u".into(), password: "p".into() }),
        ];
        for (entry, expected) in cases {
            assert_eq!(find_in(&format!(r#"{{"auths": {{"a.example": {{{entry}}}}}}}"#), "a.example/b").unwrap().0, expected);
        }
        assert_eq!(format!("{:?}", Credentials::Identity("secret".into())), "Identity(..)");
    }

    #[test]
    fn a_helper_that_fails_is_said_and_names_of_helpers_are_no_paths() {
        for name in ["coracle-has-no-such-helper", "x/../../../bin/sh", ""] {
            for json in [format!(r#"{{"credsStore": "{name}"}}"#), format!(r#"{{"credHelpers": {{"a.example": "{name}"}}}}"#)] {
                let looked_in = find_in(&json, "a.example/b").unwrap().1;
                match name.is_empty() && json.contains("credsStore") {
                    true => assert_eq!(looked_in, ["F"]),
                    false => assert_eq!(looked_in, ["F (its credential helper failed)"]),
                }
            }
        }
        assert_eq!(find_in("{}", "a.example/b").unwrap().1, ["F"]);
    }

    #[test]
    fn files_are_looked_for_where_docker_and_podman_do() {
        let env = |all: &'static [(&str, &str)]| {
            let got = files(|name| all.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v)));
            got.iter().map(|p| p.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            env(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r")]),
            ["/r/containers/auth.json", "/h/.config/containers/auth.json", "/h/.docker/config.json"]
        );
        assert_eq!(env(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/f"), ("DOCKER_CONFIG", "/d")]), ["/f", "/d/config.json"]);
        assert!(env(&[]).is_empty());
    }
}
