//! The hub's protocol: what a repository holds, and the content of its files.
//!
//! *Invariant:* the token goes to the scheme, host and port of the endpoint only, and into no message.

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

/// Where the hub is, unless HF_ENDPOINT says otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// An answer that stays away so long does not come.
const SILENCE: Duration = Duration::from_secs(60);

/// A file may be redirected so often.
const MOST_REDIRECTS: usize = 8;

/// The largest list of files that is read, in bytes.
const LARGEST_LIST: u64 = 64 << 20;

/// What a repository is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Weights, settings, a tokenizer.
    Model,
    /// Rows to train on, or questions.
    Dataset,
}

impl Kind {
    /// As in the addresses of the hub.
    pub fn plural(self) -> &'static str {
        match self {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        }
    }
}

/// A repository at one of its states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repo {
    /// What it is of.
    pub kind: Kind,
    /// `OWNER/NAME`.
    pub name: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

/// What a repository holds.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The commit that the revision is at.
    pub commit: String,
    /// Its files.
    pub files: Vec<Entry>,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path inside the repository, with `/` between folders.
    pub path: String,
    /// Bytes, where the hub tells.
    pub size: Option<u64>,
    /// The digest of its content, where the hub tells.
    pub digest: Option<Digest>,
}

/// What tells one content from another: of large files the SHA-256, of those in git itself the SHA-1 of the blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Digest {
    /// SHA-256 of the content.
    Sha256(String),
    /// SHA-1 of `blob SIZE\0` and the content (git's object id).
    Git(String),
}

impl Digest {
    /// What an ETag of the hub says: 64 hexadecimal digits are SHA-256, 40 are git's.
    pub fn of_etag(etag: &str) -> Option<Self> {
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
        let is_hex = etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        match etag.len() {
            64 if is_hex => Some(Digest::Sha256(etag)),
            40 if is_hex => Some(Digest::Git(etag)),
            _ => None,
        }
    }

    /// The digits.
    pub fn digits(&self) -> &str {
        let (Digest::Sha256(digits) | Digest::Git(digits)) = self;
        digits
    }

    /// The same of a file.
    ///
    /// # Errors
    /// Where it cannot be read.
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

/// Why the hub gave nothing.
pub enum Trouble {
    /// No connection, or one that broke; the text has no address.
    Network(String),
    /// It has no time now: why, and how long it wants to be left alone.
    Busy(String, Option<Duration>),
    /// A file does not reach as far as the byte that was asked for.
    Beyond,
    /// It will not give it, however often it is asked.
    Refused(Error),
}

/// There is no such repository, revision or file, or it is hidden from who asks.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Missing(String);

/// An answer whose redirects have been followed.
pub struct Answer {
    /// What the hub itself said of the file.
    told: HeaderMap,
    /// What came from where the content is.
    pub response: Response<Body>,
}

impl Answer {
    /// The digest of the file's content.
    fn digest(&self) -> Option<Digest> {
        let own = || self.response.headers().get(ETAG);
        let etag = self.told.get("x-linked-etag").or_else(own)?;
        Digest::of_etag(etag.to_str().ok()?)
    }

    fn size(&self) -> Option<u64> {
        let own = || self.response.headers().get(CONTENT_LENGTH);
        self.told.get("x-linked-size").or_else(own)?.to_str().ok()?.parse().ok()
    }
}

/// The hub, or a mirror of it.
pub struct Hub {
    endpoint: Uri,
    token: Option<String>,
    agent: Agent,
    /// The cache that Hugging Face's own programs keep, where there is one.
    pub cache: Option<PathBuf>,
    /// The first wait before something is tried again; it doubles from then on.
    pub pause: Duration,
}

impl Hub {
    /// As HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HOME and HF_HUB_CACHE say.
    ///
    /// # Errors
    /// Where one of them makes no sense.
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

