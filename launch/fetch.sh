#!/bin/sh
# Put packages, and nothing that they ask for, into a folder of their own: sh launch/fetch.sh FOLDER PACKAGE...
# `make` calls this for what only some tests need, beside .venv's own packages.
set -eu

folder=$1
python=.venv/bin/python
shift

rm -rf "$folder"
if uv --version >/dev/null 2>&1; then
    uv pip install --quiet --python $python --no-deps --target "$folder" "$@"
elif $python -m uv --version >/dev/null 2>&1; then
    $python -m uv pip install --quiet --python $python --no-deps --target "$folder" "$@"
else
    $python -m pip install --quiet --no-deps --target "$folder" "$@"
fi
echo "In $folder: $*"
touch "$folder/set_up"
