/* What the parts of the broker module share; tests include broker.h. */
#ifndef LEVEE_TESTS_BROKER_INTERNAL_H
#define LEVEE_TESTS_BROKER_INTERNAL_H

#include "tests/support/broker.h"

/* Notes a failure in b->failure; returns its code. */
__attribute__((format(printf, 4, 5))) enum broker_code
broker_fail(struct broker *b, enum broker_code code, int detail, const char *format, ...);
/* The same for an answer of Kafka or librdkafka. text NULL: the code's own. */
enum broker_code broker_refused(struct broker *b, rd_kafka_resp_err_t code, const char *doing,
                                const char *text);

/* A client of this broker; takes conf. NULL: why is in b->failure. */
rd_kafka_t *broker_client(struct broker *b, rd_kafka_type_t type, rd_kafka_conf_t *conf,
                          const char *const *properties);

/* Waits until a topic has so many partitions and each of them a leader. */
enum { BROKER_TOPIC_GONE = -1, BROKER_TOPIC_ANY = 0 };
enum broker_code broker_await_topic(struct broker *b, rd_kafka_t *rk, const char *topic,
                                    int partitions, int *ret_partitions);

/* Asks about the topic, so that librdkafka knows it and does not wait for a second at its first
 * use. Without an answer the first use says why. */
void broker_meet_topic(rd_kafka_t *rk, const char *topic);

int64_t broker_now_ms(void); /* from any point on */

#endif
