/*
 * The protocol half of the runtime: what a context is. Private to runtime/ (connectors use the
 * accessors at the end).
 *
 * Threads. `loop` owns everything here that has no other note. Receivers enter through inlet.c (a
 * source's mutex), the log lane through frames' done callbacks, sinks and checkpoints run on lanes
 * of their own and post back to the loop.
 */
#ifndef LEVEE_RT_CONTEXT_H
#define LEVEE_RT_CONTEXT_H

#include <pthread.h>

#include "levee/testing.h"
#include "recovery/recovery.h"
#include "runtime/accumulate.h"
#include "runtime/engine.h"
#include "runtime/shared_values.h"

/* ---- life cycle ---- */
enum rt_life { RT_INITIALISED, RT_STARTING, RT_STARTED, RT_STOPPING, RT_STOPPED };
const char *rt_life_name(enum rt_life life);

/* ---- sources ---- */
struct rt_producer { /* one numbered producer of a source; live side guarded by the source's mutex
                      */
    struct levee_slice id; /* owned bytes */
    uint64_t hash;
    uint64_t taken;        /* last sequence taken */
    uint64_t durable;      /* last sequence durable */
    uint64_t applied;      /* last sequence in a computed batch: loop */
    uint64_t taken_hash;   /* of the record `taken`; 0: not known, or the source has no identity */
    uint64_t applied_hash; /* of the record `applied` */
    uint64_t connection;   /* the newest hello; 0: none yet */
    uint64_t ticket;       /* of its last append */
    bool gone;             /* said bye (live side) */
    bool applied_gone;     /* … in a computed batch: loop */
    struct rt_block *open; /* NULL: none */
};
struct rt_fact { /* what levee_inlet_remember stored */
    char *name;
    struct levee_slice value; /* owned */
};
struct levee_inlet;
struct rt_reread { /* records that are read again (reread.c); the lane's while busy, else the loop's
                    */
    struct levee_inlet *inlet;
    struct io_lane *lane; /* NULL: recovery found nothing for it to do */
    struct io_task task, reply;
    struct rt_block **blocks;
    size_t count, cap, done;
    size_t left; /* blocks of the last life that are still without records */
    bool busy, reported;
    _Atomic bool hurry;
    uint32_t backoff_ms;
    int code;
    struct levee_error err;
};
enum rt_receiver_state { RT_RECEIVER_OFF, RT_RECEIVER_ON, RT_RECEIVER_FAILED };

struct levee_inlet { /* = a source at run time */
    levee_context *ctx;
    levee_stream *node;
    uint32_t ordinal, table;
    const struct levee_receiver_ops *ops;
    void *self;
    struct levee_receiver_options options;

    pthread_mutex_t mutex; /* guards from here … */
    struct rt_producer **producers;
    size_t producer_count, producer_cap;
    struct map producer_map;
    struct rt_block **anonymous; /* open blocks of unnumbered records, by partition */
    size_t open_blocks;
    uint64_t open_since_ns; /* of the oldest open block */
    struct fifo waiting; /* blocks with an LSN and not in a batch, in LSN order (rt_block.link) */
    uint64_t waiting_records;
    uint64_t ticket; /* current generation: what appends return */
    uint64_t durable_ticket;
    uint64_t next_connection;
    struct rt_fact *facts;
    size_t fact_count, fact_cap;
    bool taking;         /* appends are accepted */
    bool want_ready;     /* somebody got FULL */
    bool ended;          /* levee_inlet_end */
    int64_t rate_tokens; /* may go below zero by one append */
    uint64_t rate_refill_ns;
    bool ready_timed;
    bool generation_used;           /* something was appended in this generation */
    uint64_t last_lsn, durable_lsn; /* of this source's blocks */
    size_t size_hint;               /* payload of the last block: the next one is made as large */
    struct {
        uint64_t ticket, lsn;
    } * closing; /* generations on their way to the disk, oldest first */
    size_t closing_count, closing_cap;
    bool fail_pending, fail_fatal;
    struct levee_error fail_error;
    bool report_pending; /* the listener has not heard of report_error yet */
    struct levee_error report_error;
    /* … to here */

    _Atomic bool kicked;
    struct io_task fail_task, report_task, restart_task, ready_task, kick_task;
    _Atomic bool kick_timed;
    enum rt_receiver_state state;
    uint32_t backoff_ms;
    uint64_t consumed_lsn; /* last block in a computed batch */
    struct rt_reread reread;
};
struct rt_source { /* the engine's name for it */
    struct levee_inlet inlet;
};

