//! A text with a name, and an error that points into it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// A text and what it is called in messages: a file, `builtin:malloc`, `--where`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What it is called.
    pub name: String,
    /// The text.
    pub text: String,
    /// What was put behind it, and where each begins.
    included: Vec<(usize, Arc<Source>)>,
}

impl Source {
    /// A source.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Source {
        Source {
            name: name.into(),
            text: text.into(),
            included: Vec::new(),
        }
    }

    /// The same with another text behind it, in which errors are told by its own name and lines.
    pub(crate) fn with(mut self, other: Source) -> Source {
        self.text.push('\n');
        let begins = self.text.len();
        self.text.push_str(&other.text);
        self.included.push((begins, Arc::new(other)));
        self
    }

    /// The text that a range is in, and the range there.
    fn part(self: &Arc<Source>, span: Range<usize>) -> (Arc<Source>, Range<usize>) {
        let mut parts = self.included.iter().rev();
        match parts.find(|(begins, _)| *begins <= span.start) {
            Some((begins, part)) => (part.clone(), span.start - begins..span.end - begins),
            None => (self.clone(), span),
        }
    }

    /// Line and column of a byte offset, both from 1; columns count characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }
}

/// What is wrong, and where.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}:{line}:{column}: {message}", source_text.name)]
pub struct Error {
    /// The text it is about. (Not named `source`: that word means an underlying error to `std::error::Error`.)
    pub source_text: Arc<Source>,
    /// Byte range in it.
    pub span: Range<usize>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, in a sentence without full stop.
    pub message: String,
    /// A word or two at the place itself; may be empty.
    pub label: String,
    /// What to do instead.
    pub help: Option<String>,
}

impl Error {
    /// An error at a byte range of a text.
    pub fn new(source: &Arc<Source>, span: Range<usize>, message: impl Into<String>) -> Error {
        let (source_text, span) = source.part(span);
        let (line, column) = source_text.position(span.start);
        Error {
            source_text,
            span,
            line,
            column,
            // Messages quote the user's text, which must not write to the terminal.
            message: clean(&message.into()),
            label: String::new(),
            help: None,
        }
    }

    /// The same with a word or two at the place.
    pub fn label(mut self, label: impl Into<String>) -> Error {
        self.label = label.into();
        self
    }

    /// The same with what to do instead.
    pub fn help(mut self, help: impl Into<String>) -> Error {
        self.help = Some(help.into());
        self
    }

    /// The message with the lines of the text it is about, as a compiler shows it; several lines, no final
    /// newline.
    pub fn render(&self, color: bool) -> String {
        // Text from a file must not write to the terminal: control characters become blanks of the same
        // length, so that offsets stay.
        let text: String = self
            .source_text
            .text
            .chars()
            .map(|c| {
                if c.is_control() && c != '\n' {
                    blank(c)
                } else {
                    c.into()
                }
            })
            .collect();
        let mut span = self.span.start.min(text.len())..self.span.end.min(text.len());
        while !text.is_char_boundary(span.start) {
            span.start -= 1;
        }
        while !text.is_char_boundary(span.end) {
            span.end += 1;
        }
        let message = clean(&self.message);
        let name = clean(&self.source_text.name);
        let label = clean(&self.label);
        let mut annotation = AnnotationKind::Primary.span(span.start..span.end.max(span.start));
        if !label.is_empty() {
            annotation = annotation.label(label.as_str());
        }
        let mut group = Level::ERROR.primary_title(message.as_str()).element(
            Snippet::source(text.as_str())
                .path(name.as_str())
                .annotation(annotation),
        );
        let help = self.help.as_deref().map(clean);
        if let Some(help) = &help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        renderer.render(&[group])
    }
}

fn blank(c: char) -> String {
    " ".repeat(c.len_utf8())
}

/// Control characters escaped: messages quote the user's text.
fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            let _ = fmt::write(&mut out, format_args!("{}", c.escape_default()));
        } else {
            out.push(c);
        }
    }
    out
}
