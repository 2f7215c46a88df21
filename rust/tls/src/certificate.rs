//! What a certificate says, read once: names, times, usages.
//!
//! Names are kept byte for byte as the issuer wrote them. A name with an octet
//! outside printable ASCII makes the whole certificate malformed: an embedded
//! NUL once made `good.example\0.evil` pass for `good.example` (CVE-2025-66220).

use std::net::IpAddr;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::Oid;
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid2abbrev, oid2sn, oid_registry};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Name;

/// Subject alternative names, by type, in the order of the certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SubjectAltNames {
    pub uri: Vec<String>,
    pub dns: Vec<String>,
    pub email: Vec<String>,
    pub ip: Vec<IpAddr>,
}

/// Who is at the other end of a session, as its verified certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Distinguished name as RFC 2253 writes it.
    pub subject: String,
    /// Likewise, of whoever has signed it.
    pub issuer: String,
    /// Serial number in lower-case hexadecimal.
    pub serial: String,
    /// Its names.
    pub sans: SubjectAltNames,
    /// SHA-256 of the DER certificate (`Hash` of `x-forwarded-client-cert`).
    pub sha256: [u8; 32],
    /// Seconds since the Unix epoch.
    pub not_before: i64,
    /// Likewise.
    pub not_after: i64,
}

impl PeerIdentity {
    /// The SPIFFE ID, if there is exactly one URI and it is one.
    pub fn spiffe_id(&self) -> Option<&str> {
        match &self.sans.uri[..] {
            [uri] => crate::spiffe::SpiffeId::parse(uri).ok().map(|id| id.as_str()),
            _ => None,
        }
    }

    pub(crate) fn from_der(der: &[u8]) -> Result<Self, String> {
        let facts = Facts::from_der(der)?;
        Ok(PeerIdentity {
            subject: facts.subject,
            issuer: facts.issuer,
            serial: facts.serial,
            sans: facts.sans,
            sha256: sha256(der),
            not_before: facts.not_before,
            not_after: facts.not_after,
        })
    }
}

/// Everything that is read from a certificate besides its signature.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) serial: String,
    pub(crate) sans: SubjectAltNames,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) is_ca: bool,
    /// `None`: the certificate has no key usage extension.
    pub(crate) key_usage: Option<KeyUsage>,
    /// How long the modulus is; `None`: the key is of another kind.
    pub(crate) rsa_bits: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyUsage {
    pub(crate) digital_signature: bool,
    pub(crate) key_cert_sign: bool,
    pub(crate) crl_sign: bool,
}

impl Facts {
    pub(crate) fn from_der(der: &[u8]) -> Result<Self, String> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|error| format!("it is not X.509: {error}"))?;
        if !rest.is_empty() {
            return Err("octets follow the certificate".into());
        }
        let extension = |error: x509_parser::error::X509Error| format!("an extension cannot be read: {error}");
        let sans = match certificate.subject_alternative_name().map_err(extension)? {
            Some(extension) => read_names(&extension.value.general_names)?,
            None => SubjectAltNames::default(),
        };
        let basic = certificate.basic_constraints().map_err(extension)?;
        let usage = certificate.key_usage().map_err(extension)?;
        Ok(Facts {
            subject: rfc2253(certificate.subject()),
            issuer: rfc2253(certificate.issuer()),
            serial: hex(certificate.tbs_certificate.raw_serial()),
            sans,
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            is_ca: basic.is_some_and(|basic| basic.value.ca),
            rsa_bits: match certificate.public_key().parsed() {
                Ok(PublicKey::RSA(key)) => Some(key.key_size()),
                _ => None,
            },
            key_usage: usage.map(|usage| KeyUsage {
                digital_signature: usage.value.digital_signature(),
                key_cert_sign: usage.value.key_cert_sign(),
                crl_sign: usage.value.crl_sign(),
            }),
        })
    }
}

/// True if a DNS name in a certificate covers `host`: equal but for case, or a
/// wildcard for exactly its first label (RFC 6125, section 6.4.3).
pub(crate) fn dns_covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern.eq_ignore_ascii_case(host),
        Some(parent) => {
            host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && parent.eq_ignore_ascii_case(rest))
        }
    }
}

