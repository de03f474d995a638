/*
 * A real Kafka broker for a test, and what a test does to one.
 *
 *     static struct broker broker;                            // in an unchecked fixture, or a test
 *     (void)broker_start(&broker, "4.1", 1, NULL);
 *     if (!broker_usable(&broker)) {                          // in each test
 *         return;
 *     }
 *     BROKER_MUST(&broker, broker_topic_create(&broker, "in", 3, 1, NULL));
 *     BROKER_MUST(&broker, broker_send_numbers(&broker, "in", 0, 1, 100, NULL));
 *     BROKER_MUST(&broker, broker_kill(&broker, SIGKILL, BROKER_ALL));
 *
 * The work is done by tests/support/kafka/broker, which says more about nodes, ports and settings;
 * tests run in the folder of the source tree. A broker dies with the process that started it: one
 * started in an unchecked fixture lives as long as the program, one started in a test no longer
 * than the test. Starting takes one to two seconds; broker_launch and broker_await let several
 * start at once.
 *
 * Every call says what became of it: BROKER_OK, or a kind of failure whose details are in
 * b->failure. Nothing is retried beyond BROKER_PATIENCE_MS. Not thread-safe. librdkafka does not
 * survive a fork, so no handle of it outlives a call, except in a struct broker_log.
 */
#ifndef LEVEE_TESTS_BROKER_H
#define LEVEE_TESTS_BROKER_H

#include <librdkafka/rdkafka.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

#include "levee/error.h"
#include "tests/support/suite.h"

#define BROKER_ALL         0u /* instead of a node; those count from 1 */
#define BROKER_PATIENCE_MS 30000

enum broker_code {
    BROKER_OK = 0,
    BROKER_ABSENT,  /* this machine cannot have a broker: skip the test */
    BROKER_SCRIPT,  /* the script failed; detail is its exit code, what its last words */
    BROKER_KAFKA,   /* Kafka or librdkafka said no; detail is an rd_kafka_resp_err_t */
    BROKER_TIMEOUT, /* no answer within BROKER_PATIENCE_MS */
    BROKER_SYSTEM   /* the operating system said no; detail is errno */
};

struct broker_failure {
    enum broker_code code;
    int detail;
    char what[1024];
};

struct broker {
    char directory[512]; /* nodeN/log and nodeN/data are in here */
    char address[256];   /* bootstrap.servers */
    unsigned nodes;
    pid_t starting; /* between launch and await */
    int starting_output;
    struct broker_failure failure; /* of the last call that failed */
};

/* ---- life ---- */

/* version: "4.1" or "3.9". properties: "name=value" of the broker, ended by NULL; may be NULL. */
enum broker_code broker_start(struct broker *b, const char *version, unsigned nodes,
                              const char *const *properties);
enum broker_code broker_launch(struct broker *b, const char *version, unsigned nodes,
                               const char *const *properties);
enum broker_code broker_await(struct broker *b);
/* Returns when the signal (SIGTERM, SIGKILL, SIGSTOP, SIGCONT) has had its effect. */
enum broker_code broker_kill(struct broker *b, int signal, unsigned node);
/* The same data and ports; properties are added. Returns when the nodes serve; broker_relaunch
 * returns at once, and broker_await then. */
enum broker_code broker_restart(struct broker *b, unsigned node, const char *const *properties);
enum broker_code broker_relaunch(struct broker *b, unsigned node, const char *const *properties);
/* No process is left, no file either. Fine after any failure, and twice. */
enum broker_code broker_stop(struct broker *b);
/* One of each version, started together: what came of each says broker_usable. */
#define BROKER_VERSIONS 2
extern const char *const broker_versions[BROKER_VERSIONS]; /* "4.1", "3.9" */
void broker_start_each(struct broker brokers[BROKER_VERSIONS], const char *const *properties);
void broker_stop_each(struct broker brokers[BROKER_VERSIONS]);
const char *broker_address(const struct broker *b);
/* After a start: whether there is a broker now. If not, skips the test where this machine cannot
 * have one, and fails it where it could have. */
bool broker_usable(const struct broker *b);

/* ---- topics and groups ---- */

/* Return when the broker asked shows the change. replicas 0: one on each node. */
enum broker_code broker_topic_create(struct broker *b, const char *topic, int partitions,
                                     int replicas, const char *const *properties);
enum broker_code broker_topic_delete(struct broker *b, const char *topic);
/* partitions: how many there are afterwards. */
enum broker_code broker_topic_grow(struct broker *b, const char *topic, int partitions);
/* Deletes the records before an offset, as retention does. */
enum broker_code broker_topic_trim(struct broker *b, const char *topic, int32_t partition,
                                   int64_t before);
enum broker_code broker_topic_leader(struct broker *b, const char *topic, int32_t partition,
                                     unsigned *ret_node);
/* With all its offsets. */
enum broker_code broker_group_delete(struct broker *b, const char *group);

/* Replaces all the topic's own settings. */
enum broker_code broker_topic_alter(struct broker *b, const char *topic,
                                    const char *const *properties);
/* -1: there is none. */
enum broker_code broker_committed(struct broker *b, const char *group, const char *topic,
                                  int32_t partition, int64_t *ret_offset);

/* Of a broker with an authorizer that otherwise allows everything: this is denied to everyone who
 * has no name, and so to every client here. */
enum broker_code broker_deny(struct broker *b, rd_kafka_ResourceType_t type, const char *name,
                             rd_kafka_AclOperation_t operation);
enum broker_code broker_allow_all(struct broker *b);

/* ---- records in ---- */

struct broker_header {
    const char *name;
    struct levee_slice value;
};

/* A slice whose data is NULL: no key; no value (a tombstone). */
struct broker_message {
    int32_t partition; /* negative: the client's partitioner chooses */
    struct levee_slice key, value;
    int64_t timestamp_ms; /* 0: now */
    const struct broker_header *headers;
    size_t header_count;
};

enum broker_end {
    BROKER_COMMIT,
    BROKER_ABORT,     /* after all of it has reached the log */
    BROKER_LEAVE_OPEN /* the same, but the producer just goes, as one that was killed */
};

struct broker_how {
    const char *transaction; /* transactional.id; NULL: a plain idempotent producer */
    enum broker_end end;
    const char *const *properties; /* "name=value" of the producer, ended by NULL; may be NULL */
};

/* how NULL: no transaction. BROKER_OK: the broker has them all. */
enum broker_code broker_send(struct broker *b, const char *topic,
                             const struct broker_message *messages, size_t count,
                             const struct broker_how *how);
/* The decimal numbers first, first + 1, … as values, without keys. */
enum broker_code broker_send_numbers(struct broker *b, const char *topic, int32_t partition,
                                     uint64_t first, size_t count, const struct broker_how *how);

/* ---- records out ---- */

/* What a stranger sees from the beginning of every partition to its end at the time of asking,
 * ordered by partition, then offset. */
struct broker_log {
    rd_kafka_message_t **records;
    size_t count;
    rd_kafka_t *consumer; /* owns the records' memory */
};

enum broker_code broker_read_committed(struct broker *b, const char *topic, struct broker_log *ret);
/* Aborted and open transactions too. */
enum broker_code broker_read_all(struct broker *b, const char *topic, struct broker_log *ret);
void broker_log_release(struct broker_log *log);

#define BROKER_MUST(b, call)                                                                       \
    ((call) == BROKER_OK ? (void)0                                                                 \
                         : ck_abort_msg("%s:%d: %s", __FILE__, __LINE__, (b)->failure.what))

#endif
