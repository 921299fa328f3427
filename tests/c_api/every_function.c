/*
 * Every function of every public header, called from C11 as a program would. functions_test.py compares with the headers, so that none is forgotten.
 * The settings of the process are those of a calibration: ATLAS_MODE=sparse ATLAS_MEMORY=1.
 */
#include "every_function.h"

#include <atlas/atlas-runtime.h>
#include <atlas/atlas.h>
#include <atlas/calibration.h>
#include <atlas/llama-atlas.h>
#include <atlas/memory_ops.h>
#include <ggml-backend.h>
#include <ggml.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(right) expect((right), #right, __LINE__)
#define WORKS(call) EXPECT((call) == ATLAS_OK)
#define FAILS(expected, call, said) EXPECT((call) == (expected) && strstr(atlas_last_error(), said) != NULL)

static void expect(bool right, const char* what, int line) {
    if (right) return;
    fprintf(stderr, "every_function.c:%d: %s (last error: %s)\n", line, what, atlas_last_error());
    exit(1);
}

static void of_the_library(void) {
    EXPECT(atlas_library_path()[0] == '/');
    EXPECT(strcmp(atlas_status_name(ATLAS_OK), "ok") == 0);
    EXPECT(strcmp(atlas_status_name(ATLAS_CORRUPT), "corrupt") == 0);
    EXPECT(strcmp(atlas_status_name((enum atlas_status) - 99), "unknown status") == 0);
    EXPECT(atlas_last_error() != NULL);
}

static void of_a_context(const struct host* host) {
    struct llama_atlas_stats stats = {.size = sizeof stats};
    WORKS(llama_get_atlas_stats(host->ctx, &stats));
    EXPECT(stats.size == sizeof stats && stats.enabled && stats.memory_enabled);
    stats.size = 8;
    FAILS(ATLAS_INVALID_ARGUMENT, llama_get_atlas_stats(host->ctx, &stats), "stats->size 8");
    FAILS(ATLAS_INVALID_ARGUMENT, llama_get_atlas_stats(host->ctx, NULL), "stats is NULL");
    FAILS(ATLAS_INVALID_ARGUMENT, llama_get_atlas_stats(NULL, &stats), "ctx is NULL");

    WORKS(llama_set_atlas_enabled(host->ctx, false));
    WORKS(llama_set_atlas_enabled(host->ctx, true));
    FAILS(ATLAS_INVALID_ARGUMENT, llama_set_atlas_enabled(NULL, true), "ctx is NULL");
    WORKS(llama_set_atlas_blend_ratio(host->ctx, 0.5f));
    FAILS(ATLAS_INVALID_ARGUMENT, llama_set_atlas_blend_ratio(host->ctx, 1.5f), "1.5");
    WORKS(llama_set_atlas_feature_type(host->ctx, ATLAS_FEATURE_FOURIER));
    FAILS(ATLAS_INVALID_ARGUMENT, llama_set_atlas_feature_type(host->ctx, (enum atlas_feature_type)9), "type 9");
    WORKS(llama_reset_atlas_memory(host->ctx));
    FAILS(ATLAS_INVALID_ARGUMENT, llama_reset_atlas_memory(NULL), "ctx is NULL");
    stats.size = sizeof stats;
    WORKS(llama_get_atlas_stats(host->ctx, &stats));
    EXPECT(stats.blend_ratio == 0.5 && stats.feature_type == ATLAS_FEATURE_FOURIER);
    WORKS(llama_set_atlas_blend_ratio(host->ctx, 1.0f));
    WORKS(llama_set_atlas_feature_type(host->ctx, ATLAS_FEATURE_POLYNOMIAL));

    WORKS(llama_set_atlas_option(host->ctx, "ATLAS_BUDGET", "256"));
    WORKS(llama_set_atlas_option(host->ctx, "ATLAS_BUDGET", ""));
    FAILS(ATLAS_INVALID_ARGUMENT, llama_set_atlas_option(host->ctx, "ATLAS_BUDGET", "-1"),
          "ATLAS_BUDGET=-1: allowed is");
    FAILS(ATLAS_INVALID_ARGUMENT, llama_set_atlas_option(host->ctx, "ATLAS_NONE", "1"), "ATLAS_NONE is no option");
    FAILS(ATLAS_INVALID_ARGUMENT, llama_set_atlas_option(host->ctx, NULL, "1"), "name is NULL");
    FAILS(ATLAS_UNSUPPORTED, llama_set_atlas_option(host->ctx, "ATLAS_KV_RAM", "1G"),
          "only when the library is loaded");

    EXPECT(!llama_model_has_atlas(host->model));
    EXPECT(!llama_model_has_atlas(NULL));
    EXPECT(strcmp(atlas_last_error(), "llama_model_has_atlas: model is NULL") == 0);
}

