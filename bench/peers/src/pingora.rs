//! Pingora as its own guide writes a proxy: `pingora-proxy LISTEN ORIGIN [h2]`.

use async_trait::async_trait;
use pingora::prelude::*;
use pingora::proxy::http_proxy;
use pingora::services::listening::Service;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct ToOrigin(HttpPeer);

#[async_trait]
impl ProxyHttp for ToOrigin {
    type CTX = ();
    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(self.0.clone()))
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (listen, origin) = (args.next().expect("LISTEN"), args.next().expect("ORIGIN"));
    let mut peer = HttpPeer::new(origin, false, String::new());
    if args.next().is_some() {
        peer.options.set_http_version(2, 2);
        peer.options.max_h2_streams = 100;
    }
    let mut server = Server::new(None).expect("a server");
    server.bootstrap();
    let mut app = http_proxy(&server.configuration, ToOrigin(peer));
    // Cleartext HTTP/2 by prior knowledge, beside HTTP/1.1.
    app.server_options.get_or_insert_with(Default::default).h2c = true;
    let mut service = Service::new("proxy".into(), app);
    service.add_tcp(&listen);
    service.threads = Some(1);
    server.add_service(service);
    server.run_forever();
}
