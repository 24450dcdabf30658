//! Plots over steps: egui_plot in the theme's clothes, with the time cursor.

use bellows_query::scalars::CurvePoint;
use egui::{Color32, Stroke, Ui};
use egui_plot::{
    FilledArea, GridInput, GridMark, HoverPosition, Line, LineStyle, Plot, PlotPoint, PlotPoints,
    PlotResponse, PlotUi, Span, VLine,
};

use crate::format;
use crate::theme::Theme;

/// A plot as all of them look.
pub fn plot<'a>(
    ui: &Ui,
    name: &'a str,
    theme: &Theme,
    y: impl Fn(f64) -> String + Copy + 'a,
) -> Plot<'a> {
    // With Shift held a drag selects a range instead of moving the plot.
    let shift = ui.input(|input| input.modifiers.shift);
    Plot::new(name)
        .allow_drag(!shift)
        .show_background(false)
        .grid_color(theme.plot.grid.0)
        .cursor_color(theme.plot.cursor.0)
        .show_crosshair(true)
        .allow_scroll(false)
        .allow_boxed_zoom(false)
        .set_margin_fraction(egui::vec2(0.0, 0.06))
        .y_axis_min_width(44.0)
        .x_axis_formatter(|mark: GridMark, _: &_| format::number(mark.value))
        .y_axis_formatter(move |mark: GridMark, _: &_| y(mark.value))
        .label_formatter(move |position: &HoverPosition<'_>| match position {
            HoverPosition::NearDataPoint {
                plot_name,
                position,
                ..
            } => Some(format!(
                "{plot_name}\n{}: {}",
                format::number(position.x),
                y(position.y)
            )),
            HoverPosition::Elsewhere { .. } => None,
        })
}

/// Shows a plot with small labels along its axes.
pub fn show<'a>(
    ui: &mut Ui,
    plot: Plot<'a>,
    content: impl FnOnce(&mut PlotUi<'a>) + 'a,
) -> PlotResponse<()> {
    ui.scope(|ui| {
        let small = egui::TextStyle::Small.resolve(ui.style());
        ui.style_mut()
            .text_styles
            .insert(egui::TextStyle::Body, small);
        plot.show(ui, content)
    })
    .inner
}

/// Lines at round numbers of binary units.
pub fn binary_grid(input: GridInput) -> Vec<GridMark> {
    let (low, high) = input.bounds;
    // Four lines or so, at powers of two.
    let step = 2f64
        .powf(((high - low).max(1.0) / 5.0).log2().ceil())
        .max(1.0);
    let first = (low / step).ceil() as i64;
    let last = ((high / step).floor() as i64).min(first + 64);
    (first..=last)
        .map(|at| GridMark {
            value: at as f64 * step,
            step_size: step,
        })
        .collect()
}

/// Lines at round numbers on an axis of their decimal logarithms.
pub fn logarithmic_grid(input: GridInput) -> Vec<GridMark> {
    let (low, high) = input.bounds;
    round_logarithms(low, high)
        .into_iter()
        .map(|value| GridMark {
            value,
            // All alike: none is finer than another.
            step_size: (high - low) / 4.0,
        })
        .collect()
}

/// Logarithms between `low` and `high` of round numbers, a handful.
fn round_logarithms(low: f64, high: f64) -> Vec<f64> {
    /// Narrower than this, a decade has two or three lines of 1, 2 and 5, or none.
    const NARROW: f64 = 1.0;
    const MOST: i64 = 64;
    if !(low.is_finite() && high.is_finite() && high > low) {
        return Vec::new();
    }
    // All that numbers have logarithms in.
    let (low, high) = (low.max(-330.0), high.min(310.0));
    let within = |value: &f64| (low..=high).contains(value);
    if high - low < NARROW {
        // Even steps of the numbers themselves.
        let (least, most) = (10f64.powf(low), 10f64.powf(high));
        let rough = (most - least) / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * power)
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        let first = (least / step).ceil() as i64;
        let last = ((most / step).floor() as i64).min(first + MOST);
        let numbers = (first..=last).map(|at| (at as f64 * step).log10());
        return numbers.filter(within).collect();
    }
    let (first, last) = (low.floor() as i64, high.ceil() as i64);
    let decades = last - first;
    let factors: &[f64] = match high - low {
        ..=2.0 => &[1.0, 2.0, 5.0],
        _ => &[1.0],
    };
    let every = (decades / 6).max(1) as usize;
    let powers = (first..=last.min(first + MOST * every as i64)).step_by(every);
    powers
        .flat_map(|power| {
            factors
                .iter()
                .map(move |factor| power as f64 + factor.log10())
        })
        .filter(within)
        .collect()
}

/// Marks the cursor and the selected range on an axis of steps.
pub fn marks(plot: &mut PlotUi<'_>, theme: &Theme, step: f64, range: Option<(f64, f64)>) {
    if let Some((first, last)) = range {
        let span = Span::new("", first..=last)
            .fill(theme.plot.range.0.gamma_multiply(0.12))
            .border(Stroke::new(1.0, theme.plot.range.0.gamma_multiply(0.6)));
        plot.span(span);
    }
    let line = VLine::new("", step)
        .color(theme.plot.cursor.0)
        .width(1.0)
        .allow_hover(false);
    plot.vline(line);
}

