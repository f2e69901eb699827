//! Labels of security modules: AppArmor profiles, SELinux contexts.

use std::path::Path;

/// A label that a command gets when it is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct SecurityLabel {
    pub(crate) attribute: &'static str,
    pub(crate) value: String,
}

impl SecurityLabel {
    /// An AppArmor profile by its name, which is loaded. None where this kernel runs no AppArmor.
    pub fn apparmor(profile: &str) -> Option<Self> {
        let on = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|said| said.trim() == "Y");
        // Since Linux 5.8 each module has attributes of its own; the old place is the first module's alone.
        let own = "/proc/self/attr/apparmor/exec";
        let attribute = if Path::new(own).exists() { own } else { "/proc/self/attr/exec" };
        on.then(|| Self { attribute, value: format!("exec {profile}") })
    }

    /// An SELinux context: `system_u:system_r:container_t:s0:c1,c2`. None where this kernel runs no SELinux.
    pub fn selinux(context: &str) -> Option<Self> {
        Path::new("/sys/fs/selinux/enforce").exists().then(|| Self { attribute: "/proc/self/attr/exec", value: context.to_owned() })
    }
}
