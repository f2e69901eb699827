//! `cargo run --example unpack [LAYER]`, as any user: unpacks a layer (plain, gzip or zstd) into a temporary directory and lists it.
//! Without an argument it makes a small layer of its own.

use std::error::Error;
use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::Path;

use coracle_layers::{Options, Ownership, remove_tree, unpack};

fn main() -> Result<(), Box<dyn Error>> {
    let argument = std::env::args_os().nth(1);
    let layer: Box<dyn Read> = match &argument {
        Some(path) => Box::new(fs::File::open(path)?),
        None => Box::new(Cursor::new(small_layer()?)),
    };
    let home = std::env::temp_dir().join(format!("coracle-unpack-{}", std::process::id()));
    fs::create_dir(&home)?;
    let root = home.join("fs");
    // All files become ours, so that it works for everybody; root may say Options::root().
    let result = unpack(layer, &root, &Options::user(Ownership::Squash));
    let shown = result.map_err(Box::<dyn Error>::from).and_then(|report| {
        println!("{} entries, {} bytes in files, diffID {}", report.entries, report.file_bytes, report.diff_id);
        for skipped in &report.skipped {
            println!("not on disk: {} ({})", skipped.path, skipped.what);
        }
        list(&root, 0)?;
        if argument.is_none() && fs::read_to_string(root.join("etc/motd"))? != "hello from a layer\n" {
            return Err("the layer's file has other contents".into());
        }
        Ok(())
    });
    remove_tree(&home)?;
    shown
}

fn list(directory: &Path, depth: usize) -> std::io::Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let meta = entry.path().symlink_metadata()?;
        println!("{:indent$}{} ({} bytes)", "", entry.file_name().display(), meta.len(), indent = depth * 2);
        if meta.is_dir() {
            list(&entry.path(), depth + 1)?;
        }
    }
    Ok(())
}

/// A gzip layer with a file, a link and a whiteout.
fn small_layer() -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default()));
    let text = b"hello from a layer\n";
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(text.len() as u64);
    archive.append_data(&mut header, "etc/motd", &text[..])?;
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    archive.append_link(&mut header, "etc/issue", "motd")?;
    let mut header = tar::Header::new_ustar();
    header.set_size(0);
    archive.append_data(&mut header, "var/.wh.cache", &b""[..])?;
    let mut gzip = archive.into_inner()?;
    gzip.flush()?;
    gzip.finish()
}
