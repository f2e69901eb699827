//! Volumes that only root can have.

use crate::support::host::with_project_quotas;
use crate::support::{directory, need, program};

#[test]
fn a_volume_with_a_size_holds_no_more() {
    need!(Root, Busybox, Program, ProjectQuotas);
    let scratch = directory();
    let coracle = program::coracle().expect("that is the need");
    let line = format!(
        "run() {{ {} --root $DIR/engine \"$@\"; }}; run volume create --size 1m small; \
         run run --rootfs / -v small:/v sh -c 'dd if=/dev/zero of=/v/much bs=1k count=4096 2>/dev/null; stat -c %s /v/much; \
         rm /v/much; dd if=/dev/zero of=/v/little bs=1k count=900 2>/dev/null; stat -c %s /v/little'; run volume rm small",
        coracle.display()
    );
    let out = with_project_quotas(scratch.path(), &line);
    let said = String::from_utf8_lossy(&out.stdout);
    let sizes: Vec<u64> = said.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(out.status.success() && sizes.len() == 2, "{said}{}", String::from_utf8_lossy(&out.stderr));
    assert!(sizes[0] <= 1 << 20 && sizes[1] == 900 << 10, "{sizes:?}");
}
