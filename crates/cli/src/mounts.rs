//! Mounts as docker-run(1) writes them: `--volume`, `--mount`, `--tmpfs`.
//!
//! What can't be had is refused and never passed over: somebody who writes `noexec` relies on it.

use crate::failure::Fault;
use coracle_container::Mount;

/// `SOURCE:TARGET[:OPTIONS]`
pub(crate) fn volume(word: &str) -> Result<Mount, Fault> {
    let bad = |why: &str| Fault::new(format!("--volume {word}: {why}"), "write SOURCE:TARGET or SOURCE:TARGET:ro, with paths");
    let mut parts = word.split(':');
    let (source, target, options) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(source), Some(target), options, None) => (source, target, options.unwrap_or("rw")),
        (Some(target), None, ..) if target.starts_with('/') => {
            let what = format!("--volume {word}: there are no volumes without a source yet");
            return Err(Fault::new(what, format!("--tmpfs {target} for an empty directory in memory")));
        }
        _ => return Err(bad("it isn't of that form")),
    };
    if source.is_empty() || target.is_empty() {
        return Err(bad("a path is empty"));
    }
    // Docker takes a bare word as the name of a volume; taking it as a path here would do something else silently.
    if !source.starts_with(['/', '.']) {
        let what = format!("--volume {word}: there are no volumes by name yet");
        return Err(Fault::new(what, format!("for a directory of this machine write a path: ./{source}")));
    }
    let mut mount = Mount::bind(source, target);
    for option in options.split(',') {
        match option {
            "rw" | "rprivate" => {}
            "ro" => mount = mount.read_only(),
            option => return Err(bad(&format!("the option {option:?} can't be had here"))),
        }
    }
    Ok(mount)
}

/// `type=bind,src=..,dst=..,readonly`, `type=tmpfs,dst=..,tmpfs-size=..,tmpfs-mode=..`
pub(crate) fn mount(word: &str) -> Result<Mount, Fault> {
    const FORM: &str = "write type=bind,src=PATH,dst=PATH[,readonly] or type=tmpfs,dst=PATH[,tmpfs-size=SIZE][,tmpfs-mode=OCTAL]";
    let bad = |why: String| Fault::new(format!("--mount {word}: {why}"), FORM);
    let (mut kind, mut source, mut target, mut read_only, mut size, mut mode) = (None, None, None, false, None, None);
    for field in fields(word).ok_or_else(|| bad("a quote isn't closed".into()))? {
        let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value.to_owned())));
        let needed = || value.clone().filter(|v| !v.is_empty()).ok_or_else(|| bad(format!("{key} has no value")));
        match key.to_ascii_lowercase().as_str() {
            "type" => kind = Some(needed()?),
            "src" | "source" => source = Some(needed()?),
            "dst" | "destination" | "target" => target = Some(needed()?),
            "readonly" | "ro" => {
                read_only = match value.as_deref() {
                    None | Some("true" | "1") => true,
                    Some("false" | "0") => false,
                    Some(other) => return Err(bad(format!("{key}={other} is neither true nor false"))),
                }
            }
            "tmpfs-size" => size = Some(needed()?),
            "tmpfs-mode" => mode = Some(octal(&needed()?).ok_or_else(|| bad("tmpfs-mode isn't an octal number up to 7777".into()))?),
            "bind-propagation" if value.as_deref() == Some("rprivate") => {}
            _ => return Err(bad(format!("{field:?} can't be had here"))),
        }
    }
    let target = target.ok_or_else(|| bad("dst is missing".into()))?;
    let mount = match kind.as_deref() {
        Some("bind") if size.is_some() || mode.is_some() => return Err(bad("a bind mount has no tmpfs-size and no tmpfs-mode".into())),
        Some("bind") => Mount::bind(source.ok_or_else(|| bad("src is missing".into()))?, target),
        Some("tmpfs") if source.is_some() => return Err(bad("a tmpfs has no src".into())),
        Some("tmpfs") => tmpfs_of(target, size, mode),
        Some(other) => return Err(bad(format!("there are no mounts of type {other} yet"))),
        // Docker's is volume, which there isn't yet.
        None => return Err(bad("type is missing".into())),
    };
    Ok(if read_only { mount.read_only() } else { mount })
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
        for word in ["", ":", "/a:", ":/b", "/a:/b:ro:ro", "name:/b", "/b", "/a:/b:z", "/a:/b:noexec", "/a:/b:rshared", "/a:/b:"] {
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
        good("type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=0700", Mount::tmpfs("/t").size("64m").mode(0o700));
        for word in [
            "",
            "src=/a,dst=/b",
            "type=volume,src=a,dst=/b",
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
