//! What is wrong with a configuration, for people: where, what, and what to
//! write instead.
//!
//! Nothing here stops at the first problem. Whoever reads configuration holds
//! an [`At`], a path that grows with each step into it, reports to it, and goes
//! on.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

/// One problem of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where it stands, if it came from a file.
    pub place: Option<Place>,
    /// Path of the field, as `static_resources.listeners[0].name`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Name of the file, as it was given.
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostic {}

/// Problems found so far.
#[derive(Debug, Default)]
pub(crate) struct Problems(RefCell<Vec<Diagnostic>>);

impl Problems {
    pub(crate) fn push(&self, diagnostic: Diagnostic) {
        self.0.borrow_mut().push(diagnostic);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// True if `path` or something within it has a problem already.
    pub(crate) fn touches(&self, path: &str) -> bool {
        self.0.borrow().iter().any(|known| is_within(&known.path, path))
    }

    pub(crate) fn into_vec(self) -> Vec<Diagnostic> {
        self.0.into_inner()
    }
}

/// True if `path` is `outer` or a path into it.
fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| outer.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
}

/// A place in a tree of messages, and where problems with it are reported.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
    problems: &'a Problems,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root(&'a str),
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> At<'a> {
    /// A path that starts with `name`, which may be empty.
    pub(crate) fn root(name: &'a str, problems: &'a Problems) -> Self {
        At { parent: None, step: Step::Root(name), problems }
    }

    pub(crate) fn field<'b>(&'b self, name: &'b str) -> At<'b> {
        At { parent: Some(self), step: Step::Field(name), problems: self.problems }
    }

    pub(crate) fn index(&self, index: usize) -> At<'_> {
        At { parent: Some(self), step: Step::Index(index), problems: self.problems }
    }

    pub(crate) fn key<'b>(&'b self, key: &'b str) -> At<'b> {
        At { parent: Some(self), step: Step::Key(key), problems: self.problems }
    }

    pub(crate) fn problems(&self) -> &'a Problems {
        self.problems
    }

    pub(crate) fn path(&self) -> String {
        let mut path = String::new();
        self.write_path(&mut path);
        path
    }

    fn write_path(&self, path: &mut String) {
        if let Some(parent) = self.parent {
            parent.write_path(path);
        }
        match self.step {
            Step::Root(name) => path.push_str(name),
            Step::Field(name) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
            }
            Step::Index(index) => path.push_str(&format!("[{index}]")),
            Step::Key(key) => path.push_str(&format!("[\"{key}\"]")),
        }
    }

    /// Reports a problem.
    pub(crate) fn refuse(&self, message: impl Into<String>) {
        self.report(message.into(), None);
    }

    /// Reports a problem and says what to write instead.
    pub(crate) fn refuse_with_hint(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.report(message.into(), Some(hint.into()));
    }

    fn report(&self, message: String, hint: Option<String>) {
        self.problems.push(Diagnostic { place: None, path: self.path(), message, hint });
    }

    /// The value of a result; an error is reported.
    pub(crate) fn ok<T, E: fmt::Display>(&self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.refuse(error.to_string())).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_texts() {
        let problems = Problems::default();
        let root = At::root("listener", &problems);
        root.field("filter_chains").index(2).field("metadata").key("a.b").refuse_with_hint("no", "yes");
        assert!(problems.touches("listener.filter_chains[2]"));
        assert!(problems.touches(""));
        assert!(!problems.touches("listener.filter"));
        let mut found = problems.into_vec();
        assert_eq!(found[0].to_string(), "listener.filter_chains[2].metadata[\"a.b\"]: no (hint: yes)");
        found[0].place = Some(Place { file: "a.yaml".into(), line: 3, column: 7 });
        assert!(found[0].to_string().starts_with("a.yaml:3:7: listener."));
    }
}
