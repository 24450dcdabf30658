//! Every panel, on the record of a real run and on that of a large model.

use bellows_viewer::panels::Panel;
use egui_kittest::kittest::{NodeT, Queryable};

use crate::support;

/// What the panel's drawing says of itself to somebody who cannot see it.
fn description(
    window: &egui_kittest::Harness<'_, bellows_viewer::app::App>,
    panel: Panel,
) -> String {
    let start = format!("{}. ", panel.title());
    window
        .query_all_by_role(egui::Role::Image)
        .filter_map(|node| node.accesskit_node().label())
        .find(|label| label.starts_with(&start))
        .map(|label| label[start.len()..].to_owned())
        .unwrap_or_else(|| panic!("{panel:?} draws nothing"))
}

#[test]
fn every_panel_draws_a_real_run_and_says_what_it_shows() {
    let (store, run) = support::open(&support::real());
    for panel in Panel::ALL {
        let window = support::with_panel(&store, run, panel);
        let said = description(&window, panel);
        let silent = matches!(panel, Panel::Runs | Panel::Events);
        assert!(silent || said.len() >= 15, "{panel:?}: {said:?}");
    }
}

#[test]
fn every_panel_draws_a_large_model() {
    let folder = tempfile::tempdir().unwrap();
    let (store, run) = support::open(&support::generate(folder.path()));
    for panel in Panel::ALL {
        let window = support::with_panel(&store, run, panel);
        let said = description(&window, panel);
        let silent = matches!(panel, Panel::Runs | Panel::Events);
        // The generated record has no plan; the panel says so.
        let expected = if panel == Panel::MemoryPlan {
            "plan"
        } else {
            ""
        };
        assert!(
            silent || (said.len() >= 15 && said.contains(expected)),
            "{panel:?}: {said:?}"
        );
    }
}

#[test]
fn every_panel_with_an_answer_has_a_table_of_it() {
    let (store, run) = support::open(&support::real());
    for panel in Panel::ALL {
        let mut window = support::with_panel(&store, run, panel);
        window.state_mut().view_mut().tables.extend(Panel::ALL);
        window.run_steps(3);
        // It still says what it would draw.
        description(&window, panel);
    }
}
