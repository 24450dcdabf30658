//! SPIR-V whose selections have no arms that do nothing.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Words before a module's first instruction.
const HEADER: usize = 5;

const PHI: u32 = 245;
const LOOP_MERGE: u32 = 246;
const SELECTION_MERGE: u32 = 247;
const LABEL: u32 = 248;
const BRANCH: u32 = 249;
const BRANCH_CONDITIONAL: u32 = 250;
const SWITCH: u32 = 251;

/// A module's words without blocks that are one arm of a selection and only branch to where its arms
/// meet: the selection branches there itself, unless its other arm is that place. What the module
/// computes stays the same.
///
/// SwiftShader searches a loop's body for paths in steps whose number doubles with each selection of
/// two arms, whatever these hold; one of a single arm does not add to them.
pub fn without_empty_arms(mut words: Vec<u32>) -> Vec<u32> {
    let instructions = instructions(&words);
    let mut starts = HashMap::new();
    let mut branches = HashMap::new();
    let mut merges = HashSet::new();
    for (number, instruction) in instructions.iter().enumerate() {
        let operands = &words[instruction.start + 1..instruction.end];
        let labels = match opcode(&words, instruction) {
            LABEL => {
                starts.insert(operands[0], number);
                continue;
            }
            SELECTION_MERGE => {
                merges.insert(operands[0]);
                continue;
            }
            LOOP_MERGE => {
                merges.extend(&operands[..2]);
                continue;
            }
            BRANCH => operands,
            BRANCH_CONDITIONAL => &operands[1..3],
            // Its literals, too: one that equals a label keeps that block.
            SWITCH => &operands[1..],
            _ => continue,
        };
        for label in labels {
            *branches.entry(*label).or_insert(0) += 1;
        }
    }
    let mut label = 0;
    let mut dropped = Vec::new();
    for pair in instructions.windows(2) {
        let [merge, branch] = pair else { continue };
        if opcode(&words, merge) == LABEL {
            label = words[merge.start + 1];
        }
        let selects = opcode(&words, merge) == SELECTION_MERGE
            && opcode(&words, branch) == BRANCH_CONDITIONAL;
        if !selects {
            continue;
        }
        let meeting = words[merge.start + 1];
        let arms = [branch.start + 3, branch.start + 2];
        let does_nothing = |at: &usize| {
            let arm = words[*at];
            let Some(start) = starts.get(&arm) else {
                return false;
            };
            let only = &instructions[start + 1];
            opcode(&words, only) == BRANCH
                && words[only.start + 1] == meeting
                && branches.get(&arm) == Some(&1)
                && !merges.contains(&arm)
        };
        let meets = arms.iter().any(|at| words[*at] == meeting);
        let Some(at) = arms.into_iter().find(does_nothing).filter(|_| !meets) else {
            continue;
        };
        let arm = words[at];
        words[at] = meeting;
        for instruction in &instructions[starts[&meeting] + 1..] {
            match opcode(&words, instruction) {
                LABEL => break,
                PHI => {
                    for parent in words[instruction.clone()].iter_mut().skip(4).step_by(2) {
                        if *parent == arm {
                            *parent = label;
                        }
                    }
                }
                _ => {}
            }
        }
        dropped.push(instructions[starts[&arm]].clone());
        dropped.push(instructions[starts[&arm] + 1].clone());
    }
    dropped.sort_unstable_by_key(|instruction| instruction.start);
    for instruction in dropped.into_iter().rev() {
        words.drain(instruction);
    }
    words
}

/// The words of each instruction.
fn instructions(words: &[u32]) -> Vec<Range<usize>> {
    let mut all = Vec::new();
    let mut at = HEADER;
    while at < words.len() {
        let end = at + ((words[at] >> 16) as usize).max(1);
        all.push(at..end);
        at = end;
    }
    all
}

