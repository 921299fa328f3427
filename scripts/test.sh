# Sourced by ./dev test, where everything is installed. Expects: top, jobs, build(), build_folder(), say(), die().

# Threads that wait sleep: tests run side by side, and the machine may be shared.
export OMP_WAIT_POLICY=passive

tests_passed=0
tests_failed=0

run_ctest() {  # FOLDER CTEST ARGUMENTS…: adds to the two counts
    folder=$1
    shift
    report=$folder/ctest.xml
    rm -f "$report"
    ctest --test-dir "$folder" --output-on-failure --no-tests=error --output-junit "$report" "$@" || :
    if [ ! -s "$report" ]; then
        say "ctest wrote no report in $folder"
        tests_failed=$((tests_failed + 1))
        return 0
    fi
    count() { sed -n "s/^[[:space:]]*$1=\"\([0-9]*\)\".*/\1/p" "$report" | head -n 1; }
    bad=$(count failures)
    away=$(($(count skipped) + $(count disabled)))
    tests_failed=$((tests_failed + bad))
    tests_passed=$((tests_passed + $(count tests) - bad - away))
    tests_skipped=$((${tests_skipped:-0} + away))
}

note() {  # STATUS NAME: counts a check that is not ctest's
    if [ "$1" = 0 ]; then
        tests_passed=$((tests_passed + 1))
        say "passed: $2"
    else
        tests_failed=$((tests_failed + 1))
        say "FAILED: $2"
    fi
}

finish() {
    if [ "${tests_skipped:-0}" -gt 0 ]; then say "$tests_skipped tests were skipped"; fi
    echo "$tests_passed passed, $tests_failed failed"
    [ "$tests_failed" = 0 ] && [ "$tests_passed" -gt 0 ]
    exit
}

coverage() {  # line coverage of src/ by the unit tests and the short host tests (not the thousands of cases of host_ops), in a build of its own
    threshold=${ATLAS_COVERAGE_MINIMUM:-85}
    build coverage
    folder=$(build_folder coverage)
    find "$folder" -name '*.gcda' -delete
    # These tests already counted in the optimised build; here only a failure counts, since it would falsify the figure.
    status=0
    ctest --test-dir "$folder" --output-on-failure -j "$jobs" -L unit >"$folder/ctest.log" 2>&1 || status=$?
    ctest --test-dir "$folder" --output-on-failure -j "$jobs" -L host -LE long -E '^host_(ops|archs)' --no-tests=ignore >>"$folder/ctest.log" 2>&1 || status=$?
    if [ "$status" != 0 ]; then tail -n 60 "$folder/ctest.log"; fi
    note "$status" "tests with coverage counters"
    status=0
    gcovr --root "$top" --filter "$top/src/" --object-directory "$folder" -j "$jobs" --merge-mode-functions separate --merge-lines \
        --gcov-ignore-errors no_working_dir_found --gcov-ignore-parse-errors suspicious_hits.warn --exclude-throw-branches \
        --txt "$folder/coverage.txt" --json-summary "$folder/coverage.json" "$folder" >"$folder/gcovr.log" 2>&1 || status=$?
    if [ "$status" != 0 ]; then
        tail -n 20 "$folder/gcovr.log"
        note 1 "gcovr"
        return 0
    fi
    cat "$folder/coverage.txt"
    percent=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["line_percent"])' "$folder/coverage.json")
    echo "Line coverage of src/: $percent%"
    [ "$threshold" != 0 ] || return 0
    status=0
    python3 -c 'import sys; sys.exit(float(sys.argv[1]) < float(sys.argv[2]))' "$percent" "$threshold" || status=$?
    note "$status" "line coverage of src/ is at least $threshold%"
}

session_model() {  # a small model of random weights, made once per build folder
    model=$(build_folder release)/session.gguf
    if [ ! -s "$model" ]; then
        mkdir -p "$(dirname "$model")"
        python3 "$top/benchmarks/end_to_end/make_model.py" --shape attn12m "$model.part" >&2 && mv "$model.part" "$model"
    fi
    echo "$model"
}

session() {  # PLUGIN WRAPPER…: a real program with its KV cache in Atlas, prompt and decode
    plugin=$1
    shift
    GGML_BACKEND_PATH=$plugin "$@" llama-simple -m "$(session_model)" -n 24 "the quick brown fox jumps over the lazy dog"
}

long_session() {  # PLUGIN WRAPPER…: the same in sparse mode with memories, over a prompt long enough for both to work
    plugin=$1
    shift
    GGML_BACKEND_PATH=$plugin ATLAS_MODE=sparse ATLAS_THRESHOLD=256 ATLAS_WINDOW=128 ATLAS_BUDGET_FLOOR=128 ATLAS_MEMORY=1 ATLAS_WARM_UP=64 \
        ATLAS_STATS=1 "$@" llama-completion -m "$top/models/atlas-tiny.gguf" -p "$(head -c 6000 "$top/tests/models/sample.txt")" -n 24 -c 4096 \
        -t 2 --temp 0 -no-cnv --no-warmup --simple-io
}

