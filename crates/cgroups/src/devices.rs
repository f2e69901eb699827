//! Which devices a container may open, decided by a list: lines for v1's devices controller, a program for cgroup2.
//!
//! cgroup2 has no files for it: the kernel asks an eBPF program that is attached to the directory at each open and mknod of a device
//! (`BPF_PROG_TYPE_CGROUP_DEVICE`, Linux 4.15). The program is written here, as bytes; who loads it needs `CAP_BPF` or `CAP_SYS_ADMIN`.

use std::fmt;
use std::str::FromStr;

/// A rule that allows: a kind of device, its numbers, and what may be done. As docker-run(1) `--device-cgroup-rule` writes it: `c 10:200 rwm`.
///
/// ```
/// use coracle_cgroups::DeviceRule;
/// let rule: DeviceRule = "b 8:* rm".parse().unwrap();
/// assert_eq!((rule.block, rule.major, rule.minor, rule.write), (Some(true), Some(8), None, false));
/// assert_eq!(rule.to_string(), "b 8:* rm");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct DeviceRule {
    /// Block or character device; `None` for both.
    pub block: Option<bool>,
    /// `None` for any.
    pub major: Option<u32>,
    /// `None` for any.
    pub minor: Option<u32>,
    /// Whether it may be opened for reading.
    pub read: bool,
    /// Whether it may be opened for writing.
    pub write: bool,
    /// Whether a node of it may be made.
    pub mknod: bool,
}

impl DeviceRule {
    /// Everything may be done with one device.
    pub fn device(block: bool, major: u32, minor: u32) -> DeviceRule {
        DeviceRule { block: Some(block), major: Some(major), minor: Some(minor), read: true, write: true, mknod: true }
    }

    /// The same with less: `r`, `w`, `m` in any order. `None` for other letters, and for none.
    pub fn access(mut self, letters: &str) -> Option<DeviceRule> {
        (self.read, self.write, self.mknod) = (letters.contains('r'), letters.contains('w'), letters.contains('m'));
        (!letters.is_empty() && letters.len() <= 3 && letters.bytes().all(|b| b"rwm".contains(&b))).then_some(self)
    }

    /// What every container may: the default devices and terminals, and to make nodes, which open nothing by that.
    pub fn defaults() -> Vec<DeviceRule> {
        let nodes = |block| DeviceRule { block: Some(block), major: None, minor: None, read: false, write: false, mknod: true };
        let mut rules = vec![nodes(false), nodes(true)];
        rules.extend([(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)].map(|(a, b)| DeviceRule::device(false, a, b)));
        rules.push(DeviceRule { minor: None, ..DeviceRule::device(false, 136, 0) });
        rules
    }
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.block {
            None => 'a',
            Some(true) => 'b',
            Some(false) => 'c',
        };
        let number = |number: Option<u32>| number.map_or("*".into(), |number| number.to_string());
        write!(f, "{kind} {}:{} ", number(self.major), number(self.minor))?;
        [(self.read, "r"), (self.write, "w"), (self.mknod, "m")]
            .iter()
            .filter(|(yes, _)| *yes)
            .try_for_each(|(_, letter)| f.write_str(letter))
    }
}

/// A text that is no rule about devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseDeviceRuleError {
    given: String,
}

impl fmt::Display for ParseDeviceRuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no rule about devices: expected `c 10:200 rwm`, with a, b or c, numbers or *, and some of r, w and m",
            self.given
        )
    }
}

impl std::error::Error for ParseDeviceRuleError {}

impl FromStr for DeviceRule {
    type Err = ParseDeviceRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseDeviceRuleError { given: text.to_owned() })
    }
}

fn parse(text: &str) -> Option<DeviceRule> {
    let [kind, numbers, letters] = text.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let block = match kind {
        "a" => None,
        "b" => Some(true),
        "c" => Some(false),
        _ => return None,
    };
    // `+7` is no number here, and what the kernel has no room for neither.
    let number = |word: &str| match word {
        "*" => Some(None),
        word if word.bytes().all(|b| b.is_ascii_digit()) => word.parse::<u32>().ok().filter(|n| *n < 1 << 20).map(Some),
        _ => None,
    };
    let (major, minor) = numbers.split_once(':')?;
    DeviceRule { block, major: number(major)?, minor: number(minor)?, read: true, write: true, mknod: true }.access(letters)
}

// struct bpf_cgroup_dev_ctx: u32 access_type (low half the kind, high half what is to be done), u32 major, u32 minor.
const KIND_BLOCK: i32 = 1;
const KIND_CHARACTER: i32 = 2;
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;

// Instruction classes and modes of linux/bpf.h.
const LOAD_WORD: u8 = 0x61;
const AND_IMMEDIATE: u8 = 0x54;
const RIGHT_IMMEDIATE: u8 = 0x74;
const MOVE_REGISTER: u8 = 0xbc;
const MOVE_IMMEDIATE: u8 = 0xb4;
const JUMP_UNEQUAL: u8 = 0x56;
const EXIT: u8 = 0x95;

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> [u8; 8] {
    let ([o0, o1], [i0, i1, i2, i3]) = (offset.to_le_bytes(), immediate.to_le_bytes());
    [code, from << 4 | to, o0, o1, i0, i1, i2, i3]
}

