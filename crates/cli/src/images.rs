//! `coracle pull`, `coracle push` and `coracle images`.

use crate::arguments::{Format, List, Pull, Push};
use crate::failure::Failure;
use crate::progress::Meter;
use crate::{json, table};
use indicatif::DecimalBytes;
use std::path::PathBuf;
use std::time::SystemTime;

pub(crate) fn pull(root: Option<PathBuf>, arguments: Pull) -> Result<u8, Failure> {
    let failed = |error| Failure::from(error).code(1);
    let engine = crate::engine(root).map_err(failed)?;
    let meter = Meter::new(arguments.quiet);
    let image = crate::block_on(async {
        let image = engine.pull(&arguments.image, meter.callback()).await;
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
        let digest = engine.push(&arguments.image, arguments.destination.as_deref(), meter.callback()).await;
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
                ];
                json::object(members) + "\n"
            })
            .collect(),
    };
    table::print(&text)?;
    Ok(0)
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
