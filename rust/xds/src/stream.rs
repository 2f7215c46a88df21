//! The ADS stream as gRPC: connects, reconnects, carries messages. Decides nothing.

use std::sync::Arc;
use std::time::Duration;

use pymesh_tls::SecretStore;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::StreamExt;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic_prost::ProstCodec;

use crate::chance::Chance;
use crate::identity::{self, AUTHORIZATION};
use crate::proto::envoy::service::discovery::v3 as discovery;
use crate::session::{Request, Variant};
use crate::transport::{self, Target};

const SERVICE: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService";
/// Full jitter below this, doubled after each failure: a mesh that reconnects
/// after a restart of its control plane does not arrive all at once.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(15);
/// A control plane may send large configurations in one message.
const LARGEST_MESSAGE: usize = 64 * 1024 * 1024;
/// Requests or events that wait; both sides are quick.
const QUEUE: usize = 16;

/// Which server, and how it is spoken to.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) target: Target,
    pub(crate) variant: Variant,
    pub(crate) metadata: Vec<(String, String)>,
    /// File with the token that every stream begins with, read anew for each.
    pub(crate) token_path: Option<String>,
}

impl Server {
    fn metadata(&self) -> Result<Vec<(String, String)>, String> {
        let token = self.token_path.as_deref().map(identity::bearer).transpose()?;
        let named = token.map(|token| (AUTHORIZATION.to_owned(), token));
        Ok(self.metadata.iter().cloned().chain(named).collect())
    }
}

/// What happens on the stream.
pub(crate) enum Event {
    /// A stream is open; requests go here.
    Open(mpsc::Sender<Request>),
    Delta(Box<discovery::DeltaDiscoveryResponse>),
    StateOfTheWorld(Box<discovery::DiscoveryResponse>),
    /// The stream is over; another will be tried.
    Closed(String),
}

/// Keeps a stream open for as long as somebody listens.
pub(crate) async fn run(server: Server, store: Arc<SecretStore>, mut chance: Chance, events: mpsc::Sender<Event>) {
    let mut backoff = FIRST_BACKOFF;
    for turn in 0.. {
        let (had_answer, reason) = one_stream(&server, &store, turn, &events).await;
        if events.send(Event::Closed(reason)).await.is_err() {
            return;
        }
        backoff = if had_answer { FIRST_BACKOFF } else { (backoff * 2).min(LONGEST_BACKOFF) };
        tokio::time::sleep(backoff.mul_f64(chance.next())).await;
    }
}

/// One stream from its opening to its end: was there an answer, and why it ended.
async fn one_stream(
    server: &Server,
    store: &Arc<SecretStore>,
    turn: usize,
    events: &mpsc::Sender<Event>,
) -> (bool, String) {
    let mut had_answer = false;
    let result = async {
        let channel = transport::connect(&server.target, store, turn).await?;
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        grpc.ready().await.map_err(|error| error.to_string())?;
        let metadata = server.metadata()?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        events.send(Event::Open(sender)).await.map_err(|_| "nobody listens".to_owned())?;
        let requests = ReceiverStream::new(receiver);
        match server.variant {
            Variant::Delta => {
                let requests = requests.filter_map(|request| match request {
                    Request::Delta(request) => Some(request),
                    Request::StateOfTheWorld(_) => None,
                });
                let codec: ProstCodec<discovery::DeltaDiscoveryRequest, discovery::DeltaDiscoveryResponse> =
                    ProstCodec::default();
                let path = path("DeltaAggregatedResources")?;
                let request = with_metadata(requests, &metadata)?;
                let mut answers = grpc.streaming(request, path, codec).await.map_err(text)?.into_inner();
                while let Some(answer) = answers.message().await.map_err(text)? {
                    had_answer = true;
                    events.send(Event::Delta(Box::new(answer))).await.map_err(|_| "nobody listens".to_owned())?;
                }
            }
            Variant::StateOfTheWorld => {
                let requests = requests.filter_map(|request| match request {
                    Request::StateOfTheWorld(request) => Some(request),
                    Request::Delta(_) => None,
                });
                let codec: ProstCodec<discovery::DiscoveryRequest, discovery::DiscoveryResponse> =
                    ProstCodec::default();
                let path = path("StreamAggregatedResources")?;
                let request = with_metadata(requests, &metadata)?;
                let mut answers = grpc.streaming(request, path, codec).await.map_err(text)?.into_inner();
                while let Some(answer) = answers.message().await.map_err(text)? {
                    had_answer = true;
                    let event = Event::StateOfTheWorld(Box::new(answer));
                    events.send(event).await.map_err(|_| "nobody listens".to_owned())?;
                }
            }
        }
        Ok::<(), String>(())
    }
    .await;
    (had_answer, result.err().unwrap_or_else(|| "the server ended the stream".to_owned()))
}

fn path(method: &str) -> Result<PathAndQuery, String> {
    PathAndQuery::try_from(format!("{SERVICE}/{method}")).map_err(|error| error.to_string())
}

fn with_metadata<T>(message: T, metadata: &[(String, String)]) -> Result<tonic::Request<T>, String> {
    let mut request = tonic::Request::new(message);
    for (key, value) in metadata {
        let key: AsciiMetadataKey = key.parse().map_err(|_| format!("`{key}` is not a metadata key"))?;
        // The value may be a token: it is not repeated.
        let value: AsciiMetadataValue =
            value.parse().map_err(|_| format!("the value of metadata `{key}` is not ASCII"))?;
        request.metadata_mut().append(key, value);
    }
    Ok(request)
}

fn text(status: tonic::Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::time_provider::DefaultTimeProvider;

    use super::*;
    use crate::testing;

    #[tokio::test(start_paused = true)]
    async fn who_finds_nobody_asks_less_and_less_often() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Server {
            target: testing::server("STATIC", "127.0.0.1", nobody),
            variant: Variant::Delta,
            metadata: Vec::new(),
            token_path: None,
        };
        let store = Arc::new(SecretStore::new(Arc::new(DefaultTimeProvider)));
        let (events, mut heard) = mpsc::channel(QUEUE);
        let asking = tokio::spawn(run(server, store, Chance::from_system(), events));
        let mut last = tokio::time::Instant::now();
        let mut longest = FIRST_BACKOFF;
        for attempt in 0..12 {
            let Some(Event::Closed(reason)) = heard.recv().await else { panic!("nobody can have answered") };
            assert!(reason.contains(&nobody.to_string()), "{reason}");
            let rest = last.elapsed();
            assert!(attempt == 0 || rest <= longest + Duration::from_millis(1), "{rest:?} after attempt {attempt}");
            longest = (longest * 2).min(LONGEST_BACKOFF);
            last = tokio::time::Instant::now();
        }
        asking.abort();
    }
}