/* ---- sinks ---- */
struct rt_batch;
struct rt_sink {
    levee_context *ctx;
    levee_stream *node;
    uint32_t ordinal, table;
    const struct levee_sink_ops *ops;
    void *self;
    levee_foreach_fn foreach; /* ops == NULL: foreach_batch */
    void *foreach_arg;
    struct io_lane *lane; /* its own, or the driver */
    bool is_open;         /* ops->open succeeded */
    bool judged;          /* its token is known and fits */
    bool known;           /* SINK_INIT is in log or checkpoint */
    uint64_t start_batch; /* of its SINK_INIT: batches up to it are not for this sink */
    uint64_t skip_to;     /* batches up to this are there already */
    uint64_t confirmed;   /* newest batch with output it has committed */
    enum levee_token_state token_state;
    struct levee_token token; /* what last_token said */
    bool reachable;
    bool added;            /* not in the stored graph */
    bool settled;          /* nothing of an earlier life or an unclear commit is in flight there */
    struct buf note;       /* what the sink wants remembered; the loop's, steady while `busy` */
    struct buf fresh_note; /* what it said last; the job's */
    int note_code;

    /* the job: owned by the lane while `busy` */
    enum { RT_SINK_LOOK, RT_SINK_SETTLE, RT_SINK_BATCH, RT_SINK_REFRESH } job;
    struct io_task task, reply, note_task, refresh_task;
    uint64_t used_ns;       /* when the sink was last told anything */
    uint64_t busy_since_ns; /* … and when it was asked what it is busy with */
    struct rt_batch *batch; /* what it commits now; NULL: idle */
    bool busy;
    uint32_t backoff_ms; /* > 0: the next job waits until retry_at_ns */
    uint64_t retry_at_ns;
    bool waiting_reported;
    int code;
    struct levee_error err;
    struct levee_refusal *refusals; /* code SINK_REFUSED: which records */
    size_t refusal_count, refusal_cap;
    uint64_t refused_batch; /* the newest of which it refused something … */
    uint32_t refused_try;   /* … and the try that says so */
};

/* ---- batches ---- */
struct rt_sink_result {
    uint32_t table;
    uint64_t digest, records;
};
struct rt_source_range { /* what a batch takes of a source */
    uint32_t table;
    uint64_t first_lsn, last_lsn, blocks, records;
};
struct rt_shared_ref { /* a version that a batch saw */
    uint32_t table;
    uint64_t number, hash;
};
struct rt_watermark { /* of the node with this table */
    uint32_t table;
    int64_t at_ms;
};
struct rt_logged_batch { /* a batch as the log has it: read at start */
    struct link link;
    struct rt_header header;
    uint64_t open_lsn;
    struct rt_source_range *ranges;
    size_t range_count;
    struct rt_watermark *watermarks; /* as it was opened with */
    size_t watermark_count;
    struct rt_shared_ref *shared;
    size_t shared_count;
    char program[65];
    bool has_result, done;
    uint32_t try_;
    char result_program[65];
    struct rt_sink_result *sinks;
    size_t sink_count;
    struct rt_decision *decisions;
    size_t decision_count;
    uint64_t state_digest; /* 0: not taken */
    struct buf bytes;      /* what decisions' views point into */
};
enum rt_stage { RT_COMPUTING, RT_RESULT_SYNC, RT_SINKING, RT_BATCH_DONE };
struct rt_batch {
    struct link link; /* in ctx->committing */
    levee_context *ctx;
    enum rt_stage stage;
    struct rt_header header;
    struct rt_compute compute;
    struct rt_block **blocks; /* all sources, grouped by source; pinned until done */
    size_t block_count;
    struct rt_input *inputs;
    struct rt_source_range *ranges;
    size_t range_count;
    int64_t *watermarks;                     /* one per clock of the engine */
    struct rt_logged_batch *logged;          /* replay: what the log says; owned */
    uint32_t try_, logging_try, durable_try; /* newest; on its way into the log; in it */
    struct rt_decision *refusals;            /* what sinks would not take, in order of place */
    size_t refusal_count, refusal_cap;
    struct arena letters;       /* values of records for sinks that take dead letters */
    struct rt_version **shared; /* by object: what this batch sees; pinned. NULL: nothing yet */
    size_t shared_count;
    struct buf accumulated; /* name and total of every accumulator, if the batch has changed any */
    struct buf open_bytes, result_bytes;
    struct wal_frame *frames; /* the chain that makes OPEN and RESULT durable */
    size_t frame_count;
    struct io_task durable_task;
    int durable_code;
    bool queued; /* in ctx->committing */
    size_t sinks_left;
    bool *sink_done; /* by sink ordinal */
    uint64_t submitted_ns, started_ns, computed_ns;
    uint64_t records;
};

