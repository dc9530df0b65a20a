#!/bin/sh
# Installs the tutorial beside this file, without network and without administrator. Needs Python {pythons}.
cd "$(dirname "$0")" || exit 1
fits="import sys; sys.exit('%d.%d' % sys.version_info[:2] not in sys.argv)"
for python in {candidates} python3 ""; do "$python" -c "$fits" {versions} 2>/dev/null && break; done
if [ -z "$python" ]; then
  echo "Python {pythons} is needed and was not found: install it and call install.sh again." >&2
  exit 1
fi
"$python" -m venv venv || exit 1
venv/bin/python -m pip install --quiet --no-index --find-links wheels "m2f-helpers[fast]" jupyterlab || exit 1
echo "Ready. Start with: venv/bin/jupyter lab notebooks"