static void of_a_calibration(struct host* host) {
    struct atlas_calibration_target target = {
        .size = sizeof target, .model = host->model_path, .context = 512, .threads = 2};
    FAILS(ATLAS_INVALID_ARGUMENT, atlas_calibration_check_target(NULL), "target is NULL");
    FAILS(ATLAS_INVALID_ARGUMENT, atlas_calibration_check_target(&target), "have to be named");
    target.output = host->model_path;
    FAILS(ATLAS_INVALID_ARGUMENT, atlas_calibration_check_target(&target), "is the model itself");
    target.output = "/no/such/folder/file.gguf";
    FAILS(ATLAS_IO, atlas_calibration_check_target(&target), "No such file or directory");
    target.output = host->output;
    WORKS(atlas_calibration_check_target(&target));

    struct atlas_calibration* calibration = NULL;
    struct atlas_calibration* second = NULL;
    FAILS(ATLAS_INVALID_ARGUMENT, atlas_calibration_begin(NULL), "calibration is NULL");
    WORKS(atlas_calibration_begin(&calibration));
    FAILS(ATLAS_UNSUPPORTED, atlas_calibration_begin(&second), "another calibration");
    EXPECT(calibration != NULL && second == NULL);
    FAILS(ATLAS_INVALID_ARGUMENT, atlas_calibration_begin_document(NULL, true), "calibration is NULL");
    bool observed = false;
    for (int i = 0; i < 3; ++i) {
        WORKS(atlas_calibration_begin_document(calibration, i == 2));
        observed = host->document(host);
    }
    struct atlas_calibration_report report = {.size = sizeof report};
    FAILS(ATLAS_INVALID_ARGUMENT, atlas_calibration_finish(NULL, &target, &report), "calibration is NULL");
    if (observed) {
        WORKS(atlas_calibration_finish(calibration, &target, &report));
        EXPECT(report.size == sizeof report && report.heads > 0 && report.observations > 0);
        EXPECT(report.error_best <= report.error_estimate && report.error_best > 0.0);
        FAILS(ATLAS_INVALID_ARGUMENT, atlas_calibration_finish(calibration, &target, NULL), "exists already");
        target.replace = true;
        WORKS(atlas_calibration_finish(calibration, &target, NULL));
    } else {
        FAILS(ATLAS_INVALID_ARGUMENT, atlas_calibration_finish(calibration, &target, &report), "no probes");
        EXPECT(report.heads == 0);
    }
    FAILS(ATLAS_UNSUPPORTED, atlas_calibration_begin_document(calibration, false), "is finished");
    WORKS(atlas_calibration_begin(&second));
    atlas_calibration_free(second);
    atlas_calibration_free(calibration);
    atlas_calibration_free(NULL);
}

