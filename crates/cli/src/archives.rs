//! Images in files: `coracle save`, `load`, `import`.

use crate::arguments::{Import, Load, Save};
use crate::failure::{Failure, Fault};
use crate::progress::Meter;
use crate::table;
use std::fs::File;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

pub(crate) fn save(root: Option<PathBuf>, arguments: Save) -> Result<u8, Failure> {
    let failed = |error| Failure::from(error).code(1);
    if arguments.output.is_none() && std::io::stdout().is_terminal() {
        let fault = Fault::new("an archive isn't written to a terminal", "name a file with -o, or redirect standard output");
        return Err(Failure::from(vec![fault]).code(1));
    }
    let engine = crate::engine(root).map_err(failed)?;
    crate::block_on(async {
        let saved = match arguments.output {
            Some(path) => engine.save_images(&arguments.images, path).await,
            None => engine.save_images_to(&arguments.images, std::io::stdout(), "standard output").await,
        };
        saved.map_err(failed)
    })?;
    Ok(0)
}

pub(crate) fn load(root: Option<PathBuf>, arguments: Load) -> Result<u8, Failure> {
    let failed = |error| Failure::from(error).code(1);
    if arguments.input.is_none() && std::io::stdin().is_terminal() {
        let fault = Fault::new("no archive comes from a terminal", "name a file with -i, or redirect standard input");
        return Err(Failure::from(vec![fault]).code(1));
    }
    let engine = crate::engine(root).map_err(failed)?;
    // Lines for a log would say that something is pulled.
    let meter = Meter::new(arguments.quiet || !std::io::stderr().is_terminal());
    let images = crate::block_on(async {
        let loaded = match arguments.input {
            Some(path) => engine.load_images(path, meter.callback()).await,
            None => engine.load_images_from(std::io::stdin(), "standard input", meter.callback()).await,
        };
        drop(meter);
        loaded.map_err(failed)
    })?;
    let line = |image: &coracle_container::ImageSummary| match image.reference.split_once('@') {
        // It has no name but its digest.
        Some(_) => format!("Loaded image ID: {}\n", image.id),
        None => format!("Loaded image: {}\n", image.reference),
    };
    table::print(&images.iter().map(line).collect::<String>())?;
    Ok(0)
}

pub(crate) fn import(root: Option<PathBuf>, arguments: Import) -> Result<u8, Failure> {
    let failed = |error| Failure::from(error).code(1);
    let Import { change, message, file, name } = arguments;
    let engine = crate::engine(root).map_err(failed)?;
    let image = crate::block_on(async {
        if file == Path::new("-") {
            return engine.import_image(std::io::stdin(), "standard input", &name, &change, message).await.map_err(failed);
        }
        let shown = file.display().to_string();
        if ["http://", "https://"].iter().any(|scheme| shown.starts_with(scheme)) {
            let fault = Fault::new(format!("{shown} isn't fetched"), format!("curl -L {shown} | coracle import - NAME"));
            return Err(Failure::from(vec![fault]).code(1));
        }
        let source = File::open(&file).map_err(|error| Failure::new(format!("can't open {shown}: {error}")).code(1))?;
        engine.import_image(source, shown, &name, &change, message).await.map_err(failed)
    })?;
    table::print(&format!("{}\n", image.id))?;
    Ok(0)
}
