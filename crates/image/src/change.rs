//! Changes of an image's config, written as in a Dockerfile: `docker import --change`.

use std::str::FromStr;

use crate::config::ImageConfig;
use crate::error::{Error, shortened};

/// One change of an image's config: `CMD ["sh"]`, `ENV A=1 B="two words"`, `USER app`.
///
/// Known are CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR, in any case. No variable is replaced.
///
/// ```
/// use coracle_image::Change;
///
/// let change: Change = "EXPOSE 80 53/udp".parse()?;
/// assert!("RUN make".parse::<Change>().is_err());
/// # Ok::<(), coracle_image::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Cmd(Vec<String>),
    Entrypoint(Vec<String>),
    Env(Vec<(String, String)>),
    Expose(Vec<String>),
    Label(Vec<(String, String)>),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    WorkingDir(String),
}

impl FromStr for Change {
    type Err = Error;

    fn from_str(text: &str) -> Result<Change, Error> {
        parse(text.trim()).map(Change).map_err(|why| Error::Change { change: shortened(text), why })
    }
}

impl Change {
    /// Makes it.
    pub(crate) fn apply(self, config: &mut ImageConfig) {
        match self.0 {
            Kind::Cmd(words) => config.cmd = words,
            Kind::Entrypoint(words) => config.entrypoint = words,
            Kind::Env(pairs) => {
                for (key, value) in pairs {
                    let name = format!("{key}=");
                    let new = format!("{key}={value}");
                    match config.env.iter_mut().find(|variable| variable.starts_with(&name)) {
                        Some(variable) => *variable = new,
                        None => config.env.push(new),
                    }
                }
            }
            Kind::Expose(ports) => config.exposed_ports.extend(ports),
            Kind::Label(pairs) => config.labels.extend(pairs),
            Kind::StopSignal(signal) => config.stop_signal = Some(signal),
            Kind::User(user) => config.user = Some(user),
            Kind::Volume(paths) => config.volumes.extend(paths),
            Kind::WorkingDir(path) if path.starts_with('/') => config.working_dir = Some(path),
            // Below the one before, as in a Dockerfile.
            Kind::WorkingDir(path) => {
                let before = config.working_dir.take().unwrap_or_default();
                config.working_dir = Some(format!("{}/{path}", before.trim_end_matches('/')));
            }
        }
    }
}

fn parse(text: &str) -> Result<Kind, String> {
    let (word, rest) = text.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((text, ""));
    let rest = rest.trim();
    let word = word.to_ascii_uppercase();
    if rest.is_empty() && !word.is_empty() {
        return Err(format!("nothing follows {word}"));
    }
    let one = || match rest.split_ascii_whitespace().count() {
        1 => Ok(rest.to_owned()),
        _ => Err(format!("{word} takes one word")),
    };
    match word.as_str() {
        "CMD" => Ok(Kind::Cmd(command(rest)?)),
        "ENTRYPOINT" => Ok(Kind::Entrypoint(command(rest)?)),
        "ENV" => Ok(Kind::Env(pairs(rest)?)),
        "LABEL" => Ok(Kind::Label(pairs(rest)?)),
        "EXPOSE" => Ok(Kind::Expose(rest.split_ascii_whitespace().map(port).collect::<Result<_, _>>()?)),
        "STOPSIGNAL" => Ok(Kind::StopSignal(one()?)),
        "USER" => Ok(Kind::User(one()?)),
        "VOLUME" if rest.starts_with('[') => Ok(Kind::Volume(array(rest)?)),
        "VOLUME" => Ok(Kind::Volume(rest.split_ascii_whitespace().map(str::to_owned).collect())),
        "WORKDIR" => Ok(Kind::WorkingDir(rest.to_owned())),
        "" => Err("it is empty".into()),
        word => Err(format!("{word} isn't known")),
    }
}

/// `["exec", "form"]`, or a line for the shell.
fn command(rest: &str) -> Result<Vec<String>, String> {
    if rest.starts_with('[')
        && let Ok(words) = array(rest)
    {
        return Ok(words);
    }
    // Docker, too, takes what isn't such an array for a line of shell.
    Ok(["/bin/sh", "-c", rest].map(str::to_owned).to_vec())
}