    /// The hub at an address, asked in the name of whom a token belongs to.
    ///
    /// # Errors
    /// Where the address is none of HTTP, or the token cannot be one.
    pub fn new(endpoint: &str, token: Option<String>) -> Result<Self> {
        let expected = || format!("HF_ENDPOINT = {endpoint:?}: expected an address such as {ENDPOINT}");
        let endpoint: Uri = endpoint.trim().trim_end_matches('/').parse().with_context(expected)?;
        let is_http = matches!(endpoint.scheme_str(), Some("http" | "https"));
        ensure!(is_http && endpoint.host().is_some() && endpoint.query().is_none(), expected());
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let is_plain = |token: &String| token.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(token.as_ref().is_none_or(is_plain), "HF_TOKEN: holds what no token has, such as a space");
        Ok(Self { endpoint, token, agent: agent(SILENCE), cache: None, pause: Duration::from_secs(1) })
    }

    /// The endpoint without a `/` at its end.
    fn base(&self) -> String {
        self.endpoint.to_string().trim_end_matches('/').to_owned()
    }

    /// What a repository holds.
    ///
    /// # Errors
    /// [`Missing`] where there is no such repository, or it is hidden; other errors where the hub cannot be asked.
    pub fn list(&self, repo: &Repo) -> Result<Listing> {
        let (plural, name, revision) = (repo.kind.plural(), &repo.name, escaped(&repo.revision, false));
        let url = format!("{}/api/{plural}/{name}/revision/{revision}?blobs=true", self.base());
        let mut waits = self.waits();
        let mut answer = loop {
            match self.ask(&Method::GET, &url, 0, repo) {
                Ok(answer) => break answer,
                Err(Trouble::Refused(error)) => return Err(error),
                Err(Trouble::Busy(why, wanted)) => waits.wait(&why, wanted).with_context(|| url.clone())?,
                Err(Trouble::Beyond) => bail!("{url}: 416, though all of it was asked for"),
                Err(Trouble::Network(why)) => {
                    bail!(
                        "{}: {why}; where this address cannot be reached, set HF_ENDPOINT to a mirror such as https://hf-mirror.com, or HTTPS_PROXY to the proxy that leads out",
                        self.base()
                    )
                }
            }
        };
        let body = answer.response.body_mut().with_config().limit(LARGEST_LIST).read_to_vec();
        let body = body.map_err(|error| anyhow!("{url}: {}", trouble(&error)))?;
        let told: Told = serde_json::from_slice(&body)
            .with_context(|| format!("{url}: is no list of files; is HF_ENDPOINT a mirror of the hub?"))?;
        let is_commit = |sha: &String| sha.len() == 40 && sha.bytes().all(|byte| byte.is_ascii_hexdigit());
        let commit = told.sha.filter(is_commit).unwrap_or_else(|| repo.revision.clone());
        Ok(Listing { commit, files: told.siblings.into_iter().map(Entry::from).collect() })
    }

    /// Asks the hub for what its list left out of a file: size and digest.
    pub(super) fn describe(&self, repo: &Repo, commit: &str, entry: &mut Entry) -> Result<(), Trouble> {
        let answer = self.ask(&Method::HEAD, &self.address(repo, commit, &entry.path), 0, repo)?;
        entry.size = entry.size.or_else(|| answer.size());
        entry.digest = entry.digest.take().or_else(|| answer.digest());
        Ok(())
    }

    /// The content of a file from a byte on; the answer may be all of it nevertheless.
    pub(super) fn open(&self, repo: &Repo, commit: &str, path: &str, from: u64) -> Result<Answer, Trouble> {
        self.ask(&Method::GET, &self.address(repo, commit, path), from, repo)
    }

    /// Where a file of a commit is.
    pub fn address(&self, repo: &Repo, commit: &str, path: &str) -> String {
        let datasets = if repo.kind == Kind::Dataset { "datasets/" } else { "" };
        let (commit, path) = (escaped(commit, false), escaped(path, true));
        format!("{}/{datasets}{}/resolve/{commit}/{path}", self.base(), repo.name)
    }

