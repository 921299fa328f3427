/* What every_function.c needs of the program that calls it. */
#ifndef EVERY_FUNCTION_H
#define EVERY_FUNCTION_H

#include <stdbool.h>

struct llama_context;
struct llama_model;

struct host {
    struct llama_context* ctx; /* runs on Atlas */
    const struct llama_model* model;
    const char* model_path; /* GGUF */
    const char* output;     /* a file that is not there, in a folder that can be written */
    /* Empties the context and decodes a document, or does nothing; whether it decoded. */
    bool (*document)(struct host* host);
};

/* Ends the process with a line that says where, unless everything is as the headers say. */
void use_every_function(struct host* host);

#endif
