//! Rows of TRL's columns → documents: conversations, pairs and groups of completions.

use serde_json::Value;

use super::Segment;
use super::render::{CHAT, RenderedDocument, Renderer, merge, unfit};
use crate::config::RecordForm;

const WANTED: &str = "text or a list of messages";

impl Renderer {
    /// The documents of a row of this form.
    pub(super) fn columns_of(
        &self,
        form: RecordForm,
        row: &Value,
    ) -> Result<Vec<RenderedDocument>, String> {
        match form {
            RecordForm::Supervised => Ok(vec![self.supervised(row)?]),
            RecordForm::Preference => self.preference(row),
            RecordForm::Groups => self.group(row),
        }
    }

    fn supervised(&self, row: &Value) -> Result<RenderedDocument, String> {
        let segments = match (column(row, "messages"), column(row, "completion")) {
            (Some(Value::Array(messages)), _) => merge(self.chat(messages, row)?),
            (Some(_), _) => return Err("column \"messages\" is not a list of messages".to_owned()),
            (None, None) => {
                return Err("has neither \"messages\" nor \"prompt\" and \"completion\"".to_owned());
            }
            (None, Some(completion)) => {
                let prompt = required(row, "prompt")?;
                let trained = self.trains_on_all();
                self.exchange(prompt, completion, "completion", trained, row)?
            }
        };
        Ok(RenderedDocument {
            segments,
            ..RenderedDocument::default()
        })
    }

    fn preference(&self, row: &Value) -> Result<Vec<RenderedDocument>, String> {
        let (chosen, rejected) = (required(row, "chosen")?, required(row, "rejected")?);
        let prompt = column(row, "prompt");
        let common;
        let (prompt, chosen, rejected) = match (prompt, chosen, rejected) {
            // Whole conversations: the prompt is what both of them begin with.
            (None | Some(Value::String(_)), Value::Array(one), Value::Array(other)) => {
                let shared = one.iter().zip(other).take_while(|(a, b)| a == b).count();
                // An answer that the other one goes on from is an answer all the same.
                let shared = shared.min(one.len().min(other.len()).saturating_sub(1));
                if shared == 0 {
                    return Err(
                        "has no column \"prompt\", and \"chosen\" and \"rejected\" do not begin with the same message"
                            .to_owned(),
                    );
                }
                common = [
                    Value::Array(one[..shared].to_vec()),
                    Value::Array(one[shared..].to_vec()),
                    Value::Array(other[shared..].to_vec()),
                ];
                (&common[0], &common[1], &common[2])
            }
            (Some(prompt), chosen, rejected) => (prompt, chosen, rejected),
            (None, ..) => return Err("has no column \"prompt\"".to_owned()),
        };
        [("chosen", chosen), ("rejected", rejected)]
            .into_iter()
            .map(|(name, completion)| {
                let document = RenderedDocument {
                    segments: self.exchange(prompt, completion, name, false, row)?,
                    ..RenderedDocument::default()
                };
                match document.is_empty() {
                    true => Err(format!("columns \"prompt\" and {name:?} are empty")),
                    false => Ok(document),
                }
            })
            .collect()
    }

    fn group(&self, row: &Value) -> Result<Vec<RenderedDocument>, String> {
        let prompt = required(row, "prompt")?;
        let list = |name: &str| match required(row, name)? {
            Value::Array(list) => Ok(list),
            other => Err(unfit(name, Some(other), "a list")),
        };
        let (completions, rewards) = (list("completions")?, list("rewards")?);
        if completions.len() < 2 {
            return Err(format!(
                "column \"completions\" has {} of them: rewards are compared within a row, so it takes 2 or more",
                completions.len()
            ));
        }
        let fits = |name: &str, count: usize| match count == completions.len() {
            true => Ok(()),
            false => Err(format!(
                "column {name:?} has {count} values for {} completions",
                completions.len()
            )),
        };
        fits("rewards", rewards.len())?;
        let old = match column(row, "old_logprobs") {
            None => None,
            Some(Value::Array(list)) => {
                fits("old_logprobs", list.len())?;
                Some(list)
            }
            other => return Err(unfit("old_logprobs", other, "a list of lists of numbers")),
        };
        let mut documents = Vec::new();
        for (index, (completion, reward)) in completions.iter().zip(rewards).enumerate() {
            let number = index + 1;
            let reward = finite(reward)
                .ok_or_else(|| format!("reward {number} is {reward}: it must be a number"))?;
            let old = old
                .map(|old| log_probabilities(&old[index], number))
                .transpose()?;
            let segments = self.exchange(prompt, completion, "completions", false, row)?;
            let document = RenderedDocument {
                segments,
                reward: Some(reward),
                old,
            };
            if document.is_empty() {
                return Err(format!("the prompt and completion {number} are empty"));
            }
            documents.push(document);
        }
        Ok(documents)
    }

