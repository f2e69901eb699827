//! Where a container's cgroup may live, and which limits can be enforced there.
//!
//! | the owner is | the cgroup lives |
//! |---|---|
//! | given a path | there |
//! | root on a host | directly at the root of each hierarchy |
//! | root in a container | below its own cgroup |
//! | a plain user in a delegated cgroup | below that |
//! | none of these | nowhere; limits are refused, the rest works |

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Access, AtFlags, CWD};

use crate::error::{Error, Reason, Refusal};
use crate::hierarchy::{Hierarchies, Mount};
use crate::limits::{Control, Limits, Online};
use crate::parse;
use crate::plan::Plan;

/// The leaf that [`Placement::make_room`] moves an owner's own processes into. Programs with different versions of this
/// crate find each other's leaf by this name.
pub const LEAF: &str = "owner.coracle";

/// For whom a cgroup is placed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Owner {
    /// The effective user id of the process that will perform the plan.
    pub uid: u32,
    /// A cgroup that was given for containers to live in.
    pub given: Option<PathBuf>,
}

impl Owner {
    /// This process's effective user.
    ///
    /// ```
    /// let owner = coracle_cgroups::Owner::current().below("/ci/job-7");
    /// assert_eq!(owner.given.unwrap(), std::path::Path::new("/ci/job-7"));
    /// ```
    pub fn current() -> Owner {
        Owner { uid: rustix::process::geteuid().as_raw(), given: None }
    }

    /// Place below this cgroup, which must exist in each hierarchy that is needed.
    ///
    /// Either as seen from the mount points, like `/ci/job-7` (the OCI's `cgroupsPath`), or as a directory of the
    /// cgroup2 mount, like `/sys/fs/cgroup/ci/job-7`.
    pub fn below(mut self, cgroup: impl Into<PathBuf>) -> Owner {
        self.given = Some(cgroup.into());
        self
    }

    /// The same with the given path as seen from the mount points.
    fn seen_from(&self, hierarchies: &Hierarchies) -> Owner {
        let mut owner = self.clone();
        if let (Some(given), Some(mount)) = (&mut owner.given, &hierarchies.cgroup2)
            && let Ok(below) = given.strip_prefix(&mount.point)
        {
            *given = below.to_owned();
        }
        owner
    }
}

/// Where a container's cgroup will live, and for each limit whether it can be enforced there.
///
/// Deciding reads the cgroup file systems and changes nothing.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Placement {
    pub(crate) limits: Limits,
    pub(crate) v2: Option<V2>,
    pub(crate) v1: Vec<V1>,
    pub(crate) waived: Vec<Refusal>,
    /// The base in v1's freezer hierarchy, where the plan is to use it.
    pub(crate) freezer: Option<PathBuf>,
    refused: Vec<Refusal>,
    no_tree: Option<Reason>,
    v1_freezer: Option<PathBuf>,
}

/// The part of a placement in the cgroup2 hierarchy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct V2 {
    pub(crate) base: PathBuf,
    pub(crate) controls: Vec<Control>,
    /// Controllers to enable in `base`'s cgroup.subtree_control.
    pub(crate) enable: BTreeSet<String>,
    /// Controllers that a cgroup directly below `base` will have.
    pub(crate) controllers: BTreeSet<String>,
}

/// The part of a placement in one v1 hierarchy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct V1 {
    pub(crate) base: PathBuf,
    pub(crate) controllers: BTreeSet<String>,
    pub(crate) controls: Vec<Control>,
    /// `base`'s own processors and memory nodes, for what isn't limited.
    pub(crate) cpuset: (String, String),
}

