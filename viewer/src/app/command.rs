use egui::{Key, KeyboardShortcut, Modifiers};

use super::Workspace;
use crate::panels::Panel;

/// Something a person can tell the viewer to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Play, or stop playing.
    Play,
    /// To the next record.
    Next,
    /// To the record before.
    Previous,
    /// To the first step.
    First,
    /// To the last step.
    Last,
    /// Stay at the newest record.
    Follow,
    /// Begin again at the end.
    Repeat,
    /// Play faster.
    Faster,
    /// Play slower.
    Slower,
    /// Forget the selected range.
    ClearRange,
    /// Compare with where the cursor stands.
    Pin,
    /// Forget what is compared with.
    Unpin,
    /// To the next layer.
    NextLayer,
    /// To the layer before.
    PreviousLayer,
    /// To the next iteration of the layer.
    NextIteration,
    /// Measure loads by the next measure.
    NextMeasure,
    /// Order experts by the next order.
    NextOrder,
    /// Show a page.
    Page(Workspace),
    /// Bring a panel to the front.
    Show(Panel),
    /// Export the panel under the pointer, or the first one.
    Export,
    /// Open a run.
    Open,
    /// Find commands, panels, and words in the run.
    Palette,
    /// The other theme.
    Theme,
    /// The next colour scale.
    NextScale,
    /// Larger text.
    Larger,
    /// Smaller text.
    Smaller,
    /// Text of the first size.
    FirstSize,
    /// Take the last change of the view back.
    Undo,
    /// Take the undo back.
    Redo,
    /// Put the page back as it was.
    ResetLayout,
    /// Close the window.
    Quit,
}

const CONTROL: Modifiers = Modifiers::COMMAND;
const CONTROL_SHIFT: Modifiers = Modifiers::COMMAND.plus(Modifiers::SHIFT);

