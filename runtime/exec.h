/*
 * Private to the engine: the plan (steps) and what runs it.
 *
 * A *head* is a source or a keyed node; from it a tree of *steps* leads through narrow nodes and
 * unions to ends: sinks and the inboxes of keyed nodes. A *unit* is one partition of one head: it
 * pushes its records down the whole tree, vector by vector, on one worker. Heads of one *level* run
 * together; a keyed node's level is above all that feed it, so a level begins when its inboxes are
 * complete.
 */
#ifndef LEVEE_RT_EXEC_H
#define LEVEE_RT_EXEC_H

#include <pthread.h>
#include <stdio.h>

#include "runtime/operator.h"

#define RT_VECTOR 256u

struct rt_step {
    const levee_stream *node;
    uint32_t offset;    /* unit partition + offset = partition of this node (unions shift) */
    uint32_t *children; /* indices of steps */
    uint32_t child_count;
    uint32_t index;
};
struct rt_head {
    const levee_stream *node;
    uint32_t level, partitions;
    uint32_t keyed;        /* index among keyed nodes */
    struct rt_step *steps; /* steps[0] is the head's output */
    uint32_t step_count, step_cap;
    struct rt_table *table; /* NULL: no state */
    uint32_t inbox_rows;    /* partitions of what feeds it */
    bool always;            /* runs without input */
};

struct rt_items { /* a growing array of items of one (from, to) pair */
    struct rt_item *items;
    size_t count, cap;
};
struct rt_inbox {           /* of one keyed node */
    struct rt_items *cells; /* row = partition of the input, column = own partition */
    uint32_t rows, columns;
};

struct rt_combine_entry {
    uint64_t hash;
    struct levee_slice key;
    uint64_t *acc;
};
struct rt_combine { /* one per keyed step with a map-side combine, of one worker; emptied after each
                       unit */
    struct map map;
    struct rt_combine_entry *entries;
    size_t count, cap;
};
struct rt_port { /* a step's place in a worker */
    struct levee_output out;
    uint64_t seen; /* records this step was given in this unit */
    struct rt_combine combine;
};
struct rt_unit {
    const struct rt_head *head;
    uint32_t partition;
};
struct rt_run { /* one batch's memory; recycled */
    struct rt_run *next;
    struct rt_compute *compute;
    struct arena *arenas; /* one per unit */
    struct rt_unit *units;
    size_t unit_count;
    struct rt_inbox *inboxes;
    struct rt_dataset *outputs;
    uint64_t **part_digests; /* per sink, per partition */
    uint64_t *digests, *output_records;
    struct rt_decision *decisions;
    size_t decision_count, decision_cap;
    pthread_mutex_t mutex; /* decisions and the first error */
    int code;
    struct levee_error err;
    uint64_t
        error_rank; /* the error of the lowest unit counts: the same for any number of workers */
    uint32_t level;
    size_t level_first, level_end; /* units of this level */
    _Atomic size_t next_unit;
    _Atomic size_t units_left;
    _Atomic bool stop;
    struct arena own; /* decisions' copies */
};
struct rt_worker {
    struct rt_engine *engine;
    struct io_lane *lane;
    struct io_task task;
    struct rt_run *run;
    struct rt_unit *unit;
    struct arena *arena;
    struct rt_port **ports; /* per head, per step */
    struct rt_groups groups;
    struct levee_state state;
    struct levee_slice *values;
    size_t values_cap;
    int code;
    struct levee_error err;
};
struct rt_engine {
    struct rt_graph *graph;
    struct rt_engine_options opt;
    struct rt_head *heads;
    size_t head_count;
    uint32_t levels, keyed_count;
    struct rt_unit *units; /* in level order */
    size_t unit_count;
    size_t *level_starts; /* levels + 1 */
    struct rt_worker *workers;
    struct rt_table *tables;
    size_t table_count;
    struct rt_run *free_runs, *current;
    struct io_task level_task;
    bool wants_empty;
};

int rt_plan(struct rt_engine *e, struct levee_error *err);
void rt_plan_release(struct rt_engine *e);
/* Pushes n records into a step of the worker's current unit. */
int rt_push(struct rt_worker *w, uint32_t step, const struct levee_record *in, size_t n);
/* Flushes what a step's port holds to its children. */
int rt_flush(struct rt_worker *w, uint32_t step);
int rt_unit_run(struct rt_worker *w);
/* keyed.c */
int rt_keyed_take(struct rt_worker *w, const struct rt_step *s, struct rt_port *port,
                  const struct levee_record *in, size_t n);
int rt_keyed_unit_end(struct rt_worker *w, const struct rt_step *s, struct rt_port *port);
int rt_keyed_run(struct rt_worker *w);
void rt_groups_release(struct rt_groups *g);
int rt_worker_nomem(struct rt_worker *w);

#endif
