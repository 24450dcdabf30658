//! Reads what libtest prints, line by line.
//!
//! libtest has no notion of a test that finds out it cannot run. Ours print `SKIPPED <test>: <reason>` and return, which
//! libtest calls `ok`; `--show-output` makes it repeat what passing tests printed, and this page takes those out of the
//! passed ones.

use std::collections::BTreeMap;

const SKIPPED: &str = "SKIPPED ";

/// The reason of a test that is marked to be ignored and says no more.
pub const IGNORED: &str = "marked as ignored";

/// The numbers of one `test result:` line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that libtest calls ok.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
    /// Tests marked `#[ignore]`.
    pub ignored: usize,
}

impl Counts {
    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            ignored: self.ignored + other.ignored,
        }
    }
}

/// How one test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// `ok`
    Passed,
    /// `FAILED`
    Failed,
    /// `ignored`, with the attribute's reason.
    Ignored(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Running,
    Successes,
    Failures,
}

/// What has been read so far.
pub struct Transcript {
    section: Section,
    /// The test whose captured output is being repeated.
    block: Option<String>,
    /// A test announced on a line that something else then wrote to.
    announced: Option<String>,
    verdicts: BTreeMap<String, Verdict>,
    skips: BTreeMap<String, String>,
    results: Vec<Counts>,
}

impl Transcript {
    /// Before the first line.
    pub fn new() -> Self {
        Self {
            section: Section::Running,
            block: None,
            announced: None,
            verdicts: BTreeMap::new(),
            skips: BTreeMap::new(),
            results: Vec::new(),
        }
    }

    /// Takes a line without colours and without its end. False where showing it would only repeat: the output of tests
    /// that passed, and their names.
    pub fn line(&mut self, line: &str) -> bool {
        if self.section == Section::Running {
            self.verdict(line);
            if let Some(at) = line.find(SKIPPED)
                && (at == 0 || line[..at].ends_with(" ... "))
            {
                self.skip(&line[at..]);
            }
        }
        // What a test printed may look like anything, so its block is left only by what libtest itself writes next.
        let in_block = self.block.is_some();
        match line {
            "successes:" => self.enter(Section::Successes),
            "failures:" => self.enter(Section::Failures),
            _ => {
                if let Some(test) = header(line).filter(|_| self.section != Section::Running) {
                    self.block = Some(test.to_owned());
                } else if let Some(counts) = (!in_block).then(|| counts(line)).flatten() {
                    self.results.push(counts);
                    self.enter(Section::Running);
                } else if in_block && self.section == Section::Successes {
                    self.skip(line);
                }
            }
        }
        self.section != Section::Successes
    }

    /// Whether the beginning of an unfinished line should be shown at once: a test that is announced before it runs.
    pub fn shows_early(&self, line: &[u8]) -> bool {
        self.section == Section::Running && line.starts_with(b"test ")
    }

    /// The test results in the order they came: one for a test program, several for documentation tests.
    pub fn results(&self) -> &[Counts] {
        &self.results
    }

    /// How each test ended, by name.
    pub fn verdicts(&self) -> &BTreeMap<String, Verdict> {
        &self.verdicts
    }

    /// Passing tests that said they could not run, with the reason.
    pub fn skips(&self) -> impl Iterator<Item = (&str, &str)> {
        self.skips
            .iter()
            .filter(|(test, _)| self.verdicts.get(*test) != Some(&Verdict::Failed))
            .map(|(test, reason)| (test.as_str(), reason.as_str()))
    }

    fn enter(&mut self, section: Section) {
        self.section = section;
        self.block = None;
    }

    /// `SKIPPED <test>: <reason>`. The captured block, or the announcement on one thread, knows the test's full name; the
    /// line itself is all there is where several tests run at once and none is captured.
    fn skip(&mut self, line: &str) {
        let Some((name, reason)) = line
            .strip_prefix(SKIPPED)
            .and_then(|rest| rest.split_once(": "))
        else {
            return;
        };
        let known = self.block.as_ref().or(self.announced.as_ref());
        let test = known.cloned().unwrap_or_else(|| name.to_owned());
        self.skips
            .entry(test)
            .or_insert_with(|| reason.trim().to_owned());
    }

