//! Volumes, binds whose files are the caller's, other images beside the root; and the files of a container that doesn't run.

use crate::support::need;
use crate::support::needs::Need;
use crate::support::place::{Place, block_on, ran, within};
use coracle::{Container, ContainerBuilder, CopyIn, CopyOut, Engine, Error, Mount, Owner, Reason, State, Volume};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// What a container says that must end well.
#[track_caller]
fn says(builder: ContainerBuilder) -> String {
    let out = ran(builder);
    assert!(out.status.success() && out.stderr.is_empty(), "{}: {}{}", out.status, out.stdout_lossy(), out.stderr_lossy());
    out.stdout_lossy().into_owned()
}

fn names(engine: &Engine) -> Vec<String> {
    engine.volumes().expect("they can be listed").into_iter().map(|volume| volume.name).collect()
}

/// Nothing but its lock is in the directory of volumes.
fn is_empty(place: &Place) -> bool {
    let entries = fs::read_dir(place.engine().root().join("volumes"));
    entries.map_or(true, |entries| entries.flatten().all(|entry| entry.file_name() == "lock"))
}

/// Nothing is left but what the tests themselves have put there, and locks.
#[track_caller]
fn assert_clean(place: &Place) {
    let ours = |what: &String| !what.starts_with("file ") || what.contains("/engine/run/") || what.contains("/engine/leases/");
    let left = || -> Vec<String> { place.left(Duration::ZERO).into_iter().filter(ours).collect() };
    // Of containers of other tests nothing is said here.
    let news = left();
    let stay = || left().into_iter().filter(|what| news.contains(what)).collect::<Vec<_>>();
    assert!(within(Duration::from_secs(10), || stay().is_empty() && is_empty(place)), "{:?} {:?}", stay(), names(place.engine()));
}

/// Somebody who isn't root inside, where there is such a one.
fn somebody() -> Option<u32> {
    (!crate::support::met(Need::NoSubIds)).then_some(70)
}

#[test]
fn a_volume_with_a_name_outlives_its_containers_and_is_had_by_many() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let with = |line: &str| place.sh(line).mount(Mount::volume("data", "/data"));
    says(with("echo one > /data/one; mkdir /data/sub"));
    assert_eq!(names(place.engine()), ["data"]);
    assert_eq!(says(with("cat /data/one; ls /data")), "one\none\nsub\n");
    // At the same time, and one of them read-only.
    let first = block_on(with("while [ ! -e /data/word ]; do sleep 0.05; done; cat /data/word; sleep 600").spawn()).expect("it starts");
    let second = place.sh("echo heard > /data/word; cat /data/one").mount(Mount::volume("data", "/data"));
    assert_eq!(says(second), "one\n");
    let out = ran(place.sh("touch /data/no").mount(Mount::volume("data", "/data").read_only()));
    assert!(!out.status.success() && out.stderr_lossy().contains("Read-only"), "{}", out.stderr_lossy());
    // While one has it, it isn't removed, by whoever asks.
    let others = Engine::builder().root(place.engine().root()).open().expect("it opens");
    let volume = others.volume("data").expect("it is here");
    assert_eq!((volume.containers, volume.mounted, volume.anonymous), (vec![first.id().to_owned()], true, false));
    match block_on(others.remove_volume("data")) {
        Err(Error::VolumeInUse { containers, .. }) => assert_eq!(containers, [first.id()]),
        other => panic!("{other:?}"),
    }
    assert_eq!(block_on(others.prune_volumes()).expect("it prunes"), []);
    block_on(first.remove()).expect("it goes");
    assert_eq!(block_on(others.prune_volumes()).expect("it prunes").len(), 1);
    assert!(matches!(block_on(others.remove_volume("data")), Err(Error::NoSuchVolume { .. })));
    assert!(is_empty(&place));
    assert_clean(&place);
}

