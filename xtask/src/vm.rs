//! `cargo xtask vm`: tests in a virtual machine whose kernel has cgroup v2 alone, and is old.
//!
//! ```text
//!  Debian's linux-image-*-cloud-amd64 ──apt-get download, dpkg-deb -x──▶ target/vm/kernel
//!  busybox, test programs, libraries that ldd names ─────────cpio─────▶ target/vm/initramfs
//!                                                                        │ qemu-system-x86_64, by software emulation
//!  ttyS0 ─▶ target/vm/console.log (the kernel)                           ▼
//!  ttyS1 ─▶ target/vm/results.log (the tests) ◀── /vm/run: mounts, cgroups, users, then one job after the other
//! ```
//!
//! Nothing is installed on this machine and nothing of it needs root. The machine has no network.

use crate::binaries::{self, Binary};
use crate::cpio::Archive;
use crate::needs::Tier;
use crate::process::{Run, find, is_root, remove};
use crate::report::Report;
use crate::test::Outcome;
use crate::{Result, in_ci, metadata, tools, wants_help};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const HELP: &str = "\
Runs tests in a virtual machine: cgroup v2 alone, kernel 6.1, as root and as a plain user with a delegated cgroup.

Usage: cargo xtask vm [--program FILE]... [TEST...]

  --program FILE   run this program there, as both users, instead of the test programs
  TEST             run only tests whose name contains one of these
";

/// Packages whose test programs run there, beside `tests/`: their meaning depends on the cgroup version or the kernel's age.
/// Their unit tests don't: those would only be twenty times slower.
const PACKAGES: &[&str] = &["coracle-cgroups", "coracle-container", "coracle-netns", "coracle-spawn"];

/// And the one of theirs that has nothing to do with either, and wants perl.
const ON_THE_MACHINE: &str = "coracle-spawn/relay";

/// Modules that the tests may want; those that they depend on come along.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "overlay",
    "veth",
    "bridge",
    "br_netfilter",
    "tun",
    "fuse",
    "loop",
    "squashfs",
    "dummy",
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nft_redir",
    "nft_ct",
    "nft_tproxy",
    "nft_reject_inet",
    "nft_meta_bridge",
    "nft_reject_bridge",
    "nft_fib_inet",
    "nft_limit",
    "nft_log",
    "nft_hash",
    "nft_compat",
    "nf_conntrack",
    "nf_nat",
    "xt_MASQUERADE",
    "xt_addrtype",
];

/// Programs of this machine that the tests there start.
const PROGRAMS: &[&str] = &["docker-registry", "skopeo", "unshare", "chroot", "newuidmap", "newgidmap", "setpriv", "strace", "ip", "nft"];

/// Tests whose meaning depends neither on the cgroup version nor on the kernel's age, and which want a whole Debian around them:
/// coreutils, certificates, a shell that isn't busybox. They run on the machine itself.
const ELSEWHERE: &[&str] = &[
    "anywhere::errors::",
    "anywhere::image::",
    "anywhere::life::",
    "anywhere::owner::",
    "anywhere::blocking::",
    "anywhere::changes::",
    "anywhere::connect::",
    "anywhere::copy::",
    "anywhere::keep_on_failure::",
    "anywhere::logs::",
    "anywhere::ports::",
    "anywhere::postgres::",
    "anywhere::shared::",
    "anywhere::stack::",
    "anywhere::store::",
    "anywhere::terminal::",
    "anywhere::volumes::",
    "anywhere::wait::",
    "root::",
    "what_the_owner_inherited_isnt_passed_on",
    "a_description_of_megabytes_arrives_whole",
];

/// Software emulation is some twenty times slower than the machine itself.
const JOB_SECONDS: u32 = 900;

