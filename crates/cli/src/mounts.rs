//! Mounts as docker-run(1) writes them: `--volume`, `--mount`, `--tmpfs`.
//!
//! What can't be had is refused and never passed over: somebody who writes `noexec` relies on it.

use crate::failure::Fault;
use coracle_container::{Mount, Owner, Volume};

/// `[SOURCE:]TARGET[:OPTIONS]`: a path, the name of a volume, or nothing for a volume of the container's own.
pub(crate) fn volume(word: &str) -> Result<Mount, Fault> {
    let bad = |why: &str| {
        Fault::new(format!("--volume {word}: {why}"), "write PATH:TARGET, NAME:TARGET or TARGET, with :ro behind it for no writing")
    };
    let mut parts = word.split(':');
    let (source, target, options) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(source), Some(target), options, None) => (source, target, options.unwrap_or("rw")),
        (Some(target), None, ..) if target.starts_with('/') => return Ok(Mount::volume(Volume::anonymous(), target)),
        _ => return Err(bad("it isn't of that form")),
    };
    if source.is_empty() || target.is_empty() {
        return Err(bad("a path is empty"));
    }
    // Docker takes a bare word as the name of a volume.
    let named = !source.starts_with(['/', '.']);
    if named && source.contains('/') {
        return Err(Fault::new(
            format!("--volume {word}: {source:?} is neither a path nor a name"),
            format!("for a directory of this machine: ./{source}"),
        ));
    }
    let mut mount = if named { Mount::volume(source, target) } else { Mount::bind(source, target) };
    for option in options.split(',') {
        match option {
            "rw" | "rprivate" => {}
            "ro" => mount = mount.read_only(),
            "nocopy" if named => mount = mount.no_copy(),
            "owner=caller" if !named => mount = mount.owner(Owner::Caller),
            option => return Err(bad(&format!("the option {option:?} can't be had here"))),
        }
    }
    Ok(mount)
}

/// What `--mount` says.
#[derive(Default)]
struct Words {
    kind: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: bool,
    size: Option<String>,
    mode: Option<u32>,
    caller: bool,
    no_copy: bool,
    ephemeral: bool,
    volume_size: Option<String>,
    labels: Vec<(String, String)>,
}

/// `type=volume,src=..,dst=..`, `type=bind,src=..,dst=..,readonly`, `type=tmpfs,dst=..,tmpfs-size=..,tmpfs-mode=..`, `type=image,src=..,dst=..`
pub(crate) fn mount(word: &str) -> Result<Mount, Fault> {
    const FORM: &str = "write type=volume[,src=NAME],dst=PATH, type=bind,src=PATH,dst=PATH[,readonly], \
                        type=tmpfs,dst=PATH[,tmpfs-size=SIZE][,tmpfs-mode=OCTAL] or type=image,src=IMAGE,dst=PATH";
    let bad = |why: String| Fault::new(format!("--mount {word}: {why}"), FORM);
    let mut words = Words::default();
    for field in fields(word).ok_or_else(|| bad("a quote isn't closed".into()))? {
        let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value.to_owned())));
        let needed = || value.clone().filter(|v| !v.is_empty()).ok_or_else(|| bad(format!("{key} has no value")));
        let whether = || match value.as_deref() {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(bad(format!("{key}={other} is neither true nor false"))),
        };
        match key.to_ascii_lowercase().as_str() {
            "type" => words.kind = Some(needed()?),
            "src" | "source" => words.source = Some(needed()?),
            "dst" | "destination" | "target" => words.target = Some(needed()?),
            "readonly" | "ro" => words.read_only = whether()?,
            "volume-nocopy" => words.no_copy = whether()?,
            "volume-ephemeral" => words.ephemeral = whether()?,
            "volume-size" => words.volume_size = Some(needed()?),
            "volume-label" => {
                let label = needed()?;
                let (key, value) = label.split_once('=').unwrap_or((&label, ""));
                words.labels.push((key.into(), value.into()));
            }
            "owner" if value.as_deref() == Some("caller") => words.caller = true,
            "tmpfs-size" => words.size = Some(needed()?),
            "tmpfs-mode" => words.mode = Some(octal(&needed()?).ok_or_else(|| bad("tmpfs-mode isn't an octal number up to 7777".into()))?),
            "bind-propagation" if value.as_deref() == Some("rprivate") => {}
            _ => return Err(bad(format!("{field:?} can't be had here"))),
        }
    }
    let mount = words.mount(&bad)?;
    Ok(if words.read_only { mount.read_only() } else { mount })
}