#[test]
fn a_new_volume_has_what_the_image_has_in_its_place_with_owners_and_modes() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let data = place.rootfs().join("srv/data");
    fs::create_dir_all(data.join("sub")).expect("a directory");
    fs::write(data.join("sub/file"), "of the image\n").expect("a file");
    fs::write(data.join("secret"), "quiet\n").expect("a file");
    fs::set_permissions(data.join("secret"), fs::Permissions::from_mode(0o600)).expect("a mode");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o1770)).expect("a mode");
    symlink("sub/file", data.join("link")).expect("a symlink");
    // As many images have /var/run: the target is found as the container finds it, and no directory of the host is copied.
    symlink("/srv", place.rootfs().join("var-srv")).expect("a symlink");
    symlink("/etc", place.rootfs().join("srv/out")).expect("a symlink");
    let look = "cat /v/sub/file; readlink /v/link; stat -c %a /v /v/secret";
    let at = |target: &str| place.sh("cat /proc/mounts >/dev/null").mount(Mount::volume("data", target));
    says(at("/var-srv/data"));
    assert_eq!(says(place.sh(look).mount(Mount::volume("data", "/v"))), "of the image\nsub/file\n1770\n600\n");
    // What is changed in it is neither the image's nor copied again.
    says(place.sh("rm -r /v/sub; echo new > /v/new").mount(Mount::volume("data", "/v")));
    assert_eq!(says(place.sh("ls /srv/data").mount(Mount::volume("data", "/srv/data"))), "link\nnew\nsecret\n");
    assert!(data.join("sub/file").exists() && !data.join("new").exists());
    // Who doesn't want it doesn't get it; and a link of the image that leads out of it leads nowhere.
    assert_eq!(says(place.sh("ls /srv/data").mount(Mount::volume("bare", "/srv/data").no_copy())), "");
    let host = fs::read_dir("/etc").expect("this machine has one").count();
    let copied = says(place.sh("ls -A /srv/out | wc -l").mount(Mount::volume("etc", "/srv/out")));
    assert!(copied.trim().parse::<usize>().expect("a number") < host, "{copied}");
    for name in ["data", "bare", "etc"] {
        block_on(place.engine().remove_volume(name)).expect("it goes");
    }
    assert!(is_empty(&place));
    assert_clean(&place);
}

#[test]
fn many_containers_that_start_with_a_new_volume_at_once_find_it_whole() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let data = place.rootfs().join("data");
    fs::create_dir(&data).expect("a directory");
    (0..200).for_each(|n| fs::write(data.join(n.to_string()), "x").expect("a file"));
    let counts: Vec<String> = std::thread::scope(|scope| {
        let one = || says(place.sh("ls /data | wc -l").mount(Mount::volume("data", "/data")));
        let all: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
        all.into_iter().map(|thread| thread.join().expect("it says")).collect()
    });
    assert!(counts.iter().all(|count| count.trim() == "200"), "{counts:?}");
    block_on(place.engine().remove_volume("data")).expect("it goes");
    assert_clean(&place);
}

#[test]
fn a_volume_has_an_owner_and_is_removed_whatever_its_users_did() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let Some(uid) = somebody() else {
        let out = block_on(place.sh("true").mount(Mount::volume(Volume::named("data").owner(70, 70), "/data")).output());
        assert!(out.is_err_and(|error| error.remedy().is_some_and(|remedy| remedy.contains("sub-ids"))));
        return assert!(is_empty(&place));
    };
    let volume = Volume::named("data").owner(uid, uid).mode(0o700);
    let with = |line: &str| place.sh(line).user(format!("{uid}:{uid}")).mount(Mount::volume(volume.clone(), "/data"));
    assert_eq!(says(with("stat -c '%u %g %a' /data; mkdir /data/shut; echo x > /data/shut/x; chmod 0 /data/shut")), "70 70 700\n");
    assert_eq!(says(with("stat -c '%u %g %a' /data/shut")), "70 70 0\n");
    block_on(place.engine().remove_volume("data")).expect("it goes");
    // One of a container's own, likewise.
    says(place.sh("mkdir -m 0 /v/shut").user(uid.to_string()).mount(Mount::volume(Volume::anonymous().mode(0o777), "/v")));
    assert!(is_empty(&place), "{:?}", names(place.engine()));
    assert_clean(&place);
}

