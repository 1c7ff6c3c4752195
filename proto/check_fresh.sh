#!/bin/sh
# Fails if the committed stubs in proto/gen are not what proto/generate.sh makes of the contracts.
set -eu

proto=$(cd "$(dirname "$0")" && pwd)
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"$proto/generate.sh" "$fresh"
diff --recursive --unified --exclude=__pycache__ "$fresh/recipe_protos" "$proto/gen/recipe_protos" || {
  echo "The stubs in proto/gen are stale: run proto/generate.sh and commit the result." >&2
  exit 1
}
