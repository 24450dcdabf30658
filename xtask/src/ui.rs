//! One voice for every command: who speaks, in which colour. `anstream` drops the colours for `NO_COLOR` and for anything
//! that is not a terminal.

use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

use anstream::{ColorChoice, eprintln, println};
use owo_colors::OwoColorize;

/// Announces a step of a command, with the command line that does it.
pub fn step(name: &str, detail: &str) {
    println!("\n{} {}", name.bold().cyan(), detail.dimmed());
}

/// Says a plain fact.
pub fn say(text: impl Display) {
    println!("{text}");
}

/// Titles a block of lines.
pub fn title(text: &str) {
    println!("\n{}", text.bold());
}

/// Says that something was left out or is worth a look, on standard output because it belongs to the report.
pub fn warning(text: impl Display) {
    println!("{} {text}", "warning:".bold().yellow());
}

/// Says why a command failed.
pub fn error(text: &impl Display) {
    // Whatever went to standard output before must come first where both go to one file.
    let _ = std::io::stdout().flush();
    eprintln!("{} {text}", "error:".bold().red());
}

/// Whether standard output takes colour, for the programs whose output is passed on through a pipe.
pub fn colour() -> bool {
    anstream::AutoStream::choice(&std::io::stdout()) != ColorChoice::Never
}

/// A duration as people say it: `0.4 s`, `12 s`, `3 min 20 s`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        _ => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        assert_eq!(duration(Duration::from_millis(420)), "0.4 s");
        assert_eq!(duration(Duration::from_secs(12)), "12 s");
        assert_eq!(duration(Duration::from_secs(200)), "3 min 20 s");
    }
}
