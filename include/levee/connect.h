/*
 * levee connectors: the contracts for receivers and sinks of your own. Versioned.
 *
 * Receiver (push). The runtime calls start with an inlet. The receiver, on any thread of its own,
 * appends records; when a ticket is durable the runtime calls `durable`, and only then may the
 * receiver acknowledge to its own source. There is no other way to acknowledge, so nothing
 * acknowledged can be lost.
 *
 * Sequences. A reliable producer numbers its records (1, 2, 3 … or, with `holes`, any increasing
 * numbers such as Kafka offsets + 1). The inlet compares with the last sequence taken: at or below
 * → dropped, counted, and its ticket completes when the original is durable; the next → taken;
 * beyond (and no holes) → DATA_MISSING with the range.
 */
#ifndef LEVEE_CONNECT_H
#define LEVEE_CONNECT_H

#include "levee/levee.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct levee_inlet levee_inlet;

#define LEVEE_PRODUCER_MAX 128 /* bytes of a producer id */

struct levee_append {
    struct levee_slice producer; /* empty: unreliable, unnumbered */
    uint64_t connection;         /* what levee_inlet_hello returned; 0: not checked */
    uint64_t first_sequence;     /* of records[0]; >= 1 for reliable producers */
    const uint64_t *sequences;   /* with holes: one per record, increasing; NULL: consecutive */
    uint32_t partition;          /* input partition, below the source's count */
    const struct levee_record *records; /* copied once, into the block */
    size_t count;
};
/*
 * Appends records to the open block of their producer. Never blocks: FULL when the buffer option is
 * reached, then `ready` is called once there is room (nothing of this call was taken). *ret_ticket
 * rises; it is durable when `durable` names it or a higher one. Thread: any, one call at a time per
 * producer. Errors: FULL, DATA_MISSING, PRODUCER_UNKNOWN, PRODUCER_LIMIT, PRODUCER_STALE,
 * RECORD_TOO_LONG, WAL_FAILED, STOPPED, NOMEM.
 */
LEVEE_API int levee_inlet_append(levee_inlet *inlet, const struct levee_append *append,
                                 uint64_t *ret_ticket, struct levee_error *err);
/* A producer introduces itself: *ret_durable is its last durable sequence (0: unknown),
 * *ret_connection names this connection: an older connection of the same producer can append no
 * more (PRODUCER_STALE). Errors: PRODUCER_LIMIT, STOPPED. Thread: any. */
LEVEE_API int levee_inlet_hello(levee_inlet *inlet, struct levee_slice producer,
                                uint64_t *ret_durable, uint64_t *ret_connection,
                                struct levee_error *err);
/* The producer is gone for good; logged, and its entry leaves the table. Complete when *ret_ticket
 * is durable. */
LEVEE_API int levee_inlet_bye(levee_inlet *inlet, struct levee_slice producer, uint64_t connection,
                              uint64_t *ret_ticket, struct levee_error *err);
/* A replayable source with holes goes on behind records that are gone for good: sequences first to
 * last of the producer become one dead letter, exactly once, and are taken as far as
 * levee_inlet_position goes. In the log before anything that is appended later; complete when
 * *ret_ticket is durable. Thread: as append. Errors: INVALID (no holes; below what was taken),
 * STOPPED, NOMEM, PRODUCER_LIMIT. */
LEVEE_API int levee_inlet_gap(levee_inlet *inlet, struct levee_slice producer, uint32_t partition,
                              uint64_t first, uint64_t last, uint64_t *ret_ticket,
                              struct levee_error *err);
/* Last sequence taken of a producer after recovery: where a replayable source resumes. 0: none. */
LEVEE_API uint64_t levee_inlet_position(levee_inlet *inlet, struct levee_slice producer);
/* Hash of the record at that position (levee_record_hash of the bytes as they were appended), kept
 * beside it in log and checkpoint when the source has `identity`; 0: none, or not known. */
LEVEE_API uint64_t levee_inlet_last_hash(levee_inlet *inlet, struct levee_slice producer);
/* Of key, value and time; absent and empty differ. Part of the stored format. Never 0. */
LEVEE_API uint64_t levee_record_hash(const struct levee_record *record);
/* Remembers a fact about the source in the log before anything is fetched (resolved start or end
 * positions): name → value bytes. Blocks until it is durable. Thread: the receiver's own. */
