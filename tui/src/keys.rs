//! Every key of the dashboard, in one table.
//!
//! The table drives dispatch ([`action`]), the footer, the help screen and `docs/dashboard.md`, so
//! none of them can tell anything else than what happens. Capital letters steer a run; in
//! read-only mode they are not there.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Where a key means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Context {
    /// The list of runs.
    Home,
    /// A run's curves.
    Charts,
    /// A run's routing.
    Routing,
    /// A run's memory.
    Memory,
    /// A run's events and warnings.
    Events,
    /// A run's configuration.
    Config,
    /// What a run's model wrote.
    Samples,
    /// Several runs side by side.
    Compare,
    /// The form of a new run.
    Form,
    /// The help.
    Help,
    /// A question.
    Confirm,
    /// A line of text is being typed.
    Prompt,
}

use Context::{
    Charts, Compare, Config, Confirm, Events, Form, Help, Home, Memory, Prompt, Routing, Samples,
};

impl Context {
    /// All of them, in the order in which the documentation tells them.
    pub const ALL: [Self; 12] = [
        Home, Charts, Routing, Memory, Events, Config, Samples, Compare, Form, Prompt, Confirm,
        Help,
    ];

    /// Its title.
    pub fn title(self) -> &'static str {
        match self {
            Home => "Runs",
            Charts => "Run: charts",
            Routing => "Run: routing",
            Memory => "Run: memory",
            Events => "Run: events and warnings",
            Config => "Run: configuration",
            Samples => "Run: samples",
            Compare => "Compare",
            Form => "New run",
            Prompt => "Typing a value",
            Confirm => "A question",
            Help => "Help",
        }
    }
}

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Shows the keys.
    Help,
    /// Goes back, and at last out.
    Back,
    /// Leaves the dashboard.
    Quit,
    /// Up.
    Up,
    /// Down.
    Down,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the first.
    First,
    /// To the last.
    Last,
    /// Opens, unfolds or enlarges.
    Enter,
    /// Types a filter.
    Filter,
    /// Sorts by the next column.
    Sort,
    /// Marks a run for comparison.
    Mark,
    /// Compares the marked runs.
    Compare,
    /// Opens the form of a new run.
    NewRun,
    /// The next tab.
    NextTab,
    /// The tab before.
    PreviousTab,
    /// A tab by its number.
    Tab(u8),
    /// Moves the cursor to earlier steps.
    CursorLeft,
    /// Moves the cursor to later steps.
    CursorRight,
    /// Takes the cursor away: the newest step again.
    CursorOff,
    /// Shows fewer steps.
    ZoomIn,
    /// Shows more steps.
    ZoomOut,
    /// Moves the window to earlier steps.
    PanLeft,
    /// Moves the window to later steps.
    PanRight,
    /// Shows all steps.
    Fit,
    /// Logarithmic or linear values.
    Log,
    /// More or no smoothing.
    Smooth,
    /// The next metric.
    Metric,
    /// A shorter window of routing records.
    WindowLess,
    /// A longer window of routing records.
    WindowMore,
    /// The next moment of a step's memory.
    Moment,
    /// Pauses or goes on.
    Pause,
    /// Writes a checkpoint.
    Checkpoint,
    /// Measures the validation loss.
    Evaluate,
    /// Ends the run after a checkpoint.
    Stop,
    /// Scales the learning rate.
    LearningRate,
    /// Changes the micro-batches of a step.
    Accumulation,
    /// Changes how often things are recorded.
    Intervals,
    /// Lets the model continue a text.
    Sample,
    /// Goes on with an ended run.
    Resume,
    /// Starts another run from a checkpoint.
    Branch,
    /// Starts the run of the form.
    Start,
    /// The next field.
    NextField,
    /// The field before.
    PreviousField,
    /// The next choice of a field.
    Choose,
    /// Yes.
    Yes,
    /// No.
    No,
}

/// A line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// What it does.
    pub action: Action,
    /// Keys, as [`spell`] spells them; the first is the one shown.
    pub keys: &'static [&'static str],
    /// Where.
    pub contexts: &'static [Context],
    /// A word for the footer.
    pub label: &'static str,
    /// A sentence for the help.
    pub help: &'static str,
    /// Whether it changes a run: not there in read-only mode.
    pub steers: bool,
    /// Place in the footer, the smallest first; 0: only in the help.
    pub footer: u8,
}

