/*
 * levee edges: the sources and sinks that come with levee. Included by levee/levee.h; programs
 * include that. Contracts for sources and sinks of your own: levee/connect.h.
 */
#ifndef LEVEE_EDGES_H
#define LEVEE_EDGES_H

#include "levee/levee.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------ outputs */

/* Identity of a batch's output: what an exactly-once effect stores beside it. */
struct levee_token {
    char context[33]; /* context id, 32 hex digits */
    char uid[65];
    uint64_t epoch; /* of the life that writes; rises with every start */
    uint64_t batch;
    int64_t time_ms;
    uint64_t digest;  /* of this sink's output in this batch; 0: not remembered */
    uint64_t records; /* a batch in parts: so many of its records are there; 0: all of them */
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

/* A record that a function (LEVEE_DEAD_LETTER) or a sink would not take; or a range that a source
 * skipped for good, because its records were gone before they were read: uid is the source's then,
 * code OFFSET_RANGE, and there is neither key nor value. */
struct levee_dead_letter {
    char uid[65]; /* of the operator or sink; an operator without one: "#place:name" */
    uint64_t batch;
    uint32_t partition; /* of its input */
    uint64_t index;     /* in that partition */
    int code;           /* what the function returned, or the sink's reason */
    uint32_t attempts;
    struct levee_slice key, value; /* the record's; views */
    /* Where it came from, if it got there as it came: not if a function made it. */
    char source[65];             /* uid; "": a function made it */
    struct levee_slice producer; /* Kafka: topic/partition; a view */
    uint64_t first, last; /* its sequence, of a gap the range's; Kafka: offset + 1; 0: none */
};
/* The dead letters of each batch, once it is clear which they are: a stream for sinks only
 * (levee_kafka_sink sends key and value with the rest as headers; other sinks find the rest with
 * levee_dead_letter_of). Exactly as often as the sink. Without a sink the context stores them in
 * its checkpoints, 100,000 at most. */
LEVEE_API levee_stream *levee_dead_letters_at(levee_context *ctx, const char *file, int line);
#define levee_dead_letters(ctx) levee_dead_letters_at(ctx, LEVEE_AT)
/* Opens a record of that stream; false: it is none. */
LEVEE_API bool levee_dead_letter_of(const struct levee_record *record,
                                    struct levee_dead_letter *ret);
/* Every stored letter, oldest first, until `each` returns other than 0, which is returned. Only
 * after levee_await returned. Errors: STATE. */
LEVEE_API int levee_dead_letters_each(levee_context *ctx,
                                      int (*each)(void *arg,
                                                  const struct levee_dead_letter *letter),
                                      void *arg, struct levee_error *err);

enum levee_value_format { LEVEE_VALUE_TEXT = 0, LEVEE_VALUE_I64, LEVEE_VALUE_F64 };

struct levee_file_sink_options {
    const char *path;   /* directory of the output; created; belongs to one sink of one context */
    const char *prefix; /* NULL: "batch" → batch-<16 digits batch id>.txt */
    const char *suffix; /* NULL: ".txt" */
    bool name_by_time;  /* prefix-<batch time in ms><suffix>, as saveAsTextFiles names them */
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
    uint64_t transaction_bytes; /* a batch with more is committed in parts; 0: 64 MiB */
    bool envelope; /* records come from levee_emit_kafka, or from a source with `envelope` */
};
/* One record per record: key, value (NULL: a tombstone); partition by Java's murmur2 of the key,
 * round robin without one. All of a batch in one transaction together with its token: exactly once
 * for readers with isolation.level=read_committed. Records that client or broker refuse for good
 * (too long, malformed) are dead letters, if the options say so. On levee_dead_letters: key and
 * value of the letter, the rest as headers levee.uid, .code, .attempts, .batch, .partition, .index.
 * docs/kafka.md has rights, errors and retention. */
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

enum levee_framing {                  /* what a record of a byte stream is */
                     LEVEE_LINES = 0, /* a line, without its \n or \r\n */
                     LEVEE_LENGTH     /* a 4-byte big-endian length, then so many bytes */
};
struct levee_tcp_options {
    const char *address; /* "host:port"; for a server "host:0" picks a port */
    const char *path;    /* instead of the address: a Unix socket */
    bool listen;         /* false: connect, as NetworkWordCount does; true: listening server */
    bool acknowledged; /* the protocol of docs/tcp.md: producer id, sequences, durable acks. Server
                          and lines only */
    enum levee_framing framing;
    uint32_t line_max;        /* longest line or record, bytes; 0: 1 MiB */
    uint32_t connections_max; /* 0: 256 */
};
/* Records over TCP or a Unix socket; without `acknowledged` an unreliable source: at most once for
 * what was in flight. */
LEVEE_API levee_stream *levee_tcp_source_at(levee_context *ctx, const char *uid,
                                            const struct levee_tcp_options *options,
                                            const char *file, int line);
#define levee_tcp_source(ctx, uid, ...) levee_tcp_source_at(ctx, uid, __VA_ARGS__, LEVEE_AT)
/* The port a listening source got; 0 before it listens. */
LEVEE_API uint16_t levee_tcp_port(levee_stream *source);

enum levee_file_format {                       /* what a record of a file is */
                         LEVEE_FILE_LINES = 0, /* a line, without its \n or \r\n */
                         LEVEE_FILE_WHOLE,     /* the whole file; its key is the path */
                         LEVEE_FILE_FIXED,     /* record_bytes each */
                         LEVEE_FILE_LENGTH     /* a 4-byte big-endian length, then so many bytes */
};
enum levee_file_trouble { /* a file changed or vanished after it was begun, or is damaged */
                          LEVEE_FILE_STOP = 0, /* the context stops with a typed error */
                          LEVEE_FILE_SKIP      /* reported and remembered; the next file goes on */
};
struct levee_directory_options {
    const char *path;    /* the directory; missing: it is waited for */
    const char *pattern; /* of shell: "*.log" is of names, at any depth with `recursive`; "x/p-*.gz"
                            of paths below the directory. NULL: all. Names that begin with a dot or
                            end in .tmp only when the pattern does too */
    bool recursive;
    enum levee_file_format format;
    uint32_t record_bytes; /* of LEVEE_FILE_FIXED */
    uint32_t record_max;   /* longest record; 0: 1 MiB, of whole files 16 MiB */
    bool keys;             /* the key of a record is the path of its file below the directory */
    uint32_t partitions;   /* files are dealt in turns; 0: 1 */
    uint32_t settle_ms;    /* a file waits until it was not changed for so long; 0: 1000 */
    uint32_t rescan_ms;    /* how often everything is looked at; 0: 60000. More rarely where a look
                              would take more than 1/200 of the time */
    enum levee_file_trouble on_trouble;
};
/* Files that appear in a directory, each read once, for ever, its records exactly once; those that
 * are there at the first start as well, whatever their times. Names that end in .gz are
 * decompressed (UNSUPPORTED without zlib). A ledger in the state directory knows every file by
 * path, inode, size and hash; docs/directory.md has what counts as the same file, and the errors:
 * FILE_CHANGED, FILE_MISSING, RECORD_DAMAGED, RECORD_TOO_LONG, LEDGER. */
LEVEE_API levee_stream *levee_directory_source_at(levee_context *ctx, const char *uid,
                                                  const struct levee_directory_options *options,
                                                  const char *file, int line);
#define levee_directory_source(ctx, uid, ...)                                                      \
    levee_directory_source_at(ctx, uid, __VA_ARGS__, LEVEE_AT)

struct levee_directory_status {
    uint64_t known;              /* files in the ledger */
    uint64_t begun, read;        /* since the start: files begun, and read to their end */
    uint64_t waiting;            /* seen, and not settled yet */
    uint64_t skipped, changed;   /* since the start: cut by on_trouble; changed after their end */
    uint64_t bytes;              /* since the start: read from files */
    uint64_t scans, lost_events; /* since the start: whole looks; times the kernel dropped events */
    uint64_t ledger_bytes, ledger_commits; /* on disk now; since the start */
};
/* Thread: any, from setup on. Errors: INVALID (not a directory source). */
LEVEE_API int levee_directory_source_status(levee_stream *source,
                                            struct levee_directory_status *ret);

enum levee_kafka_start { /* where a partition begins of which nothing is known yet */
                         LEVEE_KAFKA_EARLIEST = 0,
                         LEVEE_KAFKA_LATEST,   /* what is committed after the first start */
                         LEVEE_KAFKA_TIMESTAMP /* the first record at or after start_time_ms */
};
enum levee_kafka_mode { /* what our log holds; may change from start to start */
                        LEVEE_KAFKA_DATA = 0, /* the messages: retention upstream cannot hurt */
                        LEVEE_KAFKA_POSITIONS /* where they are: a replay reads them again from
                                                 Kafka and verifies them; compacted topics are
                                                 refused */
};
enum levee_kafka_gap { /* records were deleted at the broker before we had read them */
                       LEVEE_KAFKA_STOP = 0, /* OFFSET_RANGE, naming the missing range */
                       LEVEE_KAFKA_SKIP /* reported, counted, and one dead letter; reading goes on
                                           behind the gap */
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

    enum levee_kafka_mode mode;
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

struct levee_kafka_header {
    struct levee_slice name, value; /* value.data == NULL: none */
};
struct levee_kafka_outgoing {
    struct levee_slice key, value; /* value.data == NULL: a tombstone */
    int64_t time_ms;               /* 0: when it is sent */
    const struct levee_kafka_header *headers;
    size_t header_count;
    bool has_partition; /* else the key chooses */
    int32_t partition;
};
/* Emits a message for a Kafka sink with `envelope`. The key must live as long as the batch, the
 * rest is copied. Thread: the function's own. Errors: NOMEM. */
LEVEE_API int levee_emit_kafka(levee_output *out, const struct levee_kafka_outgoing *message);

#ifdef __cplusplus
}
#endif
#endif
