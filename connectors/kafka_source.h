/*
 * The Kafka source's own header.
 *
 *   kafka.c            the receiver: building, start, stop
 *   kafka_config.c     the user's options and the client's settings
 *   kafka_receive.c    the receiver's thread: messages into the inlet, and what the client says
 *   kafka_topics.c     which topics and partitions there are, and which of them are ours
 *   kafka_positions.c  where each partition begins and ends, and the facts about that in our log
 *   kafka_assign.c     what the client fetches now: all, nothing, or without those that rest
 *   kafka_flow.c       that the client fetches at all: its full queue must not stop it for long
 *   kafka_identity.c   whether a topic still holds what was read from it
 *   kafka_group.c      offsets for lag monitors, and who else reads these partitions
 *   kafka_record.c     the envelope
 *
 * Everything but the group's thread and the status runs on the receiver's thread.
 */
#ifndef LEVEE_KAFKA_SOURCE_H
#define LEVEE_KAFKA_SOURCE_H

#include <pthread.h>
#include <regex.h>

#include "connectors/kafka_client.h"
#include "levee/connect.h"
#include "runtime/context.h"

#define KAFKA_HELD_MAX   256        /* messages taken from the client at once … */
#define KAFKA_HELD_BYTES (1u << 20) /* … and about how many bytes */
#define KAFKA_INPUTS     8u
#define KAFKA_POLL_MS    100 /* longest wait inside the client: bounds how long a stop takes */
#define KAFKA_SECOND_NS  1000000000u
#define KAFKA_REPORT_NS  (5u * (uint64_t)KAFKA_SECOND_NS) /* trouble that lasts is told so often */
#define KAFKA_NEVER      (-1)                             /* partition.until: no end is wanted */
#define KAFKA_KEY_MAX    (LEVEE_PRODUCER_MAX - 16)
#define KAFKA_ASK_MS     2000 /* one question on the lane that reads again */
#define KAFKA_TOPIC_MAX  249  /* Kafka's own limit */

/* ---- kafka_config.c ---- */
struct kafka_place {
    char *topic;
    int32_t partition;
    int64_t offset;
};
struct kafka_config { /* the user's options, copied and checked */
    char *brokers, *group;
    char **topics; /* named ones; of an explicit set each once */
    size_t topic_count;
    char *pattern;
    regex_t regex; /* if there is a pattern */
    struct kafka_place *set, *offsets;
    size_t set_count, offset_count;
    enum levee_kafka_start start;
    int64_t start_time_ms;
    enum levee_kafka_gap on_gap;
    bool envelope, adopt, positions;
    uint64_t rate;
    uint64_t commit_ns, look_ns;
    uint32_t fetch_wait_ms;
    char **properties;
    size_t property_count;
};
/* INVALID, NOMEM. Whatever it returns, ret is to be released. */
int kafka_config_copy(const struct levee_kafka_options *o, struct kafka_config *ret,
                      struct levee_error *err);
void kafka_config_release(struct kafka_config *c);
const struct kafka_place *kafka_place_find(const struct kafka_place *places, size_t count,
                                           const char *topic, int32_t partition);
/* Our settings and the user's. */
int kafka_source_conf(const struct kafka_config *c, const char *uid, rd_kafka_conf_t **ret,
                      struct levee_error *err);