#[test]
fn volumes_without_a_name_go_with_the_container_or_with_its_life() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let own = || Mount::volume(Volume::anonymous(), "/own");
    let life = || Mount::volume(Volume::ephemeral(), "/life");
    let line = "ls /own /life; echo x >> /own/lives; echo x > /life/this";
    says(place.sh(line).mount(own()).mount(life()));
    assert!(is_empty(&place));
    let container = block_on(place.sh(line).mount(own()).mount(life()).name("kept").create()).expect("it is made");
    let all = place.engine().volumes().expect("they are listed");
    assert!(matches!(&all[..], [volume] if volume.anonymous && volume.containers == [container.id()]), "{all:?}");
    for (lives, heard) in [(1, "/life:\n\n/own:"), (2, "/life:\n\n/own:\nlives")] {
        block_on(container.start()).expect("it starts");
        assert_eq!(block_on(container.wait()).expect("it ends").reason(), Reason::Code(0));
        block_on(container.settled()).expect("it is taken back");
        assert_eq!(names(place.engine()).len(), 1, "after {lives} lives");
        let said: Vec<String> = container.logs().collect().expect("it is kept").iter().map(|line| line.text().into_owned()).collect();
        assert!(said.join("\n").ends_with(heard), "{said:?}");
        // What it has is reached, and what it had for its life isn't there.
        let seen = block_on(container.fs().read("/own/lives")).expect("it is there");
        assert_eq!(seen.len(), 2 * lives);
        assert!(!block_on(container.fs().exists("/life/this")).expect("it is looked for"));
    }
    // Nobody takes away what a stopped one has.
    assert!(matches!(block_on(place.engine().remove_volume(&names(place.engine())[0])), Err(Error::VolumeInUse { .. })));
    block_on(container.remove()).expect("it goes");
    assert!(is_empty(&place));
    // With the supervisor killed, the next engine does it.
    let container = block_on(place.sh("sleep 600").mount(own()).mount(life()).spawn()).expect("it starts");
    let stat = fs::read_to_string(format!("/proc/{}/stat", container.pid())).expect("it runs");
    let supervisor = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok()).expect("its parent");
    crate::support::owner::signal(supervisor, rustix::process::Signal::KILL);
    assert!(matches!(block_on(container.wait()), Err(Error::Lost)));
    assert!(within(PATIENCE, || {
        Engine::builder().root(place.engine().root()).open().expect("it opens, and sweeps");
        is_empty(&place)
    }));
    drop(container);
    assert_clean(&place);
}

#[test]
fn a_start_that_fails_leaves_no_volume_without_a_name() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let own = || Mount::volume(Volume::anonymous(), "/own");
    assert!(block_on(place.container().cmd(["/not/there"]).mount(own()).output()).is_err());
    // Before anything was started.
    assert!(block_on(place.sh("true").mount(own()).output_limit(5).status()).is_err());
    // After one was made, the next can't be.
    let file = place.path().join("file");
    fs::write(&file, "").expect("a file");
    let second = Mount::volume("x", "/own/deeper");
    assert!(block_on(place.sh("true").mount(own()).mount(Mount::bind(&file, "/file")).mount(second.size("1g")).output()).is_err());
    assert!(is_empty(&place), "{:?}", names(place.engine()));
    assert_clean(&place);
}

#[test]
fn what_cannot_be_a_volume_is_said_before_anything_is_done() {
    need!(Busybox);
    let place = Place::new();
    for name in ["", "a/b", "../x", ".hidden", "a b", &"x".repeat(129)] {
        let error = block_on(place.sh("true").mount(Mount::volume(name, "/v")).output()).expect_err("it is no name");
        assert!(matches!(&error, Error::Description { problems } if problems.len() == 1), "{name:?}: {error}");
        assert!(error.remedy().is_some());
        assert!(block_on(place.engine().create_volume(name)).is_err());
    }
    assert!(block_on(place.engine().create_volume(Volume::anonymous())).is_err());
    assert!(block_on(place.engine().create_volume(Volume::named("x").size("much"))).is_err());
    assert!(is_empty(&place));
}

