//! What a description comes to: every step, in order, as the supervisor will read it.
//!
//! A plan is bytes on the wire from the moment it is made, so that what a test reads, what an error names and what is
//! performed are the same thing.

use crate::wire::{self, Field, List, Out, Prepare, Reader, Step};
use std::ffi::CStr;
use std::fmt;

impl Out for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A description, checked and lowered. [`Display`](fmt::Display) shows it step by step.
#[derive(Clone, PartialEq, Eq)]
pub struct Plan {
    pub(crate) bytes: Vec<u8>,
    /// What each netlink request does, by exchange.
    pub(crate) exchanges: Vec<Vec<String>>,
}

/// Values of one kind, being written one after the other.
#[derive(Default)]
pub(crate) struct Many {
    count: u32,
    bytes: Vec<u8>,
}

impl Many {
    pub(crate) fn push<'a>(&mut self, value: impl Field<'a>) {
        self.count += 1;
        value.put(&mut self.bytes);
    }

    pub(crate) fn list<'a, T: Field<'a>>(&'a self) -> List<'a, T> {
        List::new(self.count, &self.bytes)
    }
}

impl Plan {
    fn read(&self) -> Option<wire::Plan<'_>> {
        Reader::new(&self.bytes).take().ok()
    }

    /// Every effect and step in order, a sentence each.
    pub fn steps(&self) -> Vec<String> {
        self.read().map(|plan| steps(&plan)).unwrap_or_default()
    }

    pub(crate) fn describe_bytes(bytes: &[u8]) -> Option<Vec<String>> {
        Reader::new(bytes).take().ok().map(|plan| steps(&plan))
    }

    pub(crate) fn describe_step(&self, index: usize) -> String {
        self.read().and_then(|plan| plan.steps.iter().nth(index)).map_or_else(|| "perform the plan".into(), |step| describe(&step))
    }

    pub(crate) fn describe_effect(&self, index: usize) -> String {
        let effect = self.read().and_then(|plan| plan.prepare.iter().chain(plan.meanwhile.iter()).nth(index));
        effect.map_or_else(|| "prepare".into(), |effect| describe_effect(&effect))
    }

    /// What failed of the network: which request of which exchange, both from 1, in the index's halves.
    pub(crate) fn describe_network(&self, index: u32) -> String {
        let exchange = (index >> 16).checked_sub(1).and_then(|n| self.exchanges.get(n as usize));
        match exchange.map(|steps| (index & 0xffff).checked_sub(1).and_then(|n| steps.get(n as usize))) {
            Some(Some(step)) => step.clone(),
            Some(None) => "configure the network".into(),
            None => "make the network namespace".into(),
        }
    }

    pub(crate) fn has_user_namespace(&self) -> bool {
        self.read().is_some_and(|plan| plan.id_map.is_some())
    }

    /// The command's name.
    pub(crate) fn program(&self) -> String {
        self.read().and_then(|plan| plan.command?.argv.iter().next()).map_or_else(String::new, text)
    }

    pub(crate) fn search_path(&self) -> String {
        self.read().and_then(|plan| plan.command).map_or_else(String::new, |command| text(command.path))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps().iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Plan").field(&self.steps()).finish()
    }
}

fn text(s: &CStr) -> String {
    s.to_string_lossy().into_owned()
}

fn steps(plan: &wire::Plan<'_>) -> Vec<String> {
    let mut all: Vec<_> = plan.prepare.iter().map(|effect| describe_effect(&effect)).collect();
    let meanwhile = |all: &mut Vec<String>| all.extend(plan.meanwhile.iter().map(|effect| describe_effect(&effect)));
    for step in plan.steps.iter() {
        match step {
            Step::AwaitCgroups {} => meanwhile(&mut all),
            step => all.push(describe(&step)),
        }
    }
    if let Some(command) = plan.command {
        let words: Vec<_> = command.argv.iter().map(text).collect();
        all.push(format!("execute {:?}{}", words, if command.init { " under init" } else { "" }));
    }
    all.extend(plan.undo.iter().map(|undo| match undo {
        wire::Undo::KillCgroup { path } => format!("afterwards kill the cgroup {}", text(path)),
        wire::Undo::RemoveDirectory { path } => {
            format!("afterwards remove the cgroup {}", text(path))
        }
        wire::Undo::RemoveTree { path } => format!("afterwards remove {}", text(path)),
        wire::Undo::Thaw { path } => format!("afterwards let go on by {}", text(path)),
        wire::Undo::Never(_, never) => match never {},
    }));
    all
}

