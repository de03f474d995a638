/*
 * levee: durable stream processing on one machine.
 *
 * The model is Spark Streaming's DStream. A *context* owns a directory and a graph: *sources*
 * produce records, every block of records is logged and synced before it is acknowledged to its
 * source, a *batch* takes what has arrived at each batch interval, *operators* transform it, keyed
 * *state* lives on between batches, and *sinks* receive each batch's output together with a token.
 * Whatever dies, whenever, every record changes state exactly once.
 *
 *     static int split(levee_output *out, const struct levee_record *line, void *arg)
 *     {
 *         (void)arg;
 *         return levee_emit_words(out, line->value);
 *     }
 *     static int count_words(levee_context *ctx, void *arg, struct levee_error *err)
 *     {
 *         levee_stream *lines = levee_tcp_source(ctx, "lines", &(struct levee_tcp_options){.address
 * = "localhost:9999"}); levee_stream *pairs = levee_map_to_i64(levee_flat_map(lines, split, NULL),
 * 1); levee_stream *counts = levee_reduce_by_key(pairs, &levee_sum_i64); levee_print(counts, 10);
 *         return levee_context_status(ctx, err);
 *     }
 *     int main(void)
 *     {
 *         levee_context *ctx = NULL;
 *         struct levee_error err;
 *         struct levee_options opt = {.directory = "state", .batch_interval_ms = 1000};
 *         if (levee_get_or_create(&ctx, &opt, count_words, NULL, &err) || levee_start(ctx, &err) ||
 *             levee_await(ctx, &err)) {
 *             return levee_print_error(stderr, &err);
 *         }
 *         levee_free(ctx);
 *     }
 *
 * Life cycle of a context: initialised → started → stopping → stopped. A stopped context is not
 * started again: make a new one on the same directory. Stop equals kill -9: both leave a directory
 * that resumes.
 *
 * Rules for functions. A function must be deterministic: the same records, state and batch give the
 * same output (use levee_batch_time and levee_batch_seed, not the clock or rand()). It runs on
 * worker threads, one partition at a time, without locks. A function returns 0 or a negative code
 * of its own; a failed call has had no effect, it is retried `function_retries` times and then
 * stops the context or, if the options say so, its record becomes a dead letter.
 *
 * Identity. Sources, stateful operators and sinks have a uid: 1–64 characters of [A-Za-z0-9._-].
 * Code may change between two starts; what is stored belongs to the uid.
 *
 * Macros that take options are variadic, so that compound literals may be written in place.
 *
 * Conventions. Zero-initialised options mean defaults. Builders return NULL on failure and accept
 * NULL streams; the context remembers the first error (levee_context_status), with the caller's
 * file and line. Strings and options are copied. Streams belong to their context. Records are
 * views: they live as long as the batch. Caveats: one process per directory (locked); contexts do
 * not survive fork(); no signal handler is installed and SIGPIPE is left to the host.
 *
 * Each comment below names what differs from: Thread: any; Blocks: no; Durable: nothing.
 */
#ifndef LEVEE_LEVEE_H
#define LEVEE_LEVEE_H

#include <stdbool.h>

#include "levee/error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LEVEE_VERSION_MAJOR 0
#define LEVEE_VERSION_MINOR 1
#define LEVEE_VERSION_PATCH 0
/* major << 16 | minor << 8 | patch of the library that is linked. */
LEVEE_API uint32_t levee_version(void);

typedef struct levee_context levee_context;
typedef struct levee_stream levee_stream;
typedef struct levee_output levee_output; /* where a function emits to */
typedef struct levee_state levee_state;   /* one key's state during one call */
typedef struct levee_batch levee_batch;   /* a data set, as transform and foreach_batch see it */

/* A record: key and value are views that live as long as the batch; key.data == NULL: no key. */
struct levee_record {
    struct levee_slice key, value;
    int64_t time_ms; /* event time; 0 when the source has none */
};

/* ------------------------------------------------------------------ context */

enum levee_guarantee { /* ordered from weak to strong */
                       LEVEE_ANY = 0,
                       LEVEE_AT_MOST_ONCE,
                       LEVEE_AT_LEAST_ONCE,
                       LEVEE_EXACTLY_ONCE
};

enum levee_on_failure {
    LEVEE_STOP = 0,   /* the context stops with the function's uid and record */
    LEVEE_DEAD_LETTER /* the record is stored with the checkpoint and the batch goes on */
};

struct levee_listener;
struct levee_testing;

struct levee_options {
    const char *directory; /* required; created if missing (its parent must exist) */
    uint32_t
        batch_interval_ms; /* 0: 1000. Frozen: stored at creation, a later difference is refused */
    uint32_t workers;    /* 0: number of processors minus one, at least 1. Never shows in results */
    uint32_t partitions; /* of keyed operators; 0: 8. May change between starts */
    uint32_t block_interval_ms; /* how long a block may stay open; 0: as soon as the log is ready
                                   for it */
    uint32_t block_bytes;       /* a block is closed at this size; 0: 128 KiB */
    uint64_t buffer_bytes; /* received and not yet processed, over all sources; 0: 64 MiB. Full:
                              sources wait */
    uint64_t output_bytes; /* outputs kept for sinks that have not committed; 0: 256 MiB */
    uint64_t
        state_bytes_max;    /* state in memory; 0: no limit. Beyond it: LIMIT, naming both sizes */
    uint64_t segment_bytes; /* log segments, a power of two from 64 KiB; 0: 64 MiB */
    uint64_t max_rate;      /* records per second and source; 0: no limit */
    uint32_t checkpoint_batches; /* a checkpoint every n batches …; 0: not by count */
    uint32_t checkpoint_ms;      /* … or after this time; 0: 1000 */
    uint32_t function_retries;   /* further calls of a function that failed; 0: none */
    enum levee_on_failure on_failure;
    enum levee_guarantee guarantee; /* refuse to start below this */
    uint32_t producers_max;         /* known producers per source; 0: 10000 */
    uint32_t max_clock_jump_ms; /* refuse a start whose clock is further ahead of the last batch; 0:
                                   no limit */
    bool accept_clock_jump;
    bool stop_at_end; /* run once: stop when every source has passed the end it had at the first
                         start */
    bool drop_orphaned_state; /* state whose operator is gone is dropped instead of refusing the
                                 start */
    bool existing_only; /* never create: a directory without state is DIR_MISSING (lost mount) */
    bool continue_nondeterministic; /* a replay that differs is reported and lowers the guarantee
                                       instead of stopping */
    bool empty_batches; /* a batch at every tick, also when there is nothing to do: as Spark does */
    bool verify_state;  /* digest the whole state every batch (slow, for tests) */
    const char *program_id; /* names this build; NULL: the linker's build id */
    /* Text for people, one line each: start-up guarantee, recovery report, warnings. NULL: stderr
     * for warnings only. */
    void (*log)(void *arg, int level,
                const char *line); /* level 0 info, 1 warning. Thread: any of ours */
    void *log_arg;
    const struct levee_listener *listener; /* copied */
    void *listener_arg;
    struct levee_testing *testing; /* levee/testing.h; NULL in production */
};