/// The eBPF program that allows what one of the rules allows, and nothing else. Its answer is 1 for yes.
///
/// ```
/// let program = coracle_cgroups::device_program(&coracle_cgroups::DeviceRule::defaults());
/// assert_eq!(program.len() % 8, 0);
/// ```
pub fn device_program(rules: &[DeviceRule]) -> Vec<u8> {
    let (kind, access, major, minor, scratch) = (2, 3, 4, 5, 6);
    let mut program = vec![
        instruction(LOAD_WORD, kind, 1, 0, 0),
        instruction(MOVE_REGISTER, access, kind, 0, 0),
        instruction(AND_IMMEDIATE, kind, 0, 0, 0xffff),
        instruction(RIGHT_IMMEDIATE, access, 0, 0, 16),
        instruction(LOAD_WORD, major, 1, 4, 0),
        instruction(LOAD_WORD, minor, 1, 8, 0),
    ];
    for rule in rules {
        let mut tests = Vec::new();
        if let Some(block) = rule.block {
            tests.push((kind, if block { KIND_BLOCK } else { KIND_CHARACTER }));
        }
        tests.extend(rule.major.map(|number| (major, number as i32)));
        tests.extend(rule.minor.map(|number| (minor, number as i32)));
        let allowed = [(rule.read, ACCESS_READ), (rule.write, ACCESS_WRITE), (rule.mknod, ACCESS_MKNOD)];
        let refused = allowed.iter().filter(|(yes, _)| !yes).fold(0, |bits, (_, bit)| bits | bit);
        // What follows the tests: a look at what is to be done, if not everything may be, and the answer.
        let looked = if refused == 0 { 0 } else { 3 };
        for (n, (register, value)) in tests.iter().enumerate() {
            let over = tests.len() - n - 1 + looked + 2;
            program.push(instruction(JUMP_UNEQUAL, *register, 0, over as i16, *value));
        }
        if refused != 0 {
            program.push(instruction(MOVE_REGISTER, scratch, access, 0, 0));
            program.push(instruction(AND_IMMEDIATE, scratch, 0, 0, refused));
            program.push(instruction(JUMP_UNEQUAL, scratch, 0, 2, 0));
        }
        program.push(instruction(MOVE_IMMEDIATE, 0, 0, 0, 1));
        program.push(instruction(EXIT, 0, 0, 0, 0));
    }
    program.push(instruction(MOVE_IMMEDIATE, 0, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_as_docker_writes_it_and_nothing_else_is() {
        for text in ["c 10:200 rwm", "b *:* m", "a *:* rwm", "c 136:* r", "b 8:0 rw"] {
            assert_eq!(text.parse::<DeviceRule>().unwrap().to_string(), text);
        }
        assert_eq!("c 1:3 mwr".parse::<DeviceRule>().unwrap().to_string(), "c 1:3 rwm");
        for text in
            ["", "c", "c 1:3", "d 1:3 r", "c 1 r", "c 1:3 x", "c 1:3 ", "c +1:3 r", "c 1:-1 r", "c 9999999:1 r", "c 1:3 r\n", "c  1:3 r"]
        {
            assert!(text.parse::<DeviceRule>().is_err(), "{text:?}");
        }
    }

    /// The few instructions that a program has, as the kernel runs them.
    fn run(program: &[u8], access_type: u32, major: u32, minor: u32) -> u32 {
        let context = [access_type, major, minor];
        let (mut registers, mut at) = ([0u32; 11], 0usize);
        for _ in 0..10_000 {
            let i: [u8; 8] = program[at * 8..at * 8 + 8].try_into().unwrap();
            let (to, from) = ((i[1] & 15) as usize, (i[1] >> 4) as usize);
            let (offset, immediate) = (i16::from_le_bytes([i[2], i[3]]), i32::from_le_bytes([i[4], i[5], i[6], i[7]]));
            at += 1;
            match i[0] {
                LOAD_WORD => registers[to] = context[offset as usize / 4],
                AND_IMMEDIATE => registers[to] &= immediate as u32,
                RIGHT_IMMEDIATE => registers[to] >>= immediate,
                MOVE_REGISTER => registers[to] = registers[from],
                MOVE_IMMEDIATE => registers[to] = immediate as u32,
                JUMP_UNEQUAL if registers[to] != immediate as u32 => at += offset as usize,
                JUMP_UNEQUAL => {}
                EXIT => return registers[0],
                other => panic!("{other:#x}"),
            }
        }
        panic!("it doesn't end");
    }

    #[test]
    fn the_program_allows_what_a_rule_allows_and_nothing_else() {
        let rules: Vec<DeviceRule> = ["c 1:3 rwm", "c 136:* rw", "b 8:1 r", "c *:* m"].map(|rule| rule.parse().unwrap()).to_vec();
        let program = device_program(&rules);
        let allowed = |kind: i32, access: i32, major, minor| run(&program, (access << 16 | kind) as u32, major, minor) == 1;
        let (r, w, m) = (ACCESS_READ, ACCESS_WRITE, ACCESS_MKNOD);
        for (kind, access, major, minor, expected) in [
            (KIND_CHARACTER, r | w, 1, 3, true),
            (KIND_CHARACTER, m, 1, 3, true),
            (KIND_BLOCK, r, 1, 3, false),
            (KIND_CHARACTER, r, 1, 5, false),
            (KIND_CHARACTER, r | w, 136, 77, true),
            (KIND_CHARACTER, m, 136, 77, true),
            (KIND_CHARACTER, r | m, 7, 7, false),
            (KIND_BLOCK, r, 8, 1, true),
            (KIND_BLOCK, r | w, 8, 1, false),
            (KIND_BLOCK, w, 8, 1, false),
            (KIND_BLOCK, m, 8, 1, false),
            (KIND_BLOCK, r, 8, 2, false),
        ] {
            assert_eq!(allowed(kind, access, major, minor), expected, "{kind} {access} {major}:{minor}");
        }
        assert_eq!(run(&device_program(&[]), 0x2_0002, 1, 3), 0);
    }
}
