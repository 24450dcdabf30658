use std::collections::HashMap;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use egui::epaint::{
    CircleShape, ClippedShape, ColorMode, ImageData, Mesh, PathShape, RectShape, TextShape,
};
use egui::{Color32, Pos2, Rect, Shape, StrokeKind, TextureId};
use image::{ImageFormat, RgbaImage};

use super::Painting;

/// A painting as an SVG document: texts stay texts, and pictures of cells become pictures without smoothing.
pub fn document(painting: &Painting) -> String {
    let (width, height) = painting.size;
    // Shapes are in points.
    let [right, bottom] = [width, height].map(|side| side as f32 / painting.scale);
    let pictures = pictures(painting);
    let mut svg = String::new();
    _ = writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {} {}">"#,
        short(right),
        short(bottom)
    );
    let title = painting
        .answer
        .as_ref()
        .map(|answer| answer.summary())
        .unwrap_or_default();
    _ = writeln!(svg, "<title>{}</title>", escaped(&title));
    let whole = Rect::from_min_size(Pos2::ZERO, egui::vec2(right, bottom));
    let mut clips: HashMap<[i32; 4], usize> = HashMap::new();
    for ClippedShape {
        clip_rect, shape, ..
    } in &painting.shapes
    {
        let clip = clip_rect.intersect(whole);
        if !clip.is_positive() {
            continue;
        }
        let mut content = String::new();
        draw(&mut content, shape, &pictures);
        if content.is_empty() {
            continue;
        }
        if clip.contains_rect(whole) || clip.contains_rect(shape.visual_bounding_rect()) {
            svg.push_str(&content);
            continue;
        }
        let key =
            [clip.left(), clip.top(), clip.right(), clip.bottom()].map(|side| (side * 16.0) as i32);
        let next = clips.len();
        let id = *clips.entry(key).or_insert_with(|| {
            let Rect { min, max } = clip;
            _ = writeln!(
                svg,
                r#"<clipPath id="c{next}"><rect x="{}" y="{}" width="{}" height="{}"/></clipPath>"#,
                short(min.x),
                short(min.y),
                short(max.x - min.x),
                short(max.y - min.y)
            );
            next
        });
        _ = write!(svg, "<g clip-path=\"url(#c{id})\">\n{content}</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// Textures other than the fonts', as `data:` addresses.
fn pictures(painting: &Painting) -> HashMap<TextureId, String> {
    let mut pictures = HashMap::new();
    for (id, deltas) in &painting.textures.set {
        let Some(delta) = deltas.iter().rev().find(|delta| delta.is_whole()) else {
            continue;
        };
        let ImageData::Color(image) = &delta.image;
        if *id == TextureId::Managed(0) {
            continue;
        }
        let [width, height] = image.size;
        let bytes = image
            .pixels
            .iter()
            .flat_map(|pixel| pixel.to_srgba_unmultiplied())
            .collect();
        let Some(picture) = RgbaImage::from_raw(width as u32, height as u32, bytes) else {
            continue;
        };
        let mut png = std::io::Cursor::new(Vec::new());
        if picture.write_to(&mut png, ImageFormat::Png).is_ok() {
            pictures.insert(
                *id,
                format!("data:image/png;base64,{}", BASE64.encode(png.get_ref())),
            );
        }
    }
    pictures
}

fn draw(svg: &mut String, shape: &Shape, pictures: &HashMap<TextureId, String>) {
    match shape {
        Shape::Vec(shapes) => shapes.iter().for_each(|shape| draw(svg, shape, pictures)),
        Shape::Rect(rect) => rectangle(svg, rect, pictures),
        Shape::Circle(CircleShape {
            center,
            radius,
            fill,
            stroke,
        }) => {
            _ = write!(
                svg,
                r#"<circle cx="{}" cy="{}" r="{}""#,
                short(center.x),
                short(center.y),
                short(*radius)
            );
            ends(svg, *fill, stroke.width, stroke.color);
        }
        Shape::LineSegment {
            points: [from, to],
            stroke,
        } => {
            if stroke.width > 0.0 && stroke.color.a() > 0 {
                _ = write!(
                    svg,
                    r#"<path d="M{} {}L{} {}""#,
                    short(from.x),
                    short(from.y),
                    short(to.x),
                    short(to.y)
                );
                ends(svg, Color32::TRANSPARENT, stroke.width, stroke.color);
            }
        }
        Shape::Path(path) => polyline(svg, path),
        Shape::Text(text) => letters(svg, text),
        Shape::Mesh(mesh) => triangles(svg, mesh, pictures),
        Shape::Band(band) => {
            let mut mesh = Mesh::default();
            let mut tessellator = egui::epaint::Tessellator::new(
                1.0,
                egui::epaint::TessellationOptions {
                    feathering: false,
                    ..Default::default()
                },
                [1, 1],
                Vec::new(),
            );
            tessellator.tessellate_shape(Shape::Band(band.clone()), &mut mesh);
            triangles(svg, &mesh, pictures);
        }
        Shape::Noop
        | Shape::Ellipse(_)
        | Shape::QuadraticBezier(_)
        | Shape::CubicBezier(_)
        | Shape::Callback(_) => {}
    }
}

fn rectangle(svg: &mut String, shape: &RectShape, pictures: &HashMap<TextureId, String>) {
    let RectShape {
        rect,
        corner_radius,
        fill,
        stroke,
        stroke_kind,
        brush,
        ..
    } = shape;
    let (rect, radius) = (*rect, f32::from(corner_radius.nw.max(corner_radius.se)));
    if let Some(address) = brush
        .as_ref()
        .and_then(|brush| pictures.get(&brush.fill_texture_id))
    {
        return picture(svg, rect, address);
    }
    let grow = match stroke_kind {
        StrokeKind::Inside => -stroke.width / 2.0,
        StrokeKind::Middle => 0.0,
        StrokeKind::Outside => stroke.width / 2.0,
    };
    let rect = rect.expand(grow);
    if !rect.is_positive() || (fill.a() == 0 && (stroke.width == 0.0 || stroke.color.a() == 0)) {
        return;
    }
    _ = write!(
        svg,
        r#"<rect x="{}" y="{}" width="{}" height="{}""#,
        short(rect.left()),
        short(rect.top()),
        short(rect.width()),
        short(rect.height())
    );
    if radius > 0.0 {
        _ = write!(svg, r#" rx="{}""#, short(radius));
    }
    ends(svg, *fill, stroke.width, stroke.color);
}

fn polyline(svg: &mut String, path: &PathShape) {
    let PathShape {
        points,
        closed,
        fill,
        stroke,
    } = path;
    let color = match &stroke.color {
        ColorMode::Solid(color) => *color,
        ColorMode::UV(of) => points.first().map_or(Color32::TRANSPARENT, |point| {
            of(Rect::from_points(points), *point)
        }),
    };
    if points.len() < 2 || (fill.a() == 0 && (stroke.width == 0.0 || color.a() == 0)) {
        return;
    }
    svg.push_str("<path d=\"");
    for (at, point) in points.iter().enumerate() {
        _ = write!(
            svg,
            "{}{} {}",
            if at == 0 { 'M' } else { 'L' },
            short(point.x),
            short(point.y)
        );
    }
    if *closed {
        svg.push('Z');
    }
    svg.push('"');
    ends(svg, *fill, stroke.width, color);
}

fn letters(svg: &mut String, text: &TextShape) {
    let turned = if text.angle == 0.0 {
        String::new()
    } else {
        format!(
            r#" transform="rotate({} {} {})""#,
            short(text.angle.to_degrees()),
            short(text.pos.x),
            short(text.pos.y)
        )
    };
    let sections = &text.galley.job.sections;
    let mut byte = 0;
    for placed in &text.galley.rows {
        let glyphs = &placed.row.glyphs;
        let mut from = 0;
        while from < glyphs.len() {
            // A run of one section has one font and one colour. What stands for elided text belongs to the last one.
            let section = sections
                .iter()
                .find(|section| section.byte_range.end.0 > byte)
                .or(sections.last());
            let Some(section) = section else { return };
            let mut content = String::new();
            let first = from;
            while from < glyphs.len() && (content.is_empty() || byte < section.byte_range.end.0) {
                content.push(glyphs[from].chr);
                byte += glyphs[from].chr.len_utf8();
                from += 1;
            }
            let format = &section.format;
            let own = if format.color == Color32::PLACEHOLDER {
                text.fallback_color
            } else {
                format.color
            };
            let color = text
                .override_text_color
                .unwrap_or(own)
                .gamma_multiply(text.opacity_factor);
            if content.trim().is_empty() || color.a() == 0 {
                continue;
            }
            let at = text.pos + placed.pos.to_vec2() + glyphs[first].pos.to_vec2();
            let (family, weight) = match &format.font_id.family {
                egui::FontFamily::Monospace => ("Hack, monospace", "400"),
                egui::FontFamily::Proportional => ("Inter, sans-serif", "400"),
                egui::FontFamily::Name(_) => ("Inter, sans-serif", "600"),
            };
            _ = write!(
                svg,
                r#"<text x="{}" y="{}" font-family="{family}" font-weight="{weight}" font-size="{}" xml:space="preserve"{turned}"#,
                short(at.x),
                short(at.y),
                short(format.font_id.size)
            );
            fill(svg, color);
            _ = writeln!(svg, ">{}</text>", escaped(&content));
        }
        byte += usize::from(placed.ends_with_newline);
    }
}

fn triangles(svg: &mut String, mesh: &Mesh, pictures: &HashMap<TextureId, String>) {
    if let Some(address) = pictures.get(&mesh.texture_id) {
        return picture(svg, mesh.calc_bounds(), address);
    }
    for corners in mesh.indices.chunks_exact(3) {
        let corners = [corners[0], corners[1], corners[2]].map(|at| &mesh.vertices[at as usize]);
        let mean = |of: fn(Color32) -> u8| {
            (corners
                .iter()
                .map(|corner| u32::from(of(corner.color)))
                .sum::<u32>()
                / 3) as u8
        };
        let color = Color32::from_rgba_premultiplied(
            mean(|color| color.r()),
            mean(|color| color.g()),
            mean(|color| color.b()),
            mean(|color| color.a()),
        );
        if color.a() == 0 {
            continue;
        }
        let [a, b, c] = corners.map(|corner| corner.pos);
        // Edges are not smoothed: neighbours would show seams.
        _ = write!(
            svg,
            r#"<path shape-rendering="crispEdges" d="M{} {}L{} {}L{} {}Z""#,
            short(a.x),
            short(a.y),
            short(b.x),
            short(b.y),
            short(c.x),
            short(c.y)
        );
        fill(svg, color);
        svg.push_str("/>\n");
    }
}

fn picture(svg: &mut String, rect: Rect, address: &str) {
    _ = writeln!(
        svg,
        r#"<image x="{}" y="{}" width="{}" height="{}" preserveAspectRatio="none" style="image-rendering:pixelated" href="{address}"/>"#,
        short(rect.left()),
        short(rect.top()),
        short(rect.width()),
        short(rect.height())
    );
}

fn fill(svg: &mut String, color: Color32) {
    let [red, green, blue, alpha] = color.to_srgba_unmultiplied();
    _ = write!(svg, r##" fill="#{red:02x}{green:02x}{blue:02x}""##);
    if alpha < 255 {
        _ = write!(
            svg,
            r#" fill-opacity="{}""#,
            short(f32::from(alpha) / 255.0)
        );
    }
}

fn ends(svg: &mut String, inside: Color32, width: f32, line: Color32) {
    if inside.a() == 0 {
        svg.push_str(r#" fill="none""#);
    } else {
        fill(svg, inside);
    }
    if width > 0.0 && line.a() > 0 {
        let [red, green, blue, alpha] = line.to_srgba_unmultiplied();
        _ = write!(
            svg,
            r##" stroke="#{red:02x}{green:02x}{blue:02x}" stroke-width="{}""##,
            short(width)
        );
        if alpha < 255 {
            _ = write!(
                svg,
                r#" stroke-opacity="{}""#,
                short(f32::from(alpha) / 255.0)
            );
        }
    }
    svg.push_str("/>\n");
}

/// A number with as many digits as a drawing needs.
fn short(number: f32) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // XML has no other control characters.
            control if control.is_control() && !matches!(control, '\n' | '\t') => {
                out.push('\u{fffd}')
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_with_signs_do_not_break_the_document() {
        assert_eq!(escaped("a<b&&c>\u{0}"), "a&lt;b&amp;&amp;c&gt;\u{fffd}");
    }
}
