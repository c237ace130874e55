#!/usr/bin/env bash
# Make the LMDB calibration set of TPU-NNTC from a folder of images, with the vendor's options:
# --imageset_rootfolder DIR [--imageset_lmdbfolder DIR] [--resize_height 24] [--resize_width 94]
# [--shuffle True] [--bgr2rgb True] [--gray True]; with = and with dashes in the names too.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec lprnet-nb lmdb "$@"
