use super::*;
use egui::epaint::{ImageDelta, Mesh, Primitive, Vertex};
use egui::{Color32, ColorImage, Pos2, Rect, TextureId, TextureOptions, pos2};

const SIZE: [usize; 2] = [150, 100];

/// A raster whose font texture is one white texel, and texture 1 two texels side by side.
fn raster(left: Color32, right: Color32) -> Raster {
    let mut raster = Raster::default();
    let mut delta = TexturesDelta::default();
    let texture =
        |size, pixels| ImageDelta::full(ColorImage::new(size, pixels), TextureOptions::NEAREST);
    delta.push(TextureId::default(), texture([1, 1], vec![Color32::WHITE]));
    delta.push(TextureId::Managed(1), texture([2, 1], vec![left, right]));
    raster.set_textures(&mut delta);
    raster
}

fn clipped(mesh: Mesh) -> ClippedPrimitive {
    ClippedPrimitive {
        clip_rect: Rect::EVERYTHING,
        primitive: Primitive::Mesh(mesh),
    }
}

fn fan(center: Pos2, corners: &[Pos2], color: Color32) -> Mesh {
    let mut mesh = Mesh::default();
    for at in std::iter::once(&center).chain(corners) {
        mesh.vertices.push(Vertex::untextured(*at, color));
    }
    let count = corners.len() as u32;
    for corner in 0..count {
        mesh.add_triangle(0, 1 + corner, 1 + (corner + 1) % count);
    }
    mesh
}

fn pixel(raster: &Raster, x: usize, y: usize) -> Pixel {
    raster.pixels[y * raster.width + x]
}

fn changes(raster: &mut Raster) -> Vec<([usize; 2], [usize; 2])> {
    let mut patches = Vec::new();
    raster.take_changes(|patch| patches.push((patch.at, patch.size)));
    patches
}

#[test]
fn neighbours_neither_overlap_nor_leave_gaps() {
    let corners = [
        (10.3, 5.1),
        (97.7, 13.5),
        (140.5, 60.5),
        (80.0, 95.9),
        (3.2, 71.4),
    ]
    .map(|(x, y)| pos2(x, y));
    let half = Color32::from_rgba_premultiplied(100, 0, 0, 100);
    // A corner at the centre of a pixel, and edges through centres, are where both or neither may claim a pixel.
    for center in [pos2(50.5, 50.5), pos2(64.0, 32.0), pos2(71.37, 44.9)] {
        let mut raster = raster(half, half);
        raster.paint(&[clipped(fan(center, &corners, half))], 1.0, SIZE);
        for y in 0..SIZE[1] {
            let row: Vec<u8> = (0..SIZE[0]).map(|x| pixel(&raster, x, y)[0]).collect();
            assert!(
                row.iter().all(|red| matches!(red, 0 | 100)),
                "a pixel was painted twice"
            );
            let painted = row.iter().filter(|red| **red == 100).count();
            let first = row.iter().position(|red| *red == 100).unwrap_or(0);
            assert!(
                row[first..first + painted].iter().all(|red| *red == 100),
                "a gap in row {y}"
            );
        }
    }
}

#[test]
fn only_what_changed_is_painted_and_handed_on() {
    let square = |x: f32, color| {
        let mut mesh = Mesh::default();
        mesh.add_colored_rect(
            Rect::from_min_max(pos2(x, 40.0), pos2(x + 10.0, 50.0)),
            color,
        );
        clipped(mesh)
    };
    let mut raster = raster(Color32::RED, Color32::RED);
    raster.paint(
        &[square(5.0, Color32::RED), square(100.0, Color32::BLUE)],
        1.0,
        SIZE,
    );
    assert_eq!(
        changes(&mut raster),
        [([0, 0], SIZE)],
        "a new picture is one patch"
    );
    raster.paint(
        &[square(5.0, Color32::RED), square(100.0, Color32::BLUE)],
        1.0,
        SIZE,
    );
    assert_eq!(changes(&mut raster), []);
    raster.paint(
        &[square(5.0, Color32::RED), square(110.0, Color32::BLUE)],
        1.0,
        SIZE,
    );
    assert_eq!(changes(&mut raster), [([64, 32], [64, 32])]);
    let mut tall = Mesh::default();
    tall.add_colored_rect(
        Rect::from_min_max(pos2(110.0, 0.0), pos2(145.0, 70.0)),
        Color32::BLUE,
    );
    let mut copy = self::raster(Color32::RED, Color32::RED);
    copy.paint(&[], 1.0, SIZE);
    changes(&mut copy);
    copy.paint(&[clipped(tall), square(5.0, Color32::RED)], 1.0, SIZE);
    let expected = [
        ([64, 0], [86, 32]),
        ([0, 32], [150, 32]),
        ([64, 64], [86, 32]),
    ];
    assert_eq!(
        changes(&mut copy),
        expected,
        "a run that goes on alike is one patch"
    );
    assert_eq!(pixel(&raster, 102, 45), BLACK);
    assert_eq!(pixel(&raster, 112, 45), [0, 0, 255, 255]);
    assert_eq!(pixel(&raster, 6, 45), [255, 0, 0, 255]);
    raster.paint(&[square(5.0, Color32::RED)], 1.0, SIZE);
    assert_eq!(
        pixel(&raster, 112, 45),
        BLACK,
        "what is gone leaves nothing"
    );
}