/// The verb `vm`.
pub(crate) fn main(arguments: &[String]) -> Result {
    if wants_help(arguments) {
        print!("{HELP}");
        return Ok(());
    }
    let mut programs = Vec::new();
    let mut filters = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word == "--program" {
            programs.push(PathBuf::from(words.next().ok_or("--program wants a file")?));
        } else {
            filters.push(word.clone());
        }
    }
    tools::install();
    let jobs = if programs.is_empty() {
        test_jobs()?
    } else {
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        programs.iter().flat_map(|path| both(&name(path), path)).collect()
    };
    let report = run(&jobs, &filters)?;
    for skip in &report.skipped {
        println!("  {} (as {}): {}", skip.test, skip.tier.word(), skip.need);
    }
    println!("{}", report.line());
    if report.failed.is_empty() { Ok(()) } else { Err(format!("failed in the virtual machine:\n  {}", report.failed.join("\n  "))) }
}

/// The step `vm`.
pub(crate) fn step() -> Result<Outcome> {
    tools::install();
    match preconditions() {
        Err(error) if !in_ci() => return Ok(Outcome::Nothing(error)),
        other => other?,
    }
    let elsewhere: Vec<String> = ELSEWHERE.iter().flat_map(|test| ["--skip".into(), (*test).into()]).collect();
    Ok(Outcome::Tests(run(&test_jobs()?, &elsewhere)?))
}

/// What stands in the way, in one sentence.
fn preconditions() -> Result {
    if std::env::consts::ARCH != "x86_64" {
        return Err(String::from("the virtual machine is x86-64, and emulates nothing else yet"));
    }
    for (program, package) in [("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static"), ("mke2fs", "e2fsprogs")] {
        if find(program).is_none() {
            return Err(format!("the virtual machine needs {program}: apt-get install --no-install-recommends {package}"));
        }
    }
    kernel().map(drop)
}

/// A program that runs in the machine as one user.
struct Job {
    name: String,
    program: PathBuf,
    tier: Tier,
}

fn both(name: &str, program: &Path) -> [Job; 2] {
    [Tier::VmRoot, Tier::VmUser].map(|tier| Job { name: name.to_owned(), program: program.to_owned(), tier })
}

fn test_jobs() -> Result<Vec<Job>> {
    let of_packages = |binary: &&Binary| PACKAGES.contains(&binary.package.as_str()) && binary.is_integration();
    let wanted = |binary: &&Binary| binary.is_tiered() || (of_packages(binary) && binary.name() != ON_THE_MACHINE);
    let binaries = binaries::build()?;
    Ok(binaries
        .iter()
        .filter(wanted)
        .flat_map(|binary| both(&if binary.is_tiered() { String::from("tests/") } else { binary.name() }, &binary.path))
        .collect())
}

fn directory() -> PathBuf {
    metadata::target().join("vm")
}

/// A kernel and its modules, unpacked.
struct Kernel {
    image: PathBuf,
    /// The directory that holds `modules.dep`.
    modules: PathBuf,
    version: String,
}

/// Finds the unpacked kernel, or gets it from Debian's packages.
fn kernel() -> Result<Kernel> {
    let place = directory().join("kernel");
    if !place.join("complete").is_file() {
        fetch_kernel(&place)?;
    }
    let modules = place.join("lib/modules");
    let version = std::fs::read_dir(&modules)
        .ok()
        .and_then(|mut entries| entries.next()?.ok()?.file_name().into_string().ok())
        .ok_or_else(|| format!("there is no kernel in {}; remove it and run this again", place.display()))?;
    Ok(Kernel { image: place.join(format!("boot/vmlinuz-{version}")), modules: modules.join(&version), version })
}

