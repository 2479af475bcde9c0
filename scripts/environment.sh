#!/usr/bin/env bash
# Make .venv in the root of the clone and install graph-pes there with the
# extras named by the first argument, at the versions of constraints.txt:
#
#     bash scripts/environment.sh dev
#
# Nothing is done when the same extras are already installed for the present
# pyproject.toml and constraints.txt. PYTHON=... chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras=${1:?"usage: environment.sh EXTRAS, for example: environment.sh dev"}
venv=.venv
stamp=$venv/.installed-${extras//,/-}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate found
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    found=$("${PYTHON:-python3}" --version 2>/dev/null | head -n 1) || true
    echo "graph-pes needs Python 3.11 or later; found ${found:-no ${PYTHON:-python3}}." >&2
    echo "Name another interpreter with PYTHON=/path/to/python3." >&2
    return 1
}

# the folder is part of the stamp: an environment cannot be moved
wanted=$({ pwd -P; echo "$extras"; cat pyproject.toml constraints.txt; } | sha256sum)
if [[ -x $venv/bin/python && -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    exit 0
fi

home=$venv/.made-in
if [[ ! -x $venv/bin/python || ! -f $home || $(<"$home") != "$(pwd -P)" ]]; then
    python=$(find_python)
    echo "Making $venv with $("$python" --version)"
    if ! "$python" -m venv --clear "$venv"; then
        echo "Could not make $venv. On Debian and Ubuntu: apt install python3-venv" >&2
        exit 1
    fi
    pwd -P >"$home"
fi

install() {
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check \
        --constraint constraints.txt "$@"
}

echo "Installing graph-pes[$extras] in $venv (a few minutes the first time)"
# torch goes first, alone, so that pip takes the build for CPUs where one is offered
install torch
install --editable ".[$extras]"
if [[ $extras == *dev* || $extras == *test* ]]; then
    # for its kernel of PLUMED, which needs nothing of what the package itself depends on
    install --no-deps hillclimber==0.1.8 ||
        echo "There is no kernel of PLUMED for this Python: tests that need it are skipped." >&2
fi
echo "$wanted" >"$stamp"