sanitized_session() {  # NAME FUNCTION PRESET: the session ends well, Atlas was in it, and no report
    folder=$(build_folder "$3")
    log=$folder/session-$2.log
    say "$1 under $3"
    status=0
    "$2" "$folder/src/host/libggml-atlas.so" env ATLAS_LOG_LEVEL=info LD_PRELOAD="$ATLAS_SANITIZER_PRELOAD" >"$log" 2>&1 || status=$?
    if [ "$status" != 0 ] || grep -q 'runtime error:\|ERROR: AddressSanitizer\|WARNING: ThreadSanitizer' "$log"; then
        tail -n 60 "$log"
        status=1
    fi
    # What llama-simple says of its devices, and what Atlas's statistics of sparse attention say.
    grep -q 'using device ATLAS0\|atlas: \[info\] attention: {' "$log" || { say "the session did not use Atlas"; status=1; }
    note "$status" "$1 under $3"
}

sanitized() {  # PRESET; ATLAS_SANITIZER_PRELOAD is what an unmodified program needs loaded before the plug-in
    preset=$1
    build "$preset"
    folder=$(build_folder "$preset")
    # Leaks of the unmodified host are not ours to report (see --valgrind); those of the unit tests are.
    export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
    export TSAN_OPTIONS=halt_on_error=1:history_size=7:ignore_noninstrumented_modules=1:second_deadlock_stack=1
    export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1
    # Also that faults planted in a library like the plug-in are reported (tests/sanitizer).
    run_ctest "$folder" -j "$jobs" -L unit
    export ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0:strict_string_checks=1
    # Tests that play the host themselves: buffers, graphs, refusals. Those that run programs are named host… and tools….
    run_ctest "$folder" -L host -E '^(host|tools)'
    sanitized_session llama-simple session "$preset"
    sanitized_session "llama-completion with sparse attention and memories" long_session "$preset"
}

valgrind_session() {
    build release ggml-atlas
    folder=$(build_folder release)
    status=0
    # AVX-512 is unknown to valgrind, so the AVX2 kernels run. Only definite leaks with a frame of ours count.
    # "Possibly lost" (traced: 88 KB, the scratch of one OpenMP worker in kernels/cpu/attention.cpp) is memory that a live thread holds by an
    # aligned pointer into the block: the host's workers outlive main, so their thread-local scratch is never destroyed. It is bounded per
    # thread and does not grow with calls.
    ATLAS_KERNEL=avx2 OMP_NUM_THREADS=2 session "$folder/src/host/libggml-atlas.so" valgrind --leak-check=full --show-leak-kinds=definite,indirect \
        --keep-debuginfo=yes --num-callers=40 --log-file="$folder/valgrind.log" >"$folder/session.log" 2>&1 || status=$?
    if [ "$status" != 0 ]; then tail -n 30 "$folder/session.log"; fi
    if python3 "$top/scripts/valgrind_ours.py" "$folder/valgrind.log"; then :; else status=1; fi
    note "$status" "llama-simple under valgrind: no error and no leak with a frame of Atlas"
}

case ${1:-} in
    --asan)
        ATLAS_SANITIZER_PRELOAD=$(cc -print-file-name=libasan.so):$(cc -print-file-name=libubsan.so)
        export ATLAS_SANITIZER_PRELOAD
        sanitized asan
        finish
        ;;
    --tsan)
        resources=$(clang -print-resource-dir)
        # The archer tool tells ThreadSanitizer what clang's OpenMP runtime orders (teams, barriers, critical regions). The programs come
        # with gcc's runtime, which nobody can see into: clang's is loaded first and serves them too. Nothing is suppressed;
        # tests/sanitizer plants races and looks whether they are reported.
        export OMP_TOOL_LIBRARIES="${resources%/clang/*}/libarcher.so"
        [ -e "$OMP_TOOL_LIBRARIES" ] || die "$OMP_TOOL_LIBRARIES is missing (package libomp-dev)"
        export ATLAS_SANITIZER_PRELOAD="$resources/lib/linux/libclang_rt.tsan-$(uname -m).so:${resources%/clang/*}/libomp.so"
        sanitized tsan
        finish
        ;;
    --valgrind)
        valgrind_session
        finish
        ;;
    --cuda)
        # All of tests/cuda: the quick part, which `./dev test` has too, and what is left to this by CTest's configuration.
        build release
        run_ctest "$(build_folder release)" -j "$jobs" -C cuda -R '^cuda\.'
        finish
        ;;
    --hosts)
        shift
        build release ggml-atlas
        exec python3 "$top/scripts/hosts.py" --plugin "$(build_folder release)/src/host/libggml-atlas.so" --jobs "$jobs" "$@"
        ;;
    --)
        shift
        build release
        run_ctest "$(build_folder release)" "$@"
        finish
        ;;
    '' | --quick)
        started=$(date +%s)
        build release
        say "built in $(($(date +%s) - started)) s"
        # Unit tests first, for they say more when something is wrong; within a run the longest begin (COST). Programs of the host have two
        # threads each, but are busy with loading and comparing in one of them most of the time. Left to the coverage build: cases of
        # SET_ROWS that host_ops has too.
        run_ctest "$(build_folder release)" -j "$jobs" -L unit
        if [ "$(ctest --test-dir "$(build_folder release)" -N -LE unit | sed -n 's/^Total Tests: //p')" != 0 ]; then
            run_ctest "$(build_folder release)" -j "$jobs" -LE unit -E '^host\.set_rows_ops'
        fi
        say "tested after $(($(date +%s) - started)) s"
        if [ "${1:-}" != --quick ]; then coverage; fi
        say "done after $(($(date +%s) - started)) s"
        finish
        ;;
    *)
        die "test: unknown argument '$1' (see ./dev help)"
        ;;
esac
