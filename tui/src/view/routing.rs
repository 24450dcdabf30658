//! Experts: who gets the tokens.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::frame::{cell, heading, scrolled, wrap};
use super::{Canvas, split_bottom, split_top};
use crate::app::{RunScreen, Target};
use crate::format;
use crate::query::warnings::OVERLOADED;
use crate::store::{RouterView, RunData};

/// Draws it; returns the lines that fit.
pub(super) fn draw(
    data: &RunData,
    screen: &mut RunScreen,
    canvas: &mut Canvas<'_>,
    area: Rect,
) -> usize {
    let view = &data.routing.view;
    let Some((from, to)) = view.steps else {
        let dense = data
            .manifest
            .as_ref()
            .is_some_and(|m| m.info.model.experts == 0);
        let text = if dense {
            "  This model has no experts: nothing is routed."
        } else {
            "  No routing was recorded yet (record.routing_every)."
        };
        canvas.line(area, 1, Line::styled(text, canvas.theme.dim));
        return 1;
    };
    screen.line_count = view.routers.len();
    let selected = screen.line().min(view.routers.len().saturating_sub(1));
    let note = format!(
        "steps {} to {}, {} records summed{}",
        format::whole(from),
        format::whole(to),
        view.records,
        if screen.charts.cursor.is_some() {
            ", at the cursor"
        } else {
            ", the newest"
        }
    );
    // All routers' dead and overloaded experts by name, then what the table does not need shows the
    // experts of the selected router.
    let named = conspicuous(
        &view.routers,
        (from, to),
        usize::from(area.width).saturating_sub(2),
    );
    let named_rows = (named.len() as u16).min(if area.height < 24 { 2 } else { 6 });
    let table_rows =
        (view.routers.len() as u16 + 3).min(area.height.saturating_sub(7 + named_rows));
    let detail_rows = area.height - table_rows;
    let [table, detail] = split_bottom(area, detail_rows);
    let [summary, detail] = split_top(detail, named_rows + u16::from(named_rows > 0));
    for (row, (text, is_dead)) in named.iter().take(usize::from(named_rows)).enumerate() {
        let style = if *is_dead {
            canvas.theme.bad
        } else {
            canvas.theme.warn
        };
        canvas.line(summary, row as u16, Line::styled(format!(" {text}"), style));
    }
    let [head, body] = split_top(table, 2);
    heading(
        canvas,
        head,
        0,
        "Load by layer, iteration and expert",
        &note,
    );
    let experts = view
        .routers
        .iter()
        .map(|router| router.experts.len())
        .max()
        .unwrap_or(1);
    // Label 8, imbalance 7, entropy 6, and the imbalance's history.
    let history = if area.width >= 110 { 24 } else { 10 };
    let room = usize::from(area.width).saturating_sub(8 + 8 + 8 + history + 3);
    let heat = Heat::of(experts, room);
    heat.head(canvas, head, history);
    let fits = usize::from(body.height);
    let first = scrolled(selected, view.routers.len(), fits);
    for (line, (index, router)) in view
        .routers
        .iter()
        .enumerate()
        .skip(first)
        .take(fits)
        .enumerate()
    {
        let place = Rect {
            y: body.y + line as u16,
            height: 1,
            ..body
        };
        let past = data.routing.history.get(&(router.layer, router.iteration));
        let past: Vec<f64> = past
            .map(|past| past.imbalance.view(0..=to, 256))
            .unwrap_or_default()
            .iter()
            .map(|bucket| f64::from(bucket.max))
            .collect();
        heat.row(canvas, place, router, index == selected, &past, history);
        canvas.targets.push((place, Target::Row(index)));
    }
    if let Some(router) = view.routers.get(selected) {
        self::detail(canvas, detail, router, view.records, (from, to));
    }
    fits
}

