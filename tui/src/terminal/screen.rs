//! The terminal that is drawn on.
//!
//! Crossterm underneath, as in ratatui's own backend. That one turns on features of crossterm's
//! whose dependencies Burn shares; with it, building the dashboard beside the trainer would build
//! Burn a second time.

use std::io::{self, Stdout, Write, stdout};

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
        let terminal = Terminal::new(Crossterm(stdout()))?;
        Ok(Self { terminal, mouse })
    }

    /// Draws; of what changed, the terminal shows all at once.
    pub(super) fn draw(
        &mut self,
        draw: impl FnOnce(&mut ratatui::buffer::Buffer),
    ) -> io::Result<()> {
        queue!(stdout(), BeginSynchronizedUpdate)?;
        self.terminal.draw(|frame| draw(frame.buffer_mut()))?;
        execute!(stdout(), EndSynchronizedUpdate)
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

struct Crossterm(Stdout);

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
                queue!(self.0, MoveTo(x, y))?;
            }
            place = Some((x + 1, y));
            if cell.modifier != shown.2 {
                // Attributes are taken away all together; colours go with them.
                queue!(self.0, SetAttribute(Attribute::Reset))?;
                for attribute in attributes(cell.modifier) {
                    queue!(self.0, SetAttribute(attribute))?;
                }
                shown = (Color::Reset, Color::Reset, cell.modifier);
            }
            if cell.fg != shown.0 {
                queue!(self.0, SetForegroundColor(color(cell.fg)))?;
                shown.0 = cell.fg;
            }
            if cell.bg != shown.1 {
                queue!(self.0, SetBackgroundColor(color(cell.bg)))?;
                shown.1 = cell.bg;
            }
            queue!(self.0, Print(cell.symbol()))?;
        }
        queue!(self.0, SetAttribute(Attribute::Reset))
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        execute!(self.0, Hide)
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        execute!(self.0, Show)
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        position().map(Position::from)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, place: P) -> io::Result<()> {
        let Position { x, y } = place.into();
        execute!(self.0, MoveTo(x, y))
    }

    fn clear(&mut self) -> io::Result<()> {
        self.clear_region(ClearType::All)
    }

    fn clear_region(&mut self, part: ClearType) -> io::Result<()> {
        execute!(
            self.0,
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

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
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