fn array(rest: &str) -> Result<Vec<String>, String> {
    serde_json::from_str(rest).map_err(|_| format!("{rest} isn't a JSON array of strings"))
}

/// `80`, `80/udp`, `8000-8002/tcp`.
fn port(text: &str) -> Result<String, String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let range = match ports.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
        None => number(ports).is_some(),
    };
    match range && matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        true => Ok(format!("{ports}/{protocol}")),
        false => Err(format!("{text} isn't a port: 80, 80/udp, 8000-8002/tcp")),
    }
}

/// `KEY=VALUE KEY="a value"…`, or `KEY the rest of the line`.
fn pairs(rest: &str) -> Result<Vec<(String, String)>, String> {
    let first = rest.split_ascii_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        return match rest.split_once(|c: char| c.is_ascii_whitespace()) {
            Some((key, value)) => Ok(vec![(key.to_owned(), value.trim_start().to_owned())]),
            None => Err(format!("{first} has no value")),
        };
    }
    let mut pairs = Vec::new();
    for word in words(rest)? {
        match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => pairs.push((key.to_owned(), value.to_owned())),
            _ => return Err(format!("{word} isn't KEY=VALUE")),
        }
    }
    Ok(pairs)
}

/// Words as a Dockerfile has them: quotes hold together, a backslash takes the next character as it is.
fn words(rest: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = rest.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(characters.next()),
            (c, None) if c.is_ascii_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match quote {
        None => Ok(words),
        Some(open) => Err(format!("a {open} isn't closed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(changes: &[&str]) -> ImageConfig {
        let mut config = ImageConfig::parse(b"{}").unwrap();
        for change in changes {
            change.parse::<Change>().unwrap_or_else(|e| panic!("{e}")).apply(&mut config);
        }
        config
    }

    #[test]
    fn changes_read_as_in_a_dockerfile() {
        let config = after(&[
            r#"CMD ["sh", "-c", "echo hi"]"#,
            "entrypoint exec top -b",
            r#"ENV A=1 B="two words" C=a\ b D='x"y'"#,
            "ENV A=2",
            "ENV OLD the whole  line",
            "WORKDIR /srv",
            "WORKDIR app",
            "USER app:app",
            "EXPOSE 80 53/UDP 8000-8002",
            r#"LABEL a="b c" d=e"#,
            "STOPSIGNAL SIGINT",
            r#"VOLUME ["/data"]"#,
        ]);
        assert_eq!(config.cmd, ["sh", "-c", "echo hi"]);
        assert_eq!(config.entrypoint, ["/bin/sh", "-c", "exec top -b"]);
        assert_eq!(config.env, ["A=2", "B=two words", "C=a b", "D=x\"y", "OLD=the whole  line"]);
        assert_eq!((config.working_dir.as_deref(), config.user.as_deref()), (Some("/srv/app"), Some("app:app")));
        assert_eq!(config.exposed_ports.iter().collect::<Vec<_>>(), ["53/udp", "80/tcp", "8000-8002/tcp"]);
        assert_eq!((config.labels["a"].as_str(), config.labels["d"].as_str()), ("b c", "e"));
        assert_eq!((config.stop_signal.as_deref(), config.volumes.contains("/data")), (Some("SIGINT"), true));
    }

    #[test]
    fn what_isnt_a_change_says_why() {
        for (text, why) in [
            ("", "it is empty"),
            ("RUN make", "RUN isn't known"),
            ("CMD", "nothing follows CMD"),
            ("ENV A", "A has no value"),
            ("ENV A=1 B", "B isn't KEY=VALUE"),
            ("ENV A=\"1", "a \" isn't closed"),
            ("EXPOSE http", "http isn't a port: 80, 80/udp, 8000-8002/tcp"),
            ("EXPOSE 9-8", "9-8 isn't a port: 80, 80/udp, 8000-8002/tcp"),
            ("USER a b", "USER takes one word"),
            ("VOLUME [/a]", "[/a] isn't a JSON array of strings"),
        ] {
            let error = text.parse::<Change>().unwrap_err().to_string();
            assert_eq!(error, format!("can't make the change {text:?}: {why}"));
        }
    }
}
