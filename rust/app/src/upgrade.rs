//! Binary upgrade: a new process takes over the listening sockets of the running one.
//!
//! Both are started with the same `--upgrade-socket PATH`. Whoever serves listens there; whoever starts asks there:
//!
//! ```text
//! new                                   old
//!  |  hello {version}                    |  serves
//!  |------------------------------------>|
//!  |        sockets + descriptors        |  serves
//!  |<------------------------------------|
//!  |  loads, connects, warms             |  serves
//!  |  accepts                            |  serves: both accept from the same queues
//!  |  relieved {kept, seconds}           |
//!  |------------------------------------>|  drains; closes its duplicates
//!  |               draining              |
//!  |<------------------------------------|
//!  |  serves, listens at PATH            |  ends with its last connection, after `seconds` at the latest
//! ```
//!
//! The sockets are never closed in between, so no connection in a queue is lost. Until it is relieved the old process
//! has done nothing but duplicate descriptors: a new one that is refused, crashes or never becomes ready costs
//! nothing. If the old process is gone before it could be relieved, the new one serves alone all the same, since it holds
//! the sockets. PATH itself is handed over like the rest and never vanishes.
//!
//! Only processes of the same user are talked to, in both directions.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use serde_json::{json, Value};

/// What both sides must agree on.
const VERSION: u64 = 1;

/// How long the other side may take to say what it can say at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running process that is to be relieved.
pub(crate) struct Predecessor {
    stream: UnixStream,
    /// Where it listens for us, to be taken over too.
    endpoint: UnixListener,
}

/// Asks the process that serves at `path` for its sockets; `None` if there is no such process.
///
/// # Errors
/// There is one, and it refuses or does not answer.
pub(crate) fn ask(path: &Path) -> Result<Option<(Predecessor, Vec<OwnedFd>)>, String> {
    let at = path.display();
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        // Nobody, or what a process left behind that is gone.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None)
        }
        Err(error) => return Err(format!("cannot talk to the process at {at}: {error}")),
    };
    same_user(&stream).map_err(|error| format!("{at}: {error}"))?;
    let (answer, mut descriptors) = timeouts(&stream)
        .and_then(|()| say(&stream, &json!({"hello": {"version": VERSION}}), &[]))
        .and_then(|()| hear(&stream))
        .map_err(|error| {
            format!("the process at {at} does not hand over: {error}\nhint: is another upgrade under way?")
        })?;
    if let Some(reason) = answer.get("refused").and_then(Value::as_str) {
        return Err(format!("the process at {at} does not hand over: {reason}"));
    }
    // The last one is where it listens for us.
    let endpoint = descriptors.pop().map(UnixListener::from);
    let endpoint = endpoint.filter(|endpoint| endpoint.local_addr().is_ok_and(|at| at.as_pathname().is_some()));
    let endpoint = endpoint.ok_or_else(|| format!("the process at {at} is no proxy: it has sent {answer}"))?;
    Ok(Some((Predecessor { stream, endpoint }, descriptors)))
}

impl Predecessor {
    /// Tells it that we serve now: it drains, up to `within`, and leaves the queues of `kept` alone. What it says to that
    /// changes nothing for us.
    pub fn relieve(self, kept: &[SocketAddr], within: Duration) -> Endpoint {
        let kept: Vec<String> = kept.iter().map(SocketAddr::to_string).collect();
        let seconds = within.as_secs_f64();
        let told = say(&self.stream, &json!({"relieved": {"kept": kept, "seconds": seconds}}), &[]);
        if let Err(error) = told.and_then(|()| hear(&self.stream)) {
            eprintln!("upgrade: the old process is gone or silent ({error}); serving all the same");
        }
        Endpoint { listener: self.endpoint }
    }
}

/// Where successors ask for us.
pub(crate) struct Endpoint {
    listener: UnixListener,
}

/// A successor serves.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Relieved {
    /// The addresses that it serves with our sockets.
    pub kept: Vec<SocketAddr>,
    /// How long our connections may take to end.
    pub within: Duration,
}

