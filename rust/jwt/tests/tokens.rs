//! Tokens that are right, and all that can be wrong with one.

use pymesh_jwt::testing::{encode, Signer};
use pymesh_jwt::{Algorithm, Failure, Jwks, Token};

const CLAIMS: &str = r#"{"iss":"i","sub":"s","aud":["a","b"],"exp":4102444800}"#;

const ALL: [Algorithm; 13] = [
    Algorithm::Hs256,
    Algorithm::Hs384,
    Algorithm::Hs512,
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::Es512,
    Algorithm::EdDsa,
];

fn verify(jwks: &str, token: &str) -> Result<(), Failure> {
    Jwks::parse(jwks.as_bytes())?.verify(&Token::parse(token.as_bytes())?)
}

/// RFC 7515, appendices A.1 to A.3.
#[test]
fn examples_of_the_standard() {
    let payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let hmac = r#"{"keys":[{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}]}"#;
    let rsa = r#"{"keys":[{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}]}"#;
    let ec = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    for (jwks, header, signature) in [
        (hmac, "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
        (
            rsa,
            "eyJhbGciOiJSUzI1NiJ9",
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            ec,
            "eyJhbGciOiJFUzI1NiJ9",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
    ] {
        assert_eq!(verify(jwks, &format!("{header}.{payload}.{signature}")), Ok(()), "{header}");
        let other = format!("{header}.{payload}.{}", signature.replacen(['a', 'b'], "c", 1));
        assert_eq!(verify(jwks, &other), Err(Failure::VerificationFails), "{header}");
    }
}

#[test]
fn a_key_verifies_its_own_kind_only() {
    let signers: Vec<(Algorithm, Signer)> = ALL.map(|algorithm| (algorithm, Signer::new(algorithm))).into();
    for (algorithm, signer) in &signers {
        let token = signer.token("", CLAIMS);
        let name = algorithm.name();
        assert_eq!(verify(&signer.jwks(""), &token), Ok(()), "{name}");
        assert_eq!(verify(&signer.jwks(&format!(r#","alg":"{name}","kid":"k""#)), &token), Ok(()), "{name}");
        // The key is another's, or for something else.
        for (other, another) in &signers {
            let found = verify(&another.jwks(""), &token);
            let is_hmac = |algorithm: &Algorithm| algorithm.name().starts_with("HS");
            match is_hmac(algorithm) && is_hmac(other) || algorithm == other {
                true => assert_eq!(found, Ok(())),
                false => assert!(found.is_err(), "{name} by {}", other.name()),
            }
        }
        let named = signer.jwks(r#","kid":"k""#);
        assert_eq!(verify(&named, &signer.token(r#","kid":"k""#, CLAIMS)), Ok(()), "{name}");
        assert_eq!(verify(&named, &signer.token(r#","kid":"l""#, CLAIMS)), Err(Failure::JwksKidAlgMismatch), "{name}");
    }
}

/// CVE-2015-9235 and its relatives: who says which algorithm it is does not choose it.
#[test]
fn a_public_key_is_no_secret() {
    let rsa = Signer::new(Algorithm::Rs256);
    let jwks = rsa.jwks("");
    let signed = format!("{}.{}", encode(r#"{"alg":"HS256"}"#), encode(CLAIMS));
    for secret in [jwks.as_bytes(), rsa.members().as_bytes()] {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
        let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
        assert_eq!(verify(&jwks, &format!("{signed}.{}", encode(tag))), Err(Failure::VerificationFails));
    }
    let claimed =
        |header: &str, signature: &[u8]| format!("{}.{}.{}", encode(header), encode(CLAIMS), encode(signature));
    for none in ["none", "None", "NONE", "nOnE", "", "HS1", "RS256 "] {
        let token = claimed(&format!(r#"{{"alg":"{none}"}}"#), b"x");
        assert_eq!(verify(&jwks, &token), Err(Failure::HeaderUnknownAlg), "{none}");
    }
    // CVE-2022-21449: zeros sign nothing.
    let ec = Signer::new(Algorithm::Es256);
    for signature in [&[0; 64][..], &[0; 2], &[0x30, 6, 2, 1, 0, 2, 1, 0]] {
        let token = claimed(r#"{"alg":"ES256"}"#, signature);
        assert_eq!(verify(&ec.jwks(""), &token), Err(Failure::VerificationFails));
    }
    let ed = Signer::new(Algorithm::EdDsa);
    assert_eq!(verify(&ed.jwks(""), &claimed(r#"{"alg":"EdDSA"}"#, &[0; 63])), Err(Failure::Ed25519WrongLength));
    assert_eq!(verify(&ed.jwks(""), &claimed(r#"{"alg":"EdDSA"}"#, &[0; 64])), Err(Failure::VerificationFails));
}

/// CVE-2018-0114: a token that brings its own key.
#[test]
fn keys_in_a_token_are_not_used() {
    let (trusted, own) = (Signer::new(Algorithm::Es256), Signer::new(Algorithm::Es256));
    for header in [
        format!(r#","jwk":{{{}}}"#, own.members()),
        r#","jku":"http://attacker.test/keys""#.to_owned(),
        r#","x5u":"http://attacker.test/cert","x5c":["AAAA"]"#.to_owned(),
    ] {
        assert_eq!(verify(&trusted.jwks(""), &own.token(&header, CLAIMS)), Err(Failure::VerificationFails));
        assert_eq!(verify(&trusted.jwks(""), &trusted.token(&header, CLAIMS)), Ok(()), "nor in the way");
    }
    let critical = trusted.token(r#","crit":["exp"]"#, CLAIMS);
    assert_eq!(verify(&trusted.jwks(""), &critical), Err(Failure::HeaderCritical));
}

#[test]
fn each_flaw_has_its_name() {
    let good = encode(r#"{"alg":"HS256"}"#);
    let token = |header: &str, payload: &str| format!("{}.{}.{}", encode(header), encode(payload), encode("s"));
    let claims = |payload: &str| token(r#"{"alg":"HS256"}"#, payload);
    for (token, expected) in [
        (String::new(), Failure::BadFormat),
        ("a.b".to_owned(), Failure::BadFormat),
        ("a..b".to_owned(), Failure::BadFormat),
        ("a.b.".to_owned(), Failure::BadFormat),
        (format!("{}.", claims("{}")), Failure::BadFormat),
        (format!("{}.{}", claims("{}"), encode("more")), Failure::BadFormat),
        (format!("{} x", claims("{}")), Failure::SignatureBadBase64),
        (format!("{}!", claims("{}")), Failure::SignatureBadBase64),
        (format!("{good}+/.e30.c2ln"), Failure::HeaderBadBase64),
        (token("{", "{}"), Failure::HeaderBadJson),
        (token(r#"{"alg":"HS256","alg":"none"}"#, "{}"), Failure::HeaderBadJson),
        (token("{}", "{}"), Failure::HeaderBadAlg),
        (token(r#"{"alg":["HS256"]}"#, "{}"), Failure::HeaderBadAlg),
        (token(r#"{"alg":"HS256","kid":1}"#, "{}"), Failure::HeaderBadKid),
        (format!("{good}.e3.c2ln"), Failure::PayloadBadBase64),
        (format!("{good}.***.c2ln"), Failure::PayloadBadBase64),
        (claims("[]"), Failure::PayloadBadJson),
        (claims(r#"{"sub":"a","sub":"b"}"#), Failure::PayloadBadJson),
        (claims(r#"{"iss":1}"#), Failure::IssuerNotString),
        (claims(r#"{"sub":{}}"#), Failure::SubjectNotString),
        (claims(r#"{"iat":"1"}"#), Failure::IssuedAtNotInteger),
        (claims(r#"{"iat":-1}"#), Failure::IssuedAtOutOfRange),
        (claims(r#"{"nbf":[]}"#), Failure::NotBeforeNotInteger),
        (claims(r#"{"nbf":1e20}"#), Failure::NotBeforeOutOfRange),
        (claims(r#"{"exp":"tomorrow"}"#), Failure::ExpiresNotInteger),
        (claims(r#"{"exp":-1}"#), Failure::ExpiresOutOfRange),
        (claims(r#"{"jti":1}"#), Failure::IdNotString),
        (claims(r#"{"aud":1}"#), Failure::AudienceNotString),
        (claims(r#"{"aud":["a",["b"]]}"#), Failure::AudienceNotString),
    ] {
        assert_eq!(Token::parse(token.as_bytes()).err(), Some(expected), "{token}");
    }
    assert_eq!(Token::parse(b"\xff.e30.c2ln").err(), Some(Failure::BadFormat));
}

#[test]
fn claims_are_read() {
    let signer = Signer::new(Algorithm::Hs256);
    let token = Token::parse(signer.token("", CLAIMS).as_bytes()).unwrap();
    assert_eq!((token.issuer(), token.subject(), token.expires()), ("i", "s", Some(4_102_444_800)));
    assert_eq!(token.audiences().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(token.encoded_payload(), encode(CLAIMS));
    assert_eq!(format!("{token:?} {:?}", Jwks::parse(signer.jwks("").as_bytes())), "Token(..) Ok(Jwks(1 keys))");
    let times = |payload: &str, now, skew| {
        Token::parse(signer.token("", payload).as_bytes()).and_then(|token| token.check_time(now, skew))
    };
    assert_eq!(times(r#"{"exp":100}"#, 160, 60), Ok(()));
    assert_eq!(times(r#"{"exp":100}"#, 161, 60), Err(Failure::Expired));
    assert_eq!(times(r#"{"exp":0}"#, 161, 60), Err(Failure::Expired));
    assert_eq!(times(r#"{"nbf":100}"#, 40, 60), Ok(()));
    assert_eq!(times(r#"{"nbf":100.9}"#, 39, 60), Err(Failure::NotYetValid));
    assert_eq!(times("{}", u64::MAX, 60), Ok(()));
}

#[test]
fn key_sets() {
    let (ec, hmac) = (Signer::new(Algorithm::Es256), Signer::new(Algorithm::Hs256));
    for (jwks, expected) in [
        ("", Failure::JwksBadJson),
        ("[]", Failure::JwksBadJson),
        (r#"{"keys":[],"keys":[]}"#, Failure::JwksBadJson),
        ("{}", Failure::JwksNoKeys),
        (r#"{"keys":{}}"#, Failure::JwksBadKeys),
        (r#"{"keys":[]}"#, Failure::JwksNoValidKeys),
        (
            r#"{"keys":[1,{},{"kty":"RSA"},{"kty":"oct","k":""},{"kty":"OKP","crv":"X25519","x":"AA"}]}"#,
            Failure::JwksNoValidKeys,
        ),
        // 512 bits, and an exponent that takes long.
        (
            r#"{"keys":[{"kty":"RSA","e":"AQAB","n":"vk2nJ0xXd1u_vX2Hq4ZBWc7nHVzjGqLrhrXg9cfyg9Jw7aJcVW1eXh8BAlrxYxXrqpzeXkyKWiSrAsEBxKnkzQ"}]}"#,
            Failure::JwksNoValidKeys,
        ),
        (r#"{"keys":[{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}]}"#, Failure::JwksNoValidKeys),
    ] {
        assert_eq!(Jwks::parse(jwks.as_bytes()).err(), Some(expected), "{jwks}");
    }
    for others in [r#","alg":"RS256""#, r#","alg":"ES384""#, r#","alg":"HS256""#] {
        assert_eq!(Jwks::parse(ec.jwks(others).as_bytes()).err(), Some(Failure::JwksNoValidKeys), "{others}");
    }
    assert_eq!(Jwks::parse(hmac.jwks(r#","alg":"none""#).as_bytes()).err(), Some(Failure::JwksNoValidKeys));
    // What cannot be used does not spoil what can.
    let both = format!(r#"{{"keys":[{{"kty":"nonsense"}},{{{}}},{{{}}}]}}"#, ec.members(), hmac.members());
    assert_eq!(verify(&both, &ec.token("", CLAIMS)), Ok(()));
    assert_eq!(verify(&both, &hmac.token("", CLAIMS)), Ok(()));
}
