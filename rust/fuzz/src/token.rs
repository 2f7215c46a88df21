//! Tokens and key sets.

use std::sync::OnceLock;

use pymesh_jwt::testing::{encode, Signer};
use pymesh_jwt::{Algorithm, Failure, Jwks, Token};
use serde_json::Value;

use crate::input::Input;
use crate::strict::show;

fn signer() -> &'static (Signer, Jwks) {
    static SIGNER: OnceLock<(Signer, Jwks)> = OnceLock::new();
    SIGNER.get_or_init(|| {
        let signer = Signer::new(Algorithm::Hs256);
        let keys = Jwks::parse(signer.jwks("").as_bytes()).unwrap();
        (signer, keys)
    })
}

/// A text; or a header and claims, which are signed, and perhaps one octet of the text that is another then.
pub fn jwt(data: &[u8]) {
    let (signer, keys) = signer();
    let mut input = Input::new(data);
    if input.flag() {
        if let Ok(token) = Token::parse(input.rest()) {
            assert!(keys.verify(&token).is_err(), "nobody has signed {}", show(data));
        }
        return;
    }
    let (at, instead) = (usize::from(input.word()), input.octet());
    let header = input.string().to_vec();
    let claims = input.rest();
    let signed = format!("{}.{}", encode(&header), encode(claims));
    let text = format!("{signed}.{}", encode(signer.sign(signed.as_bytes())));
    match Token::parse(text.as_bytes()) {
        Ok(token) => {
            let [header, claims] = [&header[..], claims].map(|json| serde_json::from_slice::<Value>(json).unwrap());
            assert!(header["alg"].as_str().and_then(Algorithm::from_name).is_some());
            assert!(header.get("crit").is_none());
            assert_eq!(token.issuer(), claims["iss"].as_str().unwrap_or_default());
            assert_eq!(token.subject(), claims["sub"].as_str().unwrap_or_default());
            assert_eq!(token.expires().is_some(), claims.get("exp").is_some());
            let audiences: Vec<&str> = match &claims["aud"] {
                Value::String(one) => vec![one],
                Value::Array(several) => several.iter().map(|one| one.as_str().unwrap()).collect(),
                _ => vec![],
            };
            assert_eq!(token.audiences().collect::<Vec<_>>(), audiences);
            let is_meant = header["alg"] == "HS256";
            assert_eq!(keys.verify(&token).is_ok(), is_meant, "{}", show(text.as_bytes()));
            assert!(token.check_time(u64::MAX, 0).is_ok() || token.expires().is_some());
        }
        Err(failure) => assert!(!failure.text().is_empty() && failure.code() > 0),
    }
    // One octet is another: what is signed, or the signature, is not what it was.
    let mut bent = text.into_bytes();
    let count = bent.len();
    if std::mem::replace(&mut bent[at % count], instead) != instead {
        if let Ok(token) = Token::parse(&bent) {
            assert!(keys.verify(&token).is_err(), "{}", show(&bent));
        }
    }
}

/// Octets.
pub fn jwks(data: &[u8]) {
    let (signer, _) = signer();
    match Jwks::parse(data) {
        Ok(keys) => {
            let set: Value = serde_json::from_slice(data).unwrap();
            assert!(!set["keys"].as_array().unwrap().is_empty());
            for alg in ["HS256", "RS256", "PS512", "ES256", "ES512", "EdDSA"] {
                let text = format!("{}.{}.{}", encode(format!("{{\"alg\":\"{alg}\"}}")), encode("{}"), encode([7; 64]));
                let token = Token::parse(text.as_bytes()).unwrap();
                assert!(keys.verify(&token).is_err(), "{alg} by {}", show(data));
            }
            let _whoever = keys.verify(&Token::parse(signer.token("", "{}").as_bytes()).unwrap());
        }
        Err(failure) => {
            let known = [Failure::JwksBadJson, Failure::JwksNoKeys, Failure::JwksBadKeys, Failure::JwksNoValidKeys];
            assert!(known.contains(&failure), "{failure:?}");
        }
    }
}