/// Every dead expert and every overloaded one of all routers, in lines of at most `width` columns;
/// whether a line is about dead ones.
fn conspicuous(routers: &[RouterView], steps: (u64, u64), width: usize) -> Vec<(String, bool)> {
    let list = |wanted: fn(f64) -> bool| -> String {
        let found: Vec<String> = routers
            .iter()
            .filter_map(|router| {
                let experts: Vec<String> = router
                    .experts
                    .iter()
                    .enumerate()
                    .filter(|(_, expert)| wanted(expert.load))
                    .map(|(index, _)| index.to_string())
                    .collect();
                let name = format!("{}.{}", router.layer, router.iteration);
                (!experts.is_empty()).then(|| format!("{name}: {}", experts.join(" ")))
            })
            .collect();
        found.join(" · ")
    };
    let (dead, over) = (list(|load| load == 0.0), list(|load| load >= OVERLOADED));
    let mut lines = Vec::new();
    let (from, to) = (format::whole(steps.0), format::whole(steps.1));
    for (what, list, is_dead) in [("Dead", dead, true), ("Overloaded", over, false)] {
        if !list.is_empty() {
            let text = format!("{what} over steps {from} to {to}, experts by layer: {list}");
            lines.extend(wrap(&text, width).into_iter().map(|line| (line, is_dead)));
        }
    }
    lines
}

/// How experts are laid out in cells.
struct Heat {
    experts: usize,
    /// Experts a cell.
    group: usize,
    /// Columns a cell.
    width: usize,
}

impl Heat {
    fn of(experts: usize, room: usize) -> Self {
        let group = experts.div_ceil(room.max(1)).max(1);
        let cells = experts.div_ceil(group);
        Self {
            experts,
            group,
            width: (room / cells.max(1)).clamp(1, 4),
        }
    }

    fn cells(&self) -> usize {
        self.experts.div_ceil(self.group)
    }

    fn columns(&self) -> usize {
        self.cells() * self.width
    }

    fn head(&self, canvas: &mut Canvas<'_>, area: Rect, history: usize) {
        let dim = canvas.theme.dim;
        let mut experts = String::new();
        for cell in 0..self.cells() {
            let label = (cell * self.group).to_string();
            let place = cell * self.width;
            // A number where it fits behind the one before.
            if experts.len() <= place && (cell == 0 || label.len() < self.width || cell % 8 == 0) {
                experts.push_str(&" ".repeat(place - experts.len()));
                experts.push_str(&label);
                experts.push(' ');
            }
        }
        let spans = vec![
            cell("  layer", 9, false, dim),
            cell(&experts, self.columns(), false, dim),
            Span::raw(" "),
            cell("fullest", 7, true, dim),
            cell("entropy", 8, true, dim),
            Span::raw("  "),
            cell("fullest, so far", history, false, dim),
        ];
        canvas.line(area, 1, Line::from(spans));
    }

    fn row(
        &self,
        canvas: &mut Canvas<'_>,
        area: Rect,
        router: &RouterView,
        selected: bool,
        past: &[f64],
        history: usize,
    ) {
        let (theme, glyphs) = (canvas.theme, canvas.glyphs);
        let label = format!("{}.{}", router.layer, router.iteration);
        let style = if selected { theme.title } else { theme.text };
        let mut spans = vec![
            Span::styled(if selected { glyphs.pointer() } else { " " }, theme.accent),
            cell(&format!(" {label}"), 8, false, style),
        ];
        for group in router.experts.chunks(self.group) {
            // Of several experts in a cell, the one furthest from balance.
            let load = group
                .iter()
                .map(|expert| expert.load)
                .max_by(|a, b| (a - 1.0).abs().total_cmp(&(b - 1.0).abs()))
                .unwrap_or(0.0);
            // Where there is room, a gap tells neighbours apart.
            let gap = usize::from(self.width > 2);
            let bar = glyphs.heat(load).repeat(self.width - gap) + &" ".repeat(gap);
            spans.push(Span::styled(bar, theme.heat(load)));
        }
        let missing = self
            .columns()
            .saturating_sub(router.experts.len().div_ceil(self.group) * self.width);
        spans.push(Span::raw(" ".repeat(missing + 1)));
        let imbalance = router.imbalance();
        let graded = if imbalance >= OVERLOADED {
            theme.warn
        } else {
            theme.text
        };
        spans.push(cell(&format!("{imbalance:.2}×"), 7, true, graded));
        let entropy = router.entropy.map_or_else(
            || glyphs.none().to_owned(),
            |entropy| format!("{:.0} %", entropy * 100.0),
        );
        spans.push(cell(&entropy, 8, true, theme.text));
        spans.push(Span::raw("  "));
        spans.push(cell(
            &glyphs.spark(past, history),
            history,
            false,
            theme.series(1),
        ));
        canvas.line(area, 0, Line::from(spans));
    }
}

