use std::any::Any;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use bellows_query::{Answer, Asked, Gap, Query, RunId, RunSnapshot, Scale, Store, Table};
use egui::Ui;

use super::Panel;
use crate::app::View;
use crate::export::Format;
use crate::theme::{Ramp, Theme};
use crate::widgets;

/// What a panel may use.
pub struct Cx<'a> {
    /// Answers questions.
    pub store: &'a Store,
    /// The open runs, in order.
    pub runs: &'a [Arc<RunSnapshot>],
    /// Colours.
    pub theme: &'a Theme,
    /// What is looked at.
    pub view: &'a mut View,
    /// Answers of before, shown while newer ones are worked out.
    pub kept: &'a mut Kept,
    /// Whether to wait for answers: for pictures that are drawn once.
    pub wait: bool,
    /// What the panel asks the program to do.
    pub requests: &'a mut Vec<Request>,
    /// The panel that is drawn.
    pub panel: Panel,
    /// The answer that the panel drew.
    pub shown: Option<Arc<dyn Answer>>,
    /// Why it drew none.
    pub gap: Option<Gap>,
    /// Whether a newer answer is being worked out.
    pub pending: bool,
}

/// What is kept from frame to frame.
#[derive(Default)]
pub struct Kept {
    /// Answers of before, by panel and place in it.
    answers: HashMap<(Panel, u8), Arc<dyn Any + Send + Sync>>,
    /// What panels' answers say, which is worked out once an answer.
    said: HashMap<Panel, Said>,
}

/// An answer's sentence and, once it was asked for, its table.
struct Said {
    of: Arc<dyn Answer>,
    summary: Arc<str>,
    table: Option<Arc<Table>>,
}

impl Kept {
    fn said(&mut self, panel: Panel, answer: &Arc<dyn Answer>) -> &mut Said {
        let fresh = || Said {
            of: answer.clone(),
            summary: answer.summary().into(),
            table: None,
        };
        let said = self.said.entry(panel).or_insert_with(fresh);
        // The answer that is held keeps its place in memory, so that no other one can have it.
        if !std::ptr::addr_eq(Arc::as_ptr(&said.of), Arc::as_ptr(answer)) {
            *said = fresh();
        }
        said
    }

    /// What an answer says in a sentence.
    pub fn summary(&mut self, panel: Panel, answer: &Arc<dyn Answer>) -> Arc<str> {
        self.said(panel, answer).summary.clone()
    }

    /// An answer's table.
    pub fn table(&mut self, panel: Panel, answer: &Arc<dyn Answer>) -> Arc<Table> {
        let said = self.said(panel, answer);
        said.table
            .get_or_insert_with(|| Arc::new(answer.table()))
            .clone()
    }
}

/// What a panel asks the program to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Bring a panel to the front.
    Show(Panel),
    /// Ask where to export a panel to.
    Export(Panel, Format),
    /// Export a panel to a file.
    Write {
        /// The panel.
        panel: Panel,
        /// As what.
        format: Format,
        /// Where to.
        path: PathBuf,
        /// Width and height, points.
        size: (u32, u32),
    },
    /// Open a run.
    Open(PathBuf),
    /// Close a run.
    Close(RunId),
}

impl Cx<'_> {
    /// The run that panels are about.
    pub fn run(&self) -> Option<Arc<RunSnapshot>> {
        let id = self.view.run?;
        self.runs.iter().find(|run| run.id == id).cloned()
    }

    /// The run of a number.
    pub fn named(&self, id: RunId) -> Option<&Arc<RunSnapshot>> {
        self.runs.iter().find(|run| run.id == id)
    }

    /// Asks, and says in place of an answer why there is none. The answer becomes the panel's: its summary, its table.
    pub fn ask<Q: Query>(&mut self, ui: &mut Ui, query: &Q) -> Option<Arc<Q::Answer>> {
        match self.quietly(0, query) {
            Some(Ok(answer)) => {
                self.shown = Some(answer.clone());
                Some(answer)
            }
            Some(Err(gap)) => {
                widgets::notice(ui, self.theme, &gap);
                self.gap = Some(gap);
                None
            }
            None => {
                widgets::waiting(ui, self.theme, "reading the record");
                None
            }
        }
    }

    /// Asks for something beside the panel's own answer; `place` tells the questions of a panel apart. `None`
    /// while the first answer is worked out.
    pub fn quietly<Q: Query>(
        &mut self,
        place: u8,
        query: &Q,
    ) -> Option<Result<Arc<Q::Answer>, Gap>> {
        if self.wait {
            return Some(self.store.answer(query));
        }
        let Asked { answer, pending } = self.store.ask(query);
        self.pending |= pending;
        let key = (self.panel, place);
        match answer {
            Some(Ok(answer)) => {
                self.kept.answers.insert(key, answer.clone());
                Some(Ok(answer))
            }
            Some(Err(gap)) => Some(Err(gap)),
            // The answer to a question of before, as when the cursor moves: better than a blank.
            None => {
                let before = self.kept.answers.get(&key)?.clone();
                before.downcast::<Q::Answer>().ok().map(Ok)
            }
        }
    }

    /// The run's number, or a notice that there is none.
    pub fn need_run(&mut self, ui: &mut Ui) -> Option<RunId> {
        if self.view.run.is_none() {
            let gap = Gap::NotRecorded {
                what: "a run".to_owned(),
                why: "none is open".to_owned(),
                remedy: "open one with Ctrl+O, or drop its folder on the window".to_owned(),
            };
            widgets::notice(ui, self.theme, &gap);
        }
        self.view.run
    }

    /// Colours for values.
    pub fn ramp(&self, scale: Scale) -> Ramp {
        self.theme.ramp(scale, self.view.scale.as_deref())
    }
}
