//! By which name a request asks for this node.
//!
//! A page of a stranger can make a browser ask any address under a name of its own, one that was
//! given this node's address between two look-ups; the browser then takes the node's answer for the
//! page's own. A node without certificates serves reads to whoever can connect, so that there the
//! name is all that tells such a page from a person: it must be one that no stranger can own.

use axum::http::{HeaderMap, Uri, Version, header, uri::Authority};
use std::net::IpAddr;

/// The host that a request names, without its port; `None` for HTTP/1.0, which need not name one.
///
/// # Errors
/// RFC 9112, section 3.2: there is none, there are several, or it is no host.
pub(crate) fn named<'a>(
    version: Version,
    uri: &'a Uri,
    headers: &'a HeaderMap,
) -> Result<Option<&'a str>, &'static str> {
    if let Some(host) = uri.host() {
        return Ok(Some(host));
    }
    let mut all = headers.get_all(header::HOST).iter();
    match (all.next(), all.next()) {
        (None, _) if version < Version::HTTP_11 => Ok(None),
        (None, _) => Err("the request names no host: send one `Host` header"),
        (Some(_), Some(_)) => Err("the request names several hosts: send one `Host` header"),
        (Some(host), None) => host
            .to_str()
            .ok()
            .filter(|h| h.parse::<Authority>().is_ok())
            .map(|h| Some(without_port(h)))
            .ok_or("the `Host` header holds no host"),
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

/// Whether no stranger can own a name: an address, this machine, a name without a dot (which only
/// this network resolves), or `own`, the host in the node's address in the topology.
pub(crate) fn is_ours(host: &str, own: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(&name);
    bare.parse::<IpAddr>().is_ok()
        || !name.contains('.')
        || name.ends_with(".localhost")
        || name == own.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: Version, uri: &str, hosts: &[&str]) -> Result<Option<String>, &'static str> {
        let mut headers = HeaderMap::new();
        for h in hosts {
            headers.append(header::HOST, h.parse().unwrap());
        }
        let uri = uri.parse().unwrap();
        named(version, &uri, &headers).map(|h| h.map(str::to_owned))
    }

    #[test]
    fn one_host_is_named() {
        let v1 = |hosts: &[&str]| of(Version::HTTP_11, "/metrics", hosts);
        assert_eq!(v1(&["a.example:7000"]), Ok(Some("a.example".into())));
        assert_eq!(v1(&["[::1]:7000"]), Ok(Some("[::1]".into())));
        assert_eq!(v1(&["[::1]"]), Ok(Some("[::1]".into())));
        assert!(v1(&[]).is_err() && v1(&["a", "a"]).is_err() && v1(&["a b"]).is_err());
        assert_eq!(of(Version::HTTP_10, "/", &[]), Ok(None));
        assert_eq!(of(Version::HTTP_2, "http://b:1/", &[]), Ok(Some("b".into())));
    }

    #[test]
    fn a_name_that_a_stranger_can_own_is_not_ours() {
        for host in
            ["127.0.0.1", "[::1]", "localhost", "LOCALHOST.", "a.localhost", "cel1", "n.Own"]
        {
            assert!(is_ours(host, "N.own"), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example."]
        {
            assert!(!is_ours(host, "n.own"), "{host}");
        }
    }
}
