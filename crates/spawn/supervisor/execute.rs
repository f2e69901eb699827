//! Turns a process into the command.

use crate::failure::Fault;
use crate::interpreter::{ENOUGH, interpreter};
use crate::prepare::Path;
use crate::system_call::{AT_FDCWD, Errno, Pointers, close, execve, open, openat2, read, resolve, set_signal_mask, setsid};
use crate::text::Buffer;
use crate::wire::{Command, cause};
use core::ffi::CStr;

/// A command with its strings laid out as execve(2) takes them.
pub struct Executable<'a> {
    program: &'a CStr,
    path: &'a CStr,
    session: bool,
    arguments: Pointers<'a>,
    environment: Pointers<'a>,
}

impl<'a> Executable<'a> {
    /// `home` is added where the environment has no HOME.
    pub fn new(command: &Command<'a>, home: Option<&'a CStr>) -> Result<Self, Errno> {
        let mut environment = Pointers::of(command.env.iter(), command.env.len() + 1)?;
        if let Some(home) = home.filter(|_| !command.env.iter().any(|e| e.to_bytes().starts_with(b"HOME="))) {
            environment.push(home)?;
        }
        Ok(Self {
            program: command.argv.iter().next().ok_or(Errno::EINVAL)?,
            path: command.path,
            session: command.session,
            arguments: Pointers::of(command.argv.iter(), command.argv.len())?,
            environment,
        })
    }

    /// execve(2); returns only what was wrong.
    pub fn execute(&self) -> Fault {
        set_signal_mask(0);
        if self.session {
            let _ = setsid();
        }
        if self.program.to_bytes().contains(&b'/') {
            return self.explain(execve(self.program, &self.arguments, &self.environment), self.program);
        }
        let mut denied = None;
        for directory in self.path.to_bytes().split(|&b| b == b':') {
            let mut candidate = self.candidate(directory);
            let Some(candidate) = candidate.as_c_str() else {
                continue;
            };
            match execve(candidate, &self.arguments, &self.environment) {
                Errno::ENOENT if exists(candidate) => {
                    return self.explain(Errno::ENOENT, candidate);
                }
                Errno::ENOENT | Errno::ENOTDIR => {}
                // Somebody further on may have it and let us.
                Errno::EACCES => denied = Some(Fault::new(Errno::EACCES, cause::ERRNO, candidate.to_bytes())),
                errno => return self.explain(errno, candidate),
            }
        }
        denied.unwrap_or_else(|| Errno::ENOENT.into())
    }

    fn candidate(&self, directory: &[u8]) -> Path {
        let mut candidate = Path::new();
        candidate.push(if directory.is_empty() { b"." } else { directory });
        candidate.push(b"/");
        candidate.push(self.program.to_bytes());
        candidate
    }

    /// What execve(2)'s number leaves open: whether it was the program or its interpreter that is missing.
    fn explain(&self, errno: Errno, program: &CStr) -> Fault {
        let mut head = [0; ENOUGH];
        let n = match openat2(AT_FDCWD, program, open::READ | open::NONBLOCK, 0, resolve::NO_MAGICLINKS) {
            Ok(f) => {
                let n = read(f, &mut head).unwrap_or(0);
                close(f);
                n
            }
            Err(_) => 0,
        };
        match interpreter(&head[..n]) {
            Some(name) if errno == Errno::ENOENT => Fault::new(errno, cause::MISSING_INTERPRETER, name),
            _ => Fault::new(errno, cause::ERRNO, program.to_bytes()),
        }
    }
}

fn exists(path: &CStr) -> bool {
    openat2(AT_FDCWD, path, open::PATH, 0, 0).map(close).is_ok()
}

/// `HOME=…` of a user.
pub fn home_variable(home: &[u8]) -> Buffer<1100> {
    let mut variable = Buffer::new();
    variable.push(b"HOME=");
    variable.push(home);
    variable
}