impl Command {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        use Command as C;
        let plain = [
            C::Play,
            C::Next,
            C::Previous,
            C::First,
            C::Last,
            C::Follow,
            C::Repeat,
            C::Faster,
            C::Slower,
            C::ClearRange,
            C::Pin,
            C::Unpin,
            C::NextLayer,
            C::PreviousLayer,
            C::NextIteration,
            C::NextMeasure,
            C::NextOrder,
            C::Export,
            C::Open,
            C::Palette,
            C::Theme,
            C::NextScale,
            C::Larger,
            C::Smaller,
            C::FirstSize,
            C::Undo,
            C::Redo,
            C::ResetLayout,
            C::Quit,
        ];
        plain
            .into_iter()
            .chain(Workspace::ALL.map(C::Page))
            .chain(Panel::ALL.map(C::Show))
    }

    /// What it is called.
    pub fn name(self) -> String {
        let name = match self {
            Self::Play => "Play or stop",
            Self::Next => "Next record",
            Self::Previous => "Previous record",
            Self::First => "First step",
            Self::Last => "Last step",
            Self::Follow => "Follow the newest record",
            Self::Repeat => "Loop at the end",
            Self::Faster => "Play faster",
            Self::Slower => "Play slower",
            Self::ClearRange => "Clear the selected range",
            Self::Pin => "Compare with this step",
            Self::Unpin => "Stop comparing",
            Self::NextLayer => "Next layer",
            Self::PreviousLayer => "Previous layer",
            Self::NextIteration => "Next iteration",
            Self::NextMeasure => "Next measure of load",
            Self::NextOrder => "Next order of experts",
            Self::Page(page) => return format!("Page: {}", page.name()),
            Self::Show(panel) => return format!("Panel: {}", panel.title()),
            Self::Export => "Export the panel under the pointer",
            Self::Open => "Open a run",
            Self::Palette => "Commands and search",
            Self::Theme => "Dark or light theme",
            Self::NextScale => "Next colour scale",
            Self::Larger => "Larger text",
            Self::Smaller => "Smaller text",
            Self::FirstSize => "Text of normal size",
            Self::Undo => "Undo the last change of the view",
            Self::Redo => "Redo",
            Self::ResetLayout => "Reset the layout of this page",
            Self::Quit => "Quit",
        };
        name.to_owned()
    }

    /// Its keys.
    pub fn shortcut(self) -> Option<KeyboardShortcut> {
        let (modifiers, key) = match self {
            Self::Play => (Modifiers::NONE, Key::Space),
            Self::Next => (Modifiers::NONE, Key::ArrowRight),
            Self::Previous => (Modifiers::NONE, Key::ArrowLeft),
            Self::First => (Modifiers::NONE, Key::Home),
            Self::Last => (Modifiers::NONE, Key::End),
            Self::Follow => (Modifiers::NONE, Key::F),
            Self::Repeat => (Modifiers::NONE, Key::L),
            Self::Faster => (Modifiers::NONE, Key::Period),
            Self::Slower => (Modifiers::NONE, Key::Comma),
            Self::ClearRange => (Modifiers::NONE, Key::Escape),
            Self::Pin => (Modifiers::NONE, Key::P),
            Self::Unpin => (Modifiers::SHIFT, Key::P),
            Self::NextLayer => (Modifiers::NONE, Key::ArrowDown),
            Self::PreviousLayer => (Modifiers::NONE, Key::ArrowUp),
            Self::NextIteration => (Modifiers::NONE, Key::I),
            Self::NextMeasure => (Modifiers::NONE, Key::M),
            Self::NextOrder => (Modifiers::NONE, Key::O),
            Self::Page(page) => {
                let keys = [
                    Key::Num1,
                    Key::Num2,
                    Key::Num3,
                    Key::Num4,
                    Key::Num5,
                    Key::Num6,
                ];
                let at = Workspace::ALL.iter().position(|other| *other == page)?;
                (CONTROL, *keys.get(at)?)
            }
            Self::Export => (CONTROL, Key::E),
            Self::Open => (CONTROL, Key::O),
            Self::Palette => (CONTROL, Key::K),
            Self::Theme => (CONTROL, Key::T),
            Self::Larger => (CONTROL, Key::Plus),
            Self::Smaller => (CONTROL, Key::Minus),
            Self::FirstSize => (CONTROL, Key::Num0),
            Self::Undo => (CONTROL, Key::Z),
            Self::Redo => (CONTROL_SHIFT, Key::Z),
            Self::Quit => (CONTROL, Key::Q),
            Self::Show(_) | Self::NextScale | Self::ResetLayout => return None,
        };
        Some(KeyboardShortcut::new(modifiers, key))
    }

    /// The commands whose keys were pressed. Keys without Ctrl belong to a text field that has the focus.
    pub fn pressed(context: &egui::Context) -> Vec<Self> {
        let typing = context.text_edit_focused();
        // Longer chords first: Ctrl+Shift+Z would be taken for Ctrl+Z.
        let mut commands: Vec<(Self, KeyboardShortcut)> = Self::all()
            .filter_map(|command| Some((command, command.shortcut()?)))
            .collect();
        commands.sort_by_key(|(_, keys)| {
            std::cmp::Reverse(u8::from(keys.modifiers.shift) + u8::from(keys.modifiers.command))
        });
        commands
            .into_iter()
            .filter(|(_, keys)| !typing || keys.modifiers.command)
            .filter(|(_, keys)| context.input_mut(|input| input.consume_shortcut(keys)))
            .map(|(command, _)| command)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_commands_share_keys_or_a_name() {
        let commands: Vec<Command> = Command::all().collect();
        for (at, one) in commands.iter().enumerate() {
            for other in &commands[at + 1..] {
                assert_ne!(one.name(), other.name());
                if let (Some(a), Some(b)) = (one.shortcut(), other.shortcut()) {
                    assert_ne!(a, b, "{one:?} {other:?}");
                }
            }
        }
    }
}
