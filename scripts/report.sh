#!/usr/bin/env bash
# The main job: published weights in, a report comparing float and INT8 BModels out.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec lprnet-nb report "$@"
