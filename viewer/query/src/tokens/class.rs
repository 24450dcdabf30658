/// What a token is in its text, as far as the look of the text tells. Made for source code; prose is mostly names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TokenClass {
    /// `( ) [ ] { }`.
    Bracket,
    /// Other signs.
    Operator,
    /// A word that programming languages reserve: `fn`, `let`, `return`, …
    Keyword,
    /// A word, or a part of one.
    Name,
    /// Digits.
    Number,
    /// Within quotation marks.
    Text,
    /// Within a comment.
    Comment,
    /// Spaces and line ends.
    Space,
}

impl TokenClass {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Bracket,
        Self::Operator,
        Self::Keyword,
        Self::Name,
        Self::Number,
        Self::Text,
        Self::Comment,
        Self::Space,
    ];

    /// Its name, in the plural.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bracket => "brackets",
            Self::Operator => "operators",
            Self::Keyword => "keywords",
            Self::Name => "names",
            Self::Number => "numbers",
            Self::Text => "strings",
            Self::Comment => "comments",
            Self::Space => "space",
        }
    }
}

/// Words that Rust, C, Python, JavaScript, Go and their kin reserve.
const KEYWORDS: &str = " abstract as async await bool break case catch char class const continue crate def default defer delete \
    do double dyn elif else enum except export extends extern false final finally float fn for from func function go goto if \
    impl implements import in instanceof int interface is lambda let long loop match mod module move mut namespace new nil \
    none not null or and package pass private protected pub public raise ref return self short signed sizeof static str \
    struct super switch template this throw trait true try type typedef typeof union unsafe unsigned use using var virtual \
    void volatile where while with yield u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 ";

/// What the text is at one byte.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Code,
    LineComment,
    BlockComment,
    Quoted(u8),
}

impl TokenClass {
    /// The classes of tokens that follow one another, given as text and source. A source's first token begins anew.
    pub(crate) fn of_text<'a>(tokens: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<Self> {
        let tokens: Vec<_> = tokens.collect();
        let mut classes = Vec::with_capacity(tokens.len());
        for document in tokens.chunk_by(|a, b| a.1 == b.1) {
            of_document(document, &mut classes);
        }
        classes
    }
}

fn of_document(tokens: &[(&str, &str)], classes: &mut Vec<TokenClass>) {
    let text: String = tokens.iter().map(|token| token.0).collect();
    let states = scan(text.as_bytes());
    let mut at = 0;
    for (token, _) in tokens {
        let range = at..at + token.len();
        at = range.end;
        classes.push(of_token(token, &text, range, &states));
    }
}

/// What every byte is part of.
fn scan(text: &[u8]) -> Vec<State> {
    let mut states = Vec::with_capacity(text.len());
    let mut state = State::Code;
    let mut at = 0;
    while at < text.len() {
        let (byte, next) = (text[at], text.get(at + 1).copied());
        let mut length = 1;
        let mut after = state;
        match state {
            State::Code => match (byte, next) {
                (b'/', Some(b'/')) => (state, after) = (State::LineComment, State::LineComment),
                (b'/', Some(b'*')) => {
                    (state, after) = (State::BlockComment, State::BlockComment);
                    length = 2;
                }
                // `#[…]`, `#!` and `#include` are code; a `#` before a space is a comment of scripts.
                (b'#', Some(b' ')) => (state, after) = (State::LineComment, State::LineComment),
                (b'"', _) => (state, after) = (State::Quoted(b'"'), State::Quoted(b'"')),
                // A character; a lifetime has no second quotation mark near.
                (b'\'', Some(next)) if next == b'\\' || text.get(at + 2) == Some(&b'\'') => {
                    (state, after) = (State::Quoted(b'\''), State::Quoted(b'\''));
                }
                _ => {}
            },
            State::LineComment if byte == b'\n' => after = State::Code,
            State::BlockComment if (byte, next) == (b'*', Some(b'/')) => {
                length = 2;
                after = State::Code;
            }
            State::Quoted(_) if byte == b'\\' => length = 2,
            State::Quoted(quote) if byte == quote => after = State::Code,
            _ => {}
        }
        states.extend(std::iter::repeat_n(state, length.min(text.len() - at)));
        at += length;
        state = after;
    }
    states
}

fn of_token(
    token: &str,
    text: &str,
    range: std::ops::Range<usize>,
    states: &[State],
) -> TokenClass {
    let trimmed = token.trim();
    let Some(first) = trimmed.chars().next() else {
        return TokenClass::Space;
    };
    let start = range.start + (token.len() - token.trim_start().len());
    match states.get(start) {
        Some(State::LineComment | State::BlockComment) => return TokenClass::Comment,
        Some(State::Quoted(_)) => return TokenClass::Text,
        _ => {}
    }
    if trimmed.chars().any(|c| "()[]{}".contains(c))
        && !trimmed.chars().any(|c| c.is_alphanumeric())
    {
        return TokenClass::Bracket;
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    if first.is_ascii_digit() {
        // Digits within a name (`u` `32`) are part of it.
        let before = text[..start].chars().next_back();
        return if before.is_some_and(|c| c.is_alphabetic() || c == '_') {
            TokenClass::Name
        } else {
            TokenClass::Number
        };
    }
    if !trimmed.chars().any(is_word) {
        // A character that is split over tokens shows as U+FFFD: a part of a name or of text.
        return if trimmed.contains('\u{fffd}') {
            TokenClass::Name
        } else {
            TokenClass::Operator
        };
    }
    let end = start + trimmed.len();
    let whole = !text[..start].chars().next_back().is_some_and(is_word)
        && !text[end..].chars().next().is_some_and(is_word);
    if whole && KEYWORDS.split(' ').any(|keyword| keyword == trimmed) {
        return TokenClass::Keyword;
    }
    TokenClass::Name
}

#[cfg(test)]
mod tests {
    use super::TokenClass::*;
    use super::*;

    #[test]
    fn classes_depend_on_the_text_around_a_token() {
        let tokens = [
            ("pub", Keyword),
            (" fn", Keyword),
            (" public", Keyword),
            ("ish", Name),
            ("(", Bracket),
            ("x", Name),
            ("32", Name),
            (":", Operator),
            (" &", Operator),
            ("'", Operator),
            ("a", Name),
            (" u8", Keyword),
            (" =", Operator),
            (" 42", Number),
            (") {", Bracket),
            (" //", Comment),
            (" fn (", Comment),
            ("\n", Space),
            ("\"", Text),
            ("if //", Text),
            ("\\\"", Text),
            ("\"", Text),
            (";", Operator),
            ("'\\n'", Text),
            ("/*", Comment),
            ("\n\n", Space),
            (" let */", Comment),
            ("let", Keyword),
        ];
        // `publicish` is one word.
        let classes = TokenClass::of_text(tokens.iter().map(|&(text, _)| (text, "a.rs")));
        for ((text, wanted), class) in tokens.iter().zip(classes) {
            let wanted = if *text == " public" { Name } else { *wanted };
            assert_eq!(class, wanted, "{text:?}");
        }
    }

    #[test]
    fn an_open_comment_ends_with_its_document() {
        let classes = TokenClass::of_text([("/* open", "a"), ("fn", "b")].into_iter());
        assert_eq!(classes, [Comment, Keyword]);
    }
}