fn fetch_kernel(place: &Path) -> Result {
    remove(place)?;
    std::fs::create_dir_all(place).map_err(|error| format!("can't make {}: {error}", place.display()))?;
    let concrete = || -> Result<Option<String>> {
        // The package without a version depends on the newest one with it.
        let text = Run::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]).quiet().output()?;
        Ok(text
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("linux-image-")))
            .map(str::to_owned))
    };
    let mut package = concrete().ok().flatten();
    if package.is_none() && is_root() {
        Run::new("apt-get").args(["update", "-q"]).check()?;
        package = concrete()?;
    }
    let package = package.ok_or("the virtual machine needs Debian's linux-image-cloud-amd64, which apt doesn't know here")?;
    let downloads = directory().join("download");
    remove(&downloads)?;
    std::fs::create_dir_all(&downloads).map_err(|error| format!("can't make {}: {error}", downloads.display()))?;
    Run::new("apt-get").args(["download", "-q", "-o", "APT::Sandbox::User=root", &package]).dir(&downloads).check()?;
    let archive = std::fs::read_dir(&downloads)
        .ok()
        .and_then(|mut entries| Some(entries.next()?.ok()?.path()))
        .ok_or_else(|| format!("apt-get download left nothing in {}", downloads.display()))?;
    Run::new("dpkg-deb").arg("-x").arg(&archive).arg(place).check()?;
    remove(&downloads)?;
    // The package leaves this to its installation.
    let modules = place.join("lib/modules");
    let version = std::fs::read_dir(&modules)
        .ok()
        .and_then(|mut entries| entries.next()?.ok()?.file_name().into_string().ok())
        .ok_or_else(|| format!("{package} has no modules"))?;
    Run::new("busybox").args(["depmod", "-b"]).arg(place).arg(&version).check()?;
    crate::process::write(&place.join("complete"), package)
}

