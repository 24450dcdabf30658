//! `bellows verify`.

use std::collections::BTreeSet;

use serde_json::json;

use crate::cli::VerifyArgs;
use crate::error::Error;
use crate::ui::{Table, Ui};
use crate::verify::{KINDS, Report, verify};

/// Compares each folder's golden numbers with the engine's.
///
/// # Errors
/// If a folder cannot be read (exit code 2), or a number is off or kernels were required and plain
/// operations stood in for some (exit code 1).
pub fn run(args: VerifyArgs, ui: &Ui) -> Result<(), Error> {
    let device = args.device.open()?;
    ui.status(
        "Verifying",
        format!("{} folders on {}", args.folders.len(), device.name()),
    );
    let mut reports = Vec::new();
    for folder in &args.folders {
        let _spinner = ui.spinner(folder.display().to_string());
        reports.push(verify(
            folder,
            &device.device,
            args.stream.map(|chunk| chunk as usize),
        )?);
    }
    if args.json {
        let folders: Vec<_> = reports
            .iter()
            .map(|report| json!({ "passed": report.passed(), "report": report }))
            .collect();
        ui.json(&json!({ "device": device.label, "name": device.name(), "folders": folders }));
    } else {
        for report in &reports {
            show(report, ui);
        }
    }
    let failed = reports.iter().filter(|report| !report.passed()).count();
    if failed > 0 {
        return Err(Error::failed(format!(
            "{failed} of {} folders differ from the reference",
            reports.len()
        )));
    }
    if args.require_kernels {
        let fallen: BTreeSet<_> = reports.iter().flat_map(Report::fallbacks).collect();
        if !fallen.is_empty() {
            let families: Vec<_> = fallen.into_iter().collect();
            return Err(Error::failed(format!(
                "plain operations stood in for the kernels of {} on {}",
                families.join(", "),
                device.name()
            ))
            .help("kernels need a GPU, and model.kernels = \"fused\" in the folder's model"));
        }
    }
    ui.status("Verified", format!("{} folders", reports.len()));
    Ok(())
}

fn show(report: &Report, ui: &Ui) {
    let verdict = if report.passed() {
        "equal"
    } else {
        "DIFFERENT"
    };
    ui.print(format!("{}: {verdict}", report.folder.display()));
    let mut table = Table::new(["what", "worst", "error", "tolerance", ""]).right(&[2, 3]);
    for kind in KINDS {
        if let Some(check) = report.worst(kind) {
            table.row([
                kind.to_owned(),
                check.key.clone(),
                format!("{:.1e}", check.error),
                format!("{:.0e}", check.tolerance),
                if check.passed { "ok" } else { "FAILED" }.to_owned(),
            ]);
        }
    }
    ui.table(&table);
    let computed: Vec<_> = report
        .computed
        .iter()
        .map(|computed| format!("{} by {}", computed.family, computed.by))
        .collect();
    ui.print(format!("  computed: {}", computed.join("; ")));
    let list = |what: &str, keys: &[String]| {
        if !keys.is_empty() {
            ui.print(format!("  {what}: {}", keys.join(", ")));
        }
    };
    list("not in the golden file, skipped", &report.absent);
    list("not judged (gradient below 1e-4)", &report.not_judged);
    list("not produced by the engine", &report.not_produced);
}