#[test]
fn a_texture_that_changed_is_painted_anew_where_it_is_shown() {
    let mut mesh = Mesh::with_texture(TextureId::Managed(1));
    let whole = Rect::from_min_max(Pos2::ZERO, pos2(1.0, 1.0));
    mesh.add_rect_with_uv(
        Rect::from_min_max(pos2(0.0, 0.0), pos2(60.0, 20.0)),
        whole,
        Color32::WHITE,
    );
    let picture = [clipped(mesh)];
    let mut raster = raster(Color32::RED, Color32::GREEN);
    raster.paint(&picture, 1.0, SIZE);
    assert_eq!(
        (pixel(&raster, 29, 3), pixel(&raster, 30, 3)),
        ([255, 0, 0, 255], [0, 255, 0, 255])
    );
    changes(&mut raster);
    let mut delta = TexturesDelta::default();
    let blue = ColorImage::new([1, 1], vec![Color32::BLUE]);
    delta.push(
        TextureId::Managed(1),
        ImageDelta::partial([1, 0], blue, TextureOptions::NEAREST),
    );
    raster.set_textures(&mut delta);
    raster.paint(&picture, 1.0, SIZE);
    assert_eq!(pixel(&raster, 30, 3), [0, 0, 255, 255]);
    assert_eq!(changes(&mut raster), [([0, 0], [64, 32])]);
}

#[test]
fn triangles_far_outside_or_nowhere_do_no_harm() {
    let far = [pos2(-1e9, -1e9), pos2(1e9, -1e9), pos2(0.0, 1e9)];
    let nowhere = [
        pos2(f32::NAN, 0.0),
        pos2(10.0, f32::INFINITY),
        pos2(0.0, 10.0),
    ];
    let flat = [pos2(0.0, 0.0), pos2(50.0, 50.0), pos2(100.0, 100.0)];
    for (corners, expected) in [(far, [0, 255, 0, 255]), (nowhere, BLACK), (flat, BLACK)] {
        let mut mesh = Mesh::default();
        for at in corners {
            mesh.vertices.push(Vertex::untextured(at, Color32::GREEN));
        }
        mesh.add_triangle(0, 1, 2);
        let mut raster = raster(Color32::RED, Color32::RED);
        raster.paint(&[clipped(mesh)], 1.0, SIZE);
        assert_eq!(pixel(&raster, 75, 50), expected);
    }
    raster(Color32::RED, Color32::RED).paint(&[], 1.0, [0, 0]);
}

#[test]
fn clips_are_kept_and_sizes_may_change() {
    let mut mesh = Mesh::default();
    mesh.add_colored_rect(
        Rect::EVERYTHING.intersect(Rect::from_min_max(pos2(-9.0, -9.0), pos2(999.0, 999.0))),
        Color32::RED,
    );
    let primitive = ClippedPrimitive {
        clip_rect: Rect::from_min_max(pos2(10.0, 10.0), pos2(20.0, 20.0)),
        primitive: Primitive::Mesh(mesh),
    };
    let mut raster = raster(Color32::RED, Color32::RED);
    for (scale, size) in [(1.0, SIZE), (2.0, [300, 41]), (1.0, [12, 11])] {
        raster.paint(std::slice::from_ref(&primitive), scale, size);
        assert_eq!(raster.size(), size);
        let red = raster
            .pixels
            .iter()
            .filter(|pixel| **pixel == [255, 0, 0, 255])
            .count();
        let side = |side: usize| ((20.0 * scale) as usize).min(side) - (10.0 * scale) as usize;
        assert_eq!(red, side(size[0]) * side(size[1]));
    }
}
