#!/usr/bin/env bash
# The main job: published weights in, a report comparing float and INT8 BModels out.
# With --profile tour a look at one: no compiler, no download, a smaller environment.
case " $* " in
*" --profile tour "* | *" --profile=tour "*) tour=1 ;;
esac
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec lprnet-nb report "$@"
