//! `bellows devices`: every device, what it can do, and what is missing.

use serde::Serialize;

use crate::cli::DevicesArgs;
use crate::device::{self, Adapter, Advice, CooperativeMatrix, Details, Host};
use crate::error::Error;
use crate::ui::{Ui, bytes};

#[derive(Serialize)]
struct Report {
    /// The device that `--device auto` takes.
    auto: String,
    adapters: Vec<Entry>,
    cpu: Cpu,
    missing: Vec<Advice>,
}

#[derive(Serialize)]
struct Cpu {
    #[serde(flatten)]
    host: Host,
    dtypes: Vec<&'static str>,
}

#[derive(Serialize)]
struct Entry {
    device: String,
    #[serde(flatten)]
    adapter: Adapter,
    /// Why the adapter cannot be used, if it cannot.
    unusable: Option<String>,
    details: Option<Details>,
}

/// Lists the devices. An adapter that does not open is listed with the reason.
///
/// # Errors
/// None of its own.
pub fn run(args: DevicesArgs, ui: &Ui) -> Result<(), Error> {
    let asking = ui.spinner("asking the drivers");
    let adapters = device::adapters();
    let missing = device::advice(&adapters);
    let auto = adapters.iter().position(Adapter::is_hardware);
    let mut entries = Vec::new();
    for (index, adapter) in adapters.into_iter().enumerate() {
        let details = match adapter.refusal() {
            Some(reason) => Err(reason),
            None => device::details(&adapter),
        };
        entries.push(Entry {
            device: format!("gpu:{index}"),
            adapter,
            unusable: details.as_ref().err().cloned(),
            details: details.ok(),
        });
    }
    drop(asking);
    let report = Report {
        auto: auto.map_or_else(|| "cpu".into(), |index| format!("gpu:{index}")),
        adapters: entries,
        cpu: Cpu {
            host: Host::read(),
            dtypes: device::cpu_dtypes(),
        },
        missing,
    };
    if args.json {
        ui.json(&report);
    } else {
        print(&report, ui);
    }
    Ok(())
}

fn print(report: &Report, ui: &Ui) {
    use owo_colors::OwoColorize;
    let title = |device: &str, name: &str, kind: &str| {
        let chosen = if device == report.auto {
            "  <- --device auto"
        } else {
            ""
        };
        ui.print(format_args!(
            "{}  {name} ({kind}){}",
            device.bold().cyan(),
            chosen.dimmed()
        ));
    };
    let line = |name: &str, value: &str| {
        if !value.is_empty() {
            ui.print(format_args!("  {name:<12}{value}"));
        }
    };
    for entry in &report.adapters {
        let adapter = &entry.adapter;
        title(&entry.device, &adapter.name, adapter.kind.as_str());
        line("driver", &adapter.driver);
        line("interface", adapter.backend);
        if let Some(reason) = &entry.unusable {
            line("unusable", reason);
        }
        if let Some(details) = &entry.details {
            line("compiler", &details.compiler);
            line("dtypes", &details.dtypes.join(" "));
            line("storage", &details.storage_dtypes.join(" "));
            line("subgroups", &subgroups(details));
            line("memory", &memory(details));
            line("matrices", &matrices(details));
        }
        ui.print("");
    }
    let Cpu { host, dtypes } = &report.cpu;
    title("cpu", &host.processor, "processor");
    line(
        "threads",
        &format!("{} {}", host.cores, host.simd.join(" ")),
    );
    line("dtypes", &dtypes.join(" "));
    line(
        "memory",
        &format!(
            "{}, {} of it free",
            bytes(host.memory_bytes),
            bytes(host.available_bytes)
        ),
    );
    if !report.missing.is_empty() {
        ui.print(format_args!("\n{}", "missing".bold().yellow()));
        for advice in &report.missing {
            ui.print(format_args!("  {}", advice.missing));
            ui.print(format_args!("    {}", advice.command.bold()));
        }
    }
}

fn subgroups(details: &Details) -> String {
    let size = match (details.subgroup_min, details.subgroup_max) {
        (min, max) if min == max => min.to_string(),
        (min, max) => format!("{min} to {max}"),
    };
    let operations = if details.subgroup_operations {
        ""
    } else {
        ", without subgroup operations"
    };
    format!("{size}{operations}")
}

fn memory(details: &Details) -> String {
    let largest = match details.max_buffer_bytes {
        u64::MAX => "buffers of any size".to_owned(),
        size => format!("buffers to {}", bytes(size)),
    };
    let total = details
        .memory_bytes
        .map_or_else(String::new, |size| format!("{}, ", bytes(size)));
    format!(
        "{total}{largest}, {} shared by a workgroup",
        bytes(details.shared_memory_bytes as u64)
    )
}

fn matrices(details: &Details) -> String {
    let list = |scope: &str, matrices: &[CooperativeMatrix]| {
        let mut lines: Vec<String> = matrices
            .iter()
            .map(|matrix| {
                let CooperativeMatrix { a, b, cd, shape } = matrix;
                format!("{scope} {shape}  {a} · {b} -> {cd}")
            })
            .collect();
        lines.sort();
        lines
    };
    let mut lines = list("subgroup", &details.subgroup_matrices);
    lines.extend(list("workgroup", &details.workgroup_matrices));
    if lines.is_empty() {
        return "none".into();
    }
    lines.join(&format!("\n{:14}", ""))
}
