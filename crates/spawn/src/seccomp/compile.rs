//! From decisions to classic BPF.
//!
//! Every ABI's numbers are cut into ranges of one decision. A range with up to two odd numbers inside (a forbidden call
//! among allowed ones) is one leaf of equality tests; the leaves hang in a balanced tree of `jge`. Only loads of the number and
//! of the architecture, `ja`, `jeq`, `jge`, `jgt`, `jset`, `and` and `ret` are used: with these the kernel (5.11 and
//! later) can prove at install time which numbers are always allowed, and never runs the program for them.
//!
//! The program is written from its end to its start, since jumps only go forward: whatever a jump wants to reach is then
//! already placed. A conditional jump reaches 255 instructions; what lies farther is brought near by an unconditional jump,
//! or by a second copy of a return.

use super::table::{NONE, TABLE};
use super::{Action, Architecture, ArgCond, Op};

/// The size of `struct sock_filter`.
pub(super) const INSTRUCTION: usize = 8;
/// `BPF_MAXINSNS`.
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

/// The decision of known calls without a rule.
pub(super) const DEFAULT: usize = 0;
/// The decision of numbers that no call has.
pub(super) const UNKNOWN: usize = 1;

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// Tried in order.
    pub(super) rules: Vec<Rule>,
    /// Where no rule decides.
    pub(super) otherwise: Action,
}

impl Decision {
    pub(super) const fn always(action: Action) -> Decision {
        Decision { rules: Vec::new(), otherwise: action }
    }
}

/// An action where all conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<ArgCond>,
    pub(super) action: Action,
}

/// One way to enter the kernel: the architecture token of `struct seccomp_data`, the column of the table, and the number
/// that its calls count from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abi {
    pub(super) token: u32,
    pub(super) column: usize,
    pub(super) base: u32,
}

/// The x32 ABI has x86_64's token and this bit in the number.
const X32_BIT: u32 = 0x4000_0000;

pub(super) const X86_64: Abi = Abi { token: 0xc000_003e, column: 0, base: 0 };
pub(super) const I386: Abi = Abi { token: 0x4000_0003, column: 1, base: 0 };
pub(super) const X32: Abi = Abi { token: 0xc000_003e, column: 2, base: X32_BIT };
pub(super) const AARCH64: Abi = Abi { token: 0xc000_00b7, column: 3, base: 0 };
pub(super) const ARM: Abi = Abi { token: 0x4000_0028, column: 4, base: 0 };

/// The ABIs of a machine, the native one first. Two with the same token are neighbours, in the order of their numbers.
pub(super) const fn abis(architecture: Architecture, native_only: bool) -> &'static [Abi] {
    match (architecture, native_only) {
        (Architecture::X86_64, false) => &[X86_64, X32, I386],
        (Architecture::X86_64, true) => &[X86_64],
        (Architecture::Aarch64, false) => &[AARCH64, ARM],
        (Architecture::Aarch64, true) => &[AARCH64],
    }
}

/// A whole program as bytes: `by_row` says which of `decisions` each row of the table has.
pub(super) fn program(abis: &[Abi], by_row: &[usize], decisions: &[Decision]) -> Vec<u8> {
    let mut writer = Writer::new(decisions);
    // Equal decisions may stand under two indices: the default's and somebody's own.
    let canonical: Vec<usize> =
        decisions.iter().enumerate().map(|(i, d)| decisions.iter().position(|other| other == d).unwrap_or(i)).collect();
    // From the last architecture to the first, in front of the end for a foreign one.
    let mut foreign = writer.action(Action::KillProcess);
    let mut rest = abis;
    while let Some(last) = rest.last() {
        let same = rest.iter().take_while(|abi| abi.token != last.token).count();
        let mut ranges = Vec::with_capacity(160);
        for abi in &rest[same..] {
            ranges_of(*abi, by_row, &canonical, &mut ranges);
        }
        rest = &rest[..same];
        let tree = writer.tree(&group(&ranges));
        let entry = writer.put(Instruction { code: LOAD, jt: 0, jf: 0, k: NUMBER }, tree);
        foreign = writer.branch(JEQ, last.token, entry, foreign);
    }
    writer.put(Instruction { code: LOAD, jt: 0, jf: 0, k: ARCHITECTURE }, foreign);
    writer.into_bytes()
}

/// Numbers from `start` up to the next range's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u32,
    decision: usize,
}

