# Sourced by ./dev lint, where everything is installed: [--fix] [FOLDER…]. Ends with one line per check and status 1 if one of them failed.

fix=
folders=
for argument in "$@"; do
    case $argument in
        --fix) fix=1 ;;
        -*) die "lint: unknown argument '$argument'" ;;
        *)
            [ -d "$top/$argument" ] || die "lint: $argument: no such folder in the project"
            folders="$folders ${argument%/}"
            ;;
    esac
done
folders=${folders:-src include tests tools benchmarks examples}
cd "$top"

files() {  # SUFFIXES: the sources in the chosen folders that are not ignored; no blanks in these names
    for folder in $folders; do
        for suffix in "$@"; do git ls-files --cached --others --exclude-standard -- "$folder/*.$suffix"; done
    done | while read -r file; do if [ -e "$file" ]; then printf '%s\n' "$file"; fi; done | sort -u
}

summary=
status=0
result() {  # STATUS WHAT
    if [ "$1" = 0 ]; then word=clean; else word=FAILED status=1; fi
    summary="$summary$(printf '%-12s %s' "$word" "$2")
"
}

sources=$(files h cpp c)
say "clang-format"
if [ -n "$fix" ]; then printf '%s\n' "$sources" | xargs clang-format -i; fi
code=0
printf '%s\n' "$sources" | xargs clang-format --dry-run --Werror || code=1
result "$code" "clang-format: $(printf '%s\n' "$sources" | wc -l) files"

say "structure"
code=0
python3 tests/structure/check_structure.py || code=1
result "$code" "structure: include arrows, environment, output, documented variables"

# Library and programs. Tests and benchmarks are left to the compiler's warnings: GoogleTest's macros are most of what would be found.
# The kernels are checked in Highway's portable form: findings would repeat for every instruction set, and its analysis takes minutes.
say "clang-tidy"
folder=$(build_folder release)
# The compiler's view of every file is needed, its output is not.
(cd "$top" && cmake --preset release -G Ninja >"$folder.lint.log" 2>&1) || { cat "$folder.lint.log" >&2; die "configuring failed"; }
rm -f "$folder.lint.log"
reports=$folder/tidy
rm -rf "$reports"
mkdir -p "$reports"
checked=$(files cpp | grep -E '^(src|tools)/' || :)
printf '%s\n' "$checked" | grep . | xargs -P "$jobs" -I {} nice sh -c '
    report=$1/$(printf %s "$3" | tr / _)
    clang-tidy --quiet -p "$2" --extra-arg=-Wno-unknown-warning-option --extra-arg=-DHWY_COMPILE_ONLY_STATIC "$3" >"$report" 2>"$report.err" ||
        { cat "$report"; grep -v "warnings\{0,1\} generated" "$report.err"; echo "$3" >>"$1/failed"; } >&2' \
    sh "$reports" "$folder" {}
failed=$(sort -u "$reports/failed" 2>/dev/null || :)
ran=$(find "$reports" -name '*.err' | wc -l)
wanted=$(printf '%s\n' "$checked" | grep -c . || :)
findings=$(cat "$reports"/*_* 2>/dev/null | grep -cE ': (error|warning): ' || :)
code=0
if [ -n "$failed" ] || [ "$ran" != "$wanted" ]; then code=1; fi
result "$code" "clang-tidy: $findings findings in $(printf '%s' "$failed" | grep -c . || :) of $ran files"

printf '\n%s' "$summary"
if [ "$status" != 0 ]; then say "lint: see above (./dev lint --fix formats)"; fi
exit "$status"
