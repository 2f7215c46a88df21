//! Why a token is not accepted, in Envoy's words and with its numbers.

macro_rules! failures {
    ($($name:ident = $code:literal $text:literal,)*) => {
        /// What is wrong with a token, or with the keys to check it with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Failure {
            $($name,)*
        }

        impl Failure {
            /// For people: the body of the answer.
            pub fn text(self) -> &'static str {
                match self {
                    $(Failure::$name => $text,)*
                }
            }

            /// `Status` of Envoy.
            pub fn code(self) -> u32 {
                match self {
                    $(Failure::$name => $code,)*
                }
            }
        }
    };
}

failures! {
    Missing = 1 "Jwt is missing",
    NotYetValid = 2 "Jwt not yet valid",
    Expired = 3 "Jwt is expired",
    BadFormat = 4 "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
    HeaderBadBase64 = 5 "Jwt header is an invalid Base64url encoded",
    HeaderBadJson = 6 "Jwt header is an invalid JSON",
    HeaderBadAlg = 7 "Jwt header [alg] field is required and must be a string",
    HeaderUnknownAlg = 8 "Jwt header [alg] is not supported",
    HeaderBadKid = 9 "Jwt header [kid] field is not a string",
    PayloadBadBase64 = 10 "Jwt payload is an invalid Base64url encoded",
    PayloadBadJson = 11 "Jwt payload is an invalid JSON",
    IssuerNotString = 12 "Jwt payload [iss] field is not a string",
    SubjectNotString = 13 "Jwt payload [sub] field is not a string",
    IssuedAtNotInteger = 14 "Jwt payload [iat] field is not an integer",
    IssuedAtOutOfRange = 15 "Jwt payload [iat] field is not a positive 64 bit integer",
    NotBeforeNotInteger = 16 "Jwt payload [nbf] field is not an integer",
    NotBeforeOutOfRange = 17 "Jwt payload [nbf] field is not a positive 64 bit integer",
    ExpiresNotInteger = 18 "Jwt payload [exp] field is not an integer",
    ExpiresOutOfRange = 19 "Jwt payload [exp] field is not a positive 64 bit integer",
    IdNotString = 20 "Jwt payload [jti] field is not a string",
    AudienceNotString = 21 "Jwt payload [aud] field is not a string or string list",
    SignatureBadBase64 = 22 "Jwt signature is an invalid Base64url encoded",
    Ed25519WrongLength = 23 "Jwt ED25519 signature is wrong length",
    UnknownIssuer = 24 "Jwt issuer is not configured",
    AudienceNotAllowed = 25 "Audiences in Jwt are not allowed",
    VerificationFails = 26 "Jwt verification fails",
    // 27 is not used by Envoy itself.
    HeaderCritical = 27 "Jwt header [crit] asks for what is not supported",
    JwksBadJson = 28 "Jwks is an invalid JSON",
    JwksNoKeys = 29 "Jwks does not have [keys] field",
    JwksBadKeys = 30 "[keys] in Jwks is not an array",
    JwksNoValidKeys = 31 "Jwks doesn't have any valid public key",
    JwksKidAlgMismatch = 32 "Jwks doesn't have key to match kid or alg from Jwt",
    JwksFetchFails = 40 "Jwks remote fetch is failed",
}
