//! Numbers and short strings without an allocator.

/// A number in decimal.
pub fn decimal(mut number: u64, into: &mut [u8; 10]) -> &[u8] {
    let mut at = into.len();
    loop {
        at -= 1;
        into[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 || at == 0 {
            break;
        }
    }
    &into[at..]
}

/// Bytes of a fixed size that are filled from the front; what doesn't fit is cut off and remembered.
#[derive(Clone)]
pub struct Buffer<const N: usize> {
    bytes: [u8; N],
    used: usize,
    full: bool,
}

impl<const N: usize> Buffer<N> {
    pub const fn new() -> Self {
        Self { bytes: [0; N], used: 0, full: false }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        let n = bytes.len().min(N - self.used);
        self.bytes[self.used..self.used + n].copy_from_slice(&bytes[..n]);
        self.used += n;
        self.full |= n < bytes.len();
    }

    pub fn push_number(&mut self, number: u64) {
        self.push(decimal(number, &mut [0; 10]));
    }

    pub fn clear(&mut self) {
        self.used = 0;
        self.full = false;
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    /// Whether something was cut off.
    pub fn overflowed(&self) -> bool {
        self.full
    }

    /// The bytes as a C string; `None` if they don't fit or hold a NUL.
    pub fn as_c_str(&mut self) -> Option<&core::ffi::CStr> {
        if self.full || self.used >= N {
            return None;
        }
        self.bytes[self.used] = 0;
        core::ffi::CStr::from_bytes_with_nul(&self.bytes[..=self.used]).ok()
    }
}
