//! Panels as files, by the program itself, where there is no display.

use std::process::{Command, Output};

use bellows_viewer::panels::Panel;

use crate::support;

fn viewer(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bellows-viewer"))
        .arg(support::real())
        .args(arguments)
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_panel_is_written_as_a_drawing_and_as_a_table() {
    let folder = tempfile::tempdir().unwrap();
    for panel in Panel::ALL {
        for ending in ["svg", "csv"] {
            let file = folder.path().join(format!("{}.{ending}", panel.id()));
            let output = viewer(&[
                "--panel",
                panel.id(),
                "--compare-step",
                "1",
                "--size",
                "900x600",
                "--screenshot",
                file.to_str().unwrap(),
            ]);
            let none = ending == "csv" && matches!(panel, Panel::Runs | Panel::Events);
            if none {
                assert_eq!(output.status.code(), Some(2), "{panel:?} {}", said(&output));
                continue;
            }
            assert!(output.status.success(), "{panel:?} {}", said(&output));
            let text = std::fs::read_to_string(&file).unwrap();
            if ending == "svg" {
                assert!(
                    text.starts_with("<svg") && text.ends_with("</svg>\n"),
                    "{panel:?}"
                );
                assert!(text.contains(panel.title()), "{panel:?}");
            } else {
                let mut lines = text.lines();
                assert!(
                    lines.next().unwrap().contains(',') && lines.next().is_some(),
                    "{panel:?}: {text}"
                );
            }
        }
    }
}

#[test]
fn a_picture_is_written_without_a_display_in_the_size_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("load.png");
    let output = viewer(&[
        "--panel",
        "routing-load",
        "--step",
        "20",
        "--size",
        "800x450",
        "--screenshot",
        file.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", said(&output));
    let picture = image::open(&file).unwrap().to_rgb8();
    assert_eq!(picture.dimensions(), (800, 450));
    let first = picture.get_pixel(0, 0);
    assert!(
        picture.pixels().any(|pixel| pixel != first),
        "the picture is empty"
    );
}

#[test]
fn larger_text_is_larger_in_a_picture_of_the_same_size() {
    let folder = tempfile::tempdir().unwrap();
    let drawing = |size: &str| {
        let file = folder.path().join(format!("{size}.svg"));
        let target = file.to_str().unwrap();
        let arguments = [
            "--size",
            "900x600",
            "--text-size",
            size,
            "--screenshot",
            target,
        ];
        for subject in [&["--panel", "memory-tree"][..], &["--page", "memory"]] {
            let output = viewer(&[subject, &arguments[..]].concat());
            assert!(output.status.success(), "{}", said(&output));
        }
        std::fs::read_to_string(&file).unwrap()
    };
    let head = r#"<svg xmlns="http://www.w3.org/2000/svg" width="900" height="600" viewBox="0 0 "#;
    assert!(drawing("1").starts_with(&format!("{head}900 600\"")));
    assert!(drawing("1.5").starts_with(&format!("{head}600 400\"")));
}

#[test]
fn wrong_names_and_endings_are_refused_in_words() {
    let wrong = viewer(&["--panel", "routing-lode", "--screenshot", "x.png"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(said(&wrong).contains("routing-load"), "{}", said(&wrong));
    let ending = viewer(&["--panel", "routing-load", "--screenshot", "x.bmp"]);
    assert_eq!(ending.status.code(), Some(2));
    assert!(said(&ending).contains(".png"), "{}", said(&ending));
}
