#!/usr/bin/env bash
# Make the workbook's environment in .venv; does nothing when it is there and current.
# Sourced by the other scripts; run by itself it only sets up. With `tour` set, without what a tour
# does not need.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${LPRNET_VENV:-$root/.venv}

find_python() {
    local candidate
    for candidate in ${LPRNET_PYTHON:-} python3.13 python3.12 python3.11 python3 python; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
            >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    echo "setup: no Python 3.11 or newer with venv and pip was found. Install one (Debian:" \
        "apt-get install python3 python3-venv), or name one in LPRNET_PYTHON." >&2
    return 1
}

# A tour takes less; what is there of more serves it as well.
stamp=$venv/.lprnet-nb
lock=$(cat "$root/pyproject.toml" "$root/requirements.lock" | cksum)
extras=[lab,test]
there=$(cat "$stamp" 2>/dev/null || true)
if [ "${tour:-}" ] && [ "$there" != "$lock $extras" ]; then
    extras=
fi
wanted="$lock $extras"
if [ "$there" != "$wanted" ]; then
    python=$(find_python)
    echo "setup: installing the workbook's environment into $venv (once, a few minutes)" >&2
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    if ! "$venv/bin/python" -m pip install --disable-pip-version-check --quiet \
        -c "$root/requirements.lock" -e "$root$extras" >"$venv/install.log" 2>&1; then
        tail -n 20 "$venv/install.log" >&2
        echo "setup: pip failed; the whole log is $venv/install.log." \
            "Mend the cause (network? disk space?) and run the same command again." >&2
        exit 1
    fi
    printf '%s' "$wanted" >"$stamp"
fi
export PATH="$venv/bin:$PATH"
# The chip simulators and the compiler run beside us: threads that wait for one another cost more
# than they bring on few cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc 2>/dev/null || echo 2)}
