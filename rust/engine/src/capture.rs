//! Transparent capture: the kernel gives a listener connections that were meant for other addresses.
//!
//! The driver says what the client wanted, the original destination, and that becomes the connection's local address:
//! filter chains, logs and original-destination clusters ([`crate::cluster::original`]) go by it. A listener with
//! `use_original_dst` looks at its connections first, if it has listener filters, and then hands each to the listener
//! at the original destination, bound or not: that with the very address, else that with the wildcard address and the
//! port. What nobody takes it keeps. Nothing is handed off twice.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use pymesh_model::listener::Listener;

use crate::conn::{Conn, Protocol};
use crate::engine::Engine;
use crate::listener::ListenerKey;

/// Where listeners stand, for connections that ask for an address.
#[derive(Default)]
pub(crate) struct ListenerAddresses {
    listeners: HashMap<SocketAddr, ListenerKey>,
    /// Those that have `[::]` and a port for IPv4 as well.
    compatible: HashMap<u16, ListenerKey>,
    /// Bound addresses at which connections to anywhere arrive. Who connects there himself comes back to us.
    capturing: Vec<SocketAddr>,
}

impl ListenerAddresses {
    /// Of the listeners in force.
    pub fn of(listeners: impl Iterator<Item = (ListenerKey, Arc<Listener>)>) -> ListenerAddresses {
        let mut addresses = ListenerAddresses::default();
        for (key, config) in listeners {
            addresses.listeners.insert(config.address, key);
            if config.ipv4_compat && config.address.ip().is_unspecified() {
                addresses.compatible.insert(config.address.port(), key);
            }
            if config.bind_to_port && config.capture.restore {
                addresses.capturing.push(config.address);
            }
        }
        addresses
    }

    /// The listener for an address.
    pub fn find(&self, wanted: SocketAddr) -> Option<ListenerKey> {
        let at = |ip: IpAddr| self.listeners.get(&SocketAddr::new(ip, wanted.port())).copied();
        let exact = at(wanted.ip());
        match wanted {
            SocketAddr::V4(_) => exact
                .or_else(|| at(Ipv4Addr::UNSPECIFIED.into()))
                .or_else(|| self.compatible.get(&wanted.port()).copied()),
            SocketAddr::V6(_) => exact.or_else(|| at(Ipv6Addr::UNSPECIFIED.into())),
        }
    }

    /// True for a destination that is a capturing listener itself. As Istio's `virtualInbound-blackhole` has it, a
    /// wildcard address stands for its port on any machine: which addresses are ours may change at any time.
    pub fn is_capturing(&self, wanted: SocketAddr) -> bool {
        self.capturing.iter().any(|own| {
            own.port() == wanted.port() && (own.ip().is_unspecified() || own.ip().to_canonical() == wanted.ip())
        })
    }
}

impl Engine {
    /// The listener's filters look at what has arrived, or wait for it; then it is decided who serves the connection.
    pub(crate) fn begin_inspection(&mut self, conn: &mut Conn) {
        let Some(down) = conn.downstream() else { return };
        down.listener.stats.downstream_pre_cx_active.inc();
        // Where nothing has to be looked at, the peer may be the one who waits for our first octets.
        self.run_listener_filters(conn);
        // By now it may be another listener's.
        let Some(down) = conn.downstream().filter(|_| matches!(conn.protocol, Protocol::Inspecting)) else { return };
        self.set_deadline(conn, self.now.after_limit(down.listener.config.listener_filters_timeout));
    }

    /// Gives a connection that is to be handed off to the listener at its original destination, which inspects it
    /// anew; false if it stays where it is. Either way that is settled now.
    pub(crate) fn hand_off(&mut self, conn: &mut Conn) -> bool {
        let wanted = conn.local;
        let Some(down) = conn.downstream_mut() else { return false };
        if !std::mem::take(&mut down.hands_off) {
            return false;
        }
        let other = self.listener_addresses.find(wanted).and_then(|key| self.listeners.get(key));
        let Some(other) = other.filter(|other| !Arc::ptr_eq(other, &down.listener)).cloned() else { return false };
        down.listener.stats.downstream_pre_cx_active.dec();
        down.inspection = None;
        let limit = other.config.buffer_limit;
        down.listener = other;
        conn.buffer_limit = limit;
        self.begin_inspection(conn);
        true
    }
}