/// Appends the ranges of an ABI, from its base to the end of all numbers.
fn ranges_of(abi: Abi, by_row: &[usize], canonical: &[usize], ranges: &mut Vec<Range>) {
    let mut calls: Vec<(u32, usize)> = TABLE
        .iter()
        .zip(by_row)
        .filter(|((_, numbers), _)| numbers[abi.column] != NONE)
        .map(|((_, numbers), decision)| (numbers[abi.column], *decision))
        .collect();
    // Of two names for one number the one that has a rule decides: DEFAULT sorts first, so take the last of equals.
    calls.sort_unstable();
    let mut push = |start: u32, decision: usize| {
        let decision = canonical[decision];
        if ranges.last().is_none_or(|last| last.decision != decision) {
            ranges.push(Range { start, decision });
        }
    };
    let mut next = abi.base;
    for (i, (number, decision)) in calls.iter().enumerate() {
        if calls.get(i + 1).is_some_and(|(following, _)| following == number) {
            continue;
        }
        let number = abi.base + number;
        if number > next {
            push(next, UNKNOWN);
        }
        push(number, *decision);
        next = number + 1;
    }
    push(next, UNKNOWN);
}

/// Neighbouring ranges of one decision but for a few odd numbers.
#[derive(Clone, Debug)]
struct Group {
    start: u32,
    decision: usize,
    odd: Vec<(u32, usize)>,
}

/// How many odd numbers a group may have. Two equality tests cost what two more levels of the tree would, and save two
/// instructions; with three the longest path grows.
const ODD: usize = 2;

fn group(ranges: &[Range]) -> Vec<Group> {
    let mut groups = Vec::with_capacity(ranges.len() / 2 + 1);
    let mut i = 0;
    while i < ranges.len() {
        let Range { start, decision } = ranges[i];
        let mut odd = Vec::new();
        while odd.len() < ODD {
            match ranges.get(i + 1..i + 3) {
                Some([one, back]) if back.start == one.start + 1 && back.decision == decision => {
                    odd.push((one.start, one.decision));
                    i += 2;
                }
                _ => break,
            }
        }
        groups.push(Group { start, decision, odd });
        i += 1;
    }
    groups
}

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

// Codes of linux/bpf_common.h: class | size or source | mode or operation.
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JA: u16 = 0x05; // BPF_JMP | BPF_JA
const JEQ: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JGT: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JGE: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const JSET: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RET: u16 = 0x06; // BPF_RET | BPF_K

// Offsets in struct seccomp_data; arguments are little-endian on both architectures.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument_low(index: u8) -> u32 {
    16 + 8 * index as u32
}
const fn argument_high(index: u8) -> u32 {
    argument_low(index) + 4
}

/// A placed instruction, counted from the program's end.
type Label = usize;

struct Writer<'a> {
    decisions: &'a [Decision],
    /// Last instruction first.
    code: Vec<Instruction>,
    /// The copy of each return that was placed last, and so is nearest.
    returns: Vec<(u32, Label)>,
    /// Where each decision with conditions stands.
    leaves: Vec<Option<Label>>,
}

impl<'a> Writer<'a> {
    fn new(decisions: &'a [Decision]) -> Writer<'a> {
        Writer { decisions, code: Vec::with_capacity(512), returns: Vec::new(), leaves: vec![None; decisions.len()] }
    }

    /// Puts an instruction that goes on at `next`: directly in front of it, or with a jump between.
    fn put(&mut self, instruction: Instruction, next: Label) -> Label {
        if next + 1 != self.code.len() {
            self.jump(next);
        }
        self.code.push(instruction);
        self.code.len() - 1
    }

    fn jump(&mut self, target: Label) -> Label {
        let distance = self.code.len() - target - 1;
        // A program of 2^32 instructions doesn't fit into memory.
        self.code.push(Instruction { code: JA, jt: 0, jf: 0, k: distance as u32 });
        self.code.len() - 1
    }

    fn action(&mut self, action: Action) -> Label {
        self.return_value(return_value(action))
    }

    /// A return that a conditional jump in one of the next two places can reach.
    fn return_value(&mut self, k: u32) -> Label {
        let known = self.returns.iter().position(|(value, _)| *value == k);
        if let Some(i) = known {
            let label = self.returns[i].1;
            if self.reaches(label, 2) {
                return label;
            }
        }
        self.code.push(Instruction { code: RET, jt: 0, jf: 0, k });
        let label = self.code.len() - 1;
        match known {
            Some(i) => self.returns[i].1 = label,
            None => self.returns.push((k, label)),
        }
        label
    }

    /// Whether a conditional jump that follows after `between` more instructions can reach the label.
    fn reaches(&self, label: Label, between: usize) -> bool {
        self.code.len() + between - label - 1 <= usize::from(u8::MAX)
    }

    /// The label itself, or a stand-in within reach.
    fn near(&mut self, label: Label, between: usize) -> Label {
        if self.reaches(label, between) {
            return label;
        }
        match self.code[label] {
            Instruction { code: RET, k, .. } => self.return_value(k),
            _ => self.jump(label),
        }
    }

    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        let yes = self.near(yes, 1); // `no` may need one instruction in between
        let no = self.near(no, 0);
        let here = self.code.len();
        let distance = |label: Label| u8::try_from(here - label - 1).expect("near() brought the target within 255 instructions");
        self.code.push(Instruction { code, jt: distance(yes), jf: distance(no), k });
        here
    }