/* ---- dead letters (letters.c) ---- */
struct rt_origin {               /* of a record; of a gap: what is missing */
    char source[65];             /* "": a function made it */
    struct levee_slice producer; /* a view */
    uint64_t first, last;        /* sequences; 0: it was not numbered */
};
struct rt_letters { /* stored whole in every version, bounded by count and bytes */
    struct buf bytes;
    uint64_t count;
};

/* ---- checkpoints in the making (ckpt_job.c) ---- */
enum rt_ckpt_stage { RT_CKPT_NONE, RT_CKPT_GATHERED, RT_CKPT_PUBLISHING, RT_CKPT_FOLDING };
struct rt_ckpt {
    enum rt_ckpt_stage stage;
    struct ckpt_store store;
    uint64_t last_batch; /* of the newest version */
    uint64_t last_digest;
    uint64_t batch, replay_from, digest; /* the candidate */
    struct ckpt_slices *tables;
    size_t table_count;
    struct ckpt_item *small, *meta;
    size_t small_count, meta_count;
    struct arena arena;        /* of small and meta */
    struct rt_letters letters; /* those up to the candidate's batch */
    bool has_letters;          /* … are among the small items */
    uint64_t gathered_ns;
    struct io_task task, reply, timer;
    struct ckpt_version published;
    struct ckpt_fold *fold;
    struct ckpt_fold_plan fold_plan;
    int code;
    struct levee_error err;
    bool no_space_reported, waiting_for_space;
    uint64_t trim_to;    /* computed on the checkpoint lane: LSN below which the log may go … */
    uint64_t trim_batch; /* … and the batch that two disjoint chains reach */
};

struct rt_owned {
    void *arg;
    void (*destructor)(void *);
};

struct levee_context {
    struct io *io;
    bool io_owned;
    struct levee_listener listener;
    struct levee_options opt; /* defaults filled in; strings owned */
    char program[65];
    struct rt_graph *graph;
    struct rec_dir dir;
    bool dir_open;
    struct rec_facts facts; /* from get_or_create to start */
    bool has_facts;
    struct wal *wal;
    struct rt_engine *engine;
    struct io_lane *loop, *driver, *ckpt_lane;

    _Atomic int life;       /* enum rt_life */
    struct levee_error why; /* why it stopped; written before life becomes STOPPED */
    bool failed, draining, stop_requested, final_ckpt;
    bool receivers_stopped;
    _Atomic bool user_stop; /* from levee_stop / levee_drain, any thread */
    _Atomic uint32_t user_drain_ms;
    _Atomic bool user_drain;
    struct io_task stop_task, drain_task, fail_task, pump_task, tick_task, done_hint_task,
        drain_deadline_task, start_task;
    _Atomic bool pump_posted;
    _Atomic bool ckpt_hurry; /* stopping: a fold in progress is given up */
    pthread_mutex_t fail_mutex;
    struct levee_error fail_error; /* first failure from any thread */
    struct fifo slices;            /* queries of levee_slice_each; guarded by fail_mutex */
    _Atomic bool slices_asked;
    bool fail_set, fail_posted;

    /* batches */
    struct rt_batch *computing;
    struct fifo committing; /* computed, not done; in order */
    size_t committing_bytes;
    struct fifo logged;  /* struct rt_logged_batch to replay, in order */
    uint64_t last_batch; /* id of the newest opened or computed batch */
    int64_t last_time;   /* its batch time */
    uint64_t done_batch; /* every sink has it */
    bool hint_timed;
    struct fifo hints; /* lazy frames (DONE, CHECKPOINT_MARK) that ride with the next group */
    uint64_t newest_open_at_start;

    /* clock */
    int64_t wall0_ms;
    uint64_t mono0_ns;