/* Builds the graph. Runs on the calling thread in levee_get_or_create, both for a new and an
 * existing directory. */
typedef int (*levee_setup_fn)(levee_context *ctx, void *arg, struct levee_error *err);

/*
 * Opens the directory (or creates it), runs setup and compares the graph with the stored one by
 * uid. Look, decide, then touch: a refusal leaves every byte as it was; recovery itself runs in
 * levee_start. *ret is set on success only; free it with levee_free. Blocks: on the disk. Errors:
 * DIR_*, GRAPH*, STATE_ORPHANED, STATE_VERSION, GUARANTEE, CKPT_NONE, IO, NOMEM, setup's own.
 */
LEVEE_API int levee_get_or_create(levee_context **ret, const struct levee_options *options,
                                  levee_setup_fn setup, void *arg, struct levee_error *err);
/* Recovers, replays and starts receiving. Returns when recovery has become durable; batches then
 * run on threads of the context. Errors: WAL_*, CKPT_*, SINK_AHEAD, SINK_BEHIND, SINK_FOREIGN,
 * CLOCK_JUMP, STATE (already started), IO. */
LEVEE_API int levee_start(levee_context *ctx, struct levee_error *err);
/* Blocks until the context has stopped; returns why: LEVEE_OK after levee_stop, levee_drain or
 * stop_at_end. */
LEVEE_API int levee_await(levee_context *ctx, struct levee_error *err);
/* The same with a deadline: TIMEOUT when it is still running. */
LEVEE_API int levee_await_for(levee_context *ctx, uint32_t timeout_ms, struct levee_error *err);
/* Stops now: the batch in flight is left to recovery. Returns at once; await it.
 * Async-signal-unsafe. Errors: STATE. */
LEVEE_API int levee_stop(levee_context *ctx, struct levee_error *err);
/* Stops receiving, finishes what was received, checkpoints, then stops; at the deadline as
 * levee_stop. 0: no deadline. */
LEVEE_API int levee_drain(levee_context *ctx, uint32_t deadline_ms, struct levee_error *err);
/* Stops if need be, waits, frees. NULL is fine. Blocks. */
LEVEE_API void levee_free(levee_context *ctx);
/* First error of the graph builders, with file and line; LEVEE_OK if none. */
LEVEE_API int levee_context_status(levee_context *ctx, struct levee_error *err);
/* Gives arg an owner: destructor(arg) runs in levee_free. Returns arg (NULL: no memory; destructor
 * ran). */
LEVEE_API void *levee_own(levee_context *ctx, void *arg, void (*destructor)(void *));
/* The guarantee of the weakest part, and its uid if why is not NULL (owned by the context). */
LEVEE_API enum levee_guarantee levee_context_guarantee(levee_context *ctx, const char **why);

struct levee_batch_info {
    uint64_t id;
    int64_t time_ms;                                             /* batch time */
    uint32_t ticks;                                              /* intervals covered */
    uint64_t records;                                            /* input records */
    uint64_t scheduling_delay_ns, processing_ns, total_delay_ns; /* 0 where not yet known */
    bool replayed;
};
/* Every callback may be NULL. Thread: loop; do not block. err and info are borrowed until return.
 */
struct levee_listener {
    int version; /* 1 */
    void (*batch_submitted)(void *arg, const struct levee_batch_info *info);
    void (*batch_started)(void *arg, const struct levee_batch_info *info);
    void (*batch_completed)(void *arg, const struct levee_batch_info *info);
    void (*batch_failed)(void *arg, const struct levee_batch_info *info,
                         const struct levee_error *err);
    void (*receiver_started)(void *arg, const char *uid);
    void (*receiver_error)(void *arg, const char *uid, const struct levee_error *err);
    void (*receiver_stopped)(void *arg, const char *uid);
};

struct levee_metrics {
    uint64_t records_received, records_duplicate, records_processed, dead_letters;
    uint64_t blocks, bytes_received, bytes_logged, log_syncs, log_groups, batches, batches_replayed,
        checkpoints;
    uint64_t state_keys, state_bytes, buffered_bytes, buffered_bytes_max;
    uint64_t recovery_ns;  /* of the last start */
    uint64_t log_bytes;    /* all segments on disk */
    uint64_t tail_dropped; /* groups cut at the last start */
    uint64_t last_batch, last_checkpoint_batch;
};
LEVEE_API void levee_context_metrics(levee_context *ctx, struct levee_metrics *ret);

/* ------------------------------------------------------------------ emitting */

/* Emits a record whose key and value live as long as the batch (views into the input, static data).
 * Thread: the function's own. Errors: NOMEM. */
