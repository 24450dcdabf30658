//! A chart of one or more curves over steps, with axes.

use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::Canvas;
use super::canvas::Dots;
use crate::format;
use crate::query::smooth::smooth;
use crate::store::{Bucket, Pyramid};

/// Columns of the values' axis.
const LABELS: u16 = 9;

/// How values of a metric are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// In powers of 1024.
    Bytes,
    /// In powers of 1000.
    Count,
    /// As it is.
    Number,
}

impl Unit {
    /// That of a metric, by its name.
    pub(super) fn of(metric: &str) -> Self {
        match metric {
            name if name.ends_with("_bytes") => Self::Bytes,
            "tokens" | "tokens_per_second" => Self::Count,
            _ => Self::Number,
        }
    }

    /// A value as text.
    pub(super) fn write(self, value: f64) -> String {
        match self {
            Self::Bytes => format::bytes(value.max(0.0) as u64),
            Self::Count => format::count(value),
            Self::Number => format::number(value),
        }
    }

    /// What values up to `high` are a round number of: 1, or so many bytes.
    fn size(self, high: f64) -> f64 {
        match self {
            Self::Bytes if high >= 1.0 => 1024f64.powi((high.log2() / 10.0).floor() as i32),
            _ => 1.0,
        }
    }
}

/// A curve.
pub(super) struct Curve<'a> {
    /// Its name.
    pub name: String,
    /// Its letter, where there are several.
    pub letter: Option<char>,
    /// Its values; the second goes on where the first ends.
    pub values: [Option<&'a Pyramid>; 2],
    /// Its style.
    pub style: Style,
    /// Single values rather than a line: measured now and then.
    pub sparse: bool,
}

impl Curve<'_> {
    fn view(&self, steps: (u64, u64), columns: usize) -> Vec<Bucket> {
        let mut buckets: Vec<Bucket> = Vec::new();
        for pyramid in self.values.into_iter().flatten() {
            let last = buckets.last().map(|bucket| bucket.last);
            let more = pyramid.view(steps.0..=steps.1, columns);
            buckets.extend(
                more.into_iter()
                    .filter(|bucket| last.is_none_or(|last| bucket.first > last)),
            );
        }
        buckets
    }

    fn at(&self, step: u64) -> Option<Bucket> {
        self.values
            .into_iter()
            .flatten()
            .filter_map(|pyramid| pyramid.at(step))
            .max_by_key(|bucket| bucket.last)
    }

    fn last(&self) -> Option<Bucket> {
        self.values
            .into_iter()
            .flatten()
            .filter_map(Pyramid::last)
            .max_by_key(|bucket| bucket.last)
    }
}

/// A chart.
pub(super) struct Chart<'a> {
    /// What is drawn.
    pub curves: Vec<Curve<'a>>,
    /// First and last step.
    pub steps: (u64, u64),
    /// Logarithmic values, where all are above 0.
    pub log: bool,
    /// Weight of the smoothing.
    pub weight: f64,
    /// The cursor's step.
    pub cursor: Option<u64>,
    /// A value not to be passed, and its name.
    pub limit: Option<(f64, &'static str)>,
    /// Whether keys mean this chart.
    pub selected: bool,
    /// How values are written.
    pub unit: Unit,
}