    struct rt_ckpt ckpt;
    uint64_t last_ckpt_ns;
    struct rt_letters letters;
    struct rt_accumulators accumulators;
    struct rt_shared shared;

    _Atomic uint64_t buffered; /* bytes of blocks in memory */
    _Atomic uint64_t buffered_max;
    struct {
        struct counter received, duplicate, processed, dead_letters, blocks, bytes_received,
            batches, replayed, checkpoints;
    } count;
    _Atomic uint64_t shown_late;
    uint64_t recovery_ns, tail_dropped, start_ns;
    _Atomic uint64_t shown_batch, shown_ckpt, shown_keys, shown_state_bytes; /* for other threads */
    enum levee_guarantee lowered; /* LEVEE_ANY: not lowered (continue_nondeterministic) */
    char lowered_uid[65];

    struct rt_owned *owned;
    size_t owned_count, owned_cap;
    pthread_mutex_t owned_mutex;
};

/* ---- frames.c: payloads of BATCH_OPEN (with optional fields, each under a tag),  BATCH_RESULT,
 * SINK_INIT, SOURCE_INIT ---- */
#define RT_FRAME_MORE 1u /* flag of a BATCH_RESULT frame: the next frame continues it */
void rt_open_encode(const struct rt_batch *b, const char *program, struct buf *ret);
int rt_open_decode(struct levee_slice bytes, struct rt_logged_batch *ret, struct levee_error *err);
void rt_result_encode(const struct rt_batch *b, const char *program, uint64_t state_digest,
                      struct buf *ret);
/* Takes over bytes (ret->bytes): decisions point into them. */
int rt_result_decode(struct buf *bytes, struct rt_logged_batch *ret, struct levee_error *err);
void rt_logged_free(struct rt_logged_batch *l);
/* What the batch takes of a source; NULL: nothing. */
const struct rt_source_range *rt_logged_range(const struct rt_logged_batch *l, uint32_t table);
void rt_decision_encode(const struct rt_decision *d, struct buf *ret);
bool rt_decision_decode(struct cursor *c, struct rt_decision *ret);
/* A frame of our own on the heap with its payload copied behind it; freed by its done callback.
 * NULL: no memory. */
struct wal_frame *rt_frame_new(uint16_t type, uint32_t stream, uint64_t seq,
                               struct levee_slice payload);

/* ---- source.c, inlet.c ---- */
struct rt_source *rt_source_new(levee_context *ctx, levee_stream *node,
                                const struct levee_receiver_options *o,
                                const struct levee_receiver_ops *ops, void *self);
void rt_source_free(struct rt_source *s);
void rt_source_start_all(levee_context *ctx);
void rt_source_stop_all(
    levee_context *ctx); /* receivers' threads are gone when it returns; open blocks are queued */
/* Takes waiting blocks up to last_lsn (UINT64_MAX: all) into `into` (linked), in order; returns how
 * many. */
size_t rt_source_take(struct rt_source *s, uint64_t last_lsn, struct fifo *into);
bool rt_source_has_input(struct rt_source *s);
/* Finished: ended and nothing open or waiting. */
bool rt_source_exhausted(struct rt_source *s);
uint64_t rt_source_first_waiting(struct rt_source *s); /* its LSN; UINT64_MAX: none */
/* Blocks of a batch are done: memory goes back, somebody may be ready again. */
void rt_blocks_release(levee_context *ctx, struct rt_block **blocks, size_t n);
void rt_inlet_gather(void *arg); /* wal's gather hook: seals what is open */

/* ---- producers.c: mutex held ---- */
struct rt_producer *rt_producer_find(struct levee_inlet *in, struct levee_slice id);
struct rt_producer *rt_producer_add(struct levee_inlet *in, struct levee_slice id);
/* The one that is present, or a new one. Errors: STOPPED, INVALID, PRODUCER_LIMIT, NOMEM. */
int rt_producer_get(struct levee_inlet *in, struct levee_slice id, struct rt_producer **ret,
                    struct levee_error *err);

/* ---- source_store.c ---- */
/* Recovery: a block or fact read back from the log or a checkpoint. Takes the block. */
int rt_source_restore_block(struct rt_source *s, struct rt_block *b, struct levee_error *err);
int rt_source_restore_fact(struct rt_source *s, struct levee_slice name, struct levee_slice value,
                           struct levee_error *err);