LEVEE_API int levee_emit(levee_output *out, struct levee_slice key, struct levee_slice value);
/* The same with copied bytes: takes anything. */
LEVEE_API int levee_emit_copy(levee_output *out, struct levee_slice key, struct levee_slice value);
LEVEE_API int levee_emit_i64(levee_output *out, struct levee_slice key, int64_t value);
LEVEE_API int levee_emit_f64(levee_output *out, struct levee_slice key, double value);
/* Emits the record itself. */
LEVEE_API int levee_emit_record(levee_output *out, const struct levee_record *record);
/* Emits every maximal run of bytes other than space, \t, \n, \v, \f, \r as a key with no value. */
LEVEE_API int levee_emit_words(levee_output *out, struct levee_slice text);
/* Memory that lives as long as the batch; NULL: no memory. */
LEVEE_API void *levee_alloc(levee_output *out, size_t bytes);
LEVEE_API int64_t levee_batch_time(const levee_output *out);
LEVEE_API uint64_t levee_batch_id(const levee_output *out);
LEVEE_API uint64_t levee_batch_seed(const levee_output *out);
/* 64-bit integers and doubles are stored as 8 bytes little-endian; 0 when the slice has another
 * size. */
LEVEE_API int64_t levee_i64(struct levee_slice s);
LEVEE_API double levee_f64(struct levee_slice s);
static inline struct levee_slice
levee_text(const char *s) /* a view of a C string; s must outlive its use */
{
    struct levee_slice r = {(const uint8_t *)s, 0};
    while (s[r.len]) {
        r.len++;
    }
    return r;
}

/* ------------------------------------------------------------------ transforms */

/* One form serves map (emit one), flat_map (emit any number) and filter (return 1 keep, 0 drop).
 * Thread: worker. */
typedef int (*levee_record_fn)(levee_output *out, const struct levee_record *in, void *arg);
/* The same for hot paths: n records at a time; a failed call is repeated record by record (n = 1).
 */
typedef int (*levee_records_fn)(levee_output *out, const struct levee_record *in, size_t n,
                                void *arg);

#define LEVEE_AT __FILE__, __LINE__
/* Builders record the caller's line through these macros; the functions behind them end in _at. */
LEVEE_API levee_stream *levee_map_at(levee_stream *s, levee_record_fn fn, void *arg,
                                     const char *file, int line);
LEVEE_API levee_stream *levee_flat_map_at(levee_stream *s, levee_record_fn fn, void *arg,
                                          const char *file, int line);
LEVEE_API levee_stream *levee_flat_map_many_at(levee_stream *s, levee_records_fn fn, void *arg,
                                               const char *file, int line);
LEVEE_API levee_stream *levee_filter_at(levee_stream *s, levee_record_fn fn, void *arg,
                                        const char *file, int line);
/* Replaces the value, keeps key (and partition): emit exactly one record; its key is ignored. */
LEVEE_API levee_stream *levee_map_values_at(levee_stream *s, levee_record_fn fn, void *arg,
                                            const char *file, int line);
/* The same with any number of records: each is a value under the key of the record given. */
LEVEE_API levee_stream *levee_flat_map_values_at(levee_stream *s, levee_record_fn fn, void *arg,
                                                 const char *file, int line);
/* Calls fn once per partition and batch with all its records, also with none (n = 0; a batch that
 * is not run has no partitions). Emits any number. The records fail together: without a retry that
 * succeeds each becomes a dead letter of its own. A partition is held in memory for the call. */
LEVEE_API levee_stream *levee_map_partitions_at(levee_stream *s, levee_records_fn fn, void *arg,
                                                const char *file, int line);
/* One record without key per partition and batch, also for one without records: its value holds the
 * partition's records in order, read with levee_glom_next. */
LEVEE_API levee_stream *levee_glom_at(levee_stream *s, const char *file, int line);
/* Takes the next record off the front of a glom's value; false at the end. Its key and value are
 * views into the value. */
LEVEE_API bool levee_glom_next(struct levee_slice *glom, struct levee_record *ret);
/* Keeps the keys and gives every record the same 64-bit value: words → (word, 1). */
LEVEE_API levee_stream *levee_map_to_i64_at(levee_stream *s, int64_t value, const char *file,
                                            int line);
/* Moves records to n partitions in turns: record i of partition p goes to partition (p + i) mod n.
 * Then workers share evenly what came unevenly. Only where records lie changes. */
LEVEE_API levee_stream *levee_repartition_at(levee_stream *s, uint32_t n, const char *file,
                                             int line);
/* The same to the partition that fn returns: 0 … partitions - 1, anything else is a failed call.
 * Within a partition records keep the order of (old partition, record). Thread: worker. */
typedef int (*levee_partitioner_fn)(const struct levee_record *in, uint32_t partitions, void *arg);
LEVEE_API levee_stream *levee_repartition_by_at(levee_stream *s, uint32_t n,
                                                levee_partitioner_fn fn, void *arg,
                                                const char *file, int line);
/* Gives the operator by key or transform that has just been built another number of partitions than
 * the option `partitions`, and returns it: levee_partitions(levee_group_by_key(s), 3). Before
 * anything is built upon it. May change between starts: keys are dealt to 128 key groups, whose
 * state stays where it is; with more than 128 partitions some are empty. */
LEVEE_API levee_stream *levee_partitions_at(levee_stream *s, uint32_t n, const char *file,
                                            int line);
/* Streams of one context, in the order given. */
LEVEE_API levee_stream *levee_union_at(levee_stream *const *streams, size_t n, const char *file,
                                       int line);
/* One record per batch: its number of records, as i64 without key; 0 for an empty batch. */
LEVEE_API levee_stream *levee_count_at(levee_stream *s, const char *file, int line);
#define levee_map(s, fn, arg)           levee_map_at(s, fn, arg, LEVEE_AT)
#define levee_flat_map(s, fn, arg)      levee_flat_map_at(s, fn, arg, LEVEE_AT)
#define levee_flat_map_many(s, fn, arg) levee_flat_map_many_at(s, fn, arg, LEVEE_AT)
#define levee_filter(s, fn, arg)        levee_filter_at(s, fn, arg, LEVEE_AT)
#define levee_map_values(s, fn, arg)    levee_map_values_at(s, fn, arg, LEVEE_AT)
#define levee_map_to_i64(s, value)      levee_map_to_i64_at(s, value, LEVEE_AT)
#define levee_union(streams, n)         levee_union_at(streams, n, LEVEE_AT)
#define levee_count(s)                  levee_count_at(s, LEVEE_AT)

