#!/bin/sh
# Generates the Python stubs of every contract into proto/gen, or into the folder given as the only argument.
# PYTHON names the interpreter that has grpcio-tools and mypy-protobuf (default: python).
set -eu

proto=$(cd "$(dirname "$0")" && pwd)
out=${1:-$proto/gen}
python=$(command -v "${PYTHON:-python}")
# protoc looks for the mypy plugins on the PATH; they stand beside the interpreter.
bin=$(cd "$(dirname "$python")" && pwd)
PATH=$bin:$PATH

rm -rf "$out/recipe_protos"
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$proto"
find recipe_protos -name '*.proto' | sort | xargs "$bin/${python##*/}" -m grpc_tools.protoc --proto_path=. \
  --python_out="$out" --grpc_python_out="$out" --mypy_out=quiet:"$out" --mypy_grpc_out=quiet:"$out"
find "$out/recipe_protos" -type d -exec touch '{}/__init__.py' ';'
touch "$out/recipe_protos/py.typed"