#[test]
fn a_size_that_the_file_system_does_not_keep_is_an_error() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    // Nobody's temporary directory has project quotas, and a plain user has none anywhere.
    match block_on(place.engine().create_volume(Volume::named("big").size("1g"))) {
        Err(error @ Error::VolumeSize { size, .. }) => {
            assert_eq!(size, 1 << 30);
            assert!(error.remedy().is_some_and(|remedy| remedy.contains("prjquota")));
        }
        other => panic!("{other:?}"),
    }
    block_on(place.engine().create_volume("plain")).expect("it is made");
    let error = block_on(place.sh("true").mount(Mount::volume("plain", "/v").size("1g")).output()).expect_err("it has no size");
    assert!(error.to_string().contains("without a size"), "{error}");
    assert_eq!(names(place.engine()), ["plain"]);
}

#[test]
fn files_of_a_bind_come_back_as_the_callers() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let work = place.path().join("work");
    fs::create_dir(&work).expect("a directory");
    fs::set_permissions(&work, fs::Permissions::from_mode(0o755)).expect("a mode");
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let owner = |name: &str| fs::metadata(work.join(name)).map(|found| (found.uid(), found.gid())).expect("it is there");
    let bound = |line: &str| place.sh(line).mount(Mount::bind(&work, "/work").owner(Owner::Caller));
    says(bound("echo x > /work/of-root"));
    assert_eq!(owner("of-root"), me);
    let line = "stat -c %u /work; id -u; echo x > /work/of-somebody; mkdir /work/sub; stat -c %u /work/sub";
    let by_somebody = bound(line).user("70:70");
    if crate::support::met(Need::Root) {
        assert_eq!(says(by_somebody), "70\n70\n70\n");
        assert_eq!((owner("of-somebody"), owner("sub")), (me, me));
        // In a life to come, too, and without it numbers are what they are.
        let kept = block_on(bound("touch /work/again").user("70:70").create()).expect("it is made");
        block_on(kept.start()).expect("it starts");
        assert!(block_on(kept.wait()).expect("it ends").success());
        assert_eq!(owner("again"), me);
        block_on(kept.remove()).expect("it goes");
        fs::set_permissions(&work, fs::Permissions::from_mode(0o777)).expect("a mode");
        says(place.sh("touch /work/plain").user("70:70").mount(Mount::bind(&work, "/work")));
        assert_eq!(owner("plain"), (70, 70));
    } else {
        let error = block_on(by_somebody.output()).expect_err("nobody else is the caller");
        assert!(error.to_string().contains("70") && error.remedy().is_some_and(|remedy| remedy.contains("as root")), "{error}");
        assert!(!work.join("of-somebody").exists());
    }
    assert_clean(&place);
}

/// An image of one layer with this in `/opt/word`.
fn import(place: &Place, name: &str, word: &str) {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(word.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "opt/word", word.as_bytes()).expect("an entry");
    let archive = std::io::Cursor::new(archive.into_inner().expect("an archive"));
    block_on(place.engine().import_image(archive, "test", name, &[] as &[&str], None)).expect("it is imported");
}

#[test]
fn another_image_is_mounted_and_stays_as_long_as_who_has_it() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    import(&place, "localhost/tools:1", "hammer");
    let tools = || Mount::image("localhost/tools:1", "/tools");
    assert_eq!(says(place.sh("cat /tools/opt/word").mount(tools())), "hammer");
    let out = ran(place.sh("echo > /tools/opt/word").mount(tools()));
    assert!(out.stderr_lossy().contains("Read-only"), "{}", out.stderr_lossy());
    let kept = block_on(place.sh("cat /tools/opt/word").mount(tools()).create()).expect("it is made");
    // The name means another image meanwhile; who was made with the old one keeps it.
    import(&place, "localhost/tools:1", "saw");
    place.engine().prune_images(true).expect("it prunes");
    block_on(kept.start()).expect("it starts");
    assert!(block_on(kept.wait()).expect("it ends").success());
    let said = kept.logs().collect().expect("it is kept");
    assert_eq!(said.iter().map(|line| line.text().into_owned()).collect::<String>(), "hammer");
    block_on(kept.settled()).expect("it is taken back");
    assert_eq!(block_on(kept.fs().read("/tools/opt/word")).expect("it is there"), b"hammer");
    block_on(kept.remove()).expect("it goes");
    let error = block_on(place.sh("true").mount(Mount::image("UPPER CASE", "/x")).output()).expect_err("it is no name");
    assert!(matches!(error, Error::Description { .. }), "{error}");
}

