# What people do daily; `just` lists it.

_default:
    @just --list

# All tests, with the doc tests
test *ARGS:
    cargo test --release --workspace --features emulate {{ARGS}}

# Formatting and lints, as CI asks for them
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --features emulate -- -D warnings

# The documentation of the crates
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --features emulate

# Regenerates docs/configuration.md, docs/columns.md and the kinds of figures in docs/experiments.md
docs:
    UPDATE_DOCS=1 cargo test -p mindscale --lib reference

# A sweep of seconds, from nothing to a report
smoke:
    cargo run --release -- run sweeps/smoke.toml

# The quick start
quickstart:
    cargo run --release -- run experiments/quickstart.toml

# How fast this machine trains, compared with its matrix peak
bench *ARGS:
    cargo run --release -- bench train {{ARGS}}

# Everything that is too heavy for CI, or some parts of it
check-all *PARTS:
    scripts/check_all.sh {{PARTS}}
