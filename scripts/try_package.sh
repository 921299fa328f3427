# Sourced by ./dev package on the host side: installs the new .deb into a scratch copy of the sid root and runs llama-bench with it.

deb=$(ls -t "$(build_folder release)"/ggml-atlas_*.deb | head -n 1)
[ -n "$deb" ] || die "no .deb was made"
as_root || die "made $deb; trying it in a scratch root needs root"
model=$(build_folder release)/session.gguf
[ -s "$model" ] || ( go_inside "" python3 "$top/benchmarks/end_to_end/make_model.py" --shape attn12m "$model" ) || die "no model"

scratch=$(mktemp -d "$cache/package.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
# Hard links: seconds and no space. dpkg replaces files by renaming, so the root itself keeps its own.
cp -al "$root/." "$scratch/root"
root=$scratch/root
say "installing $(basename "$deb") into a scratch root"
enter sh -euc '
    dpkg -i "$1"
    plugin=$(dpkg -L ggml-atlas | grep "/libggml-atlas.so$")
    echo "installed: $plugin"
    dpkg -s ggml-atlas | grep "^Depends"
    if command -v atlas >/dev/null; then atlas info; fi
    GGML_BACKEND_PATH=$plugin llama-bench -m "$2" -p 32 -n 8 -r 1 -d 256 -ngl 99 -o md 2>&1 | tee "$3"
    grep -q "loaded ATLAS" "$3"
    dpkg -r ggml-atlas
    test ! -e "$plugin"
' sh "$deb" "$model" "$scratch/bench.log"
say "installed, ran and was removed again: $deb"
