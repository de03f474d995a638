/*
 * The transactional Kafka sink's own header.
 *
 *   kafka_sink.c    the sink: options, batches, notes
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

struct kafka_sink {
    struct io *io;
    char *brokers, *topic, *group;
    char transactional_id[128];
    char **properties;
    size_t property_count;
    enum levee_value_format value;
    bool at_least_once, adopt;
    uint32_t timeout_ms; /* of a transaction */
    uint32_t create_partitions;
    struct levee_sink_ops ops; /* refresh_ms is an option */

    struct levee_token identity; /* context, uid and, from settle on, this life's epoch */
    struct levee_token now;      /* of the batch being written, or of the last one */
    rd_kafka_t *reader;          /* reads tokens; stable offsets only once `stable` */
    bool stable;                 /* a producer was initialised in this life */
    rd_kafka_t *producer;
    rd_kafka_topic_t *rkt;
    bool in_transaction;
    int32_t partition_count;

    /* the batch being written */
    uint64_t index;           /* records produced */
    bool has_held;            /* one record is held back: the last one carries the token */
    struct levee_record held; /* a view */
    struct buf scratch;       /* a value as text */

    /* written by delivery reports, which run inside calls of the sink's own thread */
    int64_t *ends; /* by partition: the offset behind our newest record and its marker; -1: none */
    int32_t ends_cap;
    struct ksink_position mark, mark_now; /* of the last committed batch; of this one */
    rd_kafka_resp_err_t delivery_error;
    char client_error[256];
};

/* ---- kafka_token.c ---- */
void ksink_token_text(const struct levee_token *t, char out[KSINK_TOKEN_TEXT]);
bool ksink_token_parse(const char *text, size_t len, struct levee_token *ret);
/* The token of the group: NEVER, FOUND, FOREIGN (or LOST: not a text of ours). */
int ksink_token_read(struct kafka_sink *s, enum levee_token_state *ret_state,
                     struct levee_token *ret, struct levee_error *err);
int ksink_search(void *self, struct levee_slice note, uint64_t confirmed,
                 enum levee_token_state *ret_state, struct levee_token *ret_token,
                 struct levee_error *err);
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
int ksink_conf(const struct kafka_sink *s, bool producer, rd_kafka_conf_t **ret,
               struct levee_error *err);
int ksink_reader_open(struct kafka_sink *s, struct levee_error *err);
void ksink_reader_close(struct kafka_sink *s);
/* Creates and initialises a producer; an old one is destroyed. */
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
