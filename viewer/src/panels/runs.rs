//! The open runs, their notes, events and samples.

use bellows_query::{Loading, RunSnapshot, Severity};
use bellows_record::Liveness;
use egui::{Frame, Margin, RichText, ScrollArea, Stroke, Ui};

use super::balance::cell;
use super::{Cx, Request, controls};
use crate::format;
use crate::theme::Theme;

/// What the store holds.
pub fn controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    // It changes from moment to moment, and says nothing about a run.
    if cx.wait {
        return;
    }
    let memory = cx.store.memory();
    let text = format!(
        "{} of {} held",
        format::bytes((memory.histories + memory.answers) as f64),
        format::bytes(memory.limit as f64)
    );
    controls::caption(ui, cx.theme, &text);
}

/// A card a run.
pub fn body(ui: &mut Ui, cx: &mut Cx<'_>) {
    if cx.need_run(ui).is_none() {
        return;
    }
    let runs = cx.runs.to_vec();
    ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
        for (at, run) in runs.iter().enumerate() {
            card(ui, cx, run, at);
            ui.add_space(6.0);
        }
    });
}

fn card(ui: &mut Ui, cx: &mut Cx<'_>, run: &RunSnapshot, at: usize) {
    let theme = cx.theme;
    let chosen = cx.view.run == Some(run.id);
    let border = if chosen {
        theme.state.accent.0
    } else {
        theme.surface.border.0
    };
    let frame = Frame::new()
        .fill(theme.tint(theme.surface.raised.0, 0.6))
        .stroke(Stroke::new(1.0, border))
        .corner_radius(8)
        .inner_margin(Margin::same(10));
    frame.show(ui, |ui| {
        ui.set_width(ui.available_width());
        ui.horizontal(|ui| {
            let (rect, _) = ui.allocate_exact_size(egui::vec2(10.0, 10.0), egui::Sense::hover());
            ui.painter()
                .circle_filled(rect.center(), 5.0, theme.series(at));
            let title = RichText::new(&run.name)
                .heading()
                .color(theme.text.strong.0);
            if ui
                .add(egui::Button::new(title).frame(false))
                .on_hover_text(run.path.display().to_string())
                .clicked()
            {
                cx.view.run = Some(run.id);
            }
            let (text, color) = state(theme, run);
            ui.label(RichText::new(text).color(color));
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                if ui.small_button("close").clicked() {
                    cx.requests.push(Request::Close(run.id));
                }
                if !chosen && ui.small_button("look at it").clicked() {
                    cx.view.run = Some(run.id);
                }
            });
        });
        if let Some(problem) = &run.problem {
            ui.label(RichText::new(problem.to_string()).color(theme.state.bad.0));
            if let Some(remedy) = problem.remedy() {
                ui.label(RichText::new(remedy).small().color(theme.text.weak.0));
            }
        }
        figures(ui, theme, run);
        for note in run.notes.iter() {
            let color = match note.severity {
                Severity::Info => theme.text.weak.0,
                Severity::Warning => theme.state.warn.0,
            };
            ui.horizontal_wrapped(|ui| {
                ui.label(RichText::new(&note.file).monospace().small().color(color));
                ui.label(RichText::new(&note.text).small().color(color))
                    .on_hover_text(&note.remedy);
            });
        }
    });
}

fn state(theme: &Theme, run: &RunSnapshot) -> (String, egui::Color32) {
    let (text, color) = match run.liveness {
        Some(Liveness::Running) => ("running".to_owned(), theme.state.good.0),
        Some(Liveness::Finished) => ("finished".to_owned(), theme.text.weak.0),
        Some(Liveness::Stopped) => ("stopped".to_owned(), theme.text.weak.0),
        Some(Liveness::Paused) => ("paused".to_owned(), theme.state.warn.0),
        Some(Liveness::Failed) => ("failed".to_owned(), theme.state.bad.0),
        Some(Liveness::Crashed) => ("crashed".to_owned(), theme.state.bad.0),
        None => ("not read yet".to_owned(), theme.text.weak.0),
    };
    match run.loading {
        Loading::Opening => ("looking through its files".to_owned(), theme.text.weak.0),
        Loading::Reading { read, of } if of > 0 => (
            format!("{text}, {} read", format::percent(read as f32 / of as f32)),
            color,
        ),
        _ => (text, color),
    }
}