#define levee_flat_map_values(s, fn, arg)   levee_flat_map_values_at(s, fn, arg, LEVEE_AT)
#define levee_map_partitions(s, fn, arg)    levee_map_partitions_at(s, fn, arg, LEVEE_AT)
#define levee_glom(s)                       levee_glom_at(s, LEVEE_AT)
#define levee_repartition(s, n)             levee_repartition_at(s, n, LEVEE_AT)
#define levee_repartition_by(s, n, fn, arg) levee_repartition_by_at(s, n, fn, arg, LEVEE_AT)
#define levee_partitions(s, n)              levee_partitions_at(s, n, LEVEE_AT)

/*
 * A reducer folds values into an accumulator of `size` bytes (8-byte aligned, zeroed before
 * create). It must be associative: merge(a, b) after adds equals one long run of adds in
 * (partition, record) order. finish emits the result (exactly one record). `remove` undoes an add
 * or merge, for windows with an inverse; NULL if there is none. All deterministic. Thread: worker.
 * Accumulators may point to memory from levee_alloc(out): it lives as long as the batch.
 */
struct levee_reducer {
    int version; /* 1 */
    size_t size;
    int (*create)(levee_output *out, void *acc, struct levee_slice value,
                  void *arg); /* from the first value */
    int (*add)(levee_output *out, void *acc, struct levee_slice value, void *arg);
    int (*merge)(levee_output *out, void *acc, const void *other, void *arg);
    int (*remove)(levee_output *out, void *acc, const void *other, void *arg);
    int (*finish)(levee_output *out, struct levee_slice key, const void *acc, void *arg);
    void *arg;
};
extern LEVEE_API const struct levee_reducer levee_count_values, levee_sum_i64, levee_min_i64,
    levee_max_i64, levee_avg_i64, levee_sum_f64, levee_min_f64, levee_max_f64, levee_avg_f64,
    levee_concat;

/* The whole batch to one record without key; an empty batch gives none. The reducer struct is
 * copied. */
LEVEE_API levee_stream *levee_reduce_at(levee_stream *s, const struct levee_reducer *r,
                                        const char *file, int line);
/* One record per key of the batch, combined before the shuffle. */
LEVEE_API levee_stream *levee_reduce_by_key_at(levee_stream *s, const struct levee_reducer *r,
                                               const char *file, int line);
/* One record (value, i64 count) per distinct value of the batch; the records' own keys are ignored.
 * A stream whose elements are keys, such as words, is counted by levee_reduce_by_key(s,
 * &levee_count_values). */
LEVEE_API levee_stream *levee_count_by_value_at(levee_stream *s, const char *file, int line);
/* levee_reduce_by_key, under the name for reducers whose result has another type than the values:
 * create, add and merge are Spark's createCombiner, mergeValue and mergeCombiners. */
LEVEE_API levee_stream *levee_combine_by_key_at(levee_stream *s, const struct levee_reducer *r,
                                                const char *file, int line);
/* One record per key; the value is a sequence read with levee_group_next; values keep arrival
 * order. */
LEVEE_API levee_stream *levee_group_by_key_at(levee_stream *s, const char *file, int line);
#define levee_reduce(s, r)         levee_reduce_at(s, r, LEVEE_AT)
#define levee_reduce_by_key(s, r)  levee_reduce_by_key_at(s, r, LEVEE_AT)
#define levee_group_by_key(s)      levee_group_by_key_at(s, LEVEE_AT)
#define levee_count_by_value(s)    levee_count_by_value_at(s, LEVEE_AT)
#define levee_combine_by_key(s, r) levee_combine_by_key_at(s, r, LEVEE_AT)
/* Takes the next value off the front of a group's value; false at the end. */
LEVEE_API bool levee_group_next(struct levee_slice *group, struct levee_slice *ret_value);

/*
 * Two streams by key. The value of each record has two sides, the left one from a and the right one
 * from b, taken apart by levee_sides. Keys come in first arrival, those of a first.
 */
/* One record per key of either: each side is a group, read with levee_group_next, without values
 * where the stream has none. */
LEVEE_API levee_stream *levee_cogroup_at(levee_stream *a, levee_stream *b, const char *file,
                                         int line);
enum levee_join {
    LEVEE_INNER = 0,
    LEVEE_LEFT_OUTER, /* also values of a without one of b: the right side is absent */
    LEVEE_RIGHT_OUTER,
    LEVEE_FULL_OUTER
};
/* One record per pair of values of one key; in the order of a's values, for each in that of b's. An
 * absent side and a side whose value is absent look the same. */
LEVEE_API levee_stream *levee_join_at(levee_stream *a, levee_stream *b, enum levee_join kind,
                                      const char *file, int line);
#define levee_cogroup(a, b)    levee_cogroup_at(a, b, LEVEE_AT)
#define levee_join(a, b, kind) levee_join_at(a, b, kind, LEVEE_AT)
/* Both sides of the value of a join or cogroup, as views into it; data == NULL: absent. false: it
 * is not such a value. */
LEVEE_API bool levee_sides(struct levee_slice value, struct levee_slice *ret_left,
                           struct levee_slice *ret_right);

/*
 * Keyed state. The function is called once per key that has values in the batch (or for every key
 * that has state, with .every_key) with all its values in order and the state of the key. It may
 * set or remove the state; after the call the key's state, if there is one, is emitted as (key,
 * state).
 */
typedef int (*levee_update_fn)(levee_output *out, levee_state *state, struct levee_slice key,
                               const struct levee_slice *values, size_t n, void *arg);
struct levee_state_options {
    uint32_t version; /* of the state's format; 0: 1 */
    bool every_key;
    /* Initial state, for keys never seen before: (key, value) pairs, copied. */
    const struct levee_record *initial;
    size_t initial_count;
};
LEVEE_API levee_stream *levee_update_state_by_key_at(levee_stream *s, const char *uid,
                                                     const struct levee_state_options *options,
                                                     levee_update_fn fn, void *arg,
                                                     const char *file, int line);
#define levee_update_state_by_key(s, uid, ...)                                                     \
    levee_update_state_by_key_at(s, uid, __VA_ARGS__, LEVEE_AT)
