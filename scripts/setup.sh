#!/usr/bin/env bash
# Make .venv with the right torch and this package in it.
#
# Usage: scripts/setup.sh [EXTRAS]      such as: scripts/setup.sh test
#
# PYTHON           the Python to make it with, 3.11 or newer (default: python3)
# TORCH_INDEX_URL  where to get torch: PyTorch's index for the CPU (a machine without a GPU; the usual build has
#                  gigabytes of CUDA), or for the CUDA of an older driver
# SETUP_VENV       the environment's folder (default: .venv)
# SETUP_WHEEL      install this wheel of the package, not the checkout
#
# Running it again costs seconds: it stops where pyproject.toml, this script and the Python are as they were.
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,/^set/{s/^# \{0,1\}//;/^set/d;p;}' "$0"; exit 0 ;;
esac
cd "$(dirname "$0")/.."
extras="${1:-}"
python="${PYTHON:-python3}"
venv="${SETUP_VENV:-.venv}"
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

unknown="$("$python" - "$extras" <<'PY'
import sys, tomllib
known = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
print(" ".join(name for name in sys.argv[1].split(",") if name and name.strip() not in known), *sorted(known), sep="|")
PY
)"
if [ -n "${unknown%%|*}" ]; then
  echo "setup: no extra '${unknown%%|*}'; there are: $(printf '%s' "${unknown#*|}" | tr '|' ' ')" >&2
  exit 2
fi

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

stamp="$venv/.setup-${extras:-plain}"
state="$("$python" -V 2>&1) $(cat pyproject.toml scripts/setup.sh | cksum) ${SETUP_WHEEL:-$(pwd)}"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ]; then
  exit 0
fi

if [ -e "$venv" ]; then
  if [ ! -f "$venv/pyvenv.cfg" ]; then
    echo "setup: $venv is there and no Python environment; move it away" >&2
    exit 2
  fi
  found="$(version_of "$venv/bin/python" || true)"
  wanted="$(version_of "$python")"
  if [ "$found" != "$wanted" ]; then
    say "$venv has Python ${found:-that does not start}, '$python' is $wanted: making it anew"
    rm -rf "$venv"
  elif ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    say "$venv has no pip: making it anew"
    rm -rf "$venv"
  fi
fi
if [ ! -e "$venv" ]; then
  say "making $venv with $("$python" -V 2>&1)"
  if ! "$python" -m venv "$venv" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$venv"
    echo "setup: could not make $venv; on Debian and Ubuntu: apt-get install python3-venv" >&2
    exit 2
  fi
fi
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
has_gpu() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; }

# torch first, so that nothing below pulls a build this machine cannot use.
if ! "$venv/bin/python" -c 'import sys, torch; sys.exit(tuple(map(int, torch.__version__.split("+")[0].split(".")[:2])) < (2, 11))' 2>/dev/null; then
  if [ "$(uname -s)-$(uname -m)" = Darwin-x86_64 ]; then
    echo "setup: PyTorch is no longer built for Macs with an Intel processor; use a Linux machine" >&2
    exit 2
  elif [ "$(uname -s)" = Darwin ]; then
    say "installing torch for macOS"
    "${pip[@]}" "$torch_range"
  elif has_gpu && [ -n "${TORCH_INDEX_URL:-}" ]; then
    say "a GPU is here: installing torch from TORCH_INDEX_URL"
    "${pip[@]}" --index-url "$TORCH_INDEX_URL" "$torch_range"
  elif has_gpu; then
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

if has_gpu && ! "$venv/bin/python" -W ignore -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  say "WARNING: a GPU is here, but $("$venv/bin/python" -c 'import torch; print(f"torch {torch.__version__}, built for CUDA {torch.version.cuda},")') does not see it:"
  say "update the driver, or remove $venv and set TORCH_INDEX_URL to PyTorch's index for the CUDA of your driver"
fi

say "installing geneformer-grn${extras:+ with [$extras]}"
if [ -n "${SETUP_WHEEL:-}" ]; then
  "${pip[@]}" "$SETUP_WHEEL${extras:+[$extras]}"
else
  "${pip[@]}" --editable ".${extras:+[$extras]}"
fi
printf '%s' "$state" > "$stamp"
say "ready: $venv/bin/geneformer-grn"