impl Chart<'_> {
    /// Draws it; returns the columns of its plot.
    pub(super) fn draw(&self, canvas: &mut Canvas<'_>, area: Rect) -> u16 {
        if area.height < 4 || area.width < LABELS + 8 {
            return 1;
        }
        let title = self.title(canvas, area);
        let plot = Rect {
            x: area.x + LABELS,
            y: area.y + title,
            width: area.width - LABELS - 1,
            height: area.height - title - 1,
        };
        let mut dots = Dots::new(plot);
        let views: Vec<Vec<Bucket>> = self
            .curves
            .iter()
            .map(|curve| curve.view(self.steps, dots.width()))
            .collect();
        let Some(scale) = Scale::of(
            &views,
            self.steps,
            self.log,
            self.limit.map(|(value, _)| value),
        ) else {
            canvas.line(
                plot,
                plot.height / 2,
                Line::styled("no values yet", canvas.theme.dim),
            );
            return plot.width;
        };
        self.axes(canvas, area, plot, &scale);
        self.cursor_line(canvas, plot);
        if let Some((limit, _)) = self.limit {
            self.limit_line(canvas, plot, &scale, limit);
        }
        for (curve, view) in self.curves.iter().zip(&views) {
            let place = Place {
                steps: self.steps,
                scale: &scale,
                width: dots.width(),
                height: dots.height(),
            };
            if curve.sparse {
                dots.layer(curve.style, 'o');
                place.points(&mut dots, view);
            } else if self.weight > 0.0 {
                dots.layer(canvas.theme.raw, '.');
                place.raw(&mut dots, view);
                dots.layer(curve.style, '*');
                place.line(&mut dots, view, &smooth(view, self.weight));
            } else {
                dots.layer(curve.style, '*');
                place.raw(&mut dots, view);
            }
        }
        dots.draw(plot, canvas.buffer, canvas.glyphs.ascii);
        self.letters(canvas, plot, &scale, &views);
        if let Some((limit, name)) = self.limit {
            self.limit_label(canvas, area, plot, &scale, limit, name);
        }
        plot.width
    }

    /// Names and values of the curves, on as many rows as they need where the chart is high enough.
    /// Returns the rows.
    fn title(&self, canvas: &mut Canvas<'_>, area: Rect) -> u16 {
        let (theme, glyphs) = (canvas.theme, canvas.glyphs);
        let mut parts: Vec<Line<'_>> = Vec::new();
        for curve in &self.curves {
            let mut spans = Vec::new();
            if let Some(letter) = curve.letter {
                spans.push(Span::styled(format!("{letter} "), curve.style));
            }
            let style = if self.selected {
                theme.title
            } else {
                theme.text
            };
            if !curve.name.is_empty() {
                spans.push(Span::styled(curve.name.clone(), style));
                spans.push(Span::raw(" "));
            }
            let bucket = match self.cursor {
                Some(step) => curve.at(step),
                None => curve.last(),
            };
            if let Some(bucket) = bucket {
                spans.push(Span::styled(self.reading(&bucket), curve.style));
            }
            parts.push(Line::from(spans));
        }
        if self.log {
            parts.push(Line::styled("log", theme.dim));
        }
        let most = (area.height / 4).max(1);
        let pointer = if self.selected { glyphs.pointer() } else { " " };
        canvas.line(area, 0, Line::raw(pointer));
        let (mut x, mut row) = (2, 0);
        for part in parts {
            let width = part.width() as u16;
            if x + width > area.width && x > 2 && row + 1 < most {
                (x, row) = (2, row + 1);
            }
            let place = Rect {
                x: area.x + x.min(area.width),
                width: area.width.saturating_sub(x),
                ..area
            };
            canvas.line(place, row, part);
            x += width + 2;
        }
        row + 1
    }

    /// What a bucket says: a value, or mean and range of several, or that none was finite.
    fn reading(&self, bucket: &Bucket) -> String {
        let unit = |value| self.unit.write(value);
        match bucket.count {
            0 => "not finite".to_owned(),
            1 => unit(f64::from(bucket.mean)),
            _ => format!(
                "{} ({}–{})",
                unit(f64::from(bucket.mean)),
                unit(f64::from(bucket.min)),
                unit(f64::from(bucket.max))
            ),
        }
    }

    fn axes(&self, canvas: &mut Canvas<'_>, area: Rect, plot: Rect, scale: &Scale) {
        let dim = canvas.theme.dim;
        for value in scale.ticks(usize::from(plot.height / 2).clamp(2, 7), self.unit) {
            let row = scale.row(value, usize::from(plot.height));
            let label = self.unit.write(value);
            let place = Rect {
                width: LABELS - 1,
                y: plot.y,
                height: plot.height,
                ..area
            };
            canvas.line_right(place, row as u16, Line::styled(label, dim));
        }
        let frame = canvas.theme.frame;
        for row in 0..plot.height {
            canvas
                .buffer
                .set_string(plot.x - 1, plot.y + row, "│", frame);
        }
        let bottom = Rect {
            y: plot.y + plot.height,
            height: 1,
            ..plot
        };
        let (from, to) = self.steps;
        let mut labels = Vec::new();
        if let Some(step) = self.cursor
            && let Some(column) = self.column(step, plot.width)
        {
            let text = format!(" {} ", format::whole(step));
            labels.push((column, text, canvas.theme.selected));
        }
        labels.push((0, format::count(from as f64), dim));
        let last = plot.width.saturating_sub(1);
        labels.push((last, format::count(to as f64), dim));
        if plot.width > 40 && to - from > 4 {
            let middle = format::count((from + (to - from) / 2) as f64);
            labels.push((plot.width / 2, middle, dim));
        }
        // The cursor's comes first; another one that has no room beside it is left out.
        let mut taken: Vec<(u16, u16)> = Vec::new();
        for (column, text, style) in labels {
            let width = text.chars().count() as u16;
            let from = column
                .saturating_sub(width / 2)
                .min(plot.width.saturating_sub(width));
            let free = |&(start, end): &(u16, u16)| from + width < start || from > end;
            if !taken.iter().all(free) {
                continue;
            }
            taken.push((from, from + width));
            let place = Rect {
                x: plot.x + from,
                width,
                ..bottom
            };
            canvas.line(place, 0, Line::styled(text, style));
        }
    }

    fn column(&self, step: u64, width: u16) -> Option<u16> {
        let (from, to) = self.steps;
        if !(from..=to).contains(&step) {
            return None;
        }
        let share = (step - from) as f64 / (to - from).max(1) as f64;
        Some((share * f64::from(width.saturating_sub(1))).round() as u16)
    }

    fn cursor_line(&self, canvas: &mut Canvas<'_>, plot: Rect) {
        let Some(column) = self.cursor.and_then(|step| self.column(step, plot.width)) else {
            return;
        };
        for row in 0..plot.height {
            canvas
                .buffer
                .set_string(plot.x + column, plot.y + row, "│", canvas.theme.cursor);
        }
    }

    fn limit_line(&self, canvas: &mut Canvas<'_>, plot: Rect, scale: &Scale, limit: f64) {
        if scale.high < limit {
            return;
        }
        let row = scale.row(limit, usize::from(plot.height)) as u16;
        for column in (0..plot.width).step_by(2) {
            let (x, y) = (plot.x + column, plot.y + row);
            canvas.buffer.set_string(x, y, "╌", canvas.theme.limit);
        }
    }

    /// Names the limit: at its line, or over the plot where the line lies above it.
    fn limit_label(
        &self,
        canvas: &mut Canvas<'_>,
        area: Rect,
        plot: Rect,
        scale: &Scale,
        limit: f64,
        name: &str,
    ) {
        let value = self.unit.write(limit);
        if scale.high >= limit {
            let row = scale.row(limit, usize::from(plot.height)) as u16;
            let text = Line::styled(format!(" {name} {value}"), canvas.theme.limit);
            canvas.line_right(plot, row, text);
            return;
        }
        let text = Line::styled(format!("  {name} {value}, above"), canvas.theme.dim);
        let row = Rect {
            width: area.width - 1,
            y: plot.y - 1,
            height: 1,
            ..area
        };
        // Not over what the title says.
        let free = (row.x + row.width).saturating_sub(text.width() as u16);
        let is_free = (free..row.x + row.width).all(|x| {
            canvas
                .buffer
                .cell((x, row.y))
                .is_none_or(|cell| cell.symbol() == " ")
        });
        if is_free {
            canvas.line_right(row, 0, text);
        }
    }

    /// A letter at each curve's end, where there are several: colour alone says nothing.
    fn letters(&self, canvas: &mut Canvas<'_>, plot: Rect, scale: &Scale, views: &[Vec<Bucket>]) {
        for (curve, view) in self.curves.iter().zip(views) {
            let (Some(letter), Some(last)) = (
                curve.letter,
                view.iter()
                    .rev()
                    .find(|bucket| bucket.count > 0 && bucket.first <= self.steps.1),
            ) else {
                continue;
            };
            if let Some(column) = self.column(last.last.min(self.steps.1), plot.width) {
                let row = scale.row(f64::from(last.mean), usize::from(plot.height)) as u16;
                let x = (plot.x + column + 1).min(plot.x + plot.width - 1);
                canvas
                    .buffer
                    .set_string(x, plot.y + row, letter.to_string(), curve.style);
            }
        }
    }
}

