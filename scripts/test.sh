#!/usr/bin/env bash
# Run the tests; arguments go to pytest (`scripts/test.sh -m slow` runs the slow ones).
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root"
# Report pages are looked at in a real browser; without one those tests say so and are skipped.
if ! command -v chromium >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "test: installing chromium for the report's pages" >&2
    (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium) \
        >"$venv/chromium.log" 2>&1 || echo "test: no chromium; see $venv/chromium.log" >&2
fi
# The whole suite runs on all cores, and two more files at once, since tests wait for the programs
# that they start; a device's runtime, for one, sleeps for a second whenever it is opened. The tests
# of a file share what they make, so they stay together; the files that take longest begin first
# (tests/conftest.py).
case "$*" in
"" | tests)
    # Each program that a test starts would compile our modules anew, and each worker the tests.
    unset PYTHONDONTWRITEBYTECODE
    python -m compileall -q lprnet_nb || true # a checkout may be read-only
    export OMP_NUM_THREADS=1 # the cores are busy with files of tests
    set -- -n $(($(nproc) + 2)) --dist loadfile --no-loadscope-reorder "$@"
    ;;
esac
exec python -m pytest "$@"