    /// A prompt, and what follows it and is trained on.
    fn exchange(
        &self,
        prompt: &Value,
        completion: &Value,
        name: &str,
        train_prompt: bool,
        row: &Value,
    ) -> Result<Vec<Segment>, String> {
        let (before, after) = match (prompt, completion) {
            (Value::String(prompt), Value::String(completion)) => {
                (prompt.clone(), completion.clone())
            }
            (Value::Array(prompt), Value::Array(completion)) => {
                let mut context = self.context(row);
                let mut render = |messages: Vec<Value>, ask: bool| {
                    context.insert("messages".to_owned(), Value::Array(messages));
                    context.insert("add_generation_prompt".to_owned(), Value::Bool(ask));
                    self.fill(CHAT, &context)
                };
                let before = render(prompt.clone(), true)?;
                let whole = render([prompt.as_slice(), completion].concat(), false)?;
                match whole.strip_prefix(before.as_str()) {
                    Some(after) => (before.clone(), after.to_owned()),
                    None => {
                        return Err(format!(
                            "{CHAT} renders the prompt differently when {name:?} follows, so the part to train on \
                             cannot be told: give both as text"
                        ));
                    }
                }
            }
            (Value::String(_), other) => {
                return Err(unfit(name, Some(other), "text, as the prompt is"));
            }
            (Value::Array(_), other) => {
                return Err(unfit(
                    name,
                    Some(other),
                    "a list of messages, as the prompt is",
                ));
            }
            (other, _) => return Err(unfit("prompt", Some(other), WANTED)),
        };
        // Two segments even where both are trained on: the prompt's tokens never depend on what
        // follows.
        let segments = [(before, train_prompt), (after, true)];
        let segments = segments.into_iter().filter(|(text, _)| !text.is_empty());
        Ok(segments
            .map(|(text, trained)| Segment { text, trained })
            .collect())
    }
}

/// A column that is there and not null.
fn column<'a>(row: &'a Value, name: &str) -> Option<&'a Value> {
    row.get(name).filter(|value| !value.is_null())
}

fn required<'a>(row: &'a Value, name: &str) -> Result<&'a Value, String> {
    column(row, name).ok_or_else(|| unfit(name, row.get(name), WANTED))
}

fn finite(value: &Value) -> Option<f32> {
    let number = value.as_f64()? as f32;
    number.is_finite().then_some(number)
}