/* ---- topics and partitions ---- */
struct kafka_topic {
    char *name;
    char key[KAFKA_KEY_MAX];  /* its name in producer ids and facts */
    rd_kafka_topic_t *rkt;    /* ours, so that no other topic can get its address */
    rd_kafka_resp_err_t code; /* what the broker last said of it */
    uint64_t missing_since;   /* it has partitions of ours and is unknown; 0: it is not */
    bool policy_known;        /* positions mode: it is not compacted */
    bool given_up;            /* deleted, and skipped */
    int32_t count;            /* partitions the broker has told of */
    uint32_t first_input;
    bool recalled;                  /* the log knows it from an earlier start */
    bool changed;                   /* its fact is to be remembered */
    struct kafka_partition **by_id; /* NULL: not known to us */
    size_t cap;
};
struct kafka_partition {
    struct kafka_topic *topic;
    int32_t id, leader;          /* leader: its broker, as far as known */
    bool ours;                   /* is read in this life; the others are only facts */
    struct levee_slice producer; /* "topic/id", owned */
    /* In the log, with the topic's fact: */
    bool known;
    int64_t start; /* reading began here; behind a skipped gap, there */
    int64_t end;   /* stop_at_end: the position that counts as the end … */
    uint64_t run;  /* … of this run; 0: of none */
    uint64_t gaps, gap_offsets;
    int64_t gap_from, gap_to; /* the newest */
    /* This life's: */
    int64_t next;  /* offset after the last message taken from the client */
    int64_t until; /* the end, if this life wants one */
    bool at_end;
    bool checking; /* the record before next is read again first … */
    uint64_t hash; /* … and must have this hash */
    bool resting;  /* fetches nothing until rest_until_ns */
    uint64_t rest_until_ns;
    uint64_t tokens; /* of the rate: messages that may be taken before a rest */
    uint64_t refilled_ns;
    unsigned damaged; /* messages that did not verify, one after the other */
};

struct kafka_mark { /* positions on their way to the group */
    bool pending;
    uint64_t ticket; /* of the last append before */
    uint64_t lsn;    /* durable when the ticket was; 0: not yet */
    int64_t *next;   /* by index in partitions */
    size_t count, cap;
};
struct kafka_group {
    pthread_t thread;
    bool running;
    pthread_mutex_t mutex; /* guards mark; and s->partitions and count against the thread */
    struct kafka_mark mark;
    uint64_t offered_ns;
    _Atomic uint64_t told_ns; /* when a failure was last told; 0: none was */
    _Atomic uint64_t durable_ticket;
    char text[128]; /* the metadata that names us */
};

struct kafka_flow { /* of the client's queue */
    rd_kafka_queue_t *queue;
    uint64_t messages_max, bytes_max; /* at one of them the client stops fetching */
    uint64_t messages, bytes;         /* taken lately, for the mean size */
    bool full;                        /* it has been, since the last poke */
};

struct kafka_source {
    struct io *io;
    levee_inlet *inlet; /* valid between start and stop */
    struct kafka_config config;

    rd_kafka_t *rk;
    pthread_t thread;
    bool running;
    _Atomic bool stop;
    _Atomic bool ready;        /* the runtime says: there is room again */
    bool unprocessed_at_start; /* the log held records that no batch had taken */

    /* the receiver thread's own */
    struct kafka_topic **topics;
    size_t topic_count, topic_cap;
    struct kafka_topic *newest_topic;    /* of the last message */
    struct kafka_partition **partitions; /* ours */
    size_t count, cap;
    size_t at_end_count, resting_count;
    bool begun; /* a pattern: topics that appear now are new */
    uint64_t run;
    bool run_complete; /* all its ends are in the log */
    bool ended;
    bool parked;            /* the client fetches nothing: no room for long */
    uint64_t looked_ns;     /* when topics were last asked for */
    uint64_t reported_ns;   /* when trouble was last reported; 0: all is well */
    bool denied;            /* by a password or certificate: told at once, the first time */
    unsigned looks_failed;  /* in a row */
    char client_error[256]; /* the newest text of the client's error callback */
    rd_kafka_message_t *held[KAFKA_HELD_MAX];
    struct kafka_partition *held_partition[KAFKA_HELD_MAX];
    size_t held_count;
    struct kafka_partition *out_of_range; /* the broker does not have its next offset; NULL: none */
    struct levee_record records[KAFKA_HELD_MAX];
    uint64_t sequences[KAFKA_HELD_MAX];
    size_t offsets[KAFKA_HELD_MAX]; /* of envelopes in scratch */
    struct buf scratch;
    uint64_t ticket; /* of the last append */

