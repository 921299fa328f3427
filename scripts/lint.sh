# Sourced by ./dev lint, where everything is installed.

status=0
sources=$(cd "$top" && git ls-files --cached --others --exclude-standard -- 'src/*.h' 'src/*.cpp' 'include/*.h' 'tests/*.h' 'tests/*.cpp' 'tests/*.c' \
    'tools/*.h' 'tools/*.cpp' 'benchmarks/*.h' 'benchmarks/*.cpp' 'examples/*.c' 'examples/*.cpp')

cd "$top"
if [ "${1:-}" = --fix ]; then
    # shellcheck disable=SC2086  # no blanks in these names
    clang-format -i $sources
elif [ -n "${1:-}" ]; then
    die "lint: unknown argument '$1'"
fi

say "clang-format"
# shellcheck disable=SC2086
clang-format --dry-run --Werror $sources || status=1

say "structure"
python3 tests/structure/check_structure.py || status=1

say "clang-tidy"
build release >/dev/null
# Each instruction set's copy of a kernel repeats the findings, and the analyzer takes minutes over generated vector code: the
# kernels' SIMD sources are checked once, compiled for one target.
tidy_sources=$(printf '%s\n' $sources | grep '^src/.*\.cpp$')
# shellcheck disable=SC2086
printf '%s\n' $tidy_sources | xargs -P "$jobs" -n 1 clang-tidy --quiet -p "$(build_folder release)" \
    --extra-arg=-Wno-unknown-warning-option --extra-arg=-DHWY_COMPILE_ONLY_STATIC 2>"$(build_folder release)/tidy.log" || status=1

if [ "$status" = 0 ]; then say "lint: clean"; else say "lint: see above (./dev lint --fix formats)"; fi
exit "$status"