/*
 * The same with one call per partition and batch, also for a partition without keys: the function
 * takes the keys one after the other with levee_update_next, and may keep what it likes between
 * them. State of keys that it does not take stays as it is. After the call the state of every key
 * is emitted. A call that fails has changed no state; the values of all its keys become dead
 * letters. What a partition is depends on the option `partitions`: a function whose result does,
 * too, has results that do.
 */
typedef struct levee_updates levee_updates;
struct levee_update {
    struct levee_slice key;
    const struct levee_slice *values; /* in arrival order; live as long as the batch */
    size_t n;
    levee_state *state; /* until the next call of levee_update_next */
};
/* The next key of the partition; false: there is none, or no memory, which ends the batch. */
LEVEE_API bool levee_update_next(levee_updates *updates, struct levee_update *ret);
typedef int (*levee_update_partition_fn)(levee_output *out, levee_updates *updates, void *arg);
LEVEE_API levee_stream *levee_update_state_by_partition_at(
    levee_stream *s, const char *uid, const struct levee_state_options *options,
    levee_update_partition_fn fn, void *arg, const char *file, int line);
#define levee_update_state_by_partition(s, uid, ...)                                               \
    levee_update_state_by_partition_at(s, uid, __VA_ARGS__, LEVEE_AT)
/* false: none. The view lasts until the state is changed or the call returns: emit copies of it. */
LEVEE_API bool levee_state_get(const levee_state *state, struct levee_slice *ret_value);
LEVEE_API int levee_state_set(levee_state *state, struct levee_slice value); /* copied */
LEVEE_API int levee_state_set_i64(levee_state *state, int64_t value);
LEVEE_API void levee_state_remove(levee_state *state);
/*
 * mapWithState. The function is called once per record, in arrival order within a key, with the
 * state of the record's key; it may set or remove the state and emit any number of records.
 *
 * With a time-out, a key that has had no record for longer than timeout_ms of batch time is timed
 * out by the first batch after that, which is run even without input: the function is called a last
 * time, with value == NULL and levee_state_timing_out(state), and the state is gone when it has
 * returned (or has become a dead letter). It can still be read, but not set: STATE. A record in the
 * same batch wins over the time-out; a key of the initial state counts from the first batch.
 * Time-outs come after the records of their key group, by last touch, then key.
 */
typedef int (*levee_map_state_fn)(levee_output *out, levee_state *state, struct levee_slice key,
                                  const struct levee_slice *value, void *arg);
struct levee_map_state_options {
    uint32_t version;    /* of the state's format; 0: 1 */
    uint32_t timeout_ms; /* 0: never. May change between starts: it counts from the last record */
    /* Initial state, for keys never seen before: (key, value) pairs, copied. */
    const struct levee_record *initial;
    size_t initial_count;
};
LEVEE_API levee_stream *levee_map_with_state_at(levee_stream *s, const char *uid,
                                                const struct levee_map_state_options *options,
                                                levee_map_state_fn fn, void *arg, const char *file,
                                                int line);
#define levee_map_with_state(s, uid, ...) levee_map_with_state_at(s, uid, __VA_ARGS__, LEVEE_AT)
/* Is this the call for a key that times out? */
LEVEE_API bool levee_state_timing_out(const levee_state *state);
/* The whole state of a stateful operator as one (key, state) record per key, after each batch; by
 * key group, inside it by hash, then key. A batch is then run at every interval. Costs what the
 * state is large. */
LEVEE_API levee_stream *levee_state_snapshots_at(levee_stream *stateful, const char *file,
                                                 int line);
#define levee_state_snapshots(stateful) levee_state_snapshots_at(stateful, LEVEE_AT)
/* Ready: state += sum of the batch's i64 values. */
LEVEE_API int levee_update_sum_i64(levee_output *out, levee_state *state, struct levee_slice key,
                                   const struct levee_slice *values, size_t n, void *arg);

/* Calls each(arg, key, value) for every key of a stateful operator, in key-group order; stops at
 * the first non-zero return and returns it. Only while no batch can run: before levee_start is
 * useless, after levee_await returned is the time. Errors: STATE, NOTFOUND. */
LEVEE_API int levee_state_each(levee_context *ctx, const char *uid,
                               int (*each)(void *arg, struct levee_slice key,
                                           struct levee_slice value),
                               void *arg, struct levee_error *err);

/*
 * Windows. A window of length L that is due at batch time t holds the batches with time in
 * (t - L, t]; it is due at the multiples of its slide, and what is built upon it has output only
 * then. Both are multiples of the batch interval and of the parent's slide, anything else is GRAPH,
 * as are parents with different slides. Before the first L have passed a window is shorter. What is
 * in a window is state: it needs a uid, survives restarts, and lies in every checkpoint.
 */
struct levee_window {
    uint32_t length_ms, slide_ms;
    bool inverse; /* the reducer's remove takes out what leaves: cost follows what changes. Keys
                     stay until filter drops them, whatever the inverse leaves of them */
    levee_record_fn filter; /* of results: return 1 keep, 0 drop; NULL: keeps all */
    void *arg;              /* of filter */
    uint32_t partitions;    /* 0: the context's */
    uint32_t version;       /* of the state's format; 0: 1 */
};
/* The records of the batches in the window, oldest batch first, in one partition. */
LEVEE_API levee_stream *levee_window_at(levee_stream *s, const char *uid, uint32_t length_ms,
                                        uint32_t slide_ms, const char *file, int line);
/* Keeps the stream's records of the last duration_ms for levee_slice_each. */
LEVEE_API levee_stream *levee_remember_at(levee_stream *s, const char *uid, uint32_t duration_ms,
                                          const char *file, int line);
/* Calls each(arg, batch time, record) for what the levee_remember of this uid holds of the batches
 * with time in [from_ms, to_ms] (none if it is backwards), both rounded down to its slide, oldest
 * first; stops at the first non-zero return and returns it. Records are views until each returns.
 * Thread: any, not one of ours. Blocks: until the batch at hand is computed. Errors: STATE (before
 * start), NOTFOUND, INVALID.
 */
typedef int (*levee_slice_fn)(void *arg, int64_t time_ms, const struct levee_record *record);
LEVEE_API int levee_slice_each(levee_context *ctx, const char *uid, int64_t from_ms, int64_t to_ms,
                               levee_slice_fn each, void *arg, struct levee_error *err);
