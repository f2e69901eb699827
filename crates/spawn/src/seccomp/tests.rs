//! Runs compiled filters in an interpreter, and compares every call of every ABI with what the tables say.

use super::compile::{AARCH64, ARM, Abi, I386, X32, X86_64, abis};
use super::profile::{CAPABILITIES_THAT_MATTER, ENOSYS, EPERM, PROFILE, Then, When, holds};
use super::table::{NONE, TABLE};
use super::*;

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const fn errno(errno: u16) -> u32 {
    0x0005_0000 | errno as u32
}

/// What Docker gives a container by default.
const DOCKER: u64 = 0xa804_25fb;
const MACHINES: [Architecture; 2] = [Architecture::X86_64, Architecture::Aarch64];

/// What a run of a filter shows.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    value: u32,
    /// Instructions that were executed.
    steps: usize,
    /// Whether it looked at arguments: the kernel doesn't keep such an answer at install time.
    saw_arguments: bool,
}

/// Classic BPF as the kernel's `seccomp_check_filter` accepts it; anything else is a failed test.
fn run(filter: &Filter, token: u32, number: u32, args: &[u64; 6]) -> Run {
    let mut data = [0; 64];
    data[..4].copy_from_slice(&number.to_le_bytes());
    data[4..8].copy_from_slice(&token.to_le_bytes());
    for (slot, arg) in data[16..].chunks_exact_mut(8).zip(args) {
        slot.copy_from_slice(&arg.to_le_bytes());
    }
    let program = filter.as_bytes();
    let (mut at, mut a, mut steps, mut saw_arguments) = (0usize, 0u32, 0, false);
    loop {
        let i = &program[8 * at..8 * at + 8];
        let code = u16::from_ne_bytes([i[0], i[1]]);
        let (jt, jf) = (usize::from(i[2]), usize::from(i[3]));
        let k = u32::from_ne_bytes([i[4], i[5], i[6], i[7]]);
        at += 1;
        steps += 1;
        let test = match code {
            0x20 => {
                assert_eq!(k % 4, 0, "an unaligned load");
                let o = k as usize;
                a = u32::from_le_bytes([data[o], data[o + 1], data[o + 2], data[o + 3]]);
                saw_arguments |= o >= 16;
                continue;
            }
            0x54 => {
                a &= k;
                continue;
            }
            0x05 => {
                at += k as usize;
                continue;
            }
            0x06 => {
                return Run { value: k, steps, saw_arguments };
            }
            0x15 => a == k,
            0x25 => a > k,
            0x35 => a >= k,
            0x45 => a & k != 0,
            _ => panic!("instruction {} has the unknown code {code:#x}", at - 1),
        };
        at += if test { jt } else { jf };
    }
}

fn condition_holds(c: &ArgCond, args: &[u64; 6]) -> bool {
    let arg = args[usize::from(c.index)];
    let arg = if c.wide { arg } else { arg & 0xffff_ffff };
    match c.op {
        Op::Eq => arg == c.value,
        Op::Ne => arg != c.value,
        Op::Lt => arg < c.value,
        Op::Le => arg <= c.value,
        Op::Gt => arg > c.value,
        Op::Ge => arg >= c.value,
        Op::MaskedEq(mask) => arg & mask == c.value,
    }
}

/// The names that a number has in the ABI it belongs to; `None` where there is no such ABI.
fn names_of(abis: &[Abi], token: u32, number: u32) -> Option<Vec<&'static str>> {
    let abi = abis.iter().rev().find(|abi| abi.token == token && number >= abi.base).or_else(|| {
        assert!(!abis.iter().any(|abi| abi.token == token && abi.base == 0));
        None
    });
    // In the order of the slice x32 comes after x86_64, so the highest base that fits is found first.
    let abi = abi?;
    Some(TABLE.iter().filter(|row| row.1[abi.column] != NONE && row.1[abi.column] == number - abi.base).map(|row| row.0).collect())
}