fn log_probabilities(list: &Value, number: usize) -> Result<Vec<f32>, String> {
    let wrong = || format!("old_logprobs of completion {number} are not a list of numbers up to 0");
    let list = list.as_array().ok_or_else(wrong)?;
    list.iter()
        .map(|value| finite(value).filter(|log| *log <= 0.0))
        .collect::<Option<Vec<f32>>>()
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::render::SpecialTexts;
    use super::*;
    use crate::config::{RecordsConfig, TrainOn};

    fn render(form: RecordForm, row: Value) -> Result<Vec<RenderedDocument>, String> {
        let config = RecordsConfig {
            form: Some(form),
            train_on: TrainOn::Completion,
            ..RecordsConfig::default()
        };
        let renderer = Renderer::new(&config, &SpecialTexts::default()).unwrap();
        renderer.render(&row).map(|rendered| rendered.documents)
    }

    fn parts(document: &RenderedDocument) -> Vec<(&str, bool)> {
        let segments = document.segments.iter();
        segments.map(|s| (s.text.as_str(), s.trained)).collect()
    }

    fn says(role: &str, content: &str) -> Value {
        json!({"role": role, "content": content})
    }

    const ASKED: &str = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";

    #[test]
    fn a_prompt_is_never_trained_on_and_its_chat_ends_where_the_assistant_begins() {
        let row = json!({"prompt": "1 + 1 =", "completion": " 2"});
        let found = render(RecordForm::Supervised, row).unwrap();
        assert_eq!(parts(&found[0]), [("1 + 1 =", false), (" 2", true)]);
        let row = json!({"prompt": [says("user", "hi")], "completion": [says("assistant", "yo")]});
        let found = render(RecordForm::Supervised, row).unwrap();
        assert_eq!(parts(&found[0]), [(ASKED, false), ("yo<|im_end|>\n", true)]);
        let row = json!({"messages": [says("user", "hi"), says("assistant", "yo")]});
        assert_eq!(render(RecordForm::Supervised, row).unwrap(), found);
    }

    #[test]
    fn a_pair_shares_its_prompt_whether_it_is_given_or_the_common_beginning() {
        let text = json!({"prompt": "p", "chosen": "c", "rejected": "r"});
        let found = render(RecordForm::Preference, text).unwrap();
        assert_eq!(parts(&found[0]), [("p", false), ("c", true)]);
        assert_eq!(parts(&found[1]), [("p", false), ("r", true)]);
        let (hi, yes, no) = (
            says("user", "hi"),
            says("assistant", "yes"),
            says("assistant", "no"),
        );
        let given = json!({"prompt": [hi], "chosen": [yes], "rejected": [no]});
        let whole = json!({"chosen": [hi, yes], "rejected": [hi, no]});
        let found = render(RecordForm::Preference, given).unwrap();
        assert_eq!(parts(&found[1]), [(ASKED, false), ("no<|im_end|>\n", true)]);
        assert_eq!(render(RecordForm::Preference, whole).unwrap(), found);
        // As some data sets have it: the question as text beside whole conversations.
        let both = json!({"prompt": "hi", "chosen": [hi, yes], "rejected": [hi, no]});
        assert_eq!(render(RecordForm::Preference, both).unwrap(), found);
        let same = json!({"chosen": [hi, yes], "rejected": [hi, yes]});
        assert_eq!(render(RecordForm::Preference, same).unwrap()[1], found[0]);
    }

    #[test]
    fn a_group_keeps_each_completion_s_reward_and_old_log_probabilities() {
        let row = json!({"prompt": "p", "completions": ["a", "b"], "rewards": [1, -0.5],
                         "old_logprobs": [[-0.5], [-1, 0.0]]});
        let found = render(RecordForm::Groups, row).unwrap();
        assert_eq!(found[0].reward, Some(1.0));
        assert_eq!(found[1].reward, Some(-0.5));
        assert_eq!(found[1].old, Some(vec![-1.0, 0.0]));
        assert_eq!(parts(&found[1]), [("p", false), ("b", true)]);
        let row = json!({"prompt": "p", "completions": ["a", "b"], "rewards": [1, 2], "old_logprobs": null});
        assert_eq!(render(RecordForm::Groups, row).unwrap()[0].old, None);
    }

    #[test]
    fn what_is_wrong_with_a_row_is_said_with_the_column() {
        use RecordForm::{Groups, Preference, Supervised};
        for (form, row, words) in [
            (Supervised, json!({"text": "x"}), "neither \"messages\""),
            (
                Supervised,
                json!({"completion": "x"}),
                "no column \"prompt\"",
            ),
            (
                Supervised,
                json!({"prompt": "p", "completion": 3}),
                "\"completion\" is not text",
            ),
            (
                Supervised,
                json!({"prompt": "p", "completion": []}),
                "\"completion\" is not text",
            ),
            (
                Supervised,
                json!({"messages": "x"}),
                "\"messages\" is not a list",
            ),
            (
                Preference,
                json!({"prompt": "p", "chosen": "c"}),
                "no column \"rejected\"",
            ),
            (
                Preference,
                json!({"chosen": "c", "rejected": "r"}),
                "no column \"prompt\"",
            ),
            (
                Preference,
                json!({"prompt": "", "chosen": " ", "rejected": "r"}),
                "empty",
            ),
            (
                Preference,
                json!({"chosen": [says("user", "a")], "rejected": [says("user", "b")]}),
                "same message",
            ),
            (
                Groups,
                json!({"prompt": "p", "completions": ["a"], "rewards": [1]}),
                "2 or more",
            ),
            (
                Groups,
                json!({"prompt": "p", "completions": ["a", "b"], "rewards": [1]}),
                "\"rewards\" has 1 values for 2",
            ),
            (
                Groups,
                json!({"prompt": "p", "completions": ["a", "b"], "rewards": [1, null]}),
                "reward 2 is null",
            ),
            (
                Groups,
                json!({"prompt": "p", "completions": ["a", "b"], "rewards": [1, 2], "old_logprobs": [[-1.0], [0.5]]}),
                "old_logprobs of completion 2",
            ),
        ] {
            let error = render(form, row.clone()).unwrap_err();
            assert!(error.contains(words), "{row}: {error}");
        }
    }
}
