//! What is missing or damaged is told in the place where it would be.

use std::fs;
use std::path::Path;

use bellows_viewer::panels::Panel;
use egui_kittest::kittest::Queryable;

use crate::support;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn damaged(
    damage: impl Fn(&Path),
) -> (
    bellows_query::Store,
    bellows_query::RunId,
    tempfile::TempDir,
) {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("rust-code");
    copy(&support::real(), &run);
    damage(&run);
    let (store, id) = support::open(&run);
    (store, id, folder)
}

#[test]
fn a_run_without_traces_says_so_in_the_text_panel_and_what_would_record_them() {
    let (store, run, _folder) = damaged(|run| fs::remove_dir_all(run.join("traces")).unwrap());
    let window = support::with_panel(&store, run, Panel::TokensText);
    assert!(
        window
            .query_all_by_label_contains("not recorded")
            .next()
            .is_some()
    );
    assert!(
        window
            .query_all_by_label_contains("traces_every")
            .next()
            .is_some()
    );
}

#[test]
fn a_file_that_was_cut_is_a_warning_and_what_is_left_is_drawn() {
    let (store, run, _folder) = damaged(|run| {
        let path = run.join("routing.0.arrows");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap();
    });
    let mut window = support::with_panel(&store, run, Panel::RoutingLoad);
    assert!(
        window
            .query_all_by_label_contains("1 warning")
            .next()
            .is_some()
    );
    assert!(
        window
            .query_all_by_label_contains("Load of 8 experts")
            .next()
            .is_some()
    );
    let view = window.state_mut().view_mut();
    view.workspace = Panel::Runs.workspace();
    view.layouts.show(Panel::Runs.workspace(), Panel::Runs);
    window.run_steps(3);
    assert!(
        window
            .query_all_by_label_contains("routing.0.arrows")
            .next()
            .is_some()
    );
}

#[test]
fn a_run_of_a_newer_schema_says_which_program_would_read_it() {
    let (store, run, _folder) = damaged(|run| {
        let path = run.join("manifest.json");
        let text = fs::read_to_string(&path).unwrap();
        let version = text
            .lines()
            .find(|line| line.contains("schema_version"))
            .unwrap()
            .to_owned();
        fs::write(
            &path,
            text.replace(&version, "  \"schema_version\": \"99.0\","),
        )
        .unwrap();
    });
    let window = support::with_panel(&store, run, Panel::RoutingLoad);
    assert!(window.query_all_by_label_contains("99.0").next().is_some());
    assert!(
        window
            .query_all_by_label_contains("build the viewer")
            .next()
            .is_some()
            || window
                .query_all_by_label_contains("Build the viewer")
                .next()
                .is_some()
    );
}