const RUN: &[Context] = &[Charts, Routing, Memory, Events, Config, Samples];
const LIVE: &[Context] = &[Home, Charts, Routing, Memory, Events, Config, Samples];
const LISTS: &[Context] = &[
    Home, Charts, Routing, Memory, Events, Config, Samples, Compare, Help,
];
const CURSOR: &[Context] = &[Charts, Routing, Memory, Compare];
const CURVES: &[Context] = &[Charts, Compare];

const fn key(
    action: Action,
    keys: &'static [&'static str],
    contexts: &'static [Context],
    label: &'static str,
    help: &'static str,
    footer: u8,
) -> Binding {
    Binding {
        action,
        keys,
        contexts,
        label,
        help,
        steers: false,
        footer,
    }
}

const fn steer(
    action: Action,
    keys: &'static [&'static str],
    contexts: &'static [Context],
    label: &'static str,
    help: &'static str,
    footer: u8,
) -> Binding {
    Binding {
        steers: true,
        ..key(action, keys, contexts, label, help, footer)
    }
}

/// Every key.
pub const BINDINGS: &[Binding] = &[
    key(
        Action::Enter,
        &["Enter"],
        &[Home],
        "open",
        "opens the run",
        1,
    ),
    key(
        Action::Enter,
        &["Enter"],
        CURVES,
        "enlarge",
        "shows one chart alone, or all again",
        5,
    ),
    key(
        Action::Enter,
        &["Enter", "Space"],
        &[Memory],
        "unfold",
        "opens or closes a branch of the ledger",
        5,
    ),
    key(
        Action::Filter,
        &["/"],
        &[Home, Config],
        "filter",
        "narrows the list as you type; Esc clears it",
        3,
    ),
    key(
        Action::Sort,
        &["o"],
        &[Home],
        "sort",
        "sorts by the next column",
        4,
    ),
    key(
        Action::Mark,
        &["Space"],
        &[Home],
        "mark",
        "marks the run for comparison",
        5,
    ),
    key(
        Action::Compare,
        &["c"],
        &[Home],
        "compare",
        "compares the marked runs, or this one with the next",
        6,
    ),
    steer(
        Action::NewRun,
        &["N"],
        &[Home],
        "new run",
        "opens the form of a new run",
        2,
    ),
    key(
        Action::NextTab,
        &["Tab"],
        RUN,
        "tabs",
        "shows the next tab",
        1,
    ),
    key(
        Action::PreviousTab,
        &["BackTab"],
        RUN,
        "",
        "shows the tab before",
        0,
    ),
    key(
        Action::Tab(0),
        &["1"],
        RUN,
        "",
        "charts of every recorded metric",
        0,
    ),
    key(
        Action::Tab(1),
        &["2"],
        RUN,
        "",
        "routing: layers, iterations and experts",
        0,
    ),
    key(
        Action::Tab(2),
        &["3"],
        RUN,
        "",
        "memory: timeline and ledger",
        0,
    ),
    key(Action::Tab(3), &["4"], RUN, "", "events and warnings", 0),
    key(
        Action::Tab(4),
        &["5"],
        RUN,
        "",
        "the resolved configuration",
        0,
    ),
    key(Action::Tab(5), &["6"], RUN, "", "samples", 0),
    key(
        Action::CursorLeft,
        &["Left", "h"],
        CURSOR,
        "cursor",
        "moves the cursor to earlier steps, in every chart at once",
        2,
    ),
    key(
        Action::CursorRight,
        &["Right", "l"],
        CURSOR,
        "",
        "moves the cursor to later steps",
        0,
    ),
    key(
        Action::CursorOff,
        &["x"],
        CURSOR,
        "",
        "takes the cursor away: the newest step again",
        0,
    ),
    key(
        Action::ZoomIn,
        &["+", "="],
        CURVES,
        "zoom",
        "shows fewer steps, around the cursor",
        3,
    ),
    key(Action::ZoomOut, &["-"], CURVES, "", "shows more steps", 0),
    key(
        Action::PanLeft,
        &["<", "Shift-Left"],
        CURVES,
        "",
        "moves the window to earlier steps",
        0,
    ),
    key(
        Action::PanRight,
        &[">", "Shift-Right"],
        CURVES,
        "",
        "moves the window to later steps",
        0,
    ),
    key(Action::Fit, &["0"], CURVES, "fit", "shows all steps", 6),
    key(
        Action::Log,
        &["g"],
        CURVES,
        "log",
        "logarithmic or linear values",
        7,
    ),
    key(
        Action::Smooth,
        &["s"],
        CURVES,
        "smooth",
        "smooths more, at last not at all; the raw line stays",
        4,
    ),
    key(
        Action::Metric,
        &["m"],
        &[Compare],
        "metric",
        "compares the next metric",
        1,
    ),
    key(
        Action::WindowLess,
        &["["],
        &[Routing],
        "window",
        "sums fewer records",
        3,
    ),
    key(
        Action::WindowMore,
        &["]"],
        &[Routing],
        "",
        "sums more records",
        0,
    ),
    key(
        Action::Moment,
        &["m"],
        &[Memory],
        "moment",
        "shows the ledger at the next moment of the step",
        3,
    ),
    steer(
        Action::Pause,
        &["P"],
        LIVE,
        "pause",
        "pauses the run, or goes on",
        7,
    ),
    steer(
        Action::Checkpoint,
        &["C"],
        LIVE,
        "checkpoint",
        "writes a checkpoint now",
        8,
    ),
    steer(
        Action::Evaluate,
        &["E"],
        LIVE,
        "evaluate",
        "measures the validation loss now",
        11,
    ),
    steer(
        Action::LearningRate,
        &["L"],
        LIVE,
        "rate",
        "scales the schedule's learning rate",
        9,
    ),
    steer(
        Action::Accumulation,
        &["A"],
        LIVE,
        "accumulation",
        "changes the micro-batches of a step",
        12,
    ),
    steer(
        Action::Intervals,
        &["I"],
        LIVE,
        "intervals",
        "changes how often things are recorded",
        13,
    ),
    steer(
        Action::Sample,
        &["T"],
        LIVE,
        "text",
        "lets the model continue a text",
        10,
    ),
    steer(
        Action::Stop,
        &["S"],
        LIVE,
        "stop",
        "ends the run after a checkpoint",
        14,
    ),
    steer(
        Action::Resume,
        &["R"],
        LIVE,
        "resume",
        "goes on with a run that ended, from one of its checkpoints",
        15,
    ),
    steer(
        Action::Branch,
        &["B"],
        LIVE,
        "branch",
        "starts another run from one of its checkpoints",
        16,
    ),
    key(Action::Up, &["Up", "k"], LISTS, "", "up", 0),
    key(Action::Down, &["Down", "j"], LISTS, "", "down", 0),
    key(Action::PageUp, &["PageUp"], LISTS, "", "a page up", 0),
    key(Action::PageDown, &["PageDown"], LISTS, "", "a page down", 0),
    key(Action::First, &["Home"], LISTS, "", "to the first", 0),
    key(Action::Last, &["End"], LISTS, "", "to the last", 0),
    key(
        Action::NextField,
        &["Tab", "Down"],
        &[Form],
        "field",
        "to the next field",
        1,
    ),
    key(
        Action::PreviousField,
        &["BackTab", "Up"],
        &[Form],
        "",
        "to the field before",
        0,
    ),
    key(
        Action::Choose,
        &["Right"],
        &[Form],
        "choose",
        "the next choice, where a field has choices",
        2,
    ),
    key(
        Action::Start,
        &["Enter"],
        &[Form],
        "start",
        "checks the settings, then asks and starts the run",
        3,
    ),
    key(
        Action::Back,
        &["Esc"],
        &[Form],
        "back",
        "back to the list; nothing is started",
        4,
    ),
    key(
        Action::Enter,
        &["Enter"],
        &[Prompt],
        "done",
        "takes the value",
        1,
    ),
    key(
        Action::Up,
        &["Up"],
        &[Prompt],
        "",
        "the choice before, where there are choices",
        0,
    ),
    key(
        Action::Down,
        &["Down"],
        &[Prompt],
        "",
        "the next choice, where there are choices",
        0,
    ),
    key(
        Action::Back,
        &["Esc"],
        &[Prompt],
        "cancel",
        "leaves everything as it was",
        2,
    ),
    key(Action::Yes, &["y"], &[Confirm], "yes", "does it", 1),
    key(
        Action::No,
        &["n", "Esc", "q"],
        &[Confirm],
        "no",
        "leaves everything as it was",
        2,
    ),
    key(
        Action::Help,
        &["?"],
        &[
            Home, Charts, Routing, Memory, Events, Config, Samples, Compare, Help,
        ],
        "help",
        "shows the keys of this screen",
        20,
    ),
    key(
        Action::Back,
        &["q", "Esc"],
        &[
            Charts, Routing, Memory, Events, Config, Samples, Compare, Help,
        ],
        "back",
        "goes back; a run goes on",
        21,
    ),
    key(
        Action::Back,
        &["q", "Esc"],
        &[Home],
        "quit",
        "leaves the dashboard; runs go on",
        21,
    ),
    key(
        Action::Quit,
        &["Ctrl-c"],
        &Context::ALL,
        "",
        "leaves the dashboard at once; runs go on",
        0,
    ),
];

