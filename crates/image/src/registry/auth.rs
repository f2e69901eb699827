//! Whose credentials a pull uses: those it was given, else those that `docker login` and `podman login` left.
//!
//! Formats: docker-login(1), containers-auth.json(5). Secrets are never part of an error or an event.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::{Error, disk};
use crate::reference::Reference;

/// What a pull presents to the registry, and what to say when the registry doesn't like it.
pub(super) struct Found {
    pub(super) auth: RegistryAuth,
    pub(super) who: String,
    pub(super) looked_in: Vec<String>,
}

/// The parts of a file that say whose credentials it has.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    auths: BTreeMap<String, IgnoredAny>,
    cred_helpers: BTreeMap<String, IgnoredAny>,
    creds_store: Option<String>,
}

/// Looks for credentials. May run a helper program, and waits for it.
pub(super) fn find(given: &BTreeMap<String, (String, String)>, only: Option<&Path>, reference: &Reference) -> Result<Found, Error> {
    let registry = reference.registry();
    if let Some((user, password)) = given.get(registry) {
        return Ok(Found {
            auth: RegistryAuth::Basic(user.clone(), password.clone()),
            who: format!("the user {user:?} of `Puller::credentials`"),
            looked_in: vec!["`Puller::credentials`".into()],
        });
    }
    let files = match only {
        Some(path) => vec![path.to_owned()],
        None => files(|name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)),
    };
    let mut looked_in = Vec::new();
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
        let keys: Keys = serde_json::from_slice(&bytes).map_err(|e| Error::Credentials {
            registry: registry.to_owned(),
            place: place.clone(),
            why: format!("it isn't as it should be: line {}, column {}", e.line(), e.column()),
        })?;
        let Some(key) = keys.matching(reference) else {
            looked_in.push(place);
            continue;
        };
        match get_credential_from_reader(bytes.as_slice(), &key) {
            Ok(DockerCredential::UsernamePassword(user, password)) if !(user.is_empty() && password.is_empty()) => {
                looked_in.push(place.clone());
                let who = format!("the user {user:?} of {place}");
                return Ok(Found { auth: RegistryAuth::Basic(user, password), who, looked_in });
            }
            Ok(DockerCredential::UsernamePassword(..)) => looked_in.push(place),
            Ok(DockerCredential::IdentityToken(_)) => {
                looked_in.push(format!("{place} (an identity token, which isn't supported yet)"));
            }
            Err(CredentialRetrievalError::NoCredentialConfigured) => looked_in.push(place),
            // An unknown server is a failure to a helper, and the usual case of a public image.
            Err(CredentialRetrievalError::HelperFailure { stdout, .. }) if stdout.contains("credentials not found") => {
                looked_in.push(place);
            }
            Err(
                e @ (CredentialRetrievalError::HelperFailure { .. }
                | CredentialRetrievalError::HelperCommunicationError
                | CredentialRetrievalError::MalformedHelperResponse),
            ) => {
                // A public image needs no credentials: say it only when the registry refuses.
                tracing::warn!(file = %place, error = %e, "a credential helper failed");
                looked_in.push(format!("{place} (its credential helper failed)"));
            }
            Err(e) => {
                return Err(Error::Credentials { registry: registry.to_owned(), place, why: e.to_string() });
            }
        }
    }
    Ok(Found { auth: RegistryAuth::Anonymous, who: "an anonymous request".into(), looked_in })
}

impl Keys {
    /// The key under which the credentials for a reference are, if there may be any.
    fn matching(&self, reference: &Reference) -> Option<String> {
        let registry = reference.registry();
        // containers-auth.json(5): the longest prefix of registry/namespace/repository goes first.
        let mut names = Vec::new();
        let mut name = format!("{registry}/{}", reference.repository());
        while name.len() > registry.len() {
            names.push(name.clone());
            name.truncate(name.rfind('/').unwrap_or_default());
        }
        names.push(registry.to_owned());
        if registry == "docker.io" {
            names.extend(["index.docker.io".to_owned(), "registry-1.docker.io".to_owned()]);
        }
        let found = names.iter().find_map(|name| {
            let helper = self.cred_helpers.contains_key(name).then(|| name.clone());
            helper.or_else(|| self.auths.keys().find(|key| bare(key) == name).cloned())
        });
        found.or_else(|| {
            self.creds_store.as_ref().filter(|s| !s.is_empty()).map(|_| match registry {
                "docker.io" => "https://index.docker.io/v1/".to_owned(),
                other => other.to_owned(),
            })
        })
    }
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

    fn found(json: &str, reference: &str) -> Result<(String, Vec<String>), Error> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("auth.json");
        fs::write(&file, json).unwrap();
        let found = find(&BTreeMap::new(), Some(&file), &reference.parse().unwrap())?;
        let user = match found.auth {
            RegistryAuth::Basic(user, _) => user,
            _ => String::new(),
        };
        let looked_in = found.looked_in.iter().map(|p| p.replace(&file.display().to_string(), "F")).collect();
        Ok((user, looked_in))
    }

    #[test]
    fn the_credentials_nearest_to_the_repository_are_used_and_no_others() {
        // base64 of org:x, host:x, hub:x, tok:x
        let json = r#"{"auths": {
            "quay.example/org": {"auth": "b3JnOng="}, "quay.example": {"auth": "aG9zdDp4"},
            "https://index.docker.io/v1/": {"auth": "aHViOng="}, "only.example/org": {"auth": "b3JnOng="},
            "http://local.example:5000": {"auth": "dG9rOng="}
        }}"#;
        let cases = [
            ("quay.example/org/app", "org"),
            ("quay.example/organic/app", "host"),
            ("quay.example/app", "host"),
            ("debian", "hub"),
            ("only.example/other/app", ""),
            ("local.example:5000/a", "tok"),
            ("local.example/a", ""),
        ];
        for (reference, user) in cases {
            assert_eq!(found(json, reference).unwrap().0, user, "{reference}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_without_its_secrets() {
        let error = found(r#"{"auths": {"a.example": "c2VjcmV0""#, "a.example/b").unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("can't use the credentials for a.example in /"), "{text}");
        assert!(text.ends_with("/auth.json: it isn't as it should be: line 1, column 34"), "{text}");
        assert_eq!(error.remedy().as_deref(), Some("log in again with `docker login a.example` or `podman login a.example`"));
    }

    #[test]
    fn what_was_found_but_cannot_be_used_is_said() {
        let token = r#"{"auths": {"a.example": {"identitytoken": "x"}}}"#;
        assert_eq!(found(token, "a.example/b").unwrap().1, ["F (an identity token, which isn't supported yet)"]);
        let helper = r#"{"credsStore": "coracle-has-no-such-helper"}"#;
        assert_eq!(found(helper, "a.example/b").unwrap().1, ["F (its credential helper failed)"]);
        assert_eq!(found("{}", "a.example/b").unwrap().1, ["F"]);
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
