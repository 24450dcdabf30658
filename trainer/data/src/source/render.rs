//! A row of columns → the text of a document, and which parts of it are trained on.

use std::collections::BTreeSet;

use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use serde_json::{Map, Value};

use super::Segment;
use super::chat_template::chat_template;
use crate::DataError;
use crate::config::{RecordForm, RecordsConfig, TrainOn};

/// What templates may say about the tokenizer.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpecialTexts {
    pub bos_token: String,
    pub eos_token: String,
    /// The tokenizer's own chat template.
    pub chat_template: Option<String>,
}

/// Turns rows into documents.
pub(crate) struct Renderer {
    form: Form,
    train_on: TrainOn,
    source_column: Option<String>,
    environment: Environment<'static>,
    specials: SpecialTexts,
    identity: String,
}

enum Form {
    Text { column: String },
    Messages { column: String },
    Template { has_completion: bool },
    Columns(RecordForm),
}

/// The text of one row.
#[derive(Debug)]
pub(super) struct Rendered {
    /// One, unless the row is a pair or a group.
    pub documents: Vec<RenderedDocument>,
    pub source: Option<String>,
}

/// The text of one document.
#[derive(Debug, Default, PartialEq)]
pub(super) struct RenderedDocument {
    pub segments: Vec<Segment>,
    /// Reward of a completion of a group.
    pub reward: Option<f32>,
    /// Log-probabilities of its tokens, where they are given.
    pub old: Option<Vec<f32>>,
}

impl RenderedDocument {
    pub fn is_empty(&self) -> bool {
        let mut segments = self.segments.iter();
        segments.all(|segment| segment.text.trim().is_empty())
    }
}

impl Rendered {
    pub fn is_empty(&self) -> bool {
        self.documents.iter().all(RenderedDocument::is_empty)
    }
}

const TEMPLATE: &str = "data.source.template";
const COMPLETION: &str = "data.source.completion";
pub(super) const CHAT: &str = "data.source.chat_template";