impl Words {
    fn mount(&self, bad: &impl Fn(String) -> Fault) -> Result<Mount, Fault> {
        let target = self.target.clone().ok_or_else(|| bad("dst is missing".into()))?;
        let source = || self.source.clone().ok_or_else(|| bad("src is missing".into()));
        // Docker's type, if none is named.
        let kind = self.kind.as_deref().unwrap_or("volume");
        let of_others = [
            ("tmpfs", self.size.is_some() || self.mode.is_some()),
            ("bind", self.caller),
            ("volume", self.no_copy || self.ephemeral || self.volume_size.is_some() || !self.labels.is_empty()),
        ];
        if let Some((of, _)) = of_others.iter().find(|(of, said)| *said && *of != kind) {
            return Err(bad(format!("it says what is for mounts of type {of}, and is of type {kind}")));
        }
        match kind {
            "bind" if self.caller => Ok(Mount::bind(source()?, target).owner(Owner::Caller)),
            "bind" => Ok(Mount::bind(source()?, target)),
            "image" => Ok(Mount::image(source()?, target)),
            "tmpfs" if self.source.is_some() => Err(bad("a tmpfs has no src".into())),
            "tmpfs" => Ok(tmpfs_of(target, self.size.clone(), self.mode)),
            "volume" if self.ephemeral && self.source.is_some() => Err(bad("what goes with the container's life has no name".into())),
            "volume" => {
                let volume = match &self.source {
                    Some(name) => Volume::named(name),
                    None if self.ephemeral => Volume::ephemeral(),
                    None => Volume::anonymous(),
                };
                let volume = self.volume_size.iter().fold(volume, Volume::size);
                let volume = self.labels.iter().fold(volume, |volume, (key, value)| volume.label(key, value));
                let mount = Mount::volume(volume, target);
                Ok(if self.no_copy { mount.no_copy() } else { mount })
            }
            other => Err(bad(format!("there are no mounts of type {other}"))),
        }
    }
}

/// `TARGET[:OPTIONS]`, options as mount(8) has them for a tmpfs.
pub(crate) fn tmpfs(word: &str) -> Result<Mount, Fault> {
    let bad = |why: String| Fault::new(format!("--tmpfs {word}: {why}"), "write TARGET or TARGET:size=SIZE,mode=OCTAL,ro");
    let (target, options) = word.split_once(':').unwrap_or((word, ""));
    let (mut read_only, mut size, mut mode) = (false, None, None);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => size = Some(value.to_owned()),
            Some(("mode", value)) => mode = Some(octal(value).ok_or_else(|| bad("mode isn't an octal number up to 7777".into()))?),
            // These hold without saying so.
            None if matches!(option, "rw" | "exec" | "nosuid" | "nodev") => {}
            None if option == "ro" => read_only = true,
            _ => return Err(bad(format!("the option {option:?} can't be had here"))),
        }
    }
    let mount = tmpfs_of(target.to_owned(), size, mode);
    Ok(if read_only { mount.read_only() } else { mount })
}

fn tmpfs_of(target: String, size: Option<String>, mode: Option<u32>) -> Mount {
    let mut mount = Mount::tmpfs(target);
    if let Some(size) = size {
        mount = mount.size(size);
    }
    if let Some(mode) = mode {
        mount = mount.mode(mode);
    }
    mount
}

fn octal(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777)
}

