//! A disk that is full under a running container.

use crate::support::need;
use crate::support::owner::{self, Act};
use crate::support::place::Place;

#[test]
fn a_full_disk_holds_no_container_up_and_the_log_says_what_is_missing() {
    need!(Root, Busybox);
    let place = Place::new();
    // Of a mount namespace of the owner's own.
    let engine = place.engine().root().display().to_string();
    let small = format!("mount -t tmpfs -o size=2m,mode=700 small '{engine}' && exec \"$@\"");
    let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &small, "sh"];
    let output = owner::under(&words, Act::FullDisk, place.path()).output().expect("the owner runs");
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    place.assert_clean();
}
