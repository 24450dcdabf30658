//! The terminal that is drawn on.
//!
//! Crossterm underneath, as in ratatui's own backend. That one turns on features of crossterm's
//! whose dependencies Burn shares; with it, building the dashboard beside the trainer would build
//! Burn a second time. It also knows when nothing changed: then it sends nothing at all, and what
//! changed goes out in one piece, so that a dashboard is no burden for a slow line.

use std::io::{self, Write, stdout};

use crossterm::cursor::{Hide, MoveTo, Show, position};
use crossterm::event::{
    DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
};
use crossterm::style::{
    Attribute, Color as Shown, Print, SetAttribute, SetBackgroundColor, SetForegroundColor,
};
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType as Part, EndSynchronizedUpdate, EnterAlternateScreen,
    LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{execute, queue};
use ratatui::Terminal;
use ratatui::backend::{Backend, ClearType, WindowSize};
use ratatui::buffer::Cell;
use ratatui::layout::{Position, Size};
use ratatui::style::{Color, Modifier};

/// A terminal in raw mode, on its alternate screen. Dropping it puts everything back.
pub(super) struct Screen {
    terminal: Terminal<Crossterm>,
    mouse: bool,
}

impl Screen {
    /// Takes the terminal over. A panic gives it back before it is told.
    pub(super) fn open(mouse: bool) -> io::Result<Self> {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back(true);
            told(panic);
        }));
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste)?;
        if mouse {
            execute!(stdout(), EnableMouseCapture)?;
        }
        let terminal = Terminal::new(Crossterm::default())?;
        Ok(Self { terminal, mouse })
    }

    /// Draws; of what changed, the terminal shows all at once.
    pub(super) fn draw(
        &mut self,
        draw: impl FnOnce(&mut ratatui::buffer::Buffer),
    ) -> io::Result<()> {
        self.terminal.draw(|frame| draw(frame.buffer_mut()))?;
        let changes = self.terminal.backend_mut().take();
        if changes.is_empty() {
            return Ok(());
        }
        let mut out = stdout().lock();
        queue!(out, BeginSynchronizedUpdate)?;
        out.write_all(&changes)?;
        queue!(out, EndSynchronizedUpdate)?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back(self.mouse);
    }
}

fn give_back(mouse: bool) {
    // A terminal that is gone cannot be restored.
    if mouse {
        let _ = execute!(stdout(), DisableMouseCapture);
    }
    let _ = execute!(stdout(), DisableBracketedPaste, Show, LeaveAlternateScreen);
    let _ = disable_raw_mode();
}

/// What is to be sent to the terminal.
#[derive(Default)]
struct Crossterm {
    out: Vec<u8>,
    /// Whether the cursor is hidden.
    hidden: bool,
}

