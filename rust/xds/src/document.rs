//! YAML (and so JSON) as a tree that remembers where everything stands.
//!
//! Scalars stay text: what a plain `80` or `true` means is for the field that
//! it is given to. Depth and size are bounded, aliases included.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// Nesting beyond this is refused.
const MAX_DEPTH: usize = 128;
/// Nodes beyond this are refused; every use of an alias counts as a copy.
const MAX_NODES: usize = 2_000_000;

/// A value and where it begins; line 0 if it came from no file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) mark: Mark,
}

/// Line and column, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// Text; `plain` if it had no quotes, so that it may be a number or a boolean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) plain: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) mark: Mark,
    pub(crate) value: Node,
}

/// The text is not a YAML document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) mark: Mark,
    pub(crate) message: String,
}

impl Scalar {
    pub(crate) fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    pub(crate) fn as_bool(&self) -> Option<bool> {
        match self.text.as_str() {
            "true" | "True" | "TRUE" if self.plain => Some(true),
            "false" | "False" | "FALSE" if self.plain => Some(false),
            _ => None,
        }
    }

    pub(crate) fn as_number(&self) -> Option<f64> {
        let digit = self.text.bytes().any(|b| b.is_ascii_digit());
        (self.plain && digit).then(|| self.text.parse().ok()).flatten()
    }
}

impl Node {
    /// What the value is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
            Value::Scalar(scalar) if scalar.is_null() => "null",
            Value::Scalar(scalar) if scalar.as_bool().is_some() => "a boolean",
            Value::Scalar(scalar) if scalar.as_number().is_some() => "a number",
            Value::Scalar(_) => "a string",
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.is_null())
    }
}

/// Reads the one document of a text.
pub(crate) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| SyntaxError {
            mark: Mark { line: error.marker().line(), column: error.marker().col() + 1 },
            message: format!("this is not YAML: {}", error.info()),
        })?;
        builder.event(event, span)?;
    }
    builder.root.ok_or(SyntaxError { mark: Mark { line: 1, column: 1 }, message: "the document is empty".into() })
}

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    documents: usize,
    nodes: usize,
}

/// A list or mapping that is not complete yet.
struct Open {
    node: Node,
    anchor: usize,
    /// In a mapping: the key that waits for its value.
    key: Option<(String, Mark)>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxError> {
        let mark = Mark { line: span.start.line(), column: span.start.col() + 1 };
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(error(mark, "there is more than one document; only one is read"));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                // `!!str 5` and the like: a tag makes a string of it, as quotes do.
                let plain = style == ScalarStyle::Plain && tag.is_none();
                self.complete(Node { value: Value::Scalar(Scalar { text: text.into_owned(), plain }), mark }, anchor)
            }
            Event::SequenceStart(anchor, _) => self.begin(Value::List(Vec::new()), mark, anchor),
            Event::MappingStart(anchor, _) => self.begin(Value::Map(Vec::new()), mark, anchor),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => self.complete(open.node, open.anchor),
                None => Err(error(mark, "a list or mapping ends that never began")),
            },
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(node) => {
                    let copy = node.clone();
                    self.nodes = self.nodes.saturating_add(size(&copy));
                    self.complete(copy, 0)
                }
                None => Err(error(mark, "this alias is used within the value that it stands for")),
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn begin(&mut self, value: Value, mark: Mark, anchor: usize) -> Result<(), SyntaxError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(error(mark, &format!("this is nested more than {MAX_DEPTH} levels deep")));
        }
        self.open.push(Open { node: Node { value, mark }, anchor, key: None });
        Ok(())
    }

    fn complete(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > MAX_NODES {
            return Err(error(node.mark, &format!("the document has more than {MAX_NODES} values")));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
            self.nodes = self.nodes.saturating_add(size(&node));
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut open.node.value, open.key.take()) {
            (Value::List(items), _) => items.push(node),
            (Value::Map(entries), Some((key, mark))) => entries.push(Entry { key, mark, value: node }),
            (Value::Map(entries), None) => match node.value {
                Value::Scalar(scalar) => {
                    if let Some(first) = entries.iter().find(|entry| entry.key == scalar.text) {
                        let message =
                            format!("`{}` stands here twice; the first is in line {}", scalar.text, first.mark.line);
                        return Err(error(node.mark, &message));
                    }
                    open.key = Some((scalar.text, node.mark));
                }
                Value::List(_) | Value::Map(_) => return Err(error(node.mark, "a key must be a string")),
            },
            (Value::Scalar(_), _) => return Err(error(node.mark, "a scalar cannot hold values")),
        }
        Ok(())
    }
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::Scalar(_) => 1,
        Value::List(items) => items.iter().map(size).sum::<usize>().saturating_add(1),
        Value::Map(entries) => entries.iter().map(|entry| size(&entry.value)).sum::<usize>().saturating_add(1),
    }
}

fn error(mark: Mark, message: &str) -> SyntaxError {
    SyntaxError { mark, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(node: &Node) -> &[Entry] {
        match &node.value {
            Value::Map(entries) => entries,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn places_and_quotes() {
        let root = parse("a:\n  - 80\n  - \"80\"\nb: {c: ~}\n").unwrap();
        let entries = map(&root);
        assert_eq!((entries[0].mark, entries[1].mark), (Mark { line: 1, column: 1 }, Mark { line: 4, column: 1 }));
        let Value::List(items) = &entries[0].value.value else { panic!() };
        assert_eq!(items[0].mark, Mark { line: 2, column: 5 });
        assert_eq!((items[0].kind(), items[1].kind()), ("a number", "a string"));
        assert!(map(&entries[1].value)[0].value.is_null());
    }

    #[test]
    fn json_is_yaml() {
        let root = parse("{\"a\": [1, true, \"x\\n\"], \"b\": {\"c\": null}}").unwrap();
        assert_eq!(map(&root).len(), 2);
    }

    #[test]
    fn aliases_are_copies() {
        let root = parse("a: &x {k: 1}\nb: *x\n").unwrap();
        assert_eq!(map(&root)[0].value.value, map(&root)[1].value.value);
    }

    #[test]
    fn bad_documents_are_refused_with_their_place() {
        for (text, line, what) in [
            ("", 1, "empty"),
            ("a: 1\na: 2\n", 2, "`a` stands here twice; the first is in line 1"),
            ("a: [1\nb", 3, "not YAML"),
            ("a: *nope\n", 1, "not YAML"),
            ("a: &x [*x]\n", 1, "alias"),
            ("---\na: 1\n---\nb: 2\n", 3, "more than one document"),
            ("[a]: 1\n", 1, "a key must be a string"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.message.contains(what), "{text:?}: {error:?}");
            assert_eq!(error.mark.line, line, "{text:?}: {error:?}");
        }
        assert!(parse(&"[".repeat(10_000)).is_err());
        let deep: String = (0..400).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        assert!(parse(&deep).unwrap_err().message.contains("nested"));
    }

    #[test]
    fn aliases_cannot_multiply_without_bound() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..10 {
            let uses = vec![format!("*a{}", n - 1); 10].join(", ");
            text.push_str(&format!("a{n}: &a{n} [{uses}]\n"));
        }
        assert!(parse(&text).unwrap_err().message.contains("more than 2000000 values"));
    }
}
