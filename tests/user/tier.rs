//! A plain user's run is what it says it is: xtask prepares it, and a mistake there would make every test here mean nothing.

use crate::support::{met, need, needs::Need, needs::Tier};
use std::path::PathBuf;

#[test]
fn a_plain_users_directories_are_their_own() {
    need!(PlainUser);
    for name in ["HOME", "XDG_RUNTIME_DIR", "TMPDIR"] {
        let Some(directory) = std::env::var_os(name).map(PathBuf::from) else {
            // Only xtask promises TMPDIR.
            continue;
        };
        let file = directory.join(format!("coracle-test-{}", std::process::id()));
        std::fs::write(&file, "").unwrap_or_else(|error| panic!("{name} is {}: {error}", directory.display()));
        std::fs::remove_file(&file).expect("who made it may remove it");
    }
}

#[test]
fn a_plain_user_with_sub_ids_gets_them_mapped() {
    need!(PlainUser, SubIds, UserNamespaces);
    let map = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--map-auto", "cat", "/proc/self/uid_map"])
        .output()
        .expect("unshare runs");
    let map = String::from_utf8_lossy(&map.stdout).into_owned();
    assert_eq!(map.lines().count(), 2, "{map}");
}

#[test]
fn a_plain_user_with_a_cgroup_may_make_one_below() {
    need!(PlainUser, Delegation);
    let given = PathBuf::from(std::env::var_os("CORACLE_CGROUP").expect("that is the need"));
    let child = given.join(format!("coracle-test-{}", std::process::id()));
    std::fs::create_dir(&child).unwrap_or_else(|error| panic!("{}: {error}", child.display()));
    std::fs::remove_dir(&child).expect("it is empty");
}

#[test]
fn the_tier_says_who_we_are() {
    let Some(tier) = std::env::var("CORACLE_TIER").ok().and_then(|word| Tier::named(&word)) else {
        return; // cargo test, without xtask
    };
    assert_eq!(met(Need::Root), matches!(tier, Tier::Root | Tier::VmRoot));
    if matches!(tier, Tier::VmRoot | Tier::VmUser) {
        assert!(met(Need::CgroupV2) && met(Need::OldKernel));
    }
    if tier == Tier::NoSub {
        assert!(met(Need::NoSubIds) && !met(Need::Delegation));
    }
}
