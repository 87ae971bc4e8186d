//! Just enough of a Rust lexer to find paths: identifiers and punctuation, with comments,
//! strings and character literals removed, so that prose never counts as an import.

/// A token that can take part in a path or delimit one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// An identifier or keyword; a raw identifier comes without its `r#`.
    Ident(String),
    /// `::`
    PathSep,
    /// Any other single character of punctuation.
    Punct(char),
}

/// A token and the line (from 1) it begins on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spanned {
    pub(crate) token: Token,
    pub(crate) line: usize,
}

/// The tokens of `source`, in order.
pub(crate) fn tokens(source: &str) -> Vec<Spanned> {
    let mut lexer = Lexer {
        chars: source.chars().collect(),
        at: 0,
        line: 1,
        out: Vec::new(),
    };
    lexer.run();
    lexer.out
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    line: usize,
    out: Vec<Spanned>,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek(0)?;
        self.at += 1;
        if c == '\n' {
            self.line += 1;
        }
        Some(c)
    }

    fn push(&mut self, token: Token, line: usize) {
        self.out.push(Spanned { token, line });
    }

    fn run(&mut self) {
        while let Some(c) = self.peek(0) {
            let line = self.line;
            match c {
                '/' if self.peek(1) == Some('/') => self.line_comment(),
                '/' if self.peek(1) == Some('*') => self.block_comment(),
                '"' => self.string(),
                '\'' => self.char_or_lifetime(),
                ':' if self.peek(1) == Some(':') => {
                    self.bump();
                    self.bump();
                    self.push(Token::PathSep, line);
                }
                c if c == '_' || c.is_alphabetic() => self.word(),
                c if c.is_ascii_digit() => self.number(),
                c if c.is_whitespace() => {
                    self.bump();
                }
                c => {
                    self.bump();
                    self.push(Token::Punct(c), line);
                }
            }
        }
    }

    fn line_comment(&mut self) {
        while self.peek(0).is_some_and(|c| c != '\n') {
            self.bump();
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        while let Some(c) = self.bump() {
            if c == '/' && self.peek(0) == Some('*') {
                self.bump();
                depth += 1;
            } else if c == '*' && self.peek(0) == Some('/') {
                self.bump();
                depth -= 1;
                if depth == 0 {
                    return;
                }
            }
        }
    }

    fn string(&mut self) {
        self.bump();
        while let Some(c) = self.bump() {
            match c {
                '\\' => {
                    self.bump();
                }
                '"' => return,
                _ => {}
            }
        }
    }

    /// The cursor stands on the first `#` or on the quote of a raw string.
    fn raw_string(&mut self) {
        let mut hashes = 0;
        while self.peek(0) == Some('#') {
            self.bump();
            hashes += 1;
        }
        self.bump();
        while let Some(c) = self.bump() {
            if c == '"' && (0..hashes).all(|n| self.peek(n) == Some('#')) {
                for _ in 0..hashes {
                    self.bump();
                }
                return;
            }
        }
    }

    fn char_or_lifetime(&mut self) {
        self.bump();
        if self.peek(0) == Some('\\') {
            self.bump();
            self.bump();
            while self.bump().is_some_and(|c| c != '\'') {}
        } else if self.peek(1) == Some('\'') {
            self.bump();
            self.bump();
        } else {
            while self
                .peek(0)
                .is_some_and(|c| c == '_' || c.is_alphanumeric())
            {
                self.bump();
            }
        }
    }

    fn number(&mut self) {
        while self
            .peek(0)
            .is_some_and(|c| c == '_' || c.is_alphanumeric())
        {
            self.bump();
        }
    }

    fn word(&mut self) {
        let line = self.line;
        let mut word = String::new();
        while let Some(c) = self.peek(0).filter(|c| *c == '_' || c.is_alphanumeric()) {
            word.push(c);
            self.bump();
        }
        let raw = matches!(word.as_str(), "r" | "br" | "cr");
        let next_opens_raw = match self.peek(0) {
            Some('"') => true,
            Some('#') => {
                let hashes = self.chars[self.at..].iter().take_while(|c| **c == '#');
                self.peek(hashes.count()) == Some('"')
            }
            _ => false,
        };
        if raw && next_opens_raw {
            self.raw_string();
        } else if word == "r" && self.peek(0) == Some('#') {
            self.bump();
            self.word();
        } else if matches!(word.as_str(), "b" | "c") && self.peek(0) == Some('"') {
            self.string();
        } else if word == "b" && self.peek(0) == Some('\'') {
            self.char_or_lifetime();
        } else {
            self.push(Token::Ident(word), line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idents(source: &str) -> Vec<String> {
        tokens(source)
            .into_iter()
            .filter_map(|t| match t.token {
                Token::Ident(name) => Some(name),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn prose_and_literals_are_not_code() {
        let source = r##"
            // use crate::a;
            /* use crate::b; /* nested crate::c */ still crate::d */
            /// [`crate::e`]
            let x = "crate::f \" crate::g"; let y = r#"crate::h " crate::i"#; let z = b"crate::j";
            real
        "##;
        assert_eq!(idents(source), ["let", "x", "let", "y", "let", "z", "real"]);
    }

    #[test]
    fn lifetimes_and_characters_do_not_swallow_code() {
        assert_eq!(
            idents(r"fn f<'a>(c: &'a T) { '\''; '\u{1F600}'; b'x'; '('; g }"),
            ["fn", "f", "c", "T", "g"]
        );
    }

    #[test]
    fn lines_are_counted_through_literals() {
        let all = tokens("a \"\n\n\" b\n c");
        let lines: Vec<usize> = all.iter().map(|t| t.line).collect();
        assert_eq!(lines, [1, 3, 4]);
    }

    #[test]
    fn raw_identifiers_lose_their_mark() {
        assert_eq!(idents("r#type r#\"gone\"# br\"gone\""), ["type"]);
    }
}