fn opcode(words: &[u32], instruction: &Range<usize>) -> u32 {
    words[instruction.start] & 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module of nothing but `instructions`: opcode and operands.
    fn module(instructions: &[(u32, &[u32])]) -> Vec<u32> {
        let mut words = vec![0x0723_0203, 0x0001_0600, 0, 100, 0];
        for (opcode, operands) in instructions {
            words.push((operands.len() as u32 + 1) << 16 | opcode);
            words.extend(*operands);
        }
        words
    }

    const STORE: u32 = 62;

    #[test]
    fn an_arm_that_does_nothing_is_dropped_and_values_come_from_the_selection() {
        let before = module(&[
            (LABEL, &[1]),
            (SELECTION_MERGE, &[4, 0]),
            (BRANCH_CONDITIONAL, &[9, 2, 3]),
            (LABEL, &[2]),
            (STORE, &[7, 8]),
            (BRANCH, &[4]),
            (LABEL, &[3]),
            (BRANCH, &[4]),
            (LABEL, &[4]),
            (PHI, &[20, 21, 3, 3, 2, 2]),
        ]);
        let after = module(&[
            (LABEL, &[1]),
            (SELECTION_MERGE, &[4, 0]),
            (BRANCH_CONDITIONAL, &[9, 2, 4]),
            (LABEL, &[2]),
            (STORE, &[7, 8]),
            (BRANCH, &[4]),
            (LABEL, &[4]),
            // The first 3 is a value, which keeps its name.
            (PHI, &[20, 21, 3, 1, 2, 2]),
        ]);
        assert_eq!(without_empty_arms(before), after);
        assert_eq!(without_empty_arms(after.clone()), after);
    }

    #[test]
    fn of_two_empty_arms_one_stays_to_tell_their_values_apart() {
        let selection = |right: u32| {
            let mut all: Vec<(u32, Vec<u32>)> = vec![
                (LABEL, vec![1]),
                (SELECTION_MERGE, vec![4, 0]),
                (BRANCH_CONDITIONAL, vec![9, 2, right]),
                (LABEL, vec![2]),
                (BRANCH, vec![4]),
            ];
            if right == 3 {
                all.extend([(LABEL, vec![3]), (BRANCH, vec![4])]);
            }
            let parent = if right == 3 { 3 } else { 1 };
            all.extend([(LABEL, vec![4]), (PHI, vec![20, 21, 30, 2, 31, parent])]);
            let borrowed: Vec<(u32, &[u32])> = all
                .iter()
                .map(|(code, operands)| (*code, &operands[..]))
                .collect();
            module(&borrowed)
        };
        assert_eq!(without_empty_arms(selection(3)), selection(4));
    }

    #[test]
    fn blocks_that_others_name_stay() {
        // 3 is where a loop goes on, 13 where another branch goes too, 23 belongs to an outer selection.
        let kept = module(&[
            (LABEL, &[1]),
            (LOOP_MERGE, &[5, 3, 0]),
            (BRANCH, &[2]),
            (LABEL, &[2]),
            (SELECTION_MERGE, &[1, 0]),
            (BRANCH_CONDITIONAL, &[9, 3, 5]),
            (LABEL, &[3]),
            (BRANCH, &[1]),
            (LABEL, &[5]),
            (SELECTION_MERGE, &[14, 0]),
            (BRANCH_CONDITIONAL, &[9, 12, 13]),
            (LABEL, &[12]),
            (STORE, &[7, 8]),
            (BRANCH, &[13]),
            (LABEL, &[13]),
            (BRANCH, &[14]),
            (LABEL, &[14]),
            (SELECTION_MERGE, &[24, 0]),
            (BRANCH_CONDITIONAL, &[9, 22, 23]),
            (LABEL, &[22]),
            (STORE, &[7, 8]),
            (BRANCH, &[24]),
            (LABEL, &[23]),
            (BRANCH, &[30]),
            (LABEL, &[24]),
        ]);
        assert_eq!(without_empty_arms(kept.clone()), kept);
    }
}
