//! Turns a process into the command.

use crate::failure::Fault;
use crate::interpreter::{ENOUGH, interpreter};
use crate::prepare::Path;
use crate::system_call::{AT_FDCWD, Errno, Fd, Pointers, close, control_by, execve, open, openat2, read, resolve, set_signal_mask, setsid};
use crate::text::Buffer;
use crate::wire::{Command, Exec, cause};
use core::ffi::CStr;

/// A command with its strings laid out as execve(2) takes them.
pub struct Executable<'a> {
    program: &'a CStr,
    path: &'a CStr,
    session: bool,
    terminal: bool,
    /// Whether who asks doesn't know the PATH, and is told where a missing program was looked for.
    tells_path: bool,
    arguments: Pointers<'a>,
    environment: Pointers<'a>,
}

/// The key of a variable, with its `=`.
fn key(variable: &CStr) -> &[u8] {
    let bytes = variable.to_bytes();
    let end = bytes.iter().position(|&b| b == b'=').map_or(bytes.len(), |at| at + 1);
    &bytes[..end]
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
            terminal: command.terminal,
            tells_path: false,
            arguments: Pointers::of(command.argv.iter(), command.argv.len())?,
            environment,
        })
    }

    /// One more command in a container: the container's variables, and its own over them.
    pub fn of_exec(exec: &Exec<'a>, container: &Command<'a>, home: Option<&'a CStr>) -> Result<Self, Errno> {
        let mut environment = Pointers::with_capacity(container.env.len() + exec.env.len() + 1)?;
        let replaced = |variable: &CStr| exec.env.iter().any(|other| key(other) == key(variable));
        for variable in container.env.iter().filter(|variable| !replaced(variable)).chain(exec.env.iter()) {
            environment.push(variable)?;
        }
        let has_home = container.env.iter().chain(exec.env.iter()).any(|e| key(e) == b"HOME=");
        if let Some(home) = home.filter(|_| !has_home) {
            environment.push(home)?;
        }
        let path = exec.env.iter().filter(|e| key(e) == b"PATH=").last();
        let path = path.and_then(|e| CStr::from_bytes_with_nul(&e.to_bytes_with_nul()[b"PATH=".len()..]).ok());
        Ok(Self {
            program: exec.argv.iter().next().ok_or(Errno::EINVAL)?,
            path: path.unwrap_or(container.path),
            // Signals of a terminal's are no further command's.
            session: true,
            terminal: exec.terminal.is_some(),
            tells_path: true,
            arguments: Pointers::of(exec.argv.iter(), exec.argv.len())?,
            environment,
        })
    }

    /// Gives the memory of the lists back, when another process has executed it.
    pub fn release(&mut self) {
        self.arguments.release();
        self.environment.release();
    }

    /// execve(2); returns only what was wrong.
    pub fn execute(&self) -> Fault {
        set_signal_mask(0);
        if self.session {
            let _ = setsid();
        }
        if self.terminal
            && let Err(errno) = control_by(Fd(0))
        {
            return errno.into();
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
        denied.unwrap_or_else(|| match self.tells_path {
            true => Fault::new(Errno::ENOENT, cause::NOT_IN_PATH, self.path.to_bytes()),
            false => Errno::ENOENT.into(),
        })
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