/* A computed batch has used this block: the tables "as of that batch" move on. */
int rt_source_applied(struct rt_source *s, const struct rt_block *b, struct levee_error *err);
/* Items of a checkpoint: producers as of the last computed batch, facts. */
void rt_source_encode(struct rt_source *s, struct buf *ret);
int rt_source_decode(struct rt_source *s, struct levee_slice bytes, struct levee_error *err);

/* ---- reread.c ---- */
/* After the log was read. */
int rt_reread_open(levee_context *ctx, struct levee_error *err);
/* Are there blocks without records that the next batch takes (next NULL: an unlogged one)? Then
 * they are being read, and rt_pump is called when they are there. */
bool rt_reread_needed(levee_context *ctx, const struct rt_logged_batch *next);
bool rt_reread_idle(levee_context *ctx);
void rt_reread_close(levee_context *ctx);

/* ---- sink_judge.c ---- */
/* The identity of this life's output in b; NULL: in none yet. */
void rt_sink_token(const struct rt_sink *s, const struct rt_batch *b, struct levee_token *ret);
int rt_sink_look(struct rt_sink *s,
                 struct levee_error *err); /* open + last_token; unreachable is not an error */
/* The token is missing or too old for what is remembered: looks for other evidence. */
int rt_sink_search(struct rt_sink *s, struct levee_error *err);
int rt_sink_judge(struct rt_sink *s, struct levee_error *err); /* rule 4d.6 */
int rt_sink_restore_note(struct rt_sink *s, struct levee_slice note, struct levee_error *err);
bool rt_sinks_judged(levee_context *ctx);

/* ---- sink.c ---- */
struct rt_sink *rt_sink_new(levee_context *ctx, levee_stream *node);
void rt_sink_free(struct rt_sink *s);
void rt_sinks_start(levee_context *ctx); /* arms the refresh timers */
void rt_sinks_begin(
    struct rt_batch *b); /* marks the sinks that have it already or need nothing of it */
void rt_sinks_next(levee_context *ctx); /* idle sinks take the oldest batch they lack */
bool rt_sinks_idle(levee_context *ctx);
/* How many computed batches sinks lack that are not held up themselves: a sink that waits for what
 * is down does not count, unless all of them do. */
size_t rt_sinks_lack(levee_context *ctx);

/* ---- letters.c ---- */
/* The letters of a batch that was just computed; what its first run's sinks refused is taken out of
 * their outputs again. */
int rt_letters_computed(struct rt_batch *b, struct levee_error *err);
/* s->refusals of s->batch become dead letters, and BATCH_RESULT is amended; or, by policy, the
 * sink's error is given back. */
int rt_letters_refused(struct rt_sink *s, struct levee_error *err);
bool rt_takes_letters(const struct rt_sink *s);
void rt_letters_encode(const struct rt_letters *l, struct buf *ret);
int rt_letters_decode(struct rt_letters *l, struct levee_slice bytes, struct levee_error *err);

/* ---- letter_origin.c ---- */
void rt_origin_of(const struct rt_batch *b, const struct rt_decision *d, struct rt_origin *ret);
/* The next of the batch's gaps, from block *at_io on, as a letter; false: there is none. */
bool rt_next_gap(const struct rt_batch *b, size_t *at_io, struct rt_decision *ret_decision,
                 struct rt_origin *ret);
void rt_origin_encode(const struct rt_origin *o, struct buf *ret);
bool rt_origin_decode(struct cursor *c, struct rt_origin *ret);

/* ---- accumulators.c ---- */
void rt_accumulators_init(struct rt_accumulators *all);
void rt_accumulators_release(struct rt_accumulators *all);
/* The batch's sums become part of the totals, and those its own to be shown. */
int rt_accumulators_computed(struct rt_batch *b, struct levee_error *err);
void rt_accumulators_publish(struct rt_batch *b); /* every sink has the batch */
void rt_accumulators_encode(levee_context *ctx, struct buf *ret);
int rt_accumulators_decode(levee_context *ctx, struct levee_slice stored, struct levee_error *err);

/* ---- shared_values.c ---- */
void rt_shared_init(struct rt_shared *all);
void rt_shared_release(struct rt_shared *all);
int rt_shared_start(levee_context *ctx, struct levee_error *err); /* the directory is ours */
int rt_shared_pin(struct rt_batch *b, struct levee_error *err);
void rt_shared_unpin(struct rt_batch *b);
void rt_shared_encode(levee_context *ctx, struct buf *ret);
/* No replay will begin at or before batch m. */
void rt_shared_trim(levee_context *ctx, uint64_t m);