    /// `test <name> ... <verdict>`, whole or, on one thread, with a driver's chatter between its halves.
    fn verdict(&mut self, line: &str) {
        if let Some((name, rest)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        {
            let name = name
                .strip_suffix(" - should panic")
                .unwrap_or(name)
                .to_owned();
            match verdict(rest) {
                Some(verdict) => {
                    self.verdicts.insert(name, verdict);
                }
                None => self.announced = Some(name),
            }
        } else if let Some(verdict) = verdict(line)
            && let Some(name) = self.announced.take()
        {
            self.verdicts.insert(name, verdict);
        }
    }
}

fn verdict(text: &str) -> Option<Verdict> {
    // `--report-time` adds ` <0.001s>`.
    let text = text.split(" <").next().unwrap_or(text).trim_end();
    match text {
        "ok" => Some(Verdict::Passed),
        "FAILED" => Some(Verdict::Failed),
        "ignored" => Some(Verdict::Ignored(IGNORED.to_owned())),
        _ => text
            .strip_prefix("ignored, ")
            .map(|reason| Verdict::Ignored(reason.to_owned())),
    }
}

/// `---- <test> stdout ----`
fn header(line: &str) -> Option<&str> {
    let name = line.strip_prefix("---- ")?.strip_suffix(" stdout ----")?;
    Some(name.strip_suffix(" - should panic").unwrap_or(name))
}

/// `test result: ok. 5 passed; 0 failed; 1 ignored; …`, wherever in the line it begins: a driver can write before it.
fn counts(line: &str) -> Option<Counts> {
    let (_, rest) = line.split_once("test result: ")?;
    let (_, numbers) = rest.split_once(". ")?;
    let number = |part: Option<&str>, word: &str| -> Option<usize> {
        part?.trim().strip_suffix(word)?.trim_end().parse().ok()
    };
    let mut parts = numbers.split(';');
    Some(Counts {
        passed: number(parts.next(), "passed")?,
        failed: number(parts.next(), "failed")?,
        ignored: number(parts.next(), "ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Transcript {
        let mut transcript = Transcript::new();
        for line in text.lines() {
            transcript.line(line);
        }
        transcript
    }

    fn skips(transcript: &Transcript) -> Vec<(&str, &str)> {
        transcript.skips().collect()
    }

    const SHOWN: &str = "
running 5 tests
test config::rejects_zero - should panic ... ok
test on_device::bf16 ... ok
test on_device::f32 ... ok
test slow ... ignored, needs a day
test wrong ... FAILED

successes:

---- on_device::bf16 stdout ----
measuring
SKIPPED bf16: the device has no bf16: f16 only

---- on_device::f32 stdout ----
largest error 1e-7


successes:
    config::rejects_zero
    on_device::bf16
    on_device::f32

failures:

---- wrong stdout ----
SKIPPED wrong: then it broke anyway

thread 'wrong' panicked at src/lib.rs:3:5:


failures:
    wrong

test result: FAILED. 3 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn a_skip_carries_the_full_name_and_a_failing_test_is_no_skip() {
        let transcript = read(SHOWN);
        assert_eq!(
            transcript.results(),
            [Counts {
                passed: 3,
                failed: 1,
                ignored: 1
            }]
        );
        assert_eq!(
            skips(&transcript),
            [("on_device::bf16", "the device has no bf16: f16 only")]
        );
        assert_eq!(transcript.verdicts()["wrong"], Verdict::Failed);
        assert_eq!(
            transcript.verdicts()["slow"],
            Verdict::Ignored("needs a day".into())
        );
        assert_eq!(
            transcript.verdicts()["config::rejects_zero"],
            Verdict::Passed
        );
    }

    #[test]
    fn output_of_passing_tests_is_hidden_and_nothing_else() {
        let mut transcript = Transcript::new();
        let shown: Vec<&str> = SHOWN.lines().filter(|line| transcript.line(line)).collect();
        assert!(!shown.contains(&"largest error 1e-7"));
        assert!(!shown.contains(&"    on_device::f32"));
        assert!(shown.contains(&"thread 'wrong' panicked at src/lib.rs:3:5:"));
        assert!(shown.contains(&"test on_device::f32 ... ok"));
        assert!(
            shown
                .last()
                .is_some_and(|line| line.starts_with("test result:"))
        );
    }

    #[test]
    fn what_a_test_prints_is_not_taken_for_a_result() {
        let transcript = read(
            "test parser ... ok\nsuccesses:\n\n---- parser stdout ----\n\
             test result: ok. 900 passed; 0 failed; 0 ignored; 0 measured\ntest other ... FAILED\n\n\
             successes:\n    parser\n\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
        );
        assert_eq!(
            transcript.results(),
            [Counts {
                passed: 1,
                failed: 0,
                ignored: 0
            }]
        );
        assert_eq!(transcript.verdicts().len(), 1);
    }

    #[test]
    fn a_chatty_driver_between_name_and_verdict_loses_nothing() {
        let transcript = read(
            "test on_device::a ... WARNING: vkCreateDevice is slow\nmore chatter\nok\n\
             test on_device::b ... SKIPPED main: no f16\nok\n\
             chattertest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
        );
        assert_eq!(transcript.verdicts()["on_device::a"], Verdict::Passed);
        assert_eq!(transcript.verdicts()["on_device::b"], Verdict::Passed);
        assert_eq!(skips(&transcript), [("on_device::b", "no f16")]);
        assert_eq!(
            transcript.results(),
            [Counts {
                passed: 2,
                failed: 0,
                ignored: 0
            }]
        );
    }

    #[test]
    fn a_crash_leaves_no_result() {
        let transcript = read("running 2 tests\ntest a ... ok\n");
        assert!(transcript.results().is_empty());
        assert_eq!(transcript.verdicts().len(), 1);
    }

    #[test]
    fn several_skip_lines_are_one_skipped_test() {
        let transcript = read(
            "successes:\n\n---- t stdout ----\nSKIPPED t: no f16\nSKIPPED t: no bf16\n\nsuccesses:\n    t\n",
        );
        assert_eq!(skips(&transcript), [("t", "no f16")]);
    }

    #[test]
    fn words_that_only_look_like_libtest_are_left_alone() {
        let transcript = read(
            "test result: unclear\nthe last test result: none. 3 things\nSKIPPED without a colon\nok\n",
        );
        assert!(transcript.results().is_empty());
        assert!(transcript.verdicts().is_empty());
        assert!(skips(&transcript).is_empty());
    }
}