fn figures(ui: &mut Ui, theme: &Theme, run: &RunSnapshot) {
    let Some(manifest) = &run.manifest else {
        return;
    };
    let (info, progress) = (&manifest.info, &manifest.progress);
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 18.0;
        let mut figures = vec![
            (
                "step",
                format!(
                    "{} of {}",
                    format::whole(progress.step),
                    format::whole(info.total_steps)
                ),
            ),
            ("tokens", format::count(progress.tokens as f64)),
        ];
        if let Some(loss) = progress.loss {
            figures.push(("loss", format::number(loss)));
        }
        if let Some(loss) = progress.validation_loss {
            figures.push(("validation", format::number(loss)));
        }
        if let Some(speed) = progress.tokens_per_second {
            figures.push(("tokens/s", format::count(speed)));
        }
        for (name, value) in figures {
            super::expert::figure(ui, theme, name, &value);
        }
    });
    let model = &info.model;
    let mut words = vec![model.model_type.clone(), info.device.name.clone()];
    if model.experts > 0 {
        words.push(format!(
            "{} of {} experts",
            model.experts_per_token, model.experts
        ));
    }
    if model.iterations > 1 {
        words.push(format!("{} iterations", model.iterations));
    }
    words.push(format!("{} layers", model.layers));
    words.retain(|word| !word.is_empty());
    ui.label(
        RichText::new(words.join("  ·  "))
            .small()
            .color(theme.text.weak.0),
    );
    let counted = format!(
        "records: {} of routing, {} of transitions, {} of memory, {} traces, {} checkpoints",
        run.routing.len(),
        run.transitions.len(),
        run.memory.len(),
        run.traces.len(),
        run.checkpoints.len()
    );
    ui.label(RichText::new(counted).small().color(theme.text.weak.0));
}

/// Which step's sample is shown.
pub fn event_controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    controls::caption(ui, cx.theme, "click an event to move the cursor there");
}

/// Events, and the newest sample up to the cursor.
pub fn events(ui: &mut Ui, cx: &mut Cx<'_>) {
    if cx.need_run(ui).is_none() {
        return;
    }
    let Some(run) = cx.run() else { return };
    let theme = cx.theme;
    let sample = run
        .samples
        .iter()
        .rev()
        .find(|sample| sample.step <= cx.view.step);
    let room = ui.available_height();
    ScrollArea::vertical()
        .id_salt("events")
        .max_height(room * 0.55)
        .auto_shrink([false, true])
        .show_rows(ui, 18.0, run.events.len(), |ui, rows| {
            for event in &run.events[rows] {
                let near = event.step <= cx.view.step;
                let response = ui
                    .horizontal(|ui| {
                        let color = if near {
                            theme.text.normal.0
                        } else {
                            theme.text.weak.0
                        };
                        cell(
                            ui,
                            64.0,
                            egui::Label::new(RichText::new(format::whole(event.step)).color(color)),
                        );
                        ui.label(RichText::new(event.kind.to_string()).strong().color(color));
                        ui.add(
                            egui::Label::new(RichText::new(&event.reason).color(color)).truncate(),
                        );
                    })
                    .response
                    .interact(egui::Sense::click());
                if response.clicked() {
                    cx.view.step = event.step;
                }
            }
        });
    ui.separator();
    ScrollArea::vertical()
        .id_salt("sample")
        .auto_shrink(false)
        .show(ui, |ui| match sample {
            Some(sample) => {
                controls::caption(ui, theme, &format!("written at step {}", sample.step));
                let mut job = egui::text::LayoutJob::default();
                let font = egui::TextStyle::Monospace.resolve(ui.style());
                let format = |color| egui::TextFormat::simple(font.clone(), color);
                job.append(&sample.prompt, 0.0, format(theme.text.weak.0));
                job.append(&sample.text, 0.0, format(theme.text.normal.0));
                ui.add(egui::Label::new(job).wrap().selectable(true));
            }
            None => controls::caption(ui, theme, "the model wrote nothing up to the cursor"),
        });
}