impl Crossterm {
    /// What is to be sent since the last call.
    fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

impl Backend for Crossterm {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, cells: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        let mut place = None;
        let mut shown = (Color::Reset, Color::Reset, Modifier::empty());
        for (x, y, cell) in cells {
            // The cursor stands behind what was written last.
            if place != Some((x, y)) {
                queue!(self.out, MoveTo(x, y))?;
            }
            place = Some((x + 1, y));
            if cell.modifier != shown.2 {
                // Attributes are taken away all together; colours go with them.
                queue!(self.out, SetAttribute(Attribute::Reset))?;
                for attribute in attributes(cell.modifier) {
                    queue!(self.out, SetAttribute(attribute))?;
                }
                shown = (Color::Reset, Color::Reset, cell.modifier);
            }
            if cell.fg != shown.0 {
                queue!(self.out, SetForegroundColor(color(cell.fg)))?;
                shown.0 = cell.fg;
            }
            if cell.bg != shown.1 {
                queue!(self.out, SetBackgroundColor(color(cell.bg)))?;
                shown.1 = cell.bg;
            }
            queue!(self.out, Print(cell.symbol()))?;
        }
        if place.is_some() {
            queue!(self.out, SetAttribute(Attribute::Reset))?;
        }
        Ok(())
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.hidden, true) {
            queue!(self.out, Hide)?;
        }
        Ok(())
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.hidden = false;
        queue!(self.out, Show)
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        position().map(Position::from)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, place: P) -> io::Result<()> {
        let Position { x, y } = place.into();
        queue!(self.out, MoveTo(x, y))
    }

    fn clear(&mut self) -> io::Result<()> {
        self.clear_region(ClearType::All)
    }

    fn clear_region(&mut self, part: ClearType) -> io::Result<()> {
        queue!(
            self.out,
            Clear(match part {
                ClearType::All => Part::All,
                ClearType::AfterCursor => Part::FromCursorDown,
                ClearType::BeforeCursor => Part::FromCursorUp,
                ClearType::CurrentLine => Part::CurrentLine,
                ClearType::UntilNewLine => Part::UntilNewLine,
            })
        )
    }

    fn size(&self) -> io::Result<Size> {
        crossterm::terminal::size().map(Size::from)
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        let columns_rows = self.size()?;
        // Nothing here draws pixels.
        let pixels = Size::default();
        Ok(WindowSize {
            columns_rows,
            pixels,
        })
    }

    /// [`Screen::draw`] sends everything at once.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn attributes(modifier: Modifier) -> impl Iterator<Item = Attribute> {
    [
        (Modifier::BOLD, Attribute::Bold),
        (Modifier::DIM, Attribute::Dim),
        (Modifier::ITALIC, Attribute::Italic),
        (Modifier::UNDERLINED, Attribute::Underlined),
        (Modifier::SLOW_BLINK, Attribute::SlowBlink),
        (Modifier::RAPID_BLINK, Attribute::RapidBlink),
        (Modifier::REVERSED, Attribute::Reverse),
        (Modifier::HIDDEN, Attribute::Hidden),
        (Modifier::CROSSED_OUT, Attribute::CrossedOut),
    ]
    .into_iter()
    .filter(move |(flag, _)| modifier.contains(*flag))
    .map(|(_, attribute)| attribute)
}

fn color(color: Color) -> Shown {
    match color {
        Color::Reset => Shown::Reset,
        Color::Indexed(index) => Shown::AnsiValue(index),
        Color::Rgb(r, g, b) => Shown::Rgb { r, g, b },
        Color::Black => Shown::Black,
        Color::Red => Shown::DarkRed,
        Color::Green => Shown::DarkGreen,
        Color::Yellow => Shown::DarkYellow,
        Color::Blue => Shown::DarkBlue,
        Color::Magenta => Shown::DarkMagenta,
        Color::Cyan => Shown::DarkCyan,
        Color::Gray => Shown::Grey,
        Color::DarkGray => Shown::DarkGrey,
        Color::LightRed => Shown::Red,
        Color::LightGreen => Shown::Green,
        Color::LightYellow => Shown::Yellow,
        Color::LightBlue => Shown::Blue,
        Color::LightMagenta => Shown::Magenta,
        Color::LightCyan => Shown::Cyan,
        Color::White => Shown::White,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::layout::Rect;
    use ratatui::style::Style;
    use ratatui::{TerminalOptions, Viewport};

    #[test]
    fn nothing_is_sent_for_what_did_not_change_and_little_for_a_little() {
        let area = Rect::new(0, 0, 250, 80);
        let options = TerminalOptions {
            viewport: Viewport::Fixed(area),
        };
        let mut terminal =
            Terminal::with_options(Crossterm::default(), options).expect("no terminal is asked");
        let mut sent = |text: &str| {
            let draw = |frame: &mut ratatui::Frame<'_>| {
                for row in 0..80 {
                    let style = Style::new().fg(Color::Indexed(110));
                    frame
                        .buffer_mut()
                        .set_string(0, row, "x".repeat(250), style);
                }
                frame.buffer_mut().set_string(10, 40, text, Style::new());
            };
            terminal.draw(draw).expect("it is drawn");
            terminal.backend_mut().take().len()
        };
        assert!(sent("step 1200") > 250 * 80);
        assert_eq!(sent("step 1200"), 0);
        assert!(sent("step 1201") < 32);
    }
}
