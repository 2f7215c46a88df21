//! The proxy's own identity: a key made here, certified by Istio's certificate
//! service, renewed at half life (see [`pymesh_tls::rotation`]).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pymesh_model::cluster::Cluster;
use pymesh_model::tls::SecretName;
use pymesh_tls::csr::signing_request;
use pymesh_tls::rotation::{Action, Rotation, ANSWER_TIMEOUT};
use pymesh_tls::SecretStore;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use crate::bootstrap::WorkloadIdentity;
use crate::chance::Chance;
use crate::proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use crate::transport;

/// The secret that holds the proxy's certificate.
pub(crate) const CERTIFICATE: &str = "default";
/// The secret that holds the mesh's roots.
pub(crate) const ROOTS: &str = "ROOTCA";

const METHOD: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// Keeps the certificate alive for as long as the runtime lives. `renewed` is
/// called after each change of the store.
pub(crate) async fn run(
    identity: WorkloadIdentity,
    cluster: Arc<Cluster>,
    store: Arc<SecretStore>,
    mut chance: Chance,
    renewed: impl Fn(),
) {
    let mut rotation = Rotation::new(SecretName::from(CERTIFICATE));
    loop {
        match rotation.poll(now(), chance.next()) {
            Action::Wait(until) => tokio::time::sleep(until.saturating_sub(now())).await,
            Action::Ask => match ask(&identity, &cluster, &store, &mut rotation, &mut chance).await {
                Ok(()) => renewed(),
                Err(error) => {
                    eprintln!("certificate for {}: {error}", identity.spiffe_id);
                    rotation.fail(now(), chance.next());
                }
            },
        }
    }
}

async fn ask(
    identity: &WorkloadIdentity,
    cluster: &Cluster,
    store: &Arc<SecretStore>,
    rotation: &mut Rotation,
    chance: &mut Chance,
) -> Result<(), String> {
    let token = std::fs::read_to_string(&identity.token_path)
        .map_err(|error| format!("token file {}: {error}", identity.token_path))?;
    let request = signing_request(&identity.spiffe_id).map_err(|error| error.to_string())?;
    rotation.begin(now(), request.key);
    let message = IstioCertificateRequest {
        csr: request.csr_pem,
        // Zero is the authority's default, with Istio's as with ours.
        validity_duration: i64::try_from(identity.lifetime.unwrap_or_default().as_secs()).unwrap_or(i64::MAX),
        ..Default::default()
    };
    let turn = usize::try_from(now().as_secs()).unwrap_or(0);
    let exchange = create_certificate(cluster, store, turn, message, token.trim());
    let response = tokio::time::timeout(ANSWER_TIMEOUT, exchange)
        .await
        .map_err(|_| format!("no answer within {ANSWER_TIMEOUT:?}"))??;
    // The last of the chain is the root (Istio's CreateCertificate).
    let Some((root, chain)) = response.cert_chain.split_last().filter(|(_, chain)| !chain.is_empty()) else {
        return Err("the answer has no certificate and root".to_owned());
    };
    store.put_trust(&SecretName::from(ROOTS), root.as_bytes()).map_err(|error| error.to_string())?;
    let chain = chain.concat();
    rotation.complete(now(), chance.next(), chain.as_bytes(), store).map_err(|error| error.to_string())
}

async fn create_certificate(
    cluster: &Cluster,
    store: &Arc<SecretStore>,
    turn: usize,
    message: IstioCertificateRequest,
    token: &str,
) -> Result<IstioCertificateResponse, String> {
    let channel = transport::connect(cluster, store, turn).await?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| error.to_string())?;
    let mut request = tonic::Request::new(message);
    let bearer = format!("Bearer {token}").parse().map_err(|_| "the token is not ASCII text".to_owned())?;
    request.metadata_mut().insert("authorization", bearer);
    let codec: ProstCodec<IstioCertificateRequest, IstioCertificateResponse> = ProstCodec::default();
    let response = grpc
        .unary(request, PathAndQuery::from_static(METHOD), codec)
        .await
        .map_err(|status| format!("{}: {}", status.code(), status.message()))?;
    Ok(response.into_inner())
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