impl Renderer {
    pub fn new(config: &RecordsConfig, specials: &SpecialTexts) -> Result<Renderer, DataError> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        let mut identity = format!("{} {}", specials.bos_token, specials.eos_token);
        let form = if config.messages_column.is_some() || config.form.is_some() {
            // As transformers sets up Jinja for chat templates.
            environment.set_trim_blocks(true);
            environment.set_lstrip_blocks(true);
            environment.add_function(
                "raise_exception",
                |message: String| -> Result<String, minijinja::Error> {
                    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
                },
            );
            let template = chat_template(config, specials)?;
            identity.push_str(&template);
            add(&mut environment, CHAT, template)?;
            match (config.form, &config.messages_column) {
                (None, Some(column)) => Form::Messages {
                    column: column.clone(),
                },
                (form, _) => Form::Columns(form.unwrap_or(RecordForm::Supervised)),
            }
        } else if let Some(template) = &config.template {
            environment.set_keep_trailing_newline(true);
            // A misspelt column must not silently render as nothing.
            environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
            add(&mut environment, TEMPLATE, template.clone())?;
            if let Some(completion) = &config.completion {
                add(&mut environment, COMPLETION, completion.clone())?;
            }
            Form::Template {
                has_completion: config.completion.is_some(),
            }
        } else {
            Form::Text {
                column: config
                    .text_column
                    .clone()
                    .unwrap_or_else(|| "text".to_owned()),
            }
        };
        Ok(Renderer {
            form,
            train_on: config.train_on,
            source_column: config.source_column.clone(),
            environment,
            specials: specials.clone(),
            identity,
        })
    }

    /// What rendering depends on besides the configuration.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether a template, not plain text, makes the document.
    pub fn is_template(&self) -> bool {
        !matches!(self.form, Form::Text { .. })
    }

    /// Whether some of a document's text may be left out of the loss.
    pub fn has_mask(&self) -> bool {
        let alternatives = [RecordForm::Preference, RecordForm::Groups];
        self.train_on == TrainOn::Completion
            || matches!(self.form, Form::Columns(form) if alternatives.contains(&form))
    }

    /// Whether documents are completions with rewards.
    pub fn has_groups(&self) -> bool {
        matches!(self.form, Form::Columns(RecordForm::Groups))
    }

    /// Columns that rows may have beside [`Renderer::columns`].
    pub fn optional_columns(&self) -> &'static [&'static str] {
        match self.form {
            Form::Columns(RecordForm::Supervised) => &["messages", "prompt", "completion"],
            Form::Columns(RecordForm::Preference) => &["prompt"],
            Form::Columns(RecordForm::Groups) => &["old_logprobs"],
            _ => &[],
        }
    }

    /// The columns that rows must have, each with the configuration key that names it.
    pub fn columns(&self) -> Vec<(&'static str, String)> {
        let mut columns = Vec::new();
        match &self.form {
            Form::Text { column } => columns.push(("data.source.text_column", column.clone())),
            Form::Messages { column } => {
                columns.push(("data.source.messages_column", column.clone()))
            }
            Form::Columns(form) => {
                let names: &[&str] = match form {
                    RecordForm::Supervised => &[],
                    RecordForm::Preference => &["chosen", "rejected"],
                    RecordForm::Groups => &["prompt", "completions", "rewards"],
                };
                let names = names.iter().map(|name| (*name).to_owned());
                columns.extend(names.map(|name| ("data.source.form", name)));
            }
            Form::Template { has_completion } => {
                for key in [TEMPLATE, COMPLETION]
                    .iter()
                    .take(1 + usize::from(*has_completion))
                {
                    let template = self.environment.get_template(key);
                    let globals: BTreeSet<String> = self
                        .environment
                        .globals()
                        .map(|(name, _)| name.to_owned())
                        .collect();
                    let names: BTreeSet<String> = template
                        .map(|t| t.undeclared_variables(false))
                        .unwrap_or_default()
                        .into_iter()
                        .collect();
                    columns.extend(
                        names
                            .into_iter()
                            .filter(|name| {
                                !globals.contains(name)
                                    && name != "bos_token"
                                    && name != "eos_token"
                            })
                            .map(|name| (*key, name)),
                    );
                }
            }
        }
        columns.extend(
            self.source_column
                .iter()
                .map(|column| ("data.source.source_column", column.clone())),
        );
        columns
    }

    /// The document of a row, or why there is none.
    pub(super) fn render(&self, row: &Value) -> Result<Rendered, String> {
        let mut documents = Vec::new();
        let segments = match &self.form {
            Form::Columns(form) => {
                documents = self.columns_of(*form, row)?;
                Vec::new()
            }
            Form::Text { column } => match row.get(column) {
                Some(Value::String(text)) => vec![Segment {
                    text: text.clone(),
                    trained: true,
                }],
                other => return Err(unfit(column, other, "text")),
            },
            Form::Messages { column } => match row.get(column) {
                Some(Value::Array(messages)) => self.chat(messages, row)?,
                other => return Err(unfit(column, other, "a list of messages")),
            },
            Form::Template { has_completion } => {
                let context = self.context(row);
                let mut segments = vec![Segment {
                    text: self.fill(TEMPLATE, &context)?,
                    trained: self.train_on == TrainOn::All,
                }];
                if *has_completion {
                    segments.push(Segment {
                        text: self.fill(COMPLETION, &context)?,
                        trained: true,
                    });
                }
                segments
            }
        };
        let source = match self
            .source_column
            .as_ref()
            .map(|column| (column, row.get(column)))
        {
            None | Some((_, Some(Value::Null))) => None,
            Some((_, Some(Value::String(name)))) => Some(name.clone()),
            Some((_, Some(value @ (Value::Number(_) | Value::Bool(_))))) => Some(value.to_string()),
            Some((column, other)) => return Err(unfit(column, other, "a name")),
        };
        if documents.is_empty() {
            documents.push(RenderedDocument {
                segments: merge(segments),
                ..RenderedDocument::default()
            });
        }
        Ok(Rendered { documents, source })
    }

    pub(super) fn trains_on_all(&self) -> bool {
        self.train_on == TrainOn::All
    }

    pub(super) fn context(&self, row: &Value) -> Map<String, Value> {
        let mut context = row.as_object().cloned().unwrap_or_default();
        for (name, text) in [
            ("bos_token", &self.specials.bos_token),
            ("eos_token", &self.specials.eos_token),
        ] {
            context
                .entry(name)
                .or_insert_with(|| Value::String(text.clone()));
        }
        context
    }

    pub(super) fn fill(&self, key: &str, context: &Map<String, Value>) -> Result<String, String> {
        self.environment
            .get_template(key)
            .and_then(|template| template.render(context))
            .map_err(|error| format!("{key} fails: {}", explain(&error)))
    }

    /// Renders a chat. Which part of the text an assistant turn is, is found by rendering the chat
    /// up to it, with the prompt for the assistant to speak, and up to and including it.
    pub(super) fn chat(&self, messages: &[Value], row: &Value) -> Result<Vec<Segment>, String> {
        let mut context = self.context(row);
        let mut upto = |count: usize, prompt: bool| {
            context.insert(
                "messages".to_owned(),
                Value::Array(messages[..count].to_vec()),
            );
            context.insert("add_generation_prompt".to_owned(), Value::Bool(prompt));
            self.fill(CHAT, &context)
        };
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let whole = upto(messages.len(), false)?;
        if self.train_on == TrainOn::All {
            return Ok(vec![Segment {
                text: whole,
                trained: true,
            }]);
        }
        let mut segments = Vec::new();
        let mut done = 0;
        for (index, message) in messages.iter().enumerate() {
            if message.get("role").and_then(Value::as_str) != Some("assistant") {
                continue;
            }
            let (before, after) = (upto(index, true)?, upto(index + 1, false)?);
            if !(whole.starts_with(&after) && after.starts_with(&before) && before.len() >= done) {
                return Err(format!(
                    "{CHAT} renders message {} differently within the whole chat, so the assistant's part \
                     cannot be told: use train_on = \"all\"",
                    index + 1
                ));
            }
            segments.push(Segment {
                text: whole[done..before.len()].to_owned(),
                trained: false,
            });
            segments.push(Segment {
                text: whole[before.len()..after.len()].to_owned(),
                trained: true,
            });
            done = after.len();
        }
        if segments.is_empty() {
            return Err("has no assistant message to train on".to_owned());
        }
        segments.push(Segment {
            text: whole[done..].to_owned(),
            trained: false,
        });
        Ok(segments)
    }
}

