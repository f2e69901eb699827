//! Images that are here: `coracle pull`, `push`, `images`, `inspect`, `tag`, `rmi`, `prune`, `check`.

use crate::arguments::{Check, Format, Inspect, List, Prune, Pull, Push, Remove, Tag};
use crate::containers;
use crate::failure::Failure;
use crate::progress::Meter;
use crate::template::Style;
use crate::{json, table};
use coracle_container::{Platforms, Removed, SweptKind};
use indicatif::DecimalBytes;
use std::path::PathBuf;
use std::time::SystemTime;

pub(crate) fn pull(root: Option<PathBuf>, arguments: Pull) -> Result<u8, Failure> {
    let failed = |error| Failure::from(error).code(1);
    let engine = crate::engine(root).map_err(failed)?;
    let meter = Meter::new(arguments.quiet);
    let image = crate::block_on(async {
        let platforms = match arguments.platform {
            Some(platform) => Platforms::One(platform),
            None if arguments.all_platforms => Platforms::All,
            None => Platforms::Host,
        };
        let image = engine.pull_platforms(&arguments.image, platforms, meter.callback()).await;
        drop(meter);
        image.map_err(failed)
    })?;
    // With the digest behind a tag: it says what was had, and can be pulled again as it is.
    let name = image.reference.split('@').next().unwrap_or_default();
    table::print(&format!("{name}@{}\n", image.digest))?;
    Ok(0)
}

pub(crate) fn push(root: Option<PathBuf>, arguments: Push) -> Result<u8, Failure> {
    let failed = |error| Failure::from(error).code(1);
    let engine = crate::engine(root).map_err(failed)?;
    let meter = Meter::of_push(arguments.quiet);
    let digest = crate::block_on(async {
        let to = arguments.destination.as_deref();
        let digest = match arguments.all_platforms {
            true => engine.push_all_platforms(&arguments.image, to, meter.callback()).await,
            false => engine.push(&arguments.image, to, meter.callback()).await,
        };
        drop(meter);
        digest.map_err(failed)
    })?;
    let name = arguments.destination.as_deref().unwrap_or(&arguments.image);
    let name = name.split('@').next().unwrap_or_default();
    table::print(&format!("{name}@{digest}\n"))?;
    Ok(0)
}

pub(crate) fn list(root: Option<PathBuf>, arguments: &List) -> Result<u8, Failure> {
    let failed = |error| Failure::from(error).code(1);
    let images = crate::engine(root).and_then(|engine| engine.images()).map_err(failed)?;
    let digest = |digest: String| match (arguments.no_trunc, digest.split_once(':')) {
        (false, Some((_, hex))) => hex.chars().take(12).collect(),
        _ => digest,
    };
    let text = match arguments.format {
        _ if arguments.quiet => images.iter().map(|image| digest(image.digest.to_string()) + "\n").collect(),
        Format::Table => {
            let now = table::seconds(SystemTime::now());
            let rows: Vec<_> = images
                .iter()
                .map(|image| {
                    let (repository, tag) = split(&image.reference);
                    let created = image.created.as_deref().and_then(table::rfc3339);
                    [
                        repository.to_owned(),
                        tag.to_owned(),
                        digest(image.digest.to_string()),
                        image.platform.to_string(),
                        created.map_or("-".into(), |created| table::age(now.saturating_sub(created)) + " ago"),
                        DecimalBytes(image.size).to_string(),
                    ]
                })
                .collect();
            table::table(["REPOSITORY", "TAG", "DIGEST", "PLATFORM", "CREATED", "SIZE"], &rows)
        }
        Format::Json => images
            .iter()
            .map(|image| {
                let members = [
                    ("reference", json::string(&image.reference)),
                    ("digest", json::string(&image.digest.to_string())),
                    ("platform", json::string(&image.platform.to_string())),
                    ("size", image.size.to_string()),
                    ("created", image.created.as_deref().map_or("null".into(), json::string)),
                    ("id", json::string(&image.id.to_string())),
                ];
                json::object(members) + "\n"
            })
            .collect(),
    };
    table::print(&text)?;
    Ok(0)
}

pub(crate) fn inspect(root: Option<PathBuf>, arguments: &Inspect) -> Result<u8, Failure> {
    let failed = |error| Failure::from(error).code(1);
    let engine = crate::engine(root).map_err(failed)?;
    let style = Style::read(arguments.format.as_deref()).map_err(|fault| Failure::from(vec![fault]))?;
    let (mut found, mut code) = (Vec::new(), 0);
    for name in &arguments.images {
        let inspected = match containers::inspected(&engine, name) {
            Some(container) => container,
            None => engine.inspect_image(name).map(|inspection| serde_json::to_value(inspection).unwrap_or_default()),
        };
        match inspected {
            Ok(inspection) => found.push(inspection),
            Err(error) => code = failed(error).tell(),
        }
    }
    if let Style::Template(template) = style {
        for value in &found {
            table::print(&template.line(value).map_err(|fault| Failure::from(vec![fault]).code(1))?)?;
        }
        return Ok(code);
    }
    // What was found is printed, and what wasn't is said: docker-inspect(1) does so.
    let text = serde_json::to_string_pretty(&found).map_err(|error| Failure::new(format!("can't write JSON: {error}")).code(1))?;
    table::print(&(text + "\n"))?;
    Ok(code)
}

