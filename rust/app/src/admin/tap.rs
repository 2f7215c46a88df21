//! `/tap`: a line of JSON for every request that ends, for as long as the
//! client stays. Who reads too slowly is told how many he has missed.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame};
use pymesh_net::Watcher;
use tokio::sync::mpsc;

/// Blocks of lines that wait for a slow reader.
const WAITING_BLOCKS: usize = 64;

/// The watcher, and the body of the response that shows what it is told.
pub(super) fn open() -> (Told, Lines) {
    let (sender, receiver) = mpsc::channel(WAITING_BLOCKS);
    (Told { sender, missed: 0 }, Lines(receiver))
}

/// Lives on the log's thread.
pub(super) struct Told {
    sender: mpsc::Sender<Bytes>,
    missed: usize,
}

impl Watcher for Told {
    fn tell(&mut self, lines: &[u8]) {
        let mut block = match self.missed {
            0 => Vec::with_capacity(lines.len()),
            missed => format!("{{\"missed\":{missed}}}\n").into_bytes(),
        };
        block.extend_from_slice(lines);
        match self.sender.try_send(block.into()) {
            Ok(()) => self.missed = 0,
            Err(_) => self.missed += lines.iter().filter(|octet| **octet == b'\n').count(),
        }
    }

    fn is_gone(&self) -> bool {
        self.sender.is_closed()
    }
}

/// The response's body: it ends with the process.
pub(super) struct Lines(mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|block| block.map(|block| Ok(Frame::data(block))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_hears_how_much_it_missed() {
        let (mut told, mut lines) = open();
        for _ in 0..WAITING_BLOCKS + 3 {
            told.tell(b"{}\n{}\n");
        }
        let mut heard = Vec::new();
        while let Ok(block) = lines.0.try_recv() {
            heard.extend_from_slice(&block);
        }
        assert_eq!(heard.len(), WAITING_BLOCKS * 6);
        told.tell(b"{}\n");
        assert_eq!(lines.0.try_recv().unwrap(), "{\"missed\":6}\n{}\n");
        drop(lines);
        assert!(told.is_gone());
    }
}