/// Builds the machine, runs it, and reads what came back.
fn run(jobs: &[Job], filters: &[String]) -> Result<Report> {
    preconditions()?;
    let kernel = kernel()?;
    let began = Instant::now();
    let initramfs = directory().join("initramfs");
    let size = initramfs_of(&kernel, jobs, filters)?;
    crate::process::write(&initramfs, &size)?;
    let disk = directory().join("disk");
    let _ = std::fs::remove_file(&disk);
    Run::new(find("mke2fs").unwrap_or_default()).args(["-q", "-t", "ext4", "-F"]).arg(&disk).arg("4G").quiet().output()?;

    let (console, results) = (directory().join("console.log"), directory().join("results.log"));
    for log in [&console, &results] {
        let _ = std::fs::remove_file(log);
    }
    println!("   {} and {} MiB of programs; {:.1} s to build", kernel.version, size.len() >> 20, began.elapsed().as_secs_f64());
    let booted = Instant::now();
    let limit = Duration::from_secs(60 + u64::try_from(jobs.len()).unwrap_or(0).min(3) * u64::from(JOB_SECONDS));
    let machine = Run::new("qemu-system-x86_64")
        // Real cores where there are some; the host's kvm is of no use to an ordinary kernel everywhere.
        .args(["-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&initramfs)
        .args(["-append", "console=ttyS0 loglevel=4 panic=-1 cgroup_no_v1=all systemd.unified_cgroup_hierarchy=1"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-serial")
        .arg(format!("file:{}", results.display()))
        .arg("-drive")
        .arg(format!("file={},if=virtio,format=raw,cache=unsafe", disk.display()))
        .limit(limit)
        .quiet()
        .logged(&directory().join("qemu.log"))?;
    let _ = std::fs::remove_file(&disk);
    let text = std::fs::read(&results).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    println!("   the machine ran for {:.1} s", booted.elapsed().as_secs_f64());
    let report = read(&text, jobs);
    if report.is_err() || !machine.success {
        let console = std::fs::read(&console).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = console.lines().collect();
        println!("   qemu: {}; {}\n   the console's end:", machine.ending, machine.text.trim());
        lines[lines.len().saturating_sub(30)..].iter().for_each(|line| println!("   | {line}"));
    }
    report
}

/// Splits the results into jobs. A job that never began or never ended is a failure.
fn read(text: &str, jobs: &[Job]) -> Result<Report> {
    let mut total = Report::default();
    let mut current: Option<(String, String)> = None;
    let mut ended: BTreeMap<String, (String, String)> = BTreeMap::new();
    for line in text.lines().map(|line| line.trim_end_matches('\r')) {
        match line.strip_prefix("@@ ") {
            Some(fact) if fact.starts_with("is ") => println!("   {}", &fact[3..]),
            Some(mark) if mark.starts_with("begin ") => current = Some((mark[6..].to_owned(), String::new())),
            Some(mark) if mark.starts_with("left ") => {
                total.failed.push(format!("in the virtual machine: left behind: {}", &mark[5..]));
            }
            Some(mark) if mark.starts_with("end ") => {
                if let Some((job, output)) = current.take() {
                    let code = mark.rsplit(' ').next().unwrap_or_default();
                    ended.insert(job, (output, code.to_owned()));
                }
            }
            _ => {
                if let Some((_, output)) = &mut current {
                    output.push_str(line);
                    output.push('\n');
                }
            }
        }
    }
    if !text.contains("@@ is ") {
        return Err(String::from("the virtual machine didn't reach user space"));
    }
    if let Some((job, output)) = current {
        ended.insert(job, (output, String::from("nothing: the machine ended in the midst of it")));
    }
    for (index, job) in jobs.iter().enumerate() {
        let log = binaries::log(&job.name, job.tier);
        match ended.get(&index.to_string()) {
            Some((output, code)) => {
                crate::process::write(&log, output)?;
                let ending = match code.as_str() {
                    "124" | "137" | "143" => format!("killed after {JOB_SECONDS} s"),
                    code => format!("exit status: {code}"),
                };
                total.absorb(binaries::conclude(&job.name, job.tier, output, code == "0", &ending));
            }
            None => total.failed.push(format!("{} as {}: the machine ended before it began", job.name, job.tier.word())),
        }
    }
    if !text.contains("@@ done") {
        total.failed.push(String::from("the virtual machine ended before it was done"));
    }
    Ok(total)
}

/// The machine's first file system; its `/init` copies it to the disk, since a root in memory can't be pivoted away from.
fn initramfs_of(kernel: &Kernel, jobs: &[Job], filters: &[String]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for path in ["proc", "sys", "dev", "run", "disk", "root", "var/tmp", "usr/bin", "usr/sbin", "bin", "sbin", "etc"] {
        archive.directory(path, 0o755);
    }
    archive.directory("tmp", 0o1777);
    let busybox = find("busybox").ok_or("busybox is missing")?;
    archive.copy("bin/busybox", 0o755, &busybox)?;
    for applet in Run::new(&busybox).arg("--list").quiet().output()?.split_whitespace() {
        archive.link(&format!("bin/{applet}"), "busybox");
    }
    // Where the kernel looks for it when it wants a module.
    archive.link("sbin/modprobe", "/bin/busybox");

    modules(kernel, &mut archive)?;
    let mut libraries = BTreeSet::new();
    for name in PROGRAMS {
        if let Some(path) = find(name) {
            // newuidmap is setuid root.
            let mode = if name.starts_with("new") { 0o4755 } else { 0o755 };
            archive.copy(&format!("usr/bin/{name}"), mode, &path)?;
            libraries.extend(needed(&path));
        }
    }
    let program = metadata::target().join("debug/coracle");
    if program.is_file() {
        archive.file("vm/bin/coracle", 0o755, &stripped(&program)?);
        libraries.extend(needed(&program));
    }
    let mut script = RUN.to_owned();
    for (index, job) in jobs.iter().enumerate() {
        let name = job.name.replace('/', "-");
        archive.file(&format!("vm/bin/{name}.test"), 0o755, &stripped(&job.program)?);
        libraries.extend(needed(&job.program));
        script.push_str(&format!("job {index} {} /vm/bin/{name}.test {}\n", job.tier.word(), filters.join(" ")));
    }
    script.push_str("echo '@@ done'\nsync\npoweroff -f\n");
    for library in libraries {
        archive.copy(&library.display().to_string(), 0o755, &library)?;
    }
    archive.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\ncoracle-test:x:1000:1000::/home/coracle-test:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    );
    archive.file("etc/group", 0o644, b"root:x:0:\ntty:x:5:\ncoracle-test:x:1000:\nnogroup:x:65534:\n");
    archive.file("etc/subuid", 0o644, b"coracle-test:100000:65536\n");
    archive.file("etc/subgid", 0o644, b"coracle-test:100000:65536\n");
    archive.file("etc/hosts", 0o644, b"127.0.0.1 localhost\n::1 localhost\n");
    archive.file("etc/hostname", 0o644, b"vm\n");
    archive.file("etc/resolv.conf", 0o644, b"");
    archive.file("etc/nsswitch.conf", 0o644, b"passwd: files\ngroup: files\nhosts: files\n");
    archive.file("etc/os-release", 0o644, b"ID=coracle-vm\nPRETTY_NAME=\"the virtual machine of cargo xtask vm\"\n");
    archive.file("vm/run", 0o755, script.replace("@JOB_SECONDS@", &JOB_SECONDS.to_string()).as_bytes());
    archive.file("init", 0o755, INIT.as_bytes());
    Ok(archive.finish())
}

/// A test program without its debugging information: that is nine tenths of it.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let output = directory().join("stripped");
    Run::new("strip").arg("-o").arg(&output).arg(program).quiet().output()?;
    let bytes = std::fs::read(&output).map_err(|error| format!("can't read {}: {error}", output.display()));
    let _ = std::fs::remove_file(&output);
    bytes
}

/// The libraries and the loader that a program names; none for a static one.
fn needed(program: &Path) -> Vec<PathBuf> {
    let text = Run::new("ldd").arg(program).quiet().output().unwrap_or_default();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(|word| PathBuf::from(word.trim_end_matches(':'))).collect()
}

/// Puts the wanted modules in, those that they depend on, and the tables by which modprobe finds them.
fn modules(kernel: &Kernel, archive: &mut Archive) -> Result {
    let target = format!("lib/modules/{}", kernel.version);
    let dependencies = kernel.modules.join("modules.dep");
    let table = std::fs::read_to_string(&dependencies).map_err(|error| format!("can't read {}: {error}", dependencies.display()))?;
    let name = |path: &str| path.rsplit('/').next().unwrap_or(path).trim_end_matches(".ko").replace('-', "_");
    let rows: BTreeMap<String, (&str, Vec<&str>)> = table
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, needs)| (name(path), (path, needs.split_whitespace().collect())))
        .collect();
    let mut files = BTreeSet::new();
    let mut wanted: Vec<String> = MODULES.iter().map(|module| (*module).to_owned()).collect();
    while let Some(module) = wanted.pop() {
        // What isn't in the table is built into this kernel, or unknown to it.
        if let Some((path, needs)) = rows.get(&module.replace('-', "_"))
            && files.insert(*path)
        {
            wanted.extend(needs.iter().map(|path| name(path)));
        }
    }
    for file in files {
        archive.copy(&format!("{target}/{file}"), 0o644, &kernel.modules.join(file))?;
    }
    for file in ["modules.dep", "modules.alias", "modules.symbols", "modules.builtin"] {
        if kernel.modules.join(file).is_file() {
            archive.copy(&format!("{target}/{file}"), 0o644, &kernel.modules.join(file))?;
        }
    }
    Ok(())
}

