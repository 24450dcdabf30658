use std::sync::Arc;

use bellows_query::scalars::{Axis, Curves};
use bellows_query::{RunSnapshot, Span, Store};
use bellows_record::EventKind;
use egui::{
    Align2, Button, Pos2, Rect, RichText, Role, Sense, Stroke, StrokeKind, Ui, WidgetInfo, pos2,
    vec2,
};

use super::transport::{SPEEDS, neighbour};
use super::{Command, Transport, View};
use crate::format;
use crate::panels::columns;
use crate::theme::Theme;

/// The bar with the time cursor; the commands that were clicked.
pub fn show(
    ui: &mut Ui,
    theme: &Theme,
    store: &Store,
    run: Option<&Arc<RunSnapshot>>,
    view: &mut View,
    transport: &mut Transport,
    wait: bool,
) -> Vec<Command> {
    let mut commands = Vec::new();
    ui.horizontal_centered(|ui| {
        buttons(ui, theme, transport, &mut commands);
        ui.add_space(4.0);
        place(ui, theme, run, view);
        let rest = ui.available_width();
        let width = (rest - 132.0).max(60.0);
        let (strip, response) = ui.allocate_exact_size(vec2(width, 44.0), Sense::click_and_drag());
        if let Some((run, (first, last))) = run.and_then(|run| Some((run, run.range()?))) {
            track(
                ui,
                theme,
                store,
                run,
                view,
                strip,
                &response,
                (first, last),
                wait,
            );
            if response.is_pointer_button_down_on() {
                transport.follow = false;
            }
        } else {
            ui.painter()
                .rect_filled(strip, 6.0, theme.plot.background.0);
        }
        ui.add_space(4.0);
        range(ui, theme, view);
    });
    commands
}

fn buttons(ui: &mut Ui, theme: &Theme, transport: &mut Transport, commands: &mut Vec<Command>) {
    ui.spacing_mut().item_spacing.x = 3.0;
    let mut button = |ui: &mut Ui, sign: Sign, name: &str, on: bool, command: Command| {
        let response = ui.add(Button::selectable(on, "").min_size(vec2(26.0, 26.0)));
        response.widget_info(|| WidgetInfo::selected(Role::Button, true, on, name));
        let color = if on {
            theme.state.accent.0
        } else {
            ui.style().interact(&response).text_color()
        };
        sign.draw(ui, response.rect.center(), color);
        let keys = command.shortcut().map_or_else(String::new, |keys| {
            format!("  {}", ui.ctx().format_shortcut(&keys))
        });
        if response.on_hover_text(format!("{name}{keys}")).clicked() {
            commands.push(command);
        }
    };
    button(
        ui,
        Sign::Previous,
        "Previous record",
        false,
        Command::Previous,
    );
    let play = if transport.playing {
        Sign::Pause
    } else {
        Sign::Play
    };
    button(ui, play, "Play", transport.playing, Command::Play);
    button(ui, Sign::Next, "Next record", false, Command::Next);
    button(ui, Sign::Repeat, "Loop", transport.repeat, Command::Repeat);
    button(
        ui,
        Sign::Follow,
        "Follow live",
        transport.follow,
        Command::Follow,
    );
    egui::ComboBox::from_id_salt("speed")
        .width(0.0)
        .selected_text(RichText::new(format!("{}/s", transport.speed)).small())
        .show_ui(ui, |ui| {
            for speed in SPEEDS {
                ui.selectable_value(
                    &mut transport.speed,
                    speed,
                    format!("{speed} records a second"),
                );
            }
        })
        .response
        .on_hover_text("Records a second");
}

/// Signs drawn with lines: fonts differ in theirs.
#[derive(Clone, Copy)]
enum Sign {
    Play,
    Pause,
    Next,
    Previous,
    Repeat,
    Follow,
}

