//! Messages between an old and a new process on one machine: octets with file descriptors (unix(7), `SCM_RIGHTS`).
//!
//! A message is its length and the number of its descriptors (two 32-bit numbers, big endian), the descriptors in
//! batches behind one octet each, then its octets. Who may talk is up to the socket's owner; what comes in is bounded
//! here.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Descriptors in one batch; the kernel takes at most 253 (`SCM_MAX_FD`).
const BATCH: usize = 250;
const MOST_OCTETS: usize = 1 << 20;
const MOST_DESCRIPTORS: usize = 1 << 16;
/// What precedes the descriptors of a batch: a control message needs an octet to go with.
const CARRIER: u8 = b'+';

/// Sends a message.
///
/// # Errors
/// The peer is gone, or too slow for the stream's timeout.
pub fn send(mut stream: &UnixStream, octets: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let too_much = || io::Error::new(io::ErrorKind::InvalidInput, "too much for one message");
    let length = u32::try_from(octets.len()).map_err(|_| too_much())?;
    let count = u32::try_from(descriptors.len()).map_err(|_| too_much())?;
    if octets.len() > MOST_OCTETS || descriptors.len() > MOST_DESCRIPTORS {
        return Err(too_much());
    }
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&count.to_be_bytes())?;
    for batch in descriptors.chunks(BATCH) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(batch)) {
            return Err(too_much());
        }
        sendmsg(stream, &[IoSlice::new(&[CARRIER])], &mut control, SendFlags::NOSIGNAL)?;
    }
    stream.write_all(octets)
}

/// Waits for a message.
///
/// # Errors
/// The peer is gone, too slow for the stream's timeout, or has sent something else.
pub fn receive(mut stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let (mut length, mut count) = ([0; 4], [0; 4]);
    stream.read_exact(&mut length)?;
    stream.read_exact(&mut count)?;
    let (length, count) = (u32::from_be_bytes(length) as usize, u32::from_be_bytes(count) as usize);
    if length > MOST_OCTETS || count > MOST_DESCRIPTORS {
        return Err(wrong("a message that is too large"));
    }
    let mut descriptors = Vec::new();
    while descriptors.len() < count {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut carrier = [0];
        let got = recvmsg(stream, &mut [IoSliceMut::new(&mut carrier)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        if got.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if got.flags.contains(ReturnFlags::CTRUNC) {
            return Err(wrong("descriptors that this process has no room for; raise its limit of open files"));
        }
        let before = descriptors.len();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if descriptors.len() == before || carrier != [CARRIER] {
            return Err(wrong("a message without the descriptors that it announces"));
        }
    }
    let mut octets = vec![0; length];
    stream.read_exact(&mut octets)?;
    Ok((octets, descriptors))
}

/// Whether the process at the other end runs as the user that we run as.
///
/// # Errors
/// The system does not say.
pub fn is_same_user(stream: &UnixStream) -> io::Result<bool> {
    Ok(rustix::net::sockopt::socket_peercred(stream)?.uid == rustix::process::geteuid())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn carries_more_descriptors_than_one_batch() {
        let (near, far) = UnixStream::pair().unwrap();
        let held: Vec<BorrowedFd<'_>> = (0..BATCH + 7).map(|_| near.as_fd()).collect();
        let sender = near.try_clone().unwrap();
        send(&sender, b"take these", &held).unwrap();
        send(&sender, b"and none", &[]).unwrap();
        let (octets, descriptors) = receive(&far).unwrap();
        assert_eq!((octets.as_slice(), descriptors.len()), (b"take these".as_slice(), BATCH + 7));
        assert_eq!(receive(&far).unwrap().0, b"and none");
    }

    #[test]
    fn says_what_is_wrong() {
        let (near, far) = UnixStream::pair().unwrap();
        (&near).write_all(&[0xFF; 8]).unwrap();
        assert_eq!(receive(&far).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (near, far) = UnixStream::pair().unwrap();
        (&near).write_all(&[0, 0, 0, 0, 0, 0, 0, 1, CARRIER]).unwrap();
        assert_eq!(receive(&far).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(near);
        let (near, far) = UnixStream::pair().unwrap();
        drop(near);
        assert_eq!(receive(&far).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
