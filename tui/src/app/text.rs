//! A line of text being typed.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// A line of text with a place in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextLine {
    text: String,
    /// Characters before the place.
    at: usize,
}

impl TextLine {
    /// A text, the place at its end.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            at: text.chars().count(),
            text,
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Characters before the place.
    pub fn place(&self) -> usize {
        self.at
    }

    /// Takes a key; `false` where it changes no text.
    pub fn key(&mut self, key: &KeyEvent) -> bool {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('u') if control => *self = Self::default(),
            KeyCode::Char('w') if control => {
                let before: String = self.text.chars().take(self.at).collect();
                let kept = before.trim_end().rfind(' ').map_or(0, |at| at + 1);
                let rest: String = self.text.chars().skip(self.at).collect();
                self.at = before[..kept].chars().count();
                self.text = before[..kept].to_owned() + &rest;
            }
            KeyCode::Char(_) if control || key.modifiers.contains(KeyModifiers::ALT) => {
                return false;
            }
            KeyCode::Char(character) => {
                let byte = self.byte(self.at);
                self.text.insert(byte, character);
                self.at += 1;
            }
            KeyCode::Backspace if self.at > 0 => {
                self.at -= 1;
                let byte = self.byte(self.at);
                self.text.remove(byte);
            }
            KeyCode::Delete if self.at < self.text.chars().count() => {
                let byte = self.byte(self.at);
                self.text.remove(byte);
            }
            KeyCode::Backspace | KeyCode::Delete => {}
            KeyCode::Left => self.at = self.at.saturating_sub(1),
            KeyCode::Right => self.at = (self.at + 1).min(self.text.chars().count()),
            KeyCode::Home => self.at = 0,
            KeyCode::End => self.at = self.text.chars().count(),
            _ => return false,
        }
        true
    }

    fn byte(&self, place: usize) -> usize {
        self.text
            .char_indices()
            .nth(place)
            .map_or(self.text.len(), |(byte, _)| byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_several_bytes_are_edited_whole() {
        let mut line = TextLine::new("aß→");
        let press = |line: &mut TextLine, code| line.key(&KeyEvent::new(code, KeyModifiers::NONE));
        press(&mut line, KeyCode::Left);
        press(&mut line, KeyCode::Backspace);
        press(&mut line, KeyCode::Char('é'));
        assert_eq!(line.as_str(), "aé→");
        press(&mut line, KeyCode::Delete);
        assert_eq!(line.as_str(), "aé");
        press(&mut line, KeyCode::Home);
        press(&mut line, KeyCode::Backspace);
        assert_eq!((line.as_str(), line.place()), ("aé", 0));
        line.key(&KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
        assert_eq!(line.as_str(), "");
    }
}
