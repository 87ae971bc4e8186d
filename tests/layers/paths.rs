//! Every path a file names, made absolute: `use` trees, expressions, types, attributes.

use crate::lexer::{Spanned, Token, tokens};

/// A path as written somewhere in a file, resolved as far as text allows: it starts with
/// `crate` when it leads into the file's own crate, else with whatever name it begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
}

impl Path {
    /// The path as Rust writes it.
    pub(crate) fn display(&self) -> String {
        self.segments.join("::")
    }
}

/// What one file names.
#[derive(Debug, Default)]
pub(crate) struct Named {
    pub(crate) paths: Vec<Path>,
    /// Child modules it declares: a path that begins with one of them is local.
    pub(crate) children: Vec<String>,
}

/// Everything `source` names; `module` is the module path of the file (`["store", "sled"]`).
pub(crate) fn named(source: &str, module: &[String]) -> Named {
    let mut walker = Walker {
        tokens: tokens(source),
        module: module.to_vec(),
        inline: Vec::new(),
        depth: 0,
        named: Named::default(),
    };
    walker.run();
    walker.named
}

struct Walker {
    tokens: Vec<Spanned>,
    module: Vec<String>,
    /// Inline modules that are open: name and the brace depth at which each one ends.
    inline: Vec<(String, usize)>,
    depth: usize,
    named: Named,
}

impl Walker {
    fn ident(&self, at: usize) -> Option<&str> {
        match self.tokens.get(at).map(|t| &t.token) {
            Some(Token::Ident(name)) => Some(name),
            _ => None,
        }
    }

    fn is(&self, at: usize, token: &Token) -> bool {
        self.tokens.get(at).is_some_and(|t| t.token == *token)
    }

    fn run(&mut self) {
        let mut at = 0;
        while at < self.tokens.len() {
            at = self.step(at);
        }
    }

    /// Handles what begins at `at` and answers where the next thing begins.
    fn step(&mut self, at: usize) -> usize {
        match self.tokens[at].token.clone() {
            Token::Punct('{') => {
                self.depth += 1;
                at + 1
            }
            Token::Punct('}') => {
                self.depth = self.depth.saturating_sub(1);
                if self
                    .inline
                    .last()
                    .is_some_and(|(_, end)| *end == self.depth)
                {
                    self.inline.pop();
                }
                at + 1
            }
            Token::Ident(word) if word == "mod" => self.module_item(at),
            Token::Ident(word) if word == "use" => self.tree(at + 1, &[], true),
            Token::Ident(word) if word == "extern" && self.ident(at + 1) == Some("crate") => {
                self.tree(at + 2, &[], true)
            }
            // After a value (`>::f`, `Self::f`) a separator continues something; alone it begins a path.
            Token::Ident(_) | Token::PathSep => self.tree(at, &[], false),
            Token::Punct(_) => at + 1,
        }
    }

    fn module_item(&mut self, at: usize) -> usize {
        let Some(name) = self.ident(at + 1).map(str::to_owned) else {
            return at + 1;
        };
        if self.is(at + 2, &Token::Punct('{')) {
            self.inline.push((name, self.depth));
            at + 2
        } else {
            self.named.children.push(name);
            at + 2
        }
    }

    /// Reads a path or a use tree that begins at `at` below `prefix`.
    /// `always` records single names too, as in `use name;`.
    fn tree(&mut self, start: usize, prefix: &[String], always: bool) -> usize {
        let mut at = start;
        let mut segments = prefix.to_vec();
        let line = self.tokens.get(at).map_or(0, |t| t.line);
        if self.is(at, &Token::PathSep) {
            at += 1;
        }
        loop {
            if let Some(name) = self.ident(at) {
                segments.push(name.to_owned());
                at += 1;
            } else if always && self.is(at, &Token::Punct('{')) {
                return self.group(at + 1, &segments);
            } else {
                // A glob, a turbofish, or nothing a path continues with.
                if always && self.is(at, &Token::Punct('*')) {
                    at += 1;
                }
                break;
            }
            if self.is(at, &Token::PathSep) {
                at += 1;
            } else {
                break;
            }
        }
        if segments.len() > 1 || always && !segments.is_empty() {
            self.record(segments, line);
        }
        // `use a as b` leaves `as b` behind; neither is a path.
        at.max(start + 1)
    }

