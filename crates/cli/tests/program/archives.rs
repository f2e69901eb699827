//! Images in files, and what is done with those that are here.

use crate::scratch::{Said, Scratch, as_each_user};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The root file system in a tar archive.
fn rootfs_tar(s: &Scratch) -> PathBuf {
    let tar = s.path("rootfs.tar");
    let made = Command::new("tar").arg("-C").arg(s.path("rootfs")).arg("-cf").arg(&tar).args(["--owner=0", "--group=0", "."]).status();
    assert!(made.expect("tar runs").success());
    tar
}

fn coracle(s: &Scratch, words: &[&str]) -> Said {
    Said::from(s.coracle(words).output())
}

/// With a file as standard input.
fn fed(s: &Scratch, words: &[&str], file: &PathBuf) -> Said {
    Said::from(s.coracle(words).stdin(fs::File::open(file).expect("it is there")).output())
}

/// The image `localhost/bb:1`, whose id this is.
fn import(s: &Scratch) -> String {
    let tar = rootfs_tar(s).display().to_string();
    let said = coracle(s, &["import", "-c", r#"CMD ["echo", "hi"]"#, "-c", "ENV A=1", "-m", "by hand", &tar, "localhost/bb:1"]);
    assert_eq!((said.code, &*said.stderr), (Some(0), ""), "{}", said.stdout);
    let id = said.stdout.trim_end().to_owned();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    id
}

#[test]
fn a_root_file_system_is_imported_inspected_and_run() {
    as_each_user(|s| {
        let id = import(s);
        coracle(s, &["run", "localhost/bb:1"]).is(0, "hi\n");
        coracle(s, &["run", "localhost/bb:1", "env"]).is_part(0, "A=1\n");
        // The same from standard input, compressed, without a name.
        let tar = rootfs_tar(s);
        assert!(Command::new("gzip").arg("-kf").arg(&tar).status().expect("gzip runs").success());
        let said = fed(s, &["image", "import", "-"], &s.path("rootfs.tar.gz"));
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        coracle(s, &["run", "localhost/imported", "echo", "there"]).is(0, "there\n");

        let said = coracle(s, &["inspect", "localhost/bb:1", &id[7..19]]);
        assert_eq!((said.code, &*said.stderr), (Some(0), ""));
        let json: serde_json::Value = serde_json::from_str(&said.stdout).expect("it is JSON");
        assert_eq!(json[0], json[1]);
        assert_eq!((&json[0]["Id"], &json[0]["RepoTags"][0]), (&id.clone().into(), &"localhost/bb:1".into()));
        assert_eq!(json[0]["Config"]["Cmd"][1], "hi");
        assert_eq!((&json[0]["Layers"][0]["Stored"], &json[0]["Layers"][0]["Unpacked"]), (&true.into(), &true.into()));
        let missing = coracle(s, &["image", "inspect", "nothing"]);
        assert_eq!((missing.code, &*missing.stdout), (Some(1), "[]\n"));
        assert!(missing.stderr.starts_with("error: no image nothing is here\n  fix: "), "{}", missing.stderr);

        coracle(s, &["import", "-c", "RUN make", &tar.display().to_string()]).fails(1, &["RUN isn't known", "fix: known are CMD"]);
        coracle(s, &["import", "/nowhere.tar"]).fails(1, &["can't open /nowhere.tar"]);
        coracle(s, &["import", "https://example.com/x.tar"]).fails(1, &["isn't fetched", "curl -L"]);
    });
}

#[test]
fn images_are_tagged_saved_removed_and_loaded() {
    as_each_user(|s| {
        let id = import(s);
        coracle(s, &["tag", "localhost/bb:1", "team/bb"]).is(0, "");
        coracle(s, &["tag", "nothing", "x"]).fails(1, &["no image nothing is here"]);
        coracle(s, &["tag", "team/bb", "A B"]).fails(1, &["isn't the name of an image"]);
        let (one, two) = (s.path("home/one.tar"), s.path("home/two"));
        coracle(s, &["save", "-o", "one.tar", "localhost/bb:1", "team/bb"]).is(0, "");
        let to = fs::File::create(&two).expect("it can be made");
        let saved = s.coracle(["image", "save", "team/bb", "localhost/bb:1"]).stdout(Stdio::from(to)).status();
        assert!(saved.expect("the program runs").success());
        assert!(fs::read(&one).expect("it is there") == fs::read(&two).expect("it is there"), "two archives differ");
        coracle(s, &["save", "-o", "none.tar", "nothing"]).fails(1, &["no image nothing is here"]);
        assert!(!s.path("home/none.tar").exists());

        coracle(s, &["rmi", &id[7..20]]).fails(1, &["it has several names: docker.io/team/bb:latest, localhost/bb:1"]);
        coracle(s, &["rmi", "team/bb"]).is(0, "Untagged: team/bb:latest\n");
        let gone = coracle(s, &["rmi", "localhost/bb:1", "nothing"]);
        assert_eq!(gone.code, Some(1));
        let lines: Vec<&str> = gone.stdout.lines().collect();
        assert_eq!(lines[0], "Untagged: localhost/bb:1");
        // The manifest, the config, and the layer, which has the same digest in the blob.
        assert!(lines.len() == 4 && lines[1..].iter().all(|line| line.starts_with("Deleted: sha256:")), "{}", gone.stdout);
        assert!(gone.stderr.starts_with("error: no image nothing is here"), "{}", gone.stderr);
        coracle(s, &["images", "-q"]).is(0, "");
        // Nothing waits: whoever exits empties the trash.
        for trash in ["trash", "layers/trash", "single/layers/trash"] {
            assert_eq!(fs::read_dir(s.path("home/store").join(trash)).map_or(0, Iterator::count), 0, "{trash}");
        }

        coracle(s, &["load", "-i", "one.tar"]).is(0, "Loaded image: team/bb:latest\nLoaded image: localhost/bb:1\n");
        coracle(s, &["run", "team/bb"]).is(0, "hi\n");
        coracle(s, &["rmi", "team/bb", "localhost/bb:1"]).is_part(0, "Untagged: ");
        assert!(Command::new("gzip").arg("-f").arg(&one).status().expect("gzip runs").success());
        fed(s, &["load", "-q"], &s.path("home/one.tar.gz")).is(0, "Loaded image: team/bb:latest\nLoaded image: localhost/bb:1\n");
        coracle(s, &["run", "localhost/bb:1"]).is(0, "hi\n");
        fs::write(s.path("home/bad"), "no archive").expect("it can be written");
        coracle(s, &["load", "-i", "bad"]).fails(1, &["can't use the archive bad: ", "fix: archives of `docker save`"]);
        fed(s, &["load"], &s.path("rootfs.tar")).fails(1, &["can't use the archive standard input: it has neither"]);
    });
}

#[test]
fn what_a_container_uses_is_kept_from_rmi_and_prune() {
    as_each_user(|s| {
        import(s);
        let started = coracle(s, &["run", "-d", "localhost/bb:1", "sleep", "600"]);
        assert_eq!(started.code, Some(0), "{}", started.stderr);
        let container = started.stdout.trim_end();
        coracle(s, &["rmi", "localhost/bb:1"]).fails(1, &["it's used by container ", &container[..12], "fix: end what uses it"]);
        coracle(s, &["prune", "-af"]).is(0, "Total reclaimed space: 0 B\n");
        coracle(s, &["rmi", "-f", "localhost/bb:1"]).is(0, "Untagged: localhost/bb:1\n");
        coracle(s, &["image", "prune", "-f"]).is(0, "Total reclaimed space: 0 B\n");
        assert_eq!(coracle(s, &["kill", container]).code, Some(0));
        // One that has ended needs it as well.
        coracle(s, &["image", "prune", "-f"]).is(0, "Total reclaimed space: 0 B\n");
        assert_eq!(coracle(s, &["rm", container]).code, Some(0));

        // Asked, and not answered.
        let no = Said::from(s.coracle(["prune"]).output());
        assert_eq!((no.code, &*no.stdout), (Some(1), ""));
        assert!(no.stderr.contains("Go on? [y/N] ") && no.stderr.contains("nothing was removed"), "{}", no.stderr);
        fs::write(s.path("home/yes"), "y\n").expect("it can be written");
        let yes = fed(s, &["prune"], &s.path("home/yes"));
        assert_eq!(yes.code, Some(0));
        let lines: Vec<&str> = yes.stdout.lines().collect();
        assert!(lines[0] == "Deleted Images:" && lines[1].starts_with("deleted: sha256:"), "{}", yes.stdout);
        assert!(lines.last().is_some_and(|line| line.starts_with("Total reclaimed space: ") && line.ends_with(" MB")), "{}", yes.stdout);
    });
}

#[test]
fn a_check_finds_damage_and_repairs_it() {
    as_each_user(|s| {
        import(s);
        let sound = coracle(s, &["check"]);
        assert_eq!(sound.code, Some(0), "{}{}", sound.stdout, sound.stderr);
        assert!(sound.stdout.starts_with("checked 1 images, 3 blobs of ") && sound.stdout.contains(": 0 faults\n"), "{}", sound.stdout);
        let store = s.path("home/store");
        let blobs = fs::read_dir(store.join("blobs/sha256")).expect("it is there").flatten();
        let blob = blobs.max_by_key(|entry| entry.metadata().map_or(0, |found| found.len())).expect("there are blobs").path();
        fs::File::options().append(true).open(&blob).and_then(|mut file| std::io::Write::write_all(&mut file, b"x")).expect("it is ours");
        let layers = [store.join("layers"), store.join("single/layers")].into_iter().find(|path| path.is_dir()).expect("there are layers");
        let layer = fs::read_dir(layers.join("sha256")).expect("it is there").flatten().next().expect("there is one").path();
        fs::remove_file(layer.join("fs/bin/cat")).expect("it is there");

        let found = coracle(s, &["check"]);
        assert_eq!(found.code, Some(1));
        for part in [format!("{} is sha256:", blob.display()), format!("{} is missing\n", layer.join("fs/bin/cat").display())] {
            assert!(found.stdout.contains(&part), "no {part:?} in:\n{}", found.stdout);
        }
        assert!(blob.exists() && layer.exists());
        let repaired = coracle(s, &["image", "check", "--repair"]);
        // Both are gone now, and that is told: a load brings them.
        assert!(repaired.stdout.contains(" is missing (moved away)\n"), "{}", repaired.stdout);
        assert!(!blob.exists() && !layer.exists());
        assert_eq!(coracle(s, &["check"]).code, Some(1));
        import(s);
        let sound = coracle(s, &["check"]);
        assert_eq!(sound.code, Some(0), "{}", sound.stdout);
    });
}

/// Runs the program under strace; None where there is none, which is said.
fn syncs(s: &Scratch, words: &[&str]) -> Option<usize> {
    let command = s.coracle(words);
    let log = s.path("home/strace");
    let traced = Command::new("strace")
        .args(["-f", "-e", "trace=syncfs", "-o"])
        .arg(&log)
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(s.path("home"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    let Ok(status) = traced else {
        println!("SKIP: strace");
        return None;
    };
    assert!(status.success());
    Some(fs::read_to_string(&log).expect("strace writes").matches("syncfs(").count())
}

#[test]
fn a_load_syncs_the_file_system_once_however_many_images_and_layers() {
    let Some(s) = &Scratch::new(crate::scratch::User::Me) else { return };
    import(s);
    coracle(s, &["tag", "localhost/bb:1", "team/bb"]).is(0, "");
    coracle(s, &["save", "-o", "two.tar", "localhost/bb:1", "team/bb"]).is(0, "");
    coracle(s, &["rmi", "localhost/bb:1", "team/bb"]).is_part(0, "Untagged: ");
    let Some(count) = syncs(s, &["load", "-i", "two.tar"]) else { return };
    assert_eq!(count, 1);
    // Everything is there: nothing to sync.
    assert_eq!(syncs(s, &["load", "-i", "two.tar"]), Some(0));
    let store = s.path("home/store");
    let layer = fs::read_dir(store.join("layers/sha256")).or_else(|_| fs::read_dir(store.join("single/layers/sha256")));
    let layer = layer.expect("there are layers").flatten().next().expect("there is one").path();
    assert_eq!(fs::read_to_string(layer.join("complete")).expect("it is there"), "coracle-layer 1 synced\n");
}

#[test]
fn every_verb_of_images_says_what_it_does() {
    let s = match Scratch::new(crate::scratch::User::Me) {
        Some(s) => s,
        None => return,
    };
    for (verb, part) in [
        ("inspect", "as JSON with Docker's names"),
        ("tag", "Give an image another name"),
        ("rmi", "with the last name the image"),
        ("prune", "Remove what no image needs any more"),
        ("check", "Check all images, blobs and unpacked layers"),
        ("save", "Write images into one archive"),
        ("load", "Bring in the images of an archive"),
        ("import", "Make a root file system an image of one layer"),
    ] {
        coracle(&s, &[verb, "--help"]).is_part(0, part);
        let below = if verb == "rmi" { "rm" } else { verb };
        coracle(&s, &["image", below, "--help"]).is_part(0, part);
        coracle(&s, &["image", "--help"]).is_part(0, below);
        coracle(&s, &[verb, "--no-such-flag"]).fails(125, &["--no-such-flag"]);
    }
}
