//! Which system calls a container may make: Docker's default, none refused, or a profile in Docker's JSON.

use crate::error::Problem;
use coracle_spawn::seccomp::{self, Action, ArgCond, FilterBuilder, Op};
use coracle_spawn::{Capability, CapabilitySet};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A system call filter.
///
/// ```
/// use coracle_container::Seccomp;
/// let none = Seccomp::unconfined();
/// let own = Seccomp::json(r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [ { "names": ["ptrace"], "action": "SCMP_ACT_ERRNO" } ] }"#);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[must_use]
pub struct Seccomp(pub(crate) Kind);

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Docker's default.
    #[default]
    Docker,
    /// Docker's default for one ABI, without what one container needs to look into processes.
    Strict,
    /// The same, and who asks for what it doesn't allow is killed.
    Deadly,
    Unconfined,
    Json(String),
}

impl Seccomp {
    /// Docker's default profile, which grows with the container's capabilities: what holds if nothing is said.
    pub fn docker_default() -> Self {
        Self(Kind::Docker)
    }

    /// Docker's default without the ABIs of 32 bits, and without tracing, other processes' memory, personalities, file handles and the
    /// monitoring of file systems: for what nobody trusts.
    pub fn strict() -> Self {
        Self(Kind::Strict)
    }

    /// [`strict`](Self::strict), and who asks for what that leaves out is killed by SIGSYS.
    pub fn deadly() -> Self {
        Self(Kind::Deadly)
    }

    /// No filter.
    pub fn unconfined() -> Self {
        Self(Kind::Unconfined)
    }

    /// A profile in Docker's JSON: seccomp(2) actions, names, arguments, `includes` and `excludes` by capability, architecture and kernel. Read
    /// when the container starts.
    ///
    /// As in libseccomp a name that this kernel doesn't have allows nothing; one in a rule that refuses is an error here, because whoever
    /// misspells `ptrace` relies on it. An argument is compared as 64 bits and as 32, whichever refuses more: the kernel reads many as 32. Rules for
    /// one call are tried in order. `SCMP_ACT_KILL` ends the process. `SCMP_ACT_NOTIFY` and `SCMP_ACT_TRACE` can't be had.
    pub fn json(profile: impl Into<String>) -> Self {
        Self(Kind::Json(profile.into()))
    }

    /// The same from a file, which is read now.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn file(path: impl AsRef<Path>) -> std::io::Result<Self> {
        std::fs::read_to_string(path).map(Self::json)
    }

    /// The filter for a container with these capabilities; none for `unconfined`.
    pub(crate) fn filter(&self, capabilities: CapabilitySet) -> Result<Option<seccomp::Filter>, Vec<Problem>> {
        let compiled = |builder: FilterBuilder| {
            builder.build().map(Some).map_err(|error| vec![Problem { what: error.to_string(), remedy: error.remedy() }])
        };
        match &self.0 {
            Kind::Docker => Ok(Some(seccomp::Filter::docker_default(capabilities.bits()))),
            Kind::Strict => compiled(strict(capabilities, Action::Errno(EPERM))),
            Kind::Deadly => compiled(strict(capabilities, Action::KillProcess)),
            Kind::Unconfined => Ok(None),
            Kind::Json(text) => compiled(profile(text, capabilities)?),
        }
    }
}

const EPERM: u16 = 1;

/// What Docker allows and one container on its own doesn't need.
const NOT_STRICT: [&str; 18] = [
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "kcmp",
    "pidfd_getfd",
    "process_madvise",
    "personality",
    "name_to_handle_at",
    "open_by_handle_at",
    "fanotify_init",
    "fanotify_mark",
    "memfd_secret",
    "modify_ldt",
    "remap_file_pages",
    "statmount",
    "listmount",
    "mknod",
    "mknodat",
];

fn strict(capabilities: CapabilitySet, answer: Action) -> FilterBuilder {
    NOT_STRICT
        .iter()
        .fold(FilterBuilder::docker_default(capabilities.bits()).native_only(), |builder, name| builder.forget(name).rule(name, answer))
}

/// A profile as Docker writes it. Members that nobody knows are passed over, as Docker passes them over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    /// Docker's older spelling.
    name: Option<String>,
    action: String,
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Conditions,
    #[serde(default)]
    excludes: Conditions,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Conditions {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: Option<String>,
}

/// Of linux/audit.h as libseccomp calls it, and as Docker's conditions do.
#[cfg(target_arch = "x86_64")]
const NATIVE: (&str, &[&str], &[&str]) = ("SCMP_ARCH_X86_64", &["SCMP_ARCH_X86", "SCMP_ARCH_X32"], &["amd64", "x32", "x86"]);
#[cfg(not(target_arch = "x86_64"))]
const NATIVE: (&str, &[&str], &[&str]) = ("SCMP_ARCH_AARCH64", &["SCMP_ARCH_ARM"], &["arm64", "arm"]);

