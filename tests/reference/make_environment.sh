#!/bin/sh
# Makes the Python environment of the reference in DIR: a virtual environment that sees the system's torch (Debian: python3-torch), plus a few packages.
# Idempotent: a stamp that names the packages is written last, and an environment whose stamp matches is left as it is.
set -eu

if [ $# -ne 1 ]; then
  echo "usage: make_environment.sh DIR" >&2
  exit 2
fi
directory=$1
packages="transformers==4.40.2 numpy<2 gguf safetensors sentencepiece"
stamp=$directory/lsaq-reference.stamp

if [ -x "$directory/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$packages" ]; then
  exit 0
fi

# The first python3 in the path may be one that does not see the distribution's packages.
python=
for candidate in python3 /usr/bin/python3; do
  if "$candidate" -c 'import torch' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "make_environment.sh: no python3 that can import torch; install the distribution's package (Debian, Ubuntu: python3-torch, python3-venv)" >&2
  exit 1
fi
rm -f "$stamp"
"$python" -m venv --clear --system-site-packages "$directory"
# shellcheck disable=SC2086  # one word for each package is meant
"$directory/bin/pip" install --quiet --disable-pip-version-check --prefer-binary $packages
"$directory/bin/python" -c 'import torch, transformers, gguf, safetensors, tokenizers'
printf '%s\n' "$packages" > "$stamp"