    struct kafka_flow flow;
    struct kafka_group group;
    struct { /* positions mode: the reading lane's own */
        rd_kafka_t *rk;
        struct kafka_tail *tails;
        size_t count, cap;
        struct buf scratch;
    } again;
    struct {
        struct counter topics, partitions, verified, absent, gaps, gap_offsets, commits,
            commit_failures;
    } shown;
};

/* ---- kafka.c ---- */
/* Tells the listener of trouble that may pass, at most every five seconds. */
void kafka_report(struct kafka_source *s, const char *what);
/* Sleeps unless stop is asked for; false: it was. */
bool kafka_sleep(struct kafka_source *s, uint64_t ns);
uint64_t kafka_now(const struct kafka_source *s);
int kafka_stopped(const struct kafka_source *s, struct levee_error *err);
/* A question about a topic had no answer: sleeps a little, LEVEE_OK: ask again. Errors: STOPPED,
 * ACCESS. */
int kafka_no_answer(struct kafka_source *s, const char *about, rd_kafka_resp_err_t code,
                    int *timeout_ms, struct levee_error *err);

/* ---- kafka_receive.c ---- */
/* Reads until stop, or until something cannot go on. */
int kafka_receive(struct kafka_source *s, struct levee_error *err);

/* ---- kafka_topics.c ---- */
/* Knows the topics that are named, before any question. */
int kafka_topics_begin(struct kafka_source *s, struct levee_error *err);
/* The run has a topic of this name, which must be there. */
int kafka_topic_expect(struct kafka_source *s, struct levee_slice name, struct levee_error *err);
/* Waits until the broker has told of every named topic and every partition of the set. Errors:
 * TOPIC, ACCESS, STOPPED, NOMEM. */
int kafka_topics_wait(struct kafka_source *s, struct levee_error *err);
/* One look; what is new is in the topics afterwards. No answer is no error. Errors: TOPIC (one that
 * we read is gone), NOMEM. */
int kafka_topics_look(struct kafka_source *s, struct levee_error *err);
/* Its name in producer ids. */
void kafka_topic_key(const char *name, char key[KAFKA_KEY_MAX]);
/* The partition among a topic's by id, made if need be; NULL: no memory. */
struct kafka_partition *kafka_partition_get(struct kafka_topic *t, int32_t id);
/* Takes the partitions into s->partitions that should be ours and are not yet. */
int kafka_partitions_take(struct kafka_source *s, struct levee_error *err);
/* Whose message this is; NULL: nobody's. */
struct kafka_partition *kafka_partition_of(struct kafka_source *s, const rd_kafka_message_t *m);
void kafka_topics_release(struct kafka_source *s);

/* ---- kafka_positions.c ---- */
/* What the log knows of a topic that was just met. */
int kafka_facts_recall(struct kafka_source *s, struct kafka_topic *t, struct levee_error *err);
/* What the log knows of the source: the run, and whether a pattern has begun. */
int kafka_source_recall(struct kafka_source *s, struct levee_error *err);
/* Every end of the run was reached. Blocks until that is durable. */
int kafka_run_ended(struct kafka_source *s, struct levee_error *err);
/* Gives partitions from `first` on their durable start and end, and a next. Blocks until they are
 * durable. */
int kafka_positions_resolve(struct kafka_source *s, size_t first, struct levee_error *err);
/* The input partition of its records. */
uint32_t kafka_input_of(const struct kafka_partition *p);
/* Nothing of p is held. The broker does not have p->next. LEVEE_OK: it does after all, or the gap
 * was skipped, and the partition is to be assigned again. Errors: OFFSET_RANGE, STOPPED, ACCESS. */
int kafka_out_of_range(struct kafka_source *s, struct kafka_partition *p, struct levee_error *err);
int kafka_watermarks(struct kafka_source *s, const struct kafka_partition *p, int64_t *ret_low,
                     int64_t *ret_high, struct levee_error *err);
