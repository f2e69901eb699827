//! What a test may need, how a skip names it, and on which runs the need is served.
//!
//! `xtask` compiles this page too: a skip whose need the run serves is a failure in CI, so both must read the same table.

/// One thing that a test may need and a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// uid 0 with CAP_SYS_ADMIN.
    Root,
    /// Any uid but 0.
    PlainUser,
    /// A plain user with ranges in /etc/subuid and /etc/subgid, and newuidmap.
    SubIds,
    /// A plain user without sub-id ranges.
    NoSubIds,
    /// User namespaces that this user may make.
    UserNamespaces,
    /// Permission to make cgroups: root, or a plain user who was given a cgroup by `CORACLE_CGROUP`.
    Delegation,
    /// cgroup v2 alone, with its controllers.
    CgroupV2,
    /// The hybrid layout: v1 controllers and a cgroup2 tree beside them.
    CgroupHybrid,
    /// cgroup v1 hierarchies with controllers: the hybrid machines have them.
    CgroupV1,
    /// A kernel before 6.5, whose overlay has no `lowerdir+`.
    OldKernel,
    /// A user manager of systemd on the user's bus.
    UserSession,
    /// AppArmor's restriction of user namespaces (Ubuntu 24.04).
    AppArmorRestriction,
    /// busybox, linked statically.
    Busybox,
    /// The Debian root file system: in the cache, or root and debootstrap to make it.
    DebianRoot,
    /// Debian's docker-registry, and skopeo to fill it.
    Registry,
    /// skopeo, a peer that reads and writes our archives.
    Skopeo,
    /// buildah, a peer that reads our archives.
    Buildah,
    /// The program `coracle`.
    Program,
    /// strace.
    Strace,
    /// runc, an oracle.
    Runc,
    /// crun, a peer.
    Crun,
    /// bubblewrap, an oracle.
    Bubblewrap,
    /// python3, which a test uses as a program of the field.
    Python3,
    /// PostgreSQL of Debian's packages, and more than one id.
    Postgres,
    /// The kernel's own tables of system calls, in linux-libc-dev.
    LinuxLibcDev,
    /// A kernel that runs 32-bit programs of x86.
    Ia32Emulation,
    /// dig.
    Dig,
    /// podman, a peer that unpacks layers.
    Podman,
    /// Docker's server, which a test starts with roots of its own.
    Docker,
    /// openssl, which makes certificates.
    OpenSsl,
    /// umoci, a peer that unpacks layers.
    Umoci,
    /// Go, whose reader of tar archives is an oracle.
    Go,
    /// Archives that nobody here wrote: `cargo xtask tools` fetches them.
    Corpora,
    /// A kernel that keeps project quotas of ext4, and e2fsprogs.
    ProjectQuotas,
    /// The sources beside the test: it reads this repository.
    Repository,
    /// `/dev/fuse`, for root.
    Fuse,
    /// Loop devices, for root.
    LoopDevices,
}

/// Who runs the tests, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Root on this machine.
    Root,
    /// A plain user with sub-id ranges and a delegated cgroup.
    User,
    /// A plain user without either.
    NoSub,
    /// Root in the virtual machine: cgroup v2 alone, kernel 6.1.
    VmRoot,
    /// A plain user in the virtual machine, with sub-id ranges and a delegated cgroup.
    VmUser,
}

use Tier::{NoSub, Root, User, VmRoot, VmUser};

