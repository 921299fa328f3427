/*
 * Calibration of memories, as `atlas convert` does it, for a program that runs the model itself through llama.cpp. docs/side-car.md describes what
 * comes of it.
 *
 * 1. The plug-in does not export these functions: get each by its name, which is that of its type without "_t", from
 *    ggml_backend_reg_get_proc_address(registry, name), where ggml_backend_reg_name(registry) is "ATLAS".
 * 2. The process needs ATLAS_MODE=sparse, ATLAS_MEMORY=1 and no ATLAS_SIDE_CAR before the plug-in is loaded.
 * 3. All calls come from one thread, while no context computes. One calibration at a time, of one model.
 * 4. Errors are texts, in UTF-8, that stay valid until the next call of these functions. NULL means that all went well.
 */
#ifndef ATLAS_CALIBRATION_H
#define ATLAS_CALIBRATION_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Squared errors of attention's output over held-out probes, all heads together, had the far part been treated in one way for all heads. */
struct atlas_calibration_report {
    double error_dropped;     /* what is not read is left out */
    double error_estimate;    /* estimated */
    double error_biased;      /* with a mass bias in the heads that gain by it */
    double error_learning;    /* and with memories that start empty in each document */
    double error_calibrated;  /* and with memories that start from what was fitted */
    double error_chosen;      /* the best of these for each head: what the file does */
    int64_t heads;            /* (layer, KV head) pairs that were observed */
    int64_t heads_dropped;    /* of which the far part is left out, */
    int64_t heads_estimate;   /* is estimated without memory, */
    int64_t heads_empty;      /* has a memory that starts empty, */
    int64_t heads_calibrated; /* or one that starts from the file */
    int64_t heads_biased;     /* heads with a mass bias */
    int64_t observations;     /* learned from */
};

/* Where the memories go and what they belong to. Texts are copied. */
struct atlas_calibration_target {
    const char* output;     /* the file to write; an existing one is replaced once the new one is complete */
    const char* model;      /* GGUF file of the model that ran */
    const char* model_name; /* for people; may be NULL */
    int64_t context;        /* tokens per document; for people */
    int threads;            /* of the fit; 0: as many as there are cores */
};

/* Starts gathering. Fails when the plug-in's settings cannot be calibrated. */
typedef const char* (*atlas_calibration_begin_t)(void);

/* The tokens decoded from now on are another document (empty the context's memory first): to learn from, or, if held_out is not 0, to decide by. */
typedef const char* (*atlas_calibration_document_t)(int held_out);

/* Fits, writes the file, reads it back, and stops gathering, whether that went well or not. report may be NULL. */
typedef const char* (*atlas_calibration_finish_t)(const struct atlas_calibration_target* target,
                                                  struct atlas_calibration_report* report);

#ifdef __cplusplus
}
#endif

#endif
