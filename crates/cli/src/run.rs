//! From the flags of `coracle run` to the description of a container.

use crate::arguments::{BestEffort, Run};
use crate::duration::duration;
use crate::environment;
use crate::failure::Fault;
use crate::mounts;
use coracle_container::{Container, ContainerBuilder, Control, Network, Publish, Rlimit, Stdio};
use std::ffi::{OsStr, OsString};

/// Puts the description together. Everything that is wrong with the flags is reported at once.
pub(crate) fn describe(arguments: &Run, outer: impl Fn(&OsStr) -> Option<OsString>) -> Result<ContainerBuilder, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut words = arguments.words.iter();
    let mut builder = match (&arguments.rootfs, &arguments.oci_layout) {
        (Some(directory), _) => {
            if words.len() == 0 && arguments.entrypoint.is_none() {
                faults.push(Fault::new("--rootfs: no command is named", "write it behind the directory: coracle run --rootfs DIR COMMAND"));
            }
            Container::from_rootfs(directory)
        }
        (None, Some(directory)) => Container::from_oci_layout(directory),
        (None, None) if arguments.snapshot.is_some() => Container::from_snapshot(arguments.snapshot.clone().unwrap_or_default()),
        (None, None) => {
            let image = words.next();
            if image.is_none() {
                faults.push(Fault::new("no image is named", "coracle run IMAGE [COMMAND], or --rootfs DIR COMMAND"));
            }
            // What isn't UTF-8 is no image's name either, and the engine says so.
            Container::from_image(image.map(|image| image.to_string_lossy()).unwrap_or_default())
        }
    };

    if words.len() > 0 {
        builder = builder.cmd(words);
    }
    if let Some(entrypoint) = &arguments.entrypoint {
        builder = builder.entrypoint(Some(entrypoint).filter(|program| !program.is_empty()));
    }
    builder = builder.envs(environment::variables(&arguments.env_file, &arguments.env, &outer, &mut faults));
    if let Some(directory) = &arguments.workdir {
        builder = builder.workdir(directory);
    }
    if let Some(user) = &arguments.user {
        builder = builder.user(user);
    }
    if let Some(name) = &arguments.hostname {
        builder = builder.hostname(name);
    }
    if let Some(yes) = arguments.init {
        builder = builder.init(yes);
    }

    builder = crate::health::describe(builder, arguments, &mut faults);
    builder = crate::security::describe(builder, &arguments.security, arguments.memory.as_deref(), &mut faults);

    let volumes = arguments.volume.iter().map(|word| mounts::volume(word));
    let mounts = arguments.mount.iter().map(|word| mounts::mount(word));
    let tmpfs = arguments.tmpfs.iter().map(|word| mounts::tmpfs(word));
    for mount in volumes.chain(mounts).chain(tmpfs) {
        match mount {
            Ok(mount) => builder = builder.mount(mount),
            Err(fault) => faults.push(fault),
        }
    }
    builder = builder.read_only_rootfs(arguments.read_only.unwrap_or(false));

    // Docker's 0, and -1 for pids, are no limit.
    if let Some(size) = arguments.memory.as_deref().filter(|size| *size != "0") {
        builder = builder.memory(size);
    }
    if let Some(cpus) = arguments.cpus.filter(|cpus| *cpus != 0.0) {
        builder = builder.cpus(cpus);
    }
    match arguments.pids_limit {
        None | Some(0 | -1) => {}
        Some(limit) => match u64::try_from(limit) {
            Ok(limit) => builder = builder.pids(limit),
            Err(_) => faults.push(Fault::new(format!("--pids-limit {limit} is no number of processes"), "1 or more, or -1 for no limit")),
        },
    }
    for word in &arguments.ulimit {
        match word.parse::<Rlimit>() {
            Ok(limit) => builder = builder.rlimit(limit),
            Err(error) => faults.push(Fault::new(format!("--ulimit {error}"), "for example --ulimit nofile=1024:2048")),
        }
    }
    let mut time = |flag: &str, text: &Option<String>| match text.as_deref().map(|text| duration(flag, text))? {
        Ok(time) => Some(time),
        Err(fault) => {
            faults.push(fault);
            None
        }
    };
    if let Some(wall) = time("--timeout", &arguments.timeout) {
        builder = builder.wall(wall);
    }
    if let Some(most) = time("--cpu-time", &arguments.cpu_time) {
        builder = builder.cpu_time(most);
    }
    if let Some(idle) = time("--idle-timeout", &arguments.idle_timeout) {
        builder = builder.idle_timeout(idle);
    }
    if let Some(most) = &arguments.output_limit {
        builder = builder.output_limit(most.as_str());
    }
    if let Some(most) = &arguments.log_size {
        builder = builder.log_size(most.as_str());
    }
    if let Some(name) = &arguments.name {
        builder = builder.name(name);
    }
    if arguments.detach {
        builder = builder.auto_remove(arguments.rm == Some(true));
    }
    for limit in &arguments.best_effort {
        builder = builder.best_effort(match limit {
            BestEffort::Memory => Control::Memory,
            BestEffort::Cpus => Control::Cpu,
            BestEffort::Pids => Control::Pids,
            BestEffort::CpuTime => Control::CpuTime,
            BestEffort::Devices => Control::Devices,
            BestEffort::Io => Control::Io,
        });
    }

    // The engine takes each in turn, and ALL first: the order of the two flags doesn't matter.
    builder = arguments.cap_add.iter().fold(builder, |builder, name| builder.cap_add(name));
    builder = arguments.cap_drop.iter().fold(builder, |builder, name| builder.cap_drop(name));
    for (n, word) in arguments.network.iter().enumerate() {
        let mut network = match word.as_str() {
            "none" => Network::none(),
            "host" => Network::host(),
            "bridge" => Network::bridge(),
            name => match name.strip_prefix("container:") {
                Some(id) => Network::container(id),
                None => Network::named(name),
            },
        };
        if n == 0 {
            network = [&arguments.ip, &arguments.ip6].into_iter().flatten().fold(network, Network::address);
        }
        if let Some(mac) = arguments.mac_address.as_ref().filter(|_| n == 0) {
            network = network.mac(mac);
        }
        builder = builder.network(arguments.network_alias.iter().fold(network, |network, name| network.alias(name)));
    }
    let private =
        arguments.ip.is_some() || arguments.ip6.is_some() || arguments.mac_address.is_some() || !arguments.network_alias.is_empty();
    if arguments.network.is_empty() && private {
        faults.push(Fault::new(
            "--ip, --ip6, --mac-address and --network-alias are for private networks",
            "name one: --network bridge, or one of `coracle network ls`",
        ));
    }
    // Docker's meaning of a port without an address.
    builder = arguments.publish.iter().fold(builder, |builder, word| builder.publish(Publish::from(word.as_str()).everywhere()));
    for word in &arguments.add_host {
        match word.split_once([':', '=']) {
            Some((name, address)) => builder = builder.host(name, address.trim_start_matches('[').trim_end_matches(']')),
            None => faults.push(Fault::new(format!("--add-host {word}: there is no address"), "for example --add-host db:10.1.2.3")),
        }
    }
    builder = arguments.dns.iter().fold(builder, |builder, word| builder.dns(word));
    builder = arguments.dns_search.iter().fold(builder, |builder, word| builder.dns_search(word));
    builder = arguments.dns_option.iter().fold(builder, |builder, word| builder.dns_option(word));
    for word in &arguments.label {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        builder = builder.label(key, value);
    }

    if arguments.tty {
        let (columns, rows) = crate::terminal::size();
        return if faults.is_empty() { Ok(builder.tty(columns, rows)) } else { Err(faults) };
    }
    builder = builder.stdin(if arguments.interactive { Stdio::inherit() } else { Stdio::null() });
    let outputs = || if arguments.detach { Stdio::log() } else { Stdio::inherit() };
    builder = builder.stdout(outputs()).stderr(outputs());
    if faults.is_empty() { Ok(builder) } else { Err(faults) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Arguments, Command};
    use clap::{CommandFactory, Parser};

    fn parse(words: &[&str]) -> Result<Run, clap::Error> {
        match Arguments::read(["coracle", "run"].iter().chain(words).map(OsString::from))?.command {
            Command::Run(run) => Ok(*run),
            _ => unreachable!("it says run"),
        }
    }

    fn outer(key: &OsStr) -> Option<OsString> {
        (key == "HERE").then(|| "from here".into())
    }

    /// What the flags become, as the description shows itself.
    fn described(words: &[&str]) -> String {
        format!("{:?}", describe(&parse(words).unwrap_or_else(|e| panic!("{words:?}: {e}")), outer).unwrap_or_else(|e| panic!("{e:?}")))
    }

    #[track_caller]
    fn has(words: &[&str], expected: &[&str]) {
        let shown = described(words);
        for part in expected {
            assert!(shown.contains(part), "{words:?}: no {part} in {shown}");
        }
    }

    #[test]
    fn the_definition_of_the_flags_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_parser_of_frequent_verbs_reads_what_the_whole_does() {
        let lines = [
            "coracle --root /r run --rm -m 256m -e A=b --name x debian:12 sh -c true",
            "coracle run --root /r --rootfs / -- echo --root /q",
            "coracle exec -e A=b x ls --root",
            "coracle --root /r exec --root /q x true",
            "coracle ps -a",
            "coracle run",
            "coracle run --no-such-flag x",
            "coracle exec --help",
            "coracle --version",
        ];
        for line in lines {
            let words = || line.split(' ').map(OsString::from);
            let shown = |read: Result<Arguments, clap::Error>| read.map(|read| format!("{read:?}")).map_err(|error| error.to_string());
            assert_eq!(shown(Arguments::read(words())), shown(Arguments::try_parse_from(words())), "{line}");
        }
    }

    #[test]
    fn the_first_word_is_the_image_and_ends_the_flags() {
        has(&["debian:12"], &["source: Image(\"debian:12\")", "cmd: None", "entrypoint: None"]);
        has(
            &["debian", "ls", "-l", "--env", "A=1"],
            &["source: Image(\"debian\")", "cmd: Some([\"ls\", \"-l\", \"--env\", \"A=1\"])", "env: []"],
        );
        has(&["debian", "--", "x"], &["cmd: Some([\"--\", \"x\"])"]);
        has(&["--", "debian", "-x"], &["source: Image(\"debian\")", "cmd: Some([\"-x\"])"]);
        assert!(parse(&["--no-such-flag", "debian"]).is_err());
    }

    #[test]
    fn a_directory_takes_the_place_of_the_image() {
        has(&["--rootfs", "/r", "true", "-x"], &["source: Rootfs(\"/r\")", "cmd: Some([\"true\", \"-x\"])"]);
        has(&["--oci-layout=/l"], &["source: OciLayout(\"/l\")", "cmd: None"]);
        has(&["--oci-layout", "/l", "id"], &["source: OciLayout(\"/l\")", "cmd: Some([\"id\"])"]);
        has(&["--rootfs", "/r", "--entrypoint", "/bin/sh"], &["entrypoint: Some([\"/bin/sh\"])", "cmd: None"]);
        assert!(parse(&["--rootfs", "/r", "--oci-layout", "/l", "x"]).is_err());
    }

    #[test]
    fn each_flag_has_its_place_in_the_description() {
        has(&["--entrypoint", "", "i", "c"], &["entrypoint: Some([])", "cmd: Some([\"c\"])"]);
        has(&["-e", "A=1", "--env=HERE", "-e", "NOT_HERE", "i"], &["env: [\"A\", \"HERE\"]"]);
        has(&["-w", "/w", "-u", "1:2", "-h", "box", "i"], &["workdir: Some(\"/w\")", "user: Some(\"1:2\")", "hostname: Some(\"box\")"]);
        has(&["-v", "/a:/b:ro", "i"], &["Bind { source: \"/a\", owner: Same }, target: \"/b\", read_only: true"]);
        has(&["--mount", "type=bind,src=/a,dst=/b", "i"], &["Bind { source: \"/a\", owner: Same }, target: \"/b\", read_only: false"]);
        has(&["--tmpfs", "/t:size=1m", "i"], &["Tmpfs { size: Some(\"1m\"), mode: 1023 }, target: \"/t\""]);
        has(&["--read-only", "i"], &["read_only_rootfs: true"]);
        has(&["--read-only=false", "i"], &["read_only_rootfs: false"]);
        has(&["-m", "64m", "--cpus", "1.5", "--pids-limit", "7", "i"], &["Text(\"64m\")", "cpus: Some(1.5)", "pids: Some(7)"]);
        has(&["-m0", "--cpus=0", "--pids-limit", "-1", "i"], &["memory: None", "cpus: None", "pids: None"]);
        has(&["--ulimit", "nofile=10:20", "i"], &["Rlimit { resource: Nofile, soft: 10, hard: 20 }"]);
        has(&["--cap-add", "NET_ADMIN", "--cap-drop=ALL", "i"], &["capabilities: [(true, \"NET_ADMIN\"), (false, \"ALL\")]"]);
        has(&["i"], &["networks: []", "publish: []"]);
        has(&["--network", "host", "i"], &["networks: [Network(Host)]"]);
        has(&["--net=none", "i"], &["networks: [Network(None)]"]);
        has(&["--net=bridge", "i"], &["networks: [Network(Private, internal: false, subnets: [])]"]);
        has(&["--net=container:abc", "i"], &["networks: [Network(Container(\"abc\"))]"]);
        has(
            &["--net=a", "--net=b", "--ip=10.1.2.3", "--ip6=fd00::3", "--mac-address=02:00:00:00:00:01", "--network-alias=db", "i"],
            &[
                "Network(Named(\"a\"), address: Some(\"10.1.2.3\"), address6: Some(\"fd00::3\"), mac: Some(\"02:00:00:00:00:01\"), aliases: [\"db\"])",
                "Network(Named(\"b\"), address: None, address6: None, mac: None, aliases: [\"db\"])",
            ],
        );
        has(
            &["-p", "8080:80", "-p=53/udp", "i"],
            &["host_port: 8080, container_port: 80", "container_port: 53, count: 1, transport: Udp", "everywhere: true"],
        );
        has(&["--add-host", "db:10.1.2.3", "--add-host=db6:[fd00::1]", "i"], &["(\"db\", \"10.1.2.3\"), (\"db6\", \"fd00::1\")"]);
        has(
            &["--dns=1.2.3.4", "--dns-search=x.org", "--dns-opt=ndots:1", "i"],
            &["servers: [\"1.2.3.4\"], search: [\"x.org\"], options: [\"ndots:1\"]"],
        );
        has(&["-l", "a=1", "--label", "b", "i"], &["labels: {\"a\": \"1\", \"b\": \"\"}"]);
        has(&["--preset", "untrusted", "i"], &["preset: Some(Untrusted)"]);
        has(&["--security-opt", "no-new-privileges", "--privileged", "i"], &["no_new_privileges: true", "privileged: true"]);
        has(&["--security-opt=seccomp=unconfined", "i"], &["seccomp: Seccomp(Unconfined)"]);
        has(&["--security-opt=seccomp:unconfined", "--security-opt=apparmor=x", "i"], &["Seccomp(Unconfined)", "apparmor: Some(\"x\")"]);
        has(&["--security-opt=mask=/a:/b", "--security-opt=unmask=ALL", "i"], &["[(true, \"/a\"), (true, \"/b\"), (false, \"ALL\")]"]);
        has(&["--device", "/dev/fuse:/dev/x:r", "i"], &["path: \"/dev/fuse\", target: Some(\"/dev/x\"), access: \"r\""]);
        has(&["--device-cgroup-rule", "c 1:2 r", "--sysctl=net.a=1", "i"], &["[\"c 1:2 r\"]", "[(\"net.a\", \"1\")]"]);
        has(&["--pid=host", "--ipc=container:x", "--uts=host", "i"], &["pid: Host", "ipc: Container(\"x\")", "uts: Host"]);
        has(&["--shm-size=1m", "-c", "512", "--cpuset-cpus=0", "i"], &["Text(\"1m\")", "cpu_weight: Some(50)", "cpuset_cpus: Some(\"0\")"]);
        has(
            &["-m", "64m", "--memory-swap=96m", "--memory-reservation=32m", "i"],
            &["swap: Some(MemorySize(Bytes(33554432)))", "Text(\"32m\")"],
        );
        has(&["--device-write-bps=/dev/sda:1m", "--hugetlb-limit=2MB:4m", "i"], &["(\"/dev/sda\", WriteBytes,", "(\"2MB\","]);
    }

    #[test]
    fn flags_that_the_description_does_not_show_are_read() {
        let run = |words: &[&str]| parse(words).unwrap();
        assert_eq!(run(&["--init", "i"]).init, Some(true));
        assert_eq!(run(&["--init=false", "i"]).init, Some(false));
        assert_eq!(run(&["i"]).init, None);
        assert_eq!(run(&["--rm", "i"]).words, ["i"]);
        assert_eq!(run(&["--best-effort", "memory,pids", "i"]).best_effort, [BestEffort::Memory, BestEffort::Pids]);
        let all = run(&["-qd", "i"]);
        assert!(all.quiet && all.detach && !all.interactive);
        assert!(run(&["-iq", "--stats", "i"]).stats);
        assert!(parse(&["-di", "i"]).is_err());
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let run = parse(&["-v", "x", "--tmpfs", "/t:noexec", "--ulimit", "files=1", "--pids-limit=-2", "-e", "=1"]).unwrap();
        let faults = describe(&run, outer).unwrap_err();
        assert_eq!(faults.len(), 6, "{faults:?}");
        assert!(faults.iter().all(|fault| !fault.fixes.is_empty()), "{faults:?}");
    }

    #[test]
    fn a_root_needs_a_command() {
        assert!(describe(&parse(&["--rootfs", "/r"]).unwrap(), outer).is_err());
    }
}
