//! Access log lines on their way to files, away from the workers.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender, TrySendError};
use std::thread::JoinHandle;

use pymesh_model::format::LogSink;

/// Blocks of lines that may wait for the disk. A block that finds no place is
/// lost and counted by the worker: a slow disk slows no request.
const WAITING_BLOCKS: usize = 256;

/// Writes log lines in a thread of its own.
pub struct LogWriter {
    sender: Option<SyncSender<(LogSink, Vec<u8>)>>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start() -> io::Result<LogWriter> {
        let (sender, receiver) = sync_channel(WAITING_BLOCKS);
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(&receiver))?;
        Ok(LogWriter { sender: Some(sender), thread: Some(thread) })
    }

    /// A way in for one worker.
    pub fn handle(&self) -> LogHandle {
        LogHandle { sender: self.sender.clone() }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// One worker's way to the writer.
pub struct LogHandle {
    sender: Option<SyncSender<(LogSink, Vec<u8>)>>,
}

impl LogHandle {
    /// Takes the lines, if the writer has room.
    pub(crate) fn write(&self, sink: &LogSink, lines: &mut Vec<u8>) {
        let Some(sender) = &self.sender else { return lines.clear() };
        let block = std::mem::take(lines);
        match sender.try_send((sink.clone(), block)) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            // They wait in the engine, which bounds and counts.
            Err(TrySendError::Full((_, block))) => *lines = block,
        }
    }
}

fn write_all(receiver: &Receiver<(LogSink, Vec<u8>)>) {
    let mut files: HashMap<LogSink, Option<File>> = HashMap::new();
    while let Ok((sink, lines)) = receiver.recv() {
        // Nothing can be said about a log that cannot be written, except on stderr once.
        let result = match &sink {
            LogSink::Stdout => io::stdout().write_all(&lines).and_then(|()| io::stdout().flush()),
            LogSink::Stderr => io::stderr().write_all(&lines),
            LogSink::File(path) => {
                let file = files.entry(sink.clone()).or_insert_with(|| open(path));
                file.as_mut().map_or(Ok(()), |file| file.write_all(&lines))
            }
        };
        if let (Err(error), LogSink::File(path)) = (result, &sink) {
            eprintln!("access log {path}: {error}; its lines are lost until the proxy restarts");
            files.insert(sink, None);
        }
    }
}

fn open(path: &str) -> Option<File> {
    match OpenOptions::new().create(true).append(true).open(path) {
        Ok(file) => Some(file),
        Err(error) => {
            eprintln!("access log {path}: {error}; its lines are lost until the proxy restarts");
            None
        }
    }
}