#define levee_remember(s, uid, duration_ms) levee_remember_at(s, uid, duration_ms, LEVEE_AT)
/* One record per key of the window. The reducer's accumulators are kept as bytes (at most 4096):
 * they may not hold pointers, so levee_concat is not for windows. */
LEVEE_API levee_stream *levee_reduce_by_key_and_window_at(levee_stream *s, const char *uid,
                                                          const struct levee_reducer *r,
                                                          const struct levee_window *window,
                                                          const char *file, int line);
/* The window to one record without key; none while no batch in it had records (with inverse: ever).
 */
LEVEE_API levee_stream *levee_reduce_by_window_at(levee_stream *s, const char *uid,
                                                  const struct levee_reducer *r,
                                                  const struct levee_window *window,
                                                  const char *file, int line);
/* The number of records in the window, as i64 without key; nothing until a first record was seen.
 */
LEVEE_API levee_stream *levee_count_by_window_at(levee_stream *s, const char *uid,
                                                 uint32_t length_ms, uint32_t slide_ms,
                                                 const char *file, int line);
/* As levee_group_by_key: values in the order of batches, then of arrival. */
LEVEE_API levee_stream *levee_group_by_key_and_window_at(levee_stream *s, const char *uid,
                                                         const struct levee_window *window,
                                                         const char *file, int line);
/* One record (value, i64 count) per distinct value of the window. */
LEVEE_API levee_stream *levee_count_by_value_and_window_at(levee_stream *s, const char *uid,
                                                           const struct levee_window *window,
                                                           const char *file, int line);
#define levee_count_by_value_and_window(s, uid, ...)                                               \
    levee_count_by_value_and_window_at(s, uid, __VA_ARGS__, LEVEE_AT)
#define levee_window(s, uid, length_ms, slide_ms)                                                  \
    levee_window_at(s, uid, length_ms, slide_ms, LEVEE_AT)
#define levee_reduce_by_key_and_window(s, uid, r, ...)                                             \
    levee_reduce_by_key_and_window_at(s, uid, r, __VA_ARGS__, LEVEE_AT)
#define levee_reduce_by_window(s, uid, r, ...)                                                     \
    levee_reduce_by_window_at(s, uid, r, __VA_ARGS__, LEVEE_AT)
#define levee_count_by_window(s, uid, length_ms, slide_ms)                                         \
    levee_count_by_window_at(s, uid, length_ms, slide_ms, LEVEE_AT)
#define levee_group_by_key_and_window(s, uid, ...)                                                 \
    levee_group_by_key_and_window_at(s, uid, __VA_ARGS__, LEVEE_AT)

/* ------------------------------------------------------------------ whole batches */

/*
 * Arbitrary code on batches. The function is called once per batch that is run, also for one
 * without records, with the data set of every stream, and sets *ret to a data set made from them
 * (or to one of them). The data sets live as long as the batch and never change.
 * levee_batch_time(out) is the batch's time, levee_alloc(out) its memory; emitting to `out` has no
 * effect. Failures are those of any function: retried as a whole; then all records of all streams
 * become dead letters, if the options say so. Thread: one worker.
 *
 * The stream has as many partitions as streams[0], or as levee_partitions says. A result with as
 * many keeps them, any other is cut anew, in its order, as evenly as possible.
 *
 *     static int busiest(levee_output *out, const levee_batch *const *in, size_t n,
 *                        const levee_batch **ret, void *arg)
 *     {
 *         const levee_batch *counts = levee_batch_reduce_by_key(in[0], &levee_sum_i64);
 *         *ret = levee_batch_take(levee_batch_sort_by_key(levee_batch_map(counts, swap, NULL),
 *                                                         largest_first, NULL), 10);
 *         return 0;
 *     }
 */
typedef int (*levee_transform_fn)(levee_output *out, const levee_batch *const *in, size_t n,
                                  const levee_batch **ret, void *arg);
LEVEE_API levee_stream *levee_transform_at(levee_stream *const *streams, size_t n,
                                           levee_transform_fn fn, void *arg, const char *file,
                                           int line);
#define levee_transform(streams, n, fn, arg) levee_transform_at(streams, n, fn, arg, LEVEE_AT)
#define levee_transform_with(a, b, fn, arg)                                                        \
    levee_transform_at((levee_stream *const[]){a, b}, 2, fn, arg, LEVEE_AT)

/*
 * Operations on data sets, within levee_transform; each means what the stream's operation of that
 * name does and gives its records in the same order and partitions. Like builders they return NULL
 * on failure and accept NULL: the transform has then failed, with the first failure's code,
 * whatever it returns. In foreach_batch they return NULL: there a batch can only be read.
 */
LEVEE_API const levee_batch *levee_batch_map(const levee_batch *b, levee_record_fn fn, void *arg);
LEVEE_API const levee_batch *levee_batch_flat_map(const levee_batch *b, levee_record_fn fn,
                                                  void *arg);
LEVEE_API const levee_batch *levee_batch_filter(const levee_batch *b, levee_record_fn fn,
                                                void *arg);
LEVEE_API const levee_batch *levee_batch_map_values(const levee_batch *b, levee_record_fn fn,
                                                    void *arg);
LEVEE_API const levee_batch *levee_batch_union(const levee_batch *const *batches, size_t n);
LEVEE_API const levee_batch *levee_batch_reduce_by_key(const levee_batch *b,
                                                       const struct levee_reducer *r);
LEVEE_API const levee_batch *levee_batch_group_by_key(const levee_batch *b);
LEVEE_API const levee_batch *levee_batch_cogroup(const levee_batch *a, const levee_batch *b);
LEVEE_API const levee_batch *levee_batch_join(const levee_batch *a, const levee_batch *b,
                                              enum levee_join kind);
/* Without those whose key and value an earlier record has; the others stay where they are. */
LEVEE_API const levee_batch *levee_batch_distinct(const levee_batch *b);
/* Sorted by key over all partitions, equal keys in their old order; cut evenly into as many.
 * compare is negative, 0 or positive as a comes before, with or after b; NULL: levee_compare_bytes.
 */
