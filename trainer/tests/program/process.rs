//! A program that was run, and one that runs.

use std::process::Command;

/// What a finished program left.
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    /// Expects success.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// Expects bad input: exit code 2, one error that says `words`, and what to do about it.
    #[track_caller]
    pub fn refused(self, words: &[&str]) -> Self {
        self.told(2, words)
    }

    /// Expects one clear error with exit code `code`.
    #[track_caller]
    pub fn told(self, code: i32, words: &[&str]) -> Self {
        let text = &self.stderr;
        assert_eq!(self.code, Some(code), "{text}");
        let errors = text.lines().filter(|line| line.starts_with("error: "));
        assert_eq!(errors.count(), 1, "not one error: {text}");
        for noise in ["panicked", "bug in bellows", "backtrace", "\u{1b}"] {
            assert!(!text.contains(noise), "{noise:?} in: {text}");
        }
        for word in words {
            assert!(text.contains(word), "no {word:?} in: {text}");
        }
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Done {
    let output = command.output().expect("the program starts");
    Done {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("standard output is text"),
        stderr: String::from_utf8(output.stderr).expect("standard error is text"),
    }
}

#[cfg(unix)]
pub use running::Running;

#[cfg(unix)]
mod running {
    use std::io::Read;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::Done;

    /// Longest wait for something that takes moments: reached only when a test fails.
    const PATIENCE: Duration = Duration::from_secs(120);

    /// A program that runs, killed when the test ends before it does.
    pub struct Running(Child);

    impl Running {
        pub fn start(command: &mut Command) -> Self {
            let child = command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn();
            Self(child.expect("the program starts"))
        }

        pub fn pid(&self) -> u32 {
            self.0.id()
        }

        pub fn signal(&self, signal: libc::c_int) {
            // SAFETY: the process is a child that was not waited for, so the id is still its own.
            let sent = unsafe { libc::kill(self.0.id() as libc::pid_t, signal) };
            assert_eq!(sent, 0, "the signal was sent");
        }

        /// Whether it has ended.
        pub fn ended(&mut self) -> bool {
            self.0.try_wait().expect("a child").is_some()
        }

        /// Waits until `what` holds.
        #[track_caller]
        pub fn wait_until(&mut self, what: impl Fn() -> bool) {
            let start = Instant::now();
            while !what() {
                if self.ended() {
                    // What it was waited for may have been its last deed.
                    if what() {
                        return;
                    }
                    let mut text = String::new();
                    let errors = self.0.stderr.as_mut().expect("piped");
                    let _ = errors.read_to_string(&mut text);
                    panic!("the program ended early: {text}");
                }
                assert!(start.elapsed() < PATIENCE, "waited in vain");
                std::thread::sleep(Duration::from_millis(1));
            }
        }

        /// Lines of its standard error up to one that contains `words`.
        #[track_caller]
        pub fn wait_for_line(&mut self, words: &str) {
            let errors = self.0.stderr.as_mut().expect("piped");
            // Byte by byte: what follows the line stays for whoever reads next.
            let (mut line, mut byte) = (Vec::new(), [0]);
            while errors.read(&mut byte).expect("its standard error") == 1 {
                if byte[0] != b'\n' {
                    line.push(byte[0]);
                } else if String::from_utf8_lossy(&line).contains(words) {
                    return;
                } else {
                    line.clear();
                }
            }
            panic!("it ended without saying {words:?}");
        }

        /// Waits for its end.
        pub fn finish(mut self) -> Done {
            let mut done = Done {
                code: None,
                stdout: String::new(),
                stderr: String::new(),
            };
            let mut out = self.0.stdout.take().expect("piped");
            let reader = std::thread::spawn(move || {
                let mut text = String::new();
                out.read_to_string(&mut text).map(|_| text)
            });
            let errors = self.0.stderr.as_mut().expect("piped");
            errors.read_to_string(&mut done.stderr).expect("text");
            done.stdout = reader.join().expect("a reader").expect("text");
            done.code = self.0.wait().expect("a child").code();
            done
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