fn read_names(names: &[GeneralName<'_>]) -> Result<SubjectAltNames, String> {
    let mut sans = SubjectAltNames::default();
    for name in names {
        match name {
            GeneralName::URI(text) => sans.uri.push(printable(text)?),
            GeneralName::DNSName(text) => sans.dns.push(printable(text)?),
            GeneralName::RFC822Name(text) => sans.email.push(printable(text)?),
            GeneralName::IPAddress(octets) => sans.ip.push(address(octets)?),
            GeneralName::Invalid(tag, _) => {
                return Err(format!("a subject alternative name of type {tag} is malformed"))
            }
            // Types that no matcher looks at.
            _ => {}
        }
    }
    Ok(sans)
}

fn printable(text: &str) -> Result<String, String> {
    if text.bytes().all(|octet| matches!(octet, 0x20..=0x7e)) {
        Ok(text.to_owned())
    } else {
        Err(format!("the subject alternative name {text:?} has unprintable octets"))
    }
}

fn address(octets: &[u8]) -> Result<IpAddr, String> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        Ok(v4.into())
    } else if let Ok(v6) = <[u8; 16]>::try_from(octets) {
        Ok(v6.into())
    } else {
        Err(format!("an IP address of {} octets", octets.len()))
    }
}

/// What certificates and the store's clock count in, as webpki takes it; what lies before the epoch is the epoch.
pub(crate) fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

pub(crate) fn sha256(octets: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, octets).as_ref());
    digest
}

/// The `SubjectPublicKeyInfo` of a certificate, as it stands there.
pub(crate) fn public_key(der: &[u8]) -> Result<&[u8], String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| format!("it is not X.509: {error}"))?;
    Ok(certificate.tbs_certificate.subject_pki.raw)
}

/// The name of a signature's algorithm, from its identifier in DER.
pub(crate) fn algorithm(der: &[u8]) -> String {
    match Oid::from_der(der) {
        Ok((_, oid)) => oid2sn(&oid, oid_registry()).map_or_else(|_| oid.to_id_string(), str::to_owned),
        Err(_) => hex(der),
    }
}

pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// RFC 2253, section 2: most specific first, special characters escaped.
fn rfc2253(name: &X509Name<'_>) -> String {
    let mut parts = Vec::new();
    for rdn in name.iter_rdn() {
        let attributes: Vec<String> = rdn
            .iter()
            .map(|attribute| {
                let kind = oid2abbrev(attribute.attr_type(), oid_registry())
                    .map_or_else(|_| attribute.attr_type().to_id_string(), str::to_owned);
                match attribute.as_str() {
                    Ok(value) => format!("{kind}={}", escape(value)),
                    Err(_) => format!("{kind}=#{}", hex(attribute.as_slice())),
                }
            })
            .collect();
        parts.push(attributes.join("+"));
    }
    parts.reverse();
    parts.join(",")
}

/// RFC 2253, section 2.4.
fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        let edge_space = c == ' ' && (at == 0 || at == last);
        if edge_space || matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') || (c == '#' && at == 0) {
            out.push('\\');
            out.push(c);
        } else if c.is_control() {
            let mut utf8 = [0; 4];
            for octet in c.encode_utf8(&mut utf8).bytes() {
                out.push_str(&format!("\\{octet:02X}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_cover_one_label() {
        assert!(dns_covers("*.example.com", "WWW.Example.com"));
        assert!(dns_covers("example.com", "EXAMPLE.com"));
        assert!(!dns_covers("*.example.com", "example.com"));
        assert!(!dns_covers("*.example.com", "a.b.example.com"));
        assert!(!dns_covers("*.example.com", ".example.com"));
        assert!(!dns_covers("w*.example.com", "www.example.com"));
    }

    #[test]
    fn distinguished_names_cannot_forge_structure() {
        assert_eq!(escape("a,O=b"), "a\\,O=b");
        assert_eq!(escape("#x y "), "\\#x y\\ ");
        assert_eq!(escape("a\nb\0"), "a\\0Ab\\00");
    }

    #[test]
    fn names_with_nul_are_malformed() {
        assert!(read_names(&[GeneralName::DNSName("good.example\0.evil")]).is_err());
        assert!(read_names(&[GeneralName::URI("spiffe://td/a\0b")]).is_err());
        assert!(read_names(&[GeneralName::IPAddress(&[1, 2, 3])]).is_err());
        let sans = read_names(&[GeneralName::IPAddress(&[127, 0, 0, 1])]).unwrap();
        assert_eq!(sans.ip, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
    }
}
