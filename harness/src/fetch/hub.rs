//! The hub's protocol: the files of a repository, and their content.
//!
//! *Invariant:* the token is sent only to the scheme, host and port of the endpoint, and appears in no message.

use crate::fsutil::{hex, sha256};
use crate::net::{agent, retry_after, trouble};
use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, ETAG, LOCATION, RANGE};
use ureq::http::{HeaderMap, Method, Request, Response, Uri};
use ureq::{Agent, Body};

/// Endpoint of the hub, unless HF_ENDPOINT overrides it.
const ENDPOINT: &str = "https://huggingface.co";

/// Maximum wait for the next bytes of a response.
const SILENCE: Duration = Duration::from_secs(60);

/// Maximum number of redirects of a request.
const MAX_REDIRECTS: usize = 8;

/// Maximum size of a list of files, in bytes.
const LARGEST_LIST: u64 = 64 << 20;

/// Kind of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Weights, configuration, a tokenizer.
    Model,
    /// Training data or questions.
    Dataset,
}

impl Kind {
    /// Returns the word used in the hub's URLs.
    pub fn plural(self) -> &'static str {
        match self {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        }
    }
}

/// A repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repo {
    /// Kind of the repository.
    pub kind: Kind,
    /// `OWNER/NAME`.
    pub name: String,
    /// Branch, tag or commit.
    pub revision: String,
}

/// Files of a repository.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Commit that the revision points to.
    pub commit: String,
    /// All files of that commit.
    pub files: Vec<Entry>,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path inside the repository, with `/` between folders.
    pub path: String,
    /// Size in bytes, if the hub reports it.
    pub size: Option<u64>,
    /// Digest of the content, if the hub reports it.
    pub digest: Option<Digest>,
}

/// Digest that identifies a content: SHA-256 for large files, SHA-1 of the git blob for files stored in git itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Digest {
    /// SHA-256 of the content.
    Sha256(String),
    /// SHA-1 of `blob SIZE\0` and the content (git's object id).
    Git(String),
}

impl Digest {
    /// Parses an ETag of the hub: 64 hexadecimal digits are SHA-256, 40 are git's SHA-1.
    pub fn of_etag(etag: &str) -> Option<Self> {
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
        let is_hex = etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        match etag.len() {
            64 if is_hex => Some(Digest::Sha256(etag)),
            40 if is_hex => Some(Digest::Git(etag)),
            _ => None,
        }
    }

    /// Returns the hexadecimal digits.
    pub fn digits(&self) -> &str {
        let (Digest::Sha256(digits) | Digest::Git(digits)) = self;
        digits
    }

    /// Computes the digest of a file, of the same kind as this one.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn of_file(&self, path: &Path) -> Result<Self> {
        match self {
            Digest::Sha256(_) => sha256(path).map(Digest::Sha256),
            Digest::Git(_) => {
                let digest = || -> io::Result<String> {
                    let mut file = File::open(path)?;
                    let mut hasher = GitHasher(sha1_smol::Sha1::new());
                    hasher.0.update(format!("blob {}\0", file.metadata()?.len()).as_bytes());
                    io::copy(&mut file, &mut hasher)?;
                    Ok(hex(&hasher.0.digest().bytes()))
                };
                digest().map(Digest::Git).with_context(|| format!("{}: cannot be read", path.display()))
            }
        }
    }
}

struct GitHasher(sha1_smol::Sha1);

impl io::Write for GitHasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why a request to the hub failed.
pub enum Trouble {
    /// No connection, or an interrupted one; the text does not contain the address.
    Network(String),
    /// The hub is busy: why, and the wait that it asks for.
    Busy(String, Option<Duration>),
    /// The requested range begins beyond the end of the file.
    Beyond,
    /// Refused for good; another attempt would not help.
    Refused(Error),
}

/// No such repository, revision or file, or no permission to see it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Missing(String);

/// A response after following all redirects.
pub struct Answer {
    /// Headers from the endpoint itself.
    hub_headers: HeaderMap,
    /// Response with the content.
    pub response: Response<Body>,
}

impl Answer {
    /// Returns the digest of the file's content, if the headers report it.
    fn digest(&self) -> Option<Digest> {
        let own = || self.response.headers().get(ETAG);
        let etag = self.hub_headers.get("x-linked-etag").or_else(own)?;
        Digest::of_etag(etag.to_str().ok()?)
    }

    fn size(&self) -> Option<u64> {
        let own = || self.response.headers().get(CONTENT_LENGTH);
        self.hub_headers.get("x-linked-size").or_else(own)?.to_str().ok()?.parse().ok()
    }
}

