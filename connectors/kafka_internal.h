/*
 * The Kafka source's own header: kafka.c is the receiver (thread, appends, end), kafka_client.c
 * everything that asks the broker a question.
 */
#ifndef LEVEE_KAFKA_INTERNAL_H
#define LEVEE_KAFKA_INTERNAL_H

#include <librdkafka/rdkafka.h>
#include <pthread.h>

#include "levee/connect.h"
#include "runtime/context.h"

#define KAFKA_HELD_MAX   256        /* messages taken from the client at once … */
#define KAFKA_HELD_BYTES (1u << 20) /* … and about how many bytes */
#define KAFKA_INPUTS     8u
#define KAFKA_POLL_MS    100 /* longest wait inside the client: bounds how long a stop takes */
#define KAFKA_SECOND_NS  1000000000u
#define KAFKA_FACT_MAX   160
#define KAFKA_NEVER      (-1) /* partition.end: no end is wanted */

struct kafka_partition {
    int32_t id;
    struct levee_slice producer; /* "topic/id", owned */
    int64_t next;                /* offset after the last message taken from the client */
    int64_t end;                 /* stop_at_end: the position that counts as the end */
    bool at_end;
};

struct kafka_source {
    struct io *io;
    levee_inlet *inlet; /* valid between start and stop */
    char *brokers, *topic;
    char key[LEVEE_PRODUCER_MAX - 16]; /* the topic's name in producer ids and facts */
    char **properties;
    size_t property_count;
    uint32_t fetch_wait_ms;

    rd_kafka_t *rk;
    rd_kafka_topic_t *rkt;
    pthread_t thread;
    bool running;
    _Atomic bool stop;
    _Atomic bool ready; /* the runtime says: there is room again */

    /* the receiver thread's own */
    struct kafka_partition *partitions;
    size_t count, cap;
    size_t at_end_count;
    bool ended;
    uint64_t looked_ns;     /* when the topic's partitions were last asked for */
    uint64_t reported_ns;   /* when trouble was last reported; 0: never */
    char client_error[256]; /* the newest text of the client's error callback */
    rd_kafka_message_t *held[KAFKA_HELD_MAX];
    size_t held_count;
    struct levee_record records[KAFKA_HELD_MAX];
    uint64_t sequences[KAFKA_HELD_MAX];
};

/* ---- kafka_client.c ---- */
/* Our settings and the user's. The strings were checked when the graph was built. */
int kafka_conf(const struct kafka_source *s, const char *uid, rd_kafka_conf_t **ret,
               struct levee_error *err);
int kafka_open(struct kafka_source *s, struct levee_error *err);
void kafka_close(struct kafka_source *s);
/* Waits until the broker has named the topic's partitions. Errors: TOPIC, STOPPED. */
int kafka_wait_for_topic(struct kafka_source *s, int *ret_count, struct levee_error *err);
/* One look at the topic; 0: the broker did not answer in time. */
int kafka_partition_count(struct kafka_source *s);
/* Adds partitions up to count, with their durable start and end. */
int kafka_resolve(struct kafka_source *s, int count, struct levee_error *err);
/* Reads on from every partition's `next`; with `idle` fetches nothing until the next call. */
int kafka_assign(struct kafka_source *s, bool idle, struct levee_error *err);
/* The error for a position that the broker no longer (or not yet) has. */
int kafka_out_of_range(struct kafka_source *s, const struct kafka_partition *p,
                       struct levee_error *err);
/* Tells the listener of trouble that may pass, at most every five seconds. */
void kafka_report(struct kafka_source *s, const char *what);
/* Sleeps unless stop is asked for; false: it was. */
bool kafka_sleep(struct kafka_source *s, uint64_t ns);

#endif
