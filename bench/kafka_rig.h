/*
 * What the rungs on a real broker share: the broker itself, its processor time, topics, clients.
 *
 * The broker is Apache Kafka on this machine, started by tests/support/kafka/broker with a JVM that
 * compiles properly (tests start theirs to be quick, not fast). It shares the processors with both
 * sides of every ratio, so its processor time is printed beside theirs.
 */
#ifndef LEVEE_BENCH_KAFKA_RIG_H
#define LEVEE_BENCH_KAFKA_RIG_H

#include <librdkafka/rdkafka.h>
#include <sys/types.h>

#include "bench/bench.h"

extern char rig_brokers[256];   /* bootstrap.servers */
extern double rig_patience;     /* multiplies the seconds that a rung may take; 1, or --full */
extern const char *rig_program; /* absolute path of this program */

/* false: this machine cannot have one; the reason was printed. Stopped when the program ends. */
bool rig_start(void);
void rig_stop(void);
double rig_broker_cpu(void); /* seconds it has used so far */
double rig_cpu_of(pid_t pid);
/* The largest resident set of a process so far, MiB. */
double rig_memory_of(pid_t pid);

struct rig_cost { /* of one pass */
    double wall, cpu, broker;
};
struct rig_cost rig_begin(void);
struct rig_cost rig_since(struct rig_cost begin);

/* A new topic; the returned name lives as long as the program. */
const char *rig_topic(const char *kind, int partitions);
void rig_topic_delete(const char *topic); /* its bytes are gone from the disk within seconds */

struct rig_setting {
    const char *name, *value;
};
/* "name=value", space-separated, over what every client has: brokers, no Nagle. */
rd_kafka_conf_t *rig_conf(const char *settings);
rd_kafka_t *rig_client(rd_kafka_type_t type, rd_kafka_conf_t *conf);
/* Delivery reports that end the program on an error; without one, flush sleeps in steps of 10 ms.
 */
rd_kafka_t *rig_producer(const char *settings);
/* A consumer with levee's own settings and these, assigned to all partitions at their beginning. */
extern const char rig_consumer_settings[];
rd_kafka_t *rig_consumer(const char *topic, int partitions, const char *settings);
void rig_consumer_destroy(rd_kafka_t *rk);
/* Asks about the topic, so that its first use does not wait for a second. */
rd_kafka_topic_t *rig_meet(rd_kafka_t *rk, const char *topic);
void rig_kafka(rd_kafka_resp_err_t code, const char *what);
void rig_kafka_error(rd_kafka_error_t *e, const char *what); /* takes e */

/* Sends `count` records, record i to partition i % partitions, made by `make` (which returns the
 * length). */
struct rig_record {
    uint8_t *data;
    size_t len;
};
void rig_fill(const char *topic, int partitions, uint64_t count,
              void (*make)(void *arg, uint64_t i, struct rig_record *ret), void *arg);

/* examples/kafka_wordcount on the directory "state". WORDS_ARGS="--mode positions" adds arguments.
 */
pid_t rig_wordcount(const char *input, const char *output, const char *batch_ms, const char *mode);

/* Seconds of a rung: patience times this. */
static inline double rig_deadline(double seconds)
{
    return bench_now() + seconds * rig_patience;
}

#endif