#define RUNS(call) EXPECT((call) == ATLAS_RUNTIME_SUCCESS)
#define REFUSES(expected, call, said) \
    EXPECT((call) == ATLAS_RUNTIME_ERROR_##expected && strstr(atlas_runtime_get_last_error(NULL), said) != NULL)

/* One wrong value each. */
static void of_runtime_params(const struct llama_model* model) {
    atlas_runtime_params params = atlas_runtime_default_params();
    EXPECT(params.size == sizeof params && params.enable_atlas && params.auto_detect_arch &&
           params.enable_lazy_loading);
    EXPECT(params.memory_pool_size == 256u << 20 && params.optimization_level == 1.0f &&
           params.sparsity_threshold == 0.1f);
    RUNS(atlas_runtime_validate_params(&params));
    REFUSES(INVALID_PARAMS, atlas_runtime_validate_params(NULL), "params is NULL");
    const atlas_runtime_params right = params;
    params.size = 0;
    REFUSES(INVALID_PARAMS, atlas_runtime_validate_params(&params), "params->size 0: begin with");
    params = right, params.optimization_level = 2.5f;
    REFUSES(INVALID_PARAMS, atlas_runtime_validate_params(&params), "optimization_level 2.5: allowed is 0 to 2");
    params = right, params.sparsity_threshold = NAN;
    REFUSES(INVALID_PARAMS, atlas_runtime_validate_params(&params), "sparsity_threshold nan: allowed is 0 to 1");
    params = right, params.max_modules = 0;
    REFUSES(INVALID_PARAMS, atlas_runtime_validate_params(&params), "max_modules 0");
    params = right, params.memory_pool_size = 1000;
    REFUSES(INVALID_PARAMS, atlas_runtime_validate_params(&params), "memory_pool_size 1000");
    params = right, params.auto_detect_arch = false;
    REFUSES(INVALID_PARAMS, atlas_runtime_validate_params(&params), "arch_override is NULL");
    params.arch_override = "qwen3moe";
    RUNS(atlas_runtime_validate_params(&params));
    params.arch_override = "no-such";
    REFUSES(ARCH_UNSUPPORTED, atlas_runtime_validate_params(&params), "arch_override \"no-such\": known are llama, ");
    atlas_runtime_ctx* runtime = NULL;
    REFUSES(ARCH_UNSUPPORTED, atlas_runtime_init(&runtime, model, &params), "atlas_runtime_init: arch_override");
    REFUSES(INVALID_PARAMS, atlas_runtime_init(NULL, model, NULL), "ctx is NULL");
    REFUSES(INVALID_PARAMS, atlas_runtime_init(&runtime, NULL, NULL), "model is NULL");
    EXPECT(runtime == NULL);
}

static void of_architectures(const struct llama_model* model) {
    EXPECT(atlas_runtime_detect_architecture(model) == ATLAS_ARCH_LLAMA);
    EXPECT(atlas_runtime_detect_architecture(NULL) == ATLAS_ARCH_UNKNOWN);
    EXPECT(strcmp(atlas_runtime_get_last_error(NULL), "atlas_runtime_detect_architecture: model is NULL") == 0);
    EXPECT(strcmp(atlas_runtime_arch_name(ATLAS_ARCH_MIXTRAL), "mixtral") == 0);
    EXPECT(strcmp(atlas_runtime_arch_name((atlas_arch_type)99), "unknown") == 0);
    EXPECT(atlas_runtime_arch_from_name("Qwen3MoE") == ATLAS_ARCH_QWEN &&
           atlas_runtime_arch_from_name(NULL) == ATLAS_ARCH_UNKNOWN);
    atlas_arch_config config;
    RUNS(atlas_runtime_get_arch_config(ATLAS_ARCH_MPT, &config));
    EXPECT(config.arch == ATLAS_ARCH_MPT && config.alibi && config.budget == 2048);
    REFUSES(INVALID_PARAMS, atlas_runtime_get_arch_config(ATLAS_ARCH_AUTO, &config), "arch 0: allowed is 1 to");
    REFUSES(INVALID_PARAMS, atlas_runtime_get_arch_config(ATLAS_ARCH_MPT, NULL), "config is NULL");
}

static void of_runtime_modules(atlas_runtime_ctx* runtime) {
    size_t count = 0;
    RUNS(atlas_runtime_get_active_modules(runtime, NULL, &count));
    EXPECT(count == 3);
    atlas_module_info infos[16];
    count = 16;
    RUNS(atlas_runtime_get_modules(runtime, infos, &count));
    EXPECT(count == 9 && strcmp(infos[0].name, "exact-attention") == 0 && infos[0].is_active &&
           infos[0].arch == ATLAS_ARCH_LLAMA);
    EXPECT(strcmp(infos[3].name, "tiered-kv") == 0 && !infos[3].is_available &&
           strstr(infos[3].reason, "ATLAS_KV_DISK") != NULL);
    count = 1;
    REFUSES(INVALID_PARAMS, atlas_runtime_get_modules(runtime, NULL, &count), "modules is NULL");
    REFUSES(INVALID_PARAMS, atlas_runtime_get_active_modules(runtime, infos, NULL), "count is NULL");
    RUNS(atlas_runtime_load_module(runtime, "exact-attention"));
    RUNS(atlas_runtime_unload_module(runtime, "atlas-memory"));
    RUNS(atlas_runtime_unload_module(runtime, "sparse-attention"));
    REFUSES(INVALID_PARAMS, atlas_runtime_load_module(runtime, "atlas-memory"), "needs sparse-attention");
    REFUSES(MODULE_NOT_FOUND, atlas_runtime_load_module(runtime, "tiered-kv"), "ATLAS_KV_DISK");
    REFUSES(MODULE_NOT_FOUND, atlas_runtime_load_module(runtime, "cuda"), "this release computes on the CPU alone");
    REFUSES(MODULE_NOT_FOUND, atlas_runtime_unload_module(runtime, "no-such"),
            "no module \"no-such\": there are exact-attention");
    REFUSES(INVALID_PARAMS, atlas_runtime_load_module(runtime, NULL), "module_name is NULL");
    RUNS(atlas_runtime_load_module(runtime, "sparse-attention"));
    RUNS(atlas_runtime_load_module(runtime, "atlas-memory"));
    REFUSES(INVALID_PARAMS, atlas_runtime_unload_module(NULL, "weights"), "ctx is NULL");
}

static void of_a_runtime(const struct host* host) {
    of_runtime_params(host->model);
    of_architectures(host->model);
    EXPECT(strcmp(atlas_runtime_error_string(ATLAS_RUNTIME_ERROR_POOL_EXHAUSTED), "the pool is exhausted") == 0);
    EXPECT(strcmp(atlas_runtime_error_string((atlas_runtime_result)-99), "unknown result") == 0);
    atlas_runtime_ctx* runtime = NULL;
    RUNS(atlas_runtime_init(&runtime, host->model, NULL));
    atlas_arch_config config;
    RUNS(atlas_runtime_get_model_config(runtime, &config));
    EXPECT(config.arch == ATLAS_ARCH_LLAMA && strcmp(config.name, "llama") == 0);
    REFUSES(INVALID_PARAMS, atlas_runtime_get_model_config(runtime, NULL), "config is NULL");
    of_runtime_modules(runtime);

    RUNS(atlas_runtime_enable_for_context(runtime, host->ctx));
    REFUSES(INVALID_PARAMS, atlas_runtime_enable_for_context(runtime, NULL), "llama_ctx is NULL");
    REFUSES(INVALID_PARAMS, atlas_runtime_enable_for_context(NULL, host->ctx), "ctx is NULL");
    atlas_runtime_stats stats;
    RUNS(atlas_runtime_get_stats(runtime, &stats));
    EXPECT(stats.contexts == 1 && stats.modules_loaded == 4 && stats.average_speedup == 1.0f);
    REFUSES(INVALID_PARAMS, atlas_runtime_get_stats(runtime, NULL), "stats is NULL");
    RUNS(atlas_runtime_reset_stats(runtime));
    REFUSES(INVALID_PARAMS, atlas_runtime_reset_stats(NULL), "ctx is NULL");
    EXPECT(atlas_runtime_get_pool_capacity(runtime) == 256u << 20 && atlas_runtime_get_pool_capacity(NULL) == 0);
    EXPECT(atlas_runtime_get_pool_usage(runtime) == stats.pool_used && atlas_runtime_get_pool_usage(NULL) == 0);
    RUNS(atlas_runtime_resize_pool(runtime, 300 << 20));
    EXPECT(atlas_runtime_get_pool_capacity(runtime) == 300u << 20);
    REFUSES(INVALID_PARAMS, atlas_runtime_resize_pool(runtime, 1), "new_size 1: allowed is 0");
    RUNS(atlas_runtime_disable_for_context(runtime, host->ctx));
    REFUSES(INVALID_PARAMS, atlas_runtime_disable_for_context(runtime, host->ctx), "was not enabled for this runtime");
    atlas_runtime_cleanup(runtime);
    atlas_runtime_cleanup(NULL);
    /* The settings of the process count again. */
    WORKS(llama_set_atlas_enabled(host->ctx, true));
}

enum { KEY = 8, VALUE = 6, ROWS = 4 };

static void of_a_memory(void) {
    struct atlas_memory_params params = {.size = sizeof params};
    WORKS(atlas_memory_default_params(&params));
    EXPECT(params.size == sizeof params && params.degree == 2 && params.d_key == 0);
    FAILS(ATLAS_INVALID_ARGUMENT, atlas_memory_default_params(NULL), "params is NULL");
    struct atlas_memory* memory = NULL;
    EXPECT(atlas_memory_create(&params, &memory) == ATLAS_INVALID_ARGUMENT && memory == NULL);
    params.d_key = KEY;
    params.d_value = VALUE;
    params.chunk = ROWS;
    params.hidden = 16;
    FAILS(ATLAS_INVALID_ARGUMENT, atlas_memory_create(&params, NULL), "memory is NULL");
    WORKS(atlas_memory_create(&params, &memory));
    int32_t features = 0;
    WORKS(atlas_memory_feature_count(memory, &features));
    EXPECT(features == 1 + KEY + KEY * (KEY + 1) / 2);
    FAILS(ATLAS_INVALID_ARGUMENT, atlas_memory_feature_count(memory, NULL), "count is NULL");

    struct ggml_init_params room = {.mem_size = 32 * ggml_tensor_overhead() + ggml_graph_overhead(), .no_alloc = true};
    struct ggml_context* ctx = ggml_init(room);
    struct ggml_tensor* keys = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, KEY, ROWS);
    struct ggml_tensor* values = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, VALUE, ROWS);
    struct ggml_tensor *mapped = NULL, *loss = NULL, *update = NULL, *read = NULL, *step = NULL;
    WORKS(atlas_feature_map(ctx, memory, keys, &mapped));
    WORKS(atlas_omega_loss(ctx, memory, keys, values, &loss));
    WORKS(atlas_memory_update(ctx, memory, keys, values, &update));
    WORKS(atlas_memory_forward(ctx, memory, keys, &read));
    WORKS(atlas_muon_step(ctx, values, ATLAS_MUON_STANDARD, &step));
    EXPECT(mapped->ne[0] == features && loss->ne[0] == 1 && update->ne[0] == 1 && read->ne[0] == VALUE &&
           step->ne[1] == ROWS);
    struct ggml_tensor* none = NULL;
    FAILS(ATLAS_INVALID_ARGUMENT, atlas_memory_forward(ctx, memory, values, &none), "rows of 8");
    FAILS(ATLAS_INVALID_ARGUMENT, atlas_feature_map(NULL, memory, keys, &none), "ctx is NULL");
    EXPECT(none == NULL);

    ggml_backend_t cpu = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, NULL);
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(ctx, cpu);
    EXPECT(cpu != NULL && buffer != NULL);
    float numbers[KEY * ROWS];
    for (int i = 0; i < KEY * ROWS; ++i) numbers[i] = (float)((i * 7) % 5) - 2.0f;
    ggml_backend_tensor_set(keys, numbers, 0, sizeof numbers);
    ggml_backend_tensor_set(values, numbers, 0, sizeof(float) * VALUE * ROWS);
    struct ggml_cgraph* graph = ggml_new_graph_custom(ctx, 16, false);
    struct ggml_tensor* nodes[] = {mapped, loss, step, update};
    for (int i = 0; i < 4; ++i) ggml_build_forward_expand(graph, nodes[i]);
    EXPECT(ggml_backend_graph_compute(cpu, graph) == GGML_STATUS_SUCCESS);

    struct atlas_memory_stats stats = {.size = sizeof stats};
    WORKS(atlas_memory_get_stats(memory, &stats));
    EXPECT(stats.pairs == ROWS && stats.bytes > 0);
    FAILS(ATLAS_INVALID_ARGUMENT, atlas_memory_get_stats(memory, NULL), "stats is NULL");
    size_t bytes = 0, written = 0;
    WORKS(atlas_memory_state_size(memory, &bytes));
    void* state = malloc(bytes);
    EXPECT(state != NULL);
    FAILS(ATLAS_INVALID_ARGUMENT, atlas_memory_save(memory, state, 1, &written), "size 1");
    WORKS(atlas_memory_save(memory, state, bytes, &written));
    EXPECT(written == bytes);
    WORKS(atlas_memory_reset(memory));
    EXPECT(atlas_memory_restore(memory, state, bytes - 1) < 0);
    WORKS(atlas_memory_restore(memory, state, bytes));
    FAILS(ATLAS_INVALID_ARGUMENT, atlas_memory_reset(NULL), "memory is NULL");
    free(state);
    ggml_backend_buffer_free(buffer);
    ggml_backend_free(cpu);
    ggml_free(ctx);
    atlas_memory_free(memory);
    atlas_memory_free(NULL);
}

void use_every_function(struct host* host) {
    of_the_library();
    of_a_context(host);
    of_a_memory();
    of_a_runtime(host);
    of_a_calibration(host);
}