fn detail(
    canvas: &mut Canvas<'_>,
    area: Rect,
    router: &RouterView,
    records: usize,
    steps: (u64, u64),
) {
    let (theme, glyphs) = (canvas.theme, canvas.glyphs);
    let title = format!("Layer {} iteration {}", router.layer, router.iteration);
    let dropped = if router.dropped > 0.0 {
        format!(", {:.1} % dropped", router.dropped * 100.0)
    } else {
        String::new()
    };
    heading(
        canvas,
        area,
        0,
        &title,
        &format!("load in even shares (1 is balanced){dropped}"),
    );
    let names = |wanted: &dyn Fn(f64) -> bool| -> Vec<String> {
        router
            .experts
            .iter()
            .enumerate()
            .filter(|(_, expert)| wanted(expert.load))
            .map(|(index, _)| index.to_string())
            .collect()
    };
    let window = format!(
        "over steps {} to {} ({records} records)",
        format::whole(steps.0),
        format::whole(steps.1)
    );
    let (dead, over) = (
        names(&|load| load == 0.0),
        names(&|load| load >= OVERLOADED),
    );
    let mut row = 1;
    let mut say = |canvas: &mut Canvas<'_>, text: String, style| {
        for line in wrap(&text, usize::from(area.width).saturating_sub(2))
            .into_iter()
            .take(2)
        {
            canvas.line(area, row, Line::styled(format!(" {line}"), style));
            row += 1;
        }
    };
    if dead.is_empty() && over.is_empty() {
        say(
            canvas,
            format!("No expert is dead or overloaded {window}."),
            theme.good,
        );
    }
    if !dead.is_empty() {
        say(
            canvas,
            format!("Dead, no token {window}: {}", dead.join(", ")),
            theme.bad,
        );
    }
    if !over.is_empty() {
        say(
            canvas,
            format!(
                "Overloaded, {OVERLOADED} even shares or more {window}: {}",
                over.join(", ")
            ),
            theme.warn,
        );
    }
    // As many columns of experts as there is room for, each with a bar.
    let width = 26u16;
    let columns = ((area.width.saturating_sub(1)) / width).max(1);
    // Short columns first: a list of eight is read at a glance.
    let needed = router.experts.len().div_ceil(usize::from(columns)) as u16;
    let rows = area.height.saturating_sub(row).min(needed.max(8));
    for (index, expert) in router.experts.iter().enumerate() {
        let (column, line) = (index as u16 / rows.max(1), index as u16 % rows.max(1));
        if column >= columns {
            let left = router.experts.len() - index;
            canvas.line_right(area, 0, Line::styled(format!(" {left} more "), theme.dim));
            break;
        }
        let place = Rect {
            x: area.x + 1 + column * width,
            y: area.y + row + line,
            width: width - 1,
            height: 1,
        };
        if row + line >= area.height {
            break;
        }
        let (full, empty) = glyphs.bar(expert.load / OVERLOADED, 9);
        let bias = expert
            .bias
            .map(|bias| format!(" {bias:+.2}"))
            .unwrap_or_default();
        let spans = vec![
            cell(&index.to_string(), 3, true, theme.dim),
            Span::raw(" "),
            Span::styled(full, theme.heat(expert.load)),
            Span::styled(empty, theme.frame),
            cell(&format!("{:.2}", expert.load), 5, true, theme.text),
            Span::styled(bias, theme.dim),
        ];
        canvas.line(place, 0, Line::from(spans));
    }
}