typedef int (*levee_compare_fn)(struct levee_slice a, struct levee_slice b, void *arg);
LEVEE_API const levee_batch *levee_batch_sort_by_key(const levee_batch *b, levee_compare_fn compare,
                                                     void *arg);
LEVEE_API int levee_compare_bytes(struct levee_slice a, struct levee_slice b, void *arg);
LEVEE_API int levee_compare_i64(struct levee_slice a, struct levee_slice b, void *arg);
/* The first n records, in partition order, left in their partitions. */
LEVEE_API const levee_batch *levee_batch_take(const levee_batch *b, size_t n);
/* Each record with this probability, without replacement. Seeded by the batch: a replay keeps the
 * same records, and each call in one transform others. */
LEVEE_API const levee_batch *levee_batch_sample(const levee_batch *b, double fraction);
/* A data set of these records, cut as evenly as possible; `like` is any data set of the batch. The
 * array is copied, keys and values must live as long as the batch (levee_alloc). */
LEVEE_API const levee_batch *levee_batch_of(const levee_batch *like,
                                            const struct levee_record *records, size_t n,
                                            uint32_t partitions);

/* ------------------------------------------------------------------ outputs */

/* Identity of a batch's output: what an exactly-once effect stores beside it. */
struct levee_token {
    char context[33]; /* context id, 32 hex digits */
    char uid[65];
    uint64_t epoch; /* of the life that writes; rises with every start */
    uint64_t batch;
    int64_t time_ms;
    uint64_t digest; /* of this sink's output in this batch */
};
/* Runs fn once per batch on the driver thread with the batch's data set. On recovery it is called
 * again with the same token and the same records unless BATCH_DONE was reached: make it idempotent
 * by the token. Guarantee: at least once. */
typedef int (*levee_foreach_fn)(levee_batch *batch, const struct levee_token *token, void *arg,
                                struct levee_error *err);
LEVEE_API int levee_foreach_batch_at(levee_stream *s, const char *uid, levee_foreach_fn fn,
                                     void *arg, const char *file, int line);
#define levee_foreach_batch(s, uid, fn, arg) levee_foreach_batch_at(s, uid, fn, arg, LEVEE_AT)
LEVEE_API size_t levee_batch_partitions(const levee_batch *batch);
LEVEE_API size_t levee_batch_count(const levee_batch *batch);
/* Records of one partition; the array lives until fn returns. */
LEVEE_API const struct levee_record *levee_batch_records(const levee_batch *batch, size_t partition,
                                                         size_t *ret_n);
/* Prints the first n records of each batch to stdout, with a header that names the batch time.
 * Guarantee: at least once. */
LEVEE_API int levee_print_at(levee_stream *s, size_t n, const char *file, int line);
#define levee_print(s, n) levee_print_at(s, n, LEVEE_AT)

enum levee_value_format { LEVEE_VALUE_TEXT = 0, LEVEE_VALUE_I64, LEVEE_VALUE_F64 };

struct levee_file_sink_options {
    const char *path;   /* directory of the output; created; belongs to one sink of one context */
    const char *prefix; /* NULL: "batch" → batch-<16 digits batch id>.txt */
    const char *suffix; /* NULL: ".txt" */
    enum levee_value_format value; /* how values are written */
    bool adopt;                    /* take over a location marked by another context */
};
/* One published file per non-empty batch: "key<TAB>value\n" (no key: "value\n"), in partition
 * order. Transactional: exactly once; a consumer may move files away. Durable: the file and its
 * name before the batch counts as done. */
LEVEE_API int levee_file_sink_at(levee_stream *s, const char *uid,
                                 const struct levee_file_sink_options *options, const char *file,
                                 int line);
#define levee_file_sink(s, uid, ...) levee_file_sink_at(s, uid, __VA_ARGS__, LEVEE_AT)

struct levee_kafka_sink_options {
    const char *brokers;             /* "host:port,host:port" */
    const char *topic;               /* has one writing context; its consumers use read_committed */
    enum levee_value_format value;   /* how values are written */
    const char *const *properties;   /* NULL-ended list of "name=value" handed to the client;
                                        those that would break the promises are refused */
    uint32_t transaction_timeout_ms; /* 0: 10000. A dead writer hides newer records this long */
    uint32_t refresh_ms;        /* the token is written again after this idle time; 0: one hour */
    uint32_t create_partitions; /* creates a missing topic with so many; 0: TOPIC error */
    bool adopt;                 /* take over a topic marked by another context or uid */
    bool at_least_once;         /* a plain idempotent producer: no transactions, no token */
};
/* One record per record: key, value (NULL: a tombstone); partition by Java's murmur2 of the key,
 * round robin without one. All of a batch in one transaction together with its token: exactly once
 * for readers with isolation.level=read_committed. docs/kafka.md has rights, errors and retention.
 */
LEVEE_API int levee_kafka_sink_at(levee_stream *s, const char *uid,
                                  const struct levee_kafka_sink_options *options, const char *file,
                                  int line);
#define levee_kafka_sink(s, uid, ...) levee_kafka_sink_at(s, uid, __VA_ARGS__, LEVEE_AT)

/* ------------------------------------------------------------------ sources */

/* In-memory source for tests and embedding: each levee_queue_push is one data set. Unreliable
 * unless `replayable`: then what was pushed is durable when push_durable returns. */
LEVEE_API levee_stream *levee_queue_source_at(levee_context *ctx, const char *uid,
                                              uint32_t partitions, const char *file, int line);
#define levee_queue_source(ctx, uid, partitions)                                                   \
    levee_queue_source_at(ctx, uid, partitions, LEVEE_AT)
/* Cuts n records into the source's partitions (contiguous, as even as possible) and appends them.
 * sequence: 0 = unnumbered; otherwise record i has sequence number sequence + i and repeats are
 * dropped. Returns FULL when the buffer is full. Copies. */
LEVEE_API int levee_queue_push(levee_stream *source, const struct levee_record *records, size_t n,
                               uint64_t sequence, struct levee_error *err);
