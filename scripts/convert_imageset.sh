#!/usr/bin/env bash
# Make the LMDB calibration set of TPU-NNTC from a folder of images, with the vendor's options:
# --imageset-rootfolder DIR --imageset-lmdbfolder DIR [--resize-height 24] [--resize-width 94]
# [--shuffle] [--bgr2rgb] [--gray]; underscores in their names are taken too.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
arguments=()
for argument in "$@"; do
    if [[ $argument == --* ]]; then
        name=${argument%%=*}
        argument=${name//_/-}${argument:${#name}}
    fi
    arguments+=("$argument")
done
exec lprnet-nb lmdb "${arguments[@]}"