pub(crate) fn tag(root: Option<PathBuf>, arguments: &Tag) -> Result<u8, Failure> {
    let tagged = crate::engine(root).and_then(|engine| engine.tag_image(&arguments.source, &arguments.target));
    tagged.map_err(|error| Failure::from(error).code(1))?;
    Ok(0)
}

pub(crate) fn remove(root: Option<PathBuf>, arguments: &Remove) -> Result<u8, Failure> {
    let failed = |error| Failure::from(error).code(1);
    let engine = crate::engine(root).map_err(failed)?;
    let mut code = 0;
    for name in &arguments.images {
        match engine.remove_image(name, arguments.force) {
            Ok(removed) => table::print(&words(&removed, "Untagged", "Deleted"))?,
            Err(error) => code = failed(error).tell(),
        }
    }
    // Dropping the engine unlinks what was removed.
    drop(engine);
    Ok(code)
}

/// What was removed, a thing a line.
fn words(removed: &Removed, untagged: &str, deleted: &str) -> String {
    let names = removed.untagged.iter().map(|reference| format!("{untagged}: {}\n", reference.familiar()));
    let images = removed.deleted.iter().map(|digest| format!("{deleted}: {digest}\n"));
    let things = removed.swept.iter().filter_map(|swept| {
        let digest = swept.digest.as_ref()?;
        (swept.kind == SweptKind::Layer || swept.kind == SweptKind::Blob)
            .then_some(digest)
            .filter(|digest| !removed.deleted.contains(digest))
            .map(|digest| format!("{deleted}: {digest}\n"))
    });
    let mut lines: Vec<String> = names.chain(images).chain(things).collect();
    // A plain layer's blob and the layer have the same digest.
    let mut seen = std::collections::HashSet::new();
    lines.retain(|line| seen.insert(line.clone()));
    lines.concat()
}

pub(crate) fn prune(root: Option<PathBuf>, arguments: &Prune) -> Result<u8, Failure> {
    let failed = |error| Failure::from(error).code(1);
    let engine = crate::engine(root).map_err(failed)?;
    if !arguments.force {
        let what = if arguments.all { "all images that nobody uses" } else { "everything that no image needs" };
        if !crate::question::agreed(&format!("This removes {what}.")) {
            return Err(Failure::new("nothing was removed: the answer wasn't `y`".into()).code(1));
        }
    }
    let removed = engine.prune_images(arguments.all).map_err(failed)?;
    let list = words(&removed, "untagged", "deleted");
    let head = if list.is_empty() { "" } else { "Deleted Images:\n" };
    let gap = if list.is_empty() { "" } else { "\n" };
    table::print(&format!("{head}{list}{gap}Total reclaimed space: {}\n", DecimalBytes(removed.bytes())))?;
    drop(engine);
    Ok(0)
}

pub(crate) fn check(root: Option<PathBuf>, arguments: &Check) -> Result<u8, Failure> {
    let failed = |error| Failure::from(error).code(1);
    let engine = crate::engine(root).map_err(failed)?;
    let checked = crate::block_on(async { engine.check_images(arguments.repair).await.map_err(failed) })?;
    let mut text = String::new();
    let (mut wrong, mut left) = (0, 0);
    for fault in checked.layers.faults.iter().chain(&checked.store.faults) {
        wrong += 1;
        left += usize::from(!fault.repaired);
        let moved = if fault.repaired { " (moved away)" } else { "" };
        text += &format!("{} {}{moved}\n", table::plain(&fault.path.display().to_string()), table::plain(&fault.what));
    }
    let (store, layers) = (&checked.store, &checked.layers);
    text += &format!(
        "checked {} images, {} blobs of {}, {} layers with {} files: {wrong} faults\n",
        store.images,
        store.blobs,
        DecimalBytes(store.bytes),
        layers.layers,
        layers.files,
    );
    if layers.unread > 0 {
        text += &format!("{} files belong to other users of containers, and weren't read\n", layers.unread);
    }
    if layers.unrecorded > 0 {
        text += &format!("{} layers have no record: an older version unpacked them\n", layers.unrecorded);
    }
    table::print(&text)?;
    drop(engine);
    Ok(u8::from(left > 0))
}

/// A name's repository and tag.
fn split(reference: &str) -> (&str, &str) {
    let name = reference.split('@').next().unwrap_or_default();
    match name.rsplit_once(':') {
        // A colon before a slash is a registry's port.
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "-"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(split("debian:12"), ("debian", "12"));
        assert_eq!(split("localhost:5000/a/b:c"), ("localhost:5000/a/b", "c"));
        assert_eq!(split("localhost:5000/a@sha256:00"), ("localhost:5000/a", "-"));
    }
}