    fn group(&mut self, mut at: usize, prefix: &[String]) -> usize {
        while at < self.tokens.len() && !self.is(at, &Token::Punct('}')) {
            let next = match &self.tokens[at].token {
                Token::Punct('{') => self.group(at + 1, prefix),
                Token::Punct(',') => at + 1,
                Token::Punct('*') => {
                    let line = self.tokens[at].line;
                    self.record(prefix.to_vec(), line);
                    at + 1
                }
                Token::Ident(word) if word == "as" => at + 2,
                _ => self.tree(at, prefix, true),
            };
            at = next.max(at + 1);
        }
        at + 1
    }

    fn record(&mut self, segments: Vec<String>, line: usize) {
        let Some(segments) = self.absolute(segments) else {
            return;
        };
        self.named.paths.push(Path { segments, line });
    }

    /// Turns `self` and `super` into a path from `crate`.
    fn absolute(&self, segments: Vec<String>) -> Option<Vec<String>> {
        let first = segments.first()?;
        if first != "self" && first != "super" {
            return Some(segments);
        }
        let mut base = self.module.clone();
        base.extend(self.inline.iter().map(|(name, _)| name.clone()));
        let mut rest = segments.as_slice();
        while let Some((head, tail)) = rest.split_first() {
            match head.as_str() {
                "self" => {}
                "super" => {
                    base.pop();
                }
                _ => break,
            }
            rest = tail;
        }
        let mut whole = vec!["crate".to_owned()];
        whole.extend(base);
        whole.extend(rest.iter().cloned());
        Some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str, module: &[&str]) -> Vec<String> {
        let module: Vec<String> = module.iter().map(|s| (*s).to_owned()).collect();
        named(source, &module)
            .paths
            .iter()
            .map(Path::display)
            .collect()
    }

    #[test]
    fn use_trees_are_spread_out() {
        assert_eq!(
            found(
                "use crate::{store::{Engine, sled as s}, domain::*, api};",
                &["x"]
            ),
            [
                "crate::store::Engine",
                "crate::store::sled",
                "crate::domain",
                "crate::api"
            ]
        );
    }

    #[test]
    fn a_bare_use_and_an_extern_crate_count() {
        assert_eq!(
            found(
                "use sled; extern crate tonic as t; pub(crate) use ::wacore;",
                &["x"]
            ),
            ["sled", "tonic", "wacore"]
        );
    }

    #[test]
    fn paths_in_expressions_types_and_attributes_count() {
        assert_eq!(
            found(
                "#[tokio::test] fn f(x: Vec<crate::api::A>) -> ::sled::Result<()> { crate::cli::run::<u8>() }",
                &["x"]
            ),
            [
                "tokio::test",
                "crate::api::A",
                "sled::Result",
                "crate::cli::run"
            ]
        );
    }

    #[test]
    fn relative_paths_become_absolute() {
        assert_eq!(
            found(
                "use super::super::api::A; use self::b::C; mod t { use super::D; } use super::E;",
                &["store", "sled"]
            ),
            [
                "crate::api::A",
                "crate::store::sled::b::C",
                "crate::store::sled::D",
                "crate::store::E"
            ]
        );
    }

    #[test]
    fn inline_modules_close_where_they_end() {
        assert_eq!(
            found(
                "mod a { fn f() { if x { } } mod b { use super::super::X; } use super::Y; } use super::Z;",
                &["m"]
            ),
            ["crate::m::X", "crate::m::Y", "crate::Z"]
        );
    }

    #[test]
    fn child_modules_are_reported() {
        assert_eq!(
            named("mod sled; pub mod memory; mod t { }", &[]).children,
            ["sled", "memory"]
        );
    }
}