impl Sign {
    fn draw(self, ui: &Ui, at: Pos2, color: egui::Color32) {
        let painter = ui.painter();
        let stroke = Stroke::new(1.6, color);
        let triangle = |points: [(f32, f32); 3]| {
            let points = points.map(|(x, y)| at + vec2(x, y)).to_vec();
            painter.add(egui::Shape::convex_polygon(points, color, Stroke::NONE));
        };
        let bar = |x: f32| {
            painter.rect_filled(
                Rect::from_center_size(at + vec2(x, 0.0), vec2(2.6, 10.0)),
                1.0,
                color,
            )
        };
        match self {
            Self::Play => triangle([(-4.0, -6.0), (6.0, 0.0), (-4.0, 6.0)]),
            Self::Pause => {
                bar(-2.8);
                bar(2.8);
            }
            Self::Next => {
                triangle([(-4.5, -5.0), (2.5, 0.0), (-4.5, 5.0)]);
                bar(4.0);
            }
            Self::Previous => {
                triangle([(4.5, -5.0), (-2.5, 0.0), (4.5, 5.0)]);
                bar(-4.0);
            }
            Self::Repeat => {
                let arc: Vec<Pos2> = (0..=20)
                    .map(|part| {
                        let angle = -0.6 + part as f32 / 20.0 * 5.0;
                        at + vec2(angle.cos(), angle.sin()) * 5.0
                    })
                    .collect();
                painter.line(arc, stroke);
                triangle([(1.6, -4.6), (7.0, -5.0), (5.2, 0.0)]);
            }
            Self::Follow => {
                painter.line_segment([at + vec2(-6.0, 0.0), at + vec2(1.0, 0.0)], stroke);
                triangle([(-0.5, -4.0), (4.0, 0.0), (-0.5, 4.0)]);
                bar(5.6);
            }
        }
    }
}

fn place(ui: &mut Ui, theme: &Theme, run: Option<&Arc<RunSnapshot>>, view: &mut View) {
    let (first, last) = run.and_then(|run| run.range()).unwrap_or((0, 0));
    ui.allocate_ui(vec2(118.0, 44.0), |ui| {
        ui.vertical(|ui| {
            ui.spacing_mut().item_spacing.y = 1.0;
            ui.add_space(4.0);
            let drag = egui::DragValue::new(&mut view.step)
                .range(first..=last)
                .speed(0.2)
                .prefix("step ");
            ui.add(drag);
            let text = format!("of {} to {}", format::whole(first), format::whole(last));
            ui.label(RichText::new(text).small().color(theme.text.weak.0));
        });
    });
}

fn range(ui: &mut Ui, theme: &Theme, view: &mut View) {
    ui.vertical(|ui| {
        ui.spacing_mut().item_spacing.y = 2.0;
        ui.add_space(4.0);
        match view.range {
            Some((first, last)) => {
                ui.label(
                    RichText::new(format!(
                        "{} – {}",
                        format::whole(first),
                        format::whole(last)
                    ))
                    .color(theme.plot.range.0),
                );
                if ui.small_button("clear range").clicked() {
                    view.range = None;
                }
            }
            None => {
                ui.label(RichText::new("no range").color(theme.text.weak.0));
                ui.label(
                    RichText::new("Shift+drag selects")
                        .small()
                        .color(theme.text.weak.0),
                );
            }
        }
    });
}