fn problem(what: String) -> Vec<Problem> {
    let remedy = Some("see the profile that Docker has by default: https://github.com/moby/profiles".into());
    vec![Problem { what: format!("the seccomp profile: {what}"), remedy }]
}

fn profile(text: &str, capabilities: CapabilitySet) -> Result<FilterBuilder, Vec<Problem>> {
    let profile: Profile = serde_json::from_str(text).map_err(|error| problem(error.to_string()))?;
    let default = action(&profile.default_action, profile.default_errno_ret).ok_or_else(|| no_action(&profile.default_action))?;
    let mut builder = FilterBuilder::new(default);
    let of_map = profile.arch_map.iter().find(|map| map.architecture == NATIVE.0).and_then(|map| map.sub_architectures.as_ref());
    let others = profile.architectures.iter().chain(of_map.into_iter().flatten());
    if !others.into_iter().any(|other| NATIVE.1.contains(&other.as_str())) {
        builder = builder.native_only();
    }
    let mut problems = Vec::new();
    for rule in profile.syscalls {
        if !rule.holds(capabilities) {
            continue;
        }
        match rule.add(builder.clone()) {
            Ok(with) => builder = with,
            Err(more) => problems.extend(more),
        }
    }
    // Calls that are younger than the profile are answered as if the kernel didn't have them, as runc does: programs take their fallback.
    let builder =
        if matches!(default, Action::Errno(_) | Action::KillProcess | Action::Trap) { builder.younger_are_unknown() } else { builder };
    if problems.is_empty() { Ok(builder) } else { Err(problems) }
}

fn no_action(word: &str) -> Vec<Problem> {
    problem(format!("{word} is no action that can be had"))
}