    fn ask(&self, method: &Method, url: &str, from: u64, repo: &Repo) -> Result<Answer, Trouble> {
        let refused = |why: String| Trouble::Refused(anyhow!("{url}: {why}"));
        let mut at: Uri = url.parse().map_err(|error| refused(format!("is no address: {error}")))?;
        let mut told = HeaderMap::new();
        for _ in 0..=MOST_REDIRECTS {
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
                told.extend(response.headers().clone());
            }
            if !response.status().is_redirection() {
                return match response.status().is_success() {
                    true => Ok(Answer { told, response }),
                    false => Err(self.problem(url, response, repo)),
                };
            }
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
            at =
                redirected(&at, to).ok_or_else(|| refused(format!("is redirected to {to:?}, no address")))?;
        }
        Err(refused(format!("is redirected more than {MOST_REDIRECTS} times")))
    }

    /// What an answer without content means.
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
                "the token does not open it: there is no such repository, or it is private or gated; see {page}, and {base}/settings/tokens for a token with read access"
            )),
            401 | 403 => missing(format!(
                "there is no such repository, or it is private or gated: accept its terms at {page} and set HF_TOKEN to a token with read access from {base}/settings/tokens"
            )),
            404 if code == "RevisionNotFound" => {
                missing(format!("there is no revision {}; {page}/commits has them", repo.revision))
            }
            404 => missing("there is no such repository or file; expected OWNER/NAME as on the hub".into()),
            416 => Trouble::Beyond,
            408 | 429 | 500..=599 => {
                let why = match status {
                    429 => "the hub asks to come less often (429)".to_owned(),
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

    /// Waits between tries of one thing.
    pub fn waits(&self) -> Waits {
        Waits { next: self.pause, left: Waits::TRIES }
    }
}

/// How long to wait before something is tried again, and whether.
pub struct Waits {
    next: Duration,
    left: u32,
}

impl Waits {
    /// So often in vain, and it is given up.
    const TRIES: u32 = 5;

    /// A longer wait is left to the user.
    const LONGEST: Duration = Duration::from_secs(600);

    /// Waits as long as the hub wants, or twice as long as the last time.
    ///
    /// # Errors
    /// After too many waits, and where it wants too long a wait: then with the reason `why`.
    pub fn wait(&mut self, why: &str, wanted: Option<Duration>) -> Result<()> {
        let time = wanted.unwrap_or(self.next);
        let shown = crate::track::time(time.as_secs_f64());
        ensure!(time <= Self::LONGEST, "{why} and to wait {shown}; run the command again then");
        ensure!(self.left > 0, "{why}, {} times; run the command again to go on", Self::TRIES + 1);
        self.left -= 1;
        self.next *= 2;
        tracing::warn!("{why}; trying again in {shown}");
        std::thread::sleep(time);
        Ok(())
    }
}

/// The JSON of `/api/models/OWNER/NAME/revision/REVISION?blobs=true`, as far as it is read.
#[derive(Deserialize)]
struct Told {
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
    fn from(told: Sibling) -> Self {
        // The blob of a large file is its pointer, which says nothing of the content.
        let (size, digest) = match told.lfs {
            Some(lfs) => (lfs.size.or(told.size), lfs.sha256),
            None => (told.size, told.blob_id),
        };
        Self { path: told.rfilename, size, digest: digest.and_then(|digits| Digest::of_etag(&digits)) }
    }
}

/// Whether two addresses have scheme, host and port in common.
fn is_same_place(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    a.scheme_str() == b.scheme_str() && host(a) == host(b) && port(a) == port(b)
}

/// Where a `Location` leads from an address; `None` where it is none of HTTP.
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

/// Text as it stands in an address (RFC 3986, 2.3); of a path the `/` stay.
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
            let told = Digest::of_etag(&etag).unwrap();
            assert_eq!(told, digest);
            assert_eq!(told.of_file(&path).unwrap(), digest);
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
