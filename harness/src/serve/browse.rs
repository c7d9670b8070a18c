//! Data of the web page about sweeps: progress, tables, curves and figures. Everything is read, nothing written.

use super::error::{ApiError, Name};
use super::http::{App, json_response};
use crate::fsutil::read_text;
use crate::run::{Layers, ReadOptions, Work};
use crate::runs::recorded::Record;
use crate::status::{Counts, Overview, overview};
use crate::track::{MetricsTable, MetricsTableRow};
use anyhow::{Context, Result};
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Maximum number of points of a curve.
const POINTS: usize = 500;

/// How long a sweep's status is cached, as several pages may request it at once.
const CACHE_TIME: Duration = Duration::from_secs(1);

/// Maximum size of a file of results that is sent, in bytes.
const LARGEST: u64 = 256 << 20;

/// Cached status of sweeps, by name.
#[derive(Default)]
pub struct StatusCache(Mutex<BTreeMap<String, (Instant, Value)>>);

/// Runs blocking reads outside the serving thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ApiError::internal("this could not be read"))?
}

/// Serves `/api/models`.
pub async fn models(State(app): State<Arc<App>>) -> Response {
    let rows: Vec<Value> = (app.models.iter())
        .map(|served| {
            json!({
                "name": served.name, "stage": served.stage, "params": served.params, "context": served.context,
                "source": served.source,
            })
        })
        .collect();
    json_response(&rows.into())
}

/// Serves `/api/sweeps`: the folders of results with a record.
pub async fn sweeps(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    blocking(move || {
        let mut rows = vec![];
        for (out, record) in records(&app.options.results) {
            let name = folder_name(&out);
            let cached = cached_status(&app, &name, &out, &record);
            let trials = record.last().map_or(0, |run| run.trials.len());
            let counts = match &cached["status"]["counts"] {
                Value::Null => json!(Counts::default()),
                counts => counts.clone(),
            };
            rows.push(json!({ "name": name, "title": cached["title"], "trials": trials, "counts": counts }));
        }
        Ok(json_response(&rows.into()))
    })
    .await
}

/// Serves `/api/sweeps/{name}`: status, table of trials, files of the report.
pub async fn sweep(State(app): State<Arc<App>>, Name(name): Name) -> Result<Response, ApiError> {
    blocking(move || {
        let missing =
            || ApiError::missing(format!("there is no sweep {name:?} in {}", app.options.results.display()));
        let out = app.options.results.join(single(&name).ok_or_else(missing)?);
        let record = Record::read(&out).map_err(|error| ApiError::internal(format!("{error:#}")))?;
        let record = record.ok_or_else(missing)?;
        let mut answer = cached_status(&app, &name, &out, &record);
        answer["trials"] = table(&out.join("trials.csv"));
        answer["files"] = json!({
            "report": out.join("report.html").is_file().then(|| format!("results/{name}/report.html")),
            "figures": listed(&out, &name, "figures", &["svg"]),
            "tables": listed(&out, &name, "tables", &["csv", "md", "tex"]),
        });
        Ok(json_response(&answer))
    })
    .await
}

/// Serves `/api/runs/{run}/metrics`: the curves of a stage run, by a prefix of its name.
pub async fn run_metrics(State(app): State<Arc<App>>, Name(run): Name) -> Result<Response, ApiError> {
    blocking(move || {
        let missing = || ApiError::missing(format!("there is no stage run {run:?} with metrics"));
        let name = single(&run).ok_or_else(missing)?;
        let known = records(&app.options.results);
        let recorded = known.iter().flat_map(|(out, record)| record.runs.iter().map(|run| run.runs(out)));
        let folders = std::iter::once(app.options.runs.clone()).chain(recorded);
        let file = folders.into_iter().find_map(|runs| metrics_of(&runs, name)).ok_or_else(missing)?;
        let text = read_text(&file).map_err(|error| ApiError::internal(format!("{error:#}")))?;
        Ok(json_response(&curves(&text)))
    })
    .await
}