/// What `key` does in `context`.
pub fn action(context: Context, key: &KeyEvent, read_only: bool) -> Option<Action> {
    let spelled = spell(key)?;
    bindings(context, read_only)
        .find(|binding| binding.keys.contains(&spelled.as_str()))
        .map(|binding| binding.action)
}

/// The keys that mean something in `context`.
pub fn bindings(context: Context, read_only: bool) -> impl Iterator<Item = &'static Binding> {
    BINDINGS.iter().filter(move |binding| {
        binding.contexts.contains(&context) && !(read_only && binding.steers)
    })
}

/// A key's name: `a`, `A`, `Enter`, `Shift-Left`, `Ctrl-c`.
pub fn spell(key: &KeyEvent) -> Option<String> {
    let name = match key.code {
        KeyCode::Char(' ') => "Space".to_owned(),
        KeyCode::Char(character) => character.to_string(),
        KeyCode::Enter => "Enter".to_owned(),
        KeyCode::Esc => "Esc".to_owned(),
        KeyCode::Tab => "Tab".to_owned(),
        KeyCode::BackTab => return Some("BackTab".to_owned()),
        KeyCode::Backspace => "Backspace".to_owned(),
        KeyCode::Delete => "Delete".to_owned(),
        KeyCode::Up => "Up".to_owned(),
        KeyCode::Down => "Down".to_owned(),
        KeyCode::Left => "Left".to_owned(),
        KeyCode::Right => "Right".to_owned(),
        KeyCode::Home => "Home".to_owned(),
        KeyCode::End => "End".to_owned(),
        KeyCode::PageUp => "PageUp".to_owned(),
        KeyCode::PageDown => "PageDown".to_owned(),
        _ => return None,
    };
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return Some(format!("Ctrl-{}", name.to_lowercase()));
    }
    if key.modifiers.contains(KeyModifiers::ALT) {
        return None;
    }
    // A capital letter says its shift itself.
    let plain = matches!(key.code, KeyCode::Char(_));
    if key.modifiers.contains(KeyModifiers::SHIFT) && !plain {
        return Some(format!("Shift-{name}"));
    }
    Some(name)
}

