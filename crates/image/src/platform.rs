//! What a program in an image was built for: `linux/amd64`, `linux/arm/v7` (OCI image-spec, image-index.md, "platform").

use std::fmt;
use std::str::FromStr;

use crate::error::shortened;

/// An operating system, an architecture and its variant, in Go's words as OCI has them.
///
/// A version of the operating system stands behind it, as containerd writes it: `windows(10.0.17763)/amd64`. An image without one fits
/// who wants none.
///
/// Spellings are made one: `x86_64` is `amd64`, `aarch64` and `arm64/v8` are `arm64`, `arm` is `arm/v7`.
///
/// ```
/// use coracle_image::Platform;
///
/// let platform: Platform = "linux/arm64/v8".parse()?;
/// assert_eq!(platform.to_string(), "linux/arm64");
/// # Ok::<(), coracle_image::ParsePlatformError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
    os_version: Option<String>,
}

impl Platform {
    /// A platform by its parts; empty parts, and parts with other characters than letters, digits, `.`, `_` and `-`, become
    /// `unknown`, the word that registries use for what isn't to be run.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        let word = |text: &str| match is_word(text) {
            true => text.to_ascii_lowercase(),
            false => "unknown".to_owned(),
        };
        let (os, architecture) = (word(os), word(architecture));
        let variant = variant.filter(|v| !v.is_empty()).map(word);
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64", None),
            ("aarch64", variant) => ("arm64", variant),
            ("i386" | "i486" | "i586" | "i686" | "x86", variant) => ("386", variant),
            ("armhf", _) | ("arm", None | Some("7")) => ("arm", Some("v7")),
            ("armel", _) | ("arm", Some("6")) => ("arm", Some("v6")),
            ("arm", Some("5")) => ("arm", Some("v5")),
            (architecture, variant) => (architecture, variant),
        };
        Platform { os, architecture: architecture.to_owned(), variant: variant.map(str::to_owned), os_version: None }
    }

    /// The platform that this program was built for.
    pub fn host() -> Platform {
        Platform::new(std::env::consts::OS, std::env::consts::ARCH, None)
    }

    /// The same, of one version of the operating system: `10.0.17763` of Windows. What can't be one is left out.
    #[must_use]
    pub fn with_os_version(self, version: &str) -> Platform {
        Platform { os_version: is_word(version).then(|| version.to_owned()), ..self }
    }

    /// The version of the operating system, where one is wanted or was said.
    pub fn os_version(&self) -> Option<&str> {
        self.os_version.as_deref()
    }

    /// The operating system, `linux`.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// The architecture in Go's words, `amd64`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The variant of the architecture, `v7` of `arm`; none where the architecture has a usual one.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// Whether a program for `other` runs on this platform: the same one, or an older variant of it.
    pub fn runs(&self, other: &Platform) -> bool {
        self.distance(other).is_some()
    }

    /// How far `other` is from this platform; 0 is the same, more is an older variant.
    pub(crate) fn distance(&self, other: &Platform) -> Option<u32> {
        if self.os != other.os || self.architecture != other.architecture {
            return None;
        }
        // 10.0.17763 is any build of it.
        if let Some(wanted) = self.os_version()
            && !other.os_version().and_then(|found| found.strip_prefix(wanted)).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        {
            return None;
        }
        match (self.level(), other.level()) {
            (Some(own), Some(theirs)) => own.checked_sub(theirs),
            _ => (self.variant == other.variant).then_some(0),
        }
    }

    /// The variant as a number that grows, of the architectures whose newer variants run the programs of older ones.
    fn level(&self) -> Option<u32> {
        let usual = match self.architecture.as_str() {
            "amd64" => "v1",
            "arm64" => "v8",
            "arm" => "v7",
            _ => return None,
        };
        let number = self.variant.as_deref().unwrap_or(usual).strip_prefix('v')?;
        let (major, minor) = number.split_once('.').unwrap_or((number, "0"));
        let (major, minor): (u16, u16) = (major.parse().ok()?, minor.parse().ok()?);
        Some(u32::from(major) << 16 | u32::from(minor))
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_' || b == b'-')
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.os)?;
        if let Some(version) = &self.os_version {
            write!(f, "({version})")?;
        }
        write!(f, "/{}", self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Platform, ParsePlatformError> {
        let mut parts: Vec<&str> = text.split('/').collect();
        let mut version = None;
        if let Some((os, rest)) = parts[0].split_once('(') {
            // What isn't a word is refused below.
            version = Some(rest.strip_suffix(')').filter(|v| is_word(v)).unwrap_or_default());
            parts[0] = os;
        }
        let platform = match parts.as_slice() {
            _ if version == Some("") => None,
            [os, architecture] if is_word(os) && is_word(architecture) => Some(Platform::new(os, architecture, None)),
            [os, architecture, variant] if parts.iter().all(|p| is_word(p)) => Some(Platform::new(os, architecture, Some(variant))),
            _ => None,
        };
        let platform = platform.map(|platform| match version {
            Some(version) => platform.with_os_version(version),
            None => platform,
        });
        platform.ok_or_else(|| ParsePlatformError { text: shortened(text) })
    }
}

/// Why a text isn't a [`Platform`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} isn't a platform: it has the form os/architecture or os/architecture/variant, as linux/arm64")]
pub struct ParsePlatformError {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_platform_are_one() {
        let cases = [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i386", "linux/386"),
            ("windows/amd64", "windows/amd64"),
            ("Windows(10.0.17763)/x86_64", "windows(10.0.17763)/amd64"),
        ];
        for (text, shown) in cases {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), shown, "{text}");
            assert_eq!(shown.parse::<Platform>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "linux//v8",
            "a/b/c/d",
            "linux/am d64",
            "linux/a\u{1b}[2J",
            "windows()/amd64",
            "windows(10/amd64",
            "windows(1)x/amd64",
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn newer_variants_run_older_programs_only() {
        let cases = [
            ("linux/amd64", "linux/amd64", Some(true)),
            ("linux/amd64", "linux/amd64/v2", None),
            ("linux/amd64/v3", "linux/amd64", Some(false)),
            ("linux/arm/v7", "linux/arm/v6", Some(false)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/arm64", "linux/arm/v7", None),
            ("linux/arm64/v8.2", "linux/arm64", Some(false)),
            ("linux/amd64", "windows/amd64", None),
            ("linux/s390x", "linux/s390x", Some(true)),
            ("windows/amd64", "windows(10.0.17763.1)/amd64", Some(true)),
            ("windows(10.0.17763)/amd64", "windows(10.0.17763.1)/amd64", Some(true)),
            ("windows(10.0.17763)/amd64", "windows(10.0.177631)/amd64", None),
            ("windows(10.0.17763)/amd64", "windows/amd64", None),
        ];
        for (host, image, expected) in cases {
            let (host, image): (Platform, Platform) = (host.parse().unwrap(), image.parse().unwrap());
            assert_eq!(host.distance(&image).map(|d| d == 0), expected, "{image} on {host}");
        }
    }

    #[test]
    fn a_strangers_words_cannot_reach_a_terminal() {
        assert_eq!(Platform::new("linux\u{1b}]0;x", "", None).to_string(), "unknown/unknown");
    }
}
