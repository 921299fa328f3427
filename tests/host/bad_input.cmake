# Bad settings, budgets too small and failing allocations through llama.cpp's own programs (bad_input_test.py). The preloaded library that
# makes allocations fail does not go together with the sanitizers, which replace malloc themselves.
set(scenarios malformed contradictory budget budget_server)
set(fail_alloc)
if(NOT ATLAS_SANITIZE)
    add_library(fail_alloc SHARED fail_alloc.cpp)
    target_compile_options(fail_alloc PRIVATE -Wall -Wextra -fvisibility=default)
    set(fail_alloc --fail-alloc $<TARGET_FILE:fail_alloc>)
    list(APPEND scenarios allocation allocation_sparse allocation_server)
endif()
foreach(scenario ${scenarios})
    add_test(NAME host_bad_input.${scenario}
        COMMAND Python3::Interpreter ${CMAKE_CURRENT_LIST_DIR}/bad_input_test.py --plugin $<TARGET_FILE:ggml-atlas>
            --model ${PROJECT_SOURCE_DIR}/models/atlas-tiny.gguf ${fail_alloc} ${scenario})
    set_tests_properties(host_bad_input.${scenario} PROPERTIES LABELS host SKIP_RETURN_CODE 77 TIMEOUT 900)
endforeach()
