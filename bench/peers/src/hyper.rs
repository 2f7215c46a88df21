//! The least that hyper needs to forward requests: `hyper-proxy LISTEN ORIGIN [h2]`.

use hyper::service::service_fn;
use hyper::{Request, Uri};
use hyper_util::client::legacy::{connect::HttpConnector, Client};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let (listen, origin) = (args.next().expect("LISTEN"), args.next().expect("ORIGIN"));
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).http2_only(args.next().is_some()).build(connector);
    let listener = tokio::net::TcpListener::bind(listen).await.expect("to listen");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true).expect("TCP");
        let (client, origin) = (client.clone(), origin.clone());
        let forward = service_fn(move |mut request: Request<hyper::body::Incoming>| {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            *request.uri_mut() = Uri::builder().scheme("http").authority(&*origin).path_and_query(path).build().expect("a URI");
            *request.version_mut() = hyper::Version::HTTP_11;
            client.request(request)
        });
        tokio::spawn(async move {
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), forward).await;
        });
    }
}