/// PID 1 in memory: finds the disk, copies everything there, and goes on from it.
const INIT: &str = r"#!/bin/busybox sh
# PID 1 of the first file system: a container can't pivot_root away from a root in memory, so we move to the disk.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
modprobe virtio_pci
modprobe virtio_blk
for try in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda ] && break; sleep 0.2; done
mount -t ext4 /dev/vda /disk || { echo 'no disk'; poweroff -f; }
for path in bin sbin lib lib64 usr etc vm root tmp var; do [ -e /$path ] && cp -a /$path /disk/; done
mkdir -p /disk/proc /disk/sys /disk/dev /disk/run /disk/home
for path in dev proc sys; do mount --move /$path /disk/$path; done
exec switch_root /disk /vm/run
";

/// PID 1 on the disk: makes the machine look like a host, says what it is, runs the jobs, turns it off.
const RUN: &str = r#"#!/bin/busybox sh
# PID 1 of the machine. Results go to the second serial line, apart from what the kernel says.
# Debian's programs stand before busybox's of the same name, which know fewer options. (Its shell takes its own all the same.)
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
stty -F /dev/ttyS1 raw -echo
exec </dev/null >/dev/ttyS1 2>&1
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd
chmod 666 /dev/fuse /dev/net/tun 2>/dev/null
hostname vm
ip link set lo up
for module in overlay veth bridge br_netfilter nf_tables nft_meta_bridge; do modprobe $module; done
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo +$controller > /sys/fs/cgroup/cgroup.subtree_control
done

