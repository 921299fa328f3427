/*
 * Calibration of memories and of thresholds for activation sparsity, as `atlas convert` does it, for a program that runs the model itself through llama.cpp. docs/side-car.md describes what
 * comes of it. C11; the conventions of atlas/atlas.h hold.
 *
 * 1. The process needs ATLAS_MODE=sparse, ATLAS_MEMORY=1 and no ATLAS_SIDE_CAR before the backend is loaded.
 * 2. Threads: all calls from one thread, while no context computes. One calibration at a time in a process, of one model.
 * 3. begin, then for each document: empty the context's memory, begin_document, decode; then finish, then free.
 */
#ifndef ATLAS_CALIBRATION_H
#define ATLAS_CALIBRATION_H

#include <atlas/atlas.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct atlas_calibration; /* opaque */

/* Squared errors of attention's output over held-out probes, all heads together, had the far part been treated in one way for all heads. */
struct atlas_calibration_report {
    size_t size;
    double error_dropped;     /* what is not read is left out */
    double error_estimate;    /* estimated */
    double error_biased;      /* with a mass bias in the heads that gain by it */
    double error_learning;    /* and with memories that start empty in each document */
    double error_calibrated;  /* and with memories that start from what was fitted */
    double error_best;      /* the best of these for each head: what the file does */
    int64_t heads;            /* (layer, KV head) pairs that were observed */
    int64_t heads_dropped;    /* of which the far part is left out, */
    int64_t heads_estimate;   /* is estimated without memory, */
    int64_t heads_empty;      /* has a memory that starts empty, */
    int64_t heads_calibrated; /* or one that starts from the file */
    int64_t heads_biased;     /* heads with a mass bias */
    int64_t observations;     /* learned from */
    int64_t thresholds;       /* matrices of weights in f16, bf16 or f32, of whose inputs the file has thresholds (ATLAS_SPARSITY) */
};

/* Where the memories go and what they belong to. */
struct atlas_calibration_target {
    size_t size;
    const char* output;     /* the file to write */
    const char* model;      /* GGUF file of the model that ran */
    const char* model_name; /* for people; NULL: the model file's name */
    int64_t context;        /* tokens per document; for people */
    int32_t threads;        /* of the fit; 0 or less: as many as there are cores */
    bool replace;           /* whether a side-car that is there may be replaced */
};

/*
 * Whether finish could write there, to be asked before hours of work; needs no calibration. Refused are the model itself (under any name or link), what is no
 * regular file, any file that is not a side-car, and a side-car unless `replace` is set: ATLAS_INVALID_ARGUMENT. A folder that cannot be written
 * is ATLAS_IO.
 */
ATLAS_API enum atlas_status atlas_calibration_check_target(const struct atlas_calibration_target* target);

/*
 * Starts gathering. *calibration is the caller's, to be freed. ATLAS_INVALID_ARGUMENT when the process's settings cannot be calibrated,
 * ATLAS_UNSUPPORTED while another one is under way.
 */
ATLAS_API enum atlas_status atlas_calibration_begin(struct atlas_calibration** calibration);

/* The tokens decoded from now on are another document: to learn from, or, if held_out, to decide by. */
ATLAS_API enum atlas_status atlas_calibration_begin_document(struct atlas_calibration* calibration, bool held_out);

/*
 * Stops gathering, fits, and writes the file: all of it or nothing, read back and on the disk before it gets its name. The target is checked as by
 * check_target. report may be NULL. After a failure finish may be called again with another target as long as documents were seen; there is nothing
 * more to gather. Where documents are too short for a far part, the file has thresholds alone. ATLAS_INVALID_ARGUMENT also when nothing was observed.
 */
ATLAS_API enum atlas_status atlas_calibration_finish(struct atlas_calibration* calibration,
                                                     const struct atlas_calibration_target* target,
                                                     struct atlas_calibration_report* report);

/* Stops gathering if that goes on, and forgets what was gathered. NULL is accepted. */
ATLAS_API void atlas_calibration_free(struct atlas_calibration* calibration);

#ifdef __cplusplus
}
#endif

#endif
