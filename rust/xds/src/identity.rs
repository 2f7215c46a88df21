//! The proxy's own identity: a key made here, certified by Istio's certificate
//! service, renewed at half life (see [`pymesh_tls::rotation`]).
//!
//! The roots of the mesh come with each certificate, and over ADS where the
//! control plane has the secret [`ROOTS`]: ADS then has the last word, since an
//! answer of the authority can be older than what a stream has said meanwhile.
//! Roots whose first is not the one that our certificate leads to say that
//! another authority signs now: the certificate is renewed soon, once for each
//! such bundle. What stands by the old one is then replaced by and by, so that
//! nothing depends on its root when that is removed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pymesh_model::tls::SecretName;
use pymesh_tls::csr::signing_request;
use pymesh_tls::rotation::{Action, Rotation, ANSWER_TIMEOUT};
use pymesh_tls::SecretStore;
use tokio::sync::{mpsc, Notify};
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use crate::bootstrap::WorkloadIdentity;
use crate::chance::Chance;
use crate::proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use crate::transport::{self, Target};

/// The secret that holds the proxy's certificate.
pub(crate) const CERTIFICATE: &str = "default";
/// The secret that holds the mesh's roots.
pub(crate) const ROOTS: &str = "ROOTCA";

/// The metadata key of tokens.
pub(crate) const AUTHORIZATION: &str = "authorization";
/// In a request's metadata: which proxy of the identity asks.
const NODE_ID: &str = "NODE_ID";

const METHOD: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// What the certificate client and the configuration feed say to each other.
pub(crate) struct Link {
    /// To the feed: a certificate is in the store.
    pub(crate) certified: mpsc::Sender<Certified>,
    /// From the feed: the roots have changed.
    pub(crate) changed: Arc<Notify>,
}

/// What came with a certificate.
pub(crate) struct Certified {
    pub(crate) roots: Vec<u8>,
    /// It is of another root than the one before, as it has to be by now.
    pub(crate) has_moved: bool,
}

/// Who asks, and whom.
pub(crate) struct Asking {
    pub(crate) identity: WorkloadIdentity,
    pub(crate) target: Target,
    /// `node.id`, by which the authority knows which certificate this one replaces.
    pub(crate) node: String,
}

/// Keeps the certificate alive for as long as the runtime lives.
pub(crate) async fn run(asking: Asking, store: Arc<SecretStore>, mut chance: Chance, link: Link) {
    let (certificate, roots) = (SecretName::from(CERTIFICATE), SecretName::from(ROOTS));
    let mut rotation = Rotation::new(certificate.clone());
    // The bundle for which a certificate was asked for last.
    let mut asked_for = None;
    loop {
        match rotation.poll(now(), chance.next()) {
            Action::Wait(until) => tokio::select! {
                () = tokio::time::sleep(until.saturating_sub(now())) => {}
                () = link.changed.notified() => {}
            },
            Action::Ask => {
                asked_for = store.trust_digest(&roots);
                let is_first = || store.is_of_first_root(&certificate, &roots);
                let was_first = is_first();
                match ask(&asking, &store, &mut rotation, &mut chance).await {
                    Ok(bundle) => {
                        let has_moved = was_first == Some(false) && is_first() == Some(true);
                        // The feed lives as long as we do.
                        drop(link.certified.send(Certified { roots: bundle, has_moved }).await);
                    }
                    Err(error) => {
                        eprintln!("certificate for {}: {error}", asking.identity.spiffe_id);
                        rotation.fail(now(), chance.next());
                    }
                }
            }
        }
        let is_news = asked_for != store.trust_digest(&roots);
        if is_news && store.is_of_first_root(&certificate, &roots) == Some(false) {
            rotation.hasten(now(), chance.next());
        }
    }
}

async fn ask(
    asking: &Asking,
    store: &Arc<SecretStore>,
    rotation: &mut Rotation,
    chance: &mut Chance,
) -> Result<Vec<u8>, String> {
    let Asking { identity, target, node } = asking;
    let token = bearer(&identity.token_path)?;
    let request = signing_request(&identity.spiffe_id).map_err(|error| error.to_string())?;
    rotation.begin(now(), request.key);
    let message = IstioCertificateRequest {
        csr: request.csr_pem,
        // Zero is the authority's default, with Istio's as with ours.
        validity_duration: i64::try_from(identity.lifetime.unwrap_or_default().as_secs()).unwrap_or(i64::MAX),
        metadata: Some(named(NODE_ID, node)),
    };
    let turn = usize::try_from(now().as_secs()).unwrap_or(0);
    let exchange = create_certificate(target, store, turn, message, &token);
    let response = tokio::time::timeout(ANSWER_TIMEOUT, exchange)
        .await
        .map_err(|_| format!("no answer within {ANSWER_TIMEOUT:?}"))??;
    // The last of the chain is the root, or all of them (Istio's CreateCertificate).
    let Some((root, chain)) = response.cert_chain.split_last().filter(|(_, chain)| !chain.is_empty()) else {
        return Err("the answer has no certificate and root".to_owned());
    };
    let chain = chain.concat();
    rotation.complete(now(), chance.next(), chain.as_bytes(), store).map_err(|error| error.to_string())?;
    Ok(root.clone().into_bytes())
}

/// A `Struct` with one field.
fn named(name: &str, value: &str) -> prost_types::Struct {
    let value = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(value.to_owned())) };
    prost_types::Struct { fields: [(name.to_owned(), value)].into() }
}

/// What a call proves itself with: the token in this file, as it is now.
pub(crate) fn bearer(token_path: &str) -> Result<String, String> {
    let token = std::fs::read_to_string(token_path).map_err(|error| format!("token file {token_path}: {error}"))?;
    Ok(format!("Bearer {}", token.trim()))
}

async fn create_certificate(
    target: &Target,
    store: &Arc<SecretStore>,
    turn: usize,
    message: IstioCertificateRequest,
    token: &str,
) -> Result<IstioCertificateResponse, String> {
    let channel = transport::connect(target, store, turn).await?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| error.to_string())?;
    let mut request = tonic::Request::new(message);
    let token = token.parse().map_err(|_| "the token is not ASCII text".to_owned())?;
    request.metadata_mut().insert(AUTHORIZATION, token);
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