/* Highest sequence number that is durable (0: none). */
LEVEE_API uint64_t levee_queue_durable(levee_stream *source);
/* No more will be pushed (stop_at_end). */
LEVEE_API void levee_queue_end(levee_stream *source);

struct levee_tcp_options {
    const char *address; /* "host:port"; for a server "host:0" picks a port */
    bool listen;         /* false: connect, as NetworkWordCount does; true: listening server */
    bool acknowledged; /* the protocol of docs/tcp.md: producer id, sequences, durable acks. Server
                          only */
    uint32_t line_max; /* longest line, bytes; 0: 1 MiB */
    uint32_t connections_max; /* 0: 256 */
};
/* Lines of text over TCP; without `acknowledged` an unreliable source: at most once for what was in
 * flight. */
LEVEE_API levee_stream *levee_tcp_source_at(levee_context *ctx, const char *uid,
                                            const struct levee_tcp_options *options,
                                            const char *file, int line);
#define levee_tcp_source(ctx, uid, ...) levee_tcp_source_at(ctx, uid, __VA_ARGS__, LEVEE_AT)
/* The port a listening source got; 0 before it listens. */
LEVEE_API uint16_t levee_tcp_port(levee_stream *source);

enum levee_kafka_start { /* where a partition begins of which nothing is known yet */
                         LEVEE_KAFKA_EARLIEST = 0,
                         LEVEE_KAFKA_LATEST,   /* what is committed after the first start */
                         LEVEE_KAFKA_TIMESTAMP /* the first record at or after start_time_ms */
};
enum levee_kafka_gap { /* records were deleted at the broker before we had read them */
                       LEVEE_KAFKA_STOP = 0, /* OFFSET_RANGE, naming the missing range */
                       LEVEE_KAFKA_SKIP /* reported, counted and remembered in the log; reading goes
                                           on behind the gap */
};
struct levee_kafka_partition {
    const char *topic;
    int32_t partition;
};
struct levee_kafka_offset {
    const char *topic;
    int32_t partition;
    int64_t offset;
};
struct levee_kafka_options {
    const char *brokers; /* "host:port,host:port" */

    /* What is read: exactly one of the four. */
    const char *topic;         /* all partitions of one topic */
    const char *const *topics; /* … of several; ended by NULL */
    const char *topic_pattern; /* … of all topics whose whole name matches this POSIX extended
                                  regular expression; internal ones (__…) never */
    const struct levee_kafka_partition *partitions; /* only these: several processes can share a
                                                       topic, each with a directory of its own */
    size_t partition_count;

    /* Where a partition begins that was never read. Partitions that a known topic gains, and topics
     * that match the pattern later, are read from their beginning. */
    enum levee_kafka_start start;
    int64_t start_time_ms;
    const struct levee_kafka_offset *offsets; /* for these instead of `start` */
    size_t offset_count;

    bool envelope; /* values carry topic, partition, offset and headers: see levee_kafka_record */
    enum levee_kafka_gap on_gap;
    uint64_t max_rate_per_partition; /* records per second; 0: no limit */
    const char *group;  /* consumer group whose offsets are kept up to date for lag monitors; they
                           are never read back, but name us, so that two contexts that read the same
                           partitions in one group are refused (SOURCE_FOREIGN). NULL: none */
    uint32_t commit_ms; /* how often; 0: 5000 */
    bool adopt;         /* take over partitions that another context has in the group */
    uint32_t look_ms;   /* how often new topics and partitions are looked for, and how long a named
                           one that is missing at a start is waited for; 0: 5000 */
    uint32_t fetch_wait_ms;        /* how long a broker may wait for data; 0: 10 */
    const char *const *properties; /* NULL-ended list of "name=value" handed to the client; those
                                      that would break the promises are refused by name */
};
/* Committed records of Kafka topics, exactly once: key, value (NULL: a tombstone), time_ms.
 * Positions are kept in the log and the checkpoint, never in the group. docs/kafka.md has rights,
 * retention and errors: TOPIC, TOPIC_CHANGED, OFFSET_RANGE, RECORD_DAMAGED, RECORD_TOO_LONG,
 * SOURCE_FOREIGN, ACCESS; an unreachable broker is waited for (BROKER, receiver_error). */
LEVEE_API levee_stream *levee_kafka_source_at(levee_context *ctx, const char *uid,
                                              const struct levee_kafka_options *options,
                                              const char *file, int line);
#define levee_kafka_source(ctx, uid, ...) levee_kafka_source_at(ctx, uid, __VA_ARGS__, LEVEE_AT)

struct levee_kafka_status {
    uint64_t topics, partitions; /* being read */
    uint64_t verified;           /* since the start: positions whose last record was found again */
    uint64_t absent;             /* … where it was gone, by retention or compaction */
    uint64_t gaps, gap_offsets;  /* ever: ranges skipped (on_gap), and the offsets in them */
    uint64_t commits, commit_failures; /* since the start: to the group */
};
/* Thread: any, from setup on. Errors: INVALID (not a Kafka source). */
LEVEE_API int levee_kafka_source_status(levee_stream *source, struct levee_kafka_status *ret);

/* A record of a source with `envelope`, opened. Views into the record. */
struct levee_kafka_message {
    struct levee_slice topic;
    int32_t partition;
    int64_t offset;
    int64_t time_ms;      /* 0: none */
    bool log_append_time; /* the broker's time of writing, not the sender's */
    struct levee_slice key, value;
    size_t header_count;
    struct levee_slice headers; /* encoded: use the two functions below */
};
/* Opens an envelope. Thread: worker, any. Errors: INVALID (not an envelope). */
LEVEE_API int levee_kafka_record(const struct levee_record *record,
                                 struct levee_kafka_message *ret);
/* The i-th header, from 0; false: there is none. Values may be absent (data == NULL). */
LEVEE_API bool levee_kafka_header_at(const struct levee_kafka_message *message, size_t i,
                                     struct levee_slice *ret_name, struct levee_slice *ret_value);
/* The last header of that name. */
LEVEE_API bool levee_kafka_header(const struct levee_kafka_message *message, const char *name,
                                  struct levee_slice *ret_value);

#ifdef __cplusplus
}
#endif
#endif