impl Placement {
    /// Decides. Never fails: what can't be enforced stands in [`refused`](Placement::refused), all of it.
    ///
    /// A cgroup2 tree is placed also without any limit, for killing, freezing and accounting; where that isn't possible
    /// it is left out, and [`no_tree`](Placement::no_tree) says why.
    ///
    /// Writability is asked of the kernel for the calling process, whose effective user `owner.uid` should be.
    pub fn decide(hierarchies: &Hierarchies, owner: &Owner, limits: &Limits) -> Placement {
        let owner = &owner.seen_from(hierarchies);
        let mut refused = limits.out_of_range(&Online::read_for(limits));
        let wanted: Vec<Control> =
            limits.controls().into_iter().filter(|control| refused.iter().all(|refusal| refusal.control != *control)).collect();
        let mut refuse = |control: Control, reason: Reason| {
            refused.push(Refusal { control, asked: limits.asked(control).unwrap_or_default(), reason });
        };

        let mut v1: Vec<V1> = Vec::new();
        let mut on_v2: Vec<Control> = Vec::new();
        let cpu_time = wanted.contains(&Control::CpuTime);
        for control in wanted.into_iter().filter(|control| *control != Control::CpuTime) {
            // v1 asks for CAP_SYS_ADMIN, v2 for the right to load programs, whoever owns the cgroup.
            if control == Control::Devices && owner.uid != 0 {
                refuse(control, Reason::NeedsRoot);
                continue;
            }
            let controller = control.v1_controller();
            let Some(mount) = hierarchies.v1(controller) else {
                on_v2.push(control);
                continue;
            };
            if matches!(control, Control::MemoryHigh | Control::OomGroup) {
                refuse(control, Reason::NotOnV1);
                continue;
            }
            match v1_base(mount, owner, controller).and_then(|base| v1_swap(control, limits, &base).map(|()| base)) {
                Ok(base) => match v1.iter_mut().find(|part| part.base == base) {
                    Some(part) => part.controls.push(control),
                    None => {
                        let read = |file| fs::read_to_string(base.join(file)).unwrap_or_default().trim().to_owned();
                        let cpuset = match controller {
                            "cpuset" => (read("cpuset.cpus"), read("cpuset.mems")),
                            _ => Default::default(),
                        };
                        v1.push(V1 { base, controllers: mount.controllers.clone(), controls: vec![control], cpuset });
                    }
                },
                Err(reason) => refuse(control, reason),
            }
        }
        // Without a bound on memory, v1 has nothing that a bound on swap could be added to.
        if limits.swap.is_some() {
            for part in &mut v1 {
                if part.controls.contains(&Control::Swap) && !part.controls.contains(&Control::Memory) {
                    part.controls.retain(|control| *control != Control::Swap);
                    refuse(Control::Swap, Reason::SwapNeedsMemory);
                }
            }
            v1.retain(|part| !part.controls.is_empty());
        }

        let (mut v2, mut no_tree) = (None, None);
        match hierarchies.cgroup2.as_ref() {
            None => {
                for control in on_v2 {
                    refuse(control, Reason::NoController { controller: control.controller() });
                }
                no_tree = Some(Reason::NoController { controller: "cgroup2" });
            }
            Some(mount) => {
                let needed: BTreeSet<&str> = on_v2.iter().map(|control| control.controller()).collect();
                match v2_base(mount, owner, &needed) {
                    Err(reason) => {
                        for control in on_v2 {
                            refuse(control, reason_for(&reason, control));
                        }
                        no_tree = Some(reason);
                    }
                    Ok(base) => {
                        let base = Base::read(mount, base);
                        let mut part =
                            V2 { controls: Vec::new(), enable: BTreeSet::new(), controllers: base.enabled.clone(), base: base.dir.clone() };
                        for control in on_v2 {
                            match base.can(control, hierarchies) {
                                Ok(()) if control == Control::Devices => part.controls.push(control),
                                Ok(()) => {
                                    let controller = control.controller().to_owned();
                                    if part.controllers.insert(controller.clone()) {
                                        part.enable.insert(controller);
                                    }
                                    part.controls.push(control);
                                }
                                Err(reason) => refuse(control, reason),
                            }
                        }
                        v2 = Some(part);
                    }
                }
            }
        }
        // Counted by any cgroup2 directory; v1 counts it where its hierarchy is joined.
        if cpu_time && v2.is_none() {
            match hierarchies.v1("cpuacct").map(|mount| (mount, v1_base(mount, owner, "cpuacct"))) {
                Some((mount, Ok(base))) => match v1.iter_mut().find(|part| part.base == base) {
                    Some(part) => part.controls.push(Control::CpuTime),
                    None => {
                        let (controllers, controls) = (mount.controllers.clone(), vec![Control::CpuTime]);
                        v1.push(V1 { base, controllers, controls, cpuset: Default::default() });
                    }
                },
                Some((_, Err(reason))) => {
                    refused.push(Refusal { control: Control::CpuTime, asked: limits.asked(Control::CpuTime).unwrap_or_default(), reason })
                }
                None => refused.push(Refusal {
                    control: Control::CpuTime,
                    asked: limits.asked(Control::CpuTime).unwrap_or_default(),
                    reason: no_tree
                        .as_ref()
                        .map_or(Reason::NoController { controller: "cpuacct" }, |reason| reason_for(reason, Control::CpuTime)),
                }),
            }
        }
        refused.sort_by_key(|refusal| refusal.control);
        let v1_freezer = match v2 {
            Some(_) => None,
            None => hierarchies.v1("freezer").and_then(|mount| v1_base(mount, owner, "freezer").ok()),
        };
        Placement { limits: limits.clone(), v2, v1, refused, waived: Vec::new(), no_tree, freezer: None, v1_freezer }
    }

    /// The limits that can't be enforced and were not waived.
    pub fn refused(&self) -> &[Refusal] {
        &self.refused
    }

    /// Goes on without these controls where they can't be enforced. [`Plan::waived`] lists those that are missing.
    ///
    /// ```
    /// use coracle_cgroups::{Control, Hierarchies, Limits, Owner, Placement};
    /// let nothing_mounted = Hierarchies::detect_from("", "");
    /// let placement = Placement::decide(&nothing_mounted, &Owner::current(), &Limits::new().pids(8));
    /// assert!(placement.plan("x").is_err());
    /// let plan = placement.best_effort(&[Control::Pids]).plan("x").unwrap();
    /// assert_eq!((plan.enforced.len(), plan.waived.len()), (0, 1));
    /// ```
    pub fn best_effort(mut self, controls: &[Control]) -> Placement {
        let (waived, refused) = self.refused.into_iter().partition(|refusal| controls.contains(&refusal.control));
        self.refused = refused;
        self.waived.extend::<Vec<Refusal>>(waived);
        self
    }

    /// On pure v1, joins the freezer hierarchy too, so that the container can be frozen, and killed in one go. Elsewhere it
    /// changes nothing: the cgroup2 tree does it.
    pub fn freezer(mut self) -> Placement {
        self.freezer = self.v1_freezer.clone();
        self
    }

