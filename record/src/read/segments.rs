use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::Manifest;

/// Where each segment begins: what decides whether a row still counts.
#[derive(Clone, Debug)]
pub(crate) struct Segments {
    run: PathBuf,
    first_steps: BTreeMap<u32, u64>,
}

impl Segments {
    pub(crate) fn new(run: &Path, manifest: &Manifest) -> Self {
        let mut segments = Self {
            run: run.to_owned(),
            first_steps: BTreeMap::new(),
        };
        segments.learn(manifest);
        segments
    }

    /// Looks into the manifest again. Returns the first step of new segments, the smallest where
    /// there are several: rows from it on that were read before are void.
    pub(crate) fn refresh(&mut self) -> Option<u64> {
        // A manifest that cannot be read just now changes nothing; `RunReader::refresh` says why.
        let manifest = Manifest::read(&self.run).ok()?;
        self.learn(&manifest)
    }

    /// Takes note of a row. A segment the manifest does not name (it was lost, or is about to be
    /// written) begins with its first row: the return value is then that step.
    pub(crate) fn meet(&mut self, segment: u32, step: u64) -> Option<u64> {
        if self.first_steps.contains_key(&segment) {
            return None;
        }
        if let Some(first_step) = self.refresh()
            && self.first_steps.contains_key(&segment)
        {
            return Some(first_step);
        }
        self.first_steps.insert(segment, step);
        Some(step)
    }

    /// Whether no later segment replaces this row.
    pub(crate) fn counts(&self, segment: u32, step: u64) -> bool {
        match segment.checked_add(1) {
            Some(next) => self
                .first_steps
                .range(next..)
                .all(|(_, &first)| step < first),
            None => true,
        }
    }

    fn learn(&mut self, manifest: &Manifest) -> Option<u64> {
        let mut rewind: Option<u64> = None;
        for segment in &manifest.segments {
            if self
                .first_steps
                .insert(segment.index, segment.first_step)
                .is_none()
            {
                rewind = Some(rewind.map_or(segment.first_step, |s| s.min(segment.first_step)));
            }
        }
        rewind
    }
}