    /// A balanced search for the group of the number in the accumulator.
    fn tree(&mut self, groups: &[Group]) -> Label {
        if let [group] = groups {
            let mut label = self.decision(group.decision);
            for (number, decision) in group.odd.iter().rev() {
                let odd = self.decision(*decision);
                label = self.branch(JEQ, *number, odd, label);
            }
            return label;
        }
        let (low, high) = groups.split_at(groups.len() / 2);
        let start = high[0].start;
        let high = self.tree(high);
        let low = self.tree(low);
        self.branch(JGE, start, high, low)
    }

    fn decision(&mut self, index: usize) -> Label {
        let decision = &self.decisions[index];
        if decision.rules.is_empty() {
            return self.action(decision.otherwise);
        }
        if let Some(label) = self.leaves[index] {
            return label;
        }
        let mut label = self.action(decision.otherwise);
        for (i, rule) in decision.rules.iter().enumerate().rev() {
            // After a failed test of the same word, the accumulator still holds it.
            let loaded = i > 0 && single_word(&decision.rules[i - 1]).is_some_and(|word| single_word(rule) == Some(word));
            label = self.rule(rule, label, loaded);
        }
        self.leaves[index] = Some(label);
        label
    }

    fn rule(&mut self, rule: &Rule, fail: Label, loaded: bool) -> Label {
        let mut label = self.action(rule.action);
        for condition in rule.conditions.iter().rev() {
            label = self.condition(condition, label, fail, loaded);
        }
        label
    }

    fn condition(&mut self, condition: &ArgCond, hold: Label, fail: Label, loaded: bool) -> Label {
        let (high, low) = ((condition.value >> 32) as u32, condition.value as u32);
        let index = condition.index;
        let load = |writer: &mut Self, offset, next| {
            if loaded { next } else { writer.put(Instruction { code: LOAD, jt: 0, jf: 0, k: offset }, next) }
        };
        // "Not" is the same test with its ends swapped.
        let (op, hold, fail) = match condition.op {
            Op::Ne => (Op::Eq, fail, hold),
            Op::Lt => (Op::Ge, fail, hold),
            Op::Le => (Op::Gt, fail, hold),
            op => (op, hold, fail),
        };
        if let Op::MaskedEq(mask) = op {
            let mask = if condition.wide { mask } else { mask & 0xffff_ffff };
            if condition.value & !mask != 0 {
                return fail; // Bits that the mask takes away never match.
            }
            let (mask_high, mask_low) = ((mask >> 32) as u32, mask as u32);
            let label = self.masked(argument_low(index), mask_low, low, hold, fail, loaded);
            return self.masked(argument_high(index), mask_high, high, label, fail, loaded);
        }
        let code = match op {
            Op::Eq => JEQ,
            Op::Gt => JGT,
            _ => JGE,
        };
        let test = self.branch(code, low, hold, fail);
        let label = load(self, argument_low(index), test);
        if !condition.wide {
            return label;
        }
        let test = self.branch(JEQ, high, label, fail);
        let test = if op == Op::Eq { test } else { self.branch(JGT, high, hold, test) };
        self.put(Instruction { code: LOAD, jt: 0, jf: 0, k: argument_high(index) }, test)
    }

    /// One word of a masked comparison.
    fn masked(&mut self, offset: u32, mask: u32, value: u32, hold: Label, fail: Label, loaded: bool) -> Label {
        let test = match (mask, value) {
            (0, _) => return hold,
            (u32::MAX, _) => self.branch(JEQ, value, hold, fail),
            (_, 0) => self.branch(JSET, mask, fail, hold),
            _ => {
                let test = self.branch(JEQ, value, hold, fail);
                self.put(Instruction { code: AND, jt: 0, jf: 0, k: mask }, test)
            }
        };
        if loaded { test } else { self.put(Instruction { code: LOAD, jt: 0, jf: 0, k: offset }, test) }
    }

    fn into_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.code.len() * INSTRUCTION);
        for Instruction { code, jt, jf, k } in self.code.into_iter().rev() {
            bytes.extend_from_slice(&code.to_ne_bytes());
            bytes.extend_from_slice(&[jt, jf]);
            bytes.extend_from_slice(&k.to_ne_bytes());
        }
        bytes
    }
}

/// The argument whose low word is all that a rule looks at, and leaves in the accumulator.
fn single_word(rule: &Rule) -> Option<u8> {
    match rule.conditions[..] {
        [ArgCond { index, op, wide: false, .. }] if !matches!(op, Op::MaskedEq(_)) => Some(index),
        _ => None,
    }
}

/// `SECCOMP_RET_*` of linux/seccomp.h.
const fn return_value(action: Action) -> u32 {
    match action {
        Action::KillProcess => 0x8000_0000,
        Action::Trap => 0x0003_0000,
        Action::Errno(errno) => 0x0005_0000 | errno as u32,
        Action::Log => 0x7ffc_0000,
        Action::Allow => 0x7fff_0000,
    }
}