/// Serves `/results/...`: files of the folder of results, and nothing else.
pub async fn file(State(app): State<Arc<App>>, Name(path): Name) -> Result<Response, ApiError> {
    blocking(move || {
        let missing = || ApiError::missing(format!("there is no file {path:?} among the results"));
        let inside = Path::new(&path);
        let is_plain = inside.components().all(|part| match part {
            Component::Normal(name) => !name.to_string_lossy().starts_with('.'),
            _ => false,
        });
        let root = app.options.results.canonicalize().map_err(|_| missing())?;
        // Links are followed, but not out of the folder of results.
        let real = root.join(inside).canonicalize().map_err(|_| missing())?;
        let about = real.metadata().map_err(|_| missing())?;
        if !is_plain || !real.starts_with(&root) || !about.is_file() || about.len() > LARGEST {
            return Err(missing());
        }
        let bytes = fs::read(&real).map_err(|_| missing())?;
        let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(kind_of(inside)))];
        Ok((kind, bytes).into_response())
    })
    .await
}

fn kind_of(path: &Path) -> &'static str {
    match path.extension().and_then(|end| end.to_str()).unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "csv" => "text/csv; charset=utf-8",
        "json" => "application/json",
        "md" | "tex" | "txt" | "toml" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Returns the name if it is a single, non-hidden path component.
fn single(name: &str) -> Option<&str> {
    let mut parts = Path::new(name).components();
    let is_plain = matches!(parts.next(), Some(Component::Normal(part)) if part == name);
    (is_plain && parts.next().is_none() && !name.starts_with('.')).then_some(name)
}

fn folder_name(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Reads the records in a folder of results; damaged ones are skipped.
fn records(results: &Path) -> Vec<(PathBuf, Record)> {
    let mut found: Vec<(PathBuf, Record)> = (fs::read_dir(results).into_iter().flatten().flatten())
        .filter_map(|entry| Some((entry.path(), Record::read(&entry.path()).ok().flatten()?)))
        .collect();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

/// Returns name, title and status of a sweep, cached for [`CACHE_TIME`]; if the status cannot be read, it is null and
/// `problem` says why.
fn cached_status(app: &App, name: &str, out: &Path, record: &Record) -> Value {
    let mut cached = app.status_cache.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, found)) = cached.get(name)
        && at.elapsed() < CACHE_TIME
    {
        return found.clone();
    }
    let title = record.experiment.as_deref().and_then(title_of).unwrap_or_else(|| record.name.clone());
    let (status, problem) = match status(app, out, record).and_then(|found| Ok(serde_json::to_value(found)?))
    {
        Ok(status) => (status, None),
        Err(error) => (Value::Null, Some(format!("{error:#}"))),
    };
    let found = json!({ "name": name, "title": title, "status": status, "problem": problem });
    cached.insert(name.to_owned(), (Instant::now(), found.clone()));
    found
}

fn title_of(experiment: &str) -> Option<String> {
    let table: toml::Table = experiment.parse().ok()?;
    Some(table.get("title")?.as_str()?.to_owned())
}

/// Returns the status as `mindscale status` shows it.
fn status(app: &App, out: &Path, record: &Record) -> Result<Overview> {
    let options = ReadOptions { results: app.options.results.clone(), ..ReadOptions::default() };
    let file = record.file(out);
    let work = Work::read(&file, &options, Layers::Last).with_context(|| file.display().to_string())?;
    Ok(overview(&work.look()?(&work)?))
}

/// Reads a CSV file, with numbers as numbers and null for empty cells; no rows if it cannot be read.
fn table(path: &Path) -> Value {
    let read = || -> Result<Value> {
        let text = read_text(path)?;
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let columns: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
        let mut rows: Vec<Value> = vec![];
        for row in reader.records() {
            rows.push(row?.iter().map(cell).collect());
        }
        Ok(json!({ "columns": columns, "rows": rows }))
    };
    read().unwrap_or_else(|_| json!({ "columns": [], "rows": [] }))
}

