//! What becomes of a request if it is let pass.
//!
//! Who judges reads the request through its [`Changes`]: a provider may take a token away, or set a header, that another
//! provider looks for.

use pymesh_http::RequestHead;

/// A request, and how it is to be changed.
pub(super) struct Changes<'r> {
    request: &'r RequestHead,
    edits: Edits,
    /// Headers were set that its route may depend on, and the configuration wants that to count.
    pub reroutes: bool,
}

type Values = Vec<Vec<u8>>;

/// The changes alone.
#[derive(Default)]
pub(super) struct Edits {
    /// All values of a header (lower case), in place of those that it has.
    headers: Vec<(Box<[u8]>, Values)>,
    path: Option<Vec<u8>>,
}

impl<'r> Changes<'r> {
    pub fn of(request: &'r RequestHead) -> Changes<'r> {
        Changes { request, edits: Edits::default(), reroutes: false }
    }

    /// The values of a header (lower case).
    pub fn values<'v>(&'v self, name: &'v [u8]) -> Vec<&'v [u8]> {
        match self.edits.headers.iter().find(|(changed, _)| **changed == *name) {
            Some((_, values)) => values.iter().map(Vec::as_slice).collect(),
            None => match std::str::from_utf8(name) {
                Ok(name) => crate::route::matcher::request_values(name, self.request).collect(),
                Err(_) => Vec::new(),
            },
        }
    }

    pub fn request(&self) -> &'r RequestHead {
        self.request
    }

    pub fn path(&self) -> &[u8] {
        self.edits.path.as_deref().unwrap_or(self.request.path())
    }

    pub fn set_path(&mut self, path: Vec<u8>) {
        self.edits.path = Some(path);
    }

    pub fn remove(&mut self, name: &[u8]) {
        match self.edits.headers.iter_mut().find(|(changed, _)| **changed == *name) {
            Some((_, values)) => values.clear(),
            None if self.request.headers.get(name).is_some() => self.edits.headers.push((name.into(), Vec::new())),
            None => {}
        }
    }

    pub fn add(&mut self, name: &[u8], value: Vec<u8>) {
        match self.edits.headers.iter_mut().find(|(changed, _)| **changed == *name) {
            Some((_, values)) => values.push(value),
            None => {
                let mut values: Vec<Vec<u8>> = self.request.headers.get_all(name).map(<[u8]>::to_vec).collect();
                values.push(value);
                self.edits.headers.push((name.into(), values));
            }
        }
    }

    pub fn into_edits(self) -> Edits {
        self.edits
    }

    /// Carries them out.
    pub fn apply(edits: Edits, request: &mut RequestHead) {
        for (name, values) in edits.headers {
            request.headers.remove(&name);
            for value in values {
                request.headers.append(&name, &value);
            }
        }
        if let Some(path) = edits.path {
            request.set_path(&path);
        }
    }
}