    /// The cgroup2 directory that the container's tree will be made in.
    pub fn tree(&self) -> Option<&Path> {
        self.v2.as_ref().map(|v2| v2.base.as_path())
    }

    /// Why there will be no cgroup2 tree: then there is no `cgroup.kill` and no accounting, and that is no error.
    pub fn no_tree(&self) -> Option<&Reason> {
        self.no_tree.as_ref()
    }

    /// What to do for a container with this id: 1 to 200 of `[a-zA-Z0-9_.-]`, beginning with a letter or digit. It must be
    /// one that no other container of the machine uses.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with every limit that can't be enforced; [`Error::Name`].
    pub fn plan(&self, id: &str) -> Result<Plan, Error> {
        match self.refused.is_empty() {
            true => Plan::build(self, id),
            false => Err(Error::Refused(self.refused.clone())),
        }
    }

    /// Moves all processes of the owner's own cgroup2 directory into a leaf of it ([`LEAF`]), so that the kernel lets
    /// controllers be enabled below it: the answer to [`Reason::ProcessesInTheWay`].
    ///
    /// This changes where **every** process of that cgroup stands, yours and others', so it is never done unasked. The
    /// leaf stays: your processes live in it. Returns how many were moved; detect the hierarchies again afterwards. At the
    /// root of a hierarchy, and without cgroup2, there is nothing to do.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where a process can't be moved, [`Error::Foreign`] where one belongs to
    /// another pid namespace, [`Error::Busy`] where new ones appear faster than they are moved.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), coracle_cgroups::Error> {
    /// use coracle_cgroups::{Hierarchies, Limits, Owner, Placement, Reason};
    /// let (owner, limits) = (Owner::current(), Limits::new().pids(64));
    /// let mut placement = Placement::decide(&Hierarchies::detect()?, &owner, &limits);
    /// if placement.refused().iter().any(|refusal| matches!(refusal.reason, Reason::ProcessesInTheWay { .. })) {
    ///     Placement::make_room(&Hierarchies::detect()?, &owner)?;
    ///     placement = Placement::decide(&Hierarchies::detect()?, &owner, &limits);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn make_room(hierarchies: &Hierarchies, owner: &Owner) -> Result<usize, Error> {
        let Some(mount) = &hierarchies.cgroup2 else {
            return Ok(0);
        };
        let owner = &owner.seen_from(hierarchies);
        let Ok(dir) = v2_base(mount, owner, &BTreeSet::new()) else {
            return Ok(0);
        };
        if Base::read(mount, dir.clone()).at_root {
            return Ok(0);
        }
        let leaf = dir.join(LEAF);
        match fs::create_dir(&leaf) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::Io { action: "make the cgroup", path: leaf, source });
            }
            _ => {}
        }
        let (start, patience) = (Instant::now(), Duration::from_secs(5));
        let mut moved = 0;
        loop {
            let pids = procs(&dir);
            if pids.is_empty() {
                return Ok(moved);
            }
            if pids.contains(&0) {
                return Err(Error::Foreign { path: dir });
            }
            if start.elapsed() > patience {
                return Err(Error::Busy { action: "move the processes of", path: dir, after: patience, pids });
            }
            for pid in pids {
                let path = leaf.join("cgroup.procs");
                match crate::cgroup::write(&path, &pid.to_string()) {
                    Ok(()) => moved += 1,
                    // It ended meanwhile.
                    Err(error) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::SRCH) => {}
                    Err(source) => {
                        return Err(Error::Io { action: "move a process to", path, source });
                    }
                }
            }
        }
    }
}

/// A cgroup2 directory as it stands.
struct Base {
    dir: PathBuf,
    /// The root of the hierarchy itself, which is exempt from "no internal processes".
    at_root: bool,
    available: BTreeSet<String>,
    enabled: BTreeSet<String>,
}

impl Base {
    fn read(mount: &Mount, dir: PathBuf) -> Base {
        let words = |file| fs::read(dir.join(file)).map(|raw| parse::words(&raw)).unwrap_or_default();
        Base {
            at_root: dir == mount.point && at_hierarchy_root(mount),
            available: words("cgroup.controllers"),
            enabled: words("cgroup.subtree_control"),
            dir,
        }
    }

    fn can(&self, control: Control, hierarchies: &Hierarchies) -> Result<(), Reason> {
        let controller = control.controller();
        let path = self.dir.clone();
        if fs::read_to_string(path.join("cgroup.type")).is_ok_and(|kind| kind.trim() != "domain") {
            return Err(Reason::Threaded { path });
        }
        // Any directory takes a program.
        if !self.enabled.contains(controller) && control != Control::Devices {
            if !self.available.contains(controller) {
                return Err(match self.at_root {
                    true => Reason::NoController { controller },
                    false => Reason::ControllerWithheld { controller, path },
                });
            }
            let file = path.join("cgroup.subtree_control");
            if access(&file, Access::WRITE_OK).is_err() {
                return Err(Reason::NotDelegated { controller, path, file });
            }
            let processes = procs(&path).len();
            if !self.at_root && processes > 0 {
                return Err(Reason::ProcessesInTheWay { path, processes });
            }
        }
        if control == Control::Swap {
            // The root has no memory.swap.max; our own cgroup tells it as well, if it has the controller.
            let own = hierarchies.cgroup2.as_ref().and_then(Mount::own_dir);
            let witness = [Some(self.dir.clone()), own].into_iter().flatten().find(|dir| dir.join("memory.max").exists());
            if witness.is_some_and(|dir| !dir.join("memory.swap.max").exists()) {
                return Err(Reason::NoSwapAccounting);
            }
        }
        Ok(())
    }
}

