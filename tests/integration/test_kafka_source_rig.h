/*
 * What the tests of the Kafka source stand on: a context that reads a topic, and an oracle.
 *
 * The oracle is a stateful operator that counts how often each record came, under a text that says
 * everything a function can see of it (key, value, time; null and empty are different). A record
 * that is lost, changed, or taken twice shows as a text that is missing, new, or counted twice. The
 * expected texts are made by the test from what it has sent.
 *
 * Brokers: librdkafka's mock inside the test process (tests/support/broker_mock.h), or a real one
 * (broker.h). Messages go into both by broker_send.
 */
#ifndef LEVEE_TESTS_KAFKA_SOURCE_RIG_H
#define LEVEE_TESTS_KAFKA_SOURCE_RIG_H

#include <pthread.h>

#include "levee/levee.h"
#include "tests/support/broker.h"
#include "tests/support/broker_mock.h"

#define RIG_TEXT        512
#define RIG_PATIENCE_MS 30000
#define RIG_POISONED    (-77) /* what the function returns */

/* ---- a context that reads ---- */

typedef void (*rig_text_fn)(const struct levee_record *record, char out[RIG_TEXT]);

struct rig {
    char directory[300];
    const char *uid; /* NULL: "in" */
    struct levee_options levee;
    struct levee_kafka_options kafka;
    rig_text_fn text;               /* NULL: rig_text */
    const char *poison;             /* a function fails on records of this text */
    uint32_t hold_ms;               /* a batch takes so long, as with a slow sink */
    levee_context *ctx;             /* NULL: not up */
    levee_stream *source, *derived; /* derived: not a source */

    pthread_mutex_t mutex; /* guards what levee's threads write */
    pthread_cond_t changed;
    int64_t total; /* records in the state; lives on over restarts, as the state does */
    unsigned starts, stops, errors;
    struct levee_error error; /* the newest that a listener was told */
    char log[32768];          /* what the context said, line by line */
};

void rig_open(struct rig *r, const char *brokers, const char *topic);
/* The same on a topic that is made on a real broker, for messages of any time; false: there is no
 * broker, and the test is skipped. */
bool rig_open_on(struct rig *r, struct broker *b, const char *topic, int partitions, int replicas,
                 const char *const *config);
void rig_close(struct rig *r); /* and removes the directory */
/* Builds and starts; must succeed. */
void rig_up(struct rig *r);
/* The error of building or starting; must fail. */
int rig_refused(struct rig *r, struct levee_error *err);
/* Waits until so many records are in the state, batch by batch. */
void rig_await(struct rig *r, int64_t total);
struct levee_kafka_status rig_status(struct rig *r);
/* Waits until so many partitions are read. */
void rig_await_partitions(struct rig *r, uint64_t count);
/* Waits until the listener was told of an error, or the log has the text. */
void rig_await_error(struct rig *r, unsigned count);
void rig_await_said(struct rig *r, const char *text);
bool rig_said(struct rig *r, const char *text);
/* Waits until the context has stopped by itself; returns why. */
int rig_end(struct rig *r, struct levee_error *err);
/* Takes no more, finishes, checkpoints; state can be looked at until rig_down. */
void rig_drain(struct rig *r);
/* Frees the context. If it still runs, nothing is finished first: what the next rig_up finds is
 * what a killed process leaves. */
void rig_down(struct rig *r);

/* ---- the oracle ---- */

void rig_text_of(struct levee_slice key, struct levee_slice value, int64_t time_ms,
                 char out[RIG_TEXT]);
void rig_text(const struct levee_record *record, char out[RIG_TEXT]);

struct rig_expected {
    char (*texts)[RIG_TEXT];
    size_t count, cap;
};
void rig_expect(struct rig_expected *e, const char *text);
void rig_expect_message(struct rig_expected *e, const struct broker_message *m);
/* The decimal numbers first, first + 1, …, without keys and with any time. */
void rig_expect_numbers(struct rig_expected *e, uint64_t first, size_t count);
/* Sends the numbers to the rig's topic; expected, unless `how` says that they are not committed. */
void rig_send_numbers(struct rig *r, struct broker *b, struct rig_expected *e, int32_t partition,
                      uint64_t first, size_t count, const struct broker_how *how);
/* Waits for all that is expected, drains, compares, and closes both. */
void rig_finish(struct rig *r, struct rig_expected *e);
/* After rig_drain or rig_end: exactly the expected records, each as often as expected. */
void rig_must_hold(struct rig *r, struct rig_expected *e);
void rig_expected_release(struct rig_expected *e);
/* For topics whose messages carry times that the test does not know. */
void rig_text_timeless(const struct levee_record *record, char out[RIG_TEXT]);

int64_t rig_now_ms(void);
/* For measurements: lets so much time pass, unless levee tells something. */
void rig_wait_ms(struct rig *r, int ms);

#endif
