//! `registries.conf` of Podman, Buildah and Skopeo, version 2: mirrors, other locations, blocked registries, short names, credential
//! helpers (containers-registries.conf(5)).
//!
//! A short name is one without a registry. An alias says what it means, else `unqualified-search-registries` does, else it's Docker's.
//! Where several registries are to be searched, nobody is asked and none is tried before the others (`short-name-mode` is about that):
//! whoever registers a name in the first would be served for the second. It's an error that names what may be meant.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::reference::{ParseReferenceError, Reference, short_name};

/// What the files say, together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RegistriesConf {
    entries: Vec<Entry>,
    /// What names without a registry mean: names without tags.
    aliases: BTreeMap<String, String>,
    /// Where other such names are looked for; none where no file says it.
    search: Option<Vec<String>>,
    /// Who is asked for credentials, the first first; none where no file says it.
    pub(super) helpers: Option<Vec<String>>,
}

/// What is said of all names with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    prefix: String,
    /// What stands for the prefix; none after `*.`, where the name stays as it is.
    location: Option<String>,
    pub(super) insecure: bool,
    pub(super) blocked: bool,
    mirrors: Vec<Mirror>,
    pub(super) file: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mirror {
    location: String,
    insecure: bool,
    serves: Serves,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Serves {
    All,
    Digests,
    Tags,
}

/// A place where a name may be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    /// Host, with its port where there is one.
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) insecure: bool,
    /// Whether it may be asked what a tag means.
    pub(super) tags: bool,
    /// Whether it may be asked for what has a digest.
    pub(super) digests: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Raw {
    #[serde(default)]
    registry: Vec<RawEntry>,
    unqualified_search_registries: Option<Vec<String>>,
    short_name_mode: Option<String>,
    credential_helpers: Option<Vec<String>>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    /// Version 1.
    registries: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawEntry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<RawMirror>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawMirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: String,
}

/// Says on which line of a TOML text something is wrong.
pub(super) fn describe(text: &str, error: &toml::de::Error) -> String {
    let message = crate::error::shortened(error.message());
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => format!("line {}: {message}", before.matches('\n').count() + 1),
        None => message,
    }
}

impl RegistriesConf {
    /// Adds what a file says. What it says of a prefix takes the place of what was said before.
    pub(super) fn add(&mut self, file: &Path, text: &str) -> Result<(), String> {
        let raw: Raw = toml::from_str(text).map_err(|e| describe(text, &e))?;
        if raw.registries.is_some() {
            return Err("it is of version 1, which has been out of use since 2019: write `[[registry]]` tables".into());
        }
        for raw in raw.registry {
            let entry = raw.entry(file)?;
            self.entries.retain(|before| before.prefix != entry.prefix);
            self.entries.push(entry);
        }
        if let Some(mode) = raw.short_name_mode
            && !matches!(mode.as_str(), "" | "enforcing" | "permissive" | "disabled")
        {
            return Err(format!("short-name-mode = {mode:?} is none of enforcing, permissive and disabled"));
        }
        for registry in raw.unqualified_search_registries.iter().flatten() {
            if short_name(&format!("{registry}/x")).is_some() {
                return Err(format!("{registry:?} of unqualified-search-registries isn't a registry"));
            }
        }
        for (name, target) in raw.aliases {
            // An empty one takes back what a weaker file says.
            if !target.is_empty() && (short_name(&target).is_some() || target.parse::<Reference>().is_err()) {
                return Err(format!("the alias {name:?} means {target:?}, which isn't a name with a registry"));
            }
            self.aliases.insert(name, target);
        }
        self.search = raw.unqualified_search_registries.or(self.search.take());
        self.helpers = raw.credential_helpers.or(self.helpers.take());
        Ok(())
    }

    /// What a name may mean: one thing, several, or nothing.
    pub(super) fn candidates(&self, text: &str) -> Result<Vec<Reference>, ParseReferenceError> {
        let plain: Reference = text.parse()?;
        let Some((name, rest)) = short_name(text) else { return Ok(vec![plain]) };
        match (self.aliases.get(name).filter(|target| !target.is_empty()), &self.search) {
            (Some(target), _) => Ok(vec![format!("{target}{rest}").parse()?]),
            (None, Some(search)) => {
                let mut all: Vec<Reference> =
                    search.iter().map(|registry| format!("{registry}/{text}").parse()).collect::<Result<_, _>>()?;
                let mut seen = BTreeSet::new();
                all.retain(|reference| seen.insert(reference.clone()));
                Ok(all)
            }
            (None, None) => Ok(vec![plain]),
        }
    }

