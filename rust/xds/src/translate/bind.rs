//! `upstream_bind_config`: where a cluster's connections come from.

use std::net::SocketAddr;

use pymesh_model::cluster::UpstreamBind;

use super::listener::socket_address;
use crate::diagnostic::At;
use crate::proto::envoy::config::core::v3 as core;

/// `SOL_SOCKET` and `SO_MARK` of Linux.
const SO_MARK: (i64, i64) = (1, 36);

pub(super) fn upstream_bind(config: Option<&core::BindConfig>, at: &At<'_>) -> UpstreamBind {
    let Some(config) = config else { return UpstreamBind::default() };
    let mut bind = UpstreamBind::default();
    if let Some(address) = &config.source_address {
        source(&mut bind, address, &at.field("source_address"));
    }
    let extra_at = at.field("extra_source_addresses");
    for (index, extra) in config.extra_source_addresses.iter().enumerate() {
        let at = extra_at.index(index);
        match &extra.address {
            Some(address) => source(&mut bind, address, &at.field("address")),
            None => at.refuse("this must be set"),
        }
    }
    let options_at = at.field("socket_options");
    for (index, option) in config.socket_options.iter().enumerate() {
        bind.mark = mark(option, &options_at.index(index)).or(bind.mark);
    }
    bind
}

fn source(bind: &mut UpstreamBind, address: &core::SocketAddress, at: &At<'_>) {
    let address = core::Address { address: Some(core::address::Address::SocketAddress(address.clone())) };
    let Some(address) = socket_address(Some(&address), at) else { return };
    let is_same_version = |other: &SocketAddr| other.is_ipv4() == address.is_ipv4();
    match bind.sources.iter().any(is_same_version) {
        true => at.refuse_with_hint(
            format!("there is another source address of the same IP version as {}", address.ip()),
            "write one of each version",
        ),
        false => bind.sources.push(address),
    }
}

fn mark(option: &core::SocketOption, at: &At<'_>) -> Option<u32> {
    if (option.level, option.name) != SO_MARK {
        at.refuse_with_hint(
            format!("socket option {} of level {} is not supported", option.name, option.level),
            "supported here: SO_MARK (level 1, name 36)",
        );
        return None;
    }
    if option.state != core::socket_option::SocketState::StatePrebind as i32 {
        at.field("state").refuse_with_hint("a mark is set before the socket is bound", "write STATE_PREBIND");
    }
    let Some(core::socket_option::Value::IntValue(value)) = option.value else {
        at.refuse("`int_value` must be set");
        return None;
    };
    match u32::try_from(value) {
        Ok(mark) => Some(mark),
        Err(_) => {
            at.field("int_value").refuse(format!("{value} is not a mark: 0 to 4294967295"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::translated;

    fn with(config: &str) -> (UpstreamBind, Vec<String>) {
        let (cluster, problems) = translated(&format!("{{name: a, type: STATIC, upstream_bind_config: {config}}}"));
        (cluster.bind, problems)
    }

    #[test]
    fn sources_and_marks() {
        let (bind, problems) = with(
            "{source_address: {address: 127.0.0.6, port_value: 0}, \
             extra_source_addresses: [{address: {address: '::6', port_value: 0}}], \
             socket_options: [{level: 1, name: 36, int_value: 1337, state: STATE_PREBIND}]}",
        );
        assert_eq!(problems, [""; 0]);
        assert_eq!(bind.sources, ["127.0.0.6:0".parse().unwrap(), "[::6]:0".parse().unwrap()]);
        assert_eq!(bind.mark, Some(1337));
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        assert_eq!(
            with("{socket_options: [{level: 6, name: 1, int_value: 1}]}").1,
            ["upstream_bind_config.socket_options[0]: socket option 1 of level 6 is not supported"]
        );
        let (_, problems) = with(
            "{source_address: {address: 127.0.0.6, port_value: 0}, \
             extra_source_addresses: [{address: {address: 127.0.0.7, port_value: 0}}]}",
        );
        assert_eq!(
            problems,
            ["upstream_bind_config.extra_source_addresses[0].address: \
              there is another source address of the same IP version as 127.0.0.7"]
        );
    }
}
