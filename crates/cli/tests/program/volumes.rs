//! `coracle volume`, and the flags that take one.

use crate::scratch::{Said, Scratch, as_each_user};

fn say(s: &Scratch, words: &[&str]) -> Said {
    s.coracle(words).output().into()
}

#[test]
fn volumes_are_made_listed_used_and_removed() {
    as_each_user(|s| {
        say(s, &["volume", "create", "--label", "job=7", "made"]).is(0, "made\n");
        s.run(&["-v", "made:/data", "-v", "/own"], &["sh", "-c", "echo kept > /data/file; touch /own/file"]).is(0, "");
        s.run(&["--mount", "src=made,dst=/data,ro"], &["cat", "/data/file"]).is(0, "kept\n");
        s.run(&["-v", "other:/data"], &["ls", "/data"]).is(0, "");
        say(s, &["volume", "ls", "-q"]).is(0, "made\nother\n");
        let seen = say(s, &["volume", "inspect", "made"]);
        assert_eq!(seen.code, Some(0));
        for part in ["\"Name\":\"made\"", "\"Driver\":\"local\"", "\"job\":\"7\"", "/volumes/made/data", "\"Scope\":\"local\""] {
            assert!(seen.stdout.contains(part), "{part}: {}", seen.stdout);
        }
        // One that is stopped has it, too.
        let made = s.coracle(["create", "-v", "made:/data", "--name", "box", "--rootfs", &s.rootfs(), "true"]).output();
        assert!(made.is_ok_and(|out| out.status.success()));
        let table = say(s, &["volume", "ls"]);
        assert!(table.stdout.starts_with("DRIVER") && table.stdout.contains("local"), "{}", table.stdout);
        let used = say(s, &["volume", "rm", "made"]);
        assert!(used.code == Some(1) && used.stderr.contains("in use"), "{}", used.stderr);
        say(s, &["volume", "prune", "-f"]).is(0, "other\n");
        say(s, &["rm", "box"]).is(0, "box\n");
        say(s, &["volume", "rm", "made"]).is(0, "made\n");
        assert_eq!(say(s, &["volume", "rm", "made"]).code, Some(1));
        say(s, &["volume", "rm", "-f", "made"]).is(0, "");
        let lost = say(s, &["volume", "inspect", "made"]);
        assert!(lost.code == Some(1) && lost.stdout == "[]\n", "{}", lost.stdout);
    });
}
