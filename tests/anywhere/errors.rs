//! Each error by its real cause, compared whole: what it says, what it tells to do, and the exit code that docker-run(1) has for it.

use crate::support::image::{Compressed, Layout};
use crate::support::owner::{self, Act};
use crate::support::place::{Place, block_on, fails};
use crate::support::registry::{PASSWORD, Registry, free_port};
use crate::support::{directory, need, program, rootfs};
use coracle::{Container, ContainerBuilder, Engine, Error, Mount};
use serde_json::{Value, json};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

/// Compares the whole of an error; nothing may be left of the attempt.
#[track_caller]
fn check(place: &Place, builder: ContainerBuilder, text: &str, remedy: Option<&str>, code: u8) {
    assert_eq!(fails(builder), (text.to_owned(), remedy.map(str::to_owned), code));
    // Its files are gone when the error comes; the supervisor itself may be on its way.
    let files = place.left_now().into_iter().filter(|what| !what.starts_with("process ")).collect::<Vec<_>>();
    assert_eq!(files, Vec::<String>::new());
    assert_eq!(place.left_of("of none", Duration::from_secs(5)), Vec::<String>::new());
}

const BY_FULL_PATH: &str = "name the program by its full path in the image, or install it there";
const CHMOD: &str = "give it execute permission (chmod +x), or name a program of this machine's architecture";
const INTERPRETER: &str = "install the interpreter in the image, or name one that is there";

#[test]
fn a_command_that_isnt_there_says_where_it_was_looked_for() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::new();
    symlink("/bin/nowhere", place.rootfs().join("bin/dangling")).expect("a link can be made");
    place.look_again();
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    for init in [true, false] {
        let text = format!("command not found: no-such (searched PATH {path})");
        check(&place, place.container().cmd(["no-such", "-x"]).init(init), &text, Some(BY_FULL_PATH), 127);
    }
    let text = "command not found: sh (searched PATH /opt:/nowhere)";
    check(&place, place.sh("true").env("PATH", "/opt:/nowhere"), text, Some(BY_FULL_PATH), 127);
    check(&place, place.container().cmd(["/no/such"]), "command not found: /no/such", Some(BY_FULL_PATH), 127);
    check(&place, place.container().cmd(["/bin/sh/x"]), "command not found: /bin/sh/x", Some(BY_FULL_PATH), 127);
    check(&place, place.container().cmd(["./here"]).workdir("/tmp"), "command not found: ./here", Some(BY_FULL_PATH), 127);
    check(&place, place.container().cmd(["/bin/dangling"]), "command not found: /bin/dangling", Some(BY_FULL_PATH), 127);
}

#[test]
fn a_file_that_cannot_be_executed_says_so() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::new();
    let file = |name: &str, mode: u32, bytes: &[u8]| {
        let path = place.rootfs().join("bin").join(name);
        std::fs::write(&path, bytes).expect("it can be written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its mode can be set");
    };
    file("plain", 0o644, b"#!/bin/sh\n");
    file("garbage", 0o755, b"\x7fELF of nobody");
    file("foreign", 0o755, &foreign());
    place.look_again();
    check(&place, place.container().cmd(["/bin/plain"]), "/bin/plain is there but can't be executed", Some(CHMOD), 126);
    check(&place, place.container().cmd(["plain"]), "/bin/plain is there but can't be executed", Some(CHMOD), 126);
    check(&place, place.container().cmd(["garbage"]), "/bin/garbage is there but can't be executed", Some(CHMOD), 126);
    check(&place, place.container().cmd(["/bin/foreign"]), "/bin/foreign is there but can't be executed", Some(CHMOD), 126);
    check(&place, place.container().cmd(["/etc"]), "/etc is there but can't be executed", Some(CHMOD), 126);
}

/// The beginning of an ELF program for a machine that nobody has any more (EM_68K).
fn foreign() -> Vec<u8> {
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 4, 0, 1, 0, 0, 0];
    elf.resize(256, 0);
    elf
}

