//! JSON Lines, a line at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use super::render::Renderer;
use super::{ListedFile, ROW_BYTES, Reader, Visit, lossy};
use crate::CorpusReport;

pub(super) fn read(
    reader: &Reader<'_>,
    file: &ListedFile,
    renderer: &Renderer,
    report: &mut CorpusReport,
    visit: &mut Visit<'_>,
) {
    let mut input = match File::open(&file.path) {
        Ok(input) => BufReader::with_capacity(1 << 20, input),
        Err(error) => return report.skip_unreadable(&file.name, &error),
    };
    let mut line = Vec::new();
    let mut next = 0;
    for row in 0.. {
        line.clear();
        let length = match input
            .by_ref()
            .take(ROW_BYTES as u64)
            .read_until(b'\n', &mut line)
        {
            Ok(0) => return,
            Ok(length) => length,
            Err(error) => return report.skip_unreadable(&file.name, &error),
        };
        let consumed = length as u64;
        if length == ROW_BYTES && !line.ends_with(b"\n") {
            report.skip_row(
                &file.name,
                row + 1,
                format!("is longer than {} MiB", ROW_BYTES >> 20),
            );
            match input.skip_until(b'\n') {
                Ok(_) => continue,
                Err(error) => return report.skip_unreadable(&file.name, &error),
            }
        }
        let bytes = line
            .strip_prefix(b"\xef\xbb\xbf")
            .unwrap_or(&line)
            .trim_ascii();
        if bytes.is_empty() {
            continue;
        }
        let (text, replaced) = lossy::decode(bytes);
        let rendered = match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(value @ serde_json::Value::Object(_)) => renderer.render(&value),
            Ok(_) => Err("is not a JSON object".to_owned()),
            Err(error) => Err(format!("is not valid JSON: {error}")),
        };
        match rendered {
            Ok(rendered) => {
                report.replaced_sequences += replaced;
                report.documents_with_replacements += u64::from(replaced > 0);
                if rendered.is_empty() {
                    report.empty_documents += 1;
                    continue;
                }
                let flow = reader.emit(file, row, rendered, consumed, &mut next, visit);
                if flow.is_break() {
                    return;
                }
            }
            Err(reason) => report.skip_row(&file.name, row + 1, reason),
        }
    }
}
