//! `coracle cp`: files into and out of a detached container.

use crate::scratch::{Said, Scratch, as_each_user};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Stdio;

fn say(s: &Scratch, words: &[&str]) -> Said {
    s.coracle(words).output().into()
}

#[test]
fn files_and_archives_go_both_ways() {
    as_each_user(|s| {
        let said = s.run(&["-d"], &["sh", "-c", "while :; do sleep 0.1; done"]);
        assert_eq!((said.code, &said.stderr[..]), (Some(0), ""));
        let id = said.stdout.trim_end().to_owned();
        // Where each user can write.
        let here = s.path("home/here");
        fs::create_dir_all(here.join("sub")).unwrap();
        fs::write(here.join("sub/file"), "contents\n").unwrap();
        symlink("sub/file", here.join("link")).unwrap();
        let out = s.path("home/out");
        fs::create_dir(&out).unwrap();
        for directory in [&here, &out] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let (here, out) = (here.to_str().unwrap(), out.to_str().unwrap());
        let inside = |path: &str| format!("{id}:{path}");
        say(s, &["cp", here, &inside("/tmp")]).is(0, "");
        say(s, &["cp", &format!("{here}/."), &inside("tmp/contents")]).is(0, "");
        say(s, &["cp", "-L", &format!("{here}/link"), &inside("/tmp/followed")]).is(0, "");
        say(s, &["exec", &id, "sh", "-c", "cat /tmp/here/sub/file /tmp/contents/link /tmp/followed; stat -c %u:%g /tmp/followed"])
            .is(0, "contents\ncontents\ncontents\n0:0\n");
        say(s, &["cp", &inside("/tmp/here"), out]).is(0, "");
        assert_eq!(fs::read_to_string(format!("{out}/here/sub/file")).unwrap(), "contents\n");
        // As an archive, from one program to the other.
        let archive = s.coracle(["cp", &inside("/tmp/here"), "-"]).output().unwrap();
        assert!(archive.status.success() && archive.stdout.len() > 1024, "{}", String::from_utf8_lossy(&archive.stderr));
        let mut child = s.coracle(["cp", "-a", "-", &inside("/etc")]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&archive.stdout).unwrap();
        assert!(child.wait().unwrap().success());
        say(s, &["exec", &id, "cat", "/etc/here/link"]).is(0, "contents\n");
        // As docker-cp(1) has it: no directories are made, and it exits with 1.
        let lost = say(s, &["cp", here, &inside("/nowhere/at/all")]);
        assert!(lost.code == Some(1) && lost.stderr.contains("can't copy to /nowhere/at/all in the container"), "{}", lost.stderr);
        let lost = say(s, &["cp", &inside("/none"), out]);
        assert!(lost.code == Some(1) && lost.stderr.contains("can't copy /none out of the container"), "{}", lost.stderr);
        let two = say(s, &["cp", &inside("/a"), &inside("/b")]);
        assert!(two.code == Some(1) && two.stderr.contains("from one container to another"), "{}", two.stderr);
        assert_eq!(say(s, &["cp", here, out]).code, Some(1));
        assert_eq!(say(s, &["cp", here, "ffffffff:/"]).code, Some(1));
        say(s, &["kill", &id]).is(0, &format!("{id}\n"));
    });
}