#[test]
fn a_missing_interpreter_is_named() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::new();
    let script = |name: &str, first: &str| {
        let path = place.rootfs().join("bin").join(name);
        std::fs::write(&path, format!("{first}\necho never\n")).expect("it can be written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    };
    script("zsh-script", "#!/bin/zsh -e");
    script("windows-script", "#!/bin/sh\r");
    let dynamic = program::find("ls").expect("there is one");
    program::run("cp", [dynamic.as_os_str(), place.rootfs().join("bin/gnu-ls").as_os_str()]);
    place.look_again();
    let text = |program: &str, interpreter: &str| format!("{program} is there, but the interpreter it needs isn't: {interpreter}");
    check(&place, place.container().cmd(["zsh-script"]), &text("zsh-script", "/bin/zsh"), Some(INTERPRETER), 127);
    check(&place, place.container().cmd(["/bin/zsh-script"]), &text("/bin/zsh-script", "/bin/zsh"), Some(INTERPRETER), 127);
    let windows = "the first line ends in a carriage return: save the script with Unix line ends";
    check(&place, place.container().cmd(["windows-script"]), &text("windows-script", "/bin/sh\r"), Some(windows), 127);
    let glibc = "the program was built for glibc and this root has another libc: use an image with glibc, or link it statically";
    let loader = if cfg!(target_arch = "x86_64") { "/lib64/ld-linux-x86-64.so.2" } else { "/lib/ld-linux-aarch64.so.1" };
    check(&place, place.container().cmd(["gnu-ls"]), &text("gnu-ls", loader), Some(glibc), 127);
}

#[test]
fn an_unknown_user_is_named_with_where_it_was_looked_for() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let remedy = Some("name a user by number, or add it to the image");
    check(&place, place.sh("true").user("ann"), "no user \"ann\" in the root's /etc/passwd", remedy, 125);
    check(&place, place.sh("true").user("root:staff"), "no group \"staff\" in the root's /etc/group", remedy, 125);
    check(&place, place.sh("true").user("ann:staff"), "no user \"ann\" in the root's /etc/passwd", remedy, 125);
}

#[test]
fn a_user_that_isnt_mapped_is_an_error_with_the_line_that_maps_it() {
    need!(Busybox, UserNamespaces, NoSubIds);
    let place = Place::new();
    let remedy = "give your user sub-ids: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER (and install newuidmap: package uidmap)";
    check(&place, place.sh("true").user("guest"), "1000: this id isn't mapped in the user namespace", Some(remedy), 125);
    check(&place, place.sh("true").user("4711"), "4711: this id isn't mapped in the user namespace", Some(remedy), 125);
}

#[test]
fn everything_wrong_with_a_description_is_said_at_once_and_nothing_is_done() {
    let place = directory();
    let root = place.path().join("engine");
    let builder = Container::from_rootfs("/no/such/root")
        .memory("64q")
        .cap_add("FLY")
        .cap_drop("CAP_")
        .hostname("a b")
        .env("A=B", "c")
        .workdir("relative")
        .mount(Mount::bind("/no/such/source", "/a"))
        .mount(Mount::tmpfs("/"))
        .mount(Mount::tmpfs("/b").size("much"));
    let texts = [
        "/no/such/root isn't a directory",
        "memory: \"64q\" isn't a size: expected a number and perhaps a unit: b, k, m, g, t, also KiB, MB and so on (all binary)",
        "\"FLY\" is no capability (capabilities(7) lists them; with or without CAP_, in any case)",
        "\"CAP_\" is no capability (capabilities(7) lists them; with or without CAP_, in any case)",
        "\"a b\" can't be a host name",
        "\"A=B\" can't be the name of a variable",
        "the working directory \"relative\" isn't absolute",
        "a root file system names no command",
        "can't bind /no/such/source: No such file or directory (os error 2)",
        "/ can't be the target of a mount",
        "the size of /b: \"much\" isn't a size: expected a number and perhaps a unit: b, k, m, g, t, also KiB, MB and so on (all binary)",
    ];
    let remedies = [
        "write a number and a unit of b, k, m, g or t, for example 64m, 1.5g or 512KiB",
        "1 to 64 letters, digits, hyphens and dots",
        "begin it with /",
        "name one with cmd(..)",
        "an absolute path below /",
    ];
    assert!(!root.exists());
    let error = block_on(builder.clone().output()).expect_err("all of it is wrong");
    let Error::Description { problems } = &error else { panic!("{error:?}") };
    assert_eq!(problems.iter().map(|problem| problem.what.as_str()).collect::<Vec<_>>(), texts);
    assert_eq!((error.to_string(), error.remedy(), error.exit_code()), (texts.join("; "), Some(remedies.join("\n")), 125));
    // The same by every verb, and no directory of the default engine came of it.
    for error in [block_on(builder.clone().run()).err(), block_on(builder.clone().spawn()).err(), block_on(builder.status()).err()] {
        assert_eq!(error.map(|error| error.to_string()), Some(texts.join("; ")));
    }
    assert_eq!(std::fs::read_dir(place.path()).expect("it is there").count(), 0);
}

#[test]
fn a_bad_image_name_is_an_error_before_anything_is_asked() {
    let place = Place::empty();
    for name in ["", "busyBox", "a b", "debian:", "debian@sha256:12", "../escape", "localhost:5000/../x", "a/", "/a", "debian:12/x y"] {
        let error = block_on(Container::from_image(name).engine(place.engine()).output()).expect_err("it is no name");
        assert!(matches!(error, Error::Description { .. }), "{name:?}: {error}");
        assert_eq!(error.exit_code(), 125);
    }
    place.assert_clean();
}