/// The hub, or a mirror of it.
pub struct Hub {
    endpoint: Uri,
    token: Option<String>,
    agent: Agent,
    /// Cache of Hugging Face's own programs, if there is one.
    pub cache: Option<PathBuf>,
    /// Wait before the second attempt; each later wait is twice as long.
    pub pause: Duration,
}

impl Hub {
    /// Configures the hub by HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HOME and HF_HUB_CACHE.
    ///
    /// # Errors
    /// If HF_ENDPOINT or the token is malformed.
    pub fn from_env() -> Result<Self> {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let under = |folder: PathBuf, rest: &str| folder.join(rest);
        let home = set("HF_HOME").map(PathBuf::from).or_else(|| {
            let cache = set("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| Some(under(env::home_dir()?, ".cache")));
            Some(under(cache?, "huggingface"))
        });
        let file = set("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(under(home.clone()?, "token")));
        let token = set("HF_TOKEN").or_else(|| fs::read_to_string(file?).ok());
        let cache = set("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(under(home?, "hub")));
        Ok(Self { cache, ..Self::new(&set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into()), token)? })
    }

    /// Configures the hub at an address, with an optional token.
    ///
    /// # Errors
    /// If the address is not an HTTP URL, or the token contains characters that no token has.
    pub fn new(endpoint: &str, token: Option<String>) -> Result<Self> {
        let expected = || format!("HF_ENDPOINT = {endpoint:?}: expected an address such as {ENDPOINT}");
        let endpoint: Uri = endpoint.trim().trim_end_matches('/').parse().with_context(expected)?;
        let is_http = matches!(endpoint.scheme_str(), Some("http" | "https"));
        ensure!(is_http && endpoint.host().is_some() && endpoint.query().is_none(), expected());
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let is_plain = |token: &String| token.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(
            token.as_ref().is_none_or(is_plain),
            "HF_TOKEN: contains characters that no token has, such as a space"
        );
        Ok(Self { endpoint, token, agent: agent(SILENCE), cache: None, pause: Duration::from_secs(1) })
    }

    /// Returns the endpoint without a trailing `/`.
    fn base(&self) -> String {
        self.endpoint.to_string().trim_end_matches('/').to_owned()
    }

    /// Lists the files of a repository.
    ///
    /// # Errors
    /// [`Missing`] if the repository does not exist or is hidden; other errors if the hub cannot be reached.
    pub fn list(&self, repo: &Repo) -> Result<Listing> {
        let (plural, name, revision) = (repo.kind.plural(), &repo.name, escaped(&repo.revision, false));
        let url = format!("{}/api/{plural}/{name}/revision/{revision}?blobs=true", self.base());
        let mut waits = self.waits();
        let mut answer = loop {
            match self.ask(&Method::GET, &url, 0, repo) {
                Ok(answer) => break answer,
                Err(Trouble::Refused(error)) => return Err(error),
                Err(Trouble::Busy(why, wanted)) => waits.wait(&why, wanted).with_context(|| url.clone())?,
                Err(Trouble::Beyond) => bail!("{url}: status 416 to a request for the whole file"),
                Err(Trouble::Network(why)) => {
                    bail!(
                        "{}: {why}; if this address cannot be reached, set HF_ENDPOINT to a mirror such as https://hf-mirror.com, or HTTPS_PROXY to your proxy",
                        self.base()
                    )
                }
            }
        };
        let body = answer.response.body_mut().with_config().limit(LARGEST_LIST).read_to_vec();
        let body = body.map_err(|error| anyhow!("{url}: {}", trouble(&error)))?;
        let info: RevisionInfo = serde_json::from_slice(&body)
            .with_context(|| format!("{url}: is not a list of files; is HF_ENDPOINT a mirror of the hub?"))?;
        let is_commit = |sha: &String| sha.len() == 40 && sha.bytes().all(|byte| byte.is_ascii_hexdigit());
        let commit = info.sha.filter(is_commit).unwrap_or_else(|| repo.revision.clone());
        Ok(Listing { commit, files: info.siblings.into_iter().map(Entry::from).collect() })
    }

    /// Requests the size and digest of a file if the hub's list lacks them.
    pub(super) fn describe(&self, repo: &Repo, commit: &str, entry: &mut Entry) -> Result<(), Trouble> {
        let answer = self.ask(&Method::HEAD, &self.address(repo, commit, &entry.path), 0, repo)?;
        entry.size = entry.size.or_else(|| answer.size());
        entry.digest = entry.digest.take().or_else(|| answer.digest());
        Ok(())
    }

    /// Requests the content of a file from a byte offset; the response may contain the whole file nevertheless.
    pub(super) fn open(&self, repo: &Repo, commit: &str, path: &str, from: u64) -> Result<Answer, Trouble> {
        self.ask(&Method::GET, &self.address(repo, commit, path), from, repo)
    }

    /// Returns the URL of a file at a commit.
    pub fn address(&self, repo: &Repo, commit: &str, path: &str) -> String {
        let datasets = if repo.kind == Kind::Dataset { "datasets/" } else { "" };
        let (commit, path) = (escaped(commit, false), escaped(path, true));
        format!("{}/{datasets}{}/resolve/{commit}/{path}", self.base(), repo.name)
    }

    fn ask(&self, method: &Method, url: &str, from: u64, repo: &Repo) -> Result<Answer, Trouble> {
        let refused = |why: String| Trouble::Refused(anyhow!("{url}: {why}"));
        let mut at: Uri = url.parse().map_err(|error| refused(format!("is not a valid URL: {error}")))?;
        let mut hub_headers = HeaderMap::new();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::builder().method(method).uri(at.clone());
            request = request.header(ACCEPT_ENCODING, "identity");
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let is_home = is_same_place(&at, &self.endpoint);
            if let Some(token) = self.token.as_ref().filter(|_| is_home) {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            let request = request.body(()).map_err(|error| refused(error.to_string()))?;
            let response = self.agent.run(request).map_err(|error| Trouble::Network(trouble(&error)))?;
            if is_home {
                hub_headers.extend(response.headers().clone());
            }
            if !response.status().is_redirection() {
                return match response.status().is_success() {
                    true => Ok(Answer { hub_headers, response }),
                    false => Err(self.problem(url, response, repo)),
                };
            }
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
            at = redirected(&at, to)
                .ok_or_else(|| refused(format!("is redirected to {to:?}, which is not a valid URL")))?;
        }
        Err(refused(format!("is redirected more than {MAX_REDIRECTS} times")))
    }

    /// Interprets a response with an error status.
    fn problem(&self, url: &str, mut response: Response<Body>, repo: &Repo) -> Trouble {
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|text| text.to_str().ok());
        let code = header("x-error-code").unwrap_or_default().to_owned();
        let wait = retry_after(response.headers());
        let said = header("x-error-message").map(|said| format!(" ({})", first_line(said)));
        let said = said.unwrap_or_default();
        let datasets = if repo.kind == Kind::Dataset { "datasets/" } else { "" };
        let (page, base) = (format!("{}/{datasets}{}", self.base(), repo.name), self.base());
        let is_known = self.token.is_some();
        let missing = |why: String| Trouble::Refused(Missing(format!("{url}: {status}, {why}{said}")).into());
        match status {
            401 | 403 if code == "GatedRepo" && is_known => missing(format!(
                "a gated repository: accept its terms at {page} with the account that HF_TOKEN belongs to"
            )),
            401 | 403 if is_known => missing(format!(
                "the token gives no access: there is no such repository, or it is private or gated; see {page}, and {base}/settings/tokens for a token with read access"
            )),
            401 | 403 => missing(format!(
                "there is no such repository, or it is private or gated: accept its terms at {page} and set HF_TOKEN to a token with read access from {base}/settings/tokens"
            )),
            404 if code == "RevisionNotFound" => {
                missing(format!("there is no revision {}; see {page}/commits", repo.revision))
            }
            404 => missing("there is no such repository or file; expected OWNER/NAME as on the hub".into()),
            416 => Trouble::Beyond,
            408 | 429 | 500..=599 => {
                let why = match status {
                    429 => "the hub limits the request rate (429)".to_owned(),
                    _ => format!("the hub answers {status}"),
                };
                Trouble::Busy(why + &said, wait)
            }
            _ => {
                let text = response.body_mut().with_config().limit(1000).read_to_string();
                let text = text.map(|text| format!(": {}", first_line(&text))).unwrap_or_default();
                Trouble::Refused(anyhow!("{url}: {status}{said}{text}"))
            }
        }
    }

    /// Returns a new backoff for the attempts of one request.
    pub fn waits(&self) -> Waits {
        Waits { next: self.pause, left: Waits::TRIES }
    }
}

/// Backoff between attempts: how long to wait, and how often.
pub struct Waits {
    next: Duration,
    left: u32,
}

impl Waits {
    /// Maximum number of waits.
    const TRIES: u32 = 5;

