#!/usr/bin/env bash
# Fetch the published weights and test images into data/.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec lprnet-nb download "$@"
