#!/usr/bin/env bash
# A static site in build/site: README, docs, executed notebooks, a report, a search.
# scripts/site.sh [REPORT], by default reports/full, which is made when it is not there.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
report=${1:-$root/reports/full}
if [ $# -eq 0 ] && [ ! -f "$report/index.html" ]; then
    lprnet-nb report --profile full
fi
python -c 'import mkdocs, material' 2>/dev/null ||
    python -m pip install --disable-pip-version-check --quiet -c "$root/requirements.lock" -e "$root[site]"
exec python -m lprnet_nb.report.site "$report"
