/*
 * The transactional Kafka sink's own header.
 *
 *   kafka_sink.c    the sink: options, tokens, settling
 *   kafka_batch.c   a batch: records, parts, refusals
 *   kafka_txn.c     the producer: what each answer of a transactional call means
 *   kafka_token.c   the token as text, reading it back, and the search for other evidence
 *
 * Where the token lies: the group "levee-sink-<topic>" has a committed offset for the topic's
 * partition 0, offset = batch, metadata = text. It is committed inside the transaction that holds
 * the batch's records, and so it is true exactly when they are. One group for every context makes
 * it the topic's mark as well: whoever finds another context's token there stays away.
 */
#ifndef LEVEE_KAFKA_SINK_H
#define LEVEE_KAFKA_SINK_H

#include <librdkafka/rdkafka.h>

#include "connectors/kafka_client.h"
#include "levee/connect.h"
#include "runtime/context.h"

#define KSINK_HEADER     "levee" /* of the last record of every batch: the token's text */
#define KSINK_TOKEN_TEXT 320
#define KSINK_PARTITIONS 7000 /* whose end offsets fit a note */
#define KSINK_ASK_MS     3000 /* one question to the broker */

struct ksink_position { /* where the newest record with our header lies */
    int32_t partition;
    int64_t offset;
    uint64_t batch;
};

#define KSINK_PRODUCERS 2 /* ksink_begin takes them in turn */

struct kafka_sink {
    struct io *io;
    char *brokers, *topic, *group;
    char transactional_id[KSINK_PRODUCERS][136];
    char **properties;
    size_t property_count;
    bool compresses; /* a property says so */
    enum levee_value_format value;
    bool at_least_once, adopt;
    bool envelope, letters; /* what records are */
    uint32_t timeout_ms;    /* of a transaction */
    uint64_t transaction_bytes;
    uint32_t create_partitions;
    struct levee_sink_ops ops; /* refresh_ms is an option */

    struct levee_token identity;       /* context, uid and, from settle on, this life's epoch */
    struct levee_token there;          /* the newest that is known to be committed */
    rd_kafka_t *reader;                /* reads tokens; stable offsets only once `stable` */
    rd_kafka_resp_err_t reader_denied; /* as it has told in events */
    bool stable;                       /* producers were initialised in this life */
    /* Used in turn: while the broker still ends the transaction of one, the other begins its own.
     */
    struct ksink_producer {
        rd_kafka_t *rk;
        rd_kafka_topic_t *rkt;
    } producers[KSINK_PRODUCERS];
    struct ksink_producer *active; /* the one in use; NULL: none is open */
    bool producer_probes;
    int32_t partition_count;

    /* the batch being written */
    struct levee_token now;
    uint64_t taken, skip;     /* records offered so far; so many are there already */
    bool has_held;            /* one record is held back: the last one carries the token */
    struct levee_record held; /* a view */
    uint64_t held_index;
    uint64_t bytes, began_ns; /* of the transaction */
    struct buf scratch;       /* a value as text */
    bool probing;             /* one record per request, to learn which one is refused */
    uint64_t limit;           /* the shortest record of this batch that was too long; 0: none */
    struct levee_refusal *refusals;
    size_t refusal_count, refusal_cap;

    /* written by delivery reports, which run inside calls of the sink's own thread */
    int64_t *ends; /* by partition: the offset behind our newest record and its marker; -1: none */
    int32_t ends_cap;
    uint64_t marked;                      /* number of the record that carries the token */
    struct ksink_position mark, mark_now; /* of the last committed batch; of this one */
    rd_kafka_resp_err_t delivery_error;
    bool suspect;               /* a request was refused for what is in it */
    bool clock_refused;         /* … for our clock */
    struct ksink_position anew; /* a record that lies before older ones; partition -1: none does */
    char client_error[256];
};

/* ---- kafka_sink.c ---- */
/* New producers in the middle of a life, without taking the place from a newer one. */
int ksink_reopen(struct kafka_sink *s, struct levee_error *err);

/* ---- kafka_batch.c ---- */
int ksink_batch_begin(void *self, const struct levee_token *token, struct levee_error *err);
int ksink_batch_write(void *self, size_t partition, const struct levee_record *records, size_t n,
                      struct levee_error *err);
int ksink_batch_commit(void *self, struct levee_error *err);
void ksink_batch_abort(void *self);
size_t ksink_refused(void *self, struct levee_refusal *out, size_t cap);
void ksink_delivered(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque);

/* ---- kafka_token.c ---- */
void ksink_token_text(const struct levee_token *t, char out[KSINK_TOKEN_TEXT]);
bool ksink_token_parse(const char *text, size_t len, struct levee_token *ret);
/* Does a say more than b: a later batch, or more of it? */
bool ksink_token_newer(const struct levee_token *a, const struct levee_token *b);
/* Takes the events of the reader's client: only there, and once, is a denied group told of. */
void ksink_reader_listen(struct kafka_sink *s);
/* The token of the group: NEVER, FOUND, FOREIGN (or LOST: not a text of ours). */
int ksink_token_read(struct kafka_sink *s, enum levee_token_state *ret_state,
                     struct levee_token *ret, struct levee_error *err);
int ksink_search(void *self, struct levee_slice note, uint64_t confirmed,
                 enum levee_token_state *ret_state, struct levee_token *ret_token,
                 struct levee_error *err);
/* In the middle of a life, whose token may have vanished: what it has written must be there. */
int ksink_still_there(struct kafka_sink *s, struct levee_error *err);
size_t ksink_note(void *self, void *buf, size_t cap);
/* End offsets of all partitions, for the first note of a life. */
int ksink_ends(struct kafka_sink *s, struct levee_error *err);

/* ---- kafka_txn.c ---- */
/* What an answer of a transactional call means for who asked. */
enum ksink_outcome {
    KSINK_OK,
    KSINK_AGAIN, /* nothing happened: the same call again, later */
    KSINK_UNCLEAR /* whatever happened: a new producer, and the token tells */,
    KSINK_FENCED, /* someone has initialised this transactional id, or the broker gave up on us */
    KSINK_REFUSED /* asking again will not help: rights, versions, settings */
};
/* Pure and total. */
enum ksink_outcome ksink_outcome_of(rd_kafka_resp_err_t code, bool fatal, bool retriable,
                                    bool requires_abort);
enum ksink_client { KSINK_PRODUCER = 0, KSINK_READER = KSINK_PRODUCERS };
/* KSINK_PRODUCER + i: that of the i-th transactional id. */
int ksink_conf(const struct kafka_sink *s, enum ksink_client which, rd_kafka_conf_t **ret,
               struct levee_error *err);
int ksink_reader_open(struct kafka_sink *s, struct levee_error *err);
void ksink_reader_close(struct kafka_sink *s);
/* Creates and initialises the producers; old ones are destroyed. */
int ksink_producer_open(struct kafka_sink *s, struct levee_error *err);
/* Whatever it holds is purged; record views are not looked at any more when it returns. */
void ksink_producer_close(struct kafka_sink *s);
int ksink_begin(struct kafka_sink *s, struct levee_error *err);
/* Token and records become visible together. An error other than REFUSED leaves it open whether
 * they did. */
int ksink_commit(struct kafka_sink *s, const struct levee_token *token, struct levee_error *err);
/* Waits until the broker has everything that was produced. */
int ksink_flush(struct kafka_sink *s, struct levee_error *err);
/* The error for an answer of the client. */
int ksink_error(const struct kafka_sink *s, enum ksink_outcome outcome, const char *doing,
                const char *text, struct levee_error *err);

#endif
