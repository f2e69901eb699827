//! Writes archives by hand, byte by byte, as no decent program would.

/// An archive that grows.
#[derive(Clone, Default)]
pub(crate) struct Archive(pub(crate) Vec<u8>);

/// One header and its data.
#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) header: [u8; 512],
    pub(crate) data: Vec<u8>,
    /// The checksum stays as it is.
    pub(crate) broken: bool,
}

impl Item {
    pub(crate) fn new(kind: u8, name: impl AsRef<[u8]>) -> Item {
        let mut item = Item { header: [0; 512], data: Vec::new(), broken: false };
        let name = name.as_ref();
        assert!(name.len() <= 100, "use a long name");
        item.header[..name.len()].copy_from_slice(name);
        item.header[156] = kind;
        item.header[257..265].copy_from_slice(b"ustar\x0000");
        let mode = if kind == b'5' { 0o755 } else { 0o644 };
        item.mode(mode).uid(0).gid(0).mtime(1_000_000_000).size(0)
    }

    pub(crate) fn field(mut self, at: usize, bytes: &[u8]) -> Item {
        self.header[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn mode(self, mode: u32) -> Item {
        self.field(100, format!("{mode:07o}\0").as_bytes())
    }

    pub(crate) fn uid(self, uid: u32) -> Item {
        self.field(108, format!("{uid:07o}\0").as_bytes())
    }

    pub(crate) fn gid(self, gid: u32) -> Item {
        self.field(116, format!("{gid:07o}\0").as_bytes())
    }

    pub(crate) fn size(self, size: u64) -> Item {
        self.field(124, format!("{size:011o}\0").as_bytes())
    }

    pub(crate) fn mtime(self, seconds: u64) -> Item {
        self.field(136, format!("{seconds:011o}\0").as_bytes())
    }

    pub(crate) fn link(self, target: impl AsRef<[u8]>) -> Item {
        self.field(157, target.as_ref())
    }

    pub(crate) fn device(self, major: u32, minor: u32) -> Item {
        self.field(329, format!("{major:07o}\0").as_bytes()).field(337, format!("{minor:07o}\0").as_bytes())
    }

    pub(crate) fn gnu(self) -> Item {
        self.field(257, b"ustar  \0")
    }

    pub(crate) fn data(mut self, data: impl AsRef<[u8]>) -> Item {
        self.data = data.as_ref().to_vec();
        let size = self.data.len() as u64;
        self.size(size)
    }

    pub(crate) fn bytes(mut self) -> Vec<u8> {
        if !self.broken {
            self.header[148..156].copy_from_slice(b"        ");
            let sum: u32 = self.header.iter().map(|byte| u32::from(*byte)).sum();
            self.header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let mut bytes = self.header.to_vec();
        bytes.extend_from_slice(&self.data);
        bytes.resize(bytes.len().div_ceil(512) * 512, 0);
        bytes
    }
}

impl Archive {
    pub(crate) fn new() -> Archive {
        Archive::default()
    }

    pub(crate) fn item(mut self, item: Item) -> Archive {
        self.0.extend(item.bytes());
        self
    }

    pub(crate) fn file(self, name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Archive {
        self.item(Item::new(b'0', name).data(data))
    }

    pub(crate) fn dir(self, name: impl AsRef<[u8]>, mode: u32) -> Archive {
        self.item(Item::new(b'5', name).mode(mode))
    }

    pub(crate) fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Archive {
        self.item(Item::new(b'2', name).link(target))
    }

    pub(crate) fn hardlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Archive {
        self.item(Item::new(b'1', name).link(target))
    }

    /// An extended header with these records.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Archive {
        self.raw_pax(b'x', &pax_records(records))
    }

    pub(crate) fn raw_pax(self, kind: u8, bytes: &[u8]) -> Archive {
        self.item(Item::new(kind, "pax").data(bytes))
    }

    /// GNU's long name (`L`) or link target (`K`).
    pub(crate) fn long(self, kind: u8, name: &[u8]) -> Archive {
        self.item(Item::new(kind, "././@LongLink").gnu().data([name, b"\0"].concat()))
    }

    /// The whole archive.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

pub(crate) fn pax_records(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        bytes.extend(format!("{length} {key}=").into_bytes());
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
    }
    bytes
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
