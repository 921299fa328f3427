# Sourced by ./dev test --packages on the host side: installs each kind of package into a scratch copy of the sid root, or a folder of its own, and runs it there.
# Expects: top, cache, root, build_folder(), enter(), say(), die().

as_root || die "scratch roots need root"
# enter() has names of its own: folder, name.
built=$(build_folder release)
deb=$(ls -t "$built"/ggml-atlas_*.deb | head -n 1)
wheel=$(ls -t "$built"/packages/ggml_atlas-*.whl | head -n 1)
model=$top/models/atlas-tiny.gguf
sample=$top/tests/models/sample.txt
scratch=$(mktemp -d "$cache/packages.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
installed=$root
passed=0
failed=0

try() {  # NAME COMMAND…: runs it in $root; its output is shown where it fails
    title=$1
    shift
    if enter "$@" >"$scratch/log" 2>&1; then
        passed=$((passed + 1))
        say "passed: $title"
    else
        failed=$((failed + 1))
        tail -n 40 "$scratch/log"
        say "FAILED: $title"
    fi
}

# The launcher and the plug-in at work. $1: the command atlas, which may be several words; $2: the model.
works='set -eu
    $1 doctor | tee "$3"
    grep -q "Atlas works here" "$3"
    $1 llama-bench -m "$2" -p 32 -n 8 -r 1 --atlas-log-level info 2>&1 | tee "$3"
    grep -q "ATLAS.*tg8" "$3"'
# Programs of somebody else's. $1: a folder to build in, $2: the tree, $3: the model, $4: a text, $5: what CMake and pkg-config are told of places.
by_cmake='set -eu
    for package in ggml-atlas atlas; do
        cmake -S "$2/tests/packages" -B "$1/$package" -G Ninja -DPACKAGE=$package -DEXAMPLES="$2/examples" -DCMAKE_PREFIX_PATH="$5" -DCMAKE_BUILD_TYPE=Release
        cmake --build "$1/$package"
    done
    ATLAS_THRESHOLD=256 ATLAS_WINDOW=64 "$1/atlas/runtime_switching" "$3" "$4" 800 8 | tee "$1/said"
    grep -q "by Atlas ([1-9][0-9]* estimated)" "$1/said"'
by_pkg_config='set -eu
    if [ -n "$5" ]; then export PKG_CONFIG_PATH="$5/lib/$(uname -m)-linux-gnu/pkgconfig:$5/lib/pkgconfig"; fi
    pkg-config --modversion ggml-atlas
    # shellcheck disable=SC2046
    cc -std=c11 -O1 "$2/examples/switch_atlas.c" $(pkg-config --cflags --libs ggml-atlas) -lllama -lggml -lggml-base -lm -o "$1/switch_atlas"
    ldd "$1/switch_atlas" | grep libggml-atlas
    "$1/switch_atlas" "$3" "$4" 512 8'

say "a prefix of its own"
mkdir -p "$scratch/prefix" "$scratch/built"
try "cmake --install into a folder" cmake --install "$built" --prefix "$scratch/prefix" --strip
try "the launcher in that folder" sh -c "$works" sh "$scratch/prefix/bin/atlas" "$model" "$scratch/said"
try "find_package(ggml-atlas) and find_package(atlas): five examples are built, one runs" \
    sh -c "$by_cmake" sh "$scratch/built" "$top" "$model" "$sample" "$scratch/prefix"
try "pkg-config ggml-atlas: an example is built and runs" sh -c "$by_pkg_config" sh "$scratch/built" "$top" "$model" "$sample" "$scratch/prefix"

say "$(basename "$wheel")"
if python3 -m pip --version >/dev/null 2>&1; then
    python3 -m pip install --quiet --no-deps --no-index --target "$scratch/site" "$wheel" || die "pip does not take $wheel"
    try "the wheel's launcher, with llama.cpp of PATH" env PYTHONPATH="$scratch/site" \
        sh -c "$works" sh "python3 $scratch/site/bin/atlas" "$model" "$scratch/said"
    try "ggml_atlas.library() in a process of Python's" env PYTHONPATH="$scratch/site" sh -c \
        'python3 "$1/examples/atlas_ctypes.py" "$(python3 -c "import ggml_atlas; print(ggml_atlas.library())")" "$2" "Once upon a time" 8 | grep "operations by Atlas"' \
        sh "$top" "$model"
else
    failed=$((failed + 1))
    say "FAILED: the wheel: python3 -m pip is not there"
fi

say "the Homebrew formula"
try "the formula's archive configures with its arguments" sh -euc '
    if command -v ruby >/dev/null; then ruby -c "$1/ggml-atlas.rb"; fi
    if grep -n "@[A-Z0-9]*@" "$1/ggml-atlas.rb"; then exit 1; fi
    archive=$(echo "$1"/ggml-atlas-*.tar.gz)
    sum=$(sha256sum "$archive" | cut -d " " -f 1)
    grep -q "sha256 \"$sum\"" "$1/ggml-atlas.rb"
    mkdir "$2/source"
    tar xzf "$archive" -C "$2/source" --strip-components 1
    # shellcheck disable=SC2046
    cmake -S "$2/source" -B "$2/source/build" $(sed -n "s/^ *args = %w\[\(.*\)\]$/\1/p" "$1/ggml-atlas.rb")' sh "$built/packages" "$scratch"

say "$(basename "$deb")"
# Hard links: seconds and no space. dpkg replaces files by renaming, so the root itself keeps its own.
cp -al "$installed/." "$scratch/root"
root=$scratch/root
try "dpkg -i" dpkg -i "$deb"
try "the launcher and llama-bench" sh -c "$works" sh atlas "$model" "$scratch/said"
mkdir -p "$scratch/of-deb"
try "find_package by what is in /usr" sh -c "$by_cmake" sh "$scratch/of-deb" "$top" "$model" "$sample" ""
try "pkg-config by what is in /usr" sh -c "$by_pkg_config" sh "$scratch/of-deb" "$top" "$model" "$sample" ""
try "dpkg -r leaves nothing" sh -euc 'files=$(dpkg -L ggml-atlas); dpkg -r ggml-atlas; for file in $files; do
    if [ -f "$file" ]; then echo "$file is still there"; exit 1; fi; done'

echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
exit
