# Scenarios of programs_test.py; each is short enough for the coverage build.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
find_program(ATLAS_TEST_BACKEND_OPS test-backend-ops PATHS /usr/libexec/${CMAKE_LIBRARY_ARCHITECTURE}/ggml /usr/libexec/ggml)
set(backend_ops)
if(ATLAS_TEST_BACKEND_OPS)
    set(backend_ops --backend-ops ${ATLAS_TEST_BACKEND_OPS})
endif()
foreach(scenario
        greedy greedy_fa_off greedy_q8_0 divergence_q4_0 greedy_f32 greedy_bf16 greedy_context_shift greedy_context_shift_q8_0
        greedy_no_kv_offload greedy_one_layer_outside greedy_no_layer greedy_split_row greedy_group_attention accel accel_q8_0 kernel_avx2 kernel_reference threads attention_ops
        weights_host weights_no_mmap weights_one_layer_outside weights_host_context_shift_q8_0 mat_mul_ops mat_mul_id_ops
        rms_norm_ops gated_ops rope_ops
        attention_ops_paged attention_ops_accel set_rows_ops set_rows_ops_paged set_rows_ops_accel bench experts weight_formats prompt_cache refusals logging parallel)
    add_test(NAME host.${scenario}
        COMMAND Python3::Interpreter ${CMAKE_CURRENT_LIST_DIR}/programs_test.py --plugin $<TARGET_FILE:ggml-atlas>
            --model ${PROJECT_SOURCE_DIR}/models/atlas-tiny.gguf ${backend_ops} ${scenario})
    set_tests_properties(host.${scenario} PROPERTIES LABELS host SKIP_RETURN_CODE 77 TIMEOUT 900)
endforeach()

# Sparse attention with a small threshold, mostly through llama-server.
find_program(ATLAS_TEST_SERVER llama-server)
if(ATLAS_TEST_SERVER)
    foreach(scenario covering q8_0 threads slots slot_save context_shift context_shift_q8_0 backend_ops)
        add_test(NAME host_sparse.${scenario}
            COMMAND Python3::Interpreter ${CMAKE_CURRENT_LIST_DIR}/sparse_test.py --plugin $<TARGET_FILE:ggml-atlas>
                --model ${PROJECT_SOURCE_DIR}/models/atlas-tiny.gguf ${backend_ops} ${scenario})
        set_tests_properties(host_sparse.${scenario} PROPERTIES LABELS host SKIP_RETURN_CODE 77 TIMEOUT 900)
    endforeach()
    # What Prometheus is told.
    foreach(scenario clients streamed bad_addresses dashboard)
        add_test(NAME host_metrics.${scenario}
            COMMAND Python3::Interpreter ${CMAKE_CURRENT_LIST_DIR}/metrics_test.py --plugin $<TARGET_FILE:ggml-atlas>
                --model ${PROJECT_SOURCE_DIR}/models/atlas-tiny.gguf ${scenario})
        set_tests_properties(host_metrics.${scenario} PROPERTIES LABELS host TIMEOUT 300)
    endforeach()
    # A KV cache of which memory holds a part.
    foreach(scenario greedy single_keys quantised lru memory slots context_shift slot_save layer_in_pieces full_disk rare_faults with_weights bad_settings capacity)
        add_test(NAME host_tier.${scenario}
            COMMAND Python3::Interpreter ${CMAKE_CURRENT_LIST_DIR}/tier_test.py --plugin $<TARGET_FILE:ggml-atlas>
                --model ${PROJECT_SOURCE_DIR}/models/atlas-tiny.gguf ${scenario})
        set_tests_properties(host_tier.${scenario} PROPERTIES LABELS host SKIP_RETURN_CODE 77 TIMEOUT 900)
    endforeach()
    # Weights of which memory holds a part.
    foreach(scenario greedy experts expert_faults slots long_batch parts fits memory unmapped faults rare_faults changed_files bad_settings)
        add_test(NAME host_streaming.${scenario}
            COMMAND Python3::Interpreter ${CMAKE_CURRENT_LIST_DIR}/streaming_test.py --plugin $<TARGET_FILE:ggml-atlas>
                --model ${PROJECT_SOURCE_DIR}/models/atlas-tiny.gguf ${scenario})
        set_tests_properties(host_streaming.${scenario} PROPERTIES LABELS host SKIP_RETURN_CODE 77 TIMEOUT 900)
    endforeach()
    # One budget for both.
    foreach(scenario fits grows little disk slots draft full bad_settings fit)
        add_test(NAME host_ram.${scenario}
            COMMAND Python3::Interpreter ${CMAKE_CURRENT_LIST_DIR}/ram_test.py --plugin $<TARGET_FILE:ggml-atlas>
                --model ${PROJECT_SOURCE_DIR}/models/atlas-tiny.gguf ${scenario})
        set_tests_properties(host_ram.${scenario} PROPERTIES LABELS host SKIP_RETURN_CODE 77 TIMEOUT 900)
    endforeach()
    add_test(NAME host_streaming.hanging
        COMMAND Python3::Interpreter ${CMAKE_CURRENT_LIST_DIR}/streaming_test.py --plugin $<TARGET_FILE:ggml-atlas>
            --model ${PROJECT_SOURCE_DIR}/models/atlas-tiny.gguf hanging)
    set_tests_properties(host_streaming.hanging PROPERTIES LABELS "host;long" SKIP_RETURN_CODE 77 TIMEOUT 900)
    # Sessions beyond one text: clients, slots, a draft model, embeddings, broken files.
    foreach(scenario clients slot_save over_budget shifts draft embeddings rerank broken_models full_disk)
        add_test(NAME host_session.${scenario}
            COMMAND Python3::Interpreter ${CMAKE_CURRENT_LIST_DIR}/session_test.py --plugin $<TARGET_FILE:ggml-atlas>
                --model ${PROJECT_SOURCE_DIR}/models/atlas-tiny.gguf ${scenario})
        set_tests_properties(host_session.${scenario} PROPERTIES LABELS "host;long" SKIP_RETURN_CODE 77 TIMEOUT 900)
    endforeach()
else()
    message(STATUS "llama-server not found: sparse attention and sessions through it are not part of ctest")
endif()