fn track(
    ui: &Ui,
    theme: &Theme,
    store: &Store,
    run: &RunSnapshot,
    view: &mut View,
    strip: Rect,
    response: &egui::Response,
    (first, last): (u64, u64),
    wait: bool,
) {
    let painter = ui.painter_at(strip.expand(1.0));
    painter.rect_filled(strip, 6.0, theme.plot.background.0);
    let inner = strip.shrink2(vec2(8.0, 4.0));
    let length = (last - first).max(1) as f64;
    let x = |step: u64| {
        inner.left() + ((step.saturating_sub(first)) as f64 / length) as f32 * inner.width()
    };
    let step_at = |pos: Pos2| {
        first
            + (f64::from(((pos.x - inner.left()) / inner.width()).clamp(0.0, 1.0)) * length).round()
                as u64
    };

    loss(ui, theme, store, run, inner, (first, length), wait);
    // Traces and checkpoints: where there is more to see.
    for step in thinned(&run.traces, 400) {
        painter.circle_filled(pos2(x(*step), inner.bottom() - 2.0), 2.2, theme.series(2));
    }
    for step in thinned(&run.checkpoints, 200) {
        let rect = Rect::from_center_size(pos2(x(*step), inner.top() + 2.0), vec2(4.0, 4.0));
        painter.rect_filled(rect, 1.0, theme.text.weak.0);
    }
    for event in run
        .events
        .iter()
        .filter(|event| event.kind == EventKind::Warning)
        .take(200)
    {
        let at = pos2(x(event.step), inner.top() + 2.0);
        painter.circle_filled(at, 2.5, theme.state.warn.0);
    }
    if let Some((from, to)) = view.range {
        let brush = Rect::from_x_y_ranges(x(from)..=x(to), strip.y_range());
        painter.rect_filled(brush, 3.0, theme.plot.range.0.gamma_multiply(0.16));
        painter.rect_stroke(
            brush,
            3.0,
            Stroke::new(1.0, theme.plot.range.0.gamma_multiply(0.8)),
            StrokeKind::Inside,
        );
    }
    if let Some(pinned) = view.pinned {
        painter.vline(
            x(pinned),
            strip.y_range(),
            Stroke::new(1.5, theme.state.warn.0),
        );
    }
    if let Some(pos) = response.interact_pointer_pos() {
        let (shift, origin) =
            ui.input(|input| (input.modifiers.shift, input.pointer.press_origin()));
        match origin.filter(|_| shift) {
            Some(origin) if response.dragged() => {
                let (one, other) = (step_at(origin), step_at(pos));
                view.range = Some((one.min(other), one.max(other)));
            }
            Some(_) => {}
            None if response.is_pointer_button_down_on() || response.clicked() => {
                view.step = step_at(pos)
            }
            None => {}
        }
    }
    let cursor = x(view.step.clamp(first, last));
    painter.vline(
        cursor,
        strip.y_range(),
        Stroke::new(1.5, theme.plot.cursor.0),
    );
    painter.circle_filled(pos2(cursor, strip.top() + 5.0), 4.0, theme.plot.cursor.0);
    painter.rect_stroke(
        strip,
        6.0,
        Stroke::new(1.0, theme.surface.border.0),
        StrokeKind::Inside,
    );
    response.widget_info(|| WidgetInfo::slider(true, view.step as f64, "Time cursor"));
    if let Some(pos) = response.hover_pos() {
        let step = step_at(pos);
        painter.vline(pos.x, strip.y_range(), Stroke::new(1.0, theme.text.weak.0));
        let near = neighbour(run, step.saturating_add(1), false);
        response.clone().on_hover_ui_at_pointer(|ui| {
            ui.strong(format!("step {}", format::whole(step)));
            ui.small(format!(
                "last record of routing: step {}",
                format::whole(near)
            ));
            ui.small("dots: traces; squares: checkpoints; Shift+drag: a range");
        });
    }
}

/// The loss, faintly, to know one's way.
fn loss(
    ui: &Ui,
    theme: &Theme,
    store: &Store,
    run: &RunSnapshot,
    inner: Rect,
    (first, length): (u64, f64),
    wait: bool,
) {
    let query = Curves {
        runs: vec![run.id],
        metric: "loss".to_owned(),
        span: Span::ALL,
        columns: columns(ui, 0.0),
        axis: Axis::Step,
        smoothing: 0,
        outliers: 10,
    };
    let answer = if wait {
        Some(store.answer(&query))
    } else {
        store.ask(&query).answer
    };
    let Some(Ok(set)) = answer else { return };
    let (Some(curve), Some((low, high))) = (set.curves.first(), set.range) else {
        return;
    };
    let height = f64::from(inner.height() - 6.0);
    let points: Vec<Pos2> = curve
        .points
        .iter()
        .filter(|point| point.mean.is_finite())
        .map(|point| {
            let x = inner.left() + ((point.x - first as f64) / length) as f32 * inner.width();
            let part = ((point.mean - low) / (high - low).max(1e-12)).clamp(0.0, 1.0);
            pos2(x, inner.bottom() - 3.0 - (part * height) as f32)
        })
        .collect();
    if points.len() > 1 {
        ui.painter().line(
            points,
            Stroke::new(1.2, theme.text.weak.0.gamma_multiply(0.7)),
        );
    }
    let font = egui::TextStyle::Small.resolve(ui.style());
    ui.painter().text(
        inner.left_top(),
        Align2::LEFT_TOP,
        "loss",
        font,
        theme.text.weak.0.gamma_multiply(0.8),
    );
}

fn thinned(steps: &[u64], most: usize) -> impl Iterator<Item = &u64> {
    steps.iter().step_by(steps.len().div_ceil(most).max(1))
}