fn action(word: &str, errno: Option<u16>) -> Option<Action> {
    Some(match word {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(errno.unwrap_or(EPERM)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" | "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_LOG" => Action::Log,
        _ => return None,
    })
}

impl Conditions {
    fn any_architecture(&self) -> bool {
        self.arches.iter().any(|arch| NATIVE.2.contains(&arch.as_str()))
    }

    fn has(name: &str, capabilities: CapabilitySet) -> bool {
        name.parse::<Capability>().is_ok_and(|capability| capabilities.contains(capability))
    }

    fn kernel_is_younger(&self) -> bool {
        let Some(least) = &self.min_kernel else { return true };
        let numbers = |text: &str| text.split(['.', '-']).map_while(|word| word.parse::<u32>().ok()).take(2).collect::<Vec<_>>();
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        numbers(&release) >= numbers(least)
    }
}

impl Rule {
    /// Docker's meaning: all that is included must hold, and nothing that is excluded.
    fn holds(&self, capabilities: CapabilitySet) -> bool {
        let included = self.includes.caps.iter().all(|name| Conditions::has(name, capabilities))
            && (self.includes.arches.is_empty() || self.includes.any_architecture())
            && self.includes.kernel_is_younger();
        let excluded = self.excludes.caps.iter().any(|name| Conditions::has(name, capabilities))
            || self.excludes.any_architecture()
            || (self.excludes.min_kernel.is_some() && self.excludes.kernel_is_younger());
        included && !excluded
    }

    fn add(&self, mut builder: FilterBuilder) -> Result<FilterBuilder, Vec<Problem>> {
        let action = action(&self.action, self.errno_ret).ok_or_else(|| no_action(&self.action))?;
        let allows = matches!(action, Action::Allow | Action::Log);
        let ways = self.ways(allows)?;
        for name in self.names.iter().chain(&self.name) {
            if !seccomp::is_known(name) {
                match allows {
                    true => continue,
                    false => return Err(problem(format!("{name:?} is refused and no kernel has it"))),
                }
            }
            builder = match ways.is_empty() {
                true => builder.rule(name, action),
                false => ways.iter().fold(builder, |builder, way| builder.rule_if(name, way, action)),
            };
        }
        Ok(builder)
    }

    /// The conditions on arguments: any of these lists, each of which holds where all of it does. None for a rule without conditions.
    fn ways(&self, allows: bool) -> Result<Vec<Vec<ArgCond>>, Vec<Problem>> {
        let arguments = self.args.as_deref().unwrap_or_default();
        if arguments.is_empty() {
            return Ok(Vec::new());
        }
        let conditions = arguments.iter().map(Argument::conditions).collect::<Result<Vec<_>, _>>()?;
        // Several conditions on one argument are several rules, as in runc.
        let same = arguments.iter().enumerate().any(|(n, one)| arguments[..n].iter().any(|other| other.index == one.index));
        let groups: Vec<Vec<(ArgCond, Option<ArgCond>)>> =
            if same { conditions.into_iter().map(|one| vec![one]).collect() } else { vec![conditions] };
        let mut ways = Vec::new();
        for group in groups {
            let wide: Vec<ArgCond> = group.iter().map(|(wide, _)| *wide).collect();
            let narrow: Vec<ArgCond> = group.iter().map(|(wide, narrow)| narrow.unwrap_or(*wide)).collect();
            match allows {
                // It must hold either way.
                true => ways.push(wide.into_iter().chain(group.iter().filter_map(|(_, narrow)| *narrow)).collect()),
                // It holds one way or the other.
                false => ways.extend([wide, narrow]),
            }
        }
        Ok(ways)
    }
}

impl Argument {
    /// On the whole register, and where the value fits on its lower half.
    fn conditions(&self) -> Result<(ArgCond, Option<ArgCond>), Vec<Problem>> {
        let (op, value) = match self.op.as_str() {
            "SCMP_CMP_NE" => (Op::Ne, self.value),
            "SCMP_CMP_LT" => (Op::Lt, self.value),
            "SCMP_CMP_LE" => (Op::Le, self.value),
            "SCMP_CMP_EQ" => (Op::Eq, self.value),
            "SCMP_CMP_GE" => (Op::Ge, self.value),
            "SCMP_CMP_GT" => (Op::Gt, self.value),
            "SCMP_CMP_MASKED_EQ" => (Op::MaskedEq(self.value), self.value_two),
            other => return Err(problem(format!("{other} is no comparison"))),
        };
        if self.index > 5 {
            return Err(problem(format!("there is no argument {}: they count from 0 to 5", self.index)));
        }
        let mask = if let Op::MaskedEq(mask) = op { mask } else { 0 };
        let narrow = u32::try_from(value).ok().filter(|_| u32::try_from(mask).is_ok());
        Ok((ArgCond::long(self.index, op, value), narrow.map(|value| ArgCond::int(self.index, op, value))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(text: &str) -> Result<usize, String> {
        let filter = Seccomp::json(text).filter(CapabilitySet::docker_default());
        filter.map(|filter| filter.expect("there is one").len()).map_err(|problems| problems[0].what.clone())
    }

    #[test]
    fn a_profile_that_says_what_it_means_becomes_a_filter() {
        assert!(built(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap() > 0);
        let socket = r#"{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":40,"op":"SCMP_CMP_NE"}]}"#;
        let text = format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"syscalls":[{socket}, {{"names":["read","no_such_call"],"action":"SCMP_ACT_ALLOW","includes":{{"minKernel":"4.8"}}}}]}}"#
        );
        assert!(built(&text).unwrap() > 4);
    }

    #[test]
    fn what_is_wrong_with_a_profile_is_told() {
        for (text, says) in [
            ("{", "EOF"),
            ("{}", "defaultAction"),
            (r#"{"defaultAction":"ALLOW"}"#, "ALLOW is no action"),
            (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "SCMP_ACT_NOTIFY is no action"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["ptrase"],"action":"SCMP_ACT_ERRNO"}]}"#,
                "\"ptrase\" is refused and no kernel has it",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
                "no argument 6",
            ),
        ] {
            let what = built(text).unwrap_err();
            assert!(what.starts_with("the seccomp profile: ") && what.contains(says), "{what}");
        }
    }

    #[test]
    fn conditions_of_a_rule_are_dockers() {
        let rule = |text: &str| serde_json::from_str::<Rule>(&format!(r#"{{"names":["x"],"action":"SCMP_ACT_ALLOW",{text}}}"#)).unwrap();
        let docker = CapabilitySet::docker_default();
        for (text, holds) in [
            (r#""includes":{}"#, true),
            (r#""includes":{"caps":["CAP_SYS_ADMIN"]}"#, false),
            (r#""excludes":{"caps":["CAP_SYS_ADMIN"]}"#, true),
            (r#""includes":{"caps":["CAP_CHOWN"]}"#, true),
            (r#""excludes":{"caps":["CAP_CHOWN"]}"#, false),
            (r#""includes":{"arches":["s390x"]}"#, false),
            (r#""excludes":{"arches":["s390x"]}"#, true),
            (r#""includes":{"minKernel":"4.8"}"#, true),
            (r#""includes":{"minKernel":"999.0"}"#, false),
        ] {
            assert_eq!(rule(text).holds(docker), holds, "{text}");
        }
    }
}
