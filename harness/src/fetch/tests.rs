//! Downloads from a server that speaks the hub's protocol and can interrupt, corrupt and refuse.
#![allow(clippy::unwrap_used)]

mod server;

use super::*;
use crate::track::Silent;
use server::{COMMIT, Server, Site};
use std::time::Duration;
use tempfile::TempDir;

const REPO: &str = "models/a/b";

/// Content in which every position is recognizable.
fn large() -> Vec<u8> {
    (0..50_000_u32).flat_map(|i| i.to_le_bytes()).collect()
}

fn site() -> Site {
    let large = large();
    Site::with(REPO, &[("config.json", b"{}"), ("sub dir/empty", b""), ("model.safetensors", &large)])
}

struct Bench {
    server: Server,
    dir: TempDir,
    hub: Hub,
}

impl Bench {
    fn new(site: Site) -> Self {
        Self::known(site, None)
    }

    fn known(site: Site, token: Option<&str>) -> Self {
        let server = Server::start(site);
        let mut hub = Hub::new(&server.url, token.map(Into::into)).unwrap();
        hub.pause = Duration::ZERO;
        Self { server, dir: tempfile::tempdir().unwrap(), hub }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn fetch(&self, name: &str) -> Result<Fetched> {
        fetch(&self.hub, &Wanted::named(name, None, None).unwrap(), &self.out(), &Silent)
    }

    fn refused(&self) -> String {
        let error = format!("{:#}", self.fetch("hf:a/b").unwrap_err());
        assert!(!self.out().exists(), "{error}");
        error.replace(&self.server.url, "HUB").replace(&self.dir.path().display().to_string(), "DIR")
    }

    /// Asserts that the folder equals the repository and that nothing is left next to it.
    fn is_whole(&self) -> bool {
        let has = |path: &str, bytes: &[u8]| fs::read(self.out().join(path)).unwrap() == bytes;
        has("config.json", b"{}")
            && has("sub dir/empty", b"")
            && has("model.safetensors", &large())
            && fs::read_dir(self.dir.path()).unwrap().count() == 1
    }

    fn part(&self) -> PathBuf {
        parts_of(&self.out()).unwrap().join(server::sha(&large())).with_extension("part")
    }
}

#[test]
fn a_repository_becomes_a_folder() {
    let bench = Bench::new(site());
    let fetched = bench.fetch("hf:a/b").unwrap();
    assert!(bench.is_whole());
    assert_eq!(
        (fetched.repository.as_str(), fetched.commit.as_str(), fetched.bytes()),
        ("a/b", COMMIT, 200_002)
    );
    assert_eq!(Fetched::read(&bench.out()).unwrap(), fetched);
    assert!(fetched.files.iter().all(|file| file.digest.is_some()));
    let seen = bench.server.seen();
    assert_eq!(seen[0], "GET /api/models/a/b/revision/main?blobs=true");
    assert!(seen.contains(&format!("GET /a/b/resolve/{COMMIT}/sub%20dir/empty")), "{seen:?}");
    assert_eq!(seen.len(), 4);
    // The second time only the list is requested.
    assert_eq!(bench.fetch("hf:a/b").unwrap(), fetched);
    assert_eq!(bench.server.seen().len(), 1);
}

#[test]
fn sizes_and_digests_that_the_list_leaves_out_are_asked_for() {
    let bench = Bench::new(Site { bare_list: true, ..site() });
    let fetched = bench.fetch("hf:a/b").unwrap();
    assert!(bench.is_whole() && fetched.files.iter().all(|file| file.digest.is_some()));
    assert_eq!(bench.server.seen().iter().filter(|line| line.starts_with("HEAD")).count(), 3);
}

#[test]
fn a_download_that_breaks_off_goes_on() {
    let bench = Bench::new(Site { breaks: (60_000, 3), ..site() });
    bench.fetch("hf:a/b").unwrap();
    assert!(bench.is_whole());
    let seen = bench.server.seen();
    let ranges: Vec<&str> = seen.iter().filter_map(|line| Some(line.split_once("bytes=")?.1)).collect();
    assert_eq!(ranges, ["60000-", "120000-", "180000-"]);
}

#[test]
fn a_fetch_that_was_killed_goes_on_from_its_part() {
    let bench = Bench::new(Site { breaks: (70_000, 20), ..site() });
    // State after a killed process: a partial file, and no folder.
    fs::create_dir(parts_of(&bench.out()).unwrap()).unwrap();
    fs::write(bench.part(), &large()[..90_000]).unwrap();
    bench.fetch("hf:a/b").unwrap();
    assert!(bench.is_whole());
    assert!(bench.server.seen().iter().any(|line| line.ends_with("bytes=90000-")));
}

#[test]
fn a_server_without_ranges_sends_all_again_and_nothing_twice() {
    let bench = Bench::new(Site { no_ranges: true, breaks: (60_000, 1), ..site() });
    bench.fetch("hf:a/b").unwrap();
    assert!(bench.is_whole());
}

#[test]
fn damage_on_the_way_is_found_and_not_kept() {
    for (left_out, expected) in [
        ("", "/config.json: is damaged: its git's SHA-1 is"),
        ("config.json", "/model.safetensors: is damaged: its SHA-256 is"),
    ] {
        let mut site = site();
        site.repos.get_mut(REPO).unwrap().remove(left_out);
        let bench = Bench::new(Site { flips: 1, ..site });
        let error = bench.refused();
        assert!(error.contains(expected) && error.contains("the download is discarded"), "{error}");
        bench.fetch("hf:a/b").unwrap();
        assert_eq!(fs::read(bench.out().join("model.safetensors")).unwrap(), large());
    }
}

#[test]
fn a_part_that_is_damaged_is_begun_anew() {
    let bench = Bench::new(site());
    fs::create_dir(parts_of(&bench.out()).unwrap()).unwrap();
    fs::write(bench.part(), vec![7; 90_000]).unwrap();
    bench.fetch("hf:a/b").unwrap();
    assert!(bench.is_whole());
}

#[test]
fn a_part_that_is_too_long_is_begun_anew() {
    let bench = Bench::new(Site { bare_list: true, ..site() });
    fs::create_dir(parts_of(&bench.out()).unwrap()).unwrap();
    fs::write(bench.part(), vec![7; 300_000]).unwrap();
    bench.fetch("hf:a/b").unwrap();
    assert!(bench.is_whole());
}

#[test]
fn a_busy_hub_is_asked_again_as_it_wants() {
    let first = vec![(429, "retry-after: 0\r\n".into()), (503, String::new())];
    let bench = Bench::new(Site { first, ..site() });
    bench.fetch("hf:a/b").unwrap();
    assert!(bench.is_whole());
    assert_eq!(bench.server.seen().len(), 6);
    let bench = Bench::new(Site { first: vec![(429, "retry-after: 7200\r\n".into())], ..site() });
    assert_eq!(
        bench.refused(),
        "HUB/api/models/a/b/revision/main?blobs=true: the hub limits the request rate (429) and asks to wait 2 h 0 min; run the command again then"
    );
    let bench = Bench::new(Site { first: vec![(500, String::new()); 9], ..site() });
    assert!(bench.refused().ends_with("the hub answers 500, 6 times; run the command again to resume"));
}

#[test]
fn the_token_is_sent_to_the_hub_and_not_to_the_store() {
    let store = Server::start(site());
    let secret = "hf_secret";
    let token = Some((secret.into(), "GatedRepo".into()));
    let bench = Bench::known(Site { store: Some(store.url.clone()), token, ..site() }, Some(secret));
    bench.fetch("hf:a/b").unwrap();
    assert!(bench.is_whole());
    assert!(bench.server.seen().iter().all(|line| line.ends_with(" token")));
    let seen = store.seen();
    assert_eq!(seen, [format!("GET /a/b/resolve/{COMMIT}/model.safetensors")]);
}

#[test]
fn refusals_say_what_to_do() {
    let gated = |token: Option<&str>, code: &str| {
        let site = Site { token: Some(("right".into(), code.into())), ..site() };
        let error = Bench::known(site, token).refused();
        assert!(!error.contains("wrong-token"), "{error}");
        error
    };
    let error = gated(None, "GatedRepo");
    assert!(
        error.contains("accept its terms at HUB/a/b and set HF_TOKEN to a token with read access"),
        "{error}"
    );
    assert!(error.contains("401") && error.ends_with("(Access is restricted.)"), "{error}");
    let error = gated(Some("wrong-token"), "GatedRepo");
    assert!(error.contains("with the account that HF_TOKEN belongs to"), "{error}");
    let error = gated(Some("wrong-token"), "RepoNotFound");
    assert!(error.contains("the token gives no access"), "{error}");
    let error = Bench::new(Site::default()).refused();
    assert!(error.starts_with("no model or data set has this name: HUB/api/models/a/b/"), "{error}");
    assert!(error.contains("404"), "{error}");
    let bench = Bench::new(Site::with(REPO, &[("../evil", b"x")]));
    assert_eq!(
        bench.refused(),
        "a/b: lists a file named \"../evil\", which cannot be stored in its folder; nothing is fetched"
    );
    let mut bench = Bench::new(Site::default());
    bench.hub = Hub::new("http://127.0.0.1:9", None).unwrap();
    let error = bench.refused();
    assert!(error.contains("set HF_ENDPOINT to a mirror such as https://hf-mirror.com"), "{error}");
    let mut wanted = Wanted::named("hf:a/b", None, None).unwrap();
    wanted.include = vec!["*.gguf".into()];
    let bench = Bench::new(site());
    let error = fetch(&bench.hub, &wanted, &bench.out(), &Silent).unwrap_err().to_string();
    assert_eq!(
        error,
        "a/b at main: no file fits *.gguf; it holds config.json, model.safetensors, sub dir/empty"
    );
}

#[test]
fn what_belongs_to_others_is_left_alone() {
    let bench = Bench::new(site());
    fs::create_dir(bench.out()).unwrap();
    fs::write(bench.out().join("mine"), "mine").unwrap();
    let error = bench.fetch("hf:a/b").unwrap_err().to_string();
    assert!(error.contains("exists already and is not a fetched a/b"), "{error}");
    assert_eq!(fs::read_dir(bench.dir.path()).unwrap().count(), 1);
    fs::remove_file(bench.out().join("mine")).unwrap();
    bench.fetch("hf:a/b").unwrap();
    // Another commit of the same repository replaces it.
    bench.server.change(|site| {
        site.repos.get_mut(REPO).unwrap().insert("new.json".into(), b"1".to_vec());
    });
    bench.fetch("hf:a/b").unwrap();
    assert!(bench.is_whole() && bench.out().join("new.json").is_file());
}

#[test]
fn two_at_once_do_not_disturb_each_other() {
    let bench = Bench::new(site());
    let parts = parts_of(&bench.out()).unwrap();
    fs::create_dir(&parts).unwrap();
    let held = lock(&parts).unwrap();
    assert!(bench.refused().contains("another fetch is at work there"));
    drop(held);
    bench.fetch("hf:a/b").unwrap();
}

#[test]
fn files_of_the_cache_are_taken_from_there_once_they_are_checked() {
    let mut bench = Bench::new(site());
    let cache = tempfile::tempdir().unwrap();
    let blobs = cache.path().join("models--a--b/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let blob = blobs.join(server::sha(&large()));
    bench.hub.cache = Some(cache.path().into());
    for (content, requests) in [(vec![1; 200_000], 4), (large(), 3)] {
        fs::write(&blob, content).unwrap();
        bench.fetch("hf:a/b").unwrap();
        assert!(bench.is_whole());
        assert_eq!(bench.server.seen().len(), requests);
        fs::remove_dir_all(bench.out()).unwrap();
    }
}

#[test]
fn exams_become_folders_that_are_examined_at_once() {
    let archive = include_bytes!("tests/sheets.zip");
    // The hub of this test has only the second repository of each name.
    for (name, repo) in [("ceval", "datasets/ceval/ceval-exam"), ("cmmlu", "datasets/haonan-li/cmmlu")] {
        let bench = Bench::new(Site::with(repo, &[("exam.zip", archive), ("readme.md", b"x")]));
        let fetched = bench.fetch(name).unwrap();
        assert_eq!(fetched.files.len(), 1);
        let sheets = crate::exam::read_sheets(&bench.out(), "val").unwrap();
        assert_eq!((sheets[0].subject.as_str(), sheets[0].questions.len()), ("law", 3));
        assert!(!bench.out().join("exam.zip").exists());
    }
}

#[test]
fn names_that_mean_nothing_are_reported() {
    let refused = |name: &str| Wanted::named(name, None, None).unwrap_err().to_string();
    assert!(refused("cevel").ends_with("; did you mean ceval?"));
    assert!(refused("jingyaogong/minimind-v1").ends_with("; did you mean hf:jingyaogong/minimind-v1?"));
    for name in ["hf:", "hf:a/b/c", "hf:../b", "hf:a/b?c", "hf:a//b"] {
        assert!(refused(name).contains("expected hf:OWNER/NAME"), "{name}");
    }
    Wanted::named("ceval", Some(Kind::Model), None).unwrap_err();
    assert_eq!(Wanted::named("hf:gpt2", None, Some("v1")).unwrap().places[1].revision, "v1");
}
