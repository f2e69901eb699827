//! What bytes are compressed by, told by the bytes themselves and never by a name.

use std::io::{self, BufRead, Read};

/// The log2 of the largest zstd window that is taken: 128 MiB, what zstd(1) itself takes without `--long`.
const ZSTD_WINDOW_LOG: u32 = 27;

/// How something is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    No,
    Gzip,
    Zstd,
}

impl Compression {
    /// Looks at the first bytes, at least six where there are so many.
    ///
    /// # Errors
    /// The name of a kind that isn't taken.
    pub(crate) fn of(head: &[u8]) -> Result<Compression, &'static str> {
        Ok(match head {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return Err("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => return Err("bzip2"),
            _ => Compression::No,
        })
    }

    /// The media type of a layer.
    pub(crate) fn layer(self) -> &'static str {
        match self {
            Compression::No => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// Reads what is compressed; cut off or followed by something else it is an error.
    pub(crate) fn inflate<'a>(self, source: impl BufRead + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Compression::No => Box::new(source),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }
}
