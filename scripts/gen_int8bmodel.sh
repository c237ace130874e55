#!/usr/bin/env bash
# Compile data/models/TARGET/lprnet_int8_{1,4}b.bmodel. Usage: scripts/gen_int8bmodel.sh TARGET [options]
# TARGET is BM1684, BM1684X, BM1688 or CV186X; options are those of `lprnet-nb compile`.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec lprnet-nb compile "${1:?which chip? one of BM1684 BM1684X BM1688 CV186X}" --precisions int8 "${@:2}"
