use std::fmt::Write;

/// Every number of an answer, in the long form that pandas and spreadsheets take: one row a fact.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// What the table is about.
    pub title: String,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its rows, each as long as `columns`.
    pub rows: Vec<Vec<Cell>>,
}

/// A column's head.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its name, in snake case.
    pub name: &'static str,
    /// The unit of its values; empty for names and plain counts.
    pub unit: &'static str,
}

/// A value of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// A word.
    Text(String),
    /// A whole number.
    Count(u64),
    /// Any other number.
    Number(f64),
    /// Nothing was measured.
    Missing,
}

impl Table {
    /// An empty table; a column is its name and unit.
    pub fn new(title: impl Into<String>, columns: &[(&'static str, &'static str)]) -> Self {
        Self {
            title: title.into(),
            columns: columns
                .iter()
                .map(|&(name, unit)| Column { name, unit })
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn push<const N: usize>(&mut self, row: [Cell; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(row.into());
    }

    /// Comma-separated values as in RFC 4180, with a line of names; a column with a unit is `name [unit]`.
    pub fn to_csv(&self) -> String {
        let mut csv = String::new();
        for (i, column) in self.columns.iter().enumerate() {
            if i > 0 {
                csv.push(',');
            }
            if column.unit.is_empty() {
                quoted(&mut csv, column.name);
            } else {
                quoted(&mut csv, &format!("{} [{}]", column.name, column.unit));
            }
        }
        csv.push('\n');
        for row in &self.rows {
            for (i, cell) in row.iter().enumerate() {
                if i > 0 {
                    csv.push(',');
                }
                match cell {
                    Cell::Text(text) => quoted(&mut csv, text),
                    // Writing to a string cannot fail.
                    Cell::Count(count) => _ = write!(csv, "{count}"),
                    Cell::Number(number) if number.is_finite() => _ = write!(csv, "{number}"),
                    Cell::Number(_) | Cell::Missing => {}
                }
            }
            csv.push('\n');
        }
        csv
    }
}

fn quoted(csv: &mut String, text: &str) {
    if text.contains([',', '"', '\n', '\r']) {
        csv.push('"');
        csv.push_str(&text.replace('"', "\"\""));
        csv.push('"');
    } else {
        csv.push_str(text);
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}
impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}
impl From<u64> for Cell {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}
impl From<u32> for Cell {
    fn from(count: u32) -> Self {
        Self::Count(u64::from(count))
    }
}
impl From<usize> for Cell {
    fn from(count: usize) -> Self {
        Self::Count(count as u64)
    }
}
impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}
/// By its shortest decimal, not by the digits that widening makes up.
impl From<f32> for Cell {
    fn from(number: f32) -> Self {
        Self::Number(number.to_string().parse().unwrap_or(f64::NAN))
    }
}
impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Missing, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_quotes_and_line_ends_in_a_token_do_not_break_a_row_apart() {
        let mut table = Table::new("t", &[("token", ""), ("share", "%")]);
        table.push(["a,\"b\"\n".into(), 0.5f64.into()]);
        table.push(["x".into(), Cell::from(None::<u64>)]);
        table.push(["y".into(), f64::NAN.into()]);
        table.push(["z".into(), 0.1f32.into()]);
        assert_eq!(
            table.to_csv(),
            "token,share [%]\n\"a,\"\"b\"\"\n\",0.5\nx,\n y,\nz,0.1\n".replace(" y", "y")
        );
    }
}