fn cell(text: &str) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    let number = || text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<f64>().map(Value::from));
    match number() {
        // A number that JSON cannot represent stays text.
        Ok(value) if value.is_number() => value,
        _ => text.into(),
    }
}

/// Lists the files in a part of a report, by their paths on the server.
fn listed(out: &Path, name: &str, part: &str, ends: &[&str]) -> Vec<String> {
    let mut found: Vec<String> = (fs::read_dir(out.join(part)).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.extension().and_then(|end| end.to_str()).is_some_and(|end| ends.contains(&end)))
        .map(|path| format!("results/{name}/{part}/{}", folder_name(&path)))
        .collect();
    found.sort();
    found
}

/// Returns `metrics.csv` of the stage run with this name prefix, if it is the only one.
fn metrics_of(runs: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(runs).into_iter().flatten().flatten();
    let begins = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(name));
    let mut files =
        begins.map(|entry| entry.path().join(crate::track::METRICS)).filter(|file| file.is_file());
    files.next().filter(|_| files.next().is_none())
}

/// Returns each split's columns, thinned; columns without numbers and incomplete rows are left out.
fn curves(text: &str) -> Value {
    let Some(course) = MetricsTable::of(text) else { return json!({}) };
    let mut splits: BTreeMap<&str, Vec<MetricsTableRow>> = BTreeMap::new();
    for row in course.rows() {
        splits.entry(row.split).or_default().push(row);
    }
    let mut all = Map::new();
    for (name, rows) in splits {
        let kept: Vec<&MetricsTableRow> = thinned(rows.len()).into_iter().map(|row| &rows[row]).collect();
        let mut columns = Map::new();
        for (column, name) in course.columns.iter().enumerate().filter(|(_, name)| **name != "split") {
            let values: Vec<Value> = kept.iter().map(|row| cell(row.cells[column])).collect();
            if values.iter().any(Value::is_number) {
                columns.insert((*name).to_owned(), values.into());
            }
        }
        all.insert(name.to_owned(), columns.into());
    }
    all.into()
}

/// Returns at most [`POINTS`] evenly spaced indices below `len`, including the first and the last.
fn thinned(len: usize) -> Vec<usize> {
    if len <= POINTS {
        return (0..len).collect();
    }
    (0..POINTS).map(|point| point * (len - 1) / (POINTS - 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_are_columns_thinned_to_what_a_screen_shows() {
        let rows: String = (0..1201)
            .map(|step| {
                let val = if step % 600 == 0 { format!("{step},val,2,,0.5\n") } else { String::new() };
                format!("{step},train,{},0.1,\n{val}", step as f64 / 2.0)
            })
            .collect();
        let found = curves(&format!("step,split,loss,lr,bpb\n{rows}1201,train,9"));
        let train = &found["train"];
        assert_eq!(train["step"].as_array().map(Vec::len), Some(POINTS));
        assert_eq!((&train["step"][0], &train["step"][POINTS - 1]), (&json!(0), &json!(1200)));
        assert_eq!(train["loss"][POINTS - 1], json!(600));
        assert!(train.get("bpb").is_none() && train.get("split").is_none());
        assert_eq!(
            found["val"],
            json!({ "step": [0, 600, 1200], "loss": [2, 2, 2], "bpb": [0.5, 0.5, 0.5] })
        );
        assert_eq!(curves(""), json!({}));
    }

    #[test]
    fn cells_are_numbers_where_they_can_be() {
        for (text, want) in [
            ("", Value::Null),
            ("3", json!(3)),
            ("-0.5", json!(-0.5)),
            ("1e-5", json!(1e-5)),
            ("NaN", json!("NaN")),
            ("done", json!("done")),
        ] {
            assert_eq!(cell(text), want);
        }
    }

    #[test]
    fn names_are_single_parts_of_a_path() {
        assert_eq!(single("参数 a"), Some("参数 a"));
        for name in ["", ".", "..", "a/b", "/a", ".git", "a/..", "a/"] {
            assert_eq!(single(name), None, "{name}");
        }
    }
}