    /// Maximum wait; if the hub asks for a longer one, it is left to the user.
    const LONGEST: Duration = Duration::from_secs(600);

    /// Waits as long as the hub asks for, otherwise twice as long as the last time.
    ///
    /// # Errors
    /// After too many waits, and if the hub asks for too long a wait; the error contains the reason `why`.
    pub fn wait(&mut self, why: &str, wanted: Option<Duration>) -> Result<()> {
        let time = wanted.unwrap_or(self.next);
        let shown = crate::track::time(time.as_secs_f64());
        ensure!(time <= Self::LONGEST, "{why} and asks to wait {shown}; run the command again then");
        ensure!(self.left > 0, "{why}, {} times; run the command again to resume", Self::TRIES + 1);
        self.left -= 1;
        self.next *= 2;
        tracing::warn!("{why}; trying again in {shown}");
        std::thread::sleep(time);
        Ok(())
    }
}

/// JSON of `/api/models/OWNER/NAME/revision/REVISION?blobs=true`, as far as it is used.
#[derive(Deserialize)]
struct RevisionInfo {
    sha: Option<String>,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl From<Sibling> for Entry {
    fn from(sibling: Sibling) -> Self {
        // The blob of a large file is its LFS pointer, whose digest is not that of the content.
        let (size, digest) = match sibling.lfs {
            Some(lfs) => (lfs.size.or(sibling.size), lfs.sha256),
            None => (sibling.size, sibling.blob_id),
        };
        Self { path: sibling.rfilename, size, digest: digest.and_then(|digits| Digest::of_etag(&digits)) }
    }
}

/// Returns whether two URLs have the same scheme, host and port.
fn is_same_place(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    a.scheme_str() == b.scheme_str() && host(a) == host(b) && port(a) == port(b)
}

/// Resolves a `Location` header against a URL; `None` if the result is not an HTTP URL.
fn redirected(from: &Uri, to: &str) -> Option<Uri> {
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let whole = match to {
        _ if to.starts_with("//") => format!("{scheme}:{to}"),
        _ if to.starts_with('/') => format!("{scheme}://{authority}{to}"),
        _ => to.to_owned(),
    };
    let uri: Uri = whole.parse().ok()?;
    (matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()).then_some(uri)
}

/// Percent-encodes text for a URL (RFC 3986, 2.3); a path keeps its `/`.
fn escaped(text: &str, is_path: bool) -> String {
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || is_path && byte == b'/';
    let mut found = String::with_capacity(text.len());
    for byte in text.bytes() {
        match is_plain(byte) {
            true => found.push(byte.into()),
            false => found.push_str(&format!("%{byte:02X}")),
        }
    }
    found
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn digests_are_those_of_the_hub() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "hello\n").unwrap();
        // From `printf 'hello\n' | git hash-object --stdin` and `sha256sum`.
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        for (etag, digest) in
            [(format!("\"{git}\""), Digest::Git(git.into())), (sha.into(), Digest::Sha256(sha.into()))]
        {
            let parsed = Digest::of_etag(&etag).unwrap();
            assert_eq!(parsed, digest);
            assert_eq!(parsed.of_file(&path).unwrap(), digest);
        }
        assert_eq!(Digest::of_etag("W/\"12ab\""), None);
    }

