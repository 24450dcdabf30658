//! Clicks and keys.

use bellows_viewer::app::{App, Workspace};
use bellows_viewer::panels::Panel;
use bellows_viewer::theme::Theme;
use egui::{Key, Modifiers, Role};
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable;

use crate::support;

fn real() -> Harness<'static, App> {
    let (store, run) = support::open(&support::real());
    support::window(support::app(&store, run, Theme::dark()), [1400.0, 900.0])
}

fn press(window: &mut Harness<'_, App>, modifiers: Modifiers, key: Key) {
    window.key_press_modifiers(modifiers, key);
    window.run_steps(3);
}

#[test]
fn pages_are_reached_by_their_buttons_and_by_keys() {
    let mut window = real();
    for page in Workspace::ALL {
        window
            .get_by_role_and_label(Role::Button, page.name())
            .click();
        window.run_steps(3);
        assert_eq!(window.state_mut().view_mut().workspace, page);
    }
    press(&mut window, Modifiers::COMMAND, Key::Num2);
    assert_eq!(window.state_mut().view_mut().workspace, Workspace::Routing);
}

#[test]
fn the_cursor_moves_by_keys_and_everything_shows_its_step() {
    let mut window = real();
    press(&mut window, Modifiers::NONE, Key::Home);
    let first = window.state_mut().view_mut().step;
    press(&mut window, Modifiers::NONE, Key::ArrowRight);
    let second = window.state_mut().view_mut().step;
    assert!(second > first);
    assert!(
        window
            .query_all_by_label_contains(&format!("by tokens, step {second}"))
            .next()
            .is_some()
    );
    press(&mut window, Modifiers::NONE, Key::ArrowLeft);
    assert_eq!(window.state_mut().view_mut().step, first);
    press(&mut window, Modifiers::NONE, Key::End);
    assert!(window.state_mut().view_mut().step > second);
}

#[test]
fn playing_goes_on_by_itself_and_around_the_end() {
    let mut window = real();
    press(&mut window, Modifiers::NONE, Key::Home);
    let first = window.state_mut().view_mut().step;
    press(&mut window, Modifiers::NONE, Key::Space);
    let mut seen = Vec::new();
    for _ in 0..200 {
        window.step();
        seen.push(window.state_mut().view_mut().step);
    }
    assert!(seen.iter().any(|step| *step > first));
    assert!(
        seen.windows(2).any(|pair| pair[1] < pair[0]),
        "it began again"
    );
    press(&mut window, Modifiers::NONE, Key::Space);
    let stopped = window.state_mut().view_mut().step;
    window.run_steps(20);
    assert_eq!(window.state_mut().view_mut().step, stopped);
}

#[test]
fn the_palette_finds_commands_and_what_is_in_the_run() {
    let mut window = real();
    press(&mut window, Modifiers::COMMAND, Key::K);
    window.event(egui::Event::Text("page: memory".to_owned()));
    window.run_steps(3);
    press(&mut window, Modifiers::NONE, Key::Enter);
    assert_eq!(window.state_mut().view_mut().workspace, Workspace::Memory);
    press(&mut window, Modifiers::COMMAND, Key::K);
    window.event(egui::Event::Text("layer 1 expert 3".to_owned()));
    // What is found comes from another thread.
    for _ in 0..200 {
        std::thread::sleep(std::time::Duration::from_millis(10));
        window.step();
        if window
            .query_all_by_label_contains("xpert 3")
            .next()
            .is_some()
        {
            break;
        }
    }
    press(&mut window, Modifiers::NONE, Key::Enter);
    let view = window.state_mut().view_mut();
    assert_eq!((view.router.layer, view.expert), (1, 3));
}

#[test]
fn changes_of_the_view_are_undone_and_redone() {
    let mut window = real();
    window.get_by_role_and_label(Role::Button, "Flow").click();
    window.run_steps(3);
    press(&mut window, Modifiers::COMMAND, Key::Z);
    assert_eq!(window.state_mut().view_mut().workspace, Workspace::Routing);
    press(&mut window, Modifiers::COMMAND | Modifiers::SHIFT, Key::Z);
    assert_eq!(window.state_mut().view_mut().workspace, Workspace::Flow);
}

#[test]
fn a_click_on_a_cell_opens_its_expert() {
    let mut window = real();
    let grid = window
        .query_all_by_role(Role::Image)
        .find(|node| {
            use egui_kittest::kittest::NodeT;
            node.accesskit_node()
                .label()
                .is_some_and(|label| label.starts_with("Load. "))
        })
        .unwrap()
        .rect();
    // The last row and column, well inside.
    let corner = grid.right_bottom() - egui::vec2(30.0, 50.0);
    window.hover_at(corner);
    window.run_steps(1);
    for pressed in [true, false] {
        window.event(egui::Event::PointerButton {
            pos: corner,
            button: egui::PointerButton::Primary,
            pressed,
            modifiers: Modifiers::NONE,
        });
    }
    window.run_steps(3);
    let view = window.state_mut().view_mut();
    assert_eq!(
        (view.router.layer, view.router.iteration, view.expert),
        (3, 1, 7)
    );
    assert!(
        view.layouts
            .visible(Workspace::Routing)
            .contains(&Panel::Expert)
    );
}

#[test]
fn text_grows_and_the_theme_changes() {
    let mut window = real();
    let before = window.ctx.zoom_factor();
    press(&mut window, Modifiers::COMMAND, Key::Plus);
    assert!(window.ctx.zoom_factor() > before);
    press(&mut window, Modifiers::COMMAND, Key::Num0);
    assert_eq!(window.ctx.zoom_factor(), before);
    let dark = window.ctx.global_style().visuals.panel_fill;
    press(&mut window, Modifiers::COMMAND, Key::T);
    assert_ne!(window.ctx.global_style().visuals.panel_fill, dark);
}