/// What the profile's table says, read the slow way.
fn docker(machine: Architecture, native_only: bool, capabilities: u64, token: u32, number: u32, args: &[u64; 6]) -> u32 {
    let Some(names) = names_of(abis(machine, native_only), token, number) else {
        return KILL;
    };
    if names.is_empty() {
        return errno(ENOSYS);
    }
    for (when, then, entry) in PROFILE {
        if holds(*when, capabilities) && entry.iter().any(|name| names.contains(name)) {
            return match then {
                Then::Answer(Action::Allow) => ALLOW,
                Then::Answer(Action::Errno(e)) => errno(*e),
                Then::Answer(other) => panic!("{other:?} isn't used"),
                Then::AllowUnless(any) if any.iter().any(|c| condition_holds(c, args)) => errno(EPERM),
                Then::AllowUnless(_) => ALLOW,
                Then::AllowOnly(any) if any.iter().any(|c| condition_holds(c, args)) => ALLOW,
                Then::AllowOnly(_) => errno(EPERM),
            };
        }
    }
    errno(EPERM)
}

/// Every number near a call, and the ends of all regions.
fn numbers() -> Vec<u32> {
    let mut all: Vec<u32> = (0..1000).chain(X32.base - 2..X32.base + 1000).chain(983_035..983_055).collect();
    all.extend([0x3fff_ffff, 0x7fff_ffff, 0x8000_0000, 0x8000_0001, 0xbfff_ffff, 0xffff_fffe, 0xffff_ffff]);
    all
}

/// First arguments around everything that a condition compares with, with and without upper bits.
fn first_arguments() -> Vec<u64> {
    let mut all: Vec<u64> = (0..50).chain((0..64).map(|bit| 1 << bit)).collect();
    all.extend([0x20008, 0x20009, 0xffff_ffff, u64::MAX, 0x7e02_0000, 0x11, 0x003d_0f00, 0x81ff_ffff]);
    let high: Vec<u64> = all.iter().map(|v| v | 1 << 32).collect();
    all.extend(high);
    all
}

fn capability_sets() -> Vec<u64> {
    let mut sets = vec![0, DOCKER, u64::MAX, CAPABILITIES_THAT_MATTER];
    sets.extend((0..64).map(|bit| 1 << bit).filter(|bit| CAPABILITIES_THAT_MATTER & bit != 0));
    sets
}

#[test]
fn the_filter_of_the_build_script_is_what_the_profile_compiles_to() {
    let mine = crate::CapabilitySet::docker_default().bits();
    assert_eq!(mine, DOCKERS_CAPABILITIES);
    let compiled = COMPILED.expect("there is one");
    assert_eq!(compiled, compile_default(Architecture::NATIVE, false, mine).as_bytes());
    assert_eq!(compiled, Filter::docker_default(mine).as_bytes());
    assert_ne!(compiled, Filter::docker_default(0).as_bytes());
}

