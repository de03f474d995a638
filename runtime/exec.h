/*
 * Private to the engine: the plan, a batch's memory, the workers.
 *
 * A *head* is a source or a node with an inbox: a keyed one, or an exchange that places records.
 * From it a tree of *steps* leads through narrow nodes and unions to ends: sinks, and inboxes. A
 * *unit* is one partition of one head: on one worker it pushes its records down the whole tree, a
 * vector at a time. Heads of one *level* run together; the level of a node with an inbox is above
 * all that feed it, so when a level begins, its inboxes are complete.
 *
 *     lines ─▶ flat_map ─▶ map_to_i64 ─▶ │ reduce_by_key ─▶ │ update_state_by_key ─▶ sink
 *     level 0: one unit per partition    │ level 1          │ level 2
 *
 * Whatever a unit writes is its own: its arena, its decisions, its cells of an inbox (row = its
 * partition), its partitions of the outputs, its error. So nothing locks, and nothing depends on
 * which worker runs a unit, or when.
 */
#ifndef LEVEE_RT_EXEC_H
#define LEVEE_RT_EXEC_H

#include "runtime/operator.h"
#include "runtime/sums.h"

/* ---- the plan (runtime/plan.c): made once, then only read ---- */

/* Reducers so common that their adds are written into the loop. */
enum rt_fast { RT_FAST_NONE = 0, RT_FAST_SUM, RT_FAST_COUNT };

/* What a step does with a vector that is pushed to it. */
enum rt_does {
    RT_PASSES,   /* hands it on: a head's own output, a union */
    RT_REWRITES, /* the three kinds of narrow operators */
    RT_CALLS,
    RT_HOLDS,
    RT_OUTPUTS, /* ends: a sink, and the ways into an inbox */
    RT_COMBINES,
    RT_DEALS,
    RT_PLACES,
    RT_GATHERS,
    RT_IGNORES
};
struct rt_step {
    const levee_stream *node;
    enum rt_does does;
    uint32_t offset;    /* unit's partition + offset = partition of this node (row of an inbox) */
    uint32_t *children; /* indices of steps, above this one's */
    uint32_t child_count;
    bool side;       /* it takes what its parent sets aside */
    bool owns_input; /* nobody else reads the vectors it is given: it may change them */
    uint32_t inbox;  /* an end: which one */
    const struct levee_reducer *combine; /* an end: folded before the exchange; NULL: not */
    enum rt_fast fast;
};
struct rt_head {
    const levee_stream *node;
    uint32_t index, level, partitions;
    uint32_t inbox; /* which one is its own */
    uint32_t rows;  /* partitions of all parents, side by side */
    enum rt_fast fast;
    bool always;            /* folds groups without items too */
    struct rt_table *table; /* NULL: no state */
    struct rt_step *steps;  /* steps[0] is the head's own output */
    uint32_t step_count;
    size_t step_cap;
};
struct rt_unit {
    const struct rt_head *head;
    uint32_t partition;
};

/* ---- a batch's memory (runtime/run.c), recycled when its compute is released ---- */

struct rt_items {
    struct rt_item *items;
    size_t count, cap;
};
/* Of one node. A keyed one's items are dealt to key groups, not to partitions: a unit then folds
 * one group after the other, and what it works with stays in cache. */
struct rt_inbox {
    struct rt_items *cells; /* [row * columns + column] */
    uint32_t rows, columns; /* keyed: RT_KEY_GROUPS, or 1 if all goes to one; else partitions */
};
struct rt_share { /* what one unit leaves behind */
    struct arena arena;
    struct rt_decision *decisions;
    size_t decision_count, decision_cap;
    struct rt_adds adds;
    struct rt_sum_of *sums; /* of what its calls have added to accumulators */
    size_t sum_count, sum_cap;
    int code;
    struct levee_error err;
};
struct rt_run {
    struct rt_run *next; /* in the engine's free list */
    struct rt_compute *compute;
    struct rt_share *shares; /* one per unit */
    size_t share_count;
    struct rt_inbox *inboxes;   /* one per node that has one */
    struct rt_dataset *outputs; /* one per sink, as are the next three */
    uint64_t **part_digests;
    uint64_t *digests, *output_records;
    int64_t *watermarks;           /* one per clock */
    struct rt_mark **marks;        /* one per clock and partition of its node */
    struct rt_decision *decisions; /* all shares', sorted */
    size_t decision_cap;
    uint32_t level;
    size_t level_end; /* of the units of this level */
    _Atomic size_t next_unit;
    _Atomic uint32_t workers_left;
};
struct rt_run *rt_run_new(const struct rt_engine *e); /* NULL: no memory */
void rt_run_free(const struct rt_engine *e, struct rt_run *r);
/* Empties it; its memory stays. */
void rt_run_reset(const struct rt_engine *e, struct rt_run *r);
/* Fills in the compute's results. Errors: NOMEM. */
uint64_t rt_records_digest(const struct rt_records *r);
int rt_run_collect(const struct rt_engine *e, struct rt_run *r, struct levee_error *err);
/* A unit's sums, as long as the compute is not released; false: there is no such unit. */
bool rt_run_sums(const struct rt_compute *c, size_t unit, const struct rt_sum_of **ret,
                 size_t *ret_n);

/* ---- workers ---- */

