#!/usr/bin/env bash
# Every check but the tests: lint, layout, types, imports between rooms, spelling, doctests.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root"

spelling() { git ls-files -z | xargs -0 codespell; }

failed=()
check() { # all of them run, so that one round of mending is enough
    echo "check: $1" >&2
    "${@:2}" || failed+=("$1")
}
check "lint (ruff check --fix mends some)" ruff check
check "layout (ruff format mends it)" ruff format --check
check "types (mypy)" mypy
check "imports between rooms (import-linter)" lint-imports --no-logo
check "spelling (codespell)" spelling
check "examples in docstrings (doctest)" python -m pytest lprnet_nb
if [ ${#failed[@]} -gt 0 ]; then
    printf 'check: failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