/// From values to rows.
struct Scale {
    low: f64,
    high: f64,
    log: bool,
}

impl Scale {
    fn of(views: &[Vec<Bucket>], steps: (u64, u64), log: bool, limit: Option<f64>) -> Option<Self> {
        let inside = || {
            views.iter().flatten().filter(|bucket| {
                bucket.count > 0 && bucket.last >= steps.0 && bucket.first <= steps.1
            })
        };
        let low = inside()
            .map(|bucket| f64::from(bucket.min))
            .reduce(f64::min)?;
        let mut high = inside()
            .map(|bucket| f64::from(bucket.max))
            .reduce(f64::max)?;
        // A limit far above would flatten everything; it is told in words then.
        if let Some(limit) = limit
            && high > 0.4 * limit
        {
            high = high.max(limit * 1.05);
        }
        let log = log && low > 0.0;
        let (low, high) = if log {
            let (a, b) = (low.log10(), high.log10());
            let room = ((b - a) * 0.05).max(0.01);
            (10f64.powf(a - room), 10f64.powf(b + room))
        } else if high > low {
            let room = (high - low) * 0.05;
            // A value that cannot be negative does not get a negative axis.
            let bottom = if low >= 0.0 {
                (low - room).max(0.0)
            } else {
                low - room
            };
            (bottom, high + room)
        } else {
            // A flat line lies in the middle; one at nothing lies at the bottom.
            match low {
                0.0 => (0.0, 1.0),
                value => (value - value.abs() * 0.1, value + value.abs() * 0.1),
            }
        };
        Some(Self { low, high, log })
    }

