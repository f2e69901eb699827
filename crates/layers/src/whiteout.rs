//! What a layer removes: whiteouts, from the archive's form to overlay's.
//!
//! In an archive an empty file `.wh.NAME` hides NAME of the layers below, and `.wh..wh..opq` hides all that the layers below have in
//! its directory (OCI image-spec, layer.md, "Whiteouts"). On disk, overlay wants a character device 0:0 in the place of NAME, and the
//! attribute `overlay.opaque` on the directory (Linux, Documentation/filesystems/overlayfs.rst).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// In which namespace overlay's attributes are written: an overlay mount reads only one of them.
///
/// It's kept with the store. Layers of one flavour mounted as the other would show files that were deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Flavour {
    /// `trusted.overlay.*`: for overlays that root mounts.
    Trusted,
    /// `user.overlay.*`: for overlays mounted with `userxattr` in a user namespace (Linux 5.11).
    User,
}

impl Flavour {
    /// What overlay's own attributes begin with.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Flavour::Trusted => "trusted.overlay.",
            Flavour::User => "user.overlay.",
        }
    }

    /// The attribute that makes a directory opaque.
    pub fn opaque(self) -> &'static str {
        match self {
            Flavour::Trusted => "trusted.overlay.opaque",
            Flavour::User => "user.overlay.opaque",
        }
    }
}

/// Attributes that mean something to overlay in either flavour. From a stranger they could hide files or redirect to others, so they
/// never reach the disk.
pub(crate) fn is_overlay_attribute(name: &[u8]) -> bool {
    [&b"trusted.overlay."[..], b"user.overlay."].iter().any(|prefix| name.starts_with(prefix))
        || name == b"trusted.overlay"
        || name == b"user.overlay"
}

/// What the path of an entry says about whiteouts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mark<'a> {
    /// Nothing: an ordinary entry.
    None,
    /// The directory hides all below it.
    Opaque,
    /// This name in the directory is hidden.
    Hide(&'a [u8]),
    /// Left over from aufs, without meaning today.
    Ignored,
}

const PREFIX: &[u8] = b".wh.";

/// Reads the components of a path.
pub(crate) fn mark<'a>(components: &[&'a [u8]]) -> Result<Mark<'a>, Cow<'static, str>> {
    let Some((last, parents)) = components.split_last() else {
        return Ok(Mark::None);
    };
    if components.iter().any(|name| name.starts_with(b".wh..wh.") && *name != b".wh..wh..opq") {
        return Ok(Mark::Ignored);
    }
    if parents.iter().any(|name| name.starts_with(PREFIX)) {
        return Err("something stands below a whiteout".into());
    }
    if *last == b".wh..wh..opq" {
        return Ok(Mark::Opaque);
    }
    match last.strip_prefix(PREFIX) {
        None => Ok(Mark::None),
        Some(b"" | b"." | b"..") => Err("a whiteout of no name".into()),
        Some(name) => Ok(Mark::Hide(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_hidden() {
        fn check(path: &str, expected: Result<Mark<'_>, ()>) {
            let components: Vec<&[u8]> = path.split('/').map(str::as_bytes).collect();
            assert_eq!(mark(&components).map_err(drop), expected, "{path}");
        }
        check("a/b", Ok(Mark::None));
        check("a/.wh", Ok(Mark::None));
        check("a/x.wh.b", Ok(Mark::None));
        check("a/.wh.b", Ok(Mark::Hide(b"b")));
        check(".wh.b", Ok(Mark::Hide(b"b")));
        check("a/.wh..b", Ok(Mark::Hide(b".b")));
        check("a/.wh....", Ok(Mark::Hide(b"...")));
        check("a/.wh..wh..opq", Ok(Mark::Opaque));
        check(".wh..wh..opq", Ok(Mark::Opaque));
        check(".wh..wh.plnk", Ok(Mark::Ignored));
        check(".wh..wh.plnk/12.34", Ok(Mark::Ignored));
        check(".wh..wh.aufs", Ok(Mark::Ignored));
        check(".wh..wh..opq/x", Err(()));
        check("a/.wh.", Err(()));
        check("a/.wh..", Err(()));
        check("a/.wh...", Err(()));
        check(".wh.d/file", Err(()));
    }

    #[test]
    fn overlays_own_attributes_are_known_in_both_flavours() {
        for (name, is) in [
            ("trusted.overlay.opaque", true),
            ("user.overlay.redirect", true),
            ("user.overlay", true),
            ("trusted.overlay.overlay.opaque", true),
            ("user.overlayish", false),
            ("user.mime_type", false),
        ] {
            assert_eq!(is_overlay_attribute(name.as_bytes()), is, "{name}");
        }
    }
}