struct rt_port { /* a step's place in a worker; empty between units */
    struct levee_output out;
    struct rt_records held;  /* of an operator over whole partitions: what came so far */
    struct rt_keys combined; /* keyed ends: what was folded and not yet sent … */
    struct rt_sums sums;     /* … by a plain count or sum */
    uint64_t seen;           /* records this step was given in this unit */
    uint64_t combined_from;  /* `seen` from which on the two were filled */
    uint64_t direct_until;   /* `seen` up to which combining is not worth while */
    size_t width;            /* of the vectors given to the operator, so that its output fits */
    bool may_decide;         /* decisions of an earlier try name this node and partition */
};
struct rt_worker {
    struct rt_engine *engine;
    struct io_lane *lane;
    struct io_task task;
    struct rt_run *run;
    const struct rt_unit *unit;
    struct rt_share *share;
    struct rt_port **ports; /* [head][step] */
    struct rt_groups groups;
    uint32_t cut; /* while a data set is pushed: the partition that it goes to */
    struct levee_state state;
    struct levee_slice *values;
    size_t values_cap;
    struct buf before; /* an accumulator as it was before a call */
};

struct rt_engine {
    struct rt_graph *graph;
    struct rt_engine_options opt;
    struct rt_head *heads;
    size_t head_count;
    uint32_t levels, inbox_count;
    struct rt_unit *units; /* in level order */
    size_t unit_count;
    size_t *level_starts; /* levels + 1 */
    int64_t next_due_ms;  /* the earliest batch time at which a key times out, or a timer is due */
    struct rt_clocks clocks;
    int64_t *readings; /* scratch: one per clock */
    struct rt_table *tables;
    size_t table_count;
    struct rt_worker *workers;
    struct rt_run *free_runs, *current;
    struct rt_compute *refused; /* there was no memory to begin it */
    struct io_task loop_task;   /* a level is complete, or a compute was refused */
};

/* Keyed, or an exchange other than a union: fed through an inbox, and a head. */
static inline bool rt_has_inbox(const levee_stream *n)
{
    return n->kind == RT_KEYED || (n->kind == RT_EXCHANGE && (n->op->place || n->op->gather));
}
int rt_plan(struct rt_engine *e, struct levee_error *err);
void rt_plan_release(struct rt_engine *e);

/* ---- running a unit ---- */

int rt_worker_init(struct rt_worker *w, struct rt_engine *e, struct levee_error *err);
void rt_worker_release(struct rt_worker *w);
static inline struct rt_port *rt_port_of(const struct rt_worker *w, uint32_t step)
{
    return &w->ports[w->unit->head->index][step];
}
/* A call at a step; half: see struct rt_call. */
struct rt_call rt_call_at(struct rt_worker *w, uint32_t step, uint32_t half);
/* Do decisions of an earlier try name this node, half and partition? (runtime/call.c) */
bool rt_call_decided(const struct rt_worker *w, const levee_stream *node, uint32_t half,
                     uint32_t partition);
/* What the call behind `out` has added counts: it has succeeded. (runtime/accumulate.c) */
int rt_adds_take(struct rt_worker *w, levee_output *out);
/* Gives n records to a step. They are changed if the step owns its input. */
int rt_push(struct rt_worker *w, uint32_t step, struct levee_record *io, size_t n);
/* Hands what a step's port holds to its children. */
int rt_flush(struct rt_worker *w, uint32_t step);
/* Runs w->unit; the outcome is in w->share. */
void rt_unit_run(struct rt_worker *w);
int rt_worker_nomem(struct rt_worker *w);

/* Keyed ends and heads (runtime/combine.c, runtime/keyed.c). */
int rt_combine_take(struct rt_worker *w, uint32_t step, const struct levee_record *in, size_t n);
int rt_combine_flush(struct rt_worker *w, uint32_t step);
int rt_keyed_take(struct rt_worker *w, uint32_t step, const struct levee_record *in, size_t n);
int rt_keyed_run(struct rt_worker *w);
/* Placing ends, and their heads (runtime/exchange.c). */
int rt_exchange_take(struct rt_worker *w, uint32_t step, const struct levee_record *in, size_t n);
int rt_exchange_run(struct rt_worker *w);
int rt_gather_take(struct rt_worker *w, uint32_t step, const struct levee_record *in, size_t n);
int rt_gather_run(struct rt_worker *w);
/* The cells of a unit's row in the inbox of an end, and which of them a hash belongs to. */
static inline struct rt_items *rt_row_of(struct rt_worker *w, const struct rt_step *s)
{
    struct rt_inbox *box = &w->run->inboxes[s->inbox];

    return &box->cells[(size_t)(w->unit->partition + s->offset) * box->columns];
}
static inline uint32_t rt_column_of(const levee_stream *keyed, uint64_t hash)
{
    return keyed->op->to_one ? 0 : rt_group_of(hash);
}
bool rt_items_grow(struct rt_items *items);
/* A place for one more; NULL: no memory. */
static inline struct rt_item *rt_items_add(struct rt_items *i)
{
    return UNLIKELY(i->count == i->cap) && !rt_items_grow(i) ? NULL : &i->items[i->count++];
}
/* Grouping: begin with a key group, take cells one after the other. false: no memory. */
void rt_groups_begin(struct rt_groups *g, uint32_t group);
bool rt_groups_take(struct rt_groups *g, const struct rt_items *cell);
void rt_groups_release(struct rt_groups *g);

#endif