/// The needs, with the word that a skip prints and the runs that serve it. An empty list means: no run of ours serves it.
const TABLE: &[(Need, &str, &[Tier])] = &[
    (Need::Root, "root", &[Root, VmRoot]),
    (Need::PlainUser, "plain-user", &[User, NoSub, VmUser]),
    (Need::SubIds, "sub-ids", &[User, VmUser]),
    (Need::NoSubIds, "no-sub-ids", &[NoSub]),
    (Need::UserNamespaces, "user-namespaces", &[Root, User, NoSub, VmRoot, VmUser]),
    (Need::Delegation, "delegation", &[Root, User, VmRoot, VmUser]),
    (Need::CgroupV2, "cgroup-v2", &[VmRoot, VmUser]),
    // Only where the machine is hybrid, which a developer's machine seldom is; the virtual machine never is.
    (Need::CgroupHybrid, "cgroup-hybrid", &[]),
    (Need::CgroupV1, "v1-hierarchies", &[]),
    (Need::OldKernel, "old-kernel", &[VmRoot, VmUser]),
    (Need::UserSession, "user-session", &[]),
    (Need::AppArmorRestriction, "apparmor-restriction", &[]),
    (Need::Busybox, "busybox", &[Root, User, NoSub, VmRoot, VmUser]),
    (Need::DebianRoot, "debian-root", &[Root, User, NoSub]),
    (Need::Registry, "registry", &[Root, User, NoSub, VmRoot, VmUser]),
    (Need::Skopeo, "skopeo", &[Root, User, NoSub]),
    (Need::Buildah, "buildah", &[Root, User, NoSub]),
    (Need::Program, "program", &[Root, User, NoSub, VmRoot, VmUser]),
    (Need::Strace, "strace", &[Root, User, NoSub]),
    (Need::Runc, "runc", &[Root, User, NoSub]),
    (Need::Crun, "crun", &[Root, User, NoSub]),
    (Need::Bubblewrap, "bubblewrap", &[Root, User, NoSub]),
    (Need::Python3, "python3", &[Root, User, NoSub]),
    (Need::Postgres, "postgresql", &[Root, User]),
    (Need::LinuxLibcDev, "linux-libc-dev", &[Root, User, NoSub]),
    (Need::Ia32Emulation, "config-ia32-emulation", &[]),
    (Need::Dig, "dig", &[Root, User, NoSub]),
    (Need::Podman, "podman", &[Root, User, NoSub]),
    (Need::Docker, "dockerd", &[Root, User, NoSub]),
    (Need::OpenSsl, "openssl", &[Root, User, NoSub]),
    (Need::Umoci, "umoci", &[Root, User, NoSub]),
    (Need::Go, "go", &[Root, User, NoSub]),
    (Need::Corpora, "corpora", &[Root]),
    // The kernel of the machine that tests this has no quota format (CONFIG_QFMT_V2).
    (Need::ProjectQuotas, "project-quotas", &[]),
    (Need::Repository, "repository", &[Root]),
    (Need::Fuse, "fuse", &[Root]),
    (Need::LoopDevices, "loop-devices", &[Root]),
];

impl Need {
    /// The word that names it in `SKIP: <word>: <test>`.
    pub(crate) fn word(self) -> &'static str {
        TABLE.iter().find(|row| row.0 == self).map_or("", |row| row.1)
    }

    /// The need that a skip's text names: the table's word, or that word as people write it: "cgroup v2", "needs root", "root, to become somebody else",
    /// "a-file (linux-libc-dev on x86_64)".
    pub(crate) fn named(text: &str) -> Option<Self> {
        let text = text.split(',').next().unwrap_or(text).trim().to_ascii_lowercase();
        let text = text.strip_prefix("needs ").or_else(|| text.strip_prefix("need ")).unwrap_or(&text);
        let beside = text.split_once('(').and_then(|(_, inside)| inside.split([' ', ')']).next());
        [Some(text), beside].into_iter().flatten().find_map(|text| {
            let word = text.replace([' ', '_'], "-");
            TABLE.iter().find(|row| row.1 == word).map(|row| row.0)
        })
    }

    /// Whether runs of this tier serve the need, so that a skip there is a hole and not a fact.
    pub(crate) fn served_by(self, tier: Tier) -> bool {
        TABLE.iter().any(|row| row.0 == self && row.2.contains(&tier))
    }
}

impl Tier {
    /// The word in `CORACLE_TIER`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Root => "root",
            User => "user",
            NoSub => "nosub",
            VmRoot => "vm-root",
            VmUser => "vm-user",
        }
    }

    /// The tier that `CORACLE_TIER` names.
    pub(crate) fn named(word: &str) -> Option<Self> {
        [Root, User, NoSub, VmRoot, VmUser].into_iter().find(|tier| tier.word() == word)
    }
}
