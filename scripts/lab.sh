#!/usr/bin/env bash
# Open the notebooks in JupyterLab.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root/notebooks"
exec jupyter lab "$@"
