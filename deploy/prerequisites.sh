# Sourced by the scripts that build: makes sure of what the build needs, by apt where that is allowed.
# usage: . deploy/prerequisites.sh; need_to_build; need COMMAND PACKAGE [COMMAND PACKAGE ...]

need() {
    local missing=()
    while [ $# -gt 0 ]; do
        command -v "$1" >/dev/null 2>&1 || missing+=("$2")
        shift 2
    done
    if [ ${#missing[@]} -gt 0 ]; then
        local apt=(apt-get)
        [ "$(id -u)" -eq 0 ] || apt=(sudo -n apt-get)
        if ! command -v apt-get >/dev/null 2>&1 || ! "${apt[@]}" --version >/dev/null 2>&1; then
            echo "Please install first: ${missing[*]}" >&2
            exit 1
        fi
        echo "Installing ${missing[*]} ..." >&2
        "${apt[@]}" update -qq && "${apt[@]}" install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    fi
    # A toolchain installed by rustup may not be on the path of a fresh shell.
    command -v cargo >/dev/null 2>&1 || export PATH="$HOME/.cargo/bin:$PATH"
    if ! command -v cargo >/dev/null 2>&1; then
        echo "Please install Rust 1.95 or newer with rustup; Debian's own is too old." >&2
        exit 1
    fi
}

# What a build takes: a C compiler, and for etcd's client protoc with the includes that come with it.
need_to_build() {
    local includes=/usr/include/google/protobuf/empty.proto
    need cc build-essential protoc protobuf-compiler
    [ -e "$includes" ] || need "$includes" libprotobuf-dev
}
