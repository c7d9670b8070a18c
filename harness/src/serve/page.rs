//! The web page, whose files are part of the program.

use super::error::{ApiError, wrong_method};
use axum::extract::Request;
use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};

/// A file of the page: name, content type, content.
type File = (&'static str, &'static str, &'static [u8]);

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// A script with the questions of `compare`, so that there is only one list of them.
const QUESTIONS: File = (
    "questions.js",
    SCRIPT,
    concat!("export const QUESTIONS = ", include_str!("../models/questions.json"), ";").as_bytes(),
);

/// Lists the files of `page/`, after the generated one.
macro_rules! files {
    ($($name:literal $kind:ident,)*) => {
        &[QUESTIONS, $(($name, $kind, include_bytes!(concat!("page/", $name)))),*]
    };
}

const FILES: &[File] = files![
    "LICENSE-marked.txt" TEXT,
    "api.js" SCRIPT,
    "app.js" SCRIPT,
    "catalog.js" SCRIPT,
    "charts.js" SCRIPT,
    "chat.js" SCRIPT,
    "compare.js" SCRIPT,
    "csv.js" SCRIPT,
    "curves.js" SCRIPT,
    "dom.js" SCRIPT,
    "history.js" SCRIPT,
    "i18n.js" SCRIPT,
    "icon.svg" PICTURE,
    "index.html" HTML,
    "markdown.js" SCRIPT,
    "marked.js" SCRIPT,
    "message.js" SCRIPT,
    "pages.css" STYLE,
    "poll.js" SCRIPT,
    "progress.js" SCRIPT,
    "results.js" SCRIPT,
    "round.js" SCRIPT,
    "settings.js" SCRIPT,
    "store.js" SCRIPT,
    "style.css" STYLE,
    "sweep.js" SCRIPT,
    "sweeps.css" STYLE,
    "sweeps.js" SCRIPT,
    "table.js" SCRIPT,
    "tokens.js" SCRIPT,
    "trial.js" SCRIPT,
    "words.js" SCRIPT,
];

/// Returns the file of the page at a path.
fn file(path: &str) -> Option<&'static File> {
    let name = if path == "/" { "index.html" } else { path.trim_start_matches('/') };
    FILES.iter().find(|(file, ..)| *file == name)
}

/// Returns whether there is a file of the page at a path.
pub fn has(path: &str) -> bool {
    file(path).is_some()
}

/// Serves every path without an endpoint: a file of the page, or 404.
pub async fn page(request: Request) -> Result<Response, ApiError> {
    let path = request.uri().path();
    let (_, kind, bytes) =
        file(path).ok_or_else(|| ApiError::missing(format!("there is nothing at {path}")))?;
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return Err(wrong_method(request.method(), path));
    }
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        // A newer program may have a newer page, so browsers must revalidate.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    Ok((headers, *bytes).into_response())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_file_of_the_page_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/serve/page");
        let there: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let (made, files) = FILES.split_first().unwrap();
        assert!(made.2.starts_with("export const QUESTIONS = [\n  \"你叫什么名字\",".as_bytes()));
        let served: BTreeSet<String> = files.iter().map(|(name, ..)| name.to_string()).collect();
        assert_eq!(served, there, "the table of the page's files");
    }
}
