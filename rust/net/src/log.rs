//! Access log lines on their way to files, away from the workers.
//!
//! One thread writes; workers hand it blocks of lines and never wait. What waits for a slow disk is bounded in octets,
//! here and, before that, in each engine; what finds no place is dropped there and counted. A file that cannot be
//! written (no room, no permission) is tried again with every block: the log goes on by itself when there is room again,
//! and a line that was cut off in the middle stays alone on its line.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pymesh_engine::telemetry::stats::{FileLogStats, FilesystemStats, Hub};
use pymesh_model::format::LogSink;

use crate::tap::Tap;

/// Octets that may wait for the disk.
const MOST_WAITING: usize = 8 << 20;
/// How long the end of the process waits for what is left to be written. A disk that hangs does not hold it up.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Writes log lines in a thread of its own.
pub struct LogWriter {
    sender: Option<Sender<Block>>,
    waiting: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

type Block = (LogSink, Vec<u8>);

impl LogWriter {
    /// Starts the thread, which hands the tap's lines to `tap` and counts in `hub` as the one after `workers`.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start(tap: Arc<Tap>, hub: &Hub, workers: usize) -> io::Result<LogWriter> {
        let (sender, receiver) = channel();
        let waiting = Arc::<AtomicUsize>::default();
        let mut files =
            Files { known: HashMap::new(), stats: hub.filesystem(workers), dropped: hub.file_log(workers), tap };
        let handed = waiting.clone();
        let write = move || files.write_all(&receiver, &handed);
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(write)?;
        Ok(LogWriter { sender: Some(sender), waiting, thread: Some(thread) })
    }

    /// A way in for one worker.
    pub fn handle(&self) -> LogHandle {
        LogHandle { sender: self.sender.clone(), waiting: self.waiting.clone() }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.sender = None;
        let Some(thread) = self.thread.take() else { return };
        let begun = Instant::now();
        while !thread.is_finished() && begun.elapsed() < LAST_WORDS {
            std::thread::sleep(Duration::from_millis(5));
        }
        if thread.is_finished() {
            let _panicked = thread.join();
        }
    }
}

/// One worker's way to the writer.
pub struct LogHandle {
    sender: Option<Sender<Block>>,
    waiting: Arc<AtomicUsize>,
}

impl LogHandle {
    /// Takes the lines, if the writer has room. If not they wait in the engine, which bounds and counts.
    pub(crate) fn write(&self, sink: &LogSink, lines: &mut Vec<u8>) {
        let Some(sender) = &self.sender else { return lines.clear() };
        if self.waiting.load(Ordering::Relaxed) >= MOST_WAITING {
            return;
        }
        self.waiting.fetch_add(lines.len(), Ordering::Relaxed);
        // A writer that is gone takes nothing: the process ends.
        let _gone = sender.send((sink.clone(), std::mem::take(lines)));
    }
}

/// What the thread has open.
struct Files {
    known: HashMap<Arc<str>, LogFile>,
    stats: Arc<FilesystemStats>,
    dropped: Arc<FileLogStats>,
    tap: Arc<Tap>,
}

#[derive(Default)]
struct LogFile {
    file: Option<File>,
    /// Lines lost since it was last written; the reason was told.
    lost: u64,
    /// Its last line is cut off.
    is_torn: bool,
}

impl Files {
    fn write_all(&mut self, receiver: &Receiver<Block>, waiting: &AtomicUsize) {
        while let Ok((sink, lines)) = receiver.recv() {
            self.write(&sink, &lines);
            waiting.fetch_sub(lines.len(), Ordering::Relaxed);
        }
    }

    fn write(&mut self, sink: &LogSink, lines: &[u8]) {
        let outcome = match sink {
            LogSink::Stdout => io::stdout().write_all(lines).and_then(|()| io::stdout().flush()).map_err(|_| lines),
            LogSink::Stderr => io::stderr().write_all(lines).map_err(|_| lines),
            LogSink::Tap => return self.tap.tell(lines),
            LogSink::File(path) => self.known.entry(path.clone()).or_default().write(path, lines),
        };
        match outcome {
            Ok(()) => self.stats.write_completed.inc(),
            Err(left) => {
                self.stats.write_failed.inc();
                self.dropped.logs_dropped.add(count(left));
            }
        }
    }
}

impl LogFile {
    /// Writes lines, or says which part of them could not be.
    fn write<'a>(&mut self, path: &str, lines: &'a [u8]) -> Result<(), &'a [u8]> {
        let mut left = lines;
        match self.try_write(path, &mut left) {
            Ok(()) => {
                if self.lost > 0 {
                    eprintln!("access log {path}: is written again; {} lines are lost", self.lost);
                    self.lost = 0;
                }
                Ok(())
            }
            Err(error) => {
                if self.lost == 0 {
                    eprintln!("access log {path}: {error}; lines are lost until it can be written again");
                }
                self.lost += count(left);
                Err(left)
            }
        }
    }

    fn try_write(&mut self, path: &str, left: &mut &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(OpenOptions::new().create(true).append(true).open(path)?),
        };
        if self.is_torn {
            file.write_all(b"\n")?;
            self.is_torn = false;
        }
        while !left.is_empty() {
            let written = match file.write(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let (done, rest) = left.split_at(written.min(left.len()));
            self.is_torn = done.last() != Some(&b'\n');
            *left = rest;
        }
        // A format of the user's need not end with a newline.
        self.is_torn = false;
        Ok(())
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|octet| **octet == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(hub: &Hub) -> Files {
        Files { known: HashMap::new(), stats: hub.filesystem(0), dropped: hub.file_log(0), tap: Arc::default() }
    }

    #[test]
    fn a_disk_without_room_costs_lines_that_are_counted() {
        let hub = Hub::default();
        let mut files = files(&hub);
        let sink = LogSink::File("/dev/full".into());
        files.write(&sink, b"one\ntwo\n");
        files.write(&sink, b"three\n");
        assert_eq!(files.dropped.logs_dropped.value(), 3);
        assert_eq!((files.stats.write_failed.value(), files.stats.write_completed.value()), (2, 0));
    }

    #[test]
    fn a_log_goes_on_where_it_can_be_written_again() {
        let folder = std::env::temp_dir().join(format!("pymesh-log-{}", std::process::id()));
        let path: Arc<str> = folder.join("access.log").to_string_lossy().as_ref().into();
        let hub = Hub::default();
        let mut files = files(&hub);
        let sink = LogSink::File(path.clone());
        files.write(&sink, b"lost\n");
        std::fs::create_dir(&folder).unwrap();
        files.write(&sink, b"kept\n");
        if let Some(file) = files.known.get_mut(&path) {
            file.is_torn = true;
        }
        files.write(&sink, b"next\n");
        assert_eq!(std::fs::read_to_string(&*path).unwrap(), "kept\n\nnext\n");
        assert_eq!((files.dropped.logs_dropped.value(), files.stats.write_completed.value()), (1, 2));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_waits_is_bounded() {
        let (sender, receiver) = channel();
        let handle = LogHandle { sender: Some(sender), waiting: Arc::default() };
        let block = vec![b'x'; MOST_WAITING / 2];
        for _ in 0..3 {
            handle.write(&LogSink::Stdout, &mut block.clone());
        }
        let mut refused = b"a\n".to_vec();
        handle.write(&LogSink::Stdout, &mut refused);
        assert_eq!(refused, b"a\n", "it stays with the engine");
        assert_eq!(receiver.try_iter().count(), 2);
    }
}