/// Which cgroup2 directory to build in.
fn v2_base(mount: &Mount, owner: &Owner, needed: &BTreeSet<&str>) -> Result<PathBuf, Reason> {
    if let Some(given) = &owner.given {
        let dir = given_dir(mount, given)?;
        return usable_v2(mount, &dir).map(|()| dir);
    }
    if owner.uid == 0 && at_hierarchy_root(mount) && usable_v2(mount, &mount.point).is_ok() {
        return Ok(mount.point.clone());
    }
    let mut own = mount.own_dir().ok_or_else(|| Reason::Hidden { path: mount.point.clone() })?;
    if own.file_name().is_some_and(|name| name == LEAF) && own != mount.point {
        own.pop();
    }
    usable_v2(mount, &own)?;
    let serves = |dir: &Path| {
        let base = Base::read(mount, dir.to_owned());
        let missing = needed.iter().any(|&controller| !base.enabled.contains(controller));
        !missing || procs(dir).is_empty()
    };
    if serves(&own) {
        return Ok(own);
    }
    // Our processes are in the way. A cgroup above may be ours as well, without processes: systemd's DelegateSubgroup=,
    // or an entry point that moved itself into a leaf, as docker:dind does. What root sees in a container is all its own;
    // for a user systemd marks what it delegated, while everything under user@.service merely belongs to the user.
    let above = own.ancestors().skip(1).take_while(|dir| dir.starts_with(&mount.point));
    for dir in above.take_while(|dir| usable_v2(mount, dir).is_ok()) {
        if (owner.uid == 0 || marked_delegated(dir)) && serves(dir) {
            return Ok(dir.to_owned());
        }
    }
    Ok(own)
}

/// Whether cgroups can be made in `dir` and processes moved there from our own: write access to the directory, and to
/// its `cgroup.procs`, being the common ancestor (cgroups(7), "Delegation containment").
fn usable_v2(mount: &Mount, dir: &Path) -> Result<(), Reason> {
    usable(mount, dir, dir)?;
    usable(mount, dir, &dir.join("cgroup.procs"))
}

fn usable(mount: &Mount, path: &Path, file: &Path) -> Result<(), Reason> {
    if !mount.writable {
        return Err(Reason::ReadOnly { path: mount.point.clone() });
    }
    let mode = if path == file { Access::WRITE_OK | Access::EXEC_OK } else { Access::WRITE_OK };
    access(file, mode).map_err(|errno| match errno {
        rustix::io::Errno::ROFS => Reason::ReadOnly { path: mount.point.clone() },
        rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => Reason::NoSuchCgroup { path: path.to_owned() },
        _ => Reason::NotDelegated { controller: "", path: path.to_owned(), file: file.to_owned() },
    })
}

/// Which v1 directory to build in.
fn v1_base(mount: &Mount, owner: &Owner, controller: &'static str) -> Result<PathBuf, Reason> {
    let dir = match &owner.given {
        Some(given) => given_dir(mount, given)?,
        None if owner.uid == 0 && at_hierarchy_root(mount) && usable(mount, &mount.point, &mount.point).is_ok() => mount.point.clone(),
        None => mount.own_dir().ok_or_else(|| Reason::Hidden { path: mount.point.clone() })?,
    };
    match usable(mount, &dir, &dir) {
        Ok(()) => Ok(dir),
        Err(Reason::NotDelegated { path, .. }) => Err(Reason::NotDelegatedOnV1 { controller, path }),
        Err(reason) => Err(reason),
    }
}

fn v1_swap(control: Control, limits: &Limits, base: &Path) -> Result<(), Reason> {
    match control {
        Control::Swap if limits.memory.is_none() => Err(Reason::SwapNeedsMemory),
        Control::Swap if !base.join("memory.memsw.limit_in_bytes").exists() => Err(Reason::NoSwapAccounting),
        _ => Ok(()),
    }
}

fn reason_for(reason: &Reason, control: Control) -> Reason {
    match reason.clone() {
        Reason::NotDelegated { path, file, .. } => Reason::NotDelegated { controller: control.controller(), path, file },
        reason => reason,
    }
}

/// The directory of a path that a person gave, with the mount point already taken off; it must be there.
fn given_dir(mount: &Mount, given: &Path) -> Result<PathBuf, Reason> {
    let below: PathBuf = given.components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir)).collect();
    let stays = below.components().all(|part| matches!(part, Component::Normal(_)));
    let dir = if below.as_os_str().is_empty() { mount.point.clone() } else { mount.point.join(below) };
    match stays && dir.join("cgroup.procs").exists() {
        true => Ok(dir),
        false => Err(Reason::NoSuchCgroup { path: dir }),
    }
}