/// Joins neighbours of the same kind and drops empty ones: every boundary that remains is a token
/// boundary.
pub(super) fn merge(segments: Vec<Segment>) -> Vec<Segment> {
    let mut merged: Vec<Segment> = Vec::new();
    for segment in segments.into_iter().filter(|s| !s.text.is_empty()) {
        match merged.last_mut() {
            Some(last) if last.trained == segment.trained => last.text.push_str(&segment.text),
            _ => merged.push(segment),
        }
    }
    merged
}

pub(super) fn unfit(column: &str, value: Option<&Value>, wanted: &str) -> String {
    match value {
        None => format!("has no column {column:?}"),
        Some(Value::Null) => format!("column {column:?} is null"),
        Some(_) => format!("column {column:?} is not {wanted}"),
    }
}

fn add(
    environment: &mut Environment<'static>,
    key: &'static str,
    template: String,
) -> Result<(), DataError> {
    environment
        .add_template_owned(key, template)
        .map_err(|error| DataError::Template {
            key: key.to_owned(),
            message: format!("is not a valid template: {}", explain(&error)),
        })
}

fn explain(error: &minijinja::Error) -> String {
    let what = error.detail().map_or_else(
        || error.kind().to_string(),
        |detail| format!("{}: {detail}", error.kind()),
    );
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn renderer(config: RecordsConfig) -> Renderer {
        Renderer::new(
            &config,
            &SpecialTexts {
                eos_token: "</s>".into(),
                ..SpecialTexts::default()
            },
        )
        .unwrap()
    }

    fn parts(rendered: &Rendered) -> Vec<(&str, bool)> {
        rendered.documents[0]
            .segments
            .iter()
            .map(|s| (s.text.as_str(), s.trained))
            .collect()
    }

    #[test]
    fn a_question_is_not_trained_on_and_its_answer_is() {
        let qa = renderer(RecordsConfig {
            template: Some("Question: {{ question }}\nAnswer: ".into()),
            completion: Some("{{ answer }}\n".into()),
            train_on: TrainOn::Completion,
            ..RecordsConfig::default()
        });
        let row = qa
            .render(&json!({"question": "1+1?", "answer": "2 <b>"}))
            .unwrap();
        assert_eq!(
            parts(&row),
            [("Question: 1+1?\nAnswer: ", false), ("2 <b>\n", true)]
        );
        let columns: Vec<String> = qa.columns().into_iter().map(|(_, c)| c).collect();
        assert_eq!(columns, ["question", "answer"]);
        assert!(
            qa.render(&json!({"question": "1+1?"}))
                .unwrap_err()
                .contains("data.source.completion")
        );
    }

    fn chat() -> Value {
        json!({"messages": [
            {"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"},
            {"role": "user", "content": "v"}, {"role": "assistant", "content": "b"}
        ]})
    }

    #[test]
    fn only_assistant_turns_are_trained_on() {
        let config = RecordsConfig {
            messages_column: Some("messages".into()),
            train_on: TrainOn::Completion,
            ..RecordsConfig::default()
        };
        let rendered = renderer(config.clone()).render(&chat()).unwrap();
        assert_eq!(
            parts(&rendered),
            [
                (
                    "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n",
                    false
                ),
                ("a<|im_end|>\n", true),
                (
                    "<|im_start|>user\nv<|im_end|>\n<|im_start|>assistant\n",
                    false
                ),
                ("b<|im_end|>\n", true),
            ]
        );
        let all = renderer(RecordsConfig {
            train_on: TrainOn::All,
            ..config.clone()
        })
        .render(&chat())
        .unwrap();
        let joined: String = rendered.documents[0]
            .segments
            .iter()
            .map(|s| s.text.as_str())
            .collect();
        assert_eq!(parts(&all), [(joined.as_str(), true)]);
        let no_assistant = json!({"messages": [{"role": "user", "content": "u"}]});
        assert!(renderer(config).render(&no_assistant).is_err());
    }

    #[test]
    fn templates_of_transformers_render_methods_exceptions_and_generation_blocks() {
        let template = "{%- for m in messages %}\n    {%- if m.role == 'bad' %}{{ raise_exception('role ' + m.role) }}{% endif %}\n\
             {%- if m['role'] == 'assistant' %}\n{% generation %}A:{{ m['content'].strip() }}{{ eos_token }}{%- endgeneration -%}\n\
             {%- else %}U:{{ m.get('content').upper() }};{% endif %}{% endfor %}{% if add_generation_prompt %}{% endif %}";
        let config = RecordsConfig {
            messages_column: Some("chat".into()),
            chat_template: Some(template.into()),
            train_on: TrainOn::Completion,
            ..RecordsConfig::default()
        };
        let renderer = renderer(config);
        let row = json!({"chat": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": " yo "}]});
        assert_eq!(
            parts(&renderer.render(&row).unwrap()),
            [("U:HI;", false), ("A:yo</s>", true)]
        );
        let bad = json!({"chat": [{"role": "bad", "content": "x"}]});
        assert!(renderer.render(&bad).unwrap_err().contains("role bad"));
    }

    #[test]
    fn a_template_that_changes_earlier_turns_is_refused_not_masked_wrongly() {
        let config = RecordsConfig {
            messages_column: Some("messages".into()),
            chat_template: Some("{% for m in messages %}{% if loop.last or m.role != 'assistant' %}{{ m.content }}{% endif %}{% endfor %}".into()),
            train_on: TrainOn::Completion,
            ..RecordsConfig::default()
        };
        assert!(
            renderer(config)
                .render(&chat())
                .unwrap_err()
                .contains("train_on")
        );
    }

    #[test]
    fn a_broken_template_is_named_with_its_line() {
        let config = RecordsConfig {
            template: Some("fine\n{{ broken".into()),
            ..RecordsConfig::default()
        };
        let error = Renderer::new(&config, &SpecialTexts::default())
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("data.source.template") && error.contains("line 2"),
            "{error}"
        );
    }
}