    /// What is said of a name: by the longest prefix that it has.
    pub(super) fn find(&self, registry: &str, repository: &str) -> Option<&Entry> {
        let name = format!("{registry}/{repository}");
        self.entries.iter().filter(|entry| entry.matches(&name)).max_by_key(|entry| entry.prefix.len())
    }
}

impl RawEntry {
    fn entry(self, file: &Path) -> Result<Entry, String> {
        let trim = |text: &str| text.trim_end_matches('/').to_owned();
        let (prefix, location) = match (trim(&self.prefix), trim(&self.location)) {
            (prefix, location) if prefix.is_empty() && location.is_empty() => {
                return Err("a registry has neither a `prefix` nor a `location`".into());
            }
            (prefix, location) if prefix.is_empty() => (location.clone(), Some(location)),
            (prefix, location) if prefix.starts_with("*.") => {
                if prefix.contains('/') {
                    return Err(format!("the prefix {prefix:?} has a path behind its `*.`"));
                }
                (prefix, (!location.is_empty()).then_some(location))
            }
            (prefix, location) if location.is_empty() => (prefix.clone(), Some(prefix)),
            (prefix, location) => (prefix, Some(location)),
        };
        for text in [Some(&prefix), location.as_ref()].into_iter().flatten() {
            if text.contains("://") {
                return Err(format!("{text:?} has a scheme; write host[:port][/path]"));
            }
        }
        let mirror = |raw: RawMirror| {
            let serves = match raw.pull_from_mirror.as_str() {
                _ if self.mirror_by_digest_only && !raw.pull_from_mirror.is_empty() => {
                    return Err("`pull-from-mirror` and `mirror-by-digest-only` exclude each other".into());
                }
                "" | "all" if !self.mirror_by_digest_only => Serves::All,
                "" | "digest-only" => Serves::Digests,
                "tag-only" => Serves::Tags,
                other => return Err(format!("pull-from-mirror = {other:?} is none of all, digest-only and tag-only")),
            };
            match raw.location.trim_end_matches('/') {
                "" => Err("a mirror has no `location`".to_owned()),
                text if text.contains("://") => Err(format!("{text:?} has a scheme; write host[:port][/path]")),
                location => Ok(Mirror { location: location.to_owned(), insecure: raw.insecure, serves }),
            }
        };
        let mirrors = self.mirror.into_iter().map(mirror).collect::<Result<_, _>>()?;
        Ok(Entry { prefix, location, insecure: self.insecure, blocked: self.blocked, mirrors, file: file.to_owned() })
    }
}

