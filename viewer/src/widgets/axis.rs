use egui::{Align2, Color32, FontId, Painter, Pos2, Rect};

/// Which of `count` labels fit if each needs `need` of `length` points: every n-th, n a round number.
pub fn stride(count: usize, length: f32, need: f32) -> usize {
    let room = (length / need.max(1.0)).max(1.0) as usize;
    let least = count.div_ceil(room.max(1)).max(1);
    [
        1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 50, 64, 100, 128, 200, 256, 500, 1000,
    ]
    .into_iter()
    .find(|step| *step >= least)
    .unwrap_or(least)
}

/// Labels under the columns of a grid.
pub fn columns(
    painter: &Painter,
    grid: Rect,
    count: usize,
    label: &dyn Fn(usize) -> String,
    font: &FontId,
    color: Color32,
) {
    if count == 0 {
        return;
    }
    let widest = [0, count / 2, count - 1]
        .into_iter()
        .map(|column| {
            painter
                .layout_no_wrap(label(column), font.clone(), color)
                .size()
                .x
        })
        .fold(0.0, f32::max);
    let step = stride(count, grid.width(), widest + 10.0);
    let width = grid.width() / count as f32;
    for column in (0..count).step_by(step) {
        let x = grid.left() + (column as f32 + 0.5) * width;
        painter.text(
            Pos2::new(x, grid.bottom() + 4.0),
            Align2::CENTER_TOP,
            label(column),
            font.clone(),
            color,
        );
    }
}

/// Labels left of the rows of a grid.
pub fn rows(
    painter: &Painter,
    grid: Rect,
    count: usize,
    label: &dyn Fn(usize) -> String,
    font: &FontId,
    color: Color32,
) {
    if count == 0 {
        return;
    }
    let step = stride(count, grid.height(), font.size + 3.0);
    let height = grid.height() / count as f32;
    for row in (0..count).step_by(step) {
        let y = grid.top() + (row as f32 + 0.5) * height;
        painter.text(
            Pos2::new(grid.left() - 7.0, y),
            Align2::RIGHT_CENTER,
            label(row),
            font.clone(),
            color,
        );
    }
}

/// The width that the widest of some row labels takes.
pub fn row_room(
    painter: &Painter,
    count: usize,
    label: &dyn Fn(usize) -> String,
    font: &FontId,
) -> f32 {
    let step = (count / 24).max(1);
    (0..count)
        .step_by(step)
        .chain(count.checked_sub(1))
        .map(|row| {
            painter
                .layout_no_wrap(label(row), font.clone(), Color32::PLACEHOLDER)
                .size()
                .x
        })
        .fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use super::stride;

    #[test]
    fn labels_never_need_more_room_than_there_is() {
        for count in [1, 7, 64, 256, 1000] {
            for length in [1.0, 50.0, 300.0, 2000.0] {
                let step = stride(count, length, 20.0);
                let shown = count.div_ceil(step);
                assert!(
                    shown == 1 || shown as f32 * 20.0 <= length + 20.0,
                    "{count} {length} {step}"
                );
            }
        }
    }
}
