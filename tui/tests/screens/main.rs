//! Every screen as it is drawn, in each theme, on terminals of three sizes, the clock frozen.
//!
//! A snapshot is the text of the screen, then which style each column of it has by theme. After a
//! change that was meant, `INSTA_UPDATE=always cargo test -p bellows-tui --test screens` writes them
//! anew; look at the difference before you commit it.

mod picture;
mod runs;
mod troubles;

use bellows_tui::app::{App, CompareScreen, Screen};
use bellows_tui::theme::ThemeName;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use picture::{SIZES, assert_screens};
use runs::{Setting, alone, home, run};

/// Presses keys; a character stands for itself.
fn press(app: &mut App, keys: &str) {
    for key in keys.split_whitespace() {
        let code = match key {
            "Enter" => KeyCode::Enter,
            "Space" => KeyCode::Char(' '),
            "Tab" => KeyCode::Tab,
            "Left" => KeyCode::Left,
            "Down" => KeyCode::Down,
            key => KeyCode::Char(key.chars().next().expect("a key")),
        };
        app.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
}

/// A screen of one run, after keys were pressed at its first drawing.
fn of_run(setting: &Setting, keys: &str) -> App {
    let mut app = alone(setting, run("chain", 1.0));
    setting.draw(&mut app);
    press(&mut app, keys);
    app
}

#[test]
fn the_list_of_runs() {
    assert_screens("home", home);
}

#[test]
fn the_list_filtered_with_marked_runs() {
    assert_screens("home-filter", |setting| {
        let mut app = home(setting);
        press(&mut app, "Space Down Space / c h a");
        app
    });
}

#[test]
fn an_empty_list() {
    assert_screens("home-empty", runs::nothing);
}

#[test]
fn a_runs_charts() {
    assert_screens("charts", |setting| of_run(setting, ""));
}

#[test]
fn one_chart_alone_smoothed_with_a_cursor() {
    assert_screens("chart-alone", |setting| {
        of_run(setting, "Enter s g + Left Left Left")
    });
}

#[test]
fn a_runs_routing() {
    assert_screens("routing", |setting| of_run(setting, "2"));
}

#[test]
fn a_runs_memory() {
    assert_screens("memory", |setting| of_run(setting, "3 Enter"));
}

#[test]
fn a_runs_events_and_warnings() {
    assert_screens("events", |setting| of_run(setting, "4"));
}

#[test]
fn a_runs_configuration() {
    assert_screens("config", |setting| of_run(setting, "5"));
}

#[test]
fn a_runs_samples() {
    assert_screens("samples", |setting| of_run(setting, "6"));
}

#[test]
fn two_runs_compared() {
    assert_screens("compare", |setting| {
        let mut app = home(setting);
        let followers = vec![run("chain", 1.0), run("mixture", 1.3)];
        app.screen = Screen::Compare(Box::new(CompareScreen::new(followers)));
        app
    });
}

#[test]
fn the_form_of_a_new_run() {
    assert_screens("form", runs::form);
}

#[test]
fn a_form_with_a_wrong_value() {
    assert_screens("form-wrong", runs::wrong_form);
}

#[test]
fn a_question_before_a_run_is_started_that_does_not_fit() {
    assert_screens("start", runs::start_question);
}

#[test]
fn a_checkpoint_is_chosen() {
    assert_screens("resume", runs::resume_prompt);
}

#[test]
fn a_question_before_a_run_is_stopped() {
    assert_screens("confirm", |setting| of_run(setting, "S"));
}

#[test]
fn a_value_is_typed_and_refused() {
    assert_screens("prompt", |setting| of_run(setting, "L 0 Enter"));
}

#[test]
fn the_help_of_a_screen() {
    assert_screens("help", |setting| of_run(setting, "?"));
}

#[test]
fn a_terminal_that_is_too_small_says_so() {
    for (name, size) in [
        ("too-low", (80, 23)),
        ("too-narrow", (60, 40)),
        ("tiny", (12, 3)),
    ] {
        picture::assert_at(name, size, |setting| of_run(setting, ""));
    }
}

#[test]
fn read_only_offers_nothing_that_steers() {
    for (width, height) in SIZES {
        let mut setting = Setting::new(width, height, ThemeName::Dark);
        setting.read_only = true;
        for keys in ["", "2", "3", "4", "5", "6"] {
            let mut app = of_run(&setting, keys);
            let before = setting.text(&mut app);
            assert!(before.contains("read-only"), "{before}");
            press(&mut app, "P C E L A I T S R B N");
            assert!(app.take_effects().is_empty());
            assert_eq!(
                setting.text(&mut app),
                before,
                "a steering key changed the screen"
            );
            press(&mut app, "?");
            let help = setting.text(&mut app);
            assert!(!help.contains("pauses the run"), "{help}");
        }
    }
}

#[test]
fn ascii_draws_ascii_alone_and_loses_no_sign() {
    for keys in ["", "2", "3 Enter", "4", "5", "6", "?", "S", "L"] {
        for (width, height) in SIZES {
            let mut setting = Setting::new(width, height, ThemeName::None);
            setting.ascii = true;
            let mut app = of_run(&setting, keys);
            let text = setting.text(&mut app);
            assert!(text.is_ascii(), "{keys}: {text}");
        }
    }
    picture::assert_ascii("ascii-charts", |setting| of_run(setting, ""));
    picture::assert_ascii("ascii-routing", |setting| of_run(setting, "2"));
    picture::assert_ascii("ascii-home", home);
}

#[test]
fn a_screen_of_any_size_is_drawn() {
    for width in [1, 40, 80, 81, 133, 250] {
        for height in [1, 23, 24, 31, 80] {
            let setting = Setting::new(width, height, ThemeName::Dark);
            for keys in ["", "Enter", "2", "3", "4", "5", "6", "?", "S"] {
                setting.draw(&mut of_run(&setting, keys));
            }
            setting.draw(&mut home(&setting));
            setting.draw(&mut runs::form(&setting));
        }
    }
}