impl Entry {
    fn matches(&self, name: &str) -> bool {
        if let Some(domain) = self.prefix.strip_prefix('*') {
            let host = name.split('/').next().unwrap_or_default();
            let host = host.split(':').next().unwrap_or_default();
            return host.len() > domain.len() && host.ends_with(domain);
        }
        name.strip_prefix(&self.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The mirrors in their order, then the location itself.
    pub(super) fn locations(&self, registry: &str, repository: &str) -> (Vec<Location>, Location) {
        let name = format!("{registry}/{repository}");
        // Behind `*.` the whole host is the prefix.
        let length = if self.prefix.starts_with('*') { registry.len() } else { self.prefix.len() };
        let rest = name.get(length..).unwrap_or_default();
        let place = |location: &str, insecure: bool, serves: Serves| {
            let full = format!("{location}{rest}");
            let (registry, repository) = full.split_once('/').unwrap_or((&full, ""));
            Location {
                registry: registry.to_owned(),
                repository: repository.to_owned(),
                insecure,
                tags: serves != Serves::Digests,
                digests: serves != Serves::Tags,
            }
        };
        let mirrors = self.mirrors.iter().map(|m| place(&m.location, m.insecure, m.serves)).collect();
        let own = match &self.location {
            Some(location) => place(location, self.insecure, Serves::All),
            None => place(registry, self.insecure, Serves::All),
        };
        (mirrors, own)
    }
}

/// The files that Podman reads: one of the user's or the machine's, the drop-ins beside it, and what people chose for short names; the
/// later ones stronger.
pub(super) fn default_files(env: impl Fn(&str) -> Option<PathBuf>, root: bool) -> Vec<PathBuf> {
    let home = env("HOME").map(|home| home.join(".config/containers"));
    let main = env("CONTAINERS_REGISTRIES_CONF")
        .or_else(|| home.as_ref().map(|dir| dir.join("registries.conf")).filter(|file| file.exists()))
        .unwrap_or_else(|| "/etc/containers/registries.conf".into());
    let mut files = vec![main];
    files.push("/etc/containers/registries.conf.d".into());
    files.extend(home.map(|dir| dir.join("registries.conf.d")));
    let cache = match root {
        true => Some("/var/cache".into()),
        false => env("XDG_CACHE_HOME").or_else(|| Some(env("HOME")?.join(".cache"))),
    };
    files.extend(cache.map(|dir: PathBuf| dir.join("containers/short-name-aliases.conf")));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> RegistriesConf {
        let mut conf = RegistriesConf::default();
        conf.add(Path::new("/conf"), text).unwrap();
        conf
    }

    fn shown(conf: &RegistriesConf, registry: &str, repository: &str) -> String {
        let Some(entry) = conf.find(registry, repository) else {
            return "-".into();
        };
        let (mirrors, own) = entry.locations(registry, repository);
        let one = |l: &Location| {
            let serves = match (l.tags, l.digests) {
                (true, true) => "",
                (true, false) => " tags",
                _ => " digests",
            };
            format!("{}/{}{}{serves}", l.registry, l.repository, if l.insecure { " insecure" } else { "" })
        };
        mirrors.iter().chain([&own]).map(one).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn names_are_rewritten_as_containers_registries_conf_says() {
        let conf = conf(
            r#"
            unqualified-search-registries = ["docker.io"]
            short-name-mode = "enforcing"
            [[registry]]
            prefix = "example.com/foo"
            location = "internal.example/bar"
            insecure = true
            [[registry.mirror]]
            location = "m1.example:5000/mirror"
            [[registry.mirror]]
            location = "m2.example"
            insecure = true
            pull-from-mirror = "digest-only"
            [[registry.mirror]]
            location = "m3.example"
            pull-from-mirror = "tag-only"
            [[registry]]
            location = "example.com"
            mirror-by-digest-only = true
            mirror = [{ location = "m4.example" }]
            [[registry]]
            prefix = "*.wild.example"
            mirror = [{ location = "m5.example/w" }]
            [[registry]]
            prefix = "*.deep.wild.example"
            location = "one.example/all"
            [aliases]
            "fedora" = "registry.fedoraproject.org/fedora"
            "#,
        );
        let cases = [
            (
                "example.com",
                "foo/image",
                "m1.example:5000/mirror/image, m2.example/image insecure digests, m3.example/image tags, internal.example/bar/image insecure",
            ),
            ("example.com", "food", "m4.example/food digests, example.com/food"),
            ("a.wild.example", "x", "m5.example/w/x, a.wild.example/x"),
            ("a.wild.example:5000", "x", "m5.example/w/x, a.wild.example:5000/x"),
            ("a.deep.wild.example", "x", "one.example/all/x"),
            ("wild.example", "x", "-"),
            ("example.com.evil.example", "foo", "-"),
            ("docker.io", "library/debian", "-"),
        ];
        for (registry, repository, expected) in cases {
            assert_eq!(shown(&conf, registry, repository), expected, "{registry}/{repository}");
        }
    }

    #[test]
    fn a_later_file_is_stronger() {
        let mut conf = conf("[[registry]]\nlocation = \"a.example\"\nblocked = true\n[[registry]]\nlocation = \"b.example\"");
        assert!(conf.find("a.example", "x").unwrap().blocked);
        conf.add(Path::new("/later"), "[[registry]]\nlocation = \"a.example\"").unwrap();
        let entry = conf.find("a.example", "x").unwrap();
        assert!(!entry.blocked && entry.file == Path::new("/later"));
        assert!(conf.find("b.example", "x").is_some());
    }

    #[test]
    fn what_cannot_be_used_is_said_with_its_line() {
        let cases = [
            ("\n[[registry]\n", "line 2: "),
            ("[[registry]]\nlocation = 5", "line 2: invalid type: integer `5`, expected a string"),
            ("[registries.search]\nregistries = []", "it is of version 1"),
            ("[[registry]]", "a registry has neither"),
            ("short-name-mode = \"ask\"", "short-name-mode = \"ask\" is none of"),
            ("unqualified-search-registries = [\"quay\"]", "\"quay\" of unqualified-search-registries isn't a registry"),
            ("[aliases]\na = \"b\"", "the alias \"a\" means \"b\", which isn't a name with a registry"),
            ("[[registry]]\nlocation = \"https://a.example\"", "\"https://a.example\" has a scheme"),
            ("[[registry]]\nprefix = \"*.a.example/x\"", "the prefix \"*.a.example/x\" has a path"),
            ("[[registry]]\nlocation = \"a.example\"\nmirror = [{ location = \"\" }]", "a mirror has no `location`"),
            (
                "[[registry]]\nlocation = \"a.example\"\nmirror = [{ location = \"b\", pull-from-mirror = \"some\" }]",
                "pull-from-mirror = \"some\" is none of",
            ),
        ];
        for (text, expected) in cases {
            let error = RegistriesConf::default().add(Path::new("/conf"), text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn files_are_looked_for_where_podman_does() {
        let none = |_: &str| None;
        let machine = ["/etc/containers/registries.conf", "/etc/containers/registries.conf.d"].map(PathBuf::from);
        assert_eq!(default_files(none, false), machine);
        assert_eq!(default_files(none, true)[2], Path::new("/var/cache/containers/short-name-aliases.conf"));
        let files = default_files(
            |name| match name {
                "CONTAINERS_REGISTRIES_CONF" => Some("/mine".into()),
                "HOME" => Some("/home/ann".into()),
                _ => None,
            },
            false,
        );
        assert_eq!(files[0], Path::new("/mine"));
        assert_eq!(files[2], Path::new("/home/ann/.config/containers/registries.conf.d"));
        assert_eq!(files[3], Path::new("/home/ann/.cache/containers/short-name-aliases.conf"));
    }

    #[test]
    fn short_names_mean_what_aliases_and_search_registries_say() {
        fn meant(conf: &RegistriesConf, name: &str) -> String {
            conf.candidates(name).unwrap().iter().map(Reference::to_string).collect::<Vec<_>>().join(" or ")
        }
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let none = RegistriesConf::default();
        assert_eq!(meant(&none, "fedora:40"), "docker.io/library/fedora:40");
        let mut several = conf(
            "unqualified-search-registries = [\"quay.io\", \"docker.io\", \"a.example:5000/in\"]\nshort-name-mode = \"enforcing\"\n\
             [aliases]\nfedora = \"registry.fedoraproject.org/fedora\"\n\"team/app\" = \"b.example/app\"",
        );
        let by_digest = format!("fedora@{digest}");
        let cases = [
            ("fedora", "registry.fedoraproject.org/fedora:latest".to_owned()),
            ("fedora:40", "registry.fedoraproject.org/fedora:40".to_owned()),
            (&by_digest, format!("registry.fedoraproject.org/fedora@{digest}")),
            ("team/app:1", "b.example/app:1".to_owned()),
            (
                "team/fedora",
                "quay.io/team/fedora:latest or docker.io/team/fedora:latest or a.example:5000/in/team/fedora:latest".to_owned(),
            ),
            ("debian", "quay.io/debian:latest or docker.io/library/debian:latest or a.example:5000/in/debian:latest".to_owned()),
            // Whoever says a registry means it.
            ("docker.io/fedora", "docker.io/library/fedora:latest".to_owned()),
            ("localhost/fedora", "localhost/fedora:latest".to_owned()),
        ];
        for (name, expected) in cases {
            assert_eq!(meant(&several, name), expected, "{name}");
        }
        // A stronger file takes an alias back, and says where to search: nowhere.
        several.add(Path::new("/later"), "unqualified-search-registries = []\n[aliases]\nfedora = \"\"").unwrap();
        assert_eq!(meant(&several, "fedora"), "");
        assert_eq!(meant(&several, "team/app"), "b.example/app:latest");
    }
}
