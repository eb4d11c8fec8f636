#!/usr/bin/env bash
# Make .venv with the right torch and this package in it. Usage: scripts/setup.sh [EXTRAS], e.g. scripts/setup.sh test
# Running it again costs seconds: it stops where pyproject.toml, this script and the Python are as they were.
set -euo pipefail
cd "$(dirname "$0")/.."
extras="${1:-}"
python="${PYTHON:-python3}"
torch_range="torch>=2.11"

say() { printf 'setup: %s\n' "$*"; }

if ! command -v "$python" >/dev/null 2>&1; then
  echo "setup: '$python' was not found. Install Python 3.11 or newer, or name one: PYTHON=/path/to/python3.12 make demo" >&2
  exit 2
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "setup: geneformer-grn needs Python 3.11 or newer; '$python' is $("$python" -V 2>&1 | cut -d' ' -f2). Name another: PYTHON=python3.12 make demo" >&2
  exit 2
fi

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

stamp=".venv/.setup-${extras:-plain}"
state="$("$python" -V 2>&1) $(cat pyproject.toml scripts/setup.sh | cksum) $(pwd)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ]; then
  exit 0
fi

if [ -e .venv ]; then
  found="$(version_of .venv/bin/python || true)"
  wanted="$(version_of "$python")"
  if [ "$found" != "$wanted" ]; then
    say ".venv has Python ${found:-that does not start}, '$python' is $wanted: making .venv anew"
    rm -rf .venv
  elif ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    say ".venv has no pip: making .venv anew"
    rm -rf .venv
  fi
fi
if [ ! -e .venv ]; then
  say "making .venv with $("$python" -V 2>&1)"
  if ! "$python" -m venv .venv || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    echo "setup: could not make .venv; on Debian and Ubuntu: apt-get install python3-venv" >&2
    exit 2
  fi
fi
pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)

# torch first, so that nothing below pulls a build this machine cannot use.
if ! .venv/bin/python -c 'import sys, torch; sys.exit(tuple(map(int, torch.__version__.split("+")[0].split(".")[:2])) < (2, 11))' 2>/dev/null; then
  if [ "$(uname -s)" = Darwin ]; then
    say "installing torch for macOS"
    "${pip[@]}" "$torch_range"
  elif command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then
    say "a GPU is here: installing torch with CUDA (several gigabytes)"
    "${pip[@]}" "$torch_range"
  elif "${pip[@]}" "torch==2.13.0+cpu" 2>/dev/null; then
    say "no GPU: installed torch for the CPU"
  elif [ -n "${TORCH_INDEX_URL:-}" ]; then
    say "no GPU: installing torch from TORCH_INDEX_URL"
    "${pip[@]}" --index-url "$TORCH_INDEX_URL" "$torch_range"
  else
    say "no CPU build of torch found: installing the normal one (set TORCH_INDEX_URL to PyTorch's CPU index for a smaller one)"
    "${pip[@]}" "$torch_range"
  fi
fi

say "installing geneformer-grn${extras:+ with [$extras]}"
"${pip[@]}" --editable ".${extras:+[$extras]}"
printf '%s' "$state" > "$stamp"
say "ready: .venv/bin/geneformer-grn"
