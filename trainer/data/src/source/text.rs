//! Text files, read in bounded pieces that end at line ends.

use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;

use super::listing::FileSide;
use super::{ListedFile, PIECE_BYTES, Piece, Reader, Segment, Visit, WHOLE_FILE, lossy};
use crate::{CorpusReport, Split};

pub(super) fn read(
    reader: &Reader<'_>,
    file: &ListedFile,
    separator: Option<&str>,
    report: &mut CorpusReport,
    visit: &mut Visit<'_>,
) {
    let mut documents = Documents {
        reader,
        file,
        separator: separator.map(str::as_bytes),
        visit,
        document: 0,
        offset: 0,
        buffer: Vec::new(),
        consumed: 0,
        replaced: 0,
        replaced_documents: 0,
        has_text: false,
        documents_without_text: 0,
    };
    let outcome = File::open(&file.path).and_then(|input| documents.run(input));
    let (replaced, replaced_documents) = (documents.replaced, documents.replaced_documents);
    report.empty_documents += documents.documents_without_text;
    report.replaced_sequences += replaced;
    report.documents_with_replacements += replaced_documents;
    match outcome {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            report.skip_file(&file.name, error.to_string())
        }
        Err(error) => report.skip_unreadable(&file.name, &error),
    }
}

/// Cuts the bytes of one file into documents and pieces.
struct Documents<'a, 'v> {
    reader: &'a Reader<'a>,
    file: &'a ListedFile,
    separator: Option<&'a [u8]>,
    visit: &'a mut Visit<'v>,
    document: u64,
    /// Where in the file the next line starts.
    offset: u64,
    /// Lines of the current document that were not handed on yet.
    buffer: Vec<u8>,
    consumed: u64,
    replaced: u64,
    replaced_documents: u64,
    has_text: bool,
    documents_without_text: u64,
}

impl Documents<'_, '_> {
    fn run(&mut self, mut input: File) -> std::io::Result<()> {
        let mut carry: Vec<u8> = Vec::new();
        let mut replaced_before = 0;
        loop {
            let start = carry.len();
            let got = input
                .by_ref()
                .take((PIECE_BYTES - start) as u64)
                .read_to_end(&mut carry)?;
            let end_of_file = start + got < PIECE_BYTES;
            if self.offset == 0 && start == 0 {
                if carry.starts_with(&[0xff, 0xfe]) || carry.starts_with(&[0xfe, 0xff]) {
                    return Err(std::io::Error::new(
                        std::io::ErrorKind::InvalidData,
                        "is UTF-16: convert it to UTF-8",
                    ));
                }
                if carry.starts_with(&[0xef, 0xbb, 0xbf]) {
                    carry.drain(..3);
                    self.offset = 3;
                }
            }
            // Whole lines only, unless one line alone fills a piece.
            let cut = match carry.iter().rposition(|b| *b == b'\n') {
                _ if end_of_file => carry.len(),
                Some(newline) => newline + 1,
                None => lossy::char_boundary(&carry),
            };
            for line in carry[..cut].split_inclusive(|b| *b == b'\n') {
                if self.line(line, &mut replaced_before).is_break() {
                    return Ok(());
                }
            }
            carry.drain(..cut);
            if end_of_file {
                // The end of the file ends a document, except right after a separator line.
                if self.separator.is_none()
                    || self.has_text
                    || !self.buffer.is_empty()
                    || self.document == 0
                {
                    let _ = self.end_document(&mut replaced_before);
                }
                return Ok(());
            }
            if self.flush().is_break() {
                return Ok(());
            }
        }
    }

    fn line(&mut self, line: &[u8], replaced_before: &mut u64) -> ControlFlow<()> {
        if let FileSide::Tail(cut) = self.file.side
            && self.document == 0
            && self.offset >= cut
            && self.offset > 0
        {
            self.end_document(replaced_before)?;
        }
        self.offset += line.len() as u64;
        self.consumed += line.len() as u64;
        if self
            .separator
            .is_some_and(|separator| line.trim_ascii_end() == separator)
        {
            return self.end_document(replaced_before);
        }
        self.buffer.extend_from_slice(line);
        ControlFlow::Continue(())
    }

    fn end_document(&mut self, replaced_before: &mut u64) -> ControlFlow<()> {
        let flow = self.flush();
        self.documents_without_text += u64::from(!self.has_text);
        self.replaced_documents += u64::from(self.replaced > *replaced_before);
        *replaced_before = self.replaced;
        self.has_text = false;
        self.document += 1;
        flow
    }

    fn flush(&mut self) -> ControlFlow<()> {
        if self.buffer.is_empty() {
            return ControlFlow::Continue(());
        }
        let (text, replaced) = lossy::decode(&self.buffer);
        self.buffer.clear();
        self.replaced += replaced;
        // White space alone is no text: handing it on would make an empty document one with tokens.
        self.has_text |= !text.trim().is_empty();
        if !self.has_text {
            return ControlFlow::Continue(());
        }
        let split = match self.file.side {
            FileSide::Tail(_) if self.document > 0 => Split::Validation,
            FileSide::Tail(_) => Split::Train,
            _ => self.reader.side(self.file, self.document),
        };
        (self.visit)(Piece {
            document: self.document,
            row: if self.separator.is_some() {
                self.document
            } else {
                WHOLE_FILE
            },
            split,
            source: None,
            segments: vec![Segment {
                text,
                trained: true,
            }],
            reward: None,
            old: None,
            consumed: std::mem::take(&mut self.consumed),
        })
    }
}
