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
    uint64_t records_late; /* set aside as late, ever: dropped, sideways, or dead letters */
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

/* Builders record the caller's line through macros; the functions behind them end in _at. */
#define LEVEE_AT __FILE__, __LINE__

#ifdef __cplusplus
}
#endif

#include "levee/edges.h"   /* sources and sinks */
#include "levee/shared.h"  /* accumulators, broadcasts, data sets */
#include "levee/streams.h" /* operators, state, windows, whole batches */

#endif
