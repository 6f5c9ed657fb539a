# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Sourced by the other scripts: goes to the repository's root, puts .venv's tools first, and keeps one
# build directory per purpose under build/.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
root=$PWD
export PATH="$root/.venv/bin:$PATH"
unset PYTHONPATH PYTHONHOME CFLAGS LDFLAGS
# A user's own settings must not reach the tests or the demo.
unset "${!CASCADE_@}"

# configure COMPILER BUILD_DIRECTORY MESON_OPTION...: sets a build directory up, anew if the compiler,
# Meson or the options changed.
configure() {
    local compiler=$1 build=$2 want
    shift 2
    want="$root $(meson --version) $("$compiler" --version | head -n 1) $*"
    [ "$(cat "$build/.configured" 2>/dev/null)" != "$want" ] || return 0
    rm -rf "$build"
    CC=$compiler meson setup "$build" "$@" && echo "$want" >"$build/.configured"
}

# build COMPILER BUILD_DIRECTORY MESON_OPTION...: configures and compiles.
build() {
    configure "$@" && meson compile -C "$2"
}

# The unit tests of parts that threads share, by name, one a line.
threaded_tests() {
    meson test -C build/check-tsan --no-rebuild --list 2>/dev/null | sed 's/.* \/ //; s/^cascade://' |
        grep -E 'store|compact|arena|index|hash_list|slots|server|segment_threads|segment_encrypt|reader' | grep -v fuzz
}

# The thread sanitizer's fixed memory map and a much randomised address space do not go together:
# threads_run COMMAND... runs it without randomisation where the system lets it.
threads_run() {
    if setarch "$(uname -m)" -R true 2>/dev/null; then setarch "$(uname -m)" -R "$@"; else "$@"; fi
}
