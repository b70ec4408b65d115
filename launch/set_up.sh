#!/bin/sh
# Make .venv and install mai with its pinned dependencies into it; `make setup` calls this from the repository's root.
# PYTHON names the interpreter; INSTALLER is auto (uv where it can be had, pip otherwise), uv or pip.
set -eu

python=${PYTHON:-python3}
installer=${INSTALLER:-auto}
venv=.venv
stamp=$venv/set_up
started_seconds=$(date +%s)

fail() {
    printf '\nSet-up stopped: %s\n\n' "$1" >&2
    exit 83
}

check_python() {
    command -v "$python" >/dev/null ||
        fail "there is no $python on the PATH. Install Python 3.10 or newer, or name one: make setup PYTHON=/path/to/python3"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "mai needs Python 3.10 or newer, and $python is $("$python" --version 2>&1). Name a newer one, for example: make setup PYTHON=python3.11"
}

# A folder that was copied or moved carries a .venv whose scripts still run the code at the old place.
drop_unusable_venv() {
    if [ -d $venv ] && ! $venv/bin/python -c '' 2>/dev/null; then
        echo "Removing .venv: its Python does not run any more."
        rm -rf $venv
    elif [ -f $stamp ] && [ "$(cat $stamp)" != "$(pwd -P)" ]; then
        echo "Removing .venv: it was set up in $(cat $stamp)."
        rm -rf $venv
    fi
}

find_uv() {
    if uv --version >/dev/null 2>&1; then
        run_uv() { uv "$@"; }
    elif "$python" -m uv --version >/dev/null 2>&1; then
        run_uv() { "$python" -m uv "$@"; }
    else
        return 1
    fi
}

make_venv_with_pip() {
    [ -d $venv ] || "$python" -m venv $venv || { rm -rf $venv; no_venv_module; }
    $venv/bin/python -m pip --version >/dev/null 2>&1 || $venv/bin/python -m ensurepip >/dev/null || no_venv_module
}

no_venv_module() {
    fail "$python cannot make a virtual environment with pip in it. On Debian and Ubuntu: apt-get install python3-venv. Or install uv, which needs neither."
}

# Sets $tool and leaves a .venv behind.
make_venv() {
    tool=uv
    if [ "$installer" != pip ] && find_uv; then
        [ -d $venv ] || run_uv venv --quiet --python "$("$python" -c 'import sys; print(sys.executable)')" $venv
        return
    fi
    make_venv_with_pip
    if [ "$installer" != pip ] && $venv/bin/python -m pip install --quiet uv; then
        run_uv() { $venv/bin/python -m uv "$@"; }
        return
    fi
    [ "$installer" != uv ] || fail "uv cannot be had here. Let pip do it: make setup INSTALLER=pip"
    tool=pip
}

has_gpu() {
    nvidia-smi -L 2>/dev/null | grep -q '^GPU '
}

# uv does not read pip's settings, and a machine without a GPU may name there a folder with torch's small CPU build.
# A machine with a GPU goes without, so that it gets the CUDA build.
find_links() {
    links=${PIP_FIND_LINKS:-$("$python" -m pip config get global.find-links 2>/dev/null || true)}
    has_gpu || printf '%s' "$links" | tr -s '[:space:]' ','
}

install() {
    extras=dev
    if has_gpu; then extras=dev,gpu; fi
    if [ $tool = uv ]; then
        UV_FIND_LINKS=${UV_FIND_LINKS:-$(find_links)} run_uv pip install --python $venv/bin/python \
            --constraint constraints.txt --build-constraint constraints.txt --editable ".[$extras]" --config-settings editable_mode=compat
    else
        $venv/bin/python -m pip install --constraint constraints.txt --editable ".[$extras]" --config-settings editable_mode=compat
    fi
}

# One kernel is CUDA C++, and a GPU's machine compiles it: half a minute.
build_cuda_part() {
    if ! has_gpu; then
        echo "CUDA part: not built, this machine has no GPU; the same operations run in plain torch here."
    elif $venv/bin/python -m mai.kernels.cuda.build_library; then
        echo "CUDA part: built for Hopper (sm_90a)."
    else
        echo "CUDA part: not built, see above; Triton takes its place."
    fi
}

report() {
    torch=$($venv/bin/python -c 'from importlib.metadata import version; print(version("torch"))')
    echo "Set up in .venv with $tool and torch $torch, in $(($(date +%s) - started_seconds)) seconds."
    case $torch in *+cpu)
        if has_gpu; then
            echo "This machine has a GPU, but its package settings brought a torch that cannot use it: pip config list"
        fi ;;
    esac
}

case $installer in auto | uv | pip) ;; *) fail "INSTALLER=$installer is none of: auto, uv, pip." ;; esac
check_python
drop_unusable_venv
make_venv
install || fail "$tool could not install the packages; it says why above. The other installer may: make setup INSTALLER=uv (or pip)"
build_cuda_part
report
pwd -P >$stamp