/// What an owner in another world says of a start.
#[track_caller]
fn told(words: &[&str], place: &Place) -> (String, String) {
    let output = owner::under(words, Act::Tell, place.path()).output().expect("the owner runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    match (line("ERROR "), line("REMEDY ")) {
        (Some(error), Some(remedy)) => {
            // The doctor says the same.
            assert_eq!(line("DOCTOR "), Some(format!("failure {error}")), "{text}");
            assert_eq!((line("MENDS "), line("WORST ").as_deref()), (Some(remedy.clone()), Some("failure")), "{text}");
            (error, remedy)
        }
        _ => panic!("{text}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// A user namespace with a user of no name in it, who has the capabilities to prepare it; then the owner, without them.
fn user_4711(mounts: bool, prepare: &str) -> Vec<&str> {
    let mut words = vec!["unshare", "--user", "--map-user=4711", "--map-group=4711", "--keep-caps"];
    if mounts {
        words.push("--mount");
    }
    words.extend(["sh", "-c", prepare, "sh"]);
    words
}

const WITHOUT_CAPABILITIES: &str = "exec setpriv --ambient-caps -all --inh-caps -all \"$@\"";

#[test]
fn a_host_without_user_namespaces_is_named_with_its_setting() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let prepare = format!("echo 0 > /proc/sys/user/max_user_namespaces && {WITHOUT_CAPABILITIES}");
    let (text, remedy) = told(&user_4711(false, &prepare), &place);
    assert_eq!(text, "can't make a user namespace: their number is limited to none (user.max_user_namespaces = 0)");
    assert_eq!(remedy, "sudo sysctl -w user.max_user_namespaces=15000");
    place.assert_clean();
}

#[test]
fn ubuntus_restriction_is_named_with_its_one_line_remedy() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    // What the setting does, by another one; and the setting itself, on a kernel without AppArmor.
    let prepare = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && mount -t tmpfs none /proc/sys/kernel && \
         echo 1 > /proc/sys/kernel/apparmor_restrict_unprivileged_userns && {WITHOUT_CAPABILITIES}"
    );
    let (text, remedy) = told(&user_4711(true, &prepare), &place);
    assert_eq!(
        text,
        "can't make a user namespace: AppArmor restricts them to programs with a profile \
         (kernel.apparmor_restrict_unprivileged_userns = 1, the default of Ubuntu since 23.10)"
    );
    assert_eq!(remedy, "sudo coracle doctor --fix; or, for all programs: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0");
    place.assert_clean();
}

#[test]
fn debians_old_switch_is_named_with_its_remedy() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let prepare = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && mount -t tmpfs none /proc/sys/kernel && \
         echo 0 > /proc/sys/kernel/unprivileged_userns_clone && {WITHOUT_CAPABILITIES}"
    );
    let (text, remedy) = told(&user_4711(true, &prepare), &place);
    assert_eq!(text, "can't make a user namespace: they are switched off for plain users (kernel.unprivileged_userns_clone = 0)");
    assert_eq!(remedy, "sudo sysctl -w kernel.unprivileged_userns_clone=1");
}

#[test]
fn a_store_in_a_place_that_isnt_ours_says_what_to_choose() {
    need!(PlainUser);
    let error = Engine::builder().root("/etc/coracle-test").open().expect_err("root's");
    assert_eq!(error.to_string(), "can't make the directory /etc/coracle-test: Permission denied (os error 13)");
    assert_eq!(error.remedy().as_deref(), Some("choose a directory of your own: Engine::builder().root(..), --root DIR, or CORACLE_ROOT"));
    let error = Engine::builder().root("/usr").open().expect_err("root's");
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(error.to_string(), format!("can't use /usr: it belongs to uid 0, and this process is uid {uid}"));
}

// Images, each fault by a real registry.

#[track_caller]
fn image(place: &Place, name: &str) -> (String, Option<String>, u8) {
    fails(Container::from_image(name).engine(place.engine()).cmd(["true"]))
}

/// Nothing of the attempt runs or stays in the way of the next.
#[track_caller]
fn no_container(place: &Place) {
    let runs = std::fs::read_dir(place.engine().root().join("run")).expect("it is there").count();
    assert_eq!(runs, 0);
}

#[test]
fn an_unknown_image_says_so() {
    need!(Registry, Busybox);
    let (place, registry) = (Place::empty(), Registry::with_busybox());
    let address = registry.address();
    for name in ["no/such:1", "busybox:no-such-tag"] {
        let (text, remedy, code) = image(&place, &registry.reference(name));
        let begin = format!("can't pull {address}/{name}: the registry {address} has no such image (");
        assert!(text.starts_with(&begin) && text.ends_with(')'), "{text}");
        assert!(text.contains("manifest unknown"), "{text}");
        assert_eq!((remedy.as_deref(), code), (Some("check the name and the tag"), 125));
    }
    no_container(&place);
}

