#!/bin/sh
# Makes the Python environment in DIR that loads compressed-tensors folders: torch, transformers and compressed-tensors from PyPI, some gigabytes.
# Idempotent: a stamp that names the packages is written last.
set -eu

if [ $# -ne 1 ]; then
  echo "usage: make_export_environment.sh DIR" >&2
  exit 2
fi
directory=$1
packages="torch>=2.10,<2.11 transformers==5.23.0 compressed-tensors==0.20.0 safetensors numpy"
stamp=$directory/lsaq-export.stamp
if [ -x "$directory/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$packages" ]; then exit 0; fi
rm -f "$stamp"
python3 -m venv --clear "$directory"
# shellcheck disable=SC2086  # one word for each package is meant
"$directory/bin/pip" install --quiet --disable-pip-version-check --prefer-binary $packages
"$directory/bin/python" -c 'import torch, transformers, compressed_tensors, safetensors'
printf '%s\n' "$packages" > "$stamp"
