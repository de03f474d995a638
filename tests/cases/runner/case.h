/*
 * case_runner: checks the DStream model from files (tests/cases/README.md has the format).
 *
 *   main.c       files, variants, what is printed
 *   json.c       JSON values ↔ records; comparing
 *   functions.c  the functions that a case names
 *   batches.c    those that see whole batches or partitions
 *   graph.c      a case's graph, through levee's public API
 *   run.c        one run on a simulated machine, its sink and its kills
 *
 * A record's key and value are compact JSON text, so that equal JSON values are equal keys. A pair,
 * an array of two, is a record with key and value; anything else is a value without key.
 */
#ifndef LEVEE_CASE_RUNNER_H
#define LEVEE_CASE_RUNNER_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "levee/levee.h"
#include "levee/testing.h"

#define CASE_INPUTS 3
#define CASE_WHY    2048

struct the_case {
    const cJSON *json, *parameters;
    const char *id, *operation;
    const cJSON *input[CASE_INPUTS];
    int num_batches, slide; /* slide: of the output, in batches */
    int64_t batch_ms;
};

/* How a run is disturbed. */
struct variant {
    const char *name;
    uint32_t workers;
    bool kill_each;        /* process death after every batch */
    int kill_after;        /* process death after this batch; 0: not */
    int stop_after;        /* an orderly stop after it, 0: not */
    uint64_t random_kills; /* seed of process deaths at random steps; 0: none */
};

/* ---- json.c ---- */
const cJSON *field(const cJSON *object, const char *name);
int int_field(const cJSON *object, const char *name, int otherwise);
const char *text_field(const cJSON *object, const char *name);
bool is_pair(const cJSON *v);
/* Text that lives until the record's batch is done; NULL: no memory. */
struct levee_slice json_slice(levee_output *out, const cJSON *v);
int emit_json(levee_output *out, const cJSON *v);
int emit_pair(levee_output *out, struct levee_slice key, const cJSON *value);
cJSON *json_of(struct levee_slice s);            /* null for an absent one */
cJSON *element_of(const struct levee_record *r); /* a pair or a value */
/* Equal; ordered or as multisets; values_any: in [key, [values]] the values' order does not count.
 */
bool same_records(const cJSON *a, const cJSON *b, bool ordered, bool values_any);

/* ---- functions.c ---- */
struct named { /* a function with its argument, as a user's `arg` */
    const char *f;
    const cJSON *arg;
    const struct the_case *c;
    int64_t base_ms; /* time of batch 0 */
};
int fn_map(levee_output *out, const struct levee_record *in, void *arg);
int fn_flat_map(levee_output *out, const struct levee_record *in, void *arg);
int fn_filter(levee_output *out, const struct levee_record *in, void *arg);
int fn_map_values(levee_output *out, const struct levee_record *in, void *arg);
int fn_flat_map_values(levee_output *out, const struct levee_record *in, void *arg);
int fn_map_partitions(levee_output *out, const struct levee_record *in, size_t n, void *arg);
int fn_update(levee_output *out, levee_state *state, struct levee_slice key,
              const struct levee_slice *values, size_t n, void *arg);
int fn_map_state(levee_output *out, levee_state *state, struct levee_slice key,
                 const struct levee_slice *value, void *arg);
int fn_transform(levee_output *out, const levee_batch *const *in, size_t n, const levee_batch **ret,
                 void *arg);
int fn_update_partition(levee_output *out, levee_updates *updates, void *arg);
/* What levee's own value forms are in JSON: an i64, a group, two sides, a glom. */
int fn_i64_to_json(levee_output *out, const struct levee_record *in, void *arg);
int fn_key_i64_to_json(levee_output *out, const struct levee_record *in, void *arg);
int fn_group_to_json(levee_output *out, const struct levee_record *in, void *arg);
int fn_cogroup_to_json(levee_output *out, const struct levee_record *in, void *arg);
int fn_join_to_json(levee_output *out, const struct levee_record *in, void *arg);
int fn_glom_to_json(levee_output *out, const struct levee_record *in, void *arg);
int fn_whole_value(levee_output *out, const struct levee_record *in, void *arg);
extern const struct levee_reducer sum_json; /* remove: difference */

/* ---- graph.c ---- */
struct built {
    levee_stream *source[CASE_INPUTS];
    levee_stream *stateful; /* whose state expected_state is; NULL: none */
    levee_stream *output;
};
/* false: the operation is not one we know. */
bool build_case(levee_context *ctx, const struct the_case *c, int64_t base_ms, struct built *ret);

/* ---- run.c ---- */
/* false: why says what differs. */
bool run_case(const struct the_case *c, const struct variant *v, char why[CASE_WHY]);

#endif
