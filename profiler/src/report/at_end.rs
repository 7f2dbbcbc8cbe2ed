//! Pictures: no events, nothing while the run goes on.

use std::io;

use super::model::{Column, Event, Summary};
use super::{Output, Sink};

/// A form that is all of it written at the end.
pub(super) struct AtEnd {
    sink: Sink,
    draw: fn(&Summary) -> String,
}

impl AtEnd {
    pub(super) fn new(sink: Sink, draw: fn(&Summary) -> String) -> AtEnd {
        AtEnd { sink, draw }
    }
}

impl Output for AtEnd {
    fn start(&mut self, _columns: &[Column]) -> io::Result<()> {
        Ok(())
    }

    fn event(&mut self, _event: &Event) -> io::Result<()> {
        Ok(())
    }

    fn live(&mut self, _so_far: &Summary) -> io::Result<()> {
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }

    fn finish(&mut self, summary: &Summary) -> io::Result<()> {
        let text = (self.draw)(summary);
        self.sink.buffer().extend_from_slice(text.as_bytes());
        self.sink.flush()
    }
}