/// A curve: its mean or smoothed line, over the band between its least and greatest values.
pub fn curve(plot: &mut PlotUi<'_>, name: &str, points: &[CurvePoint], color: Color32, look: Look) {
    let value = |value: f64| if look.log { value.log10() } else { value };
    let band: Vec<&CurvePoint> = points
        .iter()
        .filter(|point| {
            point.min.is_finite() && point.max.is_finite() && (!look.log || point.min > 0.0)
        })
        .collect();
    let spread = band.iter().any(|point| point.max > point.min);
    if spread && band.len() > 1 && !look.greatest {
        let xs: Vec<f64> = band.iter().map(|point| point.x).collect();
        let low: Vec<f64> = band.iter().map(|point| value(point.min)).collect();
        let high: Vec<f64> = band.iter().map(|point| value(point.max)).collect();
        let area = FilledArea::new("", &xs, &low, &high)
            .fill_color(color.gamma_multiply(0.16))
            .allow_hover(false);
        plot.add(area);
    }
    let line = |of: fn(&CurvePoint) -> f64| -> PlotPoints<'static> {
        points
            .iter()
            .map(|point| [point.x, of(point)])
            .filter(|[_, y]| y.is_finite() && (!look.log || *y > 0.0))
            .map(|[x, y]| [x, value(y)])
            .collect()
    };
    if look.smooth {
        let raw = Line::new("", line(|point| point.mean))
            .color(color.gamma_multiply(0.35))
            .width(1.0)
            .allow_hover(false);
        plot.line(raw);
    }
    let of: fn(&CurvePoint) -> f64 = match look {
        Look { greatest: true, .. } => |point| point.max,
        Look { smooth: true, .. } => |point| point.smooth,
        _ => |point| point.mean,
    };
    let width = if look.greatest { 1.0 } else { 1.6 };
    let shown = Line::new(name, line(of)).color(color).width(width);
    plot.line(shown);
}

/// How a curve is drawn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// Whether the smoothed line is drawn over a faint raw one.
    pub smooth: bool,
    /// Whether values are drawn as decimal logarithms.
    pub log: bool,
    /// Whether the greatest values alone are drawn, thinly: for one of very many curves.
    pub greatest: bool,
}

/// A horizontal line with a name at its left end, which is where the plot's data begin; the name stands out from what is
/// drawn below it by a ground.
pub fn level(
    plot: &mut PlotUi<'_>,
    name: &str,
    (left, y): (f64, f64),
    (color, ground): (Color32, Color32),
    dashed: bool,
) {
    let style = if dashed {
        LineStyle::dashed_dense()
    } else {
        LineStyle::Solid
    };
    plot.hline(
        egui_plot::HLine::new(name, y)
            .color(color)
            .width(1.2)
            .style(style)
            .allow_hover(false),
    );
    // The plot grows to where its texts stand: not by this one.
    let at = PlotPoint::new(left.max(plot.plot_bounds().min()[0]), y);
    let text = egui::RichText::new(format!("  {name}")).small();
    let text = text.background_color(ground.gamma_multiply(0.7));
    let text = egui_plot::Text::new("", at, text)
        .color(color)
        .anchor(anchor(plot, at, egui::Align::LEFT));
    plot.text(text);
}

/// Where a text at a point stands: above it, or below where there is no room above.
pub fn anchor(plot: &PlotUi<'_>, at: PlotPoint, side: egui::Align) -> egui::Align2 {
    let above = plot.screen_from_plot(at).y - plot.response().rect.top();
    let up = if above < 16.0 {
        egui::Align::TOP
    } else {
        egui::Align::BOTTOM
    };
    egui::Align2([side, up])
}

/// What the pointer picks on an axis of steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Picked {
    /// A place for the cursor.
    Place(f64),
    /// A range.
    Range(f64, f64),
}

/// What was picked on a plot: a click picks a place, a drag with Shift held a range.
pub fn pick(ui: &Ui, response: &PlotResponse<()>) -> Option<Picked> {
    let place = |pos: egui::Pos2| response.transform.value_from_position(pos).x;
    let pointer = response.response.interact_pointer_pos()?;
    if response.response.clicked() {
        return Some(Picked::Place(place(pointer)));
    }
    let from = ui.input(|input| {
        input
            .modifiers
            .shift
            .then(|| input.pointer.press_origin())
            .flatten()
    })?;
    let dragged = response.response.dragged() && (from.x - pointer.x).abs() > 3.0;
    dragged.then(|| {
        let (one, other) = (place(from), place(pointer));
        Picked::Range(one.min(other), one.max(other))
    })
}

#[cfg(test)]
mod tests {
    use super::round_logarithms;

    fn numbers(low: f64, high: f64) -> Vec<f64> {
        let logarithms = round_logarithms(low.log10(), high.log10());
        let round = |value: f64| (value * 1e6).round() / 1e6;
        logarithms
            .into_iter()
            .map(|log| round(10f64.powf(log)))
            .collect()
    }

    #[test]
    fn lines_on_logarithms_are_at_round_numbers() {
        assert_eq!(numbers(1.9, 10.5), [2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(numbers(0.9, 60.0), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(numbers(3.02, 3.11), [3.02, 3.04, 3.06, 3.08, 3.1]);
        assert_eq!(numbers(0.5, 2e6).first(), Some(&1.0));
        assert!(numbers(1e-30, 1e30).len() <= 8);
        assert!(numbers(2.0, 2.0).is_empty());
        assert!(round_logarithms(f64::NAN, 1.0).is_empty());
        assert!(round_logarithms(0.0, f64::INFINITY).is_empty());
        assert!(round_logarithms(-1e300, 1e300).len() <= 8);
    }
}
