//! How much a layer may ask for before it is refused.

/// Bounds on what a layer may make the unpacker do. The defaults let through every real image known to us.
///
/// ```
/// use coracle_layers::Limits;
///
/// let mut limits = Limits::default();
/// limits.total_bytes = 10 << 30;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Entries of the archive, extended headers included. Default 10,000,000.
    pub entries: u64,
    /// Bytes of file contents, holes not counted. Default 1 TiB; a full disk ends the unpacking earlier.
    pub total_bytes: u64,
    /// Bytes of one file, holes included: what a copy of it would take. Default 16 TiB, the most that ext4 holds.
    pub file_bytes: u64,
    /// Bytes of one extended header (PAX) or long name (GNU). Default 1 MiB.
    pub extended_header_bytes: u64,
    /// Bytes of a path or link target. Default 4,095, which is also the most that the kernel takes.
    pub path_bytes: usize,
    /// Directories in each other. Default 1,024.
    pub depth: usize,
    /// Pieces of data of one sparse file. Default 1,000,000.
    pub sparse_segments: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            entries: 10_000_000,
            total_bytes: 1 << 40,
            file_bytes: 16 << 40,
            extended_header_bytes: 1 << 20,
            path_bytes: 4095,
            depth: 1024,
            sparse_segments: 1_000_000,
        }
    }
}