/* position: the next offset that can come. */
void kafka_reached(struct kafka_source *s, struct kafka_partition *p, int64_t position);

/* ---- kafka_assign.c ---- */
/* Reads on from every partition's `next`. */
int kafka_assign(struct kafka_source *s, struct levee_error *err);
/* Fetches nothing until kafka_assign. */
int kafka_park(struct kafka_source *s, struct levee_error *err);
/* Adds the partitions from `first` on to what is read. */
int kafka_assign_new(struct kafka_source *s, size_t first, struct levee_error *err);
/* Fetches nothing of p for a while, then reads on from p->next. */
int kafka_rest(struct kafka_source *s, struct kafka_partition *p, uint64_t ns,
               struct levee_error *err);
/* How long a poll may wait: not beyond the next end of a rest. */
int kafka_wait_ms(const struct kafka_source *s);
/* Partitions whose rest is over are read again. */
int kafka_wake(struct kafka_source *s, struct levee_error *err);
/* 0: one more message of p may be taken, and is counted; otherwise how long p must rest. */
uint64_t kafka_rate_wait_ns(const struct kafka_source *s, struct kafka_partition *p);

/* ---- kafka_reread.c ---- */
int kafka_read_again(void *self, levee_inlet *inlet, const struct levee_range *range,
                     levee_reread_fn add, void *arg, struct levee_error *err);
void kafka_reread_close(struct kafka_source *s);

/* ---- kafka_policy.c ---- */
struct kafka_policy {
    char cleanup[24], retention_ms[24], retention_bytes[24]; /* or "unknown" */
};
rd_kafka_resp_err_t kafka_policy_ask(struct kafka_source *s, const char *topic,
                                     struct kafka_policy *ret);
/* Topics that are new here: can they be read again? Data mode: nothing. Errors: UNSUPPORTED
 * (compacted), ACCESS, STOPPED. */
int kafka_policies_check(struct kafka_source *s, struct levee_error *err);

/* ---- kafka_flow.c ---- */
void kafka_flow_open(struct kafka_source *s);
void kafka_flow_close(struct kafka_source *s);
/* Before messages are taken: wakes a client that has stopped fetching although there is room. */
void kafka_flow_tend(struct kafka_source *s);
/* So much was taken. */
void kafka_flow_took(struct kafka_source *s, size_t messages, size_t bytes);

/* ---- kafka_identity.c ---- */
/* The first message of a partition that is being checked. *ret_new: it is behind the position, and
 * to be taken. Errors: TOPIC_CHANGED. */
int kafka_identity_check(struct kafka_source *s, struct kafka_partition *p,
                         const rd_kafka_message_t *m, bool *ret_new, struct levee_error *err);
/* The record before p->next is not there any more. Errors: TOPIC_CHANGED where that cannot be. */
int kafka_identity_absent(struct kafka_source *s, struct kafka_partition *p, int64_t found,
                          struct levee_error *err);

/* ---- kafka_group.c ---- */
/* Nobody else reads the partitions from `first` on in our group. Errors: SOURCE_FOREIGN, ACCESS,
 * STOPPED. */
int kafka_group_check(struct kafka_source *s, size_t first, struct levee_error *err);
/* The same, and names us there. Their starts are known. */
int kafka_group_claim(struct kafka_source *s, size_t first, struct levee_error *err);
int kafka_group_start(struct kafka_source *s, struct levee_error *err);
void kafka_group_stop(struct kafka_source *s);
/* What is appended may go to the group once it is durable and witnessed. */
void kafka_group_offer(struct kafka_source *s);

/* ---- kafka_record.c ---- */
/* The message as a record; an envelope is appended to `buf`, and the record's value is set by
 * kafka_envelope_value once buf does not move any more. false: no memory. */
void kafka_record_of(const rd_kafka_message_t *m, struct levee_record *ret);
bool kafka_envelope_put(const rd_kafka_message_t *m, const char *topic, struct buf *buf);

#endif