/// A key as it is shown.
pub fn shown(key: &str, ascii: bool) -> String {
    if ascii {
        return key.to_owned();
    }
    let (prefix, key) = match key.strip_prefix("Shift-") {
        Some(key) => ("⇧", key),
        None => ("", key),
    };
    let symbol = match key {
        "Up" => "↑",
        "Down" => "↓",
        "Left" => "←",
        "Right" => "→",
        "Enter" => "⏎",
        "BackTab" => "⇧Tab",
        "PageUp" => "PgUp",
        "PageDown" => "PgDn",
        other => other,
    };
    format!("{prefix}{symbol}")
}

/// The table as the documentation shows it.
pub fn markdown() -> String {
    let mut text = String::new();
    for context in Context::ALL {
        text += &format!(
            "\n### {}\n\n| key | what it does |\n| --- | --- |\n",
            context.title()
        );
        for binding in bindings(context, false) {
            let keys: Vec<String> = binding
                .keys
                .iter()
                .map(|key| format!("`{}`", shown(key, false)))
                .collect();
            let steers = if binding.steers { " *(steers)*" } else { "" };
            text += &format!("| {} | {}{steers} |\n", keys.join(" "), binding.help);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_means_two_things_at_once() {
        for context in Context::ALL {
            let mut seen = Vec::new();
            for key in bindings(context, false).flat_map(|binding| binding.keys) {
                assert!(!seen.contains(key), "{key} twice in {context:?}");
                seen.push(key);
            }
        }
    }

    #[test]
    fn read_only_hides_whatever_changes_a_run() {
        let key = |code| KeyEvent::new(KeyCode::Char(code), KeyModifiers::NONE);
        for context in [Home, Charts, Samples] {
            for code in ['P', 'C', 'E', 'S', 'L', 'A', 'I', 'T', 'R', 'B'] {
                assert!(action(context, &key(code), false).is_some(), "{code}");
                assert_eq!(action(context, &key(code), true), None, "{code}");
            }
        }
        assert_eq!(action(Home, &key('N'), true), None);
    }

    #[test]
    fn the_documented_keys_are_those_of_the_table() {
        let page = include_str!("../../docs/dashboard.md");
        assert!(
            page.contains(&markdown()),
            "docs/dashboard.md differs: put what `bellows-tui --print-keys` prints under its heading Keys"
        );
    }
}