LEVEE_API int levee_inlet_remember(levee_inlet *inlet, const char *name, struct levee_slice value,
                                   struct levee_error *err);
/* The fact remembered under name, copied into buf (*len_io: capacity in, length out); false: none
 * or too small. */
LEVEE_API bool levee_inlet_recall(levee_inlet *inlet, const char *name, void *buf, size_t *len_io);
/* Tells people (a warning in the log) and the listener's receiver_error of trouble that may pass.
 * Of several that come faster than the listener hears them it is told the newest. Thread: any. */
LEVEE_API void levee_inlet_report(levee_inlet *inlet, const struct levee_error *err);
/* stop_at_end: everything up to the end positions was appended. Thread: any. */
LEVEE_API void levee_inlet_end(levee_inlet *inlet);
/* The receiver cannot go on. The runtime stops it and starts it again with back-off (100 ms
 * doubling to 10 s) unless `fatal`: then the context stops with err. Thread: any. */
LEVEE_API void levee_inlet_fail(levee_inlet *inlet, const struct levee_error *err, bool fatal);
LEVEE_API bool levee_inlet_stop_at_end(const levee_inlet *inlet);
LEVEE_API const char *levee_inlet_uid(const levee_inlet *inlet);
/* Records per second this source may take; 0: no limit. */
LEVEE_API uint64_t levee_inlet_max_rate(const levee_inlet *inlet);

struct levee_range { /* records that were appended once */
    struct levee_slice producer;
    uint32_t partition;
    uint64_t first, last; /* sequences of its ends */
    uint32_t count;
};
typedef int (*levee_reread_fn)(void *arg, const struct levee_record *record, uint64_t sequence);

struct levee_receiver_ops {
    int version; /* 1 */
    /* Starts receiving; must not block for long: use a thread. May be called again after stop.
     * Thread: loop. */
    int (*start)(void *self, levee_inlet *inlet, struct levee_error *err);
    /* No append may be running or come after it returns. Thread: loop. Blocks until the receiver's
     * threads are gone. */
    void (*stop)(void *self);
    /* Every ticket up to this one is durable; witnessed tells whether a later synced group proves
     * it. Thread: log; be brief. May be NULL. */
    void (*durable)(void *self, uint64_t ticket);
    /* There is room again after FULL. Thread: any. May be NULL. */
    void (*ready)(void *self);
    /* Frees self. Called once from levee_free. May be NULL. */
    void (*destroy)(void *self);
    /* For `positions`: reads the records of a range again, as they were appended, and gives each to
     * add, in order; ends with add's first code other than 0. May block for a second or so, then
     * RETRY-class errors: it is called again with back-off, from the beginning of the range. What
     * comes is compared with what was received (TOPIC_CHANGED). Thread: a lane of its own, before
     * start and beside the receiver; one call at a time. NULL: cannot. */
    int (*read)(void *self, levee_inlet *inlet, const struct levee_range *range,
                levee_reread_fn add, void *arg, struct levee_error *err);
};
struct levee_receiver_options {
    uint32_t
        partitions;  /* input partitions; 0: 1. Part of the stored format of nothing: may change */
    bool reliable;   /* its producers are numbered: exactly once */
    bool replayable; /* it can read again what it did not hear durable for */
    bool holes;      /* sequences may jump forward */
    bool positions;  /* the log keeps only where its records are: needs `read`, and producers */
    bool identity;   /* the hash of each producer's last record is kept: levee_inlet_last_hash */
};
LEVEE_API levee_stream *levee_receiver_source_at(levee_context *ctx, const char *uid,
                                                 const struct levee_receiver_options *options,
                                                 const struct levee_receiver_ops *ops, void *self,
                                                 const char *file, int line);
#define levee_receiver_source(ctx, uid, ...)                                                       \
    levee_receiver_source_at(ctx, uid, __VA_ARGS__, LEVEE_AT)

/* ------------------------------------------------------------------ sinks */