impl Endpoint {
    /// For a process that has no predecessor.
    ///
    /// # Errors
    /// In words, with a remedy.
    pub fn open(path: &Path) -> Result<Endpoint, String> {
        // Nobody listens there: it was asked.
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            fs::remove_file(path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let listener = UnixListener::bind(path).map_err(|error| {
            format!("cannot listen at {}: {error}\nhint: its folder must exist and be writable", path.display())
        })?;
        Ok(Endpoint { listener })
    }

    /// Serves one successor after the other until one of them has relieved us. `sockets` duplicates what is to be
    /// handed over; `relieved` is called before the successor hears that we drain.
    pub fn serve(&self, sockets: impl Fn() -> io::Result<Vec<OwnedFd>>, relieved: impl FnOnce(Relieved)) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    eprintln!("upgrade: cannot hear a new process: {error}");
                    std::thread::sleep(Duration::from_secs(1));
                    continue;
                }
            };
            match self.wait_for_relief(&stream, &sockets) {
                Ok(relief) => {
                    relieved(relief);
                    let _gone = say(&stream, &json!({"draining": {}}), &[]);
                    return;
                }
                Err(error) => eprintln!("upgrade: the new process did not take over ({error}); serving on"),
            }
        }
    }

    fn wait_for_relief(
        &self,
        stream: &UnixStream,
        sockets: impl Fn() -> io::Result<Vec<OwnedFd>>,
    ) -> io::Result<Relieved> {
        same_user(stream)?;
        timeouts(stream)?;
        let (hello, _) = hear(stream)?;
        if hello.pointer("/hello/version") != Some(&json!(VERSION)) {
            let reason = format!("it speaks version {VERSION} of the handover; stop it, then start the new one");
            say(stream, &json!({"refused": reason}), &[])?;
            return Err(wrong("it speaks another version of the handover"));
        }
        let sockets = sockets()?;
        let with_endpoint = sockets.iter().map(AsFd::as_fd).chain([self.listener.as_fd()]);
        let descriptors: Vec<BorrowedFd<'_>> = with_endpoint.collect();
        say(stream, &json!({"sockets": sockets.len()}), &descriptors)?;
        // It is ready when it is ready, which may take as long as its control plane does.
        stream.set_read_timeout(None)?;
        let (message, _) = hear(stream)?;
        parse_relieved(&message).ok_or_else(|| wrong("it has said something else than that it serves"))
    }
}

fn parse_relieved(message: &Value) -> Option<Relieved> {
    let relieved = message.get("relieved")?;
    let kept = relieved.get("kept")?.as_array()?.iter().map(|address| address.as_str()?.parse().ok());
    let within = Duration::try_from_secs_f64(relieved.get("seconds")?.as_f64()?).ok()?;
    Some(Relieved { kept: kept.collect::<Option<_>>()?, within })
}

fn say(stream: &UnixStream, message: &Value, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    pymesh_net::send(stream, message.to_string().as_bytes(), descriptors)
}

fn hear(stream: &UnixStream) -> io::Result<(Value, Vec<OwnedFd>)> {
    let (octets, descriptors) = pymesh_net::receive(stream)?;
    let message = serde_json::from_slice(&octets).map_err(|error| wrong(&error.to_string()))?;
    Ok((message, descriptors))
}

fn timeouts(stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// Descriptors are given to, and taken from, nobody else.
fn same_user(stream: &UnixStream) -> io::Result<()> {
    match pymesh_net::is_same_user(stream)? {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user")),
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::PathBuf;
    use std::sync::mpsc;

    use super::*;

    /// An old process with one socket, and what it hears.
    fn serving(path: &Path) -> (SocketAddr, mpsc::Receiver<Relieved>) {
        let (said, heard) = mpsc::channel();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let endpoint = Endpoint::open(path).unwrap();
        std::thread::spawn(move || {
            endpoint.serve(|| Ok(vec![socket.try_clone()?.into()]), |relief| said.send(relief).unwrap());
        });
        (address, heard)
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("pymesh-upgrade-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_new_process_gets_the_sockets_and_the_place() {
        let folder = folder("whole");
        let path = folder.join("socket");
        assert!(ask(&path).unwrap().is_none(), "nobody is there");
        let (address, heard) = serving(&path);
        for _ in 0..2 {
            // It goes away before it is ready.
            drop(ask(&path).unwrap().unwrap());
        }
        let (predecessor, sockets) = ask(&path).unwrap().unwrap();
        let inherited = pymesh_net::inherit(sockets).unwrap();
        assert_eq!(inherited.keys().collect::<Vec<_>>(), [&address]);
        let endpoint = predecessor.relieve(&[address], Duration::from_secs(7));
        assert_eq!(heard.recv().unwrap(), Relieved { kept: vec![address], within: Duration::from_secs(7) });
        drop(endpoint);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_a_dead_process_has_left_is_replaced() {
        let folder = folder("dead");
        let path = folder.join("socket");
        drop(Endpoint::open(&path).unwrap());
        assert!(path.exists() && ask(&path).unwrap().is_none());
        assert!(Endpoint::open(&path).is_ok());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn another_version_is_refused_and_costs_nothing() {
        let folder = folder("version");
        let path = folder.join("socket");
        let (_, heard) = serving(&path);
        let stream = UnixStream::connect(&path).unwrap();
        say(&stream, &json!({"hello": {"version": VERSION + 1}}), &[]).unwrap();
        assert!(hear(&stream).unwrap().0.get("refused").is_some());
        assert!(ask(&path).unwrap().is_some());
        assert!(heard.try_recv().is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}