    /// From 0, the bottom, to 1.
    fn share(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(f64::MIN_POSITIVE).log10() - self.low.log10())
                / (self.high.log10() - self.low.log10())
        } else {
            (value - self.low) / (self.high - self.low)
        };
        share.clamp(0.0, 1.0)
    }

    /// From the top.
    fn row(&self, value: f64, rows: usize) -> usize {
        ((1.0 - self.share(value)) * (rows.max(1) - 1) as f64).round() as usize
    }

    /// Round values, about `count` of them.
    fn ticks(&self, count: usize, unit: Unit) -> Vec<f64> {
        if self.log {
            let (low, high) = (self.low.log10(), self.high.log10());
            if high - low >= 2.0 {
                let every = ((high - low) / count as f64).ceil().max(1.0) as i32;
                return (low.ceil() as i32..=high.floor() as i32)
                    .step_by(every as usize)
                    .map(|power| 10f64.powi(power))
                    .collect();
            }
        }
        let size = unit.size(self.high);
        let rough = (self.high - self.low) / size / count as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .into_iter()
            .map(|factor| factor * power)
            .find(|step| *step >= rough)
            .unwrap_or(rough)
            * size;
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).take(12).map(|n| n as f64 * step).collect()
    }
}

/// From steps and values to dots.
struct Place<'a> {
    steps: (u64, u64),
    scale: &'a Scale,
    width: usize,
    height: usize,
}