/// Whether the mount point shows the root of the hierarchy itself, rather than that of a cgroup namespace or a part of
/// the tree. Only the real root has no `cgroup.type` (cgroup2), and only it has `release_agent` (v1).
fn at_hierarchy_root(mount: &Mount) -> bool {
    let there = |file: &str| mount.point.join(file).exists();
    mount.root == Path::new("/")
        && match mount.controllers.is_empty() {
            true => there("cgroup.procs") && !there("cgroup.type"),
            false => there("release_agent"),
        }
}

/// systemd's mark on what it delegated: the xattr `user.delegate` (since v251).
fn marked_delegated(dir: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::getxattr(dir, "user.delegate", &mut value[..]).is_ok_and(|length| &value[..length] == b"1")
}

fn access(path: &Path, mode: Access) -> rustix::io::Result<()> {
    rustix::fs::accessat(CWD, path, mode, AtFlags::EACCESS)
}

fn procs(dir: &Path) -> Vec<u32> {
    fs::read(dir.join("cgroup.procs")).map(|raw| parse::pids(&raw)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{IfMissing, Purpose, Step};
    use crate::usage::Stat;

    /// A directory that looks like a machine's cgroup file systems.
    struct Fake {
        dir: tempfile::TempDir,
        mountinfo: String,
        cgroup: String,
    }

    impl Fake {
        fn new() -> Fake {
            Fake { dir: tempfile::tempdir().unwrap(), mountinfo: String::new(), cgroup: String::new() }
        }

        fn root(&self) -> &Path {
            self.dir.path()
        }

        fn file(&self, path: &str, content: &str) -> &Fake {
            let path = self.root().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
            self
        }

        /// A cgroup2 mount at `point`; `own` is the cgroup of this process.
        fn cgroup2(mut self, point: &str, own: &str, options: &str) -> Fake {
            let at = self.root().join(point);
            self.mountinfo += &format!("1 0 0:1 / {} {options} - cgroup2 cgroup2 rw\n", at.display());
            self.cgroup += &format!("0::{own}\n");
            self
        }

        /// A cgroup of the cgroup2 mount. `kind` is None at the root of the hierarchy.
        fn group(&self, path: &str, controllers: &str, enabled: &str, procs: &str, kind: Option<&str>) -> &Fake {
            self.file(&format!("{path}/cgroup.controllers"), controllers);
            self.file(&format!("{path}/cgroup.subtree_control"), enabled);
            self.file(&format!("{path}/cgroup.procs"), procs);
            if let Some(kind) = kind {
                self.file(&format!("{path}/cgroup.type"), kind);
            }
            self
        }

        /// A v1 mount whose mount point shows `root`.
        fn v1(mut self, controllers: &str, root: &str, own: &str, real_root: bool) -> Fake {
            let at = self.root().join(controllers);
            self.mountinfo += &format!("1 0 0:1 {root} {} rw - cgroup cgroup rw,{controllers}\n", at.display());
            self.cgroup += &format!("5:{controllers}:{own}\n");
            self.file(&format!("{controllers}/cgroup.procs"), "");
            if real_root {
                self.file(&format!("{controllers}/release_agent"), "");
            }
            self
        }

        fn hierarchies(&self) -> Hierarchies {
            Hierarchies::detect_from(&self.mountinfo, &self.cgroup)
        }

        fn decide(&self, uid: u32, limits: &Limits) -> Placement {
            Placement::decide(&self.hierarchies(), &Owner { uid, given: None }, limits)
        }

        /// The steps as lines, with paths from the fake root.
        fn steps(&self, plan: &Plan) -> Vec<String> {
            let short = |path: &Path| path.strip_prefix(self.root()).unwrap().display().to_string();
            let line = |step: &Step| match step {
                Step::MakeDir(path) => format!("mkdir {}", short(path)),
                Step::Write { path, value, if_missing, .. } => {
                    format!("{} = {value}{}", short(path), if *if_missing == IfMissing::Skip { " ?" } else { "" })
                }
            };
            plan.steps.iter().map(line).collect()
        }
    }

    fn limits() -> Limits {
        Limits::new().memory(64 << 20).cpus(0.5).pids(8)
    }

    fn reasons(placement: &Placement) -> Vec<(Control, Reason)> {
        placement.refused().iter().map(|refusal| (refusal.control, refusal.reason.clone())).collect()
    }

    #[test]
    fn root_on_a_v2_host_builds_at_the_root_and_enables_only_what_is_missing() {
        let fake = Fake::new().cgroup2("cg", "/user.slice/session-1.scope", "rw");
        fake.group("cg", "cpuset cpu io memory pids", "memory pids", "1\n2\n", None);
        let plan = fake.decide(0, &limits()).plan("x").unwrap();
        assert_eq!(
            fake.steps(&plan),
            [
                "cg/cgroup.subtree_control = +cpu",
                "mkdir cg/coracle-x",
                "cg/coracle-x/memory.max = 67108864",
                "cg/coracle-x/memory.swap.max = 67108864 ?",
                "cg/coracle-x/cpu.max = 50000 100000",
                "cg/coracle-x/pids.max = 8",
                "cg/coracle-x/cgroup.subtree_control = +cpu +memory +pids",
                "mkdir cg/coracle-x/main",
                "cg/coracle-x/main/memory.max = 67108864",
                "cg/coracle-x/main/memory.swap.max = 67108864 ?",
                "cg/coracle-x/main/cpu.max = 50000 100000",
                "cg/coracle-x/main/pids.max = 8",
            ]
        );
        let top = fake.root().join("cg/coracle-x");
        assert_eq!(plan.into, Some(top.join("main")));
        assert!(plan.join.is_empty());
        assert_eq!(plan.kill, Some(top.join("cgroup.kill")));
        assert_eq!(plan.remove, [top.join("main"), top.clone()]);
        let mechanisms: Vec<&str> = plan.enforced.iter().map(|e| e.mechanism.as_str()).collect();
        assert_eq!(mechanisms, ["cgroup v2 memory.max", "cgroup v2 cpu.max", "cgroup v2 pids.max"]);
        assert_eq!(plan.enforced[0].path, top.join("memory.max"));
        let exec = plan.exec(3);
        assert_eq!(fake.steps(&exec), ["mkdir cg/coracle-x/exec-3"]);
        assert_eq!((exec.into, exec.kill), (Some(top.join("exec-3")), Some(top.join("exec-3/cgroup.kill"))));
        assert_eq!(exec.remove, [top.join("exec-3")]);
    }

    #[test]
    fn without_limits_the_tree_is_made_and_nothing_is_enabled() {
        let fake = Fake::new().cgroup2("cg", "/", "rw");
        fake.group("cg", "cpu memory pids", "memory", "1\n", None);
        let plan = fake.decide(0, &Limits::new()).plan("x").unwrap();
        assert_eq!(fake.steps(&plan), ["mkdir cg/coracle-x", "mkdir cg/coracle-x/main"]);
        let stats: Vec<Stat> = plan.read_at_end.iter().map(|(stat, _)| *stat).collect();
        assert_eq!(stats, [Stat::CpuStat, Stat::MemoryPeak, Stat::MemoryEvents], "accounting that is there is read");
    }

    #[test]
    fn a_hybrid_host_joins_only_the_v1_hierarchies_that_were_asked_for() {
        let fake = Fake::new()
            .v1("cpu,cpuacct", "/", "/", true)
            .v1("memory", "/", "/process_api/27", true)
            .v1("pids", "/", "/", true)
            .v1("freezer", "/", "/", true)
            .cgroup2("unified", "/", "rw");
        fake.group("unified", "hugetlb", "", "1\n", None);
        fake.file("memory/memory.memsw.limit_in_bytes", "0");
        let plan = fake.decide(0, &Limits::new().memory(64 << 20).pids(8)).freezer().plan("x").unwrap();
        assert_eq!(
            fake.steps(&plan),
            [
                "mkdir unified/coracle-x",
                "mkdir unified/coracle-x/main",
                "mkdir memory/coracle-x",
                "memory/coracle-x/memory.limit_in_bytes = 67108864",
                "memory/coracle-x/memory.memsw.limit_in_bytes = 134217728 ?",
                "mkdir pids/coracle-x",
                "pids/coracle-x/pids.max = 8",
            ]
        );
        assert_eq!(plan.join, [fake.root().join("memory/coracle-x"), fake.root().join("pids/coracle-x")]);
        let plan = fake.decide(0, &Limits::new().cpus(1.0).cpu_weight(100)).plan("x").unwrap();
        assert_eq!(
            fake.steps(&plan)[2..],
            ["mkdir cpu,cpuacct/coracle-x", "cpu,cpuacct/coracle-x/cpu.cfs_quota_us = 100000", "cpu,cpuacct/coracle-x/cpu.shares = 1024"]
        );
        let plan = fake.decide(0, &Limits::new().memory(64 << 20).swap(0)).plan("x").unwrap();
        assert_eq!(fake.steps(&plan)[4], "memory/coracle-x/memory.memsw.limit_in_bytes = 67108864");
    }

    #[test]
    fn processor_time_is_counted_where_the_kernel_does_and_refused_elsewhere() {
        let limits = Limits::new().cpu_time(std::time::Duration::from_millis(1500));
        let fake = Fake::new().v1("cpu,cpuacct", "/", "/", true).v1("memory", "/", "/", true);
        let plan = fake.decide(0, &limits).plan("x").unwrap();
        assert_eq!(plan.cpu_usage, Some(fake.root().join("cpu,cpuacct/coracle-x/cpuacct.usage")));
        assert_eq!((plan.join.len(), plan.enforced[0].asked.as_str()), (1, "cpu-time=1.5s"));
        // With a quota it is the same hierarchy, joined once.
        let plan = fake.decide(0, &limits.clone().cpus(1.0)).plan("x").unwrap();
        assert_eq!((plan.join.len(), plan.enforced.len()), (1, 2));
        let fake = Fake::new().v1("memory", "/", "/", true);
        let placement = fake.decide(0, &limits);
        assert_eq!(placement.refused().iter().map(|refusal| refusal.control).collect::<Vec<_>>(), [Control::CpuTime]);
        assert!(placement.best_effort(&[Control::CpuTime]).plan("x").unwrap().cpu_usage.is_none());
        assert!(fake.decide(0, &Limits::new().cpu_time(std::time::Duration::ZERO)).refused()[0].to_string().contains("more than 0"));
    }

    #[test]
    fn pure_v1_can_have_the_freezer_and_reads_times_where_cpuacct_is_joined() {
        let fake = Fake::new().v1("cpu,cpuacct", "/", "/", true).v1("freezer", "/", "/", true);
        let placement = fake.decide(0, &Limits::new().cpus(1.0));
        assert!(matches!(placement.no_tree(), Some(Reason::NoController { controller: "cgroup2" })));
        let plan = placement.clone().plan("x").unwrap();
        assert_eq!((plan.into, plan.kill, plan.freezer, plan.join.len()), (None, None, None, 1));
        assert!(plan.read_at_end.iter().any(|(stat, _)| *stat == Stat::V1CpuacctUsageUser));
        let plan = placement.freezer().plan("x").unwrap();
        assert_eq!(plan.freezer, Some(fake.root().join("freezer/coracle-x/freezer.state")));
        assert_eq!(plan.join.len(), 2);
        assert!(plan.exec(1).remove.is_empty(), "a v1 directory belongs to the container");
    }

    #[test]
    fn a_v1_cpuset_gets_both_of_its_files() {
        let fake = Fake::new().v1("cpuset", "/", "/", true);
        fake.file("cpuset/cpuset.cpus", "0-1\n").file("cpuset/cpuset.mems", "0\n");
        let plan = fake.decide(0, &Limits::new().cpuset_cpus("0")).plan("x").unwrap();
        assert_eq!(fake.steps(&plan), ["mkdir cpuset/coracle-x", "cpuset/coracle-x/cpuset.cpus = 0", "cpuset/coracle-x/cpuset.mems = 0"]);
    }

    #[test]
    fn root_in_a_container_builds_below_its_own_v1_cgroup() {
        let fake = Fake::new().v1("pids", "/docker/4f", "/docker/4f/inner", false);
        fake.file("pids/inner/cgroup.procs", "1\n");
        let plan = fake.decide(0, &Limits::new().pids(8)).plan("x").unwrap();
        assert_eq!(fake.steps(&plan)[0], "mkdir pids/inner/coracle-x");
    }

    #[test]
    fn processes_in_a_containers_own_cgroup_are_a_typed_error_and_make_room_helps() {
        // The root of a cgroup namespace, as Docker --privileged gives it.
        let fake = Fake::new().cgroup2("cg", "/", "rw");
        fake.group("cg", "cpu memory pids", "", "1\n7\n", Some("domain\n"));
        let placement = fake.decide(0, &limits());
        let expected = Reason::ProcessesInTheWay { path: fake.root().join("cg"), processes: 2 };
        assert_eq!(reasons(&placement), [Control::Memory, Control::Cpu, Control::Pids].map(|c| (c, expected.clone())));
        let error = placement.plan("x").unwrap_err();
        assert!(error.remedy().unwrap().contains("Placement::make_room"));
        assert!(placement.tree().is_some(), "a tree without controllers still kills and freezes");

        // What make_room leaves behind: no processes there, ours in the leaf.
        let fake = Fake::new().cgroup2("cg", "/owner.coracle", "rw");
        fake.group("cg", "cpu memory pids", "", "", Some("domain\n"));
        fake.group("cg/owner.coracle", "", "", "1\n7\n", Some("domain\n"));
        let plan = fake.decide(0, &limits()).plan("x").unwrap();
        assert_eq!(fake.steps(&plan)[..2], ["cg/cgroup.subtree_control = +cpu +memory +pids", "mkdir cg/coracle-x"]);
    }

    #[test]
    fn root_in_a_container_steps_up_to_a_cgroup_that_its_entry_point_emptied() {
        let fake = Fake::new().cgroup2("cg", "/init", "rw");
        fake.group("cg", "cpu memory pids", "cpu memory pids", "", Some("domain\n"));
        fake.group("cg/init", "cpu memory pids", "", "1\n7\n", Some("domain\n"));
        let plan = fake.decide(0, &limits()).plan("x").unwrap();
        assert_eq!(fake.steps(&plan)[0], "mkdir cg/coracle-x");
        // A user may only where systemd marked the cgroup as delegated.
        let placement = fake.decide(1000, &limits());
        assert!(matches!(reasons(&placement)[0].1, Reason::ProcessesInTheWay { .. }));
    }

    #[test]
    fn a_user_in_a_delegated_cgroup_builds_below_it() {
        let fake = Fake::new().cgroup2("cg", "/user.slice/run-7.scope", "rw");
        fake.group("cg", "cpu memory pids", "cpu memory pids", "", None);
        fake.group("cg/user.slice/run-7.scope", "cpu memory pids", "", "", Some("domain\n"));
        let plan = fake.decide(1000, &Limits::new().pids(8)).plan("x").unwrap();
        assert_eq!(
            fake.steps(&plan)[..2],
            ["cg/user.slice/run-7.scope/cgroup.subtree_control = +pids", "mkdir cg/user.slice/run-7.scope/coracle-x"]
        );
    }

    #[test]
    fn what_can_not_be_enforced_is_refused_for_its_own_reason_all_at_once() {
        let fake = Fake::new().cgroup2("cg", "/", "rw");
        fake.group("cg", "memory", "", "", Some("domain\n"));
        let placement = fake.decide(0, &limits().pids(0));
        let path = fake.root().join("cg");
        assert_eq!(
            reasons(&placement),
            [
                (Control::Cpu, Reason::ControllerWithheld { controller: "cpu", path }),
                (Control::Pids, Reason::OutOfRange { accepted: "from 1 to 4194304".into() }),
            ]
        );
        assert!(matches!(placement.plan("x"), Err(Error::Refused(all)) if all.len() == 2));
        let placement = placement.best_effort(&[Control::Cpu]);
        assert!(matches!(placement.plan("x"), Err(Error::Refused(all)) if all.len() == 1));
        let plan = placement.best_effort(&[Control::Pids]).plan("x").unwrap();
        assert_eq!(plan.enforced.iter().map(|e| e.control).collect::<Vec<_>>(), [Control::Memory]);
        assert_eq!(plan.waived.len(), 2);
        assert!(!plan.steps.iter().any(|s| matches!(s, Step::Write { what: Purpose::Limit(c), .. } if *c != Control::Memory)));
    }

    #[test]
    fn read_only_hidden_threaded_and_missing_cgroups_are_told_apart() {
        let fake = Fake::new().cgroup2("cg", "/", "ro");
        fake.group("cg", "pids", "pids", "", Some("domain\n"));
        let one = |placement: &Placement| reasons(placement).remove(0).1;
        let pids = Limits::new().pids(8);
        let placement = fake.decide(0, &pids);
        assert_eq!(one(&placement), Reason::ReadOnly { path: fake.root().join("cg") });
        assert_eq!(placement.no_tree(), Some(&Reason::ReadOnly { path: fake.root().join("cg") }));
        assert!(placement.best_effort(&[Control::Pids]).plan("x").unwrap().steps.is_empty());

        let fake = Fake::new().cgroup2("cg", "/../up", "rw");
        fake.group("cg", "pids", "pids", "", Some("domain\n"));
        assert_eq!(one(&fake.decide(1000, &pids)), Reason::Hidden { path: fake.root().join("cg") });

        let fake = Fake::new().cgroup2("cg", "/", "rw");
        fake.group("cg", "pids", "pids", "", Some("domain threaded\n"));
        assert_eq!(one(&fake.decide(0, &pids)), Reason::Threaded { path: fake.root().join("cg") });

        let fake = Fake::new().cgroup2("cg", "/gone", "rw");
        fake.group("cg", "pids", "pids", "", Some("domain\n"));
        assert_eq!(one(&fake.decide(1000, &pids)), Reason::NoSuchCgroup { path: fake.root().join("cg/gone") });

        let nothing = Fake::new();
        assert_eq!(one(&nothing.decide(0, &pids)), Reason::NoController { controller: "pids" });
    }

    #[test]
    fn swap_needs_accounting_and_on_v1_memory() {
        let fake = Fake::new().v1("memory", "/", "/", true);
        let both = Limits::new().memory(64 << 20).swap(0);
        assert_eq!(reasons(&fake.decide(0, &both)), [(Control::Swap, Reason::NoSwapAccounting)]);
        fake.file("memory/memory.memsw.limit_in_bytes", "0");
        assert_eq!(reasons(&fake.decide(0, &both)), []);
        assert_eq!(reasons(&fake.decide(0, &Limits::new().swap(0))), [(Control::Swap, Reason::SwapNeedsMemory)]);
        let placement = fake.decide(0, &Limits::new().memory(1).swap(0));
        assert_eq!(reasons(&placement)[1], (Control::Swap, Reason::SwapNeedsMemory), "the memory limit was refused");

        let fake = Fake::new().cgroup2("cg", "/", "rw");
        fake.group("cg", "memory", "memory", "", Some("domain\n"));
        fake.file("cg/memory.max", "max");
        assert_eq!(reasons(&fake.decide(0, &both)), [(Control::Swap, Reason::NoSwapAccounting)]);
        fake.file("cg/memory.swap.max", "max");
        let plan = fake.decide(0, &both).plan("x").unwrap();
        assert_eq!(fake.steps(&plan)[1..3], ["cg/coracle-x/memory.max = 67108864", "cg/coracle-x/memory.swap.max = 0"]);
    }

    #[test]
    fn a_given_path_is_used_in_each_hierarchy_and_never_left() {
        let fake = Fake::new().v1("pids", "/", "/", true).cgroup2("cg", "/", "rw");
        fake.group("cg", "memory", "memory", "", None);
        fake.group("cg/ci/job", "memory", "memory", "", Some("domain\n"));
        fake.file("pids/ci/job/cgroup.procs", "");
        let limits = Limits::new().pids(8).memory(64 << 20);
        let decide = |given: PathBuf| Placement::decide(&fake.hierarchies(), &Owner { uid: 0, given: Some(given) }, &limits);
        for given in [PathBuf::from("/ci/job"), "ci/job".into(), "ci/./job".into()] {
            let steps = fake.steps(&decide(given.clone()).plan("x").unwrap());
            assert!(
                steps.contains(&"mkdir cg/ci/job/coracle-x".into()) && steps.contains(&"mkdir pids/ci/job/coracle-x".into()),
                "{given:?}"
            );
        }
        for given in ["/ci/other", "../cg/ci/job", "/ci/../ci/job"] {
            let placement = decide(given.into());
            assert!(matches!(reasons(&placement)[0].1, Reason::NoSuchCgroup { .. }), "{given}");
            assert_eq!(placement.tree(), None, "{given}");
        }
        let placement = decide(fake.root().join("cg/ci/job"));
        assert_eq!(placement.tree(), Some(fake.root().join("cg/ci/job").as_path()), "as a directory of the mount");
        assert_eq!(placement.refused(), []);
    }
}