echo "@@ is Linux $(uname -r), up after $(cut -d' ' -f1 /proc/uptime) s"
echo "@@ is cgroup controllers: $(cat /sys/fs/cgroup/cgroup.controllers)"
mkdir -p /tmp/probe/lower /tmp/probe/upper /tmp/probe/work /tmp/probe/all
if mount -t overlay -o lowerdir=/tmp/probe/lower,upperdir=/tmp/probe/upper,workdir=/tmp/probe/work o /tmp/probe/all; then
    echo '@@ is overlay mounts'; umount /tmp/probe/all
else
    echo '@@ is overlay does NOT mount'
fi
rm -rf /tmp/probe

# A cgroup given to the plain user, as systemd gives one with Delegate=yes.
given=/sys/fs/cgroup/user-1000
mkdir -p $given/tests /home/coracle-test /run/user/1000
for controller in $(cat $given/cgroup.controllers); do echo +$controller > $given/cgroup.subtree_control; done
for directory in $given $given/tests; do
    chown 1000:1000 $directory $directory/cgroup.procs $directory/cgroup.subtree_control $directory/cgroup.threads
done
chown 1000:1000 /home/coracle-test /run/user/1000
chmod 700 /home/coracle-test /run/user/1000

left() { # what stands now that didn't stand before
    find /sys/fs/cgroup -type d | sed 's/^/cgroup /'
    cut -d' ' -f2 /proc/mounts | sed 's/^/mount /'
    ls /sys/class/net | sed 's/^/link /'
    ls -A /tmp | sed 's/^/file in \/tmp: /'
    for process in /proc/[0-9]*; do
        # Kernel threads have no program; we and our children are expected.
        [ -e $process/exe ] && [ "$(readlink $process/exe)" != /bin/busybox ] && echo "process $(cat $process/comm)"
    done
}
job() { # INDEX TIER PROGRAM [FILTER...]
    index=$1; tier=$2; program=$3; shift 3
    left > /run/before
    echo "@@ begin $index"
    common="PATH=$PATH CORACLE_CI=1 CORACLE_TIER=$tier CORACLE_PROGRAM=/vm/bin/coracle RUST_BACKTRACE=1 TMPDIR=/tmp CORACLE_FIXTURES=/vm/fixtures"
    if [ $tier = vm-root ]; then
        cd /root
        timeout -k 10 @JOB_SECONDS@ env -i $common HOME=/root XDG_RUNTIME_DIR=/run $program --show-output "$@"
    else
        cd /home/coracle-test
        timeout -k 10 @JOB_SECONDS@ sh -c "echo \$\$ > $given/tests/cgroup.procs; exec \"\$@\"" sh \
            /usr/bin/setpriv --reuid 1000 --regid 1000 --init-groups \
            env -i $common HOME=/home/coracle-test XDG_RUNTIME_DIR=/run/user/1000 CORACLE_CGROUP=$given $program --show-output "$@"
    fi
    code=$?
    echo "@@ end $index $code"
    for try in 1 2 3 4 5 6 7 8 9 10; do
        left > /run/after
        cmp -s /run/before /run/after && return
        sleep 0.5
    done
    grep -vxFf /run/before /run/after | sed "s|^|@@ left $program as $tier: |"
}
"#;