/* ---- slice.c ---- */
void rt_slices_answer(levee_context *ctx); /* loop */

/* ---- batch.c, loop.c ---- */
void rt_pump(levee_context *ctx);      /* loop: does whatever can be done now */
void rt_pump_soon(levee_context *ctx); /* any thread */
void rt_fail(levee_context *ctx,
             const struct levee_error *err); /* any thread: the context stops with this error */
int rt_batch_open(levee_context *ctx, struct rt_logged_batch *logged, int64_t time_ms,
                  uint32_t ticks, struct levee_error *err);
void rt_batch_free(struct rt_batch *b);
/* Logs the result again, as a later try. */
int rt_batch_amend(struct rt_batch *b, struct levee_error *err);
void rt_hint(levee_context *ctx, uint16_t type, uint64_t seq); /* a frame nobody waits for */
void rt_loop_init(levee_context *ctx);
/* Appends hints, then frames, in one chain. */
int rt_append(levee_context *ctx, struct wal_frame *first, struct levee_error *err);
/* The clock: newest due batch time at or before now; ns until the next one. */
int64_t rt_clock_due(levee_context *ctx);
uint64_t rt_clock_next_ns(levee_context *ctx);
void rt_clock_start(levee_context *ctx);
/* Batch time of the newest batch, also of those still to be replayed. */
int64_t rt_newest_time(const levee_context *ctx);

/* ---- ckpt_job.c ---- */
bool rt_ckpt_due(levee_context *ctx);
int rt_ckpt_gather(levee_context *ctx,
                   struct levee_error *err); /* state after ctx->last_batch; no compute running */
void rt_ckpt_start(levee_context *ctx);      /* folds what earlier lives have left */
void rt_ckpt_advance(levee_context *ctx);    /* publishes when its batch is done */
bool rt_ckpt_idle(levee_context *ctx);
void rt_ckpt_init(levee_context *ctx);
void rt_ckpt_release(levee_context *ctx);
int rt_ckpt_load(levee_context *ctx,
                 struct levee_error *err); /* start: state, positions, facts from the chain */
/* The stored graph of the chain in use; empty: none. */
int rt_ckpt_stored_graph(levee_context *ctx, struct buf *ret, struct levee_error *err);

/* ---- replay.c ---- */
int rt_replay_read(levee_context *ctx, uint64_t keep_to,
                   struct levee_error *err); /* log → blocks, facts, logged batches */
int rt_replay_check(struct rt_batch *b,
                    struct levee_error *err); /* rule 4d.5: digests, program, decisions */

/* ---- context.c ---- */
#define RT_FROZEN_COUNT 1 /* batch_interval_ms */
void rt_dir_options(const levee_context *ctx, struct rec_frozen frozen[RT_FROZEN_COUNT],
                    struct rec_dir_options *ret);
const struct ckpt_format *
rt_ckpt_format(const levee_context *ctx); /* LMDB; flat on the simulator */

/* The next wait of something that is tried again: first, twice as long each time, at most max. */
static inline void rt_back_off(uint32_t *ms_io, uint32_t first, uint32_t max)
{
    uint32_t next = *ms_io ? *ms_io * 2 : first;

    *ms_io = next < max ? next : max;
}

/* ---- report.c ---- */
void rt_report_start(levee_context *ctx); /* guarantee and recovery, for people */
/* "waiting for <uid>: …", once: *reported_io remembers it. */
void rt_say_waiting(levee_context *ctx, const char *uid, bool *reported_io,
                    const struct levee_error *why);
void rt_say(levee_context *ctx, int level, const char *fmt, ...) PRINTF(3, 4);
void rt_listen_batch(struct rt_batch *b, int what,
                     const struct levee_error *err); /* 0 submitted … 3 failed */
void rt_show(levee_context *ctx);
int rt_guarantee_check(levee_context *ctx, struct levee_error *err);
void rt_program_id(char out[65]);

/* ---- for connectors ---- */
struct io *rt_context_io(levee_context *ctx);
levee_context *rt_stream_context(levee_stream *s);
struct levee_inlet *rt_stream_inlet(levee_stream *s); /* NULL: not a source */

struct levee_testing {
    struct io *io;
    void (*hook)(const char *name, void *arg);
    void *hook_arg;
};

#endif