#[test]
fn a_registry_that_isnt_there_says_so() {
    let place = Place::empty();
    let address = format!("127.0.0.1:{}", free_port());
    let (text, remedy, code) = image(&place, &format!("{address}/busybox"));
    assert_eq!(text, format!("can't pull {address}/busybox:latest: no connection to {address}: connection refused"));
    let what_to_do = "check that the registry runs there, and the part of the image's name before its first slash";
    assert_eq!((remedy.as_deref(), code), (Some(what_to_do), 125));
    no_container(&place);
}

#[test]
fn a_registry_that_wants_a_login_says_where_credentials_were_looked_for() {
    need!(Registry, Busybox);
    let (place, registry) = (Place::empty(), Registry::start_with_login());
    registry.push_busybox();
    let address = registry.address();
    let (text, remedy, code) = image(&place, &registry.reference("busybox:latest"));
    assert_eq!(text, format!("can't pull {address}/busybox:latest: the registry {address} said 401 Unauthorized to an anonymous request"));
    let remedy = remedy.expect("there is one");
    let begin = format!(
        "log in with `docker login {address}` or `podman login {address}`, or use `RegistryClient::credentials`; credentials were looked for in "
    );
    let end = "; and check the name: some registries answer so where there is no such image";
    let looked_in = remedy.strip_prefix(&begin).and_then(|rest| rest.strip_suffix(end)).unwrap_or_else(|| panic!("{remedy}"));
    assert!(looked_in.contains(".docker/config.json"), "{looked_in}");
    assert!(!remedy.contains(PASSWORD));
    assert_eq!(code, 125);
    no_container(&place);
}

#[test]
fn bytes_that_arent_what_was_announced_are_an_error() {
    need!(Registry, Busybox);
    let (place, registry) = (Place::empty(), Registry::with_busybox());
    let address = registry.address();
    // The largest blob is the layer; of the same size, so that the registry sends it as if nothing were wrong.
    let blobs = registry.storage().join("data/docker/registry/v2/blobs/sha256");
    let layer = blob_files(&blobs).into_iter().max_by_key(|path| path.metadata().map_or(0, |found| found.len())).expect("there are blobs");
    let digest = layer.parent().and_then(Path::file_name).expect("a blob lies below its digest").to_string_lossy().into_owned();
    let mut bytes = std::fs::read(&layer).expect("it can be read");
    let last = bytes.len() - 20;
    bytes[last] ^= 0xff;
    std::fs::write(&layer, &bytes).expect("it can be written");
    let (text, remedy, code) = image(&place, &registry.reference("busybox:latest"));
    let begin = format!("can't use layer 0 of {address}/busybox:latest: expected sha256:{digest}, got sha256:");
    assert!(text.starts_with(&begin) && text.len() == begin.len() + 64, "{text}");
    assert_eq!((remedy.as_deref(), code), (Some("try again; if it stays so, what serves the image is damaged"), 125));
    no_container(&place);
    // Nothing of the wrong bytes was kept: whole again, it is pulled again.
    bytes[last] ^= 0xff;
    std::fs::write(&layer, &bytes).expect("it can be written");
    let out = block_on(Container::from_image(registry.reference("busybox:latest")).engine(place.engine()).cmd(["echo", "whole"]).output());
    assert_eq!(out.expect("it runs").stdout_lossy(), "whole\n");
}

fn blob_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(blob_files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn an_image_for_other_machines_says_which() {
    need!(Registry, Busybox);
    let (place, registry) = (Place::empty(), Registry::start());
    let files = directory();
    let root = files.path().join("root");
    rootfs::busybox(&root);
    let mut layout = Layout::new(&files.path().join("layout"));
    let layer = layout.layer_of(&root, Compressed::Gzip);
    let manifest = layout.manifest(&[layer], json!({ "Cmd": ["sh"] }));
    let entry = |architecture: &str, variant: Option<&str>| {
        let mut entry: Value = manifest.json();
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        if let Some(variant) = variant {
            entry["platform"]["variant"] = json!(variant);
        }
        entry
    };
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": [entry("s390x", None), entry("arm", Some("v7"))] });
    let index = layout.blob(media_type, index.to_string().as_bytes());
    layout.tag("other", &index);
    registry.push(&layout, "other", "multi:other");
    let (text, remedy, code) = image(&place, &registry.reference("multi:other"));
    let (address, wanted) = (registry.address(), crate::support::image::architecture());
    let wanted = if wanted == "arm64" { "linux/arm64/v8" } else { "linux/amd64" };
    assert_eq!(text, format!("{address}/multi:other has no image for {wanted}; it has linux/arm/v7 and linux/s390x"));
    assert_eq!((remedy.as_deref(), code), (Some("choose an image that is there for this machine"), 125));
    no_container(&place);
}
