/*
 * engine: the pure half of the runtime. A batch is a function: (header, input blocks, state) →
 * (state delta, outputs, decisions). Nothing here knows of logs, sinks, sockets or clocks;
 * everything that could differ between two runs comes in through struct rt_compute. The protocol
 * around it (context.c, batch.c, replay.c) makes the result durable.
 */
#ifndef LEVEE_RT_ENGINE_H
#define LEVEE_RT_ENGINE_H

#include "checkpoint/ckpt.h"
#include "io/io.h"
#include "levee/connect.h"
#include "runtime/block.h"

/* ---- the graph: nodes in the order they were built, so parents come first (runtime/graph.c) ----
 */
struct rt_graph;
struct rt_source; /* runtime/source.h */
struct rt_sink;   /* runtime/sink.h */

enum rt_kind { /* the four words of design 4b, and both ends */
               RT_SOURCE,
               RT_NARROW,
               RT_EXCHANGE,
               RT_KEYED,
               RT_RETAINED,
               RT_SINK,
               RT_LETTERS /* dead letters: only sinks take them, and the batch fills those */
};

/* What an operator is to plan and executor: private to runtime/operators and the executor, see
 * runtime/operator.h. */
struct rt_operator;

struct levee_stream { /* a node */
    struct rt_graph *graph;
    uint32_t id; /* index in the graph */
    enum rt_kind kind;
    char uid[65];     /* "" where none is needed */
    const char *name; /* "flat_map", for errors and describe */
    const char *file; /* the caller's line; static string */
    int line;
    struct levee_stream **parents;
    size_t parent_count;
    uint32_t partitions;          /* of its output */
    uint32_t slide;               /* in batch intervals: when it has output */
    const struct rt_operator *op; /* NULL for sources and sinks */
    void *op_data;
    struct rt_source *source; /* RT_SOURCE */
    struct rt_sink *sink;     /* RT_SINK */
    uint32_t ordinal;         /* among sources or sinks */
    uint32_t table;           /* hash of uid: stateful nodes, sources and sinks */
    uint32_t state_version;
    bool sets_aside; /* what is late: levee_late may be built upon it */
    uint32_t clock;  /* its place among the engine's clocks + 1 (runtime/clock.h); 0: none */
};

struct rt_graph {
    levee_context *ctx;
    struct levee_stream **nodes;
    size_t count, cap;
    struct levee_stream **sources, **sinks;
    size_t source_count, sink_count, source_cap, sink_cap;
    uint32_t default_partitions, interval_ms;
    bool frozen;
    struct levee_error error; /* the first one; code 0: none */
};

struct rt_graph *rt_graph_new(levee_context *ctx, uint32_t default_partitions,
                              uint32_t interval_ms);
void rt_graph_free(struct rt_graph *g); /* frees nodes and op_data; sources and sinks are freed by
                                           their owners before */
/* Adds a node; checks uid (when need_uid), parents (same graph, not NULL), frozen. NULL: the error
 * is remembered. */
struct levee_stream *rt_graph_add(struct rt_graph *g, enum rt_kind kind, const char *name,
                                  const char *uid, bool need_uid, levee_stream *const *parents,
                                  size_t parent_count, const char *file, int line);
/* Remembers the first error, with file and line; returns NULL so that builders can return it. */
levee_stream *rt_graph_fail(struct rt_graph *g, const char *file, int line, int code,
                            const char *fmt, ...) PRINTF(5, 6);
/* 32-bit identity of a uid (low half of XXH3); two uids of one graph with equal identity are
 * refused as GRAPH_UID. */
uint32_t rt_uid_hash(const char *uid);
bool rt_uid_valid(const char *uid); /* well formed */
/* Canonical description (what is stored in a checkpoint's meta "graph"): per node kind, name, uid,
 * parents, state version. */
void rt_graph_describe(const struct rt_graph *g, struct buf *ret);
/* Compares stored with present: LEVEE_OK, STATE_ORPHANED (naming uids; not with drop),
 * STATE_VERSION (both versions). `orphans` gets the table ids whose state must be dropped. */
int rt_graph_compare(const struct rt_graph *g, struct levee_slice stored, bool drop_orphans,
                     uint32_t **ret_orphans, size_t *ret_count, struct levee_error *err);
/* context.c gives builders that start from a context its graph. NULL ctx: NULL. */
struct rt_graph *rt_context_graph(levee_context *ctx);

/* ---- data sets: records of a batch, cut into partitions; arrays and bytes live in the batch's
 * arenas ---- */
struct rt_records {
    struct levee_record *items;
    size_t count, cap;
};
struct rt_dataset {
    struct rt_records *parts;
    uint32_t partitions;
};

/* ---- computing a batch ---- */
struct rt_header {
    uint64_t id;
    int64_t time_ms;
    uint32_t ticks;
    uint64_t seed;
};
/* A decision taken while computing: the record at `index` of the input of node `node` in
 * `partition` became a dead letter. */