enum levee_sink_kind {
    LEVEE_SINK_TRANSACTIONAL = 1, /* stores the token atomically with the data: exactly once */
    LEVEE_SINK_IDEMPOTENT, /* the same batch again leaves the same result: exactly once in effect */
    LEVEE_SINK_AT_LEAST_ONCE
};
enum levee_token_state {
    LEVEE_TOKEN_NEVER = 0, /* nothing was ever committed here */
    LEVEE_TOKEN_FOUND,
    LEVEE_TOKEN_LOST,   /* something was, but the token is gone: the sink cannot tell */
    LEVEE_TOKEN_FOREIGN /* the location belongs to another context or uid (token filled in) */
};

#define LEVEE_SINK_NOTE_MAX 65536 /* bytes */

/* A record that the place will not take, however often it is offered: too long, malformed. */
struct levee_refusal {
    uint64_t index; /* the how-manieth record that was written since begin, from 0 */
    int code;       /* the place's own; what a dead letter shows */
};

/*
 * All calls of one sink come from one thread at a time, in the order open, last_token, (begin,
 * write*, commit | abort)*, close. Errors: LEVEE_CLASS_RETRY is tried again with back-off, "waiting
 * for <uid>" is reported meanwhile, receivers go on; anything else stops the context. After a
 * crash, or a commit whose answer was unclear, the runtime asks last_token again and repeats the
 * batch if it must: the same token and the same bytes.
 */
struct levee_sink_ops {
    int version; /* 1 */
    enum levee_sink_kind kind;
    /* identity: context, uid, epoch of this life. Read-only: marks and repairs belong to the first
     * begin. */
    int (*open)(void *self, const struct levee_token *identity, struct levee_error *err);
    /* A token with `records` says that its batch is there in part: it is begun again, all of it is
     * written, and the sink passes over what it has. */
    int (*last_token)(void *self, enum levee_token_state *ret_state, struct levee_token *ret_token,
                      struct levee_error *err);
    int (*begin)(void *self, const struct levee_token *token, struct levee_error *err);
    int (*write)(void *self, size_t partition, const struct levee_record *records, size_t n,
                 struct levee_error *err);
    int (*commit)(void *self, struct levee_error *err);
    void (*abort)(
        void *self); /* undoes begin and writes as far as they show; may be called at any time */
    void (*close)(void *self);
    void (*destroy)(void *self); /* frees self; once, from levee_free; may be NULL */

    /* ---- for places that several processes reach, or that forget; NULL elsewhere ---- */

    /* After the token was judged and before the first begin, and again after a commit whose answer
     * was unclear: ends whatever an earlier life, or the unclear try, may still have in flight, and
     * makes sure that no older process can commit there any more. `now`: this life's identity and
     * epoch with batch, time and digest of the token as judged (0: never). Then last_token is asked
     * and judged again. */
    int (*settle)(void *self, const struct levee_token *now, struct levee_error *err);
    /* What to remember of the place, at most LEVEE_SINK_NOTE_MAX bytes; returns the length. Asked
     * after settle, and then durable in the log before the first begin; and after every commit, for
     * the next checkpoint. */
    size_t (*note)(void *self, void *buf, size_t cap);
    /* The token is missing, or older than batch `confirmed`, which the directory knows to be there:
     * does anything beside the token tell which batch was the last? `note` is the newest one that
     * log or checkpoint hold. Read-only. FOUND with the token of that batch, or LOST with the
     * reason in err (which is no failure). */
    int (*search)(void *self, struct levee_slice note, uint64_t confirmed,
                  enum levee_token_state *ret_state, struct levee_token *ret_token,
                  struct levee_error *err);
    /* Called when there was nothing to commit for refresh_ms, so that the token does not expire. */
    int (*refresh)(void *self, struct levee_error *err);
    uint32_t refresh_ms;

    /* After write or commit gave SINK_REFUSED: how many records the place refuses, and the first
     * `cap` of them. If the options say so they become dead letters (`on_failure`), the batch's
     * result is logged anew without them, and the batch is written again with the same token but
     * another digest, even if nothing is left of it; otherwise the context stops with the error.
     * Nothing of the failed try may show. NULL: refuses nothing. */
    size_t (*refused)(void *self, struct levee_refusal *out, size_t cap);
};
LEVEE_API int levee_sink_at(levee_stream *s, const char *uid, const struct levee_sink_ops *ops,
                            void *self, const char *file, int line);
#define levee_sink(s, uid, ops, self) levee_sink_at(s, uid, ops, self, LEVEE_AT)

#ifdef __cplusplus
}
#endif
#endif
