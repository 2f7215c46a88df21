//! What configuration makes of a request: log lines, rewritten targets, locations.

use http::uri::PathAndQuery;
use http::Uri;
use pymesh_engine::testing::{location, log_line, rewritten};
use pymesh_http::{RequestHead, ResponseHead};
use pymesh_model::format::{AccessLog, LogFormat, LogOutput, LogSink, Part, Template};
use pymesh_model::matcher::full_match;
use pymesh_model::route::{PathMatch, PathRewrite, Redirect, RedirectPath};
use pymesh_model::testing::rule;
use regex::bytes::Regex;

use crate::input::Input;
use crate::strict::show;

/// A value as the codecs let it through.
fn value(octets: &[u8]) -> Vec<u8> {
    octets.iter().copied().filter(|octet| *octet == b'\t' || (*octet >= 0x20 && *octet != 0x7f)).collect()
}

/// A format, and the values of a request and its response.
pub fn access_log(data: &[u8]) {
    let mut input = Input::new(data);
    let format = std::str::from_utf8(input.string()).unwrap_or("%REQ(X-A)% %RESP(X-B?X-C):3%");
    let template = match Template::parse(format) {
        Ok(template) => template,
        Err(error) => return assert!(!error.is_empty()),
    };
    let (mut request, mut response) = (RequestHead::default(), ResponseHead::default());
    request.set_authority(b"shop.example");
    request.set_path(b"/a?b");
    for name in [&b"x-a"[..], b"x-request-id", b"user-agent"] {
        request.headers.append(name, &value(input.string()));
    }
    for name in [&b"x-b"[..], b"x-c", b"content-type"] {
        response.headers.append(name, &value(input.string()));
    }
    response.status = input.word();
    let log = |format| AccessLog { output: LogOutput::Lines(LogSink::Stdout, format), filter: None };
    let line = log_line(&log(LogFormat::Text(template.clone())), &request, &response);
    let control = |octets: &[u8]| octets.iter().filter(|octet| **octet < 0x20).count();
    let written =
        template.parts.iter().map(|part| if let Part::Text(text) = part { control(text.as_bytes()) } else { 0 });
    assert_eq!(control(&line), written.sum::<usize>(), "a value forges a line: {}", show(&line));
    let fields = vec![(format.into(), template.clone()), ("second".into(), template)];
    let line = log_line(&log(LogFormat::Json(fields)), &request, &response);
    assert_eq!(line.iter().filter(|octet| **octet == b'\n').count(), 1, "{}", show(&line));
    let read: serde_json::Value =
        serde_json::from_slice(&line).unwrap_or_else(|error| panic!("{error}: {}", show(&line)));
    assert!(read.get(format).is_some() && read.get("second").is_some(), "{read}");
}

/// A pattern, what replaces it, and the target that it is applied to.
pub fn rewrite(data: &[u8]) {
    let mut input = Input::new(data);
    let text = |octets| std::str::from_utf8(octets).unwrap_or("^/(a+)/(.*)$");
    let (pattern, with) = (text(input.string()), text(input.string()));
    let target = [b"/", input.rest()].concat();
    if PathAndQuery::try_from(&target[..]).is_err()
        || target.contains(&b'#')
        || !target.iter().all(u8::is_ascii_graphic)
    {
        return;
    }
    let alone = regex::bytes::RegexBuilder::new(pattern).size_limit(1 << 16).build();
    if let Ok(whole) = full_match(pattern) {
        let Ok(alone) = &alone else { return assert!(Regex::new(pattern).is_ok(), "{pattern:?} is no pattern alone") };
        let found = alone.find(&target);
        assert!(!whole.is_match(&target) || found.is_some(), "{pattern:?} is found in no part of {}", show(&target));
        let spans = found.is_some_and(|found| found.range() == (0..target.len()));
        assert!(!spans || whole.is_match(&target), "{pattern:?} does not match {}", show(&target));
    }
    let Ok(regex) = alone else { return };
    let rule = rule(PathMatch::Prefix("/".into()));
    for rewrite in [PathRewrite::Regex(regex.clone(), with.into()), PathRewrite::Prefix(with.into())] {
        let new = rewritten(&rewrite, &rule, &target);
        let query = |target: &[u8]| target.iter().position(|octet| *octet == b'?').map(|at| target[at..].to_vec());
        assert!(
            new.ends_with(&query(&target).unwrap_or_default()),
            "{} loses its query: {}",
            show(&target),
            show(&new)
        );
    }
    let mut request = RequestHead::default();
    request.set_authority(b"shop.example:80");
    request.set_path(&target);
    let is_plain = with.starts_with('/') && PathAndQuery::try_from(with).is_ok();
    for path in
        [RedirectPath::Regex(regex, with.into()), RedirectPath::Prefix(with.into()), RedirectPath::Full(with.into())]
    {
        let redirect = Redirect { path: Some(path), status: 301, ..Redirect::default() };
        let found = location(&redirect, &rule, &request);
        assert!(found.starts_with(b"http://shop.example:80"), "{}", show(&found));
        if is_plain && !matches!(redirect.path, Some(RedirectPath::Regex(..))) {
            assert!(Uri::try_from(&found[..]).is_ok(), "{}", show(&found));
        }
    }
}