struct rt_decision {
    uint32_t node_uid_hash; /* of "uid or #id:name" of the node, so that it survives unrelated graph
                               changes */
    uint32_t partition;
    uint64_t index;
    int32_t code; /* what the function returned */
    uint32_t attempts;
    struct levee_slice key, value; /* of the record; NULL when read back from the log */
    char uid[65];                  /* node's uid or "#id:name" */
};
/* Sets node_uid_hash and uid. half: 0, or 1 for the second function of a node that has two. */
void rt_decision_name(struct rt_decision *d, const levee_stream *node, uint32_t half);
uint32_t rt_node_hash(const levee_stream *node, uint32_t half);
int rt_decision_order(const struct rt_decision *x, const struct rt_decision *y);
struct rt_input {
    struct rt_block *const
        *blocks; /* in LSN order; partition p of the source = its blocks with ->partition == p */
    size_t count;
};
struct rt_compute {
    struct rt_header header;
    struct rt_input *inputs;          /* one per source ordinal */
    const int64_t *watermarks;        /* one per clock, as logged; NULL: read when it begins */
    struct rt_version *const *shared; /* broadcasts and data sets, by their index */
    size_t shared_count;
    const struct rt_decision *apply; /* decisions of an earlier try to apply, sorted by (node,
                                        partition, index); else NULL */
    size_t apply_count;
    bool apply_only; /* true: a further failure is not decided anew but an error */
    void (*done)(struct rt_compute *c); /* on the loop lane, once */
    /* results, valid from done until rt_compute_release */
    int code;
    struct levee_error err;        /* names uid, record index, the function's line */
    struct rt_dataset *outputs;    /* one per sink ordinal (view into the arenas) */
    uint64_t *digests;             /* one per sink ordinal; an empty output has digest 0 */
    uint64_t *output_records;      /* one per sink ordinal */
    struct rt_decision *decisions; /* taken in this run, sorted */
    size_t decision_count;
    uint64_t records; /* input records */
    size_t bytes;     /* memory held by arenas */
    void *private_;   /* the executor's */
};

struct rt_engine_options {
    struct io *io;
    struct io_lane *loop; /* where done is called */
    uint32_t workers;     /* lanes to open */
    uint32_t retries;
    enum levee_on_failure on_failure;
    uint64_t state_bytes_max;
    bool verify_state;
};
struct rt_engine;
/* Plans the graph (stages that end at exchanges and sinks), opens worker lanes, makes state tables.
 */
int rt_engine_open(struct rt_graph *g, const struct rt_engine_options *o, struct rt_engine **ret,
                   struct levee_error *err);
/* Closes the worker lanes: nothing computes any more, on a crashed machine not even what had begun.
 * NULL is fine. */
void rt_engine_stop(struct rt_engine *e);
void rt_engine_close(struct rt_engine *e); /* NULL is fine; no compute may be running */
/* Starts computing; one at a time. Thread: loop. */
void rt_engine_compute(struct rt_engine *e, struct rt_compute *c);
/* An output was changed: its digest and number of records are taken anew. Thread: loop. */
void rt_run_digest(struct rt_compute *c, size_t sink);
/* Frees arenas and results of a compute that is done. Thread: loop. */
void rt_compute_release(struct rt_engine *e, struct rt_compute *c);
/* Event time: the watermarks of a batch at time_ms, one per clock (runtime/clock.h), and whose they
 * are. Thread: loop, no compute running. */
size_t rt_engine_clock_count(const struct rt_engine *e);
uint32_t rt_engine_clock_table(const struct rt_engine *e, size_t i);
void rt_engine_watermarks(const struct rt_engine *e, int64_t time_ms, int64_t *ret);
/* Is something due by event time, in a batch of this time? Such a batch is run even while draining:
 * what was received has completed it. */
bool rt_engine_event_due(const struct rt_engine *e, int64_t time_ms);
uint64_t rt_engine_late(const struct rt_engine *e); /* records set aside as late, ever */
/* The item "s/time" of a checkpoint; empty where there are no clocks. */
void rt_engine_encode_clocks(const struct rt_engine *e, struct buf *ret);
int rt_engine_decode_clocks(struct rt_engine *e, struct levee_slice bytes, struct levee_error *err);
/* Is a batch of this time needed although there is no input: for a function that is called for
 * every key, a snapshot, a window that holds something, a key that times out? Thread: loop, no
 * compute running. */
bool rt_engine_wants_empty_batch(const struct rt_engine *e, int64_t time_ms);

/* ---- state: gathered between batches, restored before the first. Thread: loop, no compute
 * running. ---- */
#define RT_KEY_GROUPS 128u /* frozen in the metadata of every table */
/* Packs what changed since the last gather, table by table (sorted by table id); *ret is freed with
 * rt_engine_free_slices. The dirty marks are cleared. */
int rt_engine_gather(struct rt_engine *e, struct ckpt_slices **ret, size_t *ret_count,
                     struct levee_error *err);
void rt_engine_free_slices(struct ckpt_slices *slices, size_t count);
/* Order-independent digest of the whole state, kept up to date by gather and load (verify_state:
 * recomputed). */
uint64_t rt_engine_state_digest(const struct rt_engine *e);
/* The layout of a stateful node's entries, stored with its table (4d.10). */
uint8_t rt_table_codec(const levee_stream *n);
/* One entry of a stored table; unknown tables are an error (NOTFOUND) the caller knows to ignore
 * for dropped ones. */
int rt_engine_load(struct rt_engine *e, uint32_t table, const struct ckpt_entry *entry,
                   struct levee_error *err);
/* After the last load, and also without one: initial states for keys never seen are laid in place
 * when `fresh_tables` says so (a table that was in no checkpoint). */
int rt_engine_loaded(struct rt_engine *e, const uint32_t *known_tables, size_t count,
                     struct levee_error *err);
/* Every entry of a table in key-group order (levee_state_each); stops at the first non-zero return.
 * NOTFOUND: no such table. */
/* Remembered records: see rt_window_read. Thread: loop, no compute running. */
int rt_engine_slice(const struct rt_engine *e, uint32_t table, int64_t from_ms, int64_t to_ms,
                    struct buf *ret);
int rt_engine_each(const struct rt_engine *e, uint32_t table,
                   int (*each)(void *arg, struct levee_slice key, struct levee_slice value),
                   void *arg);
void rt_engine_state_size(const struct rt_engine *e, uint64_t *ret_keys, uint64_t *ret_bytes);

#endif
