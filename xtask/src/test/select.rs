//! Which tests run: the person's filter, and the contract by which device-dependent tests are known.

use crate::cargo::TestProgram;

/// The packages that have device-dependent tests.
pub const DEVICE_PACKAGES: [&str; 3] = ["bellows-kernels", "bellows-engine", "bellows"];

/// What marks a device-dependent test: a module of that name, or an integration test file whose name contains it.
const MARK: &str = "on_device";

/// libtest flags whose value is a word of its own.
const FLAGS_WITH_VALUE: [&str; 7] = [
    "--skip",
    "--test-threads",
    "--color",
    "--format",
    "--logfile",
    "--shuffle-seed",
    "-Z",
];

/// What the person asked for after `--`.
pub struct Selection<'a> {
    given: &'a [String],
    flags: Vec<&'a str>,
}

impl<'a> Selection<'a> {
    /// Tells the flags from the filters.
    pub fn new(given: &'a [String]) -> Self {
        let mut flags = Vec::new();
        let mut words = given.iter().map(String::as_str);
        while let Some(word) = words.next() {
            if word.starts_with('-') {
                flags.push(word);
                if FLAGS_WITH_VALUE.contains(&word) {
                    flags.extend(words.next());
                }
            }
        }
        Self { given, flags }
    }

    /// The arguments as given.
    pub fn everything(&self) -> &'a [String] {
        self.given
    }

    /// The device-dependent ones of `names`, which already passed the person's filter.
    pub fn on_device(&self, program: &TestProgram, mut names: Vec<String>) -> Vec<String> {
        if !(program.integration && program.name.contains(MARK)) {
            names.retain(|name| name.split("::").any(|part| part.contains(MARK)));
        }
        names
    }

    /// Arguments that run just `names`: libtest joins filters with "or", so "the filter and the mark" has to be a list.
    pub fn exactly(&self, names: &[String]) -> Vec<String> {
        let exact = (!self.flags.contains(&"--exact")).then_some("--exact");
        let flags = self.flags.iter().copied().chain(exact).map(str::to_owned);
        flags.chain(names.iter().cloned()).collect()
    }
}

/// Whether the contract lets the program have device-dependent tests.
pub fn may_depend_on_device(program: &TestProgram) -> bool {
    DEVICE_PACKAGES.contains(&program.package.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(package: &str, name: &str, integration: bool) -> TestProgram {
        TestProgram {
            package: package.into(),
            version: "0.1.0".into(),
            manifest: "/w/Cargo.toml".into(),
            name: name.into(),
            integration,
            executable: "/w/target/program".into(),
        }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_marked_file_runs_whole_and_a_marked_module_alone() {
        let names = words(&["experts::on_device::empty_expert", "config::unknown_key"]);
        let given = [];
        let selection = Selection::new(&given);
        let library = program("bellows-engine", "bellows_engine", false);
        assert_eq!(selection.on_device(&library, names.clone()), names[..1]);
        let file = program("bellows-engine", "on_device_experts", true);
        assert_eq!(selection.on_device(&file, names.clone()), names);
    }

    #[test]
    fn only_the_device_crates_run_twice() {
        assert!(may_depend_on_device(&program("bellows", "on_device", true)));
        assert!(!may_depend_on_device(&program(
            "bellows-record",
            "on_device",
            true
        )));
    }

    #[test]
    fn the_second_pass_keeps_flags_and_drops_filters() {
        let given = words(&[
            "routing",
            "--skip",
            "slow",
            "--nocapture",
            "--test-threads=1",
        ]);
        let selection = Selection::new(&given);
        assert_eq!(
            selection.exactly(&words(&["on_device::routing"])),
            [
                "--skip",
                "slow",
                "--nocapture",
                "--test-threads=1",
                "--exact",
                "on_device::routing"
            ]
        );
        assert_eq!(selection.everything(), given);
    }
}