fn is_stopped(container: &Container) -> bool {
    container.state().is_ok_and(|state| matches!(state, State::Exited(_) | State::Created))
}

#[test]
fn the_files_of_a_container_that_does_not_run_are_read_written_and_copied() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let bound = place.path().join("bound");
    fs::create_dir(&bound).expect("a directory");
    fs::write(bound.join("here"), "of the host").expect("a file");
    let line =
        "cat /given; mkdir /made; echo changed > /etc/issue; rm -f /linuxrc; ln -s /etc/passwd /out; adduser 2>/dev/null; echo x > /made/x";
    let container = block_on(place.sh(line).mount(Mount::bind(&bound, "/bound")).create()).expect("it is made");
    // Before its first life.
    assert!(is_stopped(&container));
    block_on(container.copy_to(b"a present\n", "/given")).expect("it goes in");
    assert!(is_stopped(&container));
    block_on(container.start()).expect("it starts");
    assert!(block_on(container.wait()).expect("it ends").success());
    block_on(container.settled()).expect("it is taken back");
    assert!(is_stopped(&container));
    assert_eq!(container.logs().collect().expect("it is kept")[0].text(), "a present");
    // After it: what it changed and what lies below, mounts included; links lead nowhere out.
    let fs = container.fs();
    assert_eq!(block_on(fs.read("/etc/issue")).expect("it is there"), b"changed\n");
    assert_eq!(block_on(fs.read("/bound/here")).expect("it is there"), b"of the host");
    assert!(!block_on(fs.exists("/linuxrc")).expect("it is looked for"));
    assert_ne!(block_on(fs.read("/out")).ok(), std::fs::read("/etc/passwd").ok());
    block_on(fs.write("/made/y", "written")).expect("it is written");
    let names: Vec<_> = block_on(fs.list("/made")).expect("it is listed").into_iter().map(|file| file.name).collect();
    assert_eq!(names, ["x", "y"]);
    let target = place.path().join("made");
    let copied = block_on(container.copy_from(CopyOut::path("/made"), &target)).expect("it comes out");
    assert_eq!((copied.files, std::fs::read_to_string(target.join("y")).expect("it is there")), (2, "written".into()));
    if let Some(uid) = somebody() {
        block_on(container.copy_to(CopyIn::bytes("theirs").owner(uid, uid).mode(0o600), "/theirs")).expect("it goes in");
        let found = block_on(fs.stat("/theirs")).expect("it is there");
        assert_eq!((found.uid, found.mode), (uid, 0o600));
        assert_eq!(block_on(fs.read("/theirs")).expect("it is read"), b"theirs");
    }
    // It is what the next life finds.
    block_on(container.start()).expect("it starts again");
    block_on(container.wait()).expect("it ends");
    assert_eq!(block_on(fs.read("/made/y")).expect("it is there"), b"written");
    // Those who come at once take turns.
    std::thread::scope(|scope| {
        for n in 0..4 {
            let fs = fs.clone();
            scope.spawn(move || block_on(fs.write(format!("/made/{n}"), "x")).expect("it is written"));
        }
    });
    assert_eq!(block_on(fs.list("/made")).expect("it is listed").len(), 6);
    block_on(container.remove()).expect("it goes");
    assert!(matches!(block_on(fs.read("/made/y")), Err(Error::NoSuchContainer { .. })));
    assert!(Path::new(&bound.join("here")).exists());
    assert_clean(&place);
}
