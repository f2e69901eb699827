//! What went wrong, where, and what the kernel or a helper said of it.

use crate::system_call::{Errno, Fd, read};
use crate::text::Buffer;
use crate::wire::cause;

/// Bytes of a detail; names and kernel messages are shorter.
pub type Detail = Buffer<512>;

/// A failure within one step.
#[derive(Clone)]
pub struct Fault {
    pub errno: Errno,
    pub cause: u8,
    pub detail: Detail,
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self { errno, cause: cause::ERRNO, detail: Detail::new() }
    }
}

impl Fault {
    pub fn new(errno: Errno, cause: u8, detail: &[u8]) -> Self {
        let mut fault = Self::from(errno);
        fault.cause = cause;
        fault.detail.push(detail);
        fault
    }

    /// With what the kernel left in a descriptor of fsopen(2): lines that begin with `e `.
    pub fn from_context(errno: Errno, context: Fd) -> Self {
        let mut line = [0; 256];
        let mut fault = Self::from(errno);
        while let Ok(n @ 3..) = read(context, &mut line) {
            if line.starts_with(b"e ") {
                fault.cause = cause::KERNEL_SAYS;
                fault.detail.clear();
                fault.detail.push(line[2..n].trim_ascii_end());
            }
        }
        fault
    }
}

/// A fault and its place in the plan.
#[derive(Clone)]
pub struct Failure {
    pub stage: u8,
    pub index: u32,
    pub fault: Fault,
}
