//! How the first process tells its supervisor what became of it.

use crate::failure::Failure;
use crate::system_call::{Errno, Fd, send_message};
use crate::text::Buffer;
use crate::wire::{Field, Out, Report};

impl<const N: usize> Out for Buffer<N> {
    fn put(&mut self, bytes: &[u8]) {
        self.push(bytes);
    }
}

/// One message. Nobody is left to tell if it can't be sent. It goes without its descriptors where this user has more of them on the way
/// than the process may have open (unix(7), ETOOMANYREFS), whoever sent those: the supervisor can do without.
pub fn send(to: Fd, report: &Report<'_>, fds: &[Fd]) {
    let mut bytes = Buffer::<1024>::new();
    report.put(&mut bytes);
    if send_message(to, bytes.as_slice(), &[], fds, true) == Err(Errno::ETOOMANYREFS) {
        let _ = send_message(to, bytes.as_slice(), &[], &[], true);
    }
}

pub fn failure(to: Fd, failure: &Failure) {
    let Failure { stage, index, fault } = failure;
    let report = Report::Failed { stage: *stage, index: *index, errno: fault.errno.0, cause: fault.cause, detail: fault.detail.as_slice() };
    send(to, &report, &[]);
}