fn describe_effect(effect: &Prepare<'_>) -> String {
    match *effect {
        Prepare::RunDirectory { parent, name, .. } => format!("make and lock the run directory {}/{}", text(parent), text(name)),
        Prepare::MakeDirectory { path, .. } => format!("make the directory {}", text(path)),
        Prepare::Write { path, value, .. } => format!("write {:?} to {}", String::from_utf8_lossy(value), text(path)),
        Prepare::ResumeRunDirectory { path, .. } => format!("lock the run directory {}, and write its record", text(path)),
        Prepare::LimitDirectory { path, bytes } => format!("bound what {} holds to {bytes} bytes", text(path)),
        Prepare::EnsureDirectory { path, .. } => format!("make the directory {}", text(path)),
        Prepare::DeviceFilter { path, program } => {
            format!("let a program of {} instructions decide about devices in {}", program.len() / 8, text(path))
        }
        Prepare::AdoptRunDirectory { path } => format!("lock the run directory {}", text(path)),
        Prepare::Never(_, never) => match never {},
    }
}

/// A step as a fragment that fits behind "can't".
fn describe(step: &Step<'_>) -> String {
    match *step {
        Step::PrivateMounts {} => "make the mount namespace private".into(),
        Step::OverlayRoot { lower, .. } => {
            format!("mount an overlay of {} layers as the root", lower.len())
        }
        Step::BindRoot { source, .. } => format!("make {} the root", text(source)),
        Step::TmpfsRoot { .. } => "mount a tmpfs as the root".into(),
        Step::Overlay { target, lower, .. } => format!("mount an overlay of {} layers on {}", lower.len(), text(target)),
        Step::Mount { filesystem, target, .. } => format!("mount {} on {}", text(filesystem), text(target)),
        Step::Bind { source, target, .. } => format!("bind {} to {}", text(source), text(target)),
        Step::BindOwned { source, target, .. } => format!("bind {} to {} with its owner", text(source), text(target)),
        Step::BeginOwners {} => "make a user namespace for the owners of mounts".into(),
        Step::Cache { target, .. } => format!("mount a tmpfs on {}", text(target)),
        Step::DeviceDirectory { target, .. } => format!("mount a device directory on {}", text(target)),
        Step::Device { source, target, .. } => {
            format!("bind the device {} to {}", text(source), text(target))
        }
        Step::Symlink { contents, target } => {
            format!("make the symlink {} to {}", text(target), text(contents))
        }
        Step::MakeDirectory { target, .. } => {
            format!("make the directory {} in the root", text(target))
        }
        Step::PrivateFile { target, .. } => format!("mount a file on {}", text(target)),
        Step::Mask { target } => format!("mask {}", text(target)),
        Step::ReadOnly { target } => format!("make {} read-only", text(target)),
        Step::ReadOnlyRoot {} => "make the root read-only".into(),
        Step::PivotRoot {} => "pivot to the root".into(),
        Step::Hostname { name } => format!("set the host name {}", text(name)),
        Step::Netlink { count, .. } => format!("configure the network ({count} messages)"),
        Step::Sysctl { path, value, .. } => {
            format!("set {} to {:?}", text(path), String::from_utf8_lossy(value))
        }
        Step::AwaitNetwork {} => "enter the network namespace that was made meanwhile".into(),
        Step::ShareNetwork {} => "hand the network namespace to the supervisor".into(),
        Step::AwaitCgroups {} => "wait for the cgroups".into(),
        Step::JoinCgroup { path } => format!("join the cgroup by {}", text(path)),
        Step::Unshare { flags } => format!("unshare namespaces {flags:#x}"),
        Step::Rlimit { resource, soft, hard } => format!("set resource limit {resource} to {soft}:{hard}"),
        Step::User { user, .. } => format!("look up the user {:?}", text(user)),
        Step::Directory { path, .. } => format!("enter the working directory {}", text(path)),
        Step::BoundingSet { capabilities } => format!("bound capabilities to {capabilities:#x}"),
        Step::BecomeUser { .. } => "become the user".into(),
        Step::Capabilities { root, ambient, .. } => {
            format!("set capabilities to {root:#x} for root, {ambient:#x} for others")
        }
        Step::NoNewPrivileges {} => "set no_new_privs".into(),
        Step::Seccomp { filter } => format!("install a system call filter of {} instructions", filter.len() / 8),
        Step::ChangeOwners { directory, .. } => {
            format!("give the files in {} their owners", text(directory))
        }
        Step::Borrow { path, target, .. } => format!("bind {} of another container to {}", text(path), text(target)),
        Step::Landlock { rules, .. } => format!("restrict itself by Landlock to {} rules", rules.len()),
        Step::Label { attribute, value } => format!("write the label {:?} to {}", String::from_utf8_lossy(value), text(attribute)),
        Step::AwaitExecute {} => "wait until the command may be executed".into(),
        Step::ServeFiles {} => "open files for the owner".into(),
        Step::Terminal { columns, rows } => format!("make a terminal of {columns} by {rows} in its devpts"),
        Step::Umask { mask } => format!("set the umask {mask:03o}"),
        Step::Never(_, never) => match never {},
    }
}