/// The fields of a line of CSV, which Docker's `--mount` is: a field in quotes may have commas. None where a quote isn't closed.
fn fields(line: &str) -> Option<Vec<String>> {
    let (mut all, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if quoted && characters.peek() == Some(&'"') => field.extend(characters.next()),
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => all.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    all.push(field);
    (!quoted).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_read_as_docker_reads_them() {
        let good = |word: &str, mount: Mount| assert_eq!(volume(word), Ok(mount), "{word}");
        good("/a:/b", Mount::bind("/a", "/b"));
        good("/a:/b:ro", Mount::bind("/a", "/b").read_only());
        good("./a:/b:rw", Mount::bind("./a", "/b"));
        good(".:/b:ro,rprivate", Mount::bind(".", "/b").read_only());
        good("name:/b", Mount::volume("name", "/b"));
        good("name:/b:ro,nocopy", Mount::volume("name", "/b").read_only().no_copy());
        good("/b", Mount::volume(Volume::anonymous(), "/b"));
        good(".:/b:owner=caller", Mount::bind(".", "/b").owner(Owner::Caller));
        for word in [
            "",
            ":",
            "/a:",
            ":/b",
            "/a:/b:ro:ro",
            "a/b:/b",
            "b",
            "/a:/b:z",
            "/a:/b:nocopy",
            "name:/b:owner=caller",
            "/a:/b:noexec",
            "/a:/b:rshared",
            "/a:/b:",
        ] {
            assert!(volume(word).is_err(), "{word}");
        }
    }

    #[test]
    fn mounts_are_read_as_docker_reads_them() {
        let good = |word: &str, expected: Mount| assert_eq!(mount(word), Ok(expected), "{word}");
        good("type=bind,src=/a,dst=/b", Mount::bind("/a", "/b"));
        good("type=bind,source=/a,target=/b,readonly", Mount::bind("/a", "/b").read_only());
        good("type=bind,source=/a,destination=/b,ro=true", Mount::bind("/a", "/b").read_only());
        good("type=bind,src=/a,dst=/b,readonly=false", Mount::bind("/a", "/b"));
        good("type=bind,\"src=/a,b\",dst=/b", Mount::bind("/a,b", "/b"));
        good("type=tmpfs,dst=/t", Mount::tmpfs("/t"));
        good("src=a,dst=/b", Mount::volume("a", "/b"));
        good("type=volume,dst=/b,volume-nocopy", Mount::volume(Volume::anonymous(), "/b").no_copy());
        good("dst=/b,volume-ephemeral,volume-size=1g", Mount::volume(Volume::ephemeral().size("1g"), "/b"));
        good("src=a,dst=/b,\"volume-label=k=v\",ro", Mount::volume(Volume::named("a").label("k", "v"), "/b").read_only());
        good("type=bind,src=/a,dst=/b,owner=caller", Mount::bind("/a", "/b").owner(Owner::Caller));
        good("type=image,src=debian:12,dst=/d", Mount::image("debian:12", "/d"));
        good("type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=0700", Mount::tmpfs("/t").size("64m").mode(0o700));
        for word in [
            "",
            "type=volume,src=a,dst=/b,tmpfs-size=1m",
            "type=volume,src=a,volume-ephemeral,dst=/b",
            "type=bind,src=/a,dst=/b,volume-nocopy",
            "type=npipe,src=a,dst=/b",
            "type=image,dst=/b",
            "type=bind,src=/a",
            "type=bind,dst=/b",
            "type=bind,src=/a,dst=/b,tmpfs-size=1m",
            "type=tmpfs,src=/a,dst=/b",
            "type=tmpfs,dst=/b,tmpfs-mode=9",
            "type=bind,src=/a,dst=/b,bind-propagation=rshared",
            "type=bind,src=/a,dst=/b,readonly=maybe",
            "type=bind,src=/a,dst=/b,noexec",
            "type=bind,\"src=/a,dst=/b",
        ] {
            assert!(mount(word).is_err(), "{word}");
        }
    }

    #[test]
    fn an_option_of_a_tmpfs_that_would_not_hold_is_refused() {
        assert_eq!(tmpfs("/t"), Ok(Mount::tmpfs("/t")));
        assert_eq!(tmpfs("/t:size=1g,mode=1770,rw,nosuid"), Ok(Mount::tmpfs("/t").size("1g").mode(0o1770)));
        assert_eq!(tmpfs("/t:ro"), Ok(Mount::tmpfs("/t").read_only()));
        for word in ["/t:noexec", "/t:uid=1", "/t:mode=rwx", "/t:mode=77777", "/t:suid"] {
            assert!(tmpfs(word).is_err(), "{word}");
        }
    }
}