    #[test]
    fn the_token_stays_where_it_belongs() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        let home = uri("https://huggingface.co");
        for (address, is_home) in [
            ("https://huggingface.co/a/b", true),
            ("https://HUGGINGFACE.co:443/a", true),
            ("http://huggingface.co/a", false),
            ("https://cdn-lfs.huggingface.co/a", false),
            ("https://huggingface.co.evil.org/a", false),
            ("https://huggingface.co:8443/a", false),
        ] {
            assert_eq!(is_same_place(&uri(address), &home), is_home, "{address}");
        }
        let from = uri("https://h.co/a/b?c");
        for (to, expected) in [
            ("/x?y", Some("https://h.co/x?y")),
            ("//s.org/x", Some("https://s.org/x")),
            ("http://s.org/x", Some("http://s.org/x")),
            ("file:///etc/passwd", None),
            ("x", None),
        ] {
            assert_eq!(redirected(&from, to), expected.map(uri), "{to}");
        }
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escaped("a b/中%?.csv", true), "a%20b/%E4%B8%AD%25%3F.csv");
        assert_eq!(escaped("refs/pr/1", false), "refs%2Fpr%2F1");
    }

    #[test]
    fn addresses_and_tokens_that_are_none_are_refused() {
        let refused = |endpoint: &str, token: Option<&str>| {
            Hub::new(endpoint, token.map(Into::into)).err().unwrap().to_string()
        };
        assert!(
            refused("hf-mirror.com", None).contains("expected an address such as https://huggingface.co")
        );
        assert!(refused("ftp://a.org", None).contains("HF_ENDPOINT = \"ftp://a.org\""));
        let error = refused("https://a.org", Some("hf_secret x"));
        assert!(error.starts_with("HF_TOKEN") && !error.contains("secret"), "{error}");
        assert!(Hub::new("https://a.org/", Some(" \n".into())).unwrap().token.is_none());
    }
}