impl Place<'_> {
    /// The column of a step, which may lie beyond the edges.
    fn x(&self, step: u64) -> f64 {
        let (from, to) = self.steps;
        (step as f64 - from as f64) / (to - from).max(1) as f64 * (self.width - 1) as f64
    }

    fn y(&self, value: f64) -> usize {
        self.scale.row(value, self.height)
    }

    fn middle(&self, bucket: &Bucket) -> f64 {
        f64::midpoint(self.x(bucket.first), self.x(bucket.last))
    }

    /// Every value's range, joined by a line: no spike is lost.
    fn raw(&self, dots: &mut Dots, view: &[Bucket]) {
        let means: Vec<Option<f64>> = view
            .iter()
            .map(|bucket| (bucket.count > 0).then_some(f64::from(bucket.mean)))
            .collect();
        self.line(dots, view, &means);
        for bucket in view.iter().filter(|bucket| bucket.count > 1) {
            let from = self.x(bucket.first).round().max(0.0) as usize;
            let to = self.x(bucket.last).round();
            if to < 0.0 {
                continue;
            }
            let (top, bottom) = (self.y(f64::from(bucket.max)), self.y(f64::from(bucket.min)));
            // A range of several columns is told once, where its middle is.
            let x = usize::midpoint(from, to as usize);
            dots.bar(x, top, bottom);
        }
    }

    /// A line through values, broken where there is none.
    fn line(&self, dots: &mut Dots, view: &[Bucket], values: &[Option<f64>]) {
        let mut before: Option<(f64, f64)> = None;
        for (bucket, value) in view.iter().zip(values) {
            let Some(value) = *value else {
                before = None;
                continue;
            };
            let now = (self.middle(bucket), value);
            if let Some(from) = before {
                if let Some((a, b)) = self.clip(from, now) {
                    let dot = |(x, value): (f64, f64)| (x.round() as usize, self.y(value));
                    dots.stroke(dot(a), dot(b));
                }
            } else if (0.0..self.width as f64).contains(&now.0) {
                dots.dot(now.0.round() as usize, self.y(now.1));
            }
            before = Some(now);
        }
    }

    /// Single values, each a small cross of dots.
    fn points(&self, dots: &mut Dots, view: &[Bucket]) {
        for bucket in view.iter().filter(|bucket| bucket.count > 0) {
            let x = self.middle(bucket);
            if !(0.0..self.width as f64).contains(&x) {
                continue;
            }
            let (x, y) = (x.round() as usize, self.y(f64::from(bucket.mean)));
            for (dx, dy) in [(1, 1), (0, 1), (2, 1), (1, 0), (1, 2)] {
                dots.dot((x + dx).saturating_sub(1), (y + dy).saturating_sub(1));
            }
        }
    }

    /// The part of a stroke between the left and the right edge.
    fn clip(&self, a: (f64, f64), b: (f64, f64)) -> Option<((f64, f64), (f64, f64))> {
        let right = (self.width - 1) as f64;
        if b.0 < 0.0 || a.0 > right {
            return None;
        }
        let at = |x: f64| {
            let share = if b.0 > a.0 {
                (x - a.0) / (b.0 - a.0)
            } else {
                0.0
            };
            (x, a.1 + (b.1 - a.1) * share)
        };
        Some((
            if a.0 < 0.0 { at(0.0) } else { a },
            if b.0 > right { at(right) } else { b },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        for (low, high) in [
            (0.0, 1.0),
            (3.2, 8.9),
            (-2.0, 2.0),
            (0.0011, 0.0019),
            (1e5, 9e6),
        ] {
            let scale = Scale {
                low,
                high,
                log: false,
            };
            let ticks = scale.ticks(4, Unit::Number);
            assert!((2..=6).contains(&ticks.len()), "{low} to {high}: {ticks:?}");
            assert!(ticks.iter().all(|tick| (low..=high).contains(tick)));
        }
    }

    #[test]
    fn ticks_of_memory_are_whole_units_of_1024() {
        let gib = 1024f64.powi(3);
        let scale = Scale {
            low: 0.0,
            high: 23.0 * gib,
            log: false,
        };
        let ticks = scale.ticks(4, Unit::Bytes);
        let labels: Vec<String> = ticks.iter().map(|tick| Unit::Bytes.write(*tick)).collect();
        assert_eq!(labels, ["0 B", "10.0 GiB", "20.0 GiB"]);
        assert_eq!(Unit::Bytes.size(0.0), 1.0);
    }

    #[test]
    fn one_value_and_no_value_are_drawn_without_a_division_by_nothing() {
        let one = vec![vec![Bucket::of(5, 0.0)]];
        let scale = Scale::of(&one, (5, 5), true, None).unwrap();
        assert!(scale.row(0.0, 10) < 10);
        assert!(Scale::of(&[vec![Bucket::of(5, f64::NAN)]], (5, 5), false, None).is_none());
    }
}