#[test]
fn the_filter_answers_every_number_of_every_abi_as_the_tables_do() {
    let first = first_arguments();
    for machine in MACHINES {
        for native_only in [false, true] {
            for capabilities in capability_sets() {
                let filter = compile_default(machine, native_only, capabilities);
                for token in [X86_64.token, I386.token, AARCH64.token, ARM.token, 0, 1, u32::MAX] {
                    for number in numbers() {
                        // Everything for the calls with conditions, two samples for the rest.
                        let conditional = run(&filter, token, number, &[0; 6]).saw_arguments;
                        let samples = if conditional { &first[..] } else { &[0, u64::MAX] };
                        for arg in samples {
                            let args = [*arg, !arg, *arg, !arg, *arg, !arg];
                            let real = run(&filter, token, number, &args).value;
                            let expected = docker(machine, native_only, capabilities, token, number, &args);
                            assert_eq!(
                                real, expected,
                                "{machine:?} native_only={native_only} capabilities={capabilities:#x} token={token:#x} \
                                 number={number:#x} arg={arg:#x}: {real:#x}, not {expected:#x}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_filter_is_short_and_a_plain_call_meets_few_instructions_and_no_argument() {
    for machine in MACHINES {
        for capabilities in capability_sets() {
            let filter = compile_default(machine, false, capabilities);
            assert!(filter.len() <= 300, "{machine:?} {capabilities:#x}: {} instructions", filter.len());
            let native = compile_default(machine, true, capabilities);
            assert!(native.len() <= 110, "{machine:?} {capabilities:#x}: {} instructions, native only", native.len());
            for abi in abis(machine, false) {
                for (name, numbers) in TABLE.iter().filter(|row| row.1[abi.column] != NONE) {
                    let run = run(&filter, abi.token, abi.base + numbers[abi.column], &[0; 6]);
                    if run.saw_arguments {
                        let limit = if *name == "socket" { 24 } else { 18 };
                        assert!(run.steps <= limit, "{name} takes {} steps", run.steps);
                        assert!(["socket", "clone", "personality"].contains(name), "{name} has conditions");
                    } else {
                        assert!(run.steps <= 14, "{name} takes {} steps", run.steps);
                    }
                }
            }
        }
    }
}

/// `facts/escapes.md`: the calls that past escapes came through, by number, so that a mistake in the table shows.
#[test]
fn calls_that_escapes_came_through_are_refused_in_every_abi() {
    // fsopen fsconfig fsmount fspick open_tree move_mount mount_setattr io_uring_{setup,enter,register} clone3, the same everywhere
    const NEW: [u32; 10] = [430, 431, 432, 433, 428, 429, 442, 425, 426, 427];
    // mount umount2 pivot_root unshare setns bpf keyctl add_key request_key userfaultfd open_by_handle_at perf_event_open kexec_load
    // init_module finit_module delete_module
    const X86_64_OLD: [u32; 16] = [165, 166, 155, 272, 308, 321, 250, 248, 249, 323, 304, 298, 246, 175, 313, 176];
    const I386_OLD: [u32; 16] = [21, 52, 217, 310, 346, 357, 288, 286, 287, 374, 342, 336, 283, 128, 350, 129];
    const AARCH64_OLD: [u32; 16] = [40, 39, 41, 97, 268, 280, 219, 217, 218, 282, 265, 241, 104, 105, 273, 106];
    const ARM_OLD: [u32; 16] = [21, 52, 218, 337, 375, 386, 311, 309, 310, 388, 371, 364, 347, 128, 379, 129];

    for capabilities in [0, DOCKER] {
        for machine in MACHINES {
            let filter = Filter::docker_default_for(machine, capabilities);
            let check = |token: u32, number: u32, arg: u64, expected: u32| {
                let real = run(&filter, token, number, &[arg, 0, 0, 0, 0, 0]).value;
                assert_eq!(real, expected, "{machine:?} token={token:#x} number={number:#x} arg={arg:#x}: {real:#x}");
            };
            // Token, base, calls, socket, clone: flags of a new user namespace and of a thread.
            let rows: &[(u32, u32, &[u32], u32, u32)] = match machine {
                Architecture::X86_64 => &[
                    (0xc000_003e, 0, &X86_64_OLD, 41, 56),
                    (0x4000_0003, 0, &I386_OLD, 359, 120),
                    (0xc000_003e, 0x4000_0000, &X86_64_OLD, 41, 56),
                ],
                Architecture::Aarch64 => &[(0xc000_00b7, 0, &AARCH64_OLD, 198, 220), (0x4000_0028, 0, &ARM_OLD, 281, 120)],
            };
            for (token, base, old, socket, clone) in rows {
                for number in NEW.iter().chain(*old) {
                    // x32 has kexec_load at 528; its old number is nobody's.
                    let nobody = *base != 0 && *number == 246;
                    check(*token, base + number, 0, errno(if nobody { ENOSYS } else { EPERM }));
                }
                check(*token, base + 435, 0, errno(ENOSYS)); // clone3
                check(*token, base + 600, 0, errno(ENOSYS)); // not yet invented
                for family in [38, 40, 1 << 32 | 40, 1 << 32 | 38, 0xffff_ffff] {
                    check(*token, base + socket, family, errno(EPERM));
                }
                for family in [1, 2, 10, 16, 17] {
                    check(*token, base + socket, family, ALLOW); // unix, inet, inet6, netlink, packet
                }
                for namespace in [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
                    check(*token, base + clone, namespace | 17, errno(EPERM));
                    check(*token, base + clone, 1 << 32 | namespace, errno(EPERM));
                }
                check(*token, base + clone, 0x003d_0f00, ALLOW); // pthread_create
                check(*token, base + clone, 0x0120_0011, ALLOW); // fork
            }
        }
    }
    let x32_kexec = run(&Filter::docker_default_for(Architecture::X86_64, 0), 0xc000_003e, 0x4000_0000 | 528, &[0; 6]);
    assert_eq!(x32_kexec.value, errno(EPERM));
}

#[test]
fn a_64_bit_number_with_the_x32_bit_and_an_x32_number_without_it_are_nobodys() {
    let filter = Filter::docker_default_for(Architecture::X86_64, u64::MAX);
    // rt_sigaction is 13, and 512 in x32; execve 59, and 520.
    for number in [0x4000_0000 | 13, 512, 0x4000_0000 | 59, 520] {
        assert_eq!(run(&filter, X86_64.token, number, &[0; 6]).value, errno(ENOSYS), "{number:#x}");
    }
}

#[test]
fn a_call_of_a_foreign_architecture_kills() {
    for machine in MACHINES {
        let filter = Filter::docker_default_for(machine, u64::MAX);
        let foreign = if machine == Architecture::X86_64 { AARCH64 } else { X86_64 };
        assert_eq!(run(&filter, foreign.token, 1, &[0; 6]).value, KILL);
        let native_only = compile_default(machine, true, u64::MAX);
        let compat = if machine == Architecture::X86_64 { I386 } else { ARM };
        assert_eq!(run(&native_only, compat.token, 4, &[0; 6]).value, KILL);
    }
}

#[test]
fn a_capability_opens_its_calls_and_closes_none() {
    for machine in MACHINES {
        let without = compile_default(machine, false, 0);
        for (when, _, names) in PROFILE {
            let When::AnyOf(any) = when else { continue };
            for bit in (0..64).map(|bit| 1 << bit).filter(|bit| any & bit != 0) {
                let with = compile_default(machine, false, bit);
                for abi in abis(machine, false) {
                    for number in 0..1000 {
                        let before = run(&without, abi.token, abi.base + number, &[0; 6]).value;
                        let after = run(&with, abi.token, abi.base + number, &[0; 6]).value;
                        assert!(before != ALLOW || after == ALLOW, "{bit:#x} closes {number} of {abi:?}");
                    }
                    for name in *names {
                        let number = TABLE.iter().find(|row| row.0 == *name).map(|row| row.1[abi.column]).unwrap();
                        if number != NONE {
                            let value = run(&with, abi.token, abi.base + number, &[u64::MAX; 6]).value;
                            assert_eq!(value, ALLOW, "{bit:#x} opens {name} in {abi:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_default_filter_is_compiled_once_for_capabilities_that_differ_in_nothing_it_knows() {
    const CAP_CHOWN: u64 = 1;
    let a = Filter::docker_default(1 << 18);
    let b = Filter::docker_default(1 << 18 | CAP_CHOWN);
    assert!(Arc::ptr_eq(&a.program, &b.program));
    assert_ne!(a, Filter::docker_default(0));
    assert!(Filter::docker_default_native_only(0).len() < Filter::docker_default(0).len());
}

#[test]
fn every_comparison_means_what_it_says_at_the_edges_of_both_words() {
    const EDGES: [u64; 14] = [
        0,
        1,
        2,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fffe,
        0xffff_ffff,
        1 << 32,
        (1 << 32) + 1,
        (1 << 32) + 2,
        (2 << 32) + 1,
        0x7fff_ffff_ffff_ffff,
        u64::MAX - 1,
        u64::MAX,
    ];
    let masks = EDGES.map(Op::MaskedEq);
    let ops = [Op::Eq, Op::Ne, Op::Lt, Op::Le, Op::Gt, Op::Ge];
    for op in ops.iter().chain(&masks) {
        for value in EDGES {
            for condition in [ArgCond::long(3, *op, value), ArgCond::int(3, *op, value as u32)] {
                let filter = FilterBuilder::new(Action::Allow)
                    .rule_if("read", &[condition], Action::Errno(7))
                    .build_for(Architecture::X86_64)
                    .unwrap();
                for arg in EDGES {
                    let args = [u64::MAX, 0, u64::MAX, arg, 0, u64::MAX];
                    let expected = if condition_holds(&condition, &args) { errno(7) } else { ALLOW };
                    let real = run(&filter, X86_64.token, 0, &args).value;
                    assert_eq!(real, expected, "{condition:?} of {arg:#x}");
                }
            }
        }
    }
}

#[test]
fn the_first_rule_whose_conditions_all_hold_decides_and_else_the_unconditional_one() {
    let filter = FilterBuilder::new(Action::KillProcess)
        .rule_if("openat", &[ArgCond::int(2, Op::MaskedEq(3), 0), ArgCond::int(0, Op::Ne, 5)], Action::Log)
        .rule_if("openat", &[ArgCond::int(2, Op::MaskedEq(3), 1)], Action::Trap)
        .rule_if("openat", &[ArgCond::int(2, Op::Eq, 1)], Action::Allow)
        .rule("openat", Action::Errno(30))
        .rule_if("read", &[], Action::Allow)
        .build_for(Architecture::Aarch64)
        .unwrap();
    let openat = |dir: u64, flags: u64| run(&filter, AARCH64.token, 56, &[dir, 0, flags, 0, 0, 0]).value;
    assert_eq!(openat(1, 0), 0x7ffc_0000);
    assert_eq!(openat(1, 4), 0x7ffc_0000);
    assert_eq!(openat(5, 0), errno(30));
    assert_eq!(openat(1, 1), 0x0003_0000);
    assert_eq!(openat(1, 2), errno(30));
    assert_eq!(run(&filter, AARCH64.token, 63, &[0; 6]).value, ALLOW);
    assert_eq!(run(&filter, AARCH64.token, 64, &[0; 6]).value, KILL);
    assert_eq!(run(&filter, AARCH64.token, 5000, &[0; 6]).value, errno(ENOSYS));
}

#[test]
fn unknown_numbers_are_as_allowed_as_known_ones_unless_told() {
    let number = |filter: &Filter, n| run(filter, X86_64.token, n, &[0; 6]).value;
    let open = FilterBuilder::new(Action::Allow).rule("ptrace", Action::Errno(1)).build_for(Architecture::X86_64).unwrap();
    assert_eq!((number(&open, 0), number(&open, 101), number(&open, 5000)), (ALLOW, errno(1), ALLOW));
    let told = FilterBuilder::new(Action::Allow).unknown(Action::KillProcess).build_for(Architecture::X86_64).unwrap();
    assert_eq!((number(&told, 0), number(&told, 5000)), (ALLOW, KILL));
    let all = FilterBuilder::new(Action::Allow).native_only().build_for(Architecture::X86_64).unwrap();
    assert_eq!((number(&all, 0), run(&all, I386.token, 1, &[0; 6]).value), (ALLOW, KILL));
}

#[test]
fn jumps_reach_through_a_program_of_thousands_of_instructions() {
    // Another errno for every call, and a condition for every third or second: nothing merges and nothing is near.
    for machine in MACHINES {
        for every in [3_usize, 2] {
            let conditional = |i: usize| i.is_multiple_of(every);
            let mut builder = FilterBuilder::new(Action::KillProcess).unknown(Action::Errno(4000));
            for (i, (name, _)) in TABLE.iter().enumerate() {
                if conditional(i) {
                    let condition = ArgCond::long((i % 6) as u8, Op::Eq, (i as u64) << 30);
                    builder = builder.rule_if(name, &[condition], Action::Errno(i as u16 + 1000));
                }
                builder = builder.rule(name, Action::Errno(i as u16 + 1));
            }
            let built = builder.build_for(machine);
            let Ok(filter) = built else { panic!("{machine:?}: {}", built.unwrap_err()) };
            assert!(filter.len() > 1500, "{} instructions aren't far", filter.len());
            for abi in abis(machine, false) {
                for number in 0..1000 {
                    let rows: Vec<usize> = (0..TABLE.len()).filter(|i| TABLE[*i].1[abi.column] == number).collect();
                    if rows.len() > 1 {
                        continue; // Aliases with two rules: the table's order decides, nobody is promised which.
                    }
                    let mut args = [0; 6];
                    let mut expected = [errno(4000); 2];
                    if let [i] = rows[..] {
                        args[i % 6] = (i as u64) << 30;
                        expected = [errno(i as u16 + 1); 2];
                        if conditional(i) {
                            expected[0] = errno(i as u16 + 1000);
                        }
                        if i == 0 {
                            expected[1] = expected[0]; // Its condition is on zero.
                        }
                    }
                    let real = [args, [0; 6]].map(|args| run(&filter, abi.token, abi.base + number, &args).value);
                    assert_eq!(real, expected, "{abi:?} {number}");
                }
            }
        }
    }
}

#[test]
fn all_mistakes_of_a_description_are_reported_together() {
    let error = FilterBuilder::new(Action::Errno(1))
        .allow(["read", "raed", "sys_openat", "raed", "frobnicate"])
        .rule_if("socket", &[ArgCond::int(6, Op::Eq, 1)], Action::Errno(5000))
        .build()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "can't make a seccomp filter: no kernel up to 6.18 has the system calls raed, sys_openat, frobnicate; \
         socket has no argument 6: they count from 0 to 5; 5000 is no errno: they go to 4095"
    );
    assert_eq!(error.remedy().as_deref(), Some("did you mean openat for sys_openat?"));
    let Error::Invalid { unknown, .. } = error else { panic!() };
    assert_eq!(unknown, ["raed", "sys_openat", "frobnicate"]);

    let error = FilterBuilder::new(Action::Errno(1)).allow(["opena"]).build().unwrap_err();
    assert_eq!(error.remedy().as_deref(), Some("did you mean open for opena?"));
}

#[test]
fn a_program_that_the_kernel_would_refuse_for_its_length_is_an_error() {
    let mut builder = FilterBuilder::new(Action::Allow);
    for i in 0..3000 {
        builder = builder.rule_if("ioctl", &[ArgCond::long(1, Op::Eq, i)], Action::Errno(25));
    }
    let error = builder.build().unwrap_err();
    let Error::TooLong { length } = error else { panic!("{error}") };
    assert!(length > 4096);
    assert!(error.to_string().ends_with(" instructions, and the kernel takes 4096"), "{error}");
}

#[test]
fn the_table_is_sorted_and_no_abi_gives_a_number_to_two_calls() {
    assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    for column in 0..5 {
        for (i, (name, numbers)) in TABLE.iter().enumerate() {
            for (other, others) in &TABLE[i + 1..] {
                let aliases = *name == "arm_sync_file_range" && *other == "sync_file_range2";
                let equal = numbers[column] != NONE && numbers[column] == others[column];
                assert!(!equal || aliases, "{name} and {other} in column {column}");
            }
        }
    }
    for (_, _, names) in PROFILE {
        for name in *names {
            assert!(TABLE.iter().any(|row| row.0 == *name), "{name} of the profile isn't in the table");
        }
    }
}

/// Needs the kernel's headers (Debian: linux-libc-dev), x86_64's.
#[test]
fn the_table_agrees_with_this_machines_kernel_headers() {
    for (file, column) in [("unistd_64.h", 0), ("unistd_32.h", 1), ("unistd_x32.h", 2)] {
        let path = format!("/usr/include/x86_64-linux-gnu/asm/{file}");
        let Ok(text) = std::fs::read_to_string(&path) else {
            println!("SKIP: {path} (linux-libc-dev on x86_64)");
            return;
        };
        let mut seen = 0;
        for line in text.lines() {
            let Some((name, number)) = line.strip_prefix("#define __NR_").and_then(|rest| rest.split_once(' ')) else {
                continue;
            };
            let number = number.trim().trim_start_matches("(__X32_SYSCALL_BIT + ").trim_end_matches(')');
            let Ok(number) = number.parse::<u32>() else {
                continue;
            };
            let row = TABLE.iter().find(|row| row.0 == name);
            assert_eq!(row.map(|row| row.1[column]), Some(number), "{name} of {file}");
            seen += 1;
        }
        assert!(seen > 300, "{file}: {seen} calls");
    }
}

#[test]
fn the_default_rules_can_be_added_to_and_forgotten() {
    let filter = FilterBuilder::docker_default(0)
        .allow(["io_uring_setup"])
        .rule("ptrace", Action::Errno(EPERM))
        .forget("socket")
        .rule("socket", Action::Allow)
        .forget("read")
        .build_for(Architecture::X86_64)
        .unwrap();
    let call = |number, arg| run(&filter, X86_64.token, number, &[arg, 0, 0, 0, 0, 0]).value;
    assert_eq!((call(425, 0), call(426, 0), call(101, 0)), (ALLOW, errno(EPERM), errno(EPERM)));
    assert_eq!((call(41, 40), call(0, 0), call(1, 0)), (ALLOW, errno(EPERM), ALLOW));
}
