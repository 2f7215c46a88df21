//! gRPC channels to clusters of the bootstrap (control plane, certificate authority).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use pymesh_model::cluster::Cluster;
use pymesh_model::endpoint::Endpoints;
use pymesh_tls::{client_config, SecretStore};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::resolve;
use crate::translate::{ClusterParts, DnsSettings, EndpointSource};

/// A control plane that is silent for so long is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A cluster that gRPC services are called at.
#[derive(Clone)]
pub(crate) struct Target {
    cluster: Arc<Cluster>,
    /// Where its endpoints are known by names: asked anew for each connection, as a control plane may have moved.
    names: Option<Arc<DnsSettings>>,
}

impl Target {
    /// A cluster of the bootstrap.
    pub(crate) fn of(parts: &ClusterParts) -> Target {
        let names = match &parts.source {
            EndpointSource::Dns(settings) => Some(settings.clone()),
            EndpointSource::Given | EndpointSource::Eds(..) => None,
        };
        Target { cluster: Arc::new(parts.cluster.clone()), names }
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let of = |endpoints: &Endpoints| endpoints.iter().map(|(_, endpoint)| endpoint.address).collect();
        match &self.names {
            None => Ok(of(&self.cluster.endpoints)),
            Some(names) => Ok(of(&resolve::once(names).await?)),
        }
    }
}

/// Connects to one endpoint of a cluster, with its transport socket.
///
/// # Errors
/// In words: nobody there, or somebody whose certificate is not good.
pub(crate) async fn connect(target: &Target, store: &Arc<SecretStore>, turn: usize) -> Result<Channel, String> {
    let cluster = &target.cluster;
    let addresses = target.addresses().await.map_err(|error| format!("cluster {}: {error}", cluster.name))?;
    let address = match addresses.len() {
        0 => return Err(format!("cluster {} has no endpoints", cluster.name)),
        count => addresses.get(turn % count).copied().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0))),
    };
    if cluster.transport.default.proxy_protocol.is_some() {
        return Err(format!("cluster {}: the PROXY protocol is not spoken to gRPC services", cluster.name));
    }
    let tls = match &cluster.transport.default.tls {
        None => None,
        Some(tls) => {
            let config = client_config(tls, store).map_err(|error| format!("cluster {}: {error}", cluster.name))?;
            let name = match tls.sni.as_deref() {
                Some(name) => ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?,
                None => ServerName::from(address.ip()),
            };
            Some((TlsConnector::from(config), name))
        }
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let authority = cluster.transport.default.tls.as_ref().and_then(|tls| tls.sni.as_deref().map(str::to_owned));
    let uri = format!("{scheme}://{}", authority.unwrap_or_else(|| address.to_string()));
    let endpoint = Endpoint::from_shared(uri)
        .map_err(|error| error.to_string())?
        .connect_timeout(cluster.connect_timeout)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let connector = tower::service_fn(move |_: Uri| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let io: Box<dyn Stream> = match tls {
                None => Box::new(stream),
                Some((connector, name)) => Box::new(connector.connect(name, stream).await?),
            };
            Ok::<_, Error>(TokioIo::new(io))
        }
    });
    let connected = tokio::time::timeout(cluster.connect_timeout, endpoint.connect_with_connector(connector)).await;
    match connected {
        Err(_) => Err(format!("{address}: no answer within {:?}", cluster.connect_timeout)),
        Ok(Err(error)) => Err(format!("{address}: {}", innermost(&error))),
        Ok(Ok(channel)) => Ok(channel),
    }
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}

/// The last cause in a chain says what has happened; the others say to whom.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::time_provider::DefaultTimeProvider;

    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn a_server_is_found_by_its_name_at_each_connection() {
        let listening = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listening.local_addr().unwrap().port();
        let store = Arc::new(SecretStore::new(Arc::new(DefaultTimeProvider)));
        let target = testing::server("STRICT_DNS", "localhost", port);
        for _ in 0..2 {
            let (connected, accepted) = tokio::join!(connect(&target, &store, 0), listening.accept());
            assert!(connected.is_ok(), "{connected:?}");
            assert!(accepted.is_ok());
        }
        let nobody = testing::server("STRICT_DNS", "nobody.invalid", port);
        let refused = connect(&nobody, &store, 0).await.unwrap_err();
        assert!(refused.starts_with("cluster ads"), "{refused}");
    }
}
